"""``usdn-nas run`` runs all stages in order."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from usdn_nas.cli.common import (
    Format,
    OutOption,
    QuietOption,
    SetOption,
    StudyArgument,
    TrustOption,
    VerboseOption,
    command,
    open_study_or_run,
    print_frame,
    print_gap,
    stdout,
)

if TYPE_CHECKING:
    from usdn_nas.config import TrainConfig
    from usdn_nas.pipeline.context import Context

__all__ = ["run"]


@command
def run(
    study: StudyArgument,
    set_: SetOption = None,
    out: OutOption = None,
    trust_code: TrustOption = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Shows settings, size of the space and planned work; needs no data.")
    ] = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Trains a supernet, searches it, exports and retrains the winner, evaluates it, and writes a report.

    Finished stages are skipped, and an interrupted stage resumes. A stage that depends on a changed setting runs again.
    The evaluation is on the test split.

    Examples:

        usdn-nas run studies/digits.toml

        usdn-nas run digits --set search.configurations=256 --out runs/try

        usdn-nas run fashion_mnist --set data.root=data/fashion --dry-run
    """
    context = open_study_or_run(study, set_, out, quiet, verbose, trust_code)
    if dry_run:
        _show_plan(context)
        return
    from usdn_nas.pipeline.ledger import locked
    from usdn_nas.pipeline.stages import Pipeline

    Pipeline(context).check()
    with locked(context.folder):
        ran = Pipeline(context).run(repick=True)
    _show_result(context, ran)


def _show_result(context: Context, ran: bool) -> None:
    from usdn_nas.report import load_run, table1, table2

    console, finished = stdout(), load_run(context.folder)
    if not ran:
        console.print(f"{context.folder}: every stage is done, nothing to do", highlight=False)
    print_frame(table1(finished.evaluation), Format.table, "Exit rates and costs, test split (Table I)")
    if finished.evaluation["table2"]:
        print_frame(table2(finished.evaluation), Format.table, "KD against cross-entropy alone, test split (Table II)")
    print_gap(finished.evaluation)
    console.print(f"Report: {context.folder / 'report.html'}", highlight=False, soft_wrap=True)


def _show_plan(context: Context) -> None:
    from usdn_nas.report.fitting import FittedTable
    from usdn_nas.study.session import planned

    study, space, console = context.study, context.space, stdout()
    console.print_json(json.dumps({"study": context.name, "folder": str(context.folder), **study.model_dump()}))
    table = FittedTable("Planned work", prose=True)
    table.add("stage")
    table.add("work")

    def training(settings: TrainConfig, more: str = "") -> str:
        limit = f", at most {settings.max_steps} steps" if settings.max_steps else ""
        return f"{settings.epochs} epochs, batches of {settings.batch_size}{limit}{more}"

    paths = f", {1 + study.supernet.smallest + study.supernet.random_paths} configurations a step"
    sampler, trials = planned(space, study.search)
    trials_of = "of" if study.search.exits != "sampled" else "trials over"
    exits = len(space.candidates)
    placements = f"with the placements of {exits} exits {space.size:,} points, before thresholds"
    if study.search.exits == "all":
        placements = f"all {exits} exits are placed"
    table.add_row("pretrain", training(study.supernet.pretrain))
    table.add_row("supernet", training(study.supernet.qat, paths))
    table.add_row(
        "search",
        f"{sampler}: {trials:,} {trials_of} {space.bit_configurations:,} bit configurations; {placements}",
    )
    table.add_row("retrain", f"teacher: {training(study.retrain.teacher)}")
    table.add_row("", f"KD: {training(study.retrain.train)}")
    if study.retrain.compare_ce:
        table.add_row("", f"CE alone: {training(study.retrain.train)}")
    console.print(table)
