"""Fronts: definition beside implementation, thinning."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers import random_outputs
from usdn_nas.policy import front as front_module
from usdn_nas.policy.exact import score_shared, threshold_grid
from usdn_nas.policy.front import Policy, own_front, pareto_front, policies, thin

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
    front = own_front(outputs, costs, grid, limit=None)
    assert all(a.bops < b.bops and a.accuracy < b.accuracy for a, b in itertools.pairwise(front))
    for weight in (0.0, 1e-10, 3e-10, 1e-9, 1e-8):
        assert max(p.accuracy - weight * p.bops for p in front) == (scores.accuracy - weight * scores.bops).max()
    assert len(own_front(outputs, costs, grid)) <= 64


def test_thinning_keeps_ends_and_protected_and_is_stable() -> None:
    rng = np.random.default_rng(1)
    accuracy, bops = np.sort(rng.random(200)), np.sort(rng.random(200))
    front = [Policy(float(a), float(b), (), ()) for a, b in zip(accuracy, bops, strict=True)]
    kept = thin(front, 20, keep=(7,))
    assert len(kept) == 20 and kept[0] == front[0] and kept[-1] == front[-1] and front[7] in kept
    assert kept == sorted(kept, key=lambda p: p.bops) == thin(front, 20, keep=(7,))
    assert thin(kept, 20) == kept


def test_thinning_loses_little_hypervolume() -> None:
    outputs, costs = random_outputs(9, 7, 3000)
    full = policies(score_shared(outputs, costs, threshold_grid(outputs, 64)))

    def volume(front: list[Policy]) -> float:
        edges = [*(p.bops for p in front), full[-1].bops * 1.2]
        return sum((edges[i + 1] - edges[i]) * p.accuracy for i, p in enumerate(front))

    assert volume(thin(full, 8)) <= volume(thin(full, 16)) <= volume(full)
    assert volume(thin(full, 16)) > 0.99 * volume(full)
