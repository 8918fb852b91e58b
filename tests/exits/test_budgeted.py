"""Budgeted batches beside a loop over samples, as the authors write it."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tests.helpers import random_outputs
from usdn_nas.exits.apply import apply
from usdn_nas.exits.budgeted import SHARES, budgeted_curve, exit_shares, thresholds_for_shares
from usdn_nas.exits.outputs import ExitOutputs


def by_samples(outputs: ExitOutputs, shares: np.ndarray) -> list[float]:
    """Exit by exit, from the most confident sample down, until enough of those that have not left are counted."""
    exits, samples = outputs.confidence.shape
    gone, thresholds = [0] * samples, []
    for k in range(exits - 1):
        threshold, count = 1e8, 0
        for i in np.argsort(-outputs.confidence[k], kind="stable"):
            if not gone[i]:
                count += 1
                if count == math.floor(samples * shares[k]):
                    threshold = float(outputs.confidence[k, i])
                    break
        gone = [g + (c >= threshold) for g, c in zip(gone, outputs.confidence[k], strict=True)]
        thresholds.append(threshold)
    return thresholds


@pytest.mark.parametrize("seed", range(8))
def test_the_same_samples_leave_as_in_a_loop(seed: int) -> None:
    outputs, costs = random_outputs(seed, exits=5, samples=67)
    for ratio in SHARES:
        shares = exit_shares(ratio, 5)
        assert shares.sum() == pytest.approx(1) and shares[1] / shares[0] == pytest.approx(ratio)
        found, expected = thresholds_for_shares(outputs, shares), by_samples(outputs, shares)
        leaves_at, as_expected = (apply(outputs, costs, thresholds).leaves_at for thresholds in (found, expected))
        assert leaves_at.tolist() == as_expected.tolist()
        assert [t > 1 for t in found] == [t > 1 for t in expected]


def test_distinct_confidences_give_the_shares() -> None:
    rng = np.random.default_rng(0)
    confidence = rng.permuted(np.tile(np.linspace(0.1, 0.9, 1000), (4, 1)), axis=1).astype(np.float32)
    outputs = ExitOutputs(confidence, rng.random((4, 1000)) < 0.5, ("a", "b", "c", "final"))
    _, costs = random_outputs(0, exits=4, samples=3)
    costs = type(costs)(outputs.names, costs.chain, costs.heads)
    for point in budgeted_curve(outputs, outputs, costs, [0.5, 1.0, 1.5]):
        np.testing.assert_allclose(point.result.exit_rates, exit_shares(point.ratio, 4), atol=4e-3)
        assert point.result.average_bops == pytest.approx(float(point.result.exit_rates @ costs.cumulative))


def test_later_exits_cost_more_with_larger_ratios() -> None:
    outputs, costs = random_outputs(3, exits=4, samples=500)
    bops = [point.result.average_bops for point in budgeted_curve(outputs, outputs, costs)]
    assert bops[0] < bops[-1] and len(bops) == 39


def test_other_exits_are_refused() -> None:
    outputs, costs = random_outputs(1, exits=3, samples=50)
    with pytest.raises(ValueError, match="same exits"):
        next(budgeted_curve(outputs.placed(["e0"]), outputs, costs))
