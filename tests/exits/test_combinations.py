"""Best combinations beside enumeration."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from tests.helpers import random_outputs
from usdn_nas.exits.apply import apply
from usdn_nas.exits.combinations import Counts, Pick, best_combinations, grid_problem


def by_value(weight: float) -> Pick:
    """The greatest right - weight x BOPs, of equals the cheapest."""

    def pick(right: Counts, bops: Counts) -> int:
        return int(np.lexsort((bops, -(right - weight * bops)))[0])

    return pick


def in_budget(budget: float) -> Pick:
    """The most right within the budget, of equals the cheapest; else the cheapest."""

    def pick(right: Counts, bops: Counts) -> int:
        return int(np.lexsort((bops, np.where(bops <= budget, -right, 1)))[0])

    return pick


@pytest.mark.parametrize("placed", range(1, 6))
def test_best_combination_of_the_grid_is_found(placed: int) -> None:
    outputs, costs = random_outputs(placed, placed + 1, 80)
    problem = grid_problem(outputs, costs, 4)
    results = [apply(outputs, costs, chosen) for chosen in itertools.product(*(g.tolist() for g in problem.grids))]
    truth = [(round(r.accuracy * 80), round(r.average_bops * 80)) for r in results]
    weight = 30 / float(costs.cumulative[-1]) / 80
    chosen, right, bops = best_combinations(problem, [by_value(weight)])[0]
    value = max(right - weight * bops for right, bops in truth)
    assert (right, bops) == min((t for t in truth if t[0] - weight * t[1] == value), key=lambda t: t[1])
    result = apply(outputs, costs, problem.thresholds(chosen))
    assert (round(result.accuracy * 80), round(result.average_bops * 80)) == (right, bops)
    budget = float(costs.cumulative.mean() * 80)
    in_turn = best_combinations(problem, [by_value(weight), in_budget(budget)])
    assert in_turn[0] == (chosen, right, bops)
    chosen, right, bops = in_turn[1]
    assert (right, bops) == max((t for t in truth if t[1] <= budget), key=lambda t: (t[0], -t[1]))
