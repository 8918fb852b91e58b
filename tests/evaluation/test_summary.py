"""Figures of the final evaluation, by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tests.helpers import random_outputs
from usdn_nas.cost import ExitCosts
from usdn_nas.evaluation.summary import model_summary, relative_changes
from usdn_nas.policy.outputs import ExitOutputs

NAMES = ("a", "final")
TEST = ExitOutputs(
    np.array([[0.9, 0.9, 0.5, 0.25], [0.95, 0.95, 0.85, 0.45]], dtype=np.float32),
    np.array([[1, 0, 1, 0], [1, 1, 1, 0]], dtype=bool),
    NAMES,
)
SEARCH = ExitOutputs(np.array([[0.9, 0.1]] * 2, dtype=np.float32), np.array([[1, 1]] * 2, dtype=bool), NAMES)
COSTS = ExitCosts(NAMES, np.array([100, 300]), np.array([10, 20]))


def summary(**changes) -> dict:
    settings = {"precision": "quantized", "reference_bops": 400, "bins": 10, "sweep": 4} | changes
    return model_summary("label", TEST, SEARCH, COSTS, [0.6], **settings)


def test_by_hand() -> None:
    made = summary()
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
    sweep = summary()["sweep"]
    assert [row["threshold"] for row in sweep] == pytest.approx([0.1, 0.4, 0.7, 1.0])
    assert [row["accuracy"] for row in sweep] == [0.5, 0.5, 0.5, 0.75]
    assert [row["average_bops"] for row in sweep] == [110, (3 * 110 + 330) / 4, 220, 330]


def test_shares_add_up_to_the_average() -> None:
    outputs, costs = random_outputs(3, 4, 200)
    made = model_summary(
        "x", outputs, outputs, costs, [0.8, 0.7, 0.9], precision="full", reference_bops=10**9, bins=15, sweep=5
    )
    assert sum(exit_["cost_share_bops"] for exit_ in made["exits"]) == pytest.approx(made["policy"]["average_bops"])
    assert sum(exit_["exit_rate"] for exit_ in made["exits"]) == pytest.approx(1)
    assert made["policy"] == made["search_policy"]
    assert len(made["sweep"]) == 5


def test_an_exit_that_nobody_takes_has_no_figures() -> None:
    made = model_summary(
        "x", TEST, SEARCH, COSTS, [1.0], precision="full", reference_bops=400, bins=15, sweep=2
    )  # fmt: skip
    assert made["exits"][0]["accuracy_leaving"] is None and made["exits"][0]["leaving"] is None
    assert made["exits"][0]["exit_rate"] == 0
    json.dumps(made, allow_nan=False)


def test_a_network_without_exits_has_no_sweep() -> None:
    alone = model_summary(
        "x", TEST.placed(()), SEARCH.placed(()), COSTS.placed(()), [], precision="full", reference_bops=400, bins=15,
        sweep=9,
    )  # fmt: skip
    assert alone["sweep"] == [] and alone["policy"]["average_bops"] == 320
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
