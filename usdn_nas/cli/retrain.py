"""``usdn-nas retrain`` and ``usdn-nas evaluate``: of the exported architecture, or of one given by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from usdn_nas.cli.common import (
    Format,
    FormatOption,
    OutOption,
    QuietOption,
    SetOption,
    StudyArgument,
    VerboseOption,
    command,
    open_study_or_run,
    print_frame,
    print_gap,
    stdout,
)

__all__ = ["evaluate", "retrain"]

ArchitectureOption = Annotated[
    Path | None,
    typer.Option("--architecture", metavar="FILE", help="Another architecture.json.", show_default="the exported one"),
]


@command
def retrain(
    study: StudyArgument,
    architecture: ArchitectureOption = None,
    set_: SetOption = None,
    out: OutOption = None,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Retrains an architecture with level-wise knowledge distillation, Eq. (10), and refits its thresholds.

    The full-precision teacher with the same exits comes first, then KD, then (for Table II) cross-entropy alone.

    Examples:

        usdn-nas retrain digits

        usdn-nas retrain digits --architecture mine.json --set retrain.init=supernet
    """
    from usdn_nas.pipeline.ledger import locked
    from usdn_nas.pipeline.stages import Pipeline, retrain_folder

    context = open_study_or_run(study, set_, out, quiet, verbose)
    if architecture:
        Pipeline(context).architecture(architecture)
    Pipeline(context).check()
    with locked(context.folder):
        file = Pipeline(context).retrain_all(architecture)
    stdout().print(context.folder / retrain_folder(file.architecture), highlight=False, soft_wrap=True)


@command
def evaluate(
    study: StudyArgument,
    architecture: ArchitectureOption = None,
    format: FormatOption = Format.table,
    set_: SetOption = None,
    out: OutOption = None,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Evaluates on the test split: Table I, Table II, and the gap between search and test figures.

    CSV is Table I alone; JSON is the whole of evaluation.json.

    Examples:

        usdn-nas evaluate digits

        usdn-nas evaluate digits --architecture mine.json --format json
    """
    from usdn_nas.files import read_json
    from usdn_nas.pipeline.ledger import locked
    from usdn_nas.pipeline.stages import Pipeline
    from usdn_nas.report import table1, table2

    context = open_study_or_run(study, set_, out, quiet, verbose)
    if architecture:
        Pipeline(context).architecture(architecture)
    Pipeline(context).check()
    with locked(context.folder):
        path = Pipeline(context).evaluate_all(architecture)
    evaluation = read_json(path, "usdn-nas/evaluation/1")
    if format is Format.json:
        typer.echo(path.read_text(encoding="utf-8"), nl=False)
        return
    print_frame(table1(evaluation), format, "Exit rates and costs, test split (Table I)")
    if format is Format.table:
        if evaluation["table2"]:
            print_frame(table2(evaluation), format, "KD against cross-entropy alone, test split (Table II)")
        print_gap(evaluation)
