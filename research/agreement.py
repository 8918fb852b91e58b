"""How well one score orders configurations by another, within strata and overall, and how well it could at all.

*Pooled* coefficients look at pairs of one stratum only and add them up over the strata. With signs of differences
a_ij and b_ij, sums over the pairs i < j of one stratum,

    tau = sum a_ij b_ij / sqrt(sum |a_ij| sum |b_ij|),

which is Kendall's tau-b where there is one stratum. With ranks taken within each stratum and their means taken off,

    rho = sum r_i s_i / sqrt(sum r_i^2 sum s_i^2),

which is Spearman's rho where there is one.

The *ceiling* is what a perfect score would reach. Model, for configuration c of stratum g, retrained with seed s:

    y_cs = m_c + e_cs,   var m_c = M_g within the stratum,   var e_cs = E_g

E_g is the mean over c of the variance over the S seeds. The variance over c of the means y_c over seeds is, on average,
M_g + E_g / S, so that M_g = max(0, var y_c - E_g / S). The m_c themselves are not known; the y_c, drawn towards their
mean until their variance is M_g, stand for them. Drawn again and again are a score m_c + u_c and a new mean over S
retrainings, m_c + e_c with var e_c = E_g / S; the ceiling is the mean of the coefficient between the two.

u_c is 0 for a score that is as good as retraining with infinitely many seeds and looking at the same images: what the
images do to a single network is in E_g, what they do to all networks of a configuration is in m_c. A score that orders
as well but has an evaluation noise of its own, of the variance that `evaluation_noise` gives, reaches less.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

__all__ = [
    "Ceiling",
    "Coefficient",
    "Floats",
    "ceiling",
    "evaluation_noise",
    "interval",
    "resamples",
    "rho",
    "tau",
    "winner_loss",
]

Floats = NDArray[np.float64]
Coefficient = Callable[[Floats, Floats, NDArray[np.int64]], float]


def tau(a: Floats, b: Floats, strata: NDArray[np.int64]) -> float:
    """Kendall's tau-b over the pairs of one stratum; a, b, strata (n,). NaN where either is constant."""
    pairs = strata[:, None] == strata[None, :]
    first, second = (np.sign(x[:, None] - x[None, :]) * pairs for x in (a, b))
    with np.errstate(invalid="ignore"):
        return float((first * second).sum() / np.sqrt(np.abs(first).sum() * np.abs(second).sum()))


def rho(a: Floats, b: Floats, strata: NDArray[np.int64]) -> float:
    """Spearman's rho with ranks taken within each stratum; a, b, strata (n,). NaN where either is constant."""
    first, second = (_centred_ranks(x, strata) for x in (a, b))
    with np.errstate(invalid="ignore"):
        return float((first * second).sum() / np.sqrt((first**2).sum() * (second**2).sum()))


def _centred_ranks(x: Floats, strata: NDArray[np.int64]) -> Floats:
    out = np.empty(len(x))
    for stratum in np.unique(strata):
        here = strata == stratum
        ranks = rankdata(x[here])
        out[here] = ranks - ranks.mean()
    return out


def resamples(strata: NDArray[np.int64], count: int, seed: int = 0) -> list[NDArray[np.intp]]:
    """``count`` bootstrap samples: indices drawn with replacement from each stratum, as many as it has."""
    generator = np.random.default_rng(seed)
    members = [np.flatnonzero(strata == stratum) for stratum in np.unique(strata)]
    return [np.concatenate([generator.choice(m, len(m)) for m in members]) for _ in range(count)]


def interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float]:
    """The middle ``level`` of ``values``; those that are NaN are left out."""
    low, high = np.nanquantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def evaluation_noise(parts: Floats) -> float:
    """Variance of the noise in each of n scores, each the mean of N parts (n, N), one for each image.

    Half the variance of a difference of two scores, the images being a random sample, mean over the pairs: what moves
    all scores alike is no noise in their order.
    """
    residual = parts - parts.mean(axis=0)
    return float(residual.var(axis=1).sum() / (len(parts) - 1) / parts.shape[1])


@dataclass(frozen=True)
class Ceiling:
    """What a perfect score would reach.

    Attributes:
        mean: Of the coefficient.
        low, high: The middle 95% of what such a score would give with these configurations.
    """

    mean: float
    low: float
    high: float


def ceiling(
    retrained: Floats,
    strata: NDArray[np.int64],
    coefficient: Coefficient,
    *,
    noise: Floats | float = 0.0,
    pairs: NDArray[np.int64] | None = None,
    draws: int = 1000,
    seed: int = 0,
) -> Ceiling:
    """The ceiling of ``coefficient``, by the model above.

    Args:
        retrained: (n, S), S >= 2 retrainings of each configuration.
        strata: (n,) those of the model.
        noise: Variance of u_c, (n,) or one for all.
        pairs: (n,) strata whose pairs the coefficient looks at; those of the model unless given.
    """
    generator = np.random.default_rng(seed)
    means, seeds = retrained.mean(axis=1), retrained.shape[1]
    true, spread = np.empty_like(means), np.empty_like(means)
    for stratum in np.unique(strata):
        here = strata == stratum
        of_mean = retrained[here].var(axis=1, ddof=1).mean() / seeds
        observed = means[here].var(ddof=1)
        share = np.sqrt(max(0.0, 1 - of_mean / observed)) if observed > 0 else 0.0
        true[here] = means[here].mean() + share * (means[here] - means[here].mean())
        spread[here] = np.sqrt(of_mean)
    pairs = strata if pairs is None else pairs
    deviation = np.sqrt(noise)
    found = []
    for _ in range(draws):
        score = true + deviation * generator.normal(size=len(true))
        found.append(coefficient(score, true + spread * generator.normal(size=len(true)), pairs))
    orders = np.nan_to_num(found)  # a score that is constant orders nothing
    return Ceiling(float(orders.mean()), *interval(orders))


def winner_loss(score: Floats, retrained: Floats) -> list[float]:
    """What is lost by taking the configuration that ``score`` puts first: one figure for each seed held out.

    The other seeds' mean picks a configuration; the two are compared on the seed held out.

    Args:
        score: (n,).
        retrained: (n, S), S >= 2.
    """
    losses = []
    for seed in range(retrained.shape[1]):
        chosen = np.delete(retrained, seed, axis=1).mean(axis=1).argmax()
        losses.append(float(retrained[chosen, seed] - retrained[score.argmax(), seed]))
    return losses
