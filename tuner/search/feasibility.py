"""How likely a configuration can be trained to its end, learnt from the trials that could not."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tuner.search.cache import ScreenCache, digest_of
from tuner.search.encoding import Encoding
from tuner.search.history import History, State

Array = NDArray[np.float64]

#: What is less likely to be trained to its end than this share of the likeliest is drawn only where nothing else is left.
#: Without it the product with the improvement goes on into what fails for as long as the improvement there is large enough.
LEAST = 0.5
PENALTY = 1e3  # for each unit below; larger than the differences of logarithms that are usually left to decide
#: Rows of the model: it is fitted again whenever a failure is new, and a worker waits for it.
MOST = 96
#: Variance of chance: any configuration may fail, or be trained, for once.
CHANCE = 0.02


class Feasibility:
    """Logarithm of the probability that configurations can be trained to their end.

    Least-squares classification (Rasmussen & Williams 2006, section 6.5): a Gaussian process of 0 for each failure and 1 for
    each stretch between two readings that was trained, of the failed trials too, with 1 where nothing is known. Its own
    length scales tell what the failures are due to; failures that nothing explains, as those of a flaky machine, are noise
    to it. It counts stretches and not trials, because the good ones have more of them in which chance may fail them. That
    something fails only late is not learnt where all of its earlier stretches are trained.
    The product of this probability and the expected improvement is that of Gardner et al. 2014, "Bayesian Optimization with
    Inequality Constraints"; that a configuration is first of all to be likely enough is from Gelbart et al. 2014,
    arXiv:1403.5607.
    """

    @classmethod
    def of(cls, history: History, encoding: Encoding, cache: ScreenCache) -> Feasibility | None:
        """Of the trials so far; None if none of them failed.

        Diverged trials have a value, the worst, and so are not among them; nor are trials of which no parameter is known.
        """
        ends = (state for state in State if state.failed and state is not State.DIVERGED)
        failed = sorted(number for state in ends for number in history.numbers(state) if history[number].point)
        if not failed or not encoding.dimensions:
            return None
        trained = [number for _, number, _ in history.readings]
        most = max(1, MOST * len(failed) // (len(failed) + len(trained)))
        return cls(history, encoding, cache, _some(failed, most), _some(trained, MOST - most))

    def __init__(
        self, history: History, encoding: Encoding, cache: ScreenCache, failed: Sequence[int], trained: Sequence[int]
    ) -> None:
        from tuner.search.model import Posterior  # noqa: PLC0415  as in `cache`

        self._encoding = encoding
        x = self._inputs(encoding.matrix([history[number].point for number in (*failed, *trained)]))
        short = np.concatenate([np.ones(len(failed)), np.zeros(len(trained))])  # of 1
        self._deviation = math.sqrt(short.mean())
        y = -short / self._deviation
        hyper = cache.fitted(x, y, encoding.groups)
        self._noise = max(hyper.noise, CHANCE / self._deviation**2)
        self._posterior = Posterior(x, y, hyper, encoding.groups)
        # On a machine that fails most of what it trains nothing is likely, and the likeliest is no worse for that.
        self._least = LEAST * math.exp(self._log_likely(x).max())
        self.digest = digest_of(x, y, hyper)

    def __call__(self, units: Array) -> Array:
        """For coordinates of shape (n, dimensions); shape (n,). Far below nought where it is too unlikely."""
        log_likely = self._log_likely(self._inputs(self._encoding.without_inactive(units)))
        return np.asarray(log_likely - PENALTY * np.maximum(self._least - np.exp(log_likely), 0.0))

    def _log_likely(self, x: Array) -> Array:
        from scipy.special import log_ndtr  # noqa: PLC0415

        mean, variance = self._posterior.predict(x)
        return np.asarray(log_ndtr((mean + 0.5 / self._deviation) / np.sqrt(variance + self._noise)))

    def _inputs(self, units: Array) -> Array:
        return self._encoding.encoded(units, np.full(len(units), self._encoding.epochs))


def _some(numbers: Sequence[int], most: int) -> Sequence[int]:
    """At most so many of them: half the newest ones, the rest spread evenly."""
    if len(numbers) <= most:
        return numbers
    half = most // 2
    older = len(numbers) - (most - half)
    return [*(numbers[i * older // half] for i in range(half)), *numbers[older:]]
