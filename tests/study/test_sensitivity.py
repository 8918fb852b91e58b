"""Sensitivities: of a study whose configurations' worth is known."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.helpers import search_space
from tests.study.helpers import SPACE, config, evaluate, searched
from usdn_nas.exits.front import TRADE_OFFS
from usdn_nas.space.cost import reference_bops
from usdn_nas.study.search import run_search
from usdn_nas.study.sensitivity import sensitivity, write_sensitivity
from usdn_nas.study.session import open_study


def test_effects_and_shares_of_a_whole_space(tmp_path: Path) -> None:
    study, _ = searched(config(sampler="brute", configurations=256), tmp_path)
    found = sensitivity(study, SPACE)
    assert found["trials"] == 256 and found["trade_offs"] == TRADE_OFFS.tolist()
    assert [group["name"] for group in found["groups"]] == [group.name for group in SPACE.groups]
    trials = study.get_trials(deepcopy=False)
    accuracy = np.array([trial.user_attrs["accuracy_without_exits"] for trial in trials]).reshape(4, 4, 4, 4)
    reference = reference_bops(SPACE)
    fronts = [np.array([policy[:2] for policy in trial.user_attrs["front"]]) for trial in trials]
    dear = np.array([(front[:, 0] - front[:, 1] / reference).max() for front in fronts]).reshape(4, 4, 4, 4)
    for axis, group in enumerate(found["groups"]):
        others = tuple(i for i in range(4) if i != axis)
        truth = accuracy.mean(axis=others) - accuracy.mean()
        np.testing.assert_allclose(group["accuracy"], truth, atol=0.25 * np.ptp(truth) + 0.003)
        assert sum(group["accuracy"]) == pytest.approx(0, abs=1e-12)
        assert np.array(group["value"]).shape == (4, 26) and len(group["importance"]) == 26
        share = accuracy.mean(axis=others).var() / accuracy.var()
        assert found["importance_of_accuracy"][axis] == pytest.approx(share, abs=0.15)
        truth = dear.mean(axis=others) - dear.mean()
        np.testing.assert_allclose(np.array(group["value"])[:, -1], truth, atol=0.25 * np.ptp(truth) + 0.003)


@pytest.mark.parametrize("configurations", [1, 5])
def test_few_trials_and_bits_apart(configurations: int, tmp_path: Path) -> None:
    space = search_space(4, {"weights": [2, 4], "activations": [3, 5, 4]})
    settings = config(configurations=configurations)
    study = open_study(space, settings, seed=0, storage_path=tmp_path / "s.journal", fingerprint={}, name="apart")
    run_search(study, space, settings, evaluate)
    write_sensitivity(study, space, tmp_path / "sensitivity.json", {"seed": 3})
    found = json.loads((tmp_path / "sensitivity.json").read_text())
    assert (
        found["schema"] == "usdn-nas/sensitivity/1"
        and found["provenance"] == {"seed": 3}
        and found["trials"] == configurations
    )
    assert all(len(group["accuracy"]) == len(group["choices"]) == 6 for group in found["groups"])
    assert np.isfinite([group["importance"] for group in found["groups"]]).all()
