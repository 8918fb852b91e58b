"""Smooths the values of configurations: noise is averaged out over configurations that share choices.

The accuracy that a configuration inherits is measured with one supernet on one set of images, and therefore noisy. If
many configurations were evaluated, an additive model describes their values V,

    V(bits) ~ mean + sum_p share_p(bits_p),

in which every value of every parameter adds a share of its own. The model keeps what configurations have in common and
drops their individual noise. It ranks configurations more like retraining does (docs/supernet.md). It is fitted by
ridge regression, with a penalty chosen by leave-one-out cross-validation.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import RidgeCV

__all__ = ["smoothed"]

_PENALTIES = np.geomspace(1e-3, 1e3, 13)
"""Penalties to choose from, in units of configurations.

A penalty of 10 pulls the share of a value that 10 configurations have about halfway to 0.
"""

Array = NDArray[np.float64]


def smoothed(codes: NDArray[np.int64], values: Array) -> Array:
    """Returns the model's values in place of the measured ``values``.

    Args:
        codes: (n, P) ranks of the parameters' values, n >= 1.
        values: (n, L), L values of each configuration. Each of the L is fitted by itself, with a common penalty.

    Returns:
        (n, L) smoothed values.
    """
    if len(codes) == 1:
        return values.copy()
    taken = codes[:, :, None] == np.arange(codes.max() + 1)
    choices = taken.reshape(len(codes), -1).astype(np.float64)
    return np.asarray(RidgeCV(_PENALTIES).fit(choices, values).predict(choices)).reshape(values.shape)
