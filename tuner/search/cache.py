"""What was learnt is kept while what it was learnt from is the same."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from tuner.search.model import Hyperparameters
    from tuner.search.screen import Candidate

#: Of a kind that are kept; events of other workers may come between two decisions about the same trials.
MOST_KEPT = 8


def digest_of(*parts: Any) -> bytes:
    """Of arrays, and of whatever else says by its `repr` what it is."""
    made = hashlib.blake2b()
    for part in parts:
        made.update(repr(part.shape).encode() + part.tobytes() if isinstance(part, np.ndarray) else repr(part).encode())
    return made.digest()


class ScreenCache:
    """Keeps what is costly and will be asked for again.

    The last hyperparameters of models, of which the one of the values is fitted again when the data has grown by a tenth.
    The last best candidates, which a rule decided by, and which are drawn then. It saves time and changes nothing: the keys
    are everything that a result depends on.

    Attributes:
        fits: how often hyperparameters were fitted.
        searches: how often candidates were.
    """

    def __init__(self) -> None:
        self.fits = self.searches = 0
        self._hyper: dict[bytes, Hyperparameters] = {}
        self._best: dict[Hashable, Candidate] = {}

    def fitted(self, x: NDArray[np.float64], y: NDArray[np.float64], groups: tuple[int, ...]) -> Hyperparameters:
        """Hyperparameters of the model of such data."""
        from tuner.search.model import fit  # noqa: PLC0415  the first draws need no model, nor what it imports

        key = digest_of(groups, x, y)
        hyper = self._hyper.get(key)
        if hyper is None:
            hyper = self._hyper[key] = fit(x, y, groups)
            self.fits += 1
            _forget(self._hyper)
        return hyper

    def best(self, key: Hashable, found: Callable[[], Candidate]) -> Candidate:
        """The best candidate of a search, which `found` finds."""
        best = self._best.get(key)
        if best is None:
            best = self._best[key] = found()
            self.searches += 1
            _forget(self._best)
        return best


def _forget(kept: dict[Any, Any]) -> None:
    while len(kept) > MOST_KEPT:
        kept.pop(next(iter(kept)), None)  # the oldest one
