"""The Pareto front of a study as a table, and the choice of one architecture from it.

BOPs are bit operations: multiply-accumulates x W bits x A bits.
"""

from __future__ import annotations

import optuna
import pandas as pd

from usdn_nas._util.errors import UserError
from usdn_nas.space.architecture import Architecture
from usdn_nas.space.cost import reference_bops
from usdn_nas.space.search_space import SearchSpace
from usdn_nas.study.objective import space_of
from usdn_nas.study.points import FrontPoint, find_point, front_points
from usdn_nas.study.points import select as select_point

__all__ = ["pareto_front", "select"]


def pareto_front(study: optuna.Study) -> pd.DataFrame:
    """Returns the non-dominated exit policies of a study, by rising cost and rising accuracy.

    Every trial contributes all policies (exits and thresholds) that were kept of its own front. The result therefore
    has more points than Optuna's ``study.best_trials``.

    Args:
        study: A study whose trials were run by `Objective`, with ``study.optimize`` or with `search`.

    Returns:
        One row for each policy. Columns: ``trial`` ("12.3" is policy 3 of trial 12), ``accuracy`` (a fraction, on the
        search images), ``bops`` (average BOPs of a sample), ``relative_bops`` (as a fraction of the BOPs of the network
        at 4/4 bits with 8-bit ends), ``exits`` (a tuple of names), ``thresholds`` (a tuple of numbers), and one column
        for each group with its bits, "W/A".

    Raises:
        UserError: No trial was run by an `Objective`.
    """
    space = space_of(study)
    reference = reference_bops(space)
    rows = [_row(point, space, reference) for point in front_points(study, space)]
    columns = ["trial", "accuracy", "bops", "relative_bops", "exits", "thresholds"]
    return pd.DataFrame(rows, columns=[*columns, *(group.name for group in space.groups)])


def _row(point: FrontPoint, space: SearchSpace, reference: int) -> dict[str, object]:
    return {
        "trial": point.name,
        "accuracy": point.accuracy,
        "bops": point.bops,
        "relative_bops": point.bops / reference,
        "exits": point.exits,
        "thresholds": point.thresholds,
        **{group.name: "{}/{}".format(*point.bits[group.name]) for group in space.groups},
    }


def select(
    study: optuna.Study, *, max_bops: float | None = None, tr: float | None = None, trial: str | None = None
) -> Architecture:
    """Returns one architecture of a study: bits, exits and thresholds.

    Give at most one of ``max_bops``, ``tr`` and ``trial``. Without any of them, the most accurate architecture is
    returned.

    Args:
        study: The same as for `pareto_front`.
        max_bops: Take the most accurate architecture with at most this many average BOPs of a sample.
        tr: Take the one with the greatest accuracy - ``tr`` x average BOPs / reference BOPs.
        trial: Take the policy of this name ("12.3"), or the policy that was chosen for this trial ("12").

    Raises:
        UserError: More than one of the three is given, or no architecture fits.
    """
    if sum(value is not None for value in (max_bops, tr, trial)) > 1:
        raise UserError("give one of 'max_bops', 'tr' and 'trial'", where="select")
    space = space_of(study)
    if trial is not None:
        return find_point(study, space, trial).architecture
    points = front_points(study, space)
    best = max_bops is None and tr is None
    reference = float(reference_bops(space))
    return select_point(points, best=best, tr=tr, budget_bops=max_bops, reference_bops=reference).architecture
