"""The best allocation of bits: on retrainings made by hand, and in the two-part theory against a grid."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "research"))

from allocation import Oracle, ideal

GAINS = {"a": {2: 0.0, 3: 0.05, 4: 0.06}, "b": {2: 0.0, 3: 0.01, 4: 0.03}}
MACS = {"a": 1, "b": 4}


def results() -> dict[str, Any]:
    """All nine configurations of two blocks, two seeds that err by as much in either direction."""
    entry: dict[str, Any] = {"configurations": {}, "retrained": {}}
    for a, b in itertools.product((2, 3, 4), repeat=2):
        name = f"low-{a}{b}"
        bops = 100 + MACS["a"] * a * a + MACS["b"] * b * b
        entry["configurations"][name] = {"bits": {"a": [a, a], "b": [b, b]}, "bops": bops}
        for seed, error in enumerate((0.002, -0.002)):
            accuracy = 0.8 + GAINS["a"][a] + GAINS["b"][b] + error
            entry["retrained"][f"{name}, seed {seed}"] = {"accuracy": [0.5, accuracy]}
    return entry


def test_an_additive_truth_is_found() -> None:
    oracle = Oracle(results())
    np.testing.assert_allclose(oracle.steps, [[0.05, 0.01], [0.01, 0.02]], atol=1e-12)
    assert oracle.residual == pytest.approx(0, abs=1e-12)
    uniform = oracle.uniform(3)
    assert oracle.accuracy[uniform] == pytest.approx(0.86) and oracle.bops[uniform] == pytest.approx(145)
    assert oracle.every[oracle.cheapest(0.86)].tolist() == [4, 2]  # .86 too, at 132


def test_two_parts_share_bits_as_a_search_on_a_grid_does() -> None:
    bits, saved = ideal(ratio=8, share=0.5, uniform=4)
    first = np.linspace(2, 4.2, 20001)
    rest = (9 * 4.0**-4 - 4.0**-first) / 8  # what the second part may lose
    second = -np.log(rest[rest > 0]) / np.log(4)
    costs = 0.5 * first[rest > 0] ** 2 + 0.5 * second**2
    assert saved == pytest.approx(1 - costs.min() / 16, abs=1e-5)
    assert bits[0] == pytest.approx(first[rest > 0][costs.argmin()], abs=0.01)
    assert ideal(ratio=1, share=0.3, uniform=4)[1] == pytest.approx(0, abs=1e-9)
