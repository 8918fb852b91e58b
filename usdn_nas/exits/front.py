"""Pareto fronts of policies: higher accuracy is better, and so are fewer average bit operations (BOPs)."""

from __future__ import annotations

import heapq
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from usdn_nas.exits.apply import apply
from usdn_nas.exits.exact import PolicyScores, score_slabs
from usdn_nas.exits.outputs import ExitOutputs
from usdn_nas.space.architecture import Rule
from usdn_nas.space.cost import ExitCosts

__all__ = [
    "FRONT_LIMIT",
    "TRADE_OFFS",
    "Policy",
    "config_front",
    "pareto_front",
    "policies",
    "shared_front",
    "support",
    "thin",
]

FRONT_LIMIT = 64
"""Number of policies to which the front of one configuration is thinned."""

TRADE_OFFS = np.concatenate([[0.0], np.geomspace(1e-3, 1.0, 25)])
"""(26,) weights of relative BOPs at which configurations are compared. At weight 0 only the accuracy counts."""

_BUCKETS = 1024


@dataclass(frozen=True)
class Policy:
    """A set of placed exits with thresholds, and its accuracy and cost on the split that it was computed from.

    Attributes:
        accuracy: Fraction of samples that are answered right.
        bops: Average BOPs of a sample, heads of the placed exits included.
        exits: Names of the placed exits in order, without the final one.
        thresholds: One for each of ``exits``.
    """

    accuracy: float
    bops: float
    exits: tuple[str, ...]
    thresholds: tuple[float, ...]


def _candidates_of_front(accuracy: NDArray[np.float64], bops: NDArray[np.float64]) -> NDArray[np.intp]:
    """Returns the indices of points that may be on the front, so that fewer points need to be sorted.

    Points are divided into buckets by cost. A point is left out if a cheaper bucket has a point that dominates it.
    """
    low, high = bops.min(), bops.max()
    if len(bops) <= 4 * _BUCKETS or low == high:
        return np.arange(len(bops))
    bucket = ((bops - low) * ((_BUCKETS - 1) / (high - low))).astype(np.intp)
    best = np.full(_BUCKETS, -np.inf)
    np.maximum.at(best, bucket, accuracy)
    cheaper = np.concatenate([[-np.inf], np.maximum.accumulate(best)[:-1]])
    return np.flatnonzero(accuracy > cheaper[bucket])


def pareto_front(accuracy: ArrayLike, bops: ArrayLike) -> NDArray[np.intp]:
    """Returns the indices of the non-dominated points, by rising BOPs. Their accuracy rises strictly.

    If several points have the same accuracy and BOPs, the first is kept.

    Args:
        accuracy: (n,), higher is better. It must not contain NaN.
        bops: (n,), lower is better. It must not contain NaN.
    """
    a, b = np.asarray(accuracy, dtype=np.float64), np.asarray(bops, dtype=np.float64)
    if not a.size:
        return np.zeros(0, dtype=np.intp)
    index = _candidates_of_front(a, b)
    order = index[np.lexsort((-a[index], b[index]))]  # the sort is stable: of equal points the first stays first
    rising = a[order]
    before = np.concatenate([[-np.inf], np.maximum.accumulate(rising)[:-1]])
    return order[rising > before]


def policies(scores: PolicyScores) -> list[Policy]:
    """Returns all non-dominated policies among all sets of exits and thresholds of ``scores``, by rising BOPs."""
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


def support(
    accuracy: ArrayLike, relative_bops: ArrayLike, trade_offs: ArrayLike = TRADE_OFFS
) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """Returns the best score, accuracy - trade-off x relative BOPs, for every trade-off.

    Args:
        accuracy: (n,), n >= 1.
        relative_bops: (n,), average BOPs / reference BOPs.
        trade_offs: (L,) weights of relative BOPs.

    Returns:
        (L,) best scores, and (L,) indices of the policies that reach them. If several reach one, the first is taken.
    """
    weights = np.asarray(trade_offs, dtype=np.float64)[:, None]
    values = np.asarray(accuracy, dtype=np.float64) - weights * np.asarray(relative_bops, dtype=np.float64)
    index = values.argmax(axis=1)
    return values[np.arange(len(values)), index], index


def thin(
    front: Sequence[Policy], reference_bops: float, limit: int = FRONT_LIMIT, keep: Collection[int] = ()
) -> list[Policy]:
    """Thins a front to at most ``limit`` policies. The front is sorted by BOPs, with strictly rising accuracy.

    The method is greedy and deterministic. In each round it removes the policy whose removal loses the least
    hypervolume: (accuracy - accuracy of the left neighbour) x (BOPs of the right neighbour - BOPs). If several lose
    equally little, the cheapest is removed. Some policies always stay: the first and the last, those at the indices
    ``keep``, and the one that `support` names for each of `TRADE_OFFS`. `support` therefore gives exactly the same
    values for the thinned front as for the whole one. If the policies that always stay are more than ``limit``, the
    result has more than ``limit`` policies.
    """
    if len(front) <= limit:
        return list(front)
    accuracy, bops = [policy.accuracy for policy in front], [policy.bops for policy in front]
    protected = {0, len(front) - 1, *keep, *map(int, support(accuracy, np.array(bops) / reference_bops)[1])}
    left, right = list(range(-1, len(front) - 1)), list(range(1, len(front) + 1))

    def loss(i: int) -> float:
        return (accuracy[i] - accuracy[left[i]]) * (bops[right[i]] - bops[i])

    losses = {i: loss(i) for i in range(len(front)) if i not in protected}
    queue = [(value, i) for i, value in losses.items()]
    heapq.heapify(queue)
    for _ in range(min(len(front) - limit, len(losses))):
        while losses.get((least := heapq.heappop(queue))[1]) != least[0]:
            pass  # this entry is outdated: the policy was removed, or one of its neighbours was removed since
        gone = least[1]
        del losses[gone]
        left[right[gone]], right[left[gone]] = left[gone], right[gone]
        for i in (left[gone], right[gone]):
            if i in losses:
                losses[i] = loss(i)
                heapq.heappush(queue, (losses[i], i))
    return [policy for i, policy in enumerate(front) if i in losses or i in protected]


def config_front(
    outputs: ExitOutputs, costs: ExitCosts, thresholds: ArrayLike, rule: Rule = "threshold"
) -> list[Policy]:
    """Returns the whole front of one bit configuration, over all sets of exits and all shared ``thresholds``.

    Returns:
        All non-dominated policies, by rising BOPs and strictly rising accuracy.
    """
    return _best([policy for slab in score_slabs(outputs, costs, thresholds, rule) for policy in policies(slab)])


def shared_front(
    outputs: ExitOutputs, costs: ExitCosts, thresholds: ArrayLike, rule: Rule = "threshold"
) -> list[Policy]:
    """Returns the front like `config_front`, but for one set of exits: all candidates in ``outputs``."""
    exits = outputs.candidates
    found = []
    for threshold in np.asarray(thresholds, dtype=np.float64):
        shared = (float(threshold),) * len(exits)
        result = apply(outputs, costs, shared, rule)
        found.append(Policy(result.accuracy, result.average_bops, exits, shared))
    return _best(found)


def _best(found: Sequence[Policy]) -> list[Policy]:
    best = pareto_front([policy.accuracy for policy in found], [policy.bops for policy in found])
    return [found[int(i)] for i in best]
