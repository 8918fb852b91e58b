"""Scores every combination of thresholds on a grid exactly from cached outputs, one threshold for each placed exit.

Let R_i[g_0, ..., g_{i-1}] be the sum of a weight over the samples that reach exit i, which means that they pass all
exits before it under the thresholds with the grid indices g_0, ..., g_{i-1}. A sample that goes on from exit i - 1 to
exit i changes the number of right answers by d_i = correct_i - correct_{i-1}, and costs c_i - c_{i-1} more bit
operations (BOPs). For i = 0, these are correct_0 and c_0. Over all samples,

    right answers = sum over exits i of R_i[weight d_i],    BOPs = sum over i of R_i[weight 1] (c_i - c_{i-1}).

Every R_i is a joint histogram of grid levels, summed cumulatively along each of its axes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from usdn_nas.exits.cuts import cuts
from usdn_nas.exits.outputs import ExitOutputs
from usdn_nas.space.cost import ExitCosts

__all__ = ["Counts", "Pick", "Problem", "best_combinations", "grid_problem"]

_WHOLE = 2
"""Up to this many exits are scored in one table. With more, the thresholds of the first exit are tried one by one, and
the tables cover only the other exits."""

Counts = NDArray[np.int64]
Pick = Callable[[Counts, Counts], int]
"""Returns the index of the preferred one of n results, from their totals (right answers, BOPs) over all samples, both
(n,)."""


@dataclass(frozen=True)
class Problem:
    """N samples at P placed exits and the final exit.

    Attributes:
        grids: For each placed exit, the thresholds to choose from, rising.
        levels: (P, N) number of grid values that are <= the confidence of a sample.
        correct: (P + 1, N), True if the exit answers the sample right.
        cumulative: (P + 1,) BOPs of a sample that leaves at each exit.
    """

    grids: list[NDArray[np.float64]]
    levels: Counts
    correct: NDArray[np.bool_]
    cumulative: Counts

    def thresholds(self, chosen: tuple[int, ...]) -> tuple[float, ...]:
        return tuple(float(grid[g]) for grid, g in zip(self.grids, chosen, strict=True))


def grid_problem(outputs: ExitOutputs, costs: ExitCosts, count: int, more: Sequence[float] | None = None) -> Problem:
    """Builds the problem with a grid of ``count`` quantiles of the confidences for each placed exit.

    Each quantile is moved down to the middle between two neighbouring confidences (`cuts`). ``more`` adds one threshold
    to the grid of each exit.
    """
    confidence = outputs.confidence[:-1]
    ranks = np.linspace(0, 1, count)
    grids = [cuts(np.sort(row), np.unique(np.quantile(row, ranks, method="higher"))) for row in confidence]
    if more is not None:
        grids = [np.union1d(grid, extra) for grid, extra in zip(grids, more, strict=True)]
    levels = [np.searchsorted(grid, row, side="right") for grid, row in zip(grids, confidence, strict=True)]
    return Problem(grids, np.array(levels, dtype=np.int64), outputs.correct, costs.cumulative)


def _reaching(problem: Problem, exit_: int, weight: NDArray[np.int8] | None) -> Counts:
    """Returns R_i of the module's docstring for i = ``exit_``, with shape (G_0, ..., G_{exit_ - 1}).

    ``weight`` is (N,). None stands for a weight of 1 for every sample.
    """
    shape = tuple(len(grid) for grid in problem.grids[:exit_])
    if not shape:
        return np.array(problem.correct.shape[1] if weight is None else weight.sum(dtype=np.int64))
    levels = problem.levels[:exit_]
    some = (levels < np.array(shape)[:, None]).all(axis=0)  # the other samples leave at some exit under any threshold
    flat = np.ravel_multi_index(tuple(levels[:, some]), shape)
    table = np.bincount(flat, None if weight is None else weight[some], minlength=int(np.prod(shape)))
    table = table.astype(np.int64).reshape(shape)  # sums of -1, 0 and 1 are exact in float64
    for axis in range(exit_):
        np.cumsum(table, axis=axis, out=table)
    return table


def _totals(problem: Problem) -> tuple[Counts, Counts]:
    """Returns the right answers and the BOPs of all combinations, each with shape (G_0, ..., G_{P-1})."""
    placed = len(problem.grids)
    right = np.zeros([len(grid) for grid in problem.grids], dtype=np.int64)
    bops = np.zeros_like(right)
    change = np.diff(problem.correct.astype(np.int8), axis=0, prepend=np.int8(0))
    steps = np.diff(problem.cumulative, prepend=0)
    for i in range(placed + 1):
        pad = (...,) + (None,) * (placed - i)
        right += _reaching(problem, i, change[i])[pad]
        bops += (_reaching(problem, i, None) * steps[i])[pad]
    return right, bops


def _after(problem: Problem, level: int) -> tuple[Problem, int, int]:
    """Sets the threshold of the first exit to its grid value ``level``.

    Returns:
        The problem of the samples that pass the first exit, and the right answers and BOPs of those that leave there.
    """
    passes = problem.levels[0] <= level
    rest = Problem(problem.grids[1:], problem.levels[1:, passes], problem.correct[1:, passes], problem.cumulative[1:])
    return rest, int(problem.correct[0, ~passes].sum()), int((~passes).sum()) * int(problem.cumulative[0])


def best_combinations(problem: Problem, picks: Sequence[Pick]) -> list[tuple[tuple[int, ...], int, int]]:
    """Returns for each of ``picks`` the combination that it prefers, with its right answers and its BOPs.

    A combination is a tuple of indices into the grids.
    """
    if len(problem.grids) <= _WHOLE:
        return _best(problem, picks, 0, 0)
    found = []
    for level in range(len(problem.grids[0])):
        rest, right_here, bops_here = _after(problem, level)
        best = _best(rest, picks, right_here, bops_here)
        found.append([((level, *chosen), right, bops) for chosen, right, bops in best])
    return [
        column[pick(np.array([f[1] for f in column]), np.array([f[2] for f in column]))]
        for pick, column in zip(picks, zip(*found, strict=True), strict=True)
    ]


def _best(
    problem: Problem, picks: Sequence[Pick], right_here: int, bops_here: int
) -> list[tuple[tuple[int, ...], int, int]]:
    """Solves `best_combinations` with one table for all exits of ``problem``.

    ``right_here`` and ``bops_here`` are the right answers and BOPs of samples that left before; they are added.
    """
    right, bops = _totals(problem)
    shape = right.shape
    right, bops = right.ravel() + right_here, bops.ravel() + bops_here
    indices = [pick(right, bops) for pick in picks]
    return [
        (tuple(int(g) for g in np.unravel_index(index, shape)), int(right[index]), int(bops[index]))
        for index in indices
    ]
