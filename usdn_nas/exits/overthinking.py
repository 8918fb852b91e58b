"""Overthinking and confusion of a network with internal classifiers (Kaya et al., 2019)."""

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
    """How much later exits waste, and spoil.

    Attributes:
        wasteful: Share of the samples that the final exit has right, and an earlier one too.
        destructive: Share that the final exit has wrong, but an earlier one right.
        oracle_accuracy: Accuracy where each sample is answered by the first exit that has it right.
        oracle_bops: Average BOPs of that; a sample that no exit has right runs to the end.
        first_right: (E,) share of the samples that each exit is the first to have right.
    """

    wasteful: float
    destructive: float
    oracle_accuracy: float
    oracle_bops: float
    first_right: NDArray[np.float64]


def overthinking(outputs: ExitOutputs, costs: ExitCosts) -> Overthinking:
    """What an oracle that stops at the first right exit would gain."""
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
    """(N,) confusion: sum over internal classifiers of the L1 distance of their softmax to the final exit's.

    Args:
        probabilities: (E, N, C) softmax of each exit, the final one last.

    Raises:
        ValueError: The shape is another.
    """
    p = np.asarray(probabilities, dtype=np.float64)
    if p.ndim != 3:
        raise ValueError(f"expected (E, N, C), got {p.shape}")
    return np.asarray(np.abs(p[:-1] - p[-1]).sum(axis=(0, 2)))
