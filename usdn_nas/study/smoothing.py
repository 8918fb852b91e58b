"""What configurations are worth in the light of all others: noise averaged out over those that share choices.

An inherited accuracy is that of one supernet on one set of images. Where many configurations were evaluated, the model
in which every value of every parameter adds a share of its own,

    V(bits) ~ mean + sum_p share_p(bits_p),

says what is common to them and leaves out what each has by chance; it orders configurations more as retraining does
(docs/supernet.md). It is fitted by ridge regression, its penalty by leave-one-out cross-validation.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import RidgeCV

__all__ = ["smoothed"]

_PENALTIES = np.geomspace(1e-3, 1e3, 13)
"""In configurations: at 10, the share of a value that 10 configurations took is drawn about halfway to 0."""

Array = NDArray[np.float64]


def smoothed(codes: NDArray[np.int64], values: Array) -> Array:
    """``values`` as the model has them.

    Args:
        codes: (n, P) ranks of the parameters' values, n >= 1.
        values: (n, L), L values of each configuration, each fitted by itself; the penalty is theirs in common.

    Returns:
        (n, L).
    """
    if len(codes) == 1:
        return values.copy()
    taken = codes[:, :, None] == np.arange(codes.max() + 1)
    choices = taken.reshape(len(codes), -1).astype(np.float64)
    return np.asarray(RidgeCV(_PENALTIES).fit(choices, values).predict(choices)).reshape(values.shape)
