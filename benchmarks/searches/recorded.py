"""Learning curves of real trainings as a table: those that `record.py` has recorded, and what lies between them.

A folder holds one file (`.jsonl`) for each task, all of one space. Between the configurations curves are interpolated by
extremely randomised trees (Geurts et al. 2006, doi:10.1007/s10994-006-6226-1), which make no assumption that a search could
share; noise is the difference between two trainings of one configuration about as good, whole, because the epochs of a
training are lucky together. Bad configurations are noisier than good ones by far.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import ExtraTreesRegressor
from sklearn.model_selection import cross_val_predict

from tuner.config import StudySettings, load
from tuner.search.dimensions import dimensions_of
from tuner.search.encoding import Encoding
from tuner.space import Space

Array = NDArray[np.float64]
TREES, FOLDS = 100, 10
#: Pairs of trainings, those nearest in what they reach, that the noise of a curve is drawn from.
NEAREST = 10
#: Random configurations that tell a task's best and its median final value.
REFERENCES = 4000


def words_in(folder: Path) -> list[str]:
    """Of the study that was recorded in a folder.

    Raises:
        ValueError: its files are of studies with different spaces or lengths.
    """
    words = {file.name: _lines(file)[0]["words"] for file in _files(folder)}
    studies = [_study(one) for one in words.values()]
    if any((one.space, one.epochs) != (studies[0].space, studies[0].epochs) for one in studies):
        raise ValueError(f"{', '.join(words)} in {folder} differ in their space or their epochs")
    first: list[str] = next(iter(words.values()))
    return first


class Recorded:
    """The table of a folder.

    Attributes:
        tasks: names of the files.
    """

    def __init__(self, folder: Path) -> None:
        study = _study(words_in(folder))
        self._features = Features(study.space, study.epochs)
        files = {file.stem: [line for line in _lines(file) if "curve" in line] for file in _files(folder)}
        self.tasks: Sequence[str] = tuple(files)
        sign = 1.0 if study.objective.direction == "maximize" else -1.0
        self._trees, self._range = dict[str, ExtraTreesRegressor](), dict[str, tuple[float, float]]()
        self._pairs: list[tuple[float, Array]] = []
        anywhere = np.random.default_rng(0).random((REFERENCES, len(study.space.names)))
        references = self._features.of_units(anywhere)
        for task, lines in files.items():
            configurations, curves = first_trainings(lines, study.epochs, sign)
            trees = _trees().fit(self._features.of(configurations), curves)
            finals = trees.predict(references)[:, -1]
            self._trees[task], self._range[task] = trees, (float(finals.max()), float(np.median(finals)))
            self._pairs += _pairs(lines, study.epochs, sign)

    def curve(self, task: str, params: Mapping[str, Any]) -> Array:
        """Noiseless values after epochs 1, 2, …, shape (epochs,)."""
        return np.asarray(self._trees[task].predict(self._features.of([params]))[0])

    def noisy(self, curve: Array, rng: np.random.Generator) -> Array:
        """What a training with that curve would show, shape (epochs,)."""
        if not self._pairs:
            return curve
        near = sorted(self._pairs, key=lambda pair: abs(pair[0] - curve[-1]))[:NEAREST]
        _, difference = near[rng.integers(len(near))]
        return curve + rng.choice([-1.0, 1.0]) * difference / math.sqrt(2.0)

    def regret(self, task: str, final: float) -> float:
        """0 for the best of 4,000 random configurations, 1 for their median."""
        best, median = self._range[task]
        return float((best - final) / (best - median))


class Features:
    """Configurations as numbers: the coordinates of the space, a column for each choice that has no order."""

    def __init__(self, space: Space, epochs: int) -> None:
        self._space, self._encoding = space, Encoding(dimensions_of(space), epochs)

    def of(self, configurations: Sequence[Mapping[str, Any]]) -> Array:
        return self.of_units(self._encoding.matrix([self._space.to_unit(values) for values in configurations]))

    def of_units(self, units: Array) -> Array:
        """Of coordinates of shape (n, dimensions)."""
        whole = np.full(len(units), self._encoding.epochs)
        return self._encoding.encoded(self._encoding.without_inactive(units), whole)[:, :-1]


def explained(file: Path) -> float:
    """Share of the variance of final values that the interpolation explains at configurations it has not seen."""
    study = _study(_lines(file)[0]["words"])
    sign = 1.0 if study.objective.direction == "maximize" else -1.0
    configurations, curves = first_trainings([one for one in _lines(file) if "curve" in one], study.epochs, sign)
    finals = curves[:, -1]
    guessed = cross_val_predict(_trees(), Features(study.space, study.epochs).of(configurations), finals, cv=FOLDS)
    return float(1.0 - np.mean((finals - guessed) ** 2) / finals.var())


def first_trainings(
    lines: Sequence[Mapping[str, Any]], epochs: int, sign: float
) -> tuple[list[Mapping[str, Any]], Array]:
    """Configurations and their curves, shape (n, epochs), higher-is-better; what is missing or not finite is the worst."""
    first = {line["number"]: line for line in reversed(lines)}
    curves = np.array([_curve(line, epochs, sign) for line in first.values()])
    worst = np.nanmin(curves)
    return [line["values"] for line in first.values()], np.where(np.isnan(curves), worst, curves)


def _curve(line: Mapping[str, Any], epochs: int, sign: float) -> list[float]:
    values = [math.nan if value is None else sign * value for value in line["curve"]]
    return [*values, *[math.nan] * (epochs - len(values))]


def _pairs(lines: Sequence[Mapping[str, Any]], epochs: int, sign: float) -> list[tuple[float, Array]]:
    """Mean final value and difference of two trainings of one configuration; failed ones tell nothing of the others' noise."""
    by_number: dict[int, list[Array]] = {}
    for line in lines:
        by_number.setdefault(line["number"], []).append(np.array(_curve(line, epochs, sign)))
    pairs = [
        (float(curves[0][-1] + curves[1][-1]) / 2, curves[1] - curves[0])
        for curves in by_number.values()
        if len(curves) > 1
    ]
    return [pair for pair in pairs if np.isfinite(pair[1]).all()]


def _trees() -> ExtraTreesRegressor:
    return ExtraTreesRegressor(TREES, random_state=0)


def _study(words: Sequence[str]) -> StudySettings:
    study = load(words).study
    assert study is not None
    return study


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.jsonl"))


def _lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
