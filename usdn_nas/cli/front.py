"""``usdn-nas front`` prints the Pareto front of a run."""

from __future__ import annotations

from usdn_nas.cli.common import (
    Format,
    FormatOption,
    OutOption,
    StudyArgument,
    TraceOption,
    command,
    find_run,
    print_frame,
)

__all__ = ["front"]


@command
def front(
    study: StudyArgument, format: FormatOption = Format.table, out: OutOption = None, verbose: TraceOption = False
) -> None:
    """Prints the Pareto front, sorted by rising bit operations (BOPs), measured on the search split.

    Each point is more accurate than all cheaper points.

    Examples:

        usdn-nas front digits

        usdn-nas front runs/try --format csv > front.csv
    """
    from usdn_nas.report import front_table

    run = find_run(study, out)
    if format is not Format.table:
        print_frame(run.front, format)
        return
    print_frame(front_table(run.front, run.space), format, f"Pareto front of {run.name} (on the search split)")
