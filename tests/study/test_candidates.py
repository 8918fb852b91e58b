"""Candidates: dynamic programming beside enumeration."""

from __future__ import annotations

import itertools

import numpy as np

from usdn_nas.study.candidates import best_sums, everything, neighbours, promising
from usdn_nas.study.surrogate import Surrogate

GENERATOR = np.random.default_rng(1)


def test_everything_is_in_prefix_order() -> None:
    assert everything((2, 3, 2)).tolist() == [list(c) for c in itertools.product(range(2), range(3), range(2))]


def test_best_sums_are_the_best_of_all() -> None:
    scores = [GENERATOR.normal(size=size) for size in (4, 3, 1, 5, 2)]
    total = {
        codes: sum(s[i] for s, i in zip(scores, codes, strict=True))
        for codes in itertools.product(*map(range, (4, 3, 1, 5, 2)))
    }
    best = sorted(total, key=lambda codes: -total[codes])
    for count in (1, 7, 1000):
        assert best_sums(scores, count).tolist() == [list(codes) for codes in best[:count]]


def test_neighbours_differ_in_one_parameter() -> None:
    sizes, codes = (3, 2, 4), np.array([[0, 1, 2], [2, 0, 0]])
    found = neighbours(codes, sizes)
    assert len(found) == 2 * (2 + 1 + 3)
    for code in found:
        assert 1 in (code != codes).sum(axis=1)


def test_promising_finds_the_best_of_a_large_additive_space() -> None:
    sizes = (4,) * 14  # 268 million
    effects = GENERATOR.normal(size=(14, 4))
    codes = GENERATOR.integers(4, size=(150, 14))

    def value(codes: np.ndarray) -> np.ndarray:
        return effects[np.arange(14), codes].sum(axis=1, keepdims=True)

    surrogate = Surrogate(codes, value(codes))
    best = value(codes).max(axis=0)
    champions = codes[[int(value(codes).argmax())]]
    found = promising(sizes, surrogate, np.ones(1), best, champions, np.random.default_rng(0))
    assert len(np.unique(found, axis=0)) == len(found) < 10_000
    assert found.min() >= 0 and found.max() <= 3
    assert effects.argmax(axis=1).tolist() in found.tolist()
