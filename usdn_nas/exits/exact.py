"""Scores every set of exits exactly from cached outputs, for thresholds that all exits share.

A set S of the C = E - 1 candidate exits is written as an integer, the *exit mask*: bit i says that candidate i is
placed. The final exit is always placed. With threshold t, sample n is *confident* at candidate i if its confidence
there is >= t. It leaves at the first placed exit where it is confident. Let F[Q] be the number of samples that are
confident at no exit of a set Q, and G_i[Q] the number of samples that are confident and right at i and confident at no
exit of Q. Then the totals over all samples are

    cost(S)     = sum over exits i of F[S & below(i)] * (BOPs of the segments between exits i - 1 and i
                                                         + [i in S] BOPs of head i)
    accuracy(S) = sum over placed i of G_i[S & below(i)]

where below(i) is the mask of all candidates before i, and [i in S] is 1 if exit i is placed and 0 otherwise. BOPs are
bit operations: multiply-accumulates x W bits x A bits. (The code counts the samples that leave with a wrong answer,
because they are fewer, and subtracts.)

All thresholds are scored at once. The *level* of a sample at a candidate is the number of thresholds that are <= its
confidence there. If the thresholds are in rising order and t is now the index of one, the sample is confident exactly
if t < level. The set of candidates at which a sample is not confident therefore grows with t, one candidate at a time,
at most C times. F and each G_i come from a histogram of these sets. The histogram is first written as differences along
t, which takes O(C) entries for each sample, however many thresholds there are. It is then summed along t and over
supersets (a zeta transform). For T thresholds this takes O(C^2 N + C 2^C T) operations on integers, without rounding.

Under the rule ``most-confident``, a sample that is confident at no exit of S is answered by the most confident exit i
of S, or by the final exit if that is even more confident. Let L be the candidates that are less confident than i. The
sets S whose most confident exit is i are the subsets of L + {i} that are not subsets of L. The sample is confident at
no exit of such a set from t = its level at i on. This makes two entries in the histogram for each i at which the answer
is wrong, and one for the empty S.
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
"""With more candidates, scoring 2^C exit masks under all thresholds would take too much memory and time in a trial."""

_CELLS = 1 << 20
_BITS = 4
_MOST_THRESHOLDS = (1 << 16 - _BITS) - 1  # a level and a candidate are packed into 16 bits

Counts = NDArray[np.int64]
Keys = NDArray[np.uint16]


@dataclass(frozen=True)
class PolicyScores:
    """Scores of all sets of exits under T shared thresholds. Column S belongs to the set with the exit mask S.

    Attributes:
        accuracy: (T, 2^C) float64, a fraction.
        bops: (T, 2^C) float64, average BOPs of a sample.
        thresholds: (T,) float64.
        candidates: C names. Bit i of a column's number stands for candidate i.
    """

    accuracy: NDArray[np.float64]
    bops: NDArray[np.float64]
    thresholds: NDArray[np.float64]
    candidates: tuple[str, ...]

    def exits(self, placement: int) -> tuple[str, ...]:
        """Returns the names of the exits that are placed in column ``placement``."""
        return tuple(name for i, name in enumerate(self.candidates) if placement >> i & 1)


def check_names(outputs: ExitOutputs, costs: ExitCosts) -> None:
    """Raises ValueError unless ``outputs`` and ``costs`` have the same exits."""
    if outputs.names != costs.names:
        raise ValueError(f"outputs of exits {outputs.names} do not fit costs of exits {costs.names}")


def threshold_grid(outputs: ExitOutputs, count: int) -> NDArray[np.float64]:
    """Returns shared thresholds to try: quantiles of the confidences of all candidates together.

    Returns:
        (T,) rising and distinct thresholds, T <= ``count``, each midway between two neighbouring confidences (`cuts`).
        The first is 0, which lets every sample leave at the first placed exit. Without candidates, it is ``[1.0]``,
        which has no effect.
    """
    pooled = np.sort(outputs.confidence[:-1], axis=None)  # six times as fast as np.quantile
    if not pooled.size:
        return np.ones(1)
    ranks = np.ceil(np.arange(count) / count * (pooled.size - 1)).astype(np.intp)
    return cuts(pooled, np.unique(pooled[ranks]))


def _levels(confidence: NDArray[np.float32], grid: NDArray[np.float64]) -> Keys:
    """Returns (C, N): the number of thresholds in ``grid`` that are <= the confidence."""
    rounded = grid.astype(np.float32)
    # A float32 is >= a float64 number exactly if it is >= that number rounded up to float32. Comparing float32 numbers
    # in this way is six times as fast as searchsorted.
    rounded = np.where(rounded < grid, np.nextafter(rounded, np.float32(np.inf)), rounded)
    levels = np.zeros(confidence.shape, dtype=np.uint16)
    for threshold in rounded:
        levels += confidence >= threshold
    return levels


def _rank(ranked: Keys, key: Keys) -> Keys:
    """Inserts ``key`` (N,) into the sorted columns of ``ranked`` (k, N). Returns (k + 1, N), sorted again."""
    out = np.empty((len(ranked) + 1, len(key)), dtype=key.dtype)
    for row, into in zip(ranked, out, strict=False):
        np.minimum(row, key, out=into)
        key = np.maximum(row, key)
    out[-1] = key
    return out


def _avoiding(ranked: Keys, until: Keys | int, height: int) -> Counts:
    """Returns (2^k, T) counts: entry [S, t] is the number of samples with t < ``until`` that are confident at no exit
    of S.

    Args:
        ranked: (k, n) keys, which hold the level in their upper bits and the candidate in their lower bits. They rise
            along each column, which is the order in which a sample stops being confident.
        until: (n,), at most T.
        height: The number of thresholds T.
    """
    bits, samples = ranked.shape
    # For thresholds from ``bounds[j]`` to below ``bounds[j + 1]``, a sample is unconfident exactly at ``missed[j]``.
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
    """Sums ``differences`` along t and over supersets. Returns (2^k, T).

    ``differences`` has shape (2^k (T + 1),), ordered by set, then by t.
    """
    table = np.cumsum(differences.reshape(1 << bits, height + 1), axis=1)[:, :-1]
    for bit in range(bits):
        pairs = table.reshape(-1, 2, 1 << bit, height)
        pairs[:, 0] += pairs[:, 1]
    return table


def _wrong_at_the_end(outputs: ExitOutputs, levels: Keys, height: int) -> Counts:
    """Returns (2^C, T) wrong answers of the samples that are confident at no placed exit, under ``most-confident``.

    Args:
        outputs: All candidates and the final exit.
        levels: (C, N), from `_levels`.
        height: The number of thresholds T.
    """
    confidence, bits = outputs.confidence[:-1], len(levels)
    # Candidates by rising confidence. Of equally confident ones the earlier is put last, because it answers.
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
    """Returns the error that is raised for more than `MAX_CANDIDATES` candidates."""
    return UserError(
        f"exact scoring takes at most {MAX_CANDIDATES} candidate exits, got {count}",
        where="exits.candidates",
        remedy='name fewer candidates, or set search.exits = "sampled"',
    )


def _totals(outputs: ExitOutputs, costs: ExitCosts, grid: NDArray[np.float64], rule: Rule) -> tuple[Counts, Counts]:
    """Returns the totals of wrong answers and of BOPs over all samples, (2^C, T) each, for a rising ``grid`` of T
    thresholds.
    """
    candidates, height = len(outputs.names) - 1, len(grid)
    levels = _levels(outputs.confidence[:-1], grid)
    wrong = np.zeros((1 << candidates, height), dtype=np.int64)
    ranked = np.empty((0, outputs.samples), dtype=np.uint16)
    for i in range(candidates):
        # The first half of the table has the sets without exit i, and the second half those with it.
        leaving = np.flatnonzero(~outputs.correct[i])
        missing = _avoiding(ranked[:, leaving], levels[i, leaving], height)
        np.add(wrong[: 1 << i], missing, out=wrong[1 << i : 2 << i])
        ranked = _rank(ranked, levels[i] << _BITS | i)
    if rule == "threshold":
        wrong += _avoiding(ranked[:, ~outputs.correct[-1]], height, height)
    else:
        wrong += _wrong_at_the_end(outputs, levels, height)
    remaining = _avoiding(ranked, height, height)  # F of the module's docstring
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
    """Yields the scores of `score_shared` in pieces of about a million policies, with rising thresholds.

    A piece with its temporary arrays takes less than 100 MB, plus 20 C N bytes for the samples.

    Args:
        outputs: Outputs of E exits: all candidates and the final one.
        costs: Costs of the same exits.
        thresholds: (T,), in any order. A threshold that occurs twice is scored twice.
        rule: Which exit answers a sample that no placed exit is confident of.

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
    """Returns the exact accuracy and average BOPs of every set of exits under each shared threshold.

    Arguments and errors are the same as for `score_slabs`. The rows of the result are in the order of ``thresholds``.
    """
    grid = np.asarray(thresholds, dtype=np.float64).ravel()
    places = np.argsort(np.argsort(grid, kind="stable"))
    slabs = list(score_slabs(outputs, costs, grid, rule))
    accuracy = np.concatenate([slab.accuracy for slab in slabs])[places]
    bops = np.concatenate([slab.bops for slab in slabs])[places]
    return PolicyScores(accuracy, bops, grid, outputs.candidates)
