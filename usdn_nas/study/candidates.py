"""Configurations worth asking the surrogate about: all of them in small spaces, else the most promising ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from usdn_nas.study.surrogate import Surrogate

__all__ = ["EXACT_LIMIT", "best_sums", "everything", "neighbours", "promising"]

EXACT_LIMIT = 1 << 13
"""Up to so many configurations, the surrogate is asked about every one."""

_TRADE_OFFS = 6
_BEST_OF_EACH = 64
_DRAWN = 512
_CHAMPIONS = 16
_CLIMBS = 2
_CLIMBERS = 12

Array = NDArray[np.float64]
Codes = NDArray[np.int64]


def everything(sizes: Sequence[int]) -> Codes:
    """(n, P): all configurations, the last parameter changing fastest."""
    return np.stack(np.unravel_index(np.arange(int(np.prod(sizes))), sizes), axis=1)


def best_sums(scores: Sequence[Array], count: int) -> Codes:
    """(n, P): the ``count`` choices of one entry from each of ``scores`` with the greatest sums, best first; exact.

    Dynamic programming along the parameters: what is not among the best ``count`` beginnings begins none of the best.
    """
    total, codes = np.zeros(1), np.zeros((1, 0), dtype=np.int64)
    for score in scores:
        sums = (total[:, None] + score).ravel()
        order = np.argsort(-sums, kind="stable")[:count]
        beginning, rank = np.divmod(order, len(score))
        total, codes = sums[order], np.concatenate([codes[beginning], rank[:, None]], axis=1)
    return codes


def neighbours(codes: Codes, sizes: Sequence[int]) -> Codes:
    """(n, P): all configurations that differ from one of ``codes`` (m, P) in one parameter."""
    moved = []
    for p, size in enumerate(sizes):
        for rank in range(size):
            step = codes[codes[:, p] != rank].copy()
            step[:, p] = rank
            moved.append(step)
    return np.concatenate(moved)


def promising(
    sizes: Sequence[int],
    surrogate: Surrogate,
    weights: Array,
    best: Array,
    champions: Codes,
    generator: np.random.Generator,
) -> Codes:
    """Distinct configurations (n, P) for a large space.

    The greatest sums of the surrogate's first order at the trade-offs of greatest weight, the ``champions`` (the best
    trial at each trade-off) with one and two parameters changed, random ones; then, a few times, what lies beside the
    best of these by predicted improvement.
    """
    effects = surrogate.first_order(max(sizes))
    heavy = np.argsort(-weights, kind="stable")[:_TRADE_OFFS]
    sums = [best_sums([effects[p, :size, k] for p, size in enumerate(sizes)], _BEST_OF_EACH) for k in heavy]
    champions = champions[:_CHAMPIONS]
    beside = neighbours(champions, sizes)
    farther = _changed(beside[generator.integers(len(beside), size=_DRAWN)], sizes, generator)
    drawn = np.stack([generator.integers(size, size=_DRAWN) for size in sizes], axis=1)
    found = np.unique(np.concatenate([*sums, champions, beside, farther, drawn]), axis=0)
    for _ in range(_CLIMBS):
        posterior = surrogate.predict(found)
        reach = ((posterior.mean + posterior.deviation - best) * weights).sum(axis=1)
        climbers = found[np.argsort(-reach, kind="stable")[:_CLIMBERS]]
        found = np.unique(np.concatenate([found, neighbours(climbers, sizes)]), axis=0)
    return found


def _changed(codes: Codes, sizes: Sequence[int], generator: np.random.Generator) -> Codes:
    """``codes`` with a random parameter of each drawn anew."""
    changed = codes.copy()
    which = generator.integers(len(sizes), size=len(codes))
    changed[np.arange(len(codes)), which] = generator.integers(np.asarray(sizes)[which])
    return changed
