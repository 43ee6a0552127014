"""Optuna samplers over the rules of this package.

`CoarseToFineSampler` works in anybody's Optuna script, with parameters defined by the run, conditional ones and
parallel jobs. What it knows of a study is the business of `trial_reader`.

A draw depends on (seed, trial number, parameter name) and the study's history alone, never on the state of a
generator, so a study goes on after a restart as it would have without one.
"""

# ruff: noqa: ARG002  (the signatures are Optuna's)

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from tuner.search.cache import ScreenCache
from tuner.search.dimensions import Dimension, dimensions_of
from tuner.search.distributions import dimension_of, from_optuna, optuna_name, scale_of, to_optuna
from tuner.search.draws import sobol_point, uniform
from tuner.search.history import Entry, History
from tuner.search.promotion import Expectation
from tuner.search.screen import Screen
from tuner.search.stages import Stage, Zoom, stage_of, stages_until
from tuner.search.trial_reader import READINGS, TrialReader, attribute_entry, plain_entry
from tuner.space import Parameter, Scale, Space, Value

FIXED = "fixed_params"  # Optuna's system attribute of an enqueued trial


@dataclass
class _Scales:
    """The scale of each Optuna parameter: of a given space, or as it was first suggested."""

    space: Space | None
    parameters: dict[str, Parameter] = field(default_factory=dict)
    scales: dict[str, Scale] = field(default_factory=dict)
    dimensions: dict[str, Dimension] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for parameter, dimension in zip(self.space, dimensions_of(self.space), strict=True) if self.space else ():
            self.parameters[optuna_name(parameter)] = parameter
            self.dimensions[parameter.name] = dimension

    def learn(self, name: str, asked: BaseDistribution) -> None:
        if self.space is None and name not in self.scales and not asked.single():
            self.scales[name] = scale_of(asked)
            self.dimensions[name] = dimension_of(name, asked)

    def name_of(self, stored_name: str) -> str:
        """The name in the unit cube of what Optuna calls `stored_name`."""
        parameter = self.parameters.get(stored_name)
        return parameter.name if parameter else stored_name

    def point(self, stored: Mapping[str, Value]) -> dict[str, float]:
        """Coordinates of what Optuna stored."""
        return {self.name_of(name): scale.to_unit(value) for name, (scale, value) in self._with_scales(stored).items()}

    def declared_point(self, stored: Mapping[str, Value]) -> dict[str, float]:
        """Coordinates of those values that are within their declared range; an enqueued trial may hold others."""
        return {
            self.name_of(name): scale.to_unit(value)
            for name, (scale, value) in self._with_scales(stored).items()
            if scale.contains(value)
        }

    def _with_scales(self, stored: Mapping[str, Value]) -> dict[str, tuple[Scale, Value]]:
        found: dict[str, tuple[Scale, Value]] = {}
        for name, value in stored.items():
            if name in self.parameters:
                parameter = self.parameters[name]
                found[name] = parameter.scale, from_optuna(parameter, value)
            elif name in self.scales:
                found[name] = self.scales[name], value
        return found

    def value(self, stored_name: str, asked: BaseDistribution, unit: float) -> Value:
        """What Optuna is to store at a coordinate; always within the distribution that is asked for."""
        clipped = min(max(unit, 0.0), 1.0)
        parameter = self.parameters.get(stored_name)
        scale = parameter.scale if parameter else self.scales.get(stored_name, scale_of(asked))
        for coordinate in (unit, clipped):
            value = scale.from_unit(coordinate)
            stored = to_optuna(parameter, value) if parameter else value
            if asked._contains(asked.to_internal_repr(stored)):  # noqa: SLF001  Optuna has no public form of it
                return stored
        # The objective suggests from another range than it did at first.
        return scale_of(asked).from_unit(clipped)


class _StatelessSampler(BaseSampler):
    """Everything is drawn when it is asked for, so that no search space has to be known before."""

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return {}

    def sample_relative(
        self,
        study: Study,
        trial: FrozenTrial,
        search_space: dict[str, BaseDistribution],
    ) -> dict[str, Any]:
        return {}

    def reseed_rng(self) -> None:
        """Does nothing: parallel jobs draw apart because their trials have different numbers."""


