"""Calibration of confidences: expected and maximum calibration error (ECE, MCE), reliability bins, temperatures.

It also measures how well the confidence separates right from wrong answers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp
from sklearn.metrics import roc_auc_score

__all__ = ["Calibration", "ReliabilityBin", "auroc", "calibration", "fit_temperature"]

_TEMPERATURES = (0.05, 20.0)


@dataclass(frozen=True)
class ReliabilityBin:
    """One bin (lo, hi] of a reliability diagram. ``confidence`` and ``accuracy`` are means; None if it is empty."""

    lo: float
    hi: float
    count: int
    confidence: float | None
    accuracy: float | None


@dataclass(frozen=True)
class Calibration:
    """Calibration of one exit over n samples.

    Attributes:
        ece: Expected calibration error: mean of |confidence - accuracy| over bins, weighted by count.
        mce: Maximum calibration error: the largest |confidence - accuracy| of a bin that is not empty.
        signed_gap: mean(confidence) - accuracy; negative means underconfident.
        n: Number of samples.
        bins: Equal-width bins by rising confidence, empty ones included.
    """

    ece: float
    mce: float
    signed_gap: float
    n: int
    bins: list[ReliabilityBin]


def calibration(confidence: ArrayLike, correct: ArrayLike, bins: int = 15) -> Calibration:
    """Computes ECE and MCE of the top-1 confidence with equal-width bins (Naeini et al. 2015; Guo et al. 2017).

    Bins are (lo, hi], as in Guo et al. A confidence of 0 belongs to the first bin, and a confidence of exactly 1.0 to
    the last. torchmetrics uses bins [lo, hi) instead. It puts 1.0, which a float32 softmax does reach, into an extra
    bin after the last. Its figures differ from these if both that bin and the last one contain samples.

    Args:
        confidence: (N,) in [0, 1].
        correct: (N,) bool.
        bins: Number of bins.

    Raises:
        ValueError: There are no samples, or the shapes differ.
    """
    c, r = np.asarray(confidence, dtype=np.float64), np.asarray(correct, dtype=bool)
    if c.ndim != 1 or c.shape != r.shape or not c.size:
        raise ValueError(f"expected (N,) twice, N >= 1, got {c.shape} and {r.shape}")
    edges = np.linspace(0, 1, bins + 1)
    index = np.minimum(np.searchsorted(edges[1:], c, side="left"), bins - 1)
    counts = np.bincount(index, minlength=bins)
    filled = counts > 0
    safe = np.maximum(counts, 1)
    mean_confidence = np.bincount(index, weights=c, minlength=bins) / safe
    accuracy = np.bincount(index, weights=r, minlength=bins) / safe
    gaps = np.abs(mean_confidence - accuracy)
    return Calibration(
        ece=float((gaps * counts).sum() / c.size),
        mce=float(gaps[filled].max()),
        signed_gap=float(c.mean() - r.mean()),
        n=int(c.size),
        bins=[
            ReliabilityBin(
                float(edges[i]),
                float(edges[i + 1]),
                int(counts[i]),
                float(mean_confidence[i]) if filled[i] else None,
                float(accuracy[i]) if filled[i] else None,
            )
            for i in range(bins)
        ],
    )


def auroc(confidence: ArrayLike, correct: ArrayLike) -> float:
    """Returns the area under the ROC curve of the confidence as a predictor of right answers.

    It is 1 if the confidence separates right from wrong answers perfectly, and 0.5 if it says nothing about them. NaN
    if all answers are right or all are wrong, because the area is not defined then.
    """
    r = np.asarray(correct, dtype=bool)
    if r.all() or not r.any():
        return float("nan")
    return float(roc_auc_score(r, np.asarray(confidence, dtype=np.float64)))


def fit_temperature(logits: ArrayLike, labels: ArrayLike) -> float:
    """Returns the temperature T for temperature scaling (Guo et al. 2017).

    It is the T in [0.05, 20] that minimizes the mean negative log-likelihood of softmax(logits / T).

    Args:
        logits: (N, C) logits of the images on which T is fitted.
        labels: (N,) their labels.
    """
    z, y = np.asarray(logits, dtype=np.float64), np.asarray(labels, dtype=np.int64)
    mean_of_labels = z[np.arange(len(y)), y].mean()

    def loss(log_temperature: float) -> float:
        inverse = np.exp(-log_temperature)
        return float(logsumexp(z * inverse, axis=1).mean() - mean_of_labels * inverse)

    low, high = np.log(_TEMPERATURES)
    # The loss is convex in 1 / T, so that it has a single minimum in log T too.
    return float(np.exp(minimize_scalar(loss, bounds=(low, high), method="bounded", options={"xatol": 1e-6}).x))
