"""Exact scoring beside brute force."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers import random_outputs
from usdn_nas._util.errors import RunError, UserError
from usdn_nas.exits import exact as module
from usdn_nas.exits.apply import apply
from usdn_nas.exits.exact import score_shared, score_slabs, threshold_grid
from usdn_nas.exits.outputs import ExitOutputs
from usdn_nas.space.architecture import Rule
from usdn_nas.space.cost import ExitCosts

RULES: tuple[Rule, ...] = get_args(Rule)


def by_hand(
    outputs: ExitOutputs, costs: ExitCosts, placement: int, threshold: float, rule: Rule
) -> tuple[float, float]:
    """Walks every sample along the chain."""
    right, bops = 0, 0
    final = len(outputs.names) - 1
    for n in range(outputs.samples):
        surest, its_answer = -1.0, False
        for i in range(final + 1):
            bops += int(costs.chain[i]) - (int(costs.chain[i - 1]) if i else 0)
            if i < final and not placement >> i & 1:
                continue
            bops += int(costs.heads[i])
            confidence, answer = float(outputs.confidence[i, n]), bool(outputs.correct[i, n])
            if confidence > surest:
                surest, its_answer = confidence, answer
            if i == final or confidence >= threshold:
                right += its_answer if i == final and rule == "most-confident" else answer
                break
    return right / outputs.samples, bops / outputs.samples


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), exits=st.integers(1, 5), samples=st.integers(1, 30), rule=st.sampled_from(RULES))
def test_every_placement_and_threshold_equals_walking_the_chain(
    seed: int, exits: int, samples: int, rule: Rule
) -> None:
    outputs, costs = random_outputs(seed, exits, samples)
    thresholds = [0.0, 0.3, float(np.float32(0.55)), 1.0, 1.1]
    scores = score_shared(outputs, costs, thresholds, rule)
    assert scores.accuracy.shape == scores.bops.shape == (5, 2 ** (exits - 1))
    for row, threshold in enumerate(thresholds):
        for placement in range(2 ** (exits - 1)):
            expected = by_hand(outputs, costs, placement, threshold, rule)
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


def brute(outputs: ExitOutputs, costs: ExitCosts, thresholds: list[float], rule: Rule) -> tuple[np.ndarray, np.ndarray]:
    """(T, 2^C) accuracies and average BOPs from `apply`."""
    shape = (len(thresholds), 2 ** len(outputs.candidates))
    accuracy, bops = np.empty(shape), np.empty(shape)
    for row, placement in np.ndindex(shape):
        exits = [name for i, name in enumerate(outputs.candidates) if placement >> i & 1]
        result = apply(outputs.placed(exits), costs.placed(exits), (thresholds[row],) * len(exits), rule)
        accuracy[row, placement], bops[row, placement] = result.accuracy, result.average_bops
    return accuracy, bops


@pytest.mark.parametrize("cells", [1, 16, 1 << 20])
@pytest.mark.parametrize("candidates", range(7))
@pytest.mark.parametrize("rule", RULES)
def test_thresholds_in_any_order_twice_and_in_slabs(
    rule: Rule, candidates: int, cells: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_CELLS", max(cells, 1 << candidates))
    outputs, costs = random_outputs(candidates, candidates + 1, 50)
    thresholds = [0.7, float(np.float32(0.55)), 0.0, 1.0, float(np.float32(0.55)), 2.0, -1.0]
    scores = score_shared(outputs, costs, thresholds, rule)
    accuracy, bops = brute(outputs, costs, thresholds, rule)
    assert np.array_equal(scores.accuracy, accuracy) and np.array_equal(scores.bops, bops)
    assert scores.thresholds.tolist() == thresholds
    slabs = list(score_slabs(outputs, costs, thresholds, rule))
    assert all(slab.accuracy.size <= max(cells, 1 << candidates) for slab in slabs)
    assert [t for slab in slabs for t in slab.thresholds] == sorted(thresholds)


def test_sixteen_candidates() -> None:
    outputs, costs = random_outputs(3, 17, 40)
    scores = score_shared(outputs, costs, threshold_grid(outputs, 20))
    generator = np.random.default_rng(0)
    for row, placement in zip(generator.integers(0, 20, 100), generator.integers(0, 1 << 16, 100), strict=True):
        row = row % len(scores.thresholds)
        exits = scores.exits(int(placement))
        result = apply(outputs.placed(exits), costs.placed(exits), (float(scores.thresholds[row]),) * len(exits))
        assert (scores.accuracy[row, placement], scores.bops[row, placement]) == (result.accuracy, result.average_bops)


def test_thresholds_between_two_confidences() -> None:
    below = np.float32(0.7)
    above = np.nextafter(below, np.float32(1))
    confidence = np.array([[below, above], [1, 1]], dtype=np.float32)
    outputs = ExitOutputs(confidence, np.array([[True, True], [False, False]]), ("a", "final"))
    costs = ExitCosts(outputs.names, np.array([1, 2]), np.array([0, 0]))
    between = [float(below), (float(below) + float(above)) / 2, float(below) * (1 + 1e-12), 0.7, float(above), 2.0]
    expected = [1.0, 0.5, 0.5, 0.5 if float(below) < 0.7 else 1.0, 0.5, 0.0]
    assert score_shared(outputs, costs, between).accuracy[:, 1].tolist() == expected


@pytest.mark.parametrize("count", [1, 2, 7, 64, 1000])
def test_grid_decides_as_numpys_quantiles_do(count: int) -> None:
    generator = np.random.default_rng(count)
    confidence = generator.random((4, 37)).astype(np.float32)
    outputs = ExitOutputs(confidence, confidence > 0.5, ("a", "b", "c", "final"))
    levels = np.arange(count) / count
    expected = np.unique(np.quantile(confidence[:-1].ravel(), levels, method="higher").astype(np.float64))
    grid = threshold_grid(outputs, count)
    leaves, expected_leaves = (confidence[:-1] >= t[:, None, None] for t in (grid, expected))
    assert np.array_equal(leaves, expected_leaves)


def test_grid_lies_between_confidences_and_starts_where_all_leave() -> None:
    outputs, _ = random_outputs(3, 4, 50)
    grid = threshold_grid(outputs, 8)
    assert 1 <= len(grid) <= 8 and (np.diff(grid) > 0).all()
    assert not set(grid) & set(outputs.confidence[:-1].ravel().astype(float))
    assert grid[0] == 0


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
