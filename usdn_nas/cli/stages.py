"""Commands that run the stages up to one: ``pretrain``, ``supernet``, ``search``, ``report``."""

from __future__ import annotations

from pathlib import Path

from usdn_nas.cli.common import OutOption, QuietOption, SetOption, StudyArgument, command, open_study_or_run, stdout

__all__ = ["pretrain", "report", "run_until", "search", "supernet"]


def run_until(stage: str, study: str, set_: list[str] | None, out: Path | None, quiet: bool) -> None:
    """Runs what is missing up to ``stage`` and says where its files are."""
    from usdn_nas.pipeline.ledger import locked
    from usdn_nas.pipeline.stages import Pipeline

    context = open_study_or_run(study, set_, out, quiet)
    Pipeline(context).check()
    with locked(context.folder):
        Pipeline(context).run(until=stage)
    where = context.folder / "report.html" if stage == "report" else context.folder / stage
    stdout().print(where, highlight=False, soft_wrap=True)


@command
def pretrain(study: StudyArgument, set_: SetOption = None, out: OutOption = None, quiet: QuietOption = False) -> None:
    """Trains the full-precision network with all candidate exits.

    Example:

        usdn-nas pretrain digits --set supernet.pretrain.epochs=40
    """
    run_until("pretrain", study, set_, out, quiet)


@command
def supernet(study: StudyArgument, set_: SetOption = None, out: OutOption = None, quiet: QuietOption = False) -> None:
    """Trains the quantized supernet by the sandwich rule (after pretrain).

    Example:

        usdn-nas supernet digits --set supernet.random_paths=3
    """
    run_until("supernet", study, set_, out, quiet)


@command
def search(study: StudyArgument, set_: SetOption = None, out: OutOption = None, quiet: QuietOption = False) -> None:
    """Searches bits and exits in the supernet through Optuna (after supernet). More configurations extend a study.

    Examples:

        usdn-nas search digits

        usdn-nas search digits --set search.configurations=512

        usdn-nas search digits --set search.storage=sqlite:///study.db --set search.sampler=tpe
    """
    run_until("search", study, set_, out, quiet)


@command
def report(study: StudyArgument, set_: SetOption = None, out: OutOption = None, quiet: QuietOption = False) -> None:
    """Draws the figures and writes report.html (after everything else).

    Example:

        usdn-nas report runs/digits
    """
    run_until("report", study, set_, out, quiet)
