"""Learning curves that are looked up instead of trained: what a table has to offer, and where one comes from.

A table is any object with the attributes of `Table`. `load` makes it of the one Python file of a folder that has such a
class, so that other tasks, or curves that were recorded, can be put behind the benchmark without touching it.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol, cast, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from tuner.space import Int, LogInt, LogUniform, OneMinusPow10, Parameter, Scale, Space, Uniform

Array = NDArray[np.float64]
Bounds = tuple[float, float, str]

_SCALES: Mapping[str, type] = {
    "uniform": Uniform,
    "log_uniform": LogUniform,
    "int": Int,
    "log_int": LogInt,
    "one_minus_pow10": OneMinusPow10,
}


@runtime_checkable
class Table(Protocol):
    """Learning curves of many configurations on some tasks; values are higher-is-better.

    The module of a table holds `SPACE`, (low, high, scale) by parameter with the scales of `tuner.space`, and `EPOCHS`,
    the length of a curve.
    """

    tasks: Sequence[str]

    def curve(self, task: str, params: Mapping[str, float]) -> Array:
        """Noiseless values after epochs 1, 2, …, shape (epochs,)."""

    def noisy(self, curve: Array, rng: np.random.Generator) -> Array:
        """What a training with that curve would show, shape (epochs,)."""

    def regret(self, task: str, final: float) -> float:
        """0 for the best value known, 1 for the median of random configurations."""


class Curves:
    """A table with its space, as the simulations use it.

    Attributes:
        space: the search space.
        bounds: (low, high, scale) by parameter.
        epochs: of a full training.
        tasks: names of the tasks.
    """

    def __init__(self, table: Table, bounds: Mapping[str, Bounds], epochs: int) -> None:
        self._table = table
        self.bounds, self.epochs, self.tasks = dict(bounds), epochs, tuple(table.tasks)
        self.space = Space.of([Parameter(name, _scale(*bound), name) for name, bound in bounds.items()])

    def trial(self, task: str, params: Mapping[str, float], seed: int, number: int) -> tuple[Array, float]:
        """What trial `number` of a run shows, shape (epochs,), and the regret of its configuration.

        The noise depends on (seed, number) alone: trial 7 of every search is as lucky.
        """
        curve = self._table.curve(task, params)
        noisy = self._table.noisy(curve, np.random.default_rng([seed, number]))
        return noisy, self._table.regret(task, float(curve[-1]))


def _scale(low: float, high: float, scale: str) -> Scale:
    made: Scale = _SCALES[scale](low, high)
    return made


def load(folder: Path) -> Curves:
    """The table in a folder.

    Raises:
        SystemExit: there is not exactly one file with `SPACE`, `EPOCHS` and a class with the attributes of `Table`.
    """
    found = [curves for file in sorted(folder.glob("*.py")) if (curves := _of_file(file)) is not None]
    if len(found) != 1:
        sys.exit(f"--data {folder}: {len(found)} Python files there hold SPACE, EPOCHS and a table; one has to")
    return found[0]


def _of_file(file: Path) -> Curves | None:
    spec = importlib.util.spec_from_file_location(f"table_{file.stem}", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not (hasattr(module, "SPACE") and hasattr(module, "EPOCHS")):
        return None
    for made in vars(module).values():
        if isinstance(made, type) and made.__module__ == module.__name__ and hasattr(made, "regret"):
            table = cast("Table", made())
            return Curves(table, module.SPACE, module.EPOCHS)
    return None
