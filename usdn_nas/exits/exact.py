"""Every placement of exits scored exactly from cached outputs, for shared thresholds.

A *placement* S is a set of the C = E - 1 candidates, written as an integer whose bit i says that candidate i is
placed; the final exit always is. With threshold t, sample n is *confident* at candidate i if its confidence there
is >= t, and leaves at the first placed exit where it is. Let F[T] count the samples confident at none of T, and
G_i[T] those that are confident and right at i and confident at none of T. Then, in totals over the samples,

    cost(S)     = sum over exits i of F[S & below(i)] * (BOPs of the segments between exits i - 1 and i
                                                         + [i in S] BOPs of head i)
    accuracy(S) = sum over placed i of G_i[S & below(i)]

with below(i) = the bits under i. (The code counts those that leave wrong, who are fewer, and subtracts.)

For all thresholds at once: the *level* of a sample at a candidate is the number of thresholds <= its confidence there,
so that with the thresholds in rising order it is confident under number t exactly where t < level. The set of
candidates at which a sample is not confident thus grows with t, one candidate at a time, at most C times. Histograms
of these sets, F's and G's, are written as differences along t (O(C) entries a sample, however many thresholds there
are), summed along t, and summed over supersets (a zeta transform): for T thresholds O(C^2 N + C 2^C T) operations
on integers, with no rounding.

Under the rule ``most-confident`` a sample that is confident at none of S is answered by the most confident exit i of S,
or by the final one where that is more confident still. With L the candidates less confident than i, the S whose most
confident exit is i are the subsets of L + {i} less those of L, and the sample is confident at none of them from
t = its level at i on: two entries for each i at which the answer is wrong, and one for the empty S.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from usdn_nas._util.errors import UserError
from usdn_nas.exits.cuts import cuts
from usdn_nas.exits.outputs import ExitOutputs
from usdn_nas.space.architecture import Rule
from usdn_nas.space.cost import ExitCosts

__all__ = [
    "MAX_CANDIDATES",
    "PolicyScores",
    "check_names",
    "score_shared",
    "score_slabs",
    "threshold_grid",
    "too_many_candidates",
]

MAX_CANDIDATES = 16
"""With more candidates, 2^C placements times thresholds no longer fit into memory and a trial's time."""

_CELLS = 1 << 20
_BITS = 4
_MOST_THRESHOLDS = (1 << 16 - _BITS) - 1  # a level and a candidate share 16 bits

Counts = NDArray[np.int64]
Keys = NDArray[np.uint16]


@dataclass(frozen=True)
class PolicyScores:
    """Scores of all placements under T shared thresholds. Column S is the placement with that bit mask.

    Attributes:
        accuracy: (T, 2^C) float64, a fraction.
        bops: (T, 2^C) float64, average BOPs of a sample.
        thresholds: (T,) float64.
        candidates: C names; bit i of a column's number stands for candidate i.
    """

    accuracy: NDArray[np.float64]
    bops: NDArray[np.float64]
    thresholds: NDArray[np.float64]
    candidates: tuple[str, ...]

    def exits(self, placement: int) -> tuple[str, ...]:
        """Names of the exits placed in column ``placement``."""
        return tuple(name for i, name in enumerate(self.candidates) if placement >> i & 1)


def check_names(outputs: ExitOutputs, costs: ExitCosts) -> None:
    """Raises ValueError unless ``outputs`` and ``costs`` have the same exits."""
    if outputs.names != costs.names:
        raise ValueError(f"outputs of exits {outputs.names} do not fit costs of exits {costs.names}")


def threshold_grid(outputs: ExitOutputs, count: int) -> NDArray[np.float64]:
    """Shared thresholds worth trying: quantiles of all candidates' confidences taken together.

    Returns:
        (T,) rising and distinct, T <= ``count``, each midway between two neighbouring confidences (`cuts`); the first
        is 0 and lets every sample leave at the first placed exit. Without candidates: ``[1.0]``, which means nothing.
    """
    pooled = np.sort(outputs.confidence[:-1], axis=None)  # six times as fast as np.quantile
    if not pooled.size:
        return np.ones(1)
    ranks = np.ceil(np.arange(count) / count * (pooled.size - 1)).astype(np.intp)
    return cuts(pooled, np.unique(pooled[ranks]))


