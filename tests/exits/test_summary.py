"""Figures of the final evaluation, by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tests.helpers import random_outputs
from usdn_nas.exits.apply import apply
from usdn_nas.exits.outputs import ExitOutputs
from usdn_nas.exits.summary import Evaluated, model_summary, relative_changes
from usdn_nas.space.cost import ExitCosts

NAMES = ("a", "final")
TEST = ExitOutputs(
    np.array([[0.9, 0.9, 0.5, 0.25], [0.95, 0.95, 0.85, 0.45]], dtype=np.float32),
    np.array([[1, 0, 1, 0], [1, 1, 1, 0]], dtype=bool),
    NAMES,
)
SEARCH = ExitOutputs(np.array([[0.9, 0.1]] * 2, dtype=np.float32), np.array([[1, 1]] * 2, dtype=bool), NAMES)
COSTS = ExitCosts(NAMES, np.array([100, 300]), np.array([10, 20]))


SETTINGS = {"precision": "quantized", "bins": 10, "sweep": 4, "fits": 0, "threshold": 0.4}


def summary(thresholds: list[float], evaluated: Evaluated | None = None, **changes) -> dict:
    whole = evaluated or Evaluated(TEST, SEARCH, COSTS, 400)
    return model_summary("label", whole, thresholds, **(SETTINGS | changes))


def test_by_hand() -> None:
    made = summary([0.6])
    assert made["policy"] == {"accuracy": 0.5, "average_bops": 220, "relative_bops": 0.55, "n": 4}
    assert made["search_policy"] == {"accuracy": 1, "average_bops": 220, "relative_bops": 0.55, "n": 2}
    first, last = made["exits"]
    assert (first["exit"], first["threshold"], first["exit_rate"]) == ("a", 0.6, 0.5)
    assert (first["accuracy"], first["error"], first["accuracy_leaving"]) == (0.5, 0.5, 0.5)
    assert (first["cumulative_bops"], first["cost_share_bops"]) == (110, 55)
    assert (last["threshold"], last["cumulative_bops"], last["cost_share_bops"]) == (None, 330, 165)
    assert (last["accuracy"], last["accuracy_leaving"], last["n"]) == (0.75, 0.5, 4)
    # bins of a tenth: (.8, .9] holds two (one right), (.4, .5] one right, (.2, .3] one wrong
    assert first["ece"] == pytest.approx((2 * 0.4 + 0.5 + 0.25) / 4, abs=1e-6)
    assert first["mce"] == pytest.approx(0.5, abs=1e-6)
    assert first["signed_gap"] == pytest.approx(0.6375 - 0.5, abs=1e-6)
    assert first["auroc"] == pytest.approx((0.5 + 1 + 0 + 1) / 4)  # right .9, .5 against wrong .9, .25
    leaving = {"n": 2, "ece": pytest.approx(0.4, abs=1e-6), "mce": pytest.approx(0.4, abs=1e-6)}
    assert first["leaving"] == leaving | {"signed_gap": pytest.approx(0.4, abs=1e-6)}
    assert [one["count"] for one in first["bins"]] == [0, 0, 1, 0, 1, 0, 0, 0, 2, 0]
    json.dumps(made, allow_nan=False)


def test_sweep_by_hand() -> None:
    sweep = summary([0.6])["sweep"]
    assert [row["threshold"] for row in sweep] == pytest.approx([0.1, 0.4, 0.7, 1.0])
    assert [row["accuracy"] for row in sweep] == [0.5, 0.5, 0.5, 0.75]
    assert [row["average_bops"] for row in sweep] == [110, (3 * 110 + 330) / 4, 220, 330]
    assert [row["search"]["average_bops"] for row in sweep] == [110, 220, 220, 330]


def test_table_at_one_threshold_by_hand() -> None:
    shared = summary([0.6])["shared"]
    assert shared["threshold"] == 0.4
    first, last = shared["exits"]
    assert (first["exit_rate"], first["cost_share_bops"], first["accuracy_leaving"]) == (
        0.75,
        82.5,
        pytest.approx(2 / 3),
    )
    assert (last["threshold"], last["exit_rate"], last["cost_share_bops"]) == (None, 0.25, 82.5)
    assert shared["policy"]["average_bops"] == sum(row["cost_share_bops"] for row in shared["exits"]) == 165


def test_calibration_of_the_policys_answers_by_hand() -> None:
    # with .6: two leave at a (.9 right, .9 wrong), two at the end (.85 right, .45 wrong)
    answers = summary([0.6])["answers"]
    assert answers["signed_gap"] == pytest.approx((0.9 + 0.9 + 0.85 + 0.45) / 4 - 0.5, abs=1e-6)
    # (.8, .9] holds three, two of them right; (.4, .5] one, wrong
    assert answers["ece"] == pytest.approx((3 * abs(2.65 / 3 - 2 / 3) + 0.45) / 4, abs=1e-6)
    assert answers["mce"] == pytest.approx(0.45, abs=1e-6)
    assert answers["auroc"] == pytest.approx((0.5 + 1 + 0 + 1) / 4)  # right .9, .85 against wrong .9, .45


def test_fitted_curve_is_chosen_on_the_search_split_and_read_on_the_test_split() -> None:
    test, costs = random_outputs(3, 4, 300)
    search, _ = random_outputs(4, 4, 200)
    reference = int(costs.cumulative[-1])
    curve = summary([0.5] * 3, Evaluated(test, search, costs, reference), fits=5)["fitted"]
    assert [row["tr"] for row in curve] == pytest.approx([10**-3, 10**-2.25, 10**-1.5, 10**-0.75, 1])
    shared = [apply(search, costs, [t] * 3) for t in np.unique(search.confidence)]
    for row in curve:
        for split, figures in ((test, row), (search, row["search"])):
            result = apply(split, costs, row["thresholds"])
            assert (figures["accuracy"], figures["average_bops"]) == (result.accuracy, result.average_bops)
        best = max(one.accuracy - row["tr"] * one.average_bops / reference for one in shared)
        # at least as good as any shared threshold, but for what quantiles leave between them
        assert row["search"]["accuracy"] - row["tr"] * row["search"]["relative_bops"] >= best - 0.01
    bops = [row["search"]["average_bops"] for row in curve]
    assert bops == sorted(bops, reverse=True)


def test_shares_add_up_to_the_average() -> None:
    outputs, costs = random_outputs(3, 4, 200)
    made = summary([0.8, 0.7, 0.9], Evaluated(outputs, outputs, costs, 10**9), sweep=5)
    assert sum(exit_["cost_share_bops"] for exit_ in made["exits"]) == pytest.approx(made["policy"]["average_bops"])
    assert sum(exit_["exit_rate"] for exit_ in made["exits"]) == pytest.approx(1)
    assert made["policy"] == made["search_policy"]
    assert len(made["sweep"]) == 5


def test_an_exit_that_nobody_takes_has_no_figures() -> None:
    made = summary([1.0])
    assert made["exits"][0]["accuracy_leaving"] is None and made["exits"][0]["leaving"] is None
    assert made["exits"][0]["exit_rate"] == 0
    json.dumps(made, allow_nan=False)


def test_a_network_without_exits_has_no_sweep() -> None:
    alone = summary([], Evaluated(TEST.placed(()), SEARCH.placed(()), COSTS.placed(()), 400), fits=3)
    assert (
        alone["sweep"] == alone["fitted"] == [] and alone["shared"] is None and alone["policy"]["average_bops"] == 320
    )
    assert [exit_["exit"] for exit_ in alone["exits"]] == ["final"]


def test_relative_changes_by_hand() -> None:
    ce = {"exits": [{"exit": "a", "error": 0.2, "ece": 0.0, "mce": 0.4}]}
    kd = {"exits": [{"exit": "a", "error": 0.15, "ece": 0.1, "mce": 0.5}]}
    rows = relative_changes(ce, kd)
    assert [(row["metric"], row["ce"], row["kd"]) for row in rows] == [
        *(("error", 0.2, 0.15), ("ece", 0.0, 0.1), ("mce", 0.4, 0.5))
    ]
    assert rows[0]["change_percent"] == pytest.approx(-25)
    assert rows[1]["change_percent"] is None
    assert rows[2]["change_percent"] == pytest.approx(25)
