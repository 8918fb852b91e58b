"""What is said of synthetic records, beside SciPy and arithmetic."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import kendalltau

sys.path.insert(0, str(Path(__file__).parents[2] / "research"))

import ranking_tables
from retraining import BANDS, STRATA

EACH = 5
NAMES = [f"{stratum}-{index:02}" for index in range(EACH) for stratum in STRATA]


@pytest.fixture(scope="module")
def results() -> dict[str, Any]:
    generator = np.random.default_rng(0)

    def record() -> dict[str, Any]:
        return {"accuracy": [0.5, generator.random()], "value": generator.random()}

    def supernet(epochs: int, ladder: list[float]) -> dict[str, Any]:
        found = {name: record() for name in NAMES}
        noise = dict.fromkeys(STRATA, 1e-4)
        return {
            "settings": {"qat": {"epochs": epochs}},
            "accuracy": {name: one["accuracy"] for name, one in found.items()},
            "value": {name: one["value"] for name, one in found.items()},
            "noise": {"accuracy": noise, "value": noise},
            "ladder": [{"bits": [b, b], "accuracy": a} for b, a in zip((2, 3), ladder, strict=True)],
        }

    return {
        "configurations": {name: {"bits": {"a": [2 + n % 2, 2], "b": [2 + n % 3, 2]}} for n, name in enumerate(NAMES)},
        # Seed 2 is not complete.
        "retrained": {f"{name}, seed {s}": record() for s in range(3) for name in NAMES[: 20 if s < 2 else 3]},
        "alone": {"1 epoch": {"settings": {"epochs": 1}, "accuracy": {"2/2": 0.6, "3/3": 0.75}}},
        "supernets": {
            "a": {"0": supernet(1, [0.5, 0.7]), "1": supernet(1, [0.6, 0.9])},
            "b": {"0": supernet(2, [0, 0])},
        },
    }


@pytest.fixture(scope="module")
def judged(results: dict[str, Any]) -> dict[str, Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranking_tables, "BOOTSTRAPS", 20)
        return ranking_tables.judge(results, "a")


def test_coefficients_are_means_over_repeats(results: dict[str, Any], judged: dict[str, Any]) -> None:
    assert judged["seeds"] == 2
    truth = np.array([[results["retrained"][f"{n}, seed {s}"]["accuracy"][-1] for s in (0, 1)] for n in NAMES])
    scores = [[record["accuracy"][n][-1] for n in NAMES] for record in results["supernets"]["a"].values()]
    each = [kendalltau(score, truth.mean(axis=1)).statistic for score in scores]
    cell = judged["supernets"]["a"]["coefficients"]["accuracy, overall, tau"]
    assert cell["repeats"] == pytest.approx(each)
    assert cell["mean"] == pytest.approx(np.mean(each))
    assert cell["of_mean"] == pytest.approx(kendalltau(np.mean(scores, axis=0), truth.mean(axis=1)).statistic)
    other = judged["supernets"]["b"]["coefficients"]["accuracy, overall, tau"]
    assert other["difference"] == pytest.approx(other["mean"] - cell["mean"])
    assert "difference" not in cell


def test_smoothed_scores_look_at_searched_configurations_too(results: dict[str, Any], judged: dict[str, Any]) -> None:
    """Where 600 others are sums of shares but for rounding, so are the 20, whatever they were measured to be."""
    sample = ranking_tables._Sample(results)
    record = results["supernets"]["b"]["0"]
    generator = np.random.default_rng(1)
    codes = np.stack([generator.integers(2, size=600), generator.integers(3, size=600)], axis=1)
    shares = np.array([0.1, 0.3])[codes[:, 0]] + np.array([0.2, 0.1, 0.6])[codes[:, 1]]
    others = {"bits": [f"{2 + a}/2 {2 + b}/2" for a, b in codes.tolist()], "accuracy": shares, "value": -shares}
    expected = np.array([0.1, 0.3])[np.arange(20) % 2] + np.array([0.2, 0.1, 0.6])[np.arange(20) % 3]
    with_others = sample.smoothed(record | {"searched": others}, "accuracy")
    alone = sample.smoothed(record, "accuracy")
    assert np.abs(with_others - expected).max() < 0.05
    assert np.abs(alone - expected).max() > 0.2
    truth = sample.retrained("accuracy").mean(axis=1)
    cell = judged["supernets"]["b"]["coefficients"]["accuracy, overall, tau"]["smoothed"]
    assert cell["mean"] == pytest.approx(kendalltau(alone, truth).statistic)


def test_only_the_bands_have_winners(judged: dict[str, Any]) -> None:
    assert set(judged["supernets"]["a"]["winner_loss"]["accuracy"]) == set(BANDS)


def test_uniform_bits_stand_beside_those_trained_alone_as_long(judged: dict[str, Any]) -> None:
    assert judged["supernets"]["a"]["ladder"] == pytest.approx({"2/2": 0.55, "3/3": 0.8})
    assert judged["supernets"]["a"]["to_alone"] == pytest.approx({"2/2": -0.05, "3/3": 0.05})
    assert judged["supernets"]["b"]["to_alone"] == {}
    ranking_tables.show(judged)
