"""Optuna's samplers that draw each of finitely many configurations, made to do so once and to say when that is done.

Optuna's own tell it when a trial ends, so that workers that draw meanwhile repeat what still trains. Here they are asked
after each draw. What a round does when nothing is left is the business of `tuner.round`.
"""

from __future__ import annotations

import abc
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, GridSampler
from optuna.storages import BaseStorage
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from tuner.search.seeded import SeededPerTrial


class Exhaustive(BaseSampler):
    """A sampler that can run out of configurations."""

    @abc.abstractmethod
    def stop_if_exhausted(self, study: Study) -> None:
        """Call `study.stop()` where each configuration is drawn, whether it has ended or not."""


class BruteForce(SeededPerTrial, Exhaustive):
    """Optuna's BruteForceSampler, which finds out from the trials what is left, so that any seed will do.

    It is not shown trials without parameters, which a stranger has added: they would say that there are none.
    """

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return super().sample_independent(_shown(study, trial), trial, param_name, param_distribution)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        super().after_trial(_shown(study, trial), trial, state, values)

    def stop_if_exhausted(self, study: Study) -> None:
        drawn = [trial for trial in _trials(study) if trial.params]
        if drawn:
            # The only way to have it look: it takes the trial for ended, and leaves others that train out of account.
            self.after_trial(study, drawn[-1], TrialState.FAIL, None)


class Grid(Exhaustive):
    """Optuna's GridSampler, with each point drawn once, in the order of one seed.

    It gives trial n point n, which is another one for each seed, and takes no notice of the study's own values, which
    are drawn first and may be a point. Here the next point is the first that no trial has, and points that differ in
    switched-off parameters are one.
    """

    def __init__(self, grid: GridSampler) -> None:
        """Take over the grid's points, in its order."""
        self._grid = grid
        self._names: list[str] = grid._param_names  # noqa: SLF001 - Optuna has no public form of them
        self._points: list[tuple[Any, ...]] = grid._all_grids  # noqa: SLF001

    @property
    def values(self) -> Mapping[str, Sequence[Any]]:
        """The values of each parameter, by Optuna's names."""
        return self._grid._search_space  # noqa: SLF001

    def stop_if_exhausted(self, study: Study) -> None:
        if next(self._left(study), None) is None:
            study.stop()

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        if "fixed_params" in trial.system_attrs or "grid_id" in trial.system_attrs:
            return  # enqueued; or drawn, and Optuna calls it again when its pruner is asked of the trial
        # Under Optuna's names, because the sampler looks there for what to give.
        study._storage.set_trial_system_attr(trial._trial_id, "grid_id", next(self._left(study)))  # noqa: SLF001

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self._grid.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return self._grid.sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self._grid.sample_independent(study, trial, param_name, param_distribution)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        """Nothing to do: what is drawn does not depend on what has ended."""

    def reseed_rng(self) -> None:
        """Nothing to do: the order is that of one seed."""

    def _left(self, study: Study) -> Iterator[int]:
        """Places of the points that no trial has, in the grid's order."""
        given: set[int] = set()
        drawn: defaultdict[tuple[int, ...], set[tuple[Any, ...]]] = defaultdict(set)  # values, by places of their names
        for trial in _trials(study):
            given.add(trial.system_attrs.get("grid_id", -1))
            if trial.params:
                places = tuple(place for place, name in enumerate(self._names) if name in trial.params)
                drawn[places].add(tuple(trial.params[self._names[place]] for place in places))
        for number, point in enumerate(self._points):
            if number not in given and not any(
                tuple(point[place] for place in places) in values for places, values in drawn.items()
            ):
                yield number


class _Storage:
    """A storage without the trials that have no parameters, except the one that is drawn, which has none at first."""

    def __init__(self, storage: BaseStorage, current: FrozenTrial) -> None:
        self._storage, self._current = storage, current.number

    def get_all_trials(self, study_id: int, **options: Any) -> list[FrozenTrial]:
        trials = self._storage.get_all_trials(study_id, **options)
        return [trial for trial in trials if trial.params or trial.number == self._current]


class _Study:
    """A study with another storage; all else is its own."""

    def __init__(self, study: Study, storage: _Storage) -> None:
        self._study, self._storage = study, storage

    def __getattr__(self, name: str) -> Any:
        return getattr(self._study, name)


def _shown(study: Study, current: FrozenTrial) -> Study:
    """The study as a sampler is to see it at a trial."""
    return cast("Study", _Study(study, _Storage(study._storage, current)))  # noqa: SLF001 - samplers read it there


def _trials(study: Study) -> list[FrozenTrial]:
    """All of them; `study.trials` has those of one bracket only where Hyperband prunes."""
    return study._storage.get_all_trials(study._study_id, deepcopy=False)  # noqa: SLF001
