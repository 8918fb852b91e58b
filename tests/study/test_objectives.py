"""What stands for a trial, by mode; values against a search through all policies."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.study.helpers import SPACE, config, outputs_of, searched
from usdn_nas._util.errors import RunError
from usdn_nas.exits.apply import apply
from usdn_nas.exits.exact import PolicyScores, score_shared, threshold_grid
from usdn_nas.exits.front import Policy
from usdn_nas.space.cost import exit_costs, reference_bops
from usdn_nas.study.objectives import choose, objective_values, objectives
from usdn_nas.study.parameters import bits_of, exits_of

REFERENCE = float(reference_bops(SPACE))


def scores(params: dict[str, object]) -> PolicyScores:
    bits = bits_of(SPACE, params)
    outputs = outputs_of(bits)
    return score_shared(outputs, exit_costs(SPACE, bits), threshold_grid(outputs, 8))


def test_scalar_is_the_best_of_all_policies(tmp_path: Path) -> None:
    study, _ = searched(config(mode="scalar", tr=0.3, configurations=6), tmp_path)
    for trial in study.trials:
        all_ = scores(trial.params)
        assert trial.value == (all_.accuracy - 0.3 * all_.bops / REFERENCE).max()


def test_pareto_weighs_by_its_own_trade_off(tmp_path: Path) -> None:
    study, _ = searched(config(mode="pareto", configurations=8), tmp_path)
    for trial in study.trials:
        all_ = scores(trial.params)
        weight = trial.params["trade_off"]
        accuracy, bops = trial.values
        assert accuracy - weight * bops / REFERENCE == (all_.accuracy - weight * all_.bops / REFERENCE).max()
        assert trial.user_attrs["accuracy"] == accuracy and trial.user_attrs["bops"] == bops


def test_budget_is_the_most_accurate_within_it(tmp_path: Path) -> None:
    gbops = REFERENCE * 0.75 / 1e9
    study, _ = searched(config(mode="budget", gbops=gbops, configurations=8), tmp_path)
    for trial in study.trials:
        all_ = scores(trial.params)
        fits = all_.bops <= gbops * 1e9
        if fits.any():
            assert trial.value == all_.accuracy[fits].max() and trial.constraints["budget"] <= 0
        else:
            assert trial.constraints["budget"] > 0
            assert trial.user_attrs["bops"] == all_.bops.min()


def test_a_budget_that_none_meets_is_a_constraint_that_all_break(tmp_path: Path) -> None:
    study, _ = searched(config(mode="budget", gbops=1e-9, sampler="tpe", configurations=12), tmp_path)
    assert all(trial.constraints["budget"] > 0 for trial in study.trials)


def test_sampled_trials_are_the_policy_they_name(tmp_path: Path) -> None:
    study, _ = searched(config(exits="sampled", sampler="random", configurations=8), tmp_path)
    for trial in study.trials:
        bits = bits_of(SPACE, trial.params)
        exits = exits_of(SPACE, trial.params)
        thresholds = [trial.params["threshold"]] * len(exits)
        result = apply(outputs_of(bits).placed(exits), exit_costs(SPACE, bits).placed(exits), thresholds)
        assert trial.values == [result.accuracy, result.average_bops]
        assert len(trial.user_attrs["front"]) == 1 and trial.user_attrs["exits"] == "+".join(exits)


def test_objectives_are_ordered_and_named() -> None:
    assert [(o.name, o.direction) for o in objectives(config())] == [("accuracy", "maximize"), ("bops", "minimize")]
    assert [o.name for o in objectives(config(mode="scalar"))] == ["score"]


def test_nan_raises() -> None:
    with pytest.raises(RunError, match="objective 'accuracy' is nan"):
        objective_values(config(), Policy(float("nan"), 1.0, (), ()), 1.0)


def test_ties_go_to_the_cheapest() -> None:
    front = [Policy(0.5, 1.0, (), ()), Policy(0.75, 2.0, (), ()), Policy(1.0, 3.0, (), ())]
    assert choose(front, config(mode="scalar", tr=0.25), 1.0, None) == 0
    assert choose(front, config(mode="scalar", tr=0.0), 1.0, None) == 2
    assert choose(front, config(mode="budget", gbops=2e-9), 1.0, None) == 1
    assert np.isfinite(objective_values(config(), front[0], 1.0)).all()
