"""Chooses the configurations that the surrogate is evaluated on: all in a small space, else the most promising ones.

Shapes: n configurations, P parameters. A configuration is a row of P ranks, each an index into a parameter's values.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from usdn_nas.study.surrogate import Surrogate

__all__ = ["EXACT_LIMIT", "best_sums", "everything", "neighbours", "promising"]

EXACT_LIMIT = 1 << 13
"""In spaces of up to this many configurations, the surrogate is evaluated on every one."""

_TRADE_OFFS = 6
_BEST_OF_EACH = 64
_DRAWN = 512
_CHAMPIONS = 16
_CLIMBS = 2
_CLIMBERS = 12

Array = NDArray[np.float64]
Codes = NDArray[np.int64]


def everything(sizes: Sequence[int]) -> Codes:
    """Returns all configurations, (n, P). The last parameter changes fastest."""
    return np.stack(np.unravel_index(np.arange(int(np.prod(sizes))), sizes), axis=1)


def best_sums(scores: Sequence[Array], count: int) -> Codes:
    """Returns the ``count`` configurations with the greatest sums of scores, best first, (n, P).

    Each parameter contributes one entry of its row in ``scores`` to the sum. The result is exact. It is found by
    dynamic programming along the parameters: the best configurations begin with one of the best ``count`` beginnings.
    """
    total, codes = np.zeros(1), np.zeros((1, 0), dtype=np.int64)
    for score in scores:
        sums = (total[:, None] + score).ravel()
        order = np.argsort(-sums, kind="stable")[:count]
        beginning, rank = np.divmod(order, len(score))
        total, codes = sums[order], np.concatenate([codes[beginning], rank[:, None]], axis=1)
    return codes


def neighbours(codes: Codes, sizes: Sequence[int]) -> Codes:
    """Returns all configurations (n, P) that differ from one of ``codes`` (m, P) in exactly one parameter."""
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
    """Returns distinct configurations (n, P) of a large space among which the best one is likely to be.

    They are: the configurations with the greatest sums of the surrogate's first-order effects, at the trade-offs of
    greatest weight; the ``champions`` themselves, and with one or two parameters changed; random configurations; and
    finally, in a few rounds, the neighbours of those with the greatest predicted improvement.

    Args:
        sizes: (P,) number of values of each parameter.
        surrogate: The fitted model.
        weights: (L,) weights of the trade-offs.
        best: (L,) best value so far at each trade-off.
        champions: The configurations of the best trial at each trade-off.
        generator: Random generator.
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
    """Returns ``codes`` with one random parameter of each configuration drawn anew."""
    changed = codes.copy()
    which = generator.integers(len(sizes), size=len(codes))
    changed[np.arange(len(codes)), which] = generator.integers(np.asarray(sizes)[which])
    return changed
