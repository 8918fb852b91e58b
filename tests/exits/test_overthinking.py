"""Overthinking beside sets of samples; confusion beside a loop."""

from __future__ import annotations

import numpy as np
import pytest

from tests.helpers import random_outputs
from usdn_nas.exits.overthinking import confusion, overthinking


@pytest.mark.parametrize("seed", range(5))
def test_overthinking_by_sets(seed: int) -> None:
    outputs, costs = random_outputs(seed, exits=4, samples=83)
    right = [set(np.flatnonzero(row).tolist()) for row in outputs.correct]
    found, seen, cost = overthinking(outputs, costs), set(), 0.0
    for k, now in enumerate(right):
        assert found.first_right[k] == pytest.approx(len(now - seen) / 83)
        cost += len(now - seen) * int(costs.cumulative[k])
        seen |= now
    cost += (83 - len(seen)) * int(costs.cumulative[-1])
    before = right[0] | right[1] | right[2]
    assert found.wasteful == pytest.approx(len(before & right[3]) / 83)
    assert found.destructive == pytest.approx(len(before - right[3]) / 83)
    assert found.oracle_accuracy == pytest.approx(len(seen) / 83)
    assert found.oracle_bops == pytest.approx(cost / 83)


def test_confusion_by_samples() -> None:
    p = np.random.default_rng(0).dirichlet(np.ones(5), size=(3, 7))
    scores = confusion(p)
    for i in range(7):
        by_hand = sum(abs(p[k, i, c] - p[2, i, c]) for k in range(2) for c in range(5))
        assert scores[i] == pytest.approx(by_hand)
    assert (confusion(np.stack([p[0]] * 3)) == 0).all()
    with pytest.raises(ValueError, match="expected"):
        confusion(p[0])
