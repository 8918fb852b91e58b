"""Thresholds of their own for each placed exit, fitted on cached outputs.

A threshold is taken from a grid: quantiles of the exit's own confidences. With few placed exits, every combination
is scored exactly from cumulative sums of the joint histogram of grid levels; beyond that, coordinate ascent.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from usdn_nas.cost import ExitCosts
from usdn_nas.errors import UserError
from usdn_nas.policy.exact import check_names
from usdn_nas.policy.outputs import ExitOutputs

__all__ = ["EXACT_EXITS", "fit_thresholds"]

EXACT_EXITS = 4
"""Up to this many placed exits the fit is exact on its grid."""

_CELLS = 1 << 20
_MOST_LEVELS = 256
_COORDINATE_LEVELS = 64

Counts = NDArray[np.int64]
Pick = Callable[[Counts, Counts], int]
"""Index of the best among totals (right answers, BOPs) over all samples, both (n,)."""


@dataclass(frozen=True)
class _Problem:
    """P placed exits: their grids, levels (P, N) = number of grid values <= confidence, (P + 1, N) correctness."""

    grids: list[NDArray[np.float64]]
    levels: Counts
    correct: NDArray[np.bool_]
    cumulative: Counts

    def thresholds(self, chosen: tuple[int, ...]) -> tuple[float, ...]:
        return tuple(float(grid[g]) for grid, g in zip(self.grids, chosen, strict=True))


def _problem(outputs: ExitOutputs, costs: ExitCosts, count: int) -> _Problem:
    quantiles = np.linspace(0, 1, count) if count > 1 else np.zeros(1)
    confidence = outputs.confidence[:-1].astype(np.float64)
    grids = [np.unique(np.quantile(row, quantiles, method="higher")) for row in confidence]
    levels = [np.searchsorted(grid, row, side="right") for grid, row in zip(grids, confidence, strict=True)]
    return _Problem(grids, np.array(levels, dtype=np.int64), outputs.correct, costs.cumulative)


def _joint(problem: _Problem, upto: int, weight: NDArray[np.bool_] | None, stops: bool) -> Counts:
    """Samples (those in ``weight``) that pass exits 0..upto-1, and stop at ``upto`` if ``stops``, for all choices.

    Returns:
        (G_0, ..., G_upto) with ``stops``, else (G_0, ..., G_{upto-1}).
    """
    axes = upto + 1 if stops else upto
    shape = tuple(len(grid) + 1 for grid in problem.grids[:axes])
    levels = problem.levels[:axes] if weight is None else problem.levels[:axes, weight]
    flat = np.ravel_multi_index(tuple(levels), shape)
    table = np.bincount(flat, minlength=int(np.prod(shape))).reshape(shape).astype(np.int64)
    for axis in range(upto):
        table = np.cumsum(table, axis=axis).take(range(shape[axis] - 1), axis=axis)
    if stops:
        table = np.flip(np.cumsum(np.flip(table, axis=upto), axis=upto), axis=upto)[..., 1:]
    return table


def _fit_exactly(problem: _Problem, pick: Pick) -> tuple[int, ...]:
    placed = len(problem.grids)
    shape = tuple(len(grid) for grid in problem.grids)
    right = np.zeros(shape, dtype=np.int64)
    bops = np.zeros(shape, dtype=np.int64)
    for i in range(placed + 1):
        stops = i < placed
        pad = (...,) + (None,) * max(placed - i - 1, 0)
        right += _joint(problem, i, problem.correct[i], stops)[pad]
        bops += _joint(problem, i, None, stops)[pad] * problem.cumulative[i]
    best = pick(right.ravel(), bops.ravel())
    return tuple(int(g) for g in np.unravel_index(best, shape))


def _curve(problem: _Problem, chosen: tuple[int, ...], k: int) -> tuple[Counts, Counts]:
    """Totals (right, BOPs) for every grid value of exit ``k``, the other exits as ``chosen``: (G_k,) each."""
    exits, samples = problem.correct.shape
    fires = np.ones((exits, samples), dtype=bool)
    fires[:-1] = problem.levels > np.array(chosen)[:, None]
    fires[k] = False
    otherwise = fires.argmax(axis=0)  # where a sample stops if exit k does not take it
    reached = otherwise > k
    right_otherwise = problem.correct[otherwise, np.arange(samples)]
    size = len(problem.grids[k])
    level = problem.levels[k]
    gain = np.bincount(level[reached & problem.correct[k]], minlength=size + 1)
    gain = gain - np.bincount(level[reached & right_otherwise], minlength=size + 1)
    moved = np.bincount(level[reached] * exits + otherwise[reached], minlength=(size + 1) * exits)
    moved = moved.reshape(size + 1, exits)
    saved = moved.sum(axis=1) * problem.cumulative[k] - moved @ problem.cumulative
    right = int(right_otherwise.sum()) + np.cumsum(gain[::-1])[::-1][1:]
    bops = int(problem.cumulative[otherwise].sum()) + np.cumsum(saved[::-1])[::-1][1:]
    return right.astype(np.int64), bops.astype(np.int64)


def _ascend(problem: _Problem, start: tuple[int, ...], pick: Pick) -> tuple[tuple[int, ...], int, int]:
    """Sets one exit's threshold after the other to its best until none moves. Returns choice, right, BOPs."""
    chosen, still, k = start, 0, 0
    right, bops = _curve(problem, chosen, 0)
    total = int(right[chosen[0]]), int(bops[chosen[0]])
    while still < len(chosen):
        right, bops = _curve(problem, chosen, k)
        best = pick(right, bops)
        # An exchange of equals could go round for ever: move only where the pick differs in value.
        if (int(right[best]), int(bops[best])) != total:
            chosen, still = (*chosen[:k], best, *chosen[k + 1 :]), 0
            total = int(right[best]), int(bops[best])
        still, k = still + 1, (k + 1) % len(chosen)
    return chosen, *total


