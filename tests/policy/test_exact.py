"""Exact scoring beside brute force."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers import random_outputs
from usdn_nas.cost import ExitCosts
from usdn_nas.errors import RunError, UserError
from usdn_nas.policy.apply import apply
from usdn_nas.policy.exact import score_shared, threshold_grid
from usdn_nas.policy.outputs import ExitOutputs


def by_hand(outputs: ExitOutputs, costs: ExitCosts, placement: int, threshold: float) -> tuple[float, float]:
    """Walks every sample along the chain."""
    right, bops = 0, 0
    final = len(outputs.names) - 1
    for n in range(outputs.samples):
        for i in range(final + 1):
            bops += int(costs.chain[i]) - (int(costs.chain[i - 1]) if i else 0)
            if i < final and not placement >> i & 1:
                continue
            bops += int(costs.heads[i])
            if i == final or float(outputs.confidence[i, n]) >= threshold:
                right += bool(outputs.correct[i, n])
                break
    return right / outputs.samples, bops / outputs.samples


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), exits=st.integers(1, 5), samples=st.integers(1, 30))
def test_every_placement_and_threshold_equals_walking_the_chain(seed: int, exits: int, samples: int) -> None:
    outputs, costs = random_outputs(seed, exits, samples)
    thresholds = [0.0, 0.3, float(np.float32(0.55)), 1.0, 1.1]
    scores = score_shared(outputs, costs, thresholds)
    assert scores.accuracy.shape == scores.bops.shape == (5, 2 ** (exits - 1))
    for row, threshold in enumerate(thresholds):
        for placement in range(2 ** (exits - 1)):
            expected = by_hand(outputs, costs, placement, threshold)
            assert (scores.accuracy[row, placement], scores.bops[row, placement]) == expected


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_scores_equal_applying_the_policy(seed: int) -> None:
    outputs, costs = random_outputs(seed, 5, 40)
    scores = score_shared(outputs, costs, threshold_grid(outputs, 4))
    for row, threshold in enumerate(scores.thresholds):
        for placement in range(16):
            exits = scores.exits(placement)
            result = apply(outputs.placed(exits), costs.placed(exits), (float(threshold),) * len(exits))
            assert result.accuracy == scores.accuracy[row, placement]
            assert result.average_bops == scores.bops[row, placement]


def test_grid_is_made_of_confidences_and_starts_where_all_leave() -> None:
    outputs, _ = random_outputs(3, 4, 50)
    grid = threshold_grid(outputs, 8)
    assert 1 <= len(grid) <= 8 and (np.diff(grid) > 0).all()
    assert set(grid) <= set(outputs.confidence[:-1].ravel().astype(float))
    assert grid[0] == outputs.confidence[:-1].min()


def test_grid_without_candidates() -> None:
    outputs, costs = random_outputs(3, 1, 10)
    scores = score_shared(outputs, costs, threshold_grid(outputs, 8))
    assert scores.accuracy.shape == (1, 1)
    assert scores.bops[0, 0] == costs.cumulative[0]


def test_too_many_candidates_is_the_users_error() -> None:
    outputs, costs = random_outputs(0, 18, 3)
    with pytest.raises(UserError, match="at most 16 candidate exits, got 17"):
        score_shared(outputs, costs, [0.5])


def test_outputs_refuse_nan_and_misfits() -> None:
    outputs, costs = random_outputs(0, 3, 4)
    broken = outputs.confidence.copy()
    broken[1, 2] = np.nan
    with pytest.raises(RunError, match="'e1' gives NaN"):
        ExitOutputs(broken, outputs.correct, outputs.names)
    with pytest.raises(ValueError, match="expected"):
        ExitOutputs(outputs.confidence, outputs.correct, ("final",))
    with pytest.raises(ValueError, match="do not fit"):
        score_shared(outputs, costs.placed(["e0"]), [0.5])
