"""The surrogate: against its own definition, written out."""

from __future__ import annotations

import math

import numpy as np
import pytest

from usdn_nas.study.surrogate import FIRST_ORDER_LENGTH, Covariance, Surrogate

HYPER = Covariance(product=0.3, product_length=1.5, noise=0.05)
GENERATOR = np.random.default_rng(0)


def by_definition(x: list[int], y: list[int], c: Covariance) -> float:
    apart = [abs(a - b) for a, b in zip(x, y, strict=True)]
    first = sum(math.exp(-distance / FIRST_ORDER_LENGTH) for distance in apart) / len(x)
    return first + c.product * math.prod(math.exp(-distance / (len(x) * c.product_length)) for distance in apart)


@pytest.mark.parametrize("parameters", [1, 2, 5])
def test_covariance_is_what_the_formula_says(parameters: int) -> None:
    x, y = GENERATOR.integers(4, size=(6, parameters)), GENERATOR.integers(4, size=(3, parameters))
    expected = [[by_definition(a, b, HYPER) for b in y.tolist()] for a in x.tolist()]
    np.testing.assert_allclose(HYPER.between(x, y), expected, rtol=1e-12)
    np.testing.assert_allclose(np.diag(HYPER.between(x, x)), HYPER.variance)


def test_posterior_is_that_of_a_gaussian_process() -> None:
    codes, asked = GENERATOR.integers(4, size=(20, 5)), GENERATOR.integers(4, size=(7, 5))
    values = GENERATOR.normal(size=(20, 3))
    posterior = Surrogate(codes, values, [HYPER]).predict(asked)
    matrix = HYPER.between(codes, codes) + HYPER.noise * np.eye(20)
    between = HYPER.between(asked, codes)
    centred = values - values.mean(axis=0)
    np.testing.assert_allclose(posterior.mean, values.mean(axis=0) + between @ np.linalg.solve(matrix, centred))
    variance = HYPER.variance - np.einsum("mn,mn->m", between, np.linalg.solve(matrix, between.T).T)
    np.testing.assert_allclose(posterior.variance, variance)
    scale = np.sqrt((centred * np.linalg.solve(matrix, centred)).mean(axis=0))
    np.testing.assert_allclose(posterior.scale, scale)
    np.testing.assert_allclose(posterior.bound(1, 2.0), posterior.mean[:, 1] + 2 * np.sqrt(variance) * scale[1])
    np.testing.assert_allclose(posterior.deviation, np.sqrt(variance)[:, None] * scale)


def test_what_is_pending_narrows_the_posterior_as_an_observation_does() -> None:
    codes, asked = GENERATOR.integers(4, size=(15, 5)), np.unique(GENERATOR.integers(4, size=(9, 5)), axis=0)
    values = GENERATOR.normal(size=(15, 2))
    posterior = Surrogate(codes, values, [HYPER]).predict(asked)
    mean = posterior.mean.copy()
    posterior.pend(2)
    posterior.pend(5)
    seen = np.concatenate([codes, asked[[2, 5]]])
    both = Surrogate(seen, np.concatenate([values, mean[[2, 5]]]), [HYPER]).predict(asked)
    np.testing.assert_allclose(posterior.variance, both.variance)
    np.testing.assert_array_equal(posterior.mean, mean)


def test_the_first_orders_share_adds_up() -> None:
    alone = Covariance(product=0.0)
    codes = GENERATOR.integers(3, size=(12, 4))
    surrogate = Surrogate(codes, GENERATOR.normal(size=(12, 2)), [alone])
    effects = surrogate.first_order(3)
    assert effects.shape == (4, 3, 2)
    asked = GENERATOR.integers(3, size=(6, 4))
    total = sum(effects[p, asked[:, p]] for p in range(4))
    np.testing.assert_allclose(surrogate.predict(asked).mean, surrogate.mean + total)


def test_hyperparameters_are_those_of_the_greatest_likelihood() -> None:
    smooth, rough = Covariance(0.1, 3.0, 1e-3), Covariance(3.0, 0.2, 0.5)
    codes = np.stack(np.unravel_index(np.arange(64), (4, 4, 4)), axis=1)
    for truth in (smooth, rough):
        matrix = truth.between(codes, codes) + truth.noise * np.eye(64)
        drawn = np.linalg.cholesky(matrix) @ GENERATOR.normal(size=(64, 20))
        assert Surrogate(codes, drawn, [rough, smooth]).covariance == truth


def test_one_trial_is_enough() -> None:
    posterior = Surrogate(np.zeros((1, 3), dtype=np.int64), np.ones((1, 2))).predict(np.ones((1, 3), dtype=np.int64))
    assert np.isfinite(posterior.mean).all() and np.isfinite(posterior.deviation).all()
