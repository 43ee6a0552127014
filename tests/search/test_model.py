"""The Gaussian process and log expected improvement against direct formulas."""

import math

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import multivariate_normal, norm

from tuner.search.model import (
    JITTER,
    Hyperparameters,
    Posterior,
    _prior_moments,
    _squares,
    fit,
    log_expected_improvement,
    negative_log_posterior,
    prior,
)

GROUPS = (0, 1, 1, 2)


def data(n: int = 12, seed: int = 0):
    random = np.random.default_rng(seed)
    x = random.random((n, len(GROUPS)))
    y = np.sin(5 * x[:, 0]) + 0.1 * random.standard_normal(n)
    return x, (y - y.mean()) / y.std()


def kernel(a, b, hyper):
    """Matern-5/2, entry by entry."""
    out = np.empty((len(a), len(b)))
    for i, p in enumerate(a):
        for j, q in enumerate(b):
            r = math.sqrt(sum(((p[k] - q[k]) / hyper.lengths[group]) ** 2 for k, group in enumerate(GROUPS)))
            out[i, j] = hyper.signal * (1 + math.sqrt(5) * r + 5 * r * r / 3) * math.exp(-math.sqrt(5) * r)
    return out


HYPER = Hyperparameters((0.4, 0.9, 2.0), 1.3, 0.02)


def test_the_likelihood_is_that_of_the_normal_distribution():
    x, y = data()
    theta = HYPER.to_theta()
    covariance = kernel(x, x, HYPER) + (HYPER.noise + JITTER) * np.eye(len(y))
    means, deviations = _prior_moments(3)
    expected = (
        -multivariate_normal(np.zeros(len(y)), covariance).logpdf(y) + 0.5 * (((theta - means) / deviations) ** 2).sum()
    )
    assert negative_log_posterior(theta, _squares(x, GROUPS), y)[0] == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(5))
def test_the_gradient_is_that_of_finite_differences(seed):
    x, y = data(seed=seed)
    squares = _squares(x, GROUPS)
    theta = HYPER.to_theta() + 0.3 * np.random.default_rng(seed).standard_normal(5)
    gradient = negative_log_posterior(theta, squares, y)[1]
    for k, step in enumerate(1e-5 * np.eye(5)):
        up, down = (negative_log_posterior(theta + sign * step, squares, y)[0] for sign in (1, -1))
        assert gradient[k] == pytest.approx((up - down) / 2e-5, rel=1e-4, abs=1e-5)


def test_predictions_are_those_of_the_direct_formula():
    x, y = data()
    points = np.random.default_rng(1).random((7, len(GROUPS)))
    inverse = np.linalg.inv(kernel(x, x, HYPER) + (HYPER.noise + JITTER) * np.eye(len(y)))
    cross = kernel(points, x, HYPER)
    mean, variance = Posterior(x, y, HYPER, GROUPS).predict(points)
    assert mean == pytest.approx(cross @ inverse @ y)
    assert variance == pytest.approx(HYPER.signal - np.einsum("ij,jk,ik->i", cross, inverse, cross))
    assert Posterior(x, y, HYPER, GROUPS).mean(points) == pytest.approx(mean)


def test_the_fit_finds_the_dimension_that_matters():
    x, y = data(40)
    hyper = fit(x, y, GROUPS)
    assert hyper == fit(x, y, GROUPS)
    assert hyper.lengths[0] < 0.5 * min(hyper.lengths[1:])
    squares = _squares(x, GROUPS)
    value, gradient = negative_log_posterior(hyper.to_theta(), squares, y)
    assert value < negative_log_posterior(prior(3).to_theta(), squares, y)[0]
    assert np.abs(gradient).max() < 0.05


@pytest.mark.parametrize("y", [np.zeros(6), np.array([1.0, -1.0] * 3)])
def test_repeated_points_and_flat_values_are_no_trouble(y):
    x = np.repeat(np.random.default_rng(0).random((3, 2)), 2, axis=0)
    hyper = fit(x, y)
    mean, variance = Posterior(x, y, Hyperparameters(hyper.lengths, hyper.signal, 0.0)).predict(x)
    assert np.isfinite(mean).all()
    assert (variance > 0).all()


@pytest.mark.parametrize("mean", [-2.0, 0.0, 0.7, 3.0])
def test_log_expected_improvement_is_the_integral(mean):
    sd, best = 0.8, 0.5
    integral = quad(lambda y: (best - y) * norm.pdf(y, mean, sd), -12, best)[0]
    assert log_expected_improvement(np.array([mean]), np.array([sd**2]), best)[0] == pytest.approx(math.log(integral))


def test_log_expected_improvement_falls_smoothly_where_the_improvement_underflows():
    z = np.concatenate([np.linspace(-3, 3, 601), -np.geomspace(3.01, 1e7, 400)])
    z.sort()
    values = log_expected_improvement(-z, np.ones_like(z), 0.0)
    assert np.isfinite(values).all()
    assert (np.diff(values) > 0).all()
    # φ(z) / z² far out; both sides of each seam agree.
    assert values[0] == pytest.approx(-0.5 * 1e14 - 0.5 * math.log(2 * math.pi) - 2 * math.log(1e7), rel=1e-12)
    for seam in (-1.0, -1e4):
        left, right = log_expected_improvement(-np.array([seam - 1e-9, seam + 1e-9]), np.ones(2), 0.0)
        assert left == pytest.approx(right, rel=1e-7)