def _fit_by_coordinates(problem: _Problem, pick: Pick, weights: NDArray[np.float64]) -> tuple[int, ...]:
    """Coordinate ascent on accuracy - weight x BOPs for each weight, polished with ``pick``, from several starts."""
    sizes = [len(grid) for grid in problem.grids]
    starts = [tuple(int(share * (size - 1)) for size in sizes) for share in (0.0, 0.5, 1.0)]
    found = []
    for start in starts:
        for weight in weights:
            start, *_ = _ascend(problem, start, _by_weight(float(weight)))  # each weight starts where the last ended
            found.append(_ascend(problem, start, pick))
    best = pick(np.array([f[1] for f in found]), np.array([f[2] for f in found]))
    return found[best][0]


def _by_weight(weight: float) -> Pick:
    def pick(right: Counts, bops: Counts) -> int:
        value = right - weight * bops
        return int(np.lexsort((bops, -value))[0])

    return pick


def _by_budget(budget: float) -> Pick:
    """``budget``: BOPs of all samples together. Where nothing fits, the cheapest."""

    def pick(right: Counts, bops: Counts) -> int:
        fits = bops <= budget
        if not fits.any():
            return int(bops.argmin())
        return int(np.lexsort((bops, -np.where(fits, right, -1)))[0])

    return pick


def fit_thresholds(
    outputs: ExitOutputs,
    costs: ExitCosts,
    *,
    tr: float | None = None,
    reference_bops: float | None = None,
    budget_bops: float | None = None,
) -> tuple[float, ...]:
    """One threshold for each placed exit: maximises accuracy - tr x average BOPs / reference, or accuracy in a budget.

    Up to `EXACT_EXITS` placed exits the result is the best of all combinations on a grid of up to 256, 256, 101
    and 32 quantiles of each exit's confidences (with 1, 2, 3 and 4 exits). Beyond, coordinate ascent on 64
    quantiles; for a budget along a ladder of Lagrange weights: a good local optimum, not a proven one. Of equally
    good combinations the cheapest is taken.

    Args:
        outputs: Restricted to the placed exits and the final one.
        costs: Restricted likewise.
        tr: Weight of the relative average BOPs, average BOPs / ``reference_bops``.
        reference_bops: Needed with ``tr``, without it of no effect.
        budget_bops: Most average BOPs of a sample.

    Raises:
        UserError: No thresholds meet the budget; the message names the least average BOPs possible.
        ValueError: Not exactly one of ``tr`` (with its reference) and ``budget_bops`` is given.
    """
    check_names(outputs, costs)
    if (tr is None) == (budget_bops is None) or (tr is not None and reference_bops is None):
        raise ValueError("give either 'tr' and 'reference_bops', or 'budget_bops'")
    if budget_bops is not None and (cheapest := int(costs.cumulative[0])) > budget_bops:
        # The first exit comes first for every sample, and the lowest threshold on the grid lets all leave there.
        raise UserError(
            f"no thresholds meet a budget of {budget_bops / 1e9:.6g} GBOPs with exits {', '.join(outputs.names)}: "
            f"the cheapest costs {cheapest / 1e9:.6g} GBOPs a sample"
        )
    placed = len(outputs.candidates)
    if not placed:
        return ()
    if budget_bops is not None:
        pick = _by_budget(budget_bops * outputs.samples)
        weights = np.geomspace(1e-3, 1e1, 17) / float(costs.cumulative[-1])
    else:
        assert tr is not None and reference_bops is not None
        weights = np.array([tr / reference_bops])
        pick = _by_weight(tr / reference_bops)
    if placed <= EXACT_EXITS:
        count = min(_MOST_LEVELS, int(_CELLS ** (1 / placed) + 1e-9))
        problem = _problem(outputs, costs, count)
        return problem.thresholds(_fit_exactly(problem, pick))
    problem = _problem(outputs, costs, _COORDINATE_LEVELS)
    return problem.thresholds(_fit_by_coordinates(problem, pick, weights))
