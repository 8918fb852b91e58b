"""A model of what a bit configuration is worth at every trade-off, learned from the trials.

V_lambda(bits) is the greatest accuracy - lambda x relative BOPs over all exit policies of a configuration, exact from
its cached outputs. For each lambda it is a Gaussian process whose covariance has a part of the first order and one of
all orders (additive Gaussian processes, Duvenaud et al. 2011, with the orders between left to the last),

    k(x, y) = 1/P sum_p exp(-|x_p - y_p| / l)  +  b exp(-sum_p |x_p - y_p| / (P m))

with P parameters and values as ranks in the parameter's list. The correlations are the same for every lambda, so that
one Cholesky factor serves all; mean and scale are each lambda's own. The hyperparameters b, m and the noise are those
of the greatest marginal likelihood, summed over the lambdas, on a grid.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cholesky, solve_triangular

__all__ = ["Covariance", "Posterior", "Surrogate"]

Array = NDArray[np.float64]
Codes = NDArray[np.int64]

FIRST_ORDER_LENGTH = 4.0
"""l above."""

_TINY = 1e-12
_MOST_FOR_LIKELIHOOD = 256


@dataclass(frozen=True)
class Covariance:
    """Hyperparameters; variances are in units of the first order's.

    Attributes:
        product: Variance of all orders (b above).
        product_length: Its length (m above), in ranks of one parameter.
        noise: Variance that no configuration shares with another.
    """

    product: float = 1.0
    product_length: float = 1.0
    noise: float = 0.1

    @property
    def variance(self) -> float:
        """Of any configuration, without noise."""
        return 1.0 + self.product

    def between(self, x: Codes, y: Codes) -> Array:
        """(n, m) covariances of configurations ``x`` (n, P) with ``y`` (m, P), without noise."""
        return self.of(*relations(x, y))

    def of(self, first: Array, distance: Array) -> Array:
        """(n, m) covariances from what `relations` gives."""
        return np.asarray(first + self.product * np.exp(distance * (-1 / self.product_length)))


def relations(x: Codes, y: Codes) -> tuple[Array, Array]:
    """(n, m) each: the first order's covariances, and the mean distance in ranks.

    Both are sums over the parameters of what a table says of two ranks: products with one-hot encodings.
    """
    parameters = x.shape[1]
    ranks = np.arange(max(int(x.max()), int(y.max())) + 1)
    apart = np.abs(ranks[:, None] - ranks)
    ones_x, ones_y = ((codes[:, :, None] == ranks).astype(np.float64) for codes in (x, y))
    shape = (-1, parameters * len(ranks))
    first, distance = (
        ones_x.reshape(shape) @ (ones_y @ table).reshape(shape).T / parameters
        for table in (np.exp(-apart / FIRST_ORDER_LENGTH), apart)
    )
    return first, distance


_GRID = tuple(
    Covariance(product=product, product_length=length, noise=noise)
    for product, length, noise in itertools.product((0.3, 1.0, 3.0), (0.3, 1.0), (1e-3, 1e-2, 0.1, 0.5))
)


@dataclass(frozen=True)
class _Fit:
    """One covariance fitted: lower Cholesky factor (n, n), whitened residuals (n, L), scale (L,), log-likelihood."""

    covariance: Covariance
    factor: Array
    white: Array
    scale: Array
    likelihood: float


def _fit(covariance: Covariance, related: tuple[Array, Array], residuals: Array) -> _Fit:
    matrix = covariance.of(*related)
    matrix[np.diag_indices_from(matrix)] += covariance.noise
    factor = cholesky(matrix, lower=True, overwrite_a=True, check_finite=False)
    white = solve_triangular(factor, residuals, lower=True, check_finite=False)
    scale = np.sqrt((white**2).mean(axis=0) + _TINY)
    determinant = np.log(np.diag(factor)).sum()
    likelihood = -len(residuals) * np.log(scale).sum() - residuals.shape[1] * determinant
    return _Fit(covariance, factor, white, scale, float(likelihood))


class Surrogate:
    """The Gaussian processes, fitted to n configurations.

    Args:
        codes: (n, P) ranks of the parameters' values, n >= 1.
        values: (n, L), V_lambda for each of L lambdas.
        grid: Hyperparameters to choose from.
    """

    def __init__(self, codes: Codes, values: Array, grid: Sequence[Covariance] = _GRID) -> None:
        self.mean = values.mean(axis=0)
        residuals = values - self.mean
        few = slice(None, None, -(-len(codes) // _MOST_FOR_LIKELIHOOD))
        related = relations(codes[few], codes[few])
        fit = max((_fit(one, related, residuals[few]) for one in grid), key=lambda fit: fit.likelihood)
        if len(fit.factor) < len(codes):
            fit = _fit(fit.covariance, relations(codes, codes), residuals)
        self.codes, self.covariance, self.scale, self._factor = codes, fit.covariance, fit.scale, fit.factor
        self._weights = solve_triangular(fit.factor, fit.white, lower=True, trans=1, check_finite=False)

    def predict(self, codes: Codes) -> Posterior:
        """What is believed of configurations (m, P)."""
        between = self.covariance.between(codes, self.codes)
        explained = solve_triangular(self._factor, between.T, lower=True, check_finite=False)
        variance = self.covariance.variance - np.einsum("nm,nm->m", explained, explained)
        mean = self.mean + between @ self._weights
        return Posterior(codes, mean, np.maximum(variance, _TINY), self.scale, self.covariance, [explained])

    def first_order(self, levels: int) -> Array:
        """(P, levels, L): the first order's share of the posterior mean, for each parameter and rank."""
        ranks = np.arange(levels)
        k = np.exp(-np.abs(ranks[:, None, None] - self.codes[None]) / FIRST_ORDER_LENGTH)  # (levels, n, P)
        return np.einsum("vnp,nl->pvl", k, self._weights) / self.codes.shape[1]


@dataclass
class Posterior:
    """What is believed of m configurations.

    Attributes:
        codes: (m, P).
        mean: (m, L).
        variance: (m,), of all lambdas in units of ``scale``'s square.
        scale: (L,).
    """

    codes: Codes
    mean: Array
    variance: Array
    scale: Array
    covariance: Covariance
    _explained: list[Array]

    @property
    def deviation(self) -> Array:
        """(m, L) standard deviations."""
        return np.asarray(np.sqrt(self.variance)[:, None] * self.scale)

    def bound(self, trade_off: int, deviations: float) -> Array:
        """(m,) upper confidence bounds of one V_lambda: so many standard deviations above the mean."""
        return np.asarray(self.mean[:, trade_off] + deviations * np.sqrt(self.variance) * self.scale[trade_off])

    def pend(self, index: int) -> None:
        """Takes configuration ``index`` for one whose value will be known: the mean stays, the variance falls."""
        row = self.covariance.between(self.codes, self.codes[index : index + 1])[:, 0]
        for explained in self._explained:
            row = row - explained.T @ explained[:, index]
        row /= np.sqrt(self.variance[index] + self.covariance.noise)
        self._explained.append(row[None])
        self.variance = np.maximum(self.variance - row**2, _TINY)
