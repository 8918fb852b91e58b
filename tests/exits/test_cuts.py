"""Thresholds between confidences: the same decisions, and the same ones after rounding."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.helpers import random_outputs
from usdn_nas.exits.apply import apply
from usdn_nas.exits.budgeted import exit_shares, thresholds_for_shares
from usdn_nas.exits.cuts import EVERYONE, cuts
from usdn_nas.exits.exact import threshold_grid
from usdn_nas.exits.outputs import ExitOutputs
from usdn_nas.exits.thresholds import fit_thresholds
from usdn_nas.space.cost import ExitCosts

CONFIDENCES = st.lists(st.floats(2**-10, 1, width=32), min_size=1, max_size=12)


@given(values=CONFIDENCES)
def test_a_cut_separates_a_confidence_from_the_next_lower_one(values: list[float]) -> None:
    rising = np.sort(np.array(values, dtype=np.float32))
    lowest = np.unique(rising)
    found = cuts(rising, lowest)
    assert found[0] == EVERYONE == 0
    for value, below, threshold in zip(lowest[1:], lowest[:-1], found[1:].tolist(), strict=True):
        assert below < threshold <= value
        adjacent = np.nextafter(below, np.float32(2)) == value
        assert adjacent == (threshold == value)
        assert float(np.float32(threshold)) == threshold == json.loads(json.dumps(threshold))
    assert ((rising >= found[:, None]) == (rising >= lowest[:, None])).all()


def test_neighbours_between_which_there_is_no_float32() -> None:
    top = np.float32(1)
    below = np.nextafter(top, np.float32(0))
    further = np.nextafter(below, np.float32(0))
    rising = np.array([further, below, top], dtype=np.float32)
    assert cuts(rising, rising).tolist() == [0.0, float(below), 1.0]
    assert cuts(rising[[0, 2]], rising[[2]]).tolist() == [float(below)]


def distinct_outputs(seed: int) -> tuple[ExitOutputs, ExitCosts]:
    """200 samples at four exits; all confidences are at least 1e-4 apart."""
    rng = np.random.default_rng(seed)
    _, costs = random_outputs(seed, 4, 1)
    confidence = (rng.permutation(9_000)[:800].reshape(4, 200) / 10_000 + 0.1).astype(np.float32)
    return ExitOutputs(confidence, rng.random((4, 200)) < confidence, costs.names), costs


def fitted_for(**objective: float) -> Callable[[ExitOutputs, ExitCosts], NDArray[np.float64]]:
    return lambda outputs, costs: np.array([fit_thresholds(outputs, costs, **objective).thresholds])


def shared(outputs: ExitOutputs, costs: ExitCosts) -> NDArray[np.float64]:
    return np.repeat(threshold_grid(outputs, 64)[:, None], 3, axis=1)


def budgeted(outputs: ExitOutputs, costs: ExitCosts) -> NDArray[np.float64]:
    return np.array([thresholds_for_shares(outputs, exit_shares(ratio, 4)) for ratio in (0.5, 1.0, 1.5)])


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "make",
    [fitted_for(tr=0.3, reference_bops=1e10), fitted_for(budget_bops=1e10), fitted_for(accuracy=0.5), shared, budgeted],
    ids=["tr", "budget", "accuracy", "shared", "shares"],
)
def test_rounding_decides_nothing(make: Callable[[ExitOutputs, ExitCosts], NDArray[np.float64]], seed: int) -> None:
    outputs, costs = distinct_outputs(seed)
    moved = outputs.confidence.copy()
    ulps = np.random.default_rng(seed).integers(-4, 5, moved.shape, dtype=np.int32)
    noisy = ExitOutputs((moved.view(np.int32) + ulps).view(np.float32), outputs.correct, outputs.names)
    assert (noisy.confidence != outputs.confidence).mean() > 0.8
    for thresholds in make(outputs, costs).tolist():
        expected = apply(outputs, costs, thresholds)
        assert apply(noisy, costs, thresholds).leaves_at.tolist() == expected.leaves_at.tolist()
        if thresholds[0] < 1:
            assert expected.exit_rates[0] > 0
