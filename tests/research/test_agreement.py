"""Coefficients beside SciPy's and beside loops; ceilings beside what is known of synthetic scores."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import kendalltau, spearmanr

sys.path.insert(0, str(Path(__file__).parents[2] / "research"))

from agreement import ceiling, evaluation_noise, interval, resamples, rho, tau, winner_loss

ONE = np.zeros(30, dtype=np.int64)


def scores(seed: int, ties: bool) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    a = generator.normal(size=30)
    b = a + generator.normal(size=30)
    return (np.round(a), np.round(b)) if ties else (a, b)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_one_stratum_is_scipys(seed: int, ties: bool) -> None:
    a, b = scores(seed, ties)
    assert tau(a, b, ONE) == pytest.approx(kendalltau(a, b).statistic)
    assert rho(a, b, ONE) == pytest.approx(spearmanr(a, b).statistic)


def test_pairs_of_different_strata_do_not_count() -> None:
    a, b = scores(0, ties=True)
    strata = np.arange(30) % 3
    both = first = second = 0
    for i, j in itertools.combinations(range(30), 2):
        if strata[i] == strata[j]:
            x, y = np.sign(a[i] - a[j]), np.sign(b[i] - b[j])
            both, first, second = both + x * y, first + abs(x), second + abs(y)
    assert tau(a, b, strata) == pytest.approx(both / (first * second) ** 0.5)
    # What sets the strata apart moves neither coefficient.
    assert tau(a + 100 * strata, b - 7 * strata, strata) == tau(a, b, strata)
    assert rho(a + 100 * strata, b - 7 * strata, strata) == pytest.approx(rho(a, b, strata))


def test_resamples_keep_the_strata() -> None:
    strata = np.repeat([0, 1, 4], [3, 5, 2])
    drawn = resamples(strata, 200)
    assert all(np.array_equal(np.sort(strata[one]), strata) for one in drawn)
    assert set(np.concatenate(drawn)) == set(range(10))


def test_interval_is_of_quantiles() -> None:
    assert interval([*range(101), np.nan], level=0.9) == pytest.approx((5, 95))


def test_evaluation_noise_is_half_the_variance_of_differences() -> None:
    generator = np.random.default_rng(0)
    parts = generator.normal(size=(4, 50)) + 5 * generator.normal(size=50)  # what all images share is no noise
    halves = [(a - b).var() / 2 / 50 for a, b in itertools.combinations(parts, 2)]
    assert evaluation_noise(parts) == pytest.approx(np.mean(halves))


@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_ceiling_of_synthetic_scores(noise: float) -> None:
    """Beside the coefficient that a perfect score reaches on average, simulated with the true means known."""
    generator = np.random.default_rng(1)
    strata = np.repeat([0, 1, 2], 20)
    found, known = [], []
    for draw in range(60):
        true = generator.normal(size=60) * np.array([0.3, 0.6, 1.0])[strata] + 5 * strata
        retrained = true[:, None] + 0.5 * generator.normal(size=(60, 3))
        found.append(ceiling(retrained, strata, tau, noise=noise, draws=40, seed=draw).mean)
        perfect = true + noise**0.5 * generator.normal(size=60)
        known.append(tau(perfect, retrained.mean(axis=1), strata))
    error = np.std(np.subtract(found, known)) / len(found) ** 0.5
    assert abs(np.mean(found) - np.mean(known)) < 3 * error + 0.01


def test_ceiling_without_noise_is_one_and_without_signal_low() -> None:
    generator = np.random.default_rng(2)
    strata = np.repeat([0, 1], 15)
    exact = np.repeat(generator.normal(size=(30, 1)), 2, axis=1)
    assert ceiling(exact, strata, tau, draws=5).mean == pytest.approx(1)
    found = [ceiling(generator.normal(size=(30, 3)), strata, tau, draws=50, seed=i) for i in range(30)]
    assert np.mean([one.mean for one in found]) < 0.25
    assert all(one.low <= one.mean <= one.high for one in found)


def test_overall_pairs_with_the_strata_of_the_model() -> None:
    """Strata far apart are ordered for certain: only the pairs within them are at stake."""
    generator = np.random.default_rng(3)
    strata = np.repeat([0, 1], 10)
    retrained = 100 * strata[:, None] + generator.normal(size=(20, 1)) + 0.3 * generator.normal(size=(20, 3))
    overall = ceiling(retrained, strata, tau, pairs=np.zeros_like(strata), draws=300).mean
    within = ceiling(retrained, strata, tau, draws=300).mean
    assert within < 0.95
    assert overall == pytest.approx((100 + 90 * within) / 190, abs=0.02)


def test_winner_loss_holds_a_seed_out() -> None:
    retrained = np.array([[0.9, 0.5, 0.7], [0.8, 0.8, 0.6], [0.1, 0.9, 0.95]])
    score = np.array([1.0, 2.0, 0.0])
    # Means of the others, seed 0 held out: .6, .7, .925; seed 1: .8, .7, .525; seed 2: .7, .8, .5.
    assert winner_loss(score, retrained) == pytest.approx([0.1 - 0.8, 0.5 - 0.8, 0.0])
