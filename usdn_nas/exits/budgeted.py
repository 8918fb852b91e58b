"""Budgeted batches, as MSDNet's authors evaluate them (Huang et al., 2018).

Thresholds are read off one split and applied to another: fit them on images without augmentation.
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
"""Ratios q of the exit shares that the authors try: each exit answers q times as many samples as the one before."""

NEVER = 1.1
"""A threshold that no confidence reaches."""


@dataclass(frozen=True)
class BudgetedPoint:
    """A policy for a batch of samples.

    Attributes:
        ratio: q, with exit shares in proportion to q, q^2 ...
        thresholds: One for each exit but the final one; above 1 where nobody is to leave.
        result: On the split that it is applied to.
    """

    ratio: float
    thresholds: tuple[float, ...]
    result: PolicyResult


def exit_shares(ratio: float, exits: int) -> NDArray[np.float64]:
    """(E,) shares in proportion to ratio^k, k = 1 to E; they sum to 1."""
    shares = np.power(ratio, np.arange(1, exits + 1, dtype=np.float64))
    return np.asarray(shares / shares.sum())


def thresholds_for_shares(outputs: ExitOutputs, shares: Sequence[float] | NDArray[np.float64]) -> tuple[float, ...]:
    """Thresholds with which about these shares of the samples leave at each exit.

    At each exit in turn the most confident of the samples still there leave, floor(N x share) of them, and those that
    are as confident as the last of these. The threshold is midway to the most confident of those that stay, 0 where
    none stays. (The authors take the confidence of the last that leaves; the same samples leave.) An exit whose share
    is less than one sample lets none leave; where fewer samples are left than are to leave, none does either, as in
    the authors' code.

    Args:
        shares: (E,), the last of no effect.
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
    """One point for each ratio: thresholds from ``fit``, accuracy and average BOPs on ``outputs``."""
    if fit.names != outputs.names:
        raise ValueError(f"expected the same exits, got {fit.names} and {outputs.names}")
    for ratio in ratios:
        thresholds = thresholds_for_shares(fit, exit_shares(ratio, len(fit.names)))
        yield BudgetedPoint(ratio, thresholds, apply(outputs, costs, thresholds, rule))
