"""Thresholds midway between neighbouring confidences, so that rounding does not decide who leaves.

A threshold that equals the confidence of a sample is fragile: the same network rounds differently at another batch
size, and the sample may then stay. A threshold midway to the next lower confidence makes the same decisions, and it
still makes them when confidences move by less than half the gap.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["EVERYONE", "cuts"]

EVERYONE = 0.0
"""A threshold that every confidence reaches."""


def cuts(rising: NDArray[np.float32], lowest: NDArray[np.float32]) -> NDArray[np.float64]:
    """Returns thresholds: one for each confidence in ``lowest``, which only this and greater confidences reach.

    The threshold is a float32 number strictly between the confidence and the next lower one in ``rising``. If there is
    no float32 number between the two, it is the confidence itself. If no confidence is lower, it is `EVERYONE`. It is
    returned as float64, because policies compare in float64 and JSON keeps all its digits.

    Args:
        rising: (n,) confidences in rising order; some may be equal.
        lowest: (k,) values that occur in ``rising``.

    Returns:
        (k,) thresholds.
    """
    first = np.searchsorted(rising, lowest, side="left")
    at = lowest.astype(np.float64)
    below = rising[first - 1].astype(np.float64)  # not used where first is 0
    middle = ((below + at) / 2).astype(np.float32).astype(np.float64)
    between = (below < middle) & (middle < at)
    return np.where(first == 0, EVERYONE, np.where(between, middle, at))