def _levels(confidence: NDArray[np.float32], grid: NDArray[np.float64]) -> Keys:
    """(C, N): the number of thresholds in ``grid`` that are <= the confidence."""
    rounded = grid.astype(np.float32)
    # A float32 is >= a float64 where it is >= the next float32 up; comparing so is six times as fast as searchsorted.
    rounded = np.where(rounded < grid, np.nextafter(rounded, np.float32(np.inf)), rounded)
    levels = np.zeros(confidence.shape, dtype=np.uint16)
    for threshold in rounded:
        levels += confidence >= threshold
    return levels


def _rank(ranked: Keys, key: Keys) -> Keys:
    """(k + 1, N): ``ranked`` (k, N), whose columns rise, with ``key`` (N,) put where it belongs in each column."""
    out = np.empty((len(ranked) + 1, len(key)), dtype=key.dtype)
    for row, into in zip(ranked, out, strict=False):
        np.minimum(row, key, out=into)
        key = np.maximum(row, key)
    out[-1] = key
    return out


def _avoiding(ranked: Keys, until: Keys | int, height: int) -> Counts:
    """(2^k, T): entry [S, t] counts the samples with t < ``until`` that are confident at none of S.

    Args:
        ranked: (k, n) keys, level then candidate, rising along each column: the order in which a sample stops being
            confident.
        until: (n,), at most T.
        height: T.
    """
    bits, samples = ranked.shape
    # A sample is unconfident exactly at the set ``missed[j]`` from threshold ``bounds[j]`` to before ``bounds[j + 1]``.
    bounds = np.zeros((bits + 2, samples), dtype=np.int64)
    np.minimum(ranked >> _BITS, until, out=bounds[1:-1])
    bounds[-1] = until
    missed = np.zeros((bits + 1, samples), dtype=np.int64)
    np.cumsum(np.left_shift(1, ranked & (1 << _BITS) - 1, dtype=np.int64), axis=0, out=missed[1:])
    missed *= height + 1
    size = (height + 1) << bits
    table = np.bincount((missed + bounds[:-1]).ravel(), minlength=size)
    table -= np.bincount((missed + bounds[1:]).ravel(), minlength=size)
    return _summed(table, bits, height)


def _summed(differences: Counts, bits: int, height: int) -> Counts:
    """(2^k, T): ``differences`` (2^k (T + 1),), keyed by set, then by t, summed along t and over supersets."""
    table = np.cumsum(differences.reshape(1 << bits, height + 1), axis=1)[:, :-1]
    for bit in range(bits):
        pairs = table.reshape(-1, 2, 1 << bit, height)
        pairs[:, 0] += pairs[:, 1]
    return table


def _wrong_at_the_end(outputs: ExitOutputs, levels: Keys, height: int) -> Counts:
    """(2^C, T): wrong answers among samples confident at no placed exit, by their most confident exit.

    Args:
        levels: (C, N).
    """
    confidence, bits = outputs.confidence[:-1], len(levels)
    # By rising confidence; of equals the earlier comes later, for it answers.
    order = bits - 1 - np.argsort(confidence[::-1], axis=0, kind="stable")
    answers = np.where(confidence >= outputs.confidence[-1], outputs.correct[:-1], outputs.correct[-1])
    wrong = ~np.take_along_axis(answers, order, axis=0)
    upto = np.cumsum(np.left_shift(1, order), axis=0)
    below = upto - np.left_shift(1, order)
    since = np.take_along_axis(levels, order, axis=0).astype(np.int64)
    size = (height + 1) << bits
    table = np.bincount((upto * (height + 1) + since)[wrong], minlength=size)
    table -= np.bincount((below * (height + 1) + since)[wrong], minlength=size)
    table[0] += np.count_nonzero(~outputs.correct[-1])
    return _summed(table, bits, height)


