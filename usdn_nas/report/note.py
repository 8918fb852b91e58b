"""Describes a run in a Markdown note, e.g. for optuna-dashboard: the search space, the result, and the front."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from usdn_nas.report._summary import result, searched
from usdn_nas.report.rendering import columns
from usdn_nas.report.run import MissingPartError, Run
from usdn_nas.report.tables import front_table

__all__ = ["study_note"]

_ROWS = 24


def _table(frame: pd.DataFrame) -> str:
    shown = columns(frame)
    lines = [[column.label for column in shown], ["--:" if column.numeric else "---" for column in shown]]
    lines += [[column.cells[i].replace("|", "\\|") for column in shown] for i in range(len(frame))]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _front(run: Run) -> str:
    """Returns the front as a table. Of a long front it shows some points, including both ends."""
    front = run.front
    rows = np.unique(np.linspace(0, len(front) - 1, min(len(front), _ROWS)).round().astype(int))
    some = "" if len(rows) == len(front) else f" ({len(rows)} of its {len(front)} points)"
    return f"### Pareto front, search split{some}\n\n{_table(front_table(front.iloc[rows], run.space))}"


def study_note(run: Run, pictures: Mapping[str, str]) -> str:
    """Returns the note about those parts of a run that exist so far.

    Args:
        run: A run, which may be unfinished.
        pictures: Maps the description of each picture to its address.
    """
    parts = [searched(run)]
    for part in (result, _front):
        try:
            parts.append(part(run))
        except MissingPartError as missing:
            parts.append(f"*Not yet: {missing}*")
    parts[2:2] = [f"![{what}]({address})" for what, address in pictures.items()]
    return "\n\n".join(parts) + "\n"
