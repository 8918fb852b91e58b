"""Applies one exit policy to cached outputs: it finds where each sample leaves, the average cost and the accuracy.

BOPs are bit operations: multiply-accumulates x W bits x A bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from usdn_nas.exits.exact import check_names
from usdn_nas.exits.outputs import ExitOutputs
from usdn_nas.space.architecture import Rule
from usdn_nas.space.cost import ExitCosts

__all__ = ["PolicyResult", "apply"]


@dataclass(frozen=True)
class PolicyResult:
    """Result of a policy on N samples with E exits (the placed ones and the final one).

    Attributes:
        accuracy: Fraction of samples that are answered right.
        average_bops: Mean BOPs of a sample, up to the exit where its computation stops.
        exit_rates: (E,) fraction of samples that stop at each exit. It sums to 1.
        leaves_at: (N,) index of the exit where computation stops.
        answers_at: (N,) index of the exit whose class is the answer. It differs from ``leaves_at`` only under the
            rule ``most-confident``.
        accuracy_leaving: (E,) accuracy of the samples that stop at each exit. NaN if no sample stops there.
    """

    accuracy: float
    average_bops: float
    exit_rates: NDArray[np.float64]
    leaves_at: NDArray[np.intp]
    answers_at: NDArray[np.intp]
    accuracy_leaving: NDArray[np.float64]


def apply(
    outputs: ExitOutputs, costs: ExitCosts, thresholds: Sequence[float], rule: Rule = "threshold"
) -> PolicyResult:
    """Applies a policy: a sample leaves at the first exit whose confidence is >= its threshold, or at the last exit.

    Args:
        outputs: Outputs of the placed exits and the final one (`ExitOutputs.placed`).
        costs: Costs of the same exits (`ExitCosts.placed`).
        thresholds: One for each exit but the final one.
        rule: Which exit answers a sample that no placed exit is confident of.

    Raises:
        ValueError: The exits of ``outputs``, ``costs`` and ``thresholds`` do not fit together.
    """
    check_names(outputs, costs)
    exits = len(outputs.names)
    if len(thresholds) != exits - 1:
        raise ValueError(f"expected {exits - 1} thresholds for exits {outputs.candidates}, got {len(thresholds)}")
    accepts = np.ones(outputs.confidence.shape, dtype=bool)
    accepts[:-1] = outputs.confidence[:-1] >= np.asarray(thresholds, dtype=np.float64).reshape(-1, 1)
    leaves_at = accepts.argmax(axis=0)
    answers_at = np.where(leaves_at == exits - 1, outputs.answering(rule), leaves_at)
    right = outputs.correct[answers_at, np.arange(outputs.samples)]
    counts = np.bincount(leaves_at, minlength=exits)
    right_counts = np.bincount(leaves_at[right], minlength=exits)
    with np.errstate(invalid="ignore"):
        accuracy_leaving = right_counts / counts
    return PolicyResult(
        accuracy=int(right.sum()) / outputs.samples,
        average_bops=int(counts @ costs.cumulative) / outputs.samples,
        exit_rates=counts / outputs.samples,
        leaves_at=leaves_at,
        answers_at=answers_at,
        accuracy_leaving=accuracy_leaving,
    )
