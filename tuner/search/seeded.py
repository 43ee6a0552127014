"""Optuna's own samplers, made to depend on (seed, trial number) and the history alone, as tuner's draws do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from tuner.search.draws import uniform


class SeededPerTrial(BaseSampler):
    """Builds its sampler anew for each trial, with a seed of that trial.

    A sampler of Optuna draws from one generator over its whole life. A study that is resumed would start that generator
    again and repeat the first draws; with a seed a trial it goes on as if there had been no break.
    """

    def __init__(self, build: Callable[[int], BaseSampler], seed: int) -> None:
        """Prepare.

        Args:
            build: makes the sampler from a seed.
            seed: of the study.
        """
        self._build, self._seed = build, seed
        self._sampler = build(seed)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        self._sampler = self._build(int(uniform(self._seed, "sampler", trial.number) * 2**31))
        self._sampler.before_trial(study, trial)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self._sampler.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return self._sampler.sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self._sampler.sample_independent(study, trial, param_name, param_distribution)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        self._sampler.after_trial(study, trial, state, values)

    def reseed_rng(self) -> None:
        """Nothing to do: every trial has its own seed."""


class SeededSequence(SeededPerTrial):
    """For a sampler whose draws are places of one sequence, which a seed scrambles: Optuna's QMCSampler.

    The sequence has the study's seed, and its place is in the study's system attributes. What is drawn besides it, because
    it was not known when the sequence began, has a seed of its trial. Optuna takes the parameters of the first trial that
    has ended for the space, so that in a conditional one the sequence may begin anew while several trials train.
    """

    def __init__(self, build: Callable[[int], BaseSampler], seed: int) -> None:
        super().__init__(build, seed)
        self._sequence = build(seed)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self._sequence.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return self._sequence.sample_relative(study, trial, search_space)
