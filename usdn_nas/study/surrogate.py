"""A model that predicts the best score of a bit configuration at every trade-off. It is learned from the trials.

V_lambda(bits) is the greatest accuracy - lambda x relative BOPs (bit operations) over all exit policies of a
configuration, computed exactly from its cached outputs. The model is a Gaussian process for each lambda. Its covariance
has a part of the first order and a part of all orders (additive Gaussian processes, Duvenaud et al. 2011; the second
part stands for all orders above the first),

    k(x, y) = 1/P sum_p exp(-|x_p - y_p| / l)  +  b exp(-sum_p |x_p - y_p| / (P m))

with P parameters, where x_p and y_p are ranks in the list of the parameter's values. The correlations are the same for
every lambda, so that one Cholesky factor serves all of them. Each lambda has its own mean and scale. The
hyperparameters b and m and the noise maximize the marginal likelihood, summed over the lambdas, on a grid.
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
"""The length l of the first-order part."""

_TINY = 1e-12
_MOST_FOR_LIKELIHOOD = 256


@dataclass(frozen=True)
class Covariance:
    """Hyperparameters of the covariance. Variances are in units of the variance of the first-order part.

    Attributes:
        product: Variance of the part of all orders (b in the module's docstring).
        product_length: Length of that part (m in the module's docstring), in ranks of one parameter.
        noise: Variance of the noise, which is independent for every configuration.
    """

    product: float = 1.0
    product_length: float = 1.0
    noise: float = 0.1

    @property
    def variance(self) -> float:
        """Prior variance of any configuration, without noise."""
        return 1.0 + self.product

    def between(self, x: Codes, y: Codes) -> Array:
        """Returns the (n, m) covariances of configurations ``x`` (n, P) with ``y`` (m, P), without noise."""
        return self.of(*relations(x, y))

    def of(self, first: Array, distance: Array) -> Array:
        """Returns the (n, m) covariances from the two results of `relations`."""
        return np.asarray(first + self.product * np.exp(distance * (-1 / self.product_length)))


def relations(x: Codes, y: Codes) -> tuple[Array, Array]:
    """Returns two (n, m) arrays: the covariances of the first order, and the mean distance in ranks.

    Both are means over the parameters of a function of two ranks. They are computed as products of a table of that
    function with one-hot encodings of the ranks.

    Args:
        x: (n, P) configurations.
        y: (m, P) configurations.
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
    """A fitted covariance: lower Cholesky factor (n, n), whitened residuals (n, L), scale (L,) and log-likelihood."""

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
        """Returns the posterior of configurations (m, P)."""
        between = self.covariance.between(codes, self.codes)
        explained = solve_triangular(self._factor, between.T, lower=True, check_finite=False)
        variance = self.covariance.variance - np.einsum("nm,nm->m", explained, explained)
        mean = self.mean + between @ self._weights
        return Posterior(codes, mean, np.maximum(variance, _TINY), self.scale, self.covariance, [explained])

    def first_order(self, levels: int) -> Array:
        """Returns the contribution of each parameter and rank to the posterior mean, from the first-order part alone.

        Args:
            levels: Number of ranks.

        Returns:
            (P, levels, L).
        """
        ranks = np.arange(levels)
        k = np.exp(-np.abs(ranks[:, None, None] - self.codes[None]) / FIRST_ORDER_LENGTH)  # (levels, n, P)
        return np.einsum("vnp,nl->pvl", k, self._weights) / self.codes.shape[1]


@dataclass
class Posterior:
    """The posterior of m configurations.

    Attributes:
        codes: (m, P) ranks.
        mean: (m, L) means.
        variance: (m,) variances in units of ``scale`` squared; they are the same for all lambdas.
        scale: (L,) scale of each lambda.
        covariance: Hyperparameters of the model.
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
        """Returns (m,) upper confidence bounds of one V_lambda: the mean plus this many standard deviations.

        ``trade_off`` is the index of the lambda.
        """
        return np.asarray(self.mean[:, trade_off] + deviations * np.sqrt(self.variance) * self.scale[trade_off])

    def pend(self, index: int) -> None:
        """Treats configuration ``index`` as observed: the means stay the same, and the variances fall."""
        row = self.covariance.between(self.codes, self.codes[index : index + 1])[:, 0]
        for explained in self._explained:
            row = row - explained.T @ explained[:, index]
        row /= np.sqrt(self.variance[index] + self.covariance.noise)
        self._explained.append(row[None])
        self.variance = np.maximum(self.variance - row**2, _TINY)
