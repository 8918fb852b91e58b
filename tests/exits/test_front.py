"""Fronts: definition beside implementation, thinning."""

from __future__ import annotations

import itertools
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers import random_outputs
from usdn_nas.exits import exact
from usdn_nas.exits import front as front_module
from usdn_nas.exits.exact import score_shared, threshold_grid
from usdn_nas.exits.front import TRADE_OFFS, Policy, config_front, pareto_front, policies, support, thin

points = st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), max_size=60)


@settings(max_examples=200, deadline=None)
@given(points=points)
def test_front_is_what_nothing_dominates(points: list[tuple[int, int]]) -> None:
    accuracy, bops = [p[0] for p in points], [p[1] for p in points]
    front = pareto_front(accuracy, bops)
    undominated = {(a, b) for a, b in points if not any(x >= a and y <= b and (x, y) != (a, b) for x, y in points)}
    assert [points[i] for i in front] == sorted(undominated, key=lambda p: p[1])
    assert all(points.index(points[i]) == i for i in front)


def test_sparing_the_sort_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    bops = rng.integers(0, 3000, 20_000).astype(float)
    accuracy = np.round(bops / 6000 + rng.random(20_000) / 3, 3)
    fast = pareto_front(accuracy, bops)
    monkeypatch.setattr(front_module, "_BUCKETS", 10**6)
    assert fast.tolist() == pareto_front(accuracy, bops).tolist()


def test_own_front_holds_the_best_under_every_weight() -> None:
    outputs, costs = random_outputs(5, 5, 200)
    grid = threshold_grid(outputs, 16)
    scores = score_shared(outputs, costs, grid)
    front = config_front(outputs, costs, grid)
    assert all(a.bops < b.bops and a.accuracy < b.accuracy for a, b in itertools.pairwise(front))
    for weight in (0.0, 1e-10, 3e-10, 1e-9, 1e-8):
        assert max(p.accuracy - weight * p.bops for p in front) == (scores.accuracy - weight * scores.bops).max()


def test_own_front_in_slabs_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    outputs, costs = random_outputs(5, 5, 200)
    grid = threshold_grid(outputs, 16)
    whole = policies(score_shared(outputs, costs, grid))
    assert config_front(outputs, costs, grid) == whole
    monkeypatch.setattr(exact, "_CELLS", 32)
    assert config_front(outputs, costs, grid) == whole


def a_front(size: int, digits: int | None = None) -> list[Policy]:
    """Random, strictly rising in both; with few ``digits`` many removals cost the same."""
    rng = np.random.default_rng(size)
    steps = rng.random((2, size)) if digits is None else rng.integers(1, 3, (2, size)) / 2**digits
    accuracy, bops = steps.cumsum(axis=1) / [[size], [1]]
    return [Policy(float(a), float(b), (), ()) for a, b in zip(accuracy, bops, strict=True)]


@pytest.mark.parametrize("size", [65, 200, 600])
@pytest.mark.parametrize("digits", [None, 4])
def test_thinning_equals_removing_one_by_one(size: int, digits: int | None) -> None:
    front = a_front(size, digits)
    reference = front[-1].bops / 2
    kept = list(range(size))
    protected = {0, size - 1, 11, *support(*figures(front, reference))[1].tolist()}
    while len(kept) > 64:
        losses = [
            (front[b].accuracy - front[a].accuracy) * (front[c].bops - front[b].bops) if b not in protected else np.inf
            for a, b, c in zip(kept, kept[1:], kept[2:], strict=False)
        ]
        del kept[1 + int(np.argmin(losses))]
    assert thin(front, reference, keep=(11,)) == [front[i] for i in kept]


def figures(front: list[Policy], reference: float) -> tuple[np.ndarray, np.ndarray]:
    return np.array([p.accuracy for p in front]), np.array([p.bops for p in front]) / reference


def test_support_by_hand() -> None:
    values, index = support([0.5, 0.8, 0.8, 0.9], [0.1, 0.5, 0.4, 1.0], [0.0, 0.5, 2.0])
    assert index.tolist() == [3, 2, 0]
    assert values.tolist() == pytest.approx([0.9, 0.6, 0.3])
    assert len(TRADE_OFFS) == 26 and TRADE_OFFS[0] == 0 and TRADE_OFFS[1] == 1e-3 and TRADE_OFFS[-1] == 1


@pytest.mark.parametrize("seed", range(5))
def test_support_of_a_thinned_front_is_that_of_all_policies(seed: int) -> None:
    outputs, costs = random_outputs(seed, 7, 2000)
    reference = float(costs.cumulative[-1]) / 3
    scores = score_shared(outputs, costs, threshold_grid(outputs, 64))
    whole, _ = support(scores.accuracy.ravel(), scores.bops.ravel() / reference)
    kept = thin(config_front(outputs, costs, scores.thresholds), reference, limit=20)
    assert support(*figures(kept, reference))[0].tolist() == whole.tolist()


def test_what_is_protected_stays_beyond_the_limit() -> None:
    front = a_front(100)
    assert thin(front, front[-1].bops, limit=10, keep=range(50)) == [
        p for i, p in enumerate(front) if i < 50 or i in (99, *support(*figures(front, front[-1].bops))[1])
    ]


def test_thinning_keeps_ends_and_protected_and_is_stable() -> None:
    front = a_front(200)
    kept = thin(front, front[-1].bops, 40, keep=(7,))
    assert len(kept) == 40 and kept[0] == front[0] and kept[-1] == front[-1] and front[7] in kept
    assert kept == sorted(kept, key=lambda p: p.bops) == thin(front, front[-1].bops, 40, keep=(7,))
    assert thin(kept, front[-1].bops, 40) == kept


def test_thinning_loses_little_hypervolume() -> None:
    outputs, costs = random_outputs(9, 7, 3000)
    full = policies(score_shared(outputs, costs, threshold_grid(outputs, 64)))

    def volume(front: list[Policy]) -> float:
        edges = [*(p.bops for p in front), full[-1].bops * 1.2]
        return sum((edges[i + 1] - edges[i]) * p.accuracy for i, p in enumerate(front))

    kept = {limit: volume(thin(full, float(costs.cumulative[-1]), limit)) for limit in (30, 40)}
    assert 0.99 * volume(full) < kept[30] <= kept[40] <= volume(full)


def test_memory_does_not_grow_with_the_number_of_thresholds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exact, "_CELLS", 1 << 14)
    outputs, costs = random_outputs(0, 11, 500)
    peaks = []
    for count in (32, 512):
        thresholds = np.linspace(0, 1, count)
        tracemalloc.start()
        config_front(outputs, costs, thresholds)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0] < 120 * (1 << 14) + 40 * 10 * 500
