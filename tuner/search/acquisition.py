"""What is expected of candidates at full length, and how long their epochs take."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tuner.search.cache import ScreenCache, digest_of
from tuner.search.encoding import Encoding
from tuner.search.evidence import MOST_ROWS, arrays, fit_size, measured_rows, running_rows
from tuner.search.history import History

if TYPE_CHECKING:
    from tuner.search.model import Hyperparameters

Array = NDArray[np.float64]

#: That the hyperparameters are fitted on: a sixth of the time that all rows would take, and a worker waits for it.
MOST_FITTED = 128


class Acquisition:
    """Log expected improvement at full length, for candidates: points of the unit cube, shape (n, dimensions).

    Args:
        encoding: of points.
        x: measured rows, and after them those of running trials, shape (rows, columns of the encoding).
        y: their values, standardised, the lower the better; of running trials what is believed of them; shape (rows,).
        hyper: of the model.
        in_full: for each measured row whether a training came to its end there, shape (measured rows,).

    Attributes:
        digest: of all that its answers depend on, to keep them by.
    """

    @classmethod
    def of(cls, history: History, encoding: Encoding, cache: ScreenCache) -> Acquisition:
        """Of the trials so far, of which one was read at least."""
        from tuner.search.model import Posterior  # noqa: PLC0415  as in `cache`

        fitted_on = measured_rows(history, encoding.epochs, fit_size(len(history.readings)), MOST_FITTED)
        hyper = cache.fitted(*arrays(history, encoding, fitted_on), encoding.groups)
        measured = measured_rows(history, encoding.epochs, len(history.readings), all_fallen=True)
        x, y = arrays(history, encoding, measured)
        running = running_rows(history, encoding.epochs, [row.epoch for row in measured])
        points = encoding.matrix([history[row.number].point for row in running])
        imagined = encoding.encoded(points, np.array([row.epoch for row in running], dtype=float))
        if len(imagined):
            believed = Posterior(x, y, hyper, encoding.groups).mean(imagined)
            y = np.concatenate([y, believed])
        in_full = np.array([row.epoch >= encoding.epochs and math.isfinite(row.value) for row in measured], dtype=bool)
        return cls(encoding, np.concatenate([x, imagined]), y, hyper, in_full)

    def __init__(
        self, encoding: Encoding, x: Array, y: Array, hyper: Hyperparameters, in_full: NDArray[np.bool_]
    ) -> None:
        from tuner.search.model import Posterior  # noqa: PLC0415  as in `cache`

        self._encoding = encoding
        measured = len(in_full)
        self.digest = digest_of(x, y, hyper, measured)
        self._posterior = Posterior(x, y, hyper, encoding.groups)
        whole = x[:measured].copy()
        whole[:, -1] = 1.0
        # What the measured points are expected to reach, not the best value seen: that one is lucky, or missing.
        expected = self._posterior.mean(whole)
        self._best = float(expected.min())
        self._best_in_full = float(expected[in_full].min()) if in_full.any() else None

    def __call__(self, units: Array) -> Array:
        """Log of the improvement on what the measured points are expected to reach; shape (n,)."""
        from tuner.search.model import log_expected_improvement  # noqa: PLC0415  as in `cache`

        return log_expected_improvement(*self._at_full_length(units), self._best)

    def final(self, units: Array) -> Array:
        """Log of the improvement on what was trained in full; shape (n,).

        Where nothing was, what is recommended will be this one: minus its expected value.
        """
        from tuner.search.model import log_expected_improvement  # noqa: PLC0415  as in `cache`

        mean, variance = self._at_full_length(units)
        if self._best_in_full is None:
            return -mean
        return log_expected_improvement(mean, variance, self._best_in_full)

    def _at_full_length(self, units: Array) -> tuple[Array, Array]:
        epochs = np.full(len(units), self._encoding.epochs)
        return self._posterior.predict(self._encoding.encoded(self._encoding.without_inactive(units), epochs))


class Pace:
    """Seconds per epoch of candidates, by a Gaussian process over their logarithms.

    Its hyperparameters are fixed: how long an epoch takes depends smoothly on few things, and the first epochs of a
    worker, or those beside a busy neighbour, are off by some ten percent.

    Attributes:
        digest: of all that its answers depend on, to keep them by.
    """

    LENGTH, NOISE = 2.0, 0.05

    @classmethod
    def of(cls, history: History, encoding: Encoding) -> Pace | None:
        """Of the trials that were read last; None where none has a pace."""
        numbers = sorted({number for _, number, _ in history.readings[-MOST_ROWS:]})
        known = [(entry.point, entry.pace) for entry in map(history.__getitem__, numbers) if entry.pace]
        return cls(encoding, known) if known else None

    def __init__(self, encoding: Encoding, known: Sequence[tuple[Mapping[str, float], float]]) -> None:
        from tuner.search.model import Hyperparameters, Posterior  # noqa: PLC0415  as in `cache`

        self._encoding = encoding
        logs = np.log([pace for _, pace in known])
        self._mean, self._deviation = float(logs.mean()), float(logs.std()) or 1.0
        hyper = Hyperparameters((self.LENGTH,) * (max(encoding.groups) + 1), 1.0, self.NOISE)
        x = self._inputs(encoding.matrix([point for point, _ in known]))
        self.digest = digest_of(x, logs)
        self._posterior = Posterior(x, (logs - self._mean) / self._deviation, hyper, encoding.groups)

    def __call__(self, units: Array) -> Array:
        """Seconds per epoch; shape (n,)."""
        x = self._inputs(self._encoding.without_inactive(units))
        return np.asarray(np.exp(self._mean + self._deviation * self._posterior.mean(x)))

    def _inputs(self, units: Array) -> Array:
        return self._encoding.encoded(units, np.full(len(units), self._encoding.epochs))
