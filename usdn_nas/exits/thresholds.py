"""Thresholds of their own for each placed exit, fitted on cached outputs.

A threshold is taken from a grid: quantiles of the exit's own confidences. With few placed exits every combination is
scored (`combinations`), with more: coordinate ascent. Either result is then the start of a coordinate ascent on a finer
grid, which holds it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from usdn_nas._util.errors import UserError
from usdn_nas._util.units import cost
from usdn_nas.exits.combinations import Counts, Pick, Problem, best_combinations, grid_problem
from usdn_nas.exits.exact import check_names
from usdn_nas.exits.outputs import ExitOutputs
from usdn_nas.space.architecture import Rule
from usdn_nas.space.cost import ExitCosts

__all__ = ["EXACT_EXITS", "FittedThresholds", "fit_accuracies", "fit_thresholds", "fit_trade_offs"]

EXACT_EXITS = 5
"""Up to this many placed exits the fit is exact on its grid."""

_LEVELS = {1: 256, 2: 256, 3: 128, 4: 64, 5: 32}
_COORDINATE_LEVELS = 64
_REFINED_LEVELS = 256


@dataclass(frozen=True)
class FittedThresholds:
    """What `fit_thresholds` found.

    Attributes:
        thresholds: One for each placed exit.
        exact: No combination on the grid is better; else a good local optimum.
        quantiles: Size of the grid: so many quantiles of each exit's confidences.
    """

    thresholds: tuple[float, ...]
    exact: bool
    quantiles: int

    @property
    def method(self) -> str:
        """For people."""
        grid = f"{self.quantiles} quantiles an exit"
        return (
            f"at least the best combination of {grid}" if self.exact else f"approximate, by coordinate ascent on {grid}"
        )


def _curve(problem: Problem, chosen: tuple[int, ...], k: int) -> tuple[Counts, Counts]:
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


def _ascend(problem: Problem, start: tuple[int, ...], pick: Pick) -> tuple[tuple[int, ...], int, int]:
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


def _fit_by_coordinates(problem: Problem, pick: Pick, weights: NDArray[np.float64]) -> tuple[int, ...]:
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


def _cheapest(bops: Counts, among: NDArray[np.bool_]) -> int:
    index = np.flatnonzero(among)
    return int(index[bops[index].argmin()])


def _by_weight(weight: float) -> Pick:
    def pick(right: Counts, bops: Counts) -> int:
        value = right - weight * bops
        return _cheapest(bops, value == value.max())

    return pick


def _by_budget(budget: float) -> Pick:
    """``budget``: BOPs of all samples together. Where nothing fits, the cheapest."""

    def pick(right: Counts, bops: Counts) -> int:
        fits = bops <= budget
        if not fits.any():
            return int(bops.argmin())
        return _cheapest(bops, fits & (right == right[fits].max()))

    return pick


def _by_accuracy(right_wanted: int) -> Pick:
    """``right_wanted``: right answers of all samples together. Where nothing has so many, the most accurate."""

    def pick(right: Counts, bops: Counts) -> int:
        return _cheapest(bops, right >= min(right_wanted, right.max()))

    return pick


def fit_thresholds(
    outputs: ExitOutputs,
    costs: ExitCosts,
    *,
    tr: float | None = None,
    reference_bops: float | None = None,
    budget_bops: float | None = None,
    accuracy: float | None = None,
    rule: Rule = "threshold",
) -> FittedThresholds:
    """One threshold for each placed exit: maximises accuracy - tr x average BOPs / reference, or accuracy in a budget,
    or finds the least average BOPs at an accuracy.

    Up to `EXACT_EXITS` placed exits no combination on a grid of 256, 256, 128, 64 and 32 quantiles of each exit's
    confidences (with 1, 2, 3, 4 and 5 exits) is better than the result. Beyond, coordinate ascent on 64 quantiles; for
    a budget or an accuracy along a ladder of Lagrange weights: a good local optimum, not a proven one. Either is
    refined by coordinate ascent on 256 quantiles. Of equally good combinations the cheapest is taken.

    Args:
        outputs: Restricted to the placed exits and the final one.
        costs: Restricted likewise.
        tr: Weight of the relative average BOPs, average BOPs / ``reference_bops``.
        reference_bops: Needed with ``tr``, without it of no effect.
        budget_bops: Most average BOPs of a sample.
        accuracy: Least accuracy, a fraction; where no thresholds reach it, the most accurate are taken.
        rule: Which exit answers what was confident at none.

    Raises:
        UserError: No thresholds meet the budget; the message names the least average BOPs possible.
        ValueError: Not exactly one of ``tr`` (with its reference), ``budget_bops`` and ``accuracy`` is given.
    """
    check_names(outputs, costs)
    outputs = outputs.under(rule)
    given = sum(value is not None for value in (tr, budget_bops, accuracy))
    if given != 1 or (tr is not None and reference_bops is None):
        raise ValueError("give one of 'tr' (with 'reference_bops'), 'budget_bops' and 'accuracy'")
    if budget_bops is not None and (cheapest := int(costs.cumulative[0])) > budget_bops:
        # The first exit comes first for every sample, and the lowest threshold on the grid lets all leave there.
        raise UserError(
            f"no thresholds meet a budget of {cost(budget_bops, 6)} with exits {', '.join(outputs.names)}: "
            f"the cheapest costs {cost(cheapest, 6)} a sample"
        )
    if tr is not None:
        assert reference_bops is not None
        return fit_trade_offs(outputs, costs, [tr], reference_bops)[0]
    if accuracy is not None:
        return fit_accuracies(outputs, costs, [accuracy])[0]
    assert budget_bops is not None
    return _fit(outputs, costs, [(_by_budget(budget_bops * outputs.samples), _ladder(costs))])[0]


def _ladder(costs: ExitCosts) -> NDArray[np.float64]:
    return np.geomspace(1e-3, 1e1, 17) / float(costs.cumulative[-1])


def fit_accuracies(outputs: ExitOutputs, costs: ExitCosts, accuracies: Sequence[float]) -> list[FittedThresholds]:
    """`fit_thresholds` for each of several values of ``accuracy``, in about the time of one."""
    check_names(outputs, costs)
    wanted = [math.ceil(round(accuracy * outputs.samples, 6)) for accuracy in accuracies]  # .9 x 10,000 is 9,000
    return _fit(outputs, costs, [(_by_accuracy(right), _ladder(costs)) for right in wanted])


def fit_trade_offs(
    outputs: ExitOutputs, costs: ExitCosts, trade_offs: Sequence[float], reference_bops: float
) -> list[FittedThresholds]:
    """`fit_thresholds` for each of several weights ``tr``, in about the time of one."""
    check_names(outputs, costs)
    weights = [tr / reference_bops for tr in trade_offs]
    return _fit(outputs, costs, [(_by_weight(weight), np.array([weight])) for weight in weights])


def _fit(
    outputs: ExitOutputs, costs: ExitCosts, wanted: Sequence[tuple[Pick, NDArray[np.float64]]]
) -> list[FittedThresholds]:
    """The thresholds of each pick; beside it the Lagrange weights along which coordinate ascent goes."""
    placed = len(outputs.candidates)
    if not placed:
        return [FittedThresholds((), True, 0)] * len(wanted)
    exact = placed <= EXACT_EXITS
    quantiles = _LEVELS[placed] if exact else _COORDINATE_LEVELS
    problem = grid_problem(outputs, costs, quantiles)
    if exact:
        chosen = [best[0] for best in best_combinations(problem, [pick for pick, _ in wanted])]
    else:
        chosen = [_fit_by_coordinates(problem, pick, weights) for pick, weights in wanted]
    return [
        FittedThresholds(_refined(outputs, costs, problem.thresholds(best), pick), exact, quantiles)
        for best, (pick, _) in zip(chosen, wanted, strict=True)
    ]


def _refined(outputs: ExitOutputs, costs: ExitCosts, coarse: tuple[float, ...], pick: Pick) -> tuple[float, ...]:
    fine = grid_problem(outputs, costs, _REFINED_LEVELS, coarse)
    start = tuple(int(np.searchsorted(grid, t)) for grid, t in zip(fine.grids, coarse, strict=True))
    return fine.thresholds(_ascend(fine, start, pick)[0])
