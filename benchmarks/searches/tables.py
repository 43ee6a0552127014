"""Learning curves that are looked up instead of trained: what a table has to offer, and where one comes from.

A table is any object with the attributes of `Table`. `load` makes it of the one Python file of a folder that has such a
class, or of curves that were recorded, so that other tasks can be put behind the benchmark without touching it.
"""

from __future__ import annotations

import atexit
import importlib.util
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol, cast, runtime_checkable

import numpy as np
import yaml
from numpy.typing import NDArray

from searches.recorded import Recorded, words_in
from tuner.config import load as load_settings
from tuner.space import Value

Array = NDArray[np.float64]
Bounds = tuple[float, float, str]

#: Configurations that a study's own values are found among.
RANDOM = 200
#: Tiers of the parameters that the field tunes first; what is not named is of tier 3.
TIERS = {"learning_rate": 1, "momentum": 2, "batch_size": 2, "max_units": 2}


@runtime_checkable
class Table(Protocol):
    """Learning curves of many configurations on some tasks; values are higher-is-better.

    The module of a table holds `SPACE`, (low, high, kind) by parameter with the kinds of a study's space, and `EPOCHS`, the
    length of a curve.
    """

    tasks: Sequence[str]

    def curve(self, task: str, params: Mapping[str, Any]) -> Array:
        """Noiseless values after epochs 1, 2, …, shape (epochs,)."""

    def noisy(self, curve: Array, rng: np.random.Generator) -> Array:
        """What a training with that curve would show, shape (epochs,)."""

    def regret(self, task: str, final: float) -> float:
        """0 for the best value known, 1 for the median of random configurations."""


class Curves:
    """A table with the study that it stands for, as the simulations use it.

    Args:
        table: the curves.
        words: of the study, as the command line has them.
        config_dir: folder of the study's configuration, if it is not one of the project.

    Attributes:
        space: the search space.
        epochs: of a full training.
        tasks: names of the tasks.
    """

    def __init__(self, table: Table, words: Sequence[str], config_dir: str | None = None) -> None:
        study = load_settings(words, config_dir=config_dir).study
        assert study is not None
        self._table = table
        self.words, self.config_dir = tuple(words), config_dir
        self.space, self.epochs, self.tasks = study.space, study.epochs, tuple(table.tasks)

    def trial(self, task: str, params: Mapping[str, Any], seed: int, number: int) -> tuple[Array, float]:
        """What trial `number` of a run shows, shape (epochs,), and the regret of its configuration.

        The noise depends on (seed, number) alone: trial 7 of every search is as lucky.
        """
        curve = self._table.curve(task, params)
        noisy = self._table.noisy(curve, np.random.default_rng([seed, number]))
        return noisy, self._table.regret(task, float(curve[-1]))

    def own(self, task: str, seed: int, share: float) -> dict[str, Value]:
        """A configuration that is better than this share of `RANDOM` uniform ones, in place of a study's own values."""
        chance = np.random.default_rng([seed, self.tasks.index(task), RANDOM])
        found = []
        for _ in range(RANDOM):
            values = {one.name: one.scale.from_unit(float(chance.random())) for one in self.space}
            found.append((float(self._table.curve(task, values)[-1]), values))
        found.sort(key=lambda pair: pair[0])
        return found[round(share * (RANDOM - 1))][1]


def load(folder: Path) -> Curves:
    """The table in a folder: recorded curves, or the one Python file with `SPACE`, `EPOCHS` and a class like `Table`.

    Raises:
        SystemExit: there is not exactly one.
    """
    if any(folder.glob("*.jsonl")):
        return Curves(Recorded(folder), words_in(folder))
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
            return Curves(table, ["study=table"], _written(module.SPACE, module.EPOCHS))
    return None


def _written(bounds: Mapping[str, Bounds], epochs: int) -> str:
    """A folder with the configuration of a study that has this space; it is there as long as this process."""
    study = {
        "name": "table",
        "module": {"_target_": "types.SimpleNamespace", **{name: low for name, (low, _, _) in bounds.items()}},
        "data": {"_target_": "types.SimpleNamespace"},
        "objective": {"metric": "value", "direction": "maximize"},
        "space": {
            name: {"kind": scale, "low": low, "high": high, "path": f"module.{name}", "tier": TIERS.get(name, 3)}
            for name, (low, high, scale) in bounds.items()
        },
        "trainer": {"max_epochs": epochs},
    }
    folder = TemporaryDirectory(prefix="tuner-benchmark-")
    atexit.register(folder.cleanup)
    (Path(folder.name) / "study").mkdir()
    (Path(folder.name) / "study" / "table.yaml").write_text(f"# @package _global_\n{yaml.safe_dump(study)}")
    return folder.name