def too_many_candidates(count: int) -> UserError:
    """What is raised beyond `MAX_CANDIDATES`."""
    return UserError(
        f"exact scoring takes at most {MAX_CANDIDATES} candidate exits, got {count}",
        where="exits.candidates",
        remedy='name fewer candidates, or set search.exits = "sampled"',
    )


def _totals(outputs: ExitOutputs, costs: ExitCosts, grid: NDArray[np.float64], rule: Rule) -> tuple[Counts, Counts]:
    """Wrong answers and BOPs, (2^C, T) each, totals over the samples, for a rising ``grid`` of T thresholds."""
    candidates, height = len(outputs.names) - 1, len(grid)
    levels = _levels(outputs.confidence[:-1], grid)
    wrong = np.zeros((1 << candidates, height), dtype=np.int64)
    ranked = np.empty((0, outputs.samples), dtype=np.uint16)
    for i in range(candidates):
        # The table over placements of the exits below i doubles: without exit i, then with it.
        leaving = np.flatnonzero(~outputs.correct[i])
        missing = _avoiding(ranked[:, leaving], levels[i, leaving], height)
        np.add(wrong[: 1 << i], missing, out=wrong[1 << i : 2 << i])
        ranked = _rank(ranked, levels[i] << _BITS | i)
    if rule == "threshold":
        wrong += _avoiding(ranked[:, ~outputs.correct[-1]], height, height)
    else:
        wrong += _wrong_at_the_end(outputs, levels, height)
    remaining = _avoiding(ranked, height, height)  # F
    cost = np.zeros_like(wrong)
    segments = np.diff(costs.chain, prepend=0)
    for i in range(candidates):
        reached = remaining[: 1 << i]
        cost[: 1 << i] += reached * segments[i]
        np.add(cost[: 1 << i], reached * costs.heads[i], out=cost[1 << i : 2 << i])
    cost += remaining * (segments[-1] + costs.heads[-1])
    return wrong, cost


def score_slabs(
    outputs: ExitOutputs, costs: ExitCosts, thresholds: ArrayLike, rule: Rule = "threshold"
) -> Iterator[PolicyScores]:
    """`score_shared` in pieces: the thresholds in rising order, about a million policies at a time.

    A piece and all that is needed for it take less than 100 MB, and 20 C N bytes for the samples.

    Args:
        outputs: E exits, all candidates attached.
        costs: Of the same exits.
        thresholds: (T,), in any order; one that comes twice is scored twice.
        rule: Which exit answers what was confident at none.

    Raises:
        UserError: More than `MAX_CANDIDATES` candidates.
    """
    check_names(outputs, costs)
    candidates = len(outputs.candidates)
    if candidates > MAX_CANDIDATES:
        raise too_many_candidates(candidates)
    grid = np.sort(np.asarray(thresholds, dtype=np.float64).ravel())
    slab = min(_CELLS >> candidates, _MOST_THRESHOLDS)
    for start in range(0, len(grid), slab):
        rows = grid[start : start + slab]
        wrong, cost = _totals(outputs, costs, rows, rule)
        accuracy = (outputs.samples - wrong.T) / outputs.samples
        yield PolicyScores(accuracy, cost.T / outputs.samples, rows, outputs.candidates)


def score_shared(
    outputs: ExitOutputs, costs: ExitCosts, thresholds: ArrayLike, rule: Rule = "threshold"
) -> PolicyScores:
    """Accuracy and average BOPs of every placement under each shared threshold, exactly.

    Arguments and errors as of `score_slabs`; the rows of the result are in the order of ``thresholds``.
    """
    grid = np.asarray(thresholds, dtype=np.float64).ravel()
    places = np.argsort(np.argsort(grid, kind="stable"))
    slabs = list(score_slabs(outputs, costs, grid, rule))
    accuracy = np.concatenate([slab.accuracy for slab in slabs])[places]
    bops = np.concatenate([slab.bops for slab in slabs])[places]
    return PolicyScores(accuracy, bops, grid, outputs.candidates)
