"""Fits a threshold for each placed exit on cached outputs.

Thresholds are taken from a grid: quantiles of the exit's own confidences. With few placed exits, every combination is
scored (`combinations`). With more, coordinate ascent is used. In both cases, a coordinate ascent on a finer grid, which
contains the first result, then refines it. BOPs are bit operations: multiply-accumulates x W bits x A bits.
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
"""With up to this many placed exits, the fit finds the best combination on its grid."""

_LEVELS = {1: 256, 2: 256, 3: 128, 4: 64, 5: 32}
_COORDINATE_LEVELS = 64
_REFINED_LEVELS = 256


@dataclass(frozen=True)
class FittedThresholds:
    """Result of `fit_thresholds`.

    Attributes:
        thresholds: One for each placed exit.
        exact: True if no combination on the grid is better. False if the result is only a good local optimum.
        quantiles: Size of the grid: the number of quantiles of each exit's confidences.
    """

    thresholds: tuple[float, ...]
    exact: bool
    quantiles: int

    @property
    def method(self) -> str:
        """Describes in words how the thresholds were found."""
        grid = f"{self.quantiles} quantiles an exit"
        return (
            f"at least the best combination of {grid}" if self.exact else f"approximate, by coordinate ascent on {grid}"
        )


def _curve(problem: Problem, chosen: tuple[int, ...], k: int) -> tuple[Counts, Counts]:
    """Returns the totals (right answers, BOPs) for every grid value of exit ``k``, (G_k,) each.

    The other exits have their ``chosen`` grid values.
    """
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
    """Sets one exit's threshold after the other to its best value, until none changes.

    Returns:
        The chosen grid indices, and the totals of right answers and BOPs.
    """
    chosen, still, k = start, 0, 0
    right, bops = _curve(problem, chosen, 0)
    total = int(right[chosen[0]]), int(bops[chosen[0]])
    while still < len(chosen):
        right, bops = _curve(problem, chosen, k)
        best = pick(right, bops)
        # Changing between equally good choices could go on for ever, so a threshold changes only if the totals change.
        if (int(right[best]), int(bops[best])) != total:
            chosen, still = (*chosen[:k], best, *chosen[k + 1 :]), 0
            total = int(right[best]), int(bops[best])
        still, k = still + 1, (k + 1) % len(chosen)
    return chosen, *total


def _fit_by_coordinates(problem: Problem, pick: Pick, weights: NDArray[np.float64]) -> tuple[int, ...]:
    """Returns the best result, by ``pick``, of coordinate ascents from several starts.

    Each start ascends on accuracy - weight x BOPs for one weight after the other, and every result then ascends with
    ``pick`` itself.
    """
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
    """Returns a pick of the most accurate result within ``budget``, the BOPs of all samples together.

    If nothing is within the budget, it picks the cheapest.
    """

    def pick(right: Counts, bops: Counts) -> int:
        fits = bops <= budget
        if not fits.any():
            return int(bops.argmin())
        return _cheapest(bops, fits & (right == right[fits].max()))

    return pick


def _by_accuracy(right_wanted: int) -> Pick:
    """Returns a pick of the cheapest result with at least ``right_wanted`` right answers over all samples.

    If nothing has so many, it picks the most accurate.
    """

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
    """Fits one threshold for each placed exit.

    Give exactly one of ``tr``, ``budget_bops`` and ``accuracy``. With ``tr``, it maximizes accuracy - tr x average BOPs
    / reference BOPs. With ``budget_bops``, it maximizes the accuracy within the budget. With ``accuracy``, it minimizes
    the average BOPs at this accuracy.

    With up to `EXACT_EXITS` placed exits, no combination on the grid is better than the result. The grid has 256, 256,
    128, 64 and 32 quantiles of each exit's confidences with 1, 2, 3, 4 and 5 exits. With more exits, coordinate ascent
    on 64 quantiles finds a good local optimum, which is not proven to be the best; for a budget or an accuracy it goes
    along a series of Lagrange weights. In both cases the result is refined by coordinate ascent on 256 quantiles. If
    several combinations are equally good, the cheapest is taken.

    Args:
        outputs: Outputs of the placed exits and the final one.
        costs: Costs of the same exits.
        tr: Weight of relative BOPs.
        reference_bops: BOPs that relative BOPs are a fraction of. It is needed with ``tr``, and ignored without it.
        budget_bops: Largest average BOPs of a sample.
        accuracy: Lowest accuracy, a fraction. If no thresholds reach it, the most accurate ones are taken.
        rule: Which exit answers a sample that no placed exit is confident of.

    Raises:
        UserError: No thresholds meet the budget. The message names the lowest average BOPs that are possible.
        ValueError: Not exactly one of ``tr`` (with ``reference_bops``), ``budget_bops`` and ``accuracy`` is given.
    """
    check_names(outputs, costs)
    outputs = outputs.under(rule)
    given = sum(value is not None for value in (tr, budget_bops, accuracy))
    if given != 1 or (tr is not None and reference_bops is None):
        raise ValueError("give one of 'tr' (with 'reference_bops'), 'budget_bops' and 'accuracy'")
    if budget_bops is not None and (cheapest := int(costs.cumulative[0])) > budget_bops:
        # Every sample costs at least the first exit, and the lowest threshold on the grid lets all samples leave there.
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
    """Fits thresholds as `fit_thresholds` does, for several values of ``accuracy`` in about the time of one."""
    check_names(outputs, costs)
    # Rounding first makes 0.9 x 10,000 exactly 9,000.
    wanted = [math.ceil(round(accuracy * outputs.samples, 6)) for accuracy in accuracies]
    return _fit(outputs, costs, [(_by_accuracy(right), _ladder(costs)) for right in wanted])


def fit_trade_offs(
    outputs: ExitOutputs, costs: ExitCosts, trade_offs: Sequence[float], reference_bops: float
) -> list[FittedThresholds]:
    """Fits thresholds as `fit_thresholds` does, for several weights ``tr`` in about the time of one."""
    check_names(outputs, costs)
    weights = [tr / reference_bops for tr in trade_offs]
    return _fit(outputs, costs, [(_by_weight(weight), np.array([weight])) for weight in weights])


def _fit(
    outputs: ExitOutputs, costs: ExitCosts, wanted: Sequence[tuple[Pick, NDArray[np.float64]]]
) -> list[FittedThresholds]:
    """Returns the fitted thresholds for each pick.

    ``wanted`` gives each pick together with the Lagrange weights that coordinate ascent uses on the way to it.
    """
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
