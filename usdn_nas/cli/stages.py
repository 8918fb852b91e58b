"""Commands that run all stages up to a given one: ``pretrain``, ``supernet``, ``search``, ``report``."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated

import typer

from usdn_nas._util.trust import ConsentError
from usdn_nas.cli.common import (
    DeviceOption,
    DryRunOption,
    OutOption,
    QuietOption,
    SeedOption,
    SetOption,
    StudyArgument,
    TrustOption,
    VerboseOption,
    command,
    open_study_or_run,
    settings_of,
    stdout,
    stored_run,
)
from usdn_nas.cli.plan import show_plan

if TYPE_CHECKING:
    from usdn_nas.pipeline.context import Context
    from usdn_nas.report import Run

__all__ = ["pretrain", "report", "search", "supernet"]


def _run_until(stage: str, context: Context, dry_run: bool) -> None:
    """Runs what is missing up to ``stage`` and says where its files are; or shows the plan."""
    if dry_run:
        show_plan(context, stage)
        return
    from usdn_nas.pipeline.ledger import locked
    from usdn_nas.pipeline.stages import Pipeline

    Pipeline(context).check()
    with locked(context.folder):
        Pipeline(context).run(until=stage)
    where = context.folder / "report.html" if stage == "report" else context.folder / stage
    stdout().print(where, highlight=False, soft_wrap=True)


@command
def pretrain(
    study: StudyArgument,
    set_: SetOption = None,
    seed: SeedOption = None,
    device: DeviceOption = None,
    out: OutOption = None,
    trust_code: TrustOption = False,
    dry_run: DryRunOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Trains the full-precision network with all candidate exits.

    Example:

        usdn-nas pretrain digits --set supernet.pretrain.epochs=40
    """
    settings = settings_of(set_, seed=seed, device=device)
    _run_until("pretrain", open_study_or_run(study, settings, out, quiet, verbose, trust_code), dry_run)


@command
def supernet(
    study: StudyArgument,
    set_: SetOption = None,
    seed: SeedOption = None,
    device: DeviceOption = None,
    out: OutOption = None,
    trust_code: TrustOption = False,
    dry_run: DryRunOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Trains the quantized supernet by the sandwich rule, after the stage pretrain.

    Example:

        usdn-nas supernet digits --set supernet.random_paths=4
    """
    settings = settings_of(set_, seed=seed, device=device)
    _run_until("supernet", open_study_or_run(study, settings, out, quiet, verbose, trust_code), dry_run)


@command
def search(
    study: StudyArgument,
    set_: SetOption = None,
    seed: SeedOption = None,
    device: DeviceOption = None,
    out: OutOption = None,
    trust_code: TrustOption = False,
    dry_run: DryRunOption = False,
    workers: Annotated[
        int | None,
        typer.Option("--workers", metavar="N", help="Processes that share the study; the same as search.workers."),
    ] = None,
    exhaustive: Annotated[
        bool, typer.Option("--exhaustive", help="Runs every bit configuration: the true front of the supernet.")
    ] = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Searches bits and exits in the supernet with Optuna, after the stage supernet.

    A study continues if you ask for more configurations. Workers on other machines join by the same command if
    search.storage is a database that all of them can reach.

    Examples:

        usdn-nas search digits

        usdn-nas search digits --set search.configurations=512 --workers 2

        usdn-nas search digits --exhaustive --out runs/all

        usdn-nas search digits --set search.storage=sqlite:///study.db --set search.sampler=tpe
    """
    settings = settings_of(set_, **{"search.workers": workers}, seed=seed, device=device)
    context = open_study_or_run(study, settings, out, quiet, verbose, trust_code)
    _run_until("search", _exhaustive(context) if exhaustive else context, dry_run)


def _exhaustive(context: Context) -> Context:
    """Returns the same study with the sampler ``brute`` and all bit configurations.

    Raises:
        UserError: The run folder holds a study that was started with another sampler.
    """
    from usdn_nas.pipeline.study import check_start

    changes = {"sampler": "brute", "configurations": context.space.bit_configurations}
    settings = context.study.search.model_copy(update=changes)
    context = dataclasses.replace(context, study=context.study.model_copy(update={"search": settings}))
    check_start(context)
    return context


@command
def report(
    study: StudyArgument,
    set_: SetOption = None,
    seed: SeedOption = None,
    device: DeviceOption = None,
    out: OutOption = None,
    trust_code: TrustOption = False,
    dry_run: DryRunOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Draws the figures and writes report.html, after all other stages.

    Example:

        usdn-nas report runs/digits
    """
    settings = settings_of(set_, seed=seed, device=device)
    try:
        context = open_study_or_run(study, settings, out, quiet, verbose, trust_code)
    except ConsentError as refusal:
        _draw(stored_run(study, out, refusal, changes=bool(settings) or dry_run))
    else:
        _run_until("report", context, dry_run)


def _draw(run: Run) -> None:
    """Draws the figures and the report of a finished run from its stored results."""
    from usdn_nas.pipeline.ledger import locked
    from usdn_nas.report import draw_figures, write_figures, write_report

    with locked(run.path):
        drawn = draw_figures(run)
        write_figures(run, run.path / "figures", drawn=drawn)
        stdout().print(write_report(run, run.path / "report.html", drawn=drawn), highlight=False, soft_wrap=True)
