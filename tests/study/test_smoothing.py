"""Smoothed values against data whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest

from usdn_nas.study.smoothing import smoothed

SIZES = (4, 4, 3, 2, 4)


def additive(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Codes (n, 5), and two values each that are sums of shares (n, 2)."""
    generator = np.random.default_rng(seed)
    codes = np.stack([generator.integers(size, size=count) for size in SIZES], axis=1)
    shares = [generator.normal(size=(size, 2)) for size in SIZES]
    return codes, 0.9 + 0.01 * sum(share[codes[:, p]] for p, share in enumerate(shares))


def test_sums_of_shares_stay_as_they_are() -> None:
    codes, truth = additive(60)
    assert np.abs(smoothed(codes, truth) - truth).max() < 1e-3 * np.ptp(truth)


@pytest.mark.parametrize("count", [40, 200])
def test_noise_is_averaged_out(count: int) -> None:
    """Of n values with noise of variance v, a model with q free parameters leaves v q / n in its predictions."""
    codes, truth = additive(count)
    noise = 0.005
    left = []
    for seed in range(30):
        measured = truth + noise * np.random.default_rng(seed).normal(size=truth.shape)
        left.append(((smoothed(codes, measured) - truth) ** 2).mean())
    free = 1 + sum(size - 1 for size in SIZES)
    assert np.mean(left) < 1.15 * noise**2 * free / count


def test_pure_noise_is_drawn_to_its_mean() -> None:
    codes, _ = additive(50)
    noise = np.random.default_rng(1).normal(size=(50, 1))
    found = smoothed(codes, noise)
    assert found.shape == noise.shape
    assert found.std() < 0.4 * noise.std()


def test_a_single_configuration_is_its_own_mean() -> None:
    value = np.array([[0.7, 0.6]])
    assert np.array_equal(smoothed(np.array([[1, 0, 3]]), value), value)


def test_order_of_configurations_does_not_matter() -> None:
    codes, truth = additive(30)
    measured = truth + 0.01 * np.random.default_rng(3).normal(size=truth.shape)
    order = np.random.default_rng(4).permutation(30)
    assert np.allclose(smoothed(codes[order], measured[order]), smoothed(codes, measured)[order])