class ResultBlindSampler(_StatelessSampler):
    """Draws that do not look at results: `random`, or `quasi_random` (a scrambled Sobol sequence).

    Args:
        kind: "random" or "quasi_random".
        seed: seed of the round.
        space: the search space, if there is one; else whatever the objective suggests.

    Raises:
        ValueError: there is no such kind.
    """

    def __init__(self, kind: str = "random", seed: int = 0, space: Space | None = None) -> None:
        if kind not in ("random", "quasi_random"):
            raise ValueError(f'kind must be "random" or "quasi_random", got {kind!r}')
        self._kind, self._seed, self._scales = kind, seed, _Scales(space)

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        name = self._scales.name_of(param_name)
        if self._kind == "random":
            unit = uniform(self._seed, 0, trial.number, name)
        else:
            unit = sobol_point(self._seed, trial.number, [name], first=self._place(trial, name))[name]
        return self._scales.value(param_name, param_distribution, unit)

    def _place(self, trial: FrozenTrial, name: str) -> int:
        """The dimension of the sequence: the place in the space, or the one at which the objective suggests it."""
        return self._scales.space.names.index(name) if self._scales.space else len(trial.params)


class CoarseToFineSampler(_StatelessSampler):
    """Random draws that go from coarse to fine, screened by a model of the learning curves seen so far.

    Draw 0 is meant for the study's own values (`study.enqueue_trial`), `coarse` uniform ones follow, then stages of
    doubling length draw from the box of the best trials. Without a space it works with whatever the objective suggests,
    takes the steps of `trial.report` for epochs, and the last step of complete trials for the full length.

    Args:
        seed: draws depend on it, on the trial's number and on the history.
        space: the search space; conditions, limits and tiers are known only from it.
        epochs: full length of a training; from the reports if not given.
        coarse: uniform draws after draw 0.
        elites: best trials that a box is made from.
        screen: whether a model picks among candidates; without it draws are uniform in the box.
        expand: whether a box may pass a declared edge that the elites press against; needs a space with limits.
        tiered: whether a coarse stage has tier 1 alone, the next one tier 2 as well, and so on; needs a space.
        timed: whether a candidate is worth what is expected of it per second instead of per epoch; needs attributes that
            say how long trials took, as in a round.
        defaults: the study's own values by parameter name, which tiers not yet tuned are fixed at.
        stages: stages of this round that are known already, from the first.
        on_stage: called with each new stage before its first draw.

    Raises:
        ValueError: an option needs another one that is missing.
    """

    def __init__(
        self,
        seed: int = 0,
        *,
        space: Space | None = None,
        epochs: int | None = None,
        coarse: int = 9,
        elites: int = 4,
        screen: bool = True,
        expand: bool = False,
        tiered: bool = False,
        timed: bool = False,
        defaults: Mapping[str, Value] | None = None,
        stages: Sequence[Stage] = (),
        on_stage: Callable[[Stage], None] | None = None,
    ) -> None:
        if (expand or tiered) and space is None:
            raise ValueError("expand and tiered need a space: limits and tiers are known only from it")
        self._seed, self._epochs, self._screen, self._timed = seed, epochs, screen, timed
        self._scales = _Scales(space)
        self._zoom = Zoom(coarse, elites, expand, tiered)
        self._defaults = space.to_unit(defaults) if space and defaults else {}
        self._stages = tuple(stages)
        self._on_stage = on_stage
        self._lock = threading.Lock()
        self._points: dict[int, dict[str, float]] = {}
        self._cache = ScreenCache()
        self._asked: tuple[Any, ...] = ()
        self._expected: Expectation | None = None
        self._full = epochs or 1
        self._sign = 1.0
        self._reader = TrialReader(self._entry)

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The stages so far, the first one first."""
        return self._stages

    @property
    def conversions(self) -> int:
        """How often a trial of Optuna was converted; for tests of what a draw costs."""
        return self._reader.conversions

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        name = self._scales.name_of(param_name)
        with self._lock:
            if trial.number not in self._points:
                self._points[trial.number] = self._drawn(study, trial)
                # Parallel draws are to see this one before Optuna has stored its parameters.
                self._reader.history.add(Entry(trial.number, self._points[trial.number]))
            self._scales.learn(param_name, param_distribution)
            point = self._points[trial.number]
            stage = stage_of(trial.number, self._stages)
        # A parameter that no trial had so far: nothing is known about it but its range.
        unit = point.get(name, uniform(self._seed, stage.number, trial.number, name))
        return self._scales.value(param_name, param_distribution, unit)

    def judge(self, history: History, waiting: Sequence[int]) -> Expectation | None:
        """What the model expects of the next draw and of paused trials; for a round's rule, which has a space.

        None without a model. In a coarse stage the next draw is expected to be better than anything, and
        nothing is said of what waits.

        Args:
            history: the round's trials.
            waiting: numbers of paused trials.
        """
        if not self._screen:
            return None
        # A free worker with nothing to do asks again and again.
        asked = (id(history), history.changes, tuple(waiting))
        if asked != self._asked:
            self._asked, self._expected = asked, self._expectation(history, waiting)
        return self._expected

    def _expectation(self, history: History, waiting: Sequence[int]) -> Expectation:
        if not waiting:
            return Expectation(math.inf, {})
        dimensions = [self._scales.dimensions[name] for name in sorted(self._scales.dimensions)]
        index = len(history)
        with self._lock:
            stages = stages_until(index, self._stages, history, dimensions, zoom=self._zoom, defaults=self._defaults)
            stage = stage_of(index, stages)
            if stage.is_coarse:
                return Expectation(math.inf, {})
            screen = self._screen_of(history, stage, dimensions, index)
        points = [history[number].point for number in waiting]
        expected, final = (
            dict(zip(waiting, map(float, of(points)), strict=True)) for of in (screen.expected, screen.final)
        )
        best = screen.best()
        return Expectation(best.expected, expected, best.pace, final)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Opens the trial's stage, for those too whose values are all given."""
        with self._lock:
            self._open_stages(study, trial)

    def after_trial(
        self,
        study: Study,
        trial: FrozenTrial,
        state: TrialState,
        values: Sequence[float] | None,
    ) -> None:
        with self._lock:
            self._points.pop(trial.number, None)

    def _drawn(self, study: Study, trial: FrozenTrial) -> dict[str, float]:
        history, dimensions = self._open_stages(study, trial)
        fixed = self._scales.declared_point(trial.system_attrs.get(FIXED, {}))
        stage = _fixed(stage_of(trial.number, self._stages), fixed)
        return self._screen_of(history, stage, dimensions, trial.number).best().point

    def _screen_of(self, history: History, stage: Stage, dimensions: Sequence[Dimension], index: int) -> Screen:
        return Screen(
            history,
            stage,
            dimensions,
            self._seed,
            index,
            epochs=self._full,
            learns=self._screen and not stage.is_coarse,
            timed=self._timed,
            cache=self._cache,
        )

    def _open_stages(self, study: Study, trial: FrozenTrial) -> tuple[History, list[Dimension]]:
        """The history and the space as they are at this draw, with the stages that it needs."""
        history = self._history(study, trial)
        dimensions = [self._scales.dimensions[name] for name in sorted(self._scales.dimensions)]
        known = len(self._stages)
        self._stages = stages_until(
            trial.number, self._stages, history, dimensions, zoom=self._zoom, defaults=self._defaults
        )
        if self._on_stage:
            for new in self._stages[known:]:
                self._on_stage(new)
        return history, dimensions

    def _history(self, study: Study, trial: FrozenTrial) -> History:
        self._sign = -1.0 if study.direction is StudyDirection.MAXIMIZE else 1.0
        trials = study.get_trials(deepcopy=False)
        if self._epochs is None:
            self._follow(trials)
        return self._reader.update(trials, without=trial.number)

    def _follow(self, trials: Sequence[FrozenTrial]) -> None:
        """The full length is the last step of complete trials; a longer one changes what trials are compared at."""
        ends = [
            trial.last_step or 1 for trial in trials if trial.state is TrialState.COMPLETE and trial.intermediate_values
        ]
        full = max(ends, default=1)
        if full != self._full:
            self._full = full
            self._reader.forget()

    def _entry(self, trial: FrozenTrial) -> Entry:
        for name, asked in trial.distributions.items():
            self._scales.learn(name, asked)
        point = self._scales.point(trial.params) or self._points.get(trial.number, {})
        if READINGS in trial.user_attrs:
            return attribute_entry(trial, point, self._sign)
        return plain_entry(trial, point, self._sign, self._full)


def _fixed(stage: Stage, point: Mapping[str, float]) -> Stage:
    """The stage with dimensions that an enqueued trial brings values for held there, so that the rest fits them."""
    if not point:
        return stage
    held = {name: (unit, unit) for name, unit in point.items()}
    return replace(stage, frame={**stage.frame, **held}, box={**stage.box, **held})
