"""Overthinking and confusion of a network with internal classifiers (Kaya et al., 2019).

A network overthinks a sample if an earlier exit already answers it right. BOPs are bit operations.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from usdn_nas.exits.exact import check_names
from usdn_nas.exits.outputs import ExitOutputs
from usdn_nas.space.cost import ExitCosts

__all__ = ["Overthinking", "confusion", "overthinking"]


@dataclass(frozen=True)
class Overthinking:
    """Measures how much computation later exits waste, and how many right answers they destroy.

    Attributes:
        wasteful: Share of the samples that the final exit and an earlier one answer right.
        destructive: Share of the samples that the final exit answers wrong, but an earlier one right.
        oracle_accuracy: Accuracy if each sample is answered by the first exit that answers it right.
        oracle_bops: Average BOPs in that case. A sample that no exit answers right runs to the end.
        first_right: (E,) share of the samples that each exit is the first to answer right.
    """

    wasteful: float
    destructive: float
    oracle_accuracy: float
    oracle_bops: float
    first_right: NDArray[np.float64]


def overthinking(outputs: ExitOutputs, costs: ExitCosts) -> Overthinking:
    """Computes overthinking: the gain of an oracle that stops at the first exit with the right answer."""
    check_names(outputs, costs)
    correct = outputs.correct
    earlier, final, ever = correct[:-1].any(axis=0), correct[-1], correct.any(axis=0)
    stops = np.where(ever, correct.argmax(axis=0), len(correct) - 1)
    counts = np.bincount(stops[ever], minlength=len(correct))
    return Overthinking(
        wasteful=float((earlier & final).mean()),
        destructive=float((earlier & ~final).mean()),
        oracle_accuracy=float(ever.mean()),
        oracle_bops=float(costs.cumulative[stops].mean()),
        first_right=counts / outputs.samples,
    )


def confusion(probabilities: ArrayLike) -> NDArray[np.float64]:
    """Returns the (N,) confusion: the sum, over internal classifiers, of the L1 distance between their softmax and that
    of the final exit.

    Args:
        probabilities: (E, N, C) softmax of each exit; the final exit is the last.

    Raises:
        ValueError: ``probabilities`` does not have three dimensions.
    """
    p = np.asarray(probabilities, dtype=np.float64)
    if p.ndim != 3:
        raise ValueError(f"expected (E, N, C), got {p.shape}")
    return np.asarray(np.abs(p[:-1] - p[-1]).sum(axis=(0, 2)))
