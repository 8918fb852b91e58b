"""``usdn-nas retrain`` and ``usdn-nas evaluate``, for the exported architecture or one that the user gives."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from usdn_nas._util.errors import UserError
from usdn_nas._util.trust import ConsentError
from usdn_nas.cli.common import (
    DeviceOption,
    DryRunOption,
    Format,
    FormatOption,
    OutOption,
    QuietOption,
    SeedOption,
    SetOption,
    StudyArgument,
    TrustOption,
    VerboseOption,
    command,
    open_study_or_run,
    path_parser,
    print_bits,
    print_frame,
    print_gap,
    settings_of,
    stdout,
    stored_run,
)
from usdn_nas.cli.plan import show_plan

if TYPE_CHECKING:
    from usdn_nas.pipeline.context import Context

__all__ = ["evaluate", "retrain"]

ArchitectureOption = Annotated[
    Path | None,
    typer.Option(
        "--architecture",
        metavar="FILE",
        help="Another architecture.json.",
        show_default="the exported one",
        parser=path_parser("--architecture"),
    ),
]


@command
def retrain(
    study: StudyArgument,
    architecture: ArchitectureOption = None,
    set_: SetOption = None,
    seed: SeedOption = None,
    device: DeviceOption = None,
    out: OutOption = None,
    trust_code: TrustOption = False,
    dry_run: DryRunOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Retrains an architecture with level-wise knowledge distillation, Eq. (10), and refits its thresholds.

    First the full-precision teacher with the same exits is trained, then the network with knowledge distillation (KD),
    then, for Table II, the network with cross-entropy alone.

    Examples:

        usdn-nas retrain digits

        usdn-nas retrain digits --architecture mine.json --set retrain.init=supernet
    """
    from usdn_nas.pipeline.ledger import locked
    from usdn_nas.pipeline.stages import Pipeline, retrain_folder

    settings = settings_of(set_, seed=seed, device=device)
    context = open_study_or_run(study, settings, out, quiet, verbose, trust_code)
    if architecture:
        Pipeline(context).architecture(architecture)
    if dry_run:
        show_plan(context, "retrain")
        return
    Pipeline(context).check()
    with locked(context.folder):
        file = Pipeline(context).retrain_all(architecture)
    stdout().print(context.folder / retrain_folder(file.architecture), highlight=False, soft_wrap=True)


