"""Fitted thresholds beside enumeration."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from tests.helpers import random_outputs
from usdn_nas._util.errors import UserError
from usdn_nas._util.units import cost
from usdn_nas.exits import thresholds as module
from usdn_nas.exits.apply import apply
from usdn_nas.exits.combinations import best_combinations, grid_problem
from usdn_nas.exits.outputs import ExitOutputs
from usdn_nas.exits.thresholds import FittedThresholds, fit_accuracies, fit_thresholds, fit_trade_offs
from usdn_nas.space.architecture import Rule
from usdn_nas.space.cost import ExitCosts


def enumerated(outputs: ExitOutputs, costs: ExitCosts, rule: Rule = "threshold") -> list[tuple[float, float]]:
    """(accuracy, BOPs) of every combination of confidences that occur."""
    grids = [np.unique(row).tolist() for row in outputs.confidence[:-1]]
    results = [apply(outputs, costs, chosen, rule) for chosen in itertools.product(*grids)]
    return [(r.accuracy, r.average_bops) for r in results]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("exits", [2, 3, 4])
@pytest.mark.parametrize("rule", ["threshold", "most-confident"])
def test_exact_fit_equals_enumeration(rule: Rule, seed: int, exits: int) -> None:
    outputs, costs = random_outputs(seed, exits, 25)
    truth = enumerated(outputs, costs, rule)
    reference = float(costs.cumulative[-1])
    for tr in (0.0, 0.1, 1.0):
        fitted = fit_thresholds(outputs, costs, tr=tr, reference_bops=reference, rule=rule)
        got = apply(outputs, costs, fitted.thresholds, rule)
        best = max(a - tr * b / reference for a, b in truth)
        assert got.accuracy - tr * got.average_bops / reference == pytest.approx(best, abs=1e-12)
    for budget in np.linspace(float(costs.cumulative[0]), reference, 5):
        fitted = fit_thresholds(outputs, costs, budget_bops=budget, rule=rule)
        got = apply(outputs, costs, fitted.thresholds, rule)
        best_accuracy = max(a for a, b in truth if b <= budget)
        cheapest = min(b for a, b in truth if a == best_accuracy)
        assert (got.accuracy, got.average_bops) == (best_accuracy, cheapest)
    for accuracy in sorted({a for a, _ in truth})[::3]:
        fitted = fit_thresholds(outputs, costs, accuracy=accuracy, rule=rule)
        got = apply(outputs, costs, fitted.thresholds, rule)
        assert got.accuracy >= accuracy
        assert got.average_bops == min(b for a, b in truth if a >= accuracy)
    fitted = fit_thresholds(outputs, costs, accuracy=1.01, rule=rule)
    unreachable = apply(outputs, costs, fitted.thresholds, rule)
    assert unreachable.accuracy == max(a for a, _ in truth)


@pytest.mark.parametrize("placed", [0, 2, 6])
def test_several_accuracies_at_once_are_each_fitted_as_alone(placed: int) -> None:
    outputs, costs = random_outputs(placed, placed + 1, 200)
    accuracies = [0.2, 0.4, 0.45, 1.0]
    alone = [fit_thresholds(outputs, costs, accuracy=accuracy) for accuracy in accuracies]
    assert fit_accuracies(outputs, costs, accuracies) == alone
    assert placed == 0 or len({fit.thresholds for fit in alone}) > 1


@pytest.mark.parametrize("placed", [0, 2, 3, 6])
def test_several_trade_offs_at_once_are_each_fitted_as_alone(placed: int) -> None:
    outputs, costs = random_outputs(placed, placed + 1, 200)
    reference, trade_offs = float(costs.cumulative[-1]), [0.0, 0.01, 0.3, 2.0]
    alone = [fit_thresholds(outputs, costs, tr=tr, reference_bops=reference) for tr in trade_offs]
    assert fit_trade_offs(outputs, costs, trade_offs, reference) == alone


@pytest.mark.parametrize("placed", range(1, 8))
def test_says_whether_it_is_exact_and_is_never_worse_than_the_grid(
    placed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_LEVELS", dict.fromkeys(range(1, 6), 5))
    outputs, costs = random_outputs(placed, placed + 1, 300)
    fitted = fit_thresholds(outputs, costs, tr=0.5, reference_bops=float(costs.cumulative[-1]))
    assert fitted.exact == (placed <= 5)
    assert fitted.quantiles == (5 if fitted.exact else 64)
    assert fitted.method.startswith("at least the best" if fitted.exact else "approximate")
    if fitted.exact:
        problem = grid_problem(outputs, costs, 5)
        weight = 0.5 / float(costs.cumulative[-1])
        _, right, bops = best_combinations(problem, [module._by_weight(weight)])[0]
        result = apply(outputs, costs, fitted.thresholds)
        assert result.accuracy - weight * result.average_bops >= (right - weight * bops) / 300 - 1e-12


@pytest.mark.parametrize("seed", range(4))
def test_coordinate_ascent_comes_near_enumeration(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    outputs, costs = random_outputs(seed, 4, 60)
    reference = float(costs.cumulative[-1])
    budget = float(costs.cumulative[:-1].mean())
    exact = fit_thresholds(outputs, costs, tr=0.3, reference_bops=reference).thresholds
    exact_in_budget = fit_thresholds(outputs, costs, budget_bops=budget).thresholds
    monkeypatch.setattr(module, "EXACT_EXITS", 0)
    near = fit_thresholds(outputs, costs, tr=0.3, reference_bops=reference).thresholds
    near_in_budget = fit_thresholds(outputs, costs, budget_bops=budget).thresholds

    def value(thresholds: tuple[float, ...]) -> float:
        result = apply(outputs, costs, thresholds)
        return result.accuracy - 0.3 * result.average_bops / reference

    assert value(exact) - 0.02 <= value(near) <= value(exact) + 1e-12
    result = apply(outputs, costs, near_in_budget)
    assert result.average_bops <= budget
    assert apply(outputs, costs, exact_in_budget).accuracy - 0.05 <= result.accuracy


def test_many_exits() -> None:
    outputs, costs = random_outputs(1, 8, 500)
    shared = max(
        apply(outputs, costs, (t,) * 7).accuracy - apply(outputs, costs, (t,) * 7).average_bops / 1e10
        for t in np.unique(outputs.confidence).tolist()
    )
    got = apply(outputs, costs, fit_thresholds(outputs, costs, tr=1.0, reference_bops=1e10).thresholds)
    assert got.accuracy - got.average_bops / 1e10 >= shared - 1e-12


def test_no_exits_and_a_budget_nothing_meets() -> None:
    outputs, costs = random_outputs(1, 3, 20)
    bare = outputs.placed(()), costs.placed(())
    assert fit_thresholds(*bare, tr=1.0, reference_bops=1e9) == FittedThresholds((), True, 0)
    with pytest.raises(UserError, match="the cheapest costs"):
        fit_thresholds(*bare, budget_bops=1.0)
    with pytest.raises(UserError, match=f"{cost(int(costs.cumulative[0]), 6)} a sample"):
        fit_thresholds(outputs, costs, budget_bops=1.0)
    with pytest.raises(ValueError, match="give one of"):
        fit_thresholds(outputs, costs, tr=1.0)
