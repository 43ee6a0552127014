"""A Gaussian process for a few hundred points, and the logarithm of expected improvement.

Own code instead of a library because the fit has to be the same number on every machine that resumes a round, takes a
fraction of a second on one core, and needs neither torch nor a compiled wheel beyond scipy. Values are to be
standardised by the caller, and inputs to be of the order of one. Where points come from is the business of `evidence`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import LinAlgError, cho_solve, cholesky, solve_triangular
from scipy.optimize import minimize
from scipy.special import erfcx, ndtr

Array = NDArray[np.float64]

#: Log-normal priors as (mean of the logarithm, its standard deviation). Length scales: the unit cube's own width, so
#: that a dimension counts for little until the data say otherwise. Noise: variance in units of the values' variance.
PRIOR_LENGTH = (math.log(1.0), 1.0)
PRIOR_SIGNAL = (0.0, 0.7)
PRIOR_NOISE = (math.log(5e-3), 1.5)
JITTER = 1e-8
_SQRT5 = math.sqrt(5.0)


@dataclass(frozen=True)
class Hyperparameters:
    """Length scale of each group of columns, variance of the signal, variance of the noise."""

    lengths: tuple[float, ...]
    signal: float
    noise: float

    def to_theta(self) -> Array:
        return np.asarray(np.log(np.array([*self.lengths, self.signal, self.noise])))

    @classmethod
    def from_theta(cls, theta: Array) -> Hyperparameters:
        lengths, (signal, noise) = np.exp(theta[:-2]), np.exp(theta[-2:])
        return cls(tuple(float(length) for length in lengths), float(signal), float(noise))


def prior(groups: int) -> Hyperparameters:
    """The hyperparameters before any data."""
    return Hyperparameters((math.exp(PRIOR_LENGTH[0]),) * groups, math.exp(PRIOR_SIGNAL[0]), math.exp(PRIOR_NOISE[0]))


def matern52(squared: Array) -> Array:
    """Matern-5/2 correlation at squared scaled distances (Rasmussen & Williams 2006, eq. 4.17)."""
    root = _SQRT5 * np.sqrt(squared)
    return np.asarray((1.0 + root + 5.0 / 3.0 * squared) * np.exp(-root))


def negative_log_posterior(theta: Array, squares: Array, y: Array) -> tuple[float, Array]:
    """Minus the log marginal likelihood, minus the log prior, and its gradient.

    Args:
        theta: logarithms of the length scales, the signal's and the noise's variance, shape (groups + 2,).
        squares: squared differences of the inputs in each group of columns, shape (groups, n, n).
        y: standardised values, shape (n,).
    """
    hyper = Hyperparameters.from_theta(theta)
    weights = np.array(hyper.lengths) ** -2
    squared = np.tensordot(weights, squares, 1)
    root = _SQRT5 * np.sqrt(squared)
    decay = np.exp(-root)
    kernel = hyper.signal * (1.0 + root + 5.0 / 3.0 * squared) * decay
    n = len(y)
    try:
        factor = cholesky(kernel + (hyper.noise + JITTER) * np.eye(n), lower=True, check_finite=False)
    except LinAlgError:
        return 1e25, np.zeros_like(theta)
    alpha = cho_solve((factor, True), y, check_finite=False)
    inner = np.outer(alpha, alpha) - cho_solve((factor, True), np.eye(n), check_finite=False)
    likelihood = -0.5 * y @ alpha - np.log(np.diag(factor)).sum() - 0.5 * n * math.log(2 * math.pi)
    # d kernel / d log length = signal · 5/3 · (1 + √5 r) · exp(-√5 r) · (difference / length)²
    slope = hyper.signal * 5.0 / 3.0 * (1.0 + root) * decay * inner
    by_length = 0.5 * weights * (squares.reshape(len(weights), -1) @ slope.ravel())
    by_signal, by_noise = 0.5 * np.sum(inner * kernel), 0.5 * hyper.noise * np.trace(inner)
    gradient = np.concatenate([by_length, [by_signal, by_noise]])
    means, deviations = _prior_moments(len(weights))
    z = (theta - means) / deviations
    return float(-likelihood + 0.5 * z @ z), np.asarray(-gradient + z / deviations)


def _prior_moments(groups: int) -> tuple[Array, Array]:
    moments = np.array([PRIOR_LENGTH] * groups + [PRIOR_SIGNAL, PRIOR_NOISE])
    return moments[:, 0], moments[:, 1]


def fit(x: Array, y: Array, groups: Sequence[int] | None = None) -> Hyperparameters:
    """Hyperparameters of the highest posterior density, found from the prior's centre; the same for the same data.

    Args:
        x: inputs, shape (n, columns).
        y: standardised values, shape (n,).
        groups: for each column the number of the length scale it uses; each its own if not given.
    """
    columns = tuple(range(x.shape[1])) if groups is None else tuple(groups)
    squares = _squares(x, columns)
    start = prior(len(squares)).to_theta()
    means, deviations = _prior_moments(len(squares))
    bounds = np.stack([means - 4 * deviations, means + 4 * deviations], 1)
    result = minimize(
        negative_log_posterior, start, (squares, y), "L-BFGS-B", jac=True, bounds=bounds, options={"maxiter": 60}
    )
    return Hyperparameters.from_theta(np.asarray(result.x) if np.isfinite(result.fun) else start)


def _squares(x: Array, columns: tuple[int, ...]) -> Array:
    squares = np.zeros((max(columns) + 1, len(x), len(x)))
    for column, group in zip(x.T, columns, strict=True):
        squares[group] += (column[:, None] - column[None, :]) ** 2
    return squares


class Posterior:
    """A Gaussian process with fixed hyperparameters, given data; its mean is zero far from them.

    Args:
        x: inputs, shape (n, columns).
        y: standardised values, shape (n,).
        hyper: the hyperparameters.
        groups: as in `fit`.
    """

    def __init__(self, x: Array, y: Array, hyper: Hyperparameters, groups: Sequence[int] | None = None) -> None:
        columns = np.arange(x.shape[1]) if groups is None else np.array(groups)
        self._scale = 1.0 / np.array(hyper.lengths)[columns]
        self._x = x * self._scale
        self._signal = hyper.signal
        kernel = hyper.signal * matern52(_distances(self._x, self._x))
        self._factor = _stable_cholesky(kernel, hyper.noise)
        self._alpha = cho_solve((self._factor, True), y, check_finite=False)

    def predict(self, x: Array) -> tuple[Array, Array]:
        """Mean and variance of the noiseless function at points of shape (m, columns), each of shape (m,)."""
        mean, cross = self._mean(x)
        solved = solve_triangular(self._factor, cross.T, lower=True, check_finite=False)
        variance = self._signal - np.einsum("ij,ij->j", solved, solved)
        return mean, np.maximum(variance, 1e-12 * self._signal)

    def mean(self, x: Array) -> Array:
        """The mean alone, which costs much less."""
        return self._mean(x)[0]

    def _mean(self, x: Array) -> tuple[Array, Array]:
        cross = self._signal * matern52(_distances(x * self._scale, self._x))
        return np.asarray(cross @ self._alpha), cross


def _distances(a: Array, b: Array) -> Array:
    squared = (a**2).sum(1)[:, None] + (b**2).sum(1)[None, :] - 2.0 * a @ b.T
    return np.asarray(np.maximum(squared, 0.0))


def _stable_cholesky(kernel: Array, noise: float) -> Array:
    """The factor of kernel + noise; more is added to the diagonal until there is one."""
    added = noise + JITTER
    while True:
        try:
            return np.asarray(cholesky(kernel + added * np.eye(len(kernel)), lower=True, check_finite=False))
        except LinAlgError:
            added *= 10.0


def log_expected_improvement(mean: Array, variance: Array, best: float) -> Array:
    """Logarithm of the expected improvement below `best`, exact where the improvement itself would underflow.

    Ament et al. 2023, "Unexpected Improvements to Expected Improvement for Bayesian Optimization", arXiv:2310.20708,
    eq. 9, with the sign turned for values that are lower-is-better.
    """
    deviation = np.sqrt(variance)
    return np.asarray(_log_h((best - mean) / deviation) + np.log(deviation))


def _log_h(z: Array) -> Array:
    """log(φ(z) + z Φ(z))."""
    half_log_2pi, half_log_half_pi = 0.5 * math.log(2 * math.pi), 0.5 * math.log(math.pi / 2)
    upper, middle, lower = np.maximum(z, -1.0), np.clip(z, -1e4, -1.0), np.minimum(z, -1e4)
    plain = np.log(np.exp(-0.5 * upper**2 - half_log_2pi) + upper * ndtr(upper))
    # erfcx(x) = exp(x²) erfc(x), so the ratio of the two terms stays finite; it tends to 1 as z falls.
    ratio = np.log(erfcx(-middle / math.sqrt(2.0)) * -middle) + half_log_half_pi
    stable = -0.5 * middle**2 - half_log_2pi + np.log(-np.expm1(np.minimum(ratio, -1e-15)))
    far = -0.5 * lower**2 - half_log_2pi - 2.0 * np.log(-lower)
    return np.where(z > -1.0, plain, np.where(z > -1e4, stable, far))
