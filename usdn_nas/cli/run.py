"""``usdn-nas run`` runs all stages in order."""

from __future__ import annotations

from typing import TYPE_CHECKING

from usdn_nas.cli.common import (
    DeviceOption,
    DryRunOption,
    Format,
    OutOption,
    QuietOption,
    SeedOption,
    SetOption,
    StudyArgument,
    TrustOption,
    VerboseOption,
    command,
    open_study_or_run,
    print_frame,
    print_gap,
    settings_of,
    stdout,
)
from usdn_nas.cli.plan import show_plan

if TYPE_CHECKING:
    from usdn_nas.pipeline.context import Context

__all__ = ["run"]


@command
def run(
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
    """Trains a supernet, searches it, exports and retrains the winner, evaluates it, and writes a report.

    Finished stages are skipped, and an interrupted stage resumes. A stage that depends on a changed setting runs again.
    The evaluation is on the test split.

    Examples:

        usdn-nas run studies/digits.toml

        usdn-nas run digits --set search.configurations=256 --out runs/try

        usdn-nas run fashion_mnist --set data.root=data/fashion --dry-run
    """
    context = open_study_or_run(study, settings_of(set_, seed=seed, device=device), out, quiet, verbose, trust_code)
    if dry_run:
        show_plan(context)
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
