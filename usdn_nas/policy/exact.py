"""Every placement of exits scored exactly from cached outputs, for shared thresholds.

A *placement* S is a set of the C = E - 1 candidates, written as an integer whose bit i says that candidate i is
placed; the final exit always is. With threshold t, sample n is *confident* at candidate i if its confidence there
is >= t, and leaves at the first placed exit where it is. Let F[T] count the samples confident at none of T, and
G_i[T] those that are confident and right at i and confident at none of T. Then, in totals over the samples,

    cost(S)     = sum over exits i of F[S & below(i)] * (BOPs of the segments between exits i - 1 and i
                                                         + [i in S] BOPs of head i)
    accuracy(S) = sum over placed i of G_i[S & below(i)]

with below(i) = the bits under i. F and G are histograms of the samples' C-bit patterns summed over subsets (a zeta
transform), so all 2^C placements of one threshold take O(C 2^C + C N) integer operations, with no rounding.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from usdn_nas.cost import ExitCosts
from usdn_nas.errors import UserError
from usdn_nas.policy.outputs import ExitOutputs

__all__ = ["MAX_CANDIDATES", "PolicyScores", "check_names", "score_shared", "threshold_grid", "too_many_candidates"]

MAX_CANDIDATES = 16
"""With more candidates, 2^C placements times thresholds no longer fit into memory and a trial's time."""

Counts = NDArray[np.int64]


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
        (T,) rising and distinct, T <= ``count``, each the confidence of some sample; the first lets every sample
        leave at the first placed exit. Without candidates: ``[1.0]``, which means nothing.
    """
    pooled = outputs.confidence[:-1].ravel()
    if not pooled.size:
        return np.ones(1)
    levels = np.arange(count) / count
    return np.unique(np.quantile(pooled, levels, method="higher").astype(np.float64))


def _avoiding(patterns: Counts, bits: int, rows: Counts, height: int) -> Counts:
    """(height, 2^bits): entry [r, T] counts the patterns of row r that share no bit with T."""
    size = 1 << bits
    table = np.bincount(rows * size + patterns, minlength=height * size).reshape(height, size)
    for bit in range(bits):
        # Over subsets, as in a zeta transform, with the complement folded in: T without the bit admits both.
        pairs = table.reshape(height, -1, 2, 1 << bit)
        pairs[:, :, 0] += pairs[:, :, 1].copy()
        pairs[:, :, 1] = pairs[:, :, 0] - pairs[:, :, 1]
    return table


def too_many_candidates(count: int) -> UserError:
    """What is raised beyond `MAX_CANDIDATES`."""
    return UserError(
        f"exact scoring takes at most {MAX_CANDIDATES} candidate exits, got {count}",
        where="exits.candidates",
        remedy='name fewer candidates, or set search.exits = "sampled"',
    )


def score_shared(outputs: ExitOutputs, costs: ExitCosts, thresholds: ArrayLike) -> PolicyScores:
    """Accuracy and average BOPs of every placement under each shared threshold, exactly.

    Args:
        outputs: E exits, all candidates attached.
        costs: Of the same exits.
        thresholds: (T,).

    Raises:
        UserError: More than `MAX_CANDIDATES` candidates.
    """
    check_names(outputs, costs)
    grid = np.atleast_1d(np.asarray(thresholds, dtype=np.float64))
    candidates = len(outputs.names) - 1
    if candidates > MAX_CANDIDATES:
        raise too_many_candidates(candidates)
    height = len(grid)
    confident = outputs.confidence[:-1, None, :] >= grid[:, None]  # (C, T, N)
    patterns: Counts = np.zeros(height * outputs.samples, dtype=np.int64)
    for i in range(candidates):
        patterns |= confident[i].ravel().astype(np.int64) << i
    rows = np.repeat(np.arange(height), outputs.samples)
    remaining = _avoiding(patterns, candidates, rows, height)  # F, (T, 2^C)
    cost = np.zeros((height, 1), dtype=np.int64)
    right = np.zeros((height, 1), dtype=np.int64)
    segments = np.diff(costs.chain, prepend=0)
    for i in range(candidates):
        # Tables over placements of the exits below i double: without exit i, then with it.
        leaving = np.flatnonzero(confident[i] & outputs.correct[i])
        gained = _avoiding(patterns[leaving] & ((1 << i) - 1), i, rows[leaving], height)
        reached = remaining[:, : 1 << i]
        cost = cost + reached * segments[i]
        cost = np.concatenate([cost, cost + reached * costs.heads[i]], axis=1)
        right = np.concatenate([right, right + gained], axis=1)
    last = np.flatnonzero(np.broadcast_to(outputs.correct[-1], (height, outputs.samples)))
    right = right + _avoiding(patterns[last], candidates, rows[last], height)
    cost = cost + remaining * (segments[-1] + costs.heads[-1])
    return PolicyScores(right / outputs.samples, cost / outputs.samples, grid, outputs.candidates)
