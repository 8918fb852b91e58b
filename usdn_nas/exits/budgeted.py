"""Evaluation with a budget for a whole batch, as MSDNet's authors do it (Huang et al., 2018).

Thresholds are computed on one split and applied to another. They must be computed on images without augmentation.
BOPs are bit operations: multiply-accumulates x W bits x A bits.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from usdn_nas.exits.apply import PolicyResult, apply
from usdn_nas.exits.cuts import cuts
from usdn_nas.exits.outputs import ExitOutputs
from usdn_nas.space.architecture import Rule
from usdn_nas.space.cost import ExitCosts

__all__ = ["SHARES", "BudgetedPoint", "budgeted_curve", "exit_shares", "thresholds_for_shares"]

SHARES = tuple(p / 20 for p in range(1, 40))
"""Ratios q that the authors try. With ratio q, each exit answers q times as many samples as the exit before it."""

NEVER = 1.1
"""A threshold that no confidence reaches."""


@dataclass(frozen=True)
class BudgetedPoint:
    """A policy for a batch of samples.

    Attributes:
        ratio: The ratio q. The shares of the exits are in proportion to q, q^2 and so on.
        thresholds: One for each exit but the final one. A threshold above 1 lets no sample leave.
        result: Result on the split that the policy is applied to.
    """

    ratio: float
    thresholds: tuple[float, ...]
    result: PolicyResult


def exit_shares(ratio: float, exits: int) -> NDArray[np.float64]:
    """Returns (E,) shares in proportion to ratio^k for k = 1 to E. They sum to 1."""
    shares = np.power(ratio, np.arange(1, exits + 1, dtype=np.float64))
    return np.asarray(shares / shares.sum())


def thresholds_for_shares(outputs: ExitOutputs, shares: Sequence[float] | NDArray[np.float64]) -> tuple[float, ...]:
    """Returns thresholds with which about the given shares of the samples leave at each exit.

    At each exit in turn, the floor(N x share) most confident samples that are still there leave, together with any
    others that are as confident as the last of these. The threshold is midway between that confidence and the highest
    confidence of a sample that stays, or 0 if none stays. (The authors use the confidence of the last sample that
    leaves. The same samples leave in both cases.) No sample leaves if the share is less than one sample, or if fewer
    samples are still there than should leave, as in the authors' code.

    Args:
        outputs: Outputs of E exits on the split that thresholds are computed on.
        shares: (E,) shares of the samples. The last one is not used.
    """
    left = np.ones(outputs.samples, dtype=bool)
    thresholds = []
    for confidence, share in zip(outputs.confidence[:-1], shares, strict=False):
        count = math.floor(outputs.samples * float(share))
        among = np.sort(confidence[left])
        threshold = float(cuts(among, among[-count, None])[0]) if 0 < count <= len(among) else NEVER
        left &= confidence < threshold
        thresholds.append(threshold)
    return tuple(thresholds)


def budgeted_curve(
    fit: ExitOutputs,
    outputs: ExitOutputs,
    costs: ExitCosts,
    ratios: Sequence[float] = SHARES,
    rule: Rule = "threshold",
) -> Iterator[BudgetedPoint]:
    """Yields one point for each ratio, with thresholds computed on ``fit`` and the result on ``outputs``.

    Args:
        fit: Outputs on the split that thresholds are computed on.
        outputs: Outputs of the same exits on the split that they are applied to.
        costs: Costs of the same exits.
        ratios: The ratios q.
        rule: Which exit answers a sample that no placed exit is confident of.

    Raises:
        ValueError: ``fit`` and ``outputs`` have different exits.
    """
    if fit.names != outputs.names:
        raise ValueError(f"expected the same exits, got {fit.names} and {outputs.names}")
    for ratio in ratios:
        thresholds = thresholds_for_shares(fit, exit_shares(ratio, len(fit.names)))
        yield BudgetedPoint(ratio, thresholds, apply(outputs, costs, thresholds, rule))
