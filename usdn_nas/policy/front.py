"""Pareto fronts of policies: accuracy up, average BOPs down."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from usdn_nas.cost import ExitCosts
from usdn_nas.policy.exact import PolicyScores, score_shared
from usdn_nas.policy.outputs import ExitOutputs

__all__ = ["FRONT_LIMIT", "Policy", "own_front", "pareto_front", "policies", "thin"]

FRONT_LIMIT = 64
"""Most policies kept of one configuration's front."""

_BUCKETS = 1024


@dataclass(frozen=True)
class Policy:
    """A placement of exits with thresholds, and its score on the split it was computed from.

    Attributes:
        accuracy: Fraction of samples answered right.
        bops: Average BOPs of a sample, heads of the placed exits included.
        exits: Names of the placed exits in order, without the final one.
        thresholds: One for each of ``exits``.
    """

    accuracy: float
    bops: float
    exits: tuple[str, ...]
    thresholds: tuple[float, ...]


def _candidates_of_front(accuracy: NDArray[np.float64], bops: NDArray[np.float64]) -> NDArray[np.intp]:
    """Indices that may be on the front: those no bucket of cheaper points already dominates. Spares the sort."""
    low, high = bops.min(), bops.max()
    if len(bops) <= 4 * _BUCKETS or low == high:
        return np.arange(len(bops))
    bucket = ((bops - low) * ((_BUCKETS - 1) / (high - low))).astype(np.intp)
    best = np.full(_BUCKETS, -np.inf)
    np.maximum.at(best, bucket, accuracy)
    cheaper = np.concatenate([[-np.inf], np.maximum.accumulate(best)[:-1]])
    return np.flatnonzero(accuracy > cheaper[bucket])


def pareto_front(accuracy: ArrayLike, bops: ArrayLike) -> NDArray[np.intp]:
    """Indices of the non-dominated points, by rising BOPs; accuracy rises strictly along them.

    Of points equal in both, the first is kept.

    Args:
        accuracy: (n,), more is better. No NaN.
        bops: (n,), less is better. No NaN.
    """
    a, b = np.asarray(accuracy, dtype=np.float64), np.asarray(bops, dtype=np.float64)
    if not a.size:
        return np.zeros(0, dtype=np.intp)
    index = _candidates_of_front(a, b)
    order = index[np.lexsort((-a[index], b[index]))]  # stable: first index first among equals
    rising = a[order]
    before = np.concatenate([[-np.inf], np.maximum.accumulate(rising)[:-1]])
    return order[rising > before]


def policies(scores: PolicyScores) -> list[Policy]:
    """The non-dominated policies among all placements and thresholds, all of them, by rising BOPs."""
    width = scores.accuracy.shape[1]
    front = []
    for index in pareto_front(scores.accuracy.ravel(), scores.bops.ravel()):
        row, placement = divmod(int(index), width)
        exits = scores.exits(placement)
        front.append(
            Policy(
                float(scores.accuracy[row, placement]),
                float(scores.bops[row, placement]),
                exits,
                (float(scores.thresholds[row]),) * len(exits),
            )
        )
    return front


def thin(front: Sequence[Policy], limit: int = FRONT_LIMIT, keep: Collection[int] = ()) -> list[Policy]:
    """At most ``limit`` policies of a front that is sorted by BOPs with accuracy strictly rising.

    Greedy and deterministic: the policy whose removal costs the least hypervolume, (accuracy above its left
    neighbour's) x (BOPs below its right neighbour's), goes first, of equal ones the cheaper. Both ends stay, and
    those at the indices ``keep``.
    """
    if len(front) <= limit:
        return list(front)
    accuracy = np.array([policy.accuracy for policy in front])
    bops = np.array([policy.bops for policy in front])
    kept = np.arange(len(front))
    protected = np.zeros(len(front), dtype=bool)
    protected[[0, -1, *keep]] = True
    while len(kept) > max(limit, int(protected.sum())):
        a, b = accuracy[kept], bops[kept]
        loss = np.full(len(kept), np.inf)
        loss[1:-1] = (a[1:-1] - a[:-2]) * (b[2:] - b[1:-1])
        loss[protected[kept]] = np.inf
        kept = np.delete(kept, int(loss.argmin()))
    return [front[int(i)] for i in kept]


def own_front(
    outputs: ExitOutputs, costs: ExitCosts, thresholds: ArrayLike, limit: int | None = FRONT_LIMIT
) -> list[Policy]:
    """The front of one bit configuration over all placements and shared thresholds.

    Returns:
        Policies by rising BOPs, accuracy strictly rising, thinned to ``limit`` by `thin` (None: all of them).
    """
    front = policies(score_shared(outputs, costs, thresholds))
    return front if limit is None else thin(front, limit)