@command
def evaluate(
    study: StudyArgument,
    architecture: ArchitectureOption = None,
    format: FormatOption = Format.table,
    all_: Annotated[bool, typer.Option("--all", help="All tables instead of the summary.")] = False,
    threshold: Annotated[
        float | None,
        typer.Option(
            "--threshold", metavar="T", help="Shared by all exits in Table I; the same as evaluate.threshold."
        ),
    ] = None,
    budgeted: Annotated[
        bool, typer.Option("--budgeted", help="Anytime prediction and budgeted batches instead, as MSDNet's authors.")
    ] = False,
    overthinking: Annotated[
        bool, typer.Option("--overthinking", help="Overthinking and confusion instead, as SDN's authors.")
    ] = False,
    set_: SetOption = None,
    seed: SeedOption = None,
    device: DeviceOption = None,
    out: OutOption = None,
    trust_code: TrustOption = False,
    dry_run: DryRunOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Evaluates on the test split, and prints a summary: accuracy, average cost and exit rates of each model.

    `--all` prints all tables: Tables I and II, calibration, trade-offs, bits, the gap to the search split, and those of
    `--budgeted` and `--overthinking`. Table I comes with the thresholds fitted exit by exit, and with one for all exits
    as in the paper (0.7 by default); `--threshold` prints the latter, too. CSV is the former alone. JSON is the whole
    of evaluation.json.

    Examples:

        usdn-nas evaluate digits

        usdn-nas evaluate digits --all

        usdn-nas evaluate digits --threshold 0.8

        usdn-nas evaluate digits --budgeted --overthinking

        usdn-nas evaluate digits --architecture mine.json --format json
    """
    from usdn_nas.documents import EvaluationDocument, read_document
    from usdn_nas.report import table1

    if all_ and format is Format.csv:
        raise UserError("CSV is one table, and --all prints several", remedy="take --format json")
    settings = settings_of(set_, **{"evaluate.threshold": threshold}, seed=seed, device=device)
    try:
        context = open_study_or_run(study, settings, out, quiet, verbose, trust_code)
    except ConsentError as refusal:
        changes = bool(settings) or architecture is not None or dry_run
        path = stored_run(study, out, refusal, changes=changes).path / "evaluation.json"
    else:
        if dry_run:
            show_plan(context, "evaluate")
            return
        path = _evaluated(context, architecture)
    if format is Format.json:
        typer.echo(path.read_text(encoding="utf-8"), nl=False)
        return
    _, evaluation = read_document(path, EvaluationDocument)
    if all_:
        _print_all(evaluation)
    elif budgeted or overthinking:
        _print_protocols(evaluation, format, budgeted, overthinking)
    elif format is Format.csv:
        print_frame(table1(evaluation), format)
    else:
        _print_summary(evaluation, threshold is not None)


def _evaluated(context: Context, architecture: Path | None) -> Path:
    """Runs the stages that are missing, and returns the path of the results."""
    from usdn_nas.pipeline.ledger import locked
    from usdn_nas.pipeline.stages import Pipeline

    if architecture:
        Pipeline(context).architecture(architecture)
    Pipeline(context).check()
    with locked(context.folder):
        return Pipeline(context).evaluate_all(architecture)


def _print_protocols(evaluation: Mapping[str, Any], format: Format, budgeted: bool, overthinking: bool) -> None:
    from usdn_nas.report import anytime_table, budgeted_table, overthinking_table

    if budgeted:
        print_frame(anytime_table(evaluation), format, "Anytime prediction, test split: all samples at one exit")
        title = "Budgeted batches, test split: exit shares in the ratio q, thresholds fitted on the search split"
        print_frame(budgeted_table(evaluation), format, title)
    if overthinking:
        title = "Overthinking and confusion, test split (confusion in standard deviations of the search split)"
        print_frame(overthinking_table(evaluation), format, title)


def _print_summary(evaluation: Mapping[str, Any], shared: bool) -> None:
    """Prints the main figures of each model. ``shared``: also Table I with one threshold for all exits."""
    from usdn_nas.report import summary_table

    title = f"Policies on the test split (n = {evaluation['n']:,})"
    print_frame(summary_table(evaluation), Format.table, title)
    if shared:
        _print_shared(evaluation)
    stdout().print("All tables: --all", highlight=False)


def _print_shared(evaluation: Mapping[str, Any]) -> None:
    """Prints Table I with one threshold for all exits, if the network has early exits."""
    from usdn_nas.report import table1

    if (shared := evaluation["models"]["kd"]["shared"]) is not None:
        title = f"Table I with one threshold for all exits, {shared['threshold']:g}, as in the paper"
        print_frame(table1(evaluation, shared=True), Format.table, title)


def _print_all(evaluation: Mapping[str, Any]) -> None:
    from usdn_nas.report import calibration_table, table1, table2, trade_off_table

    format = Format.table
    print_frame(table1(evaluation), format, "Exit rates and costs, test split, fitted thresholds (Table I)")
    _print_shared(evaluation)
    if evaluation["table2"]:
        print_frame(table2(evaluation), format, "KD against cross-entropy alone, test split (Table II)")
    title = "Calibration over all samples, test split (AUROC: a dash where all answers are right or all wrong)"
    print_frame(calibration_table(evaluation), format, title)
    if evaluation["models"]["kd"]["shared"] is not None:
        title = "Accuracy within a budget, test split: one threshold shared, and one for each exit (chosen on search)"
        print_frame(trade_off_table(evaluation), format, title)
    print_bits(evaluation)
    print_gap(evaluation)
    _print_protocols(evaluation, format, budgeted=True, overthinking=True)
