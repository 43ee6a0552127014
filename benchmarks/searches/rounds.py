"""tuner's rounds on tables of learning curves: the real configuration, plan, sampler, and rule for free workers.

Only what trains is replaced, by a table and a clock that counts epochs. The study in memory carries the same attributes
that the ledger gives it, so samplers see what they see in a round.
"""

from __future__ import annotations

import heapq
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

import optuna
from optuna.trial import Trial, TrialState

from searches.runs import Run
from searches.tables import Array, Curves
from tuner.chosen import plan_of, sampler_of
from tuner.config import Settings, load
from tuner.search.distributions import distribution, from_optuna, optuna_name, to_optuna_params
from tuner.search.history import History, State
from tuner.search.promotion import Action, Draw, Finished, Plan, Resume, Wait, next_action
from tuner.search.stages import Stage
from tuner.search.trial_reader import OUTCOME, PAUSED_AT, READINGS, TARGET
from tuner.space import Value

#: Systems by name: overrides of the configuration. The first is the default.
SYSTEMS: Mapping[str, tuple[str, ...]] = {
    "coarse_to_fine": (),
    "plain zoom": ("search.screen=false",),
    "tiered": ("search=tiered",),
    "random, promotion": ("search=random",),
    "quasi_random, promotion": ("search=quasi_random",),
    "tpe": ("search=tpe",),
    "gp": ("search=gp",),
}


def simulate(
    curves: Curves, system: str, task: str, seed: int, workers: int, budget: float, own: float | None = None
) -> Run:
    """One round.

    Args:
        curves: the table.
        system: a name of `SYSTEMS`.
        task: of the table.
        seed: of the round and of the noise.
        workers: trials at a time.
        budget: full trainings' worth of epochs.
        own: the share of random configurations that the study's own values are better than; None: it has none.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        values = {} if own is None else curves.own(task, seed, own)
        return _Round(curves, _settings(curves, SYSTEMS[system], budget, seed), task, seed, values).run(workers, budget)


def _settings(curves: Curves, overrides: tuple[str, ...], budget: float, seed: int) -> Settings:
    return _loaded((*curves.words, *overrides, f"search.budget={budget:g}", f"seed={seed}"), curves.config_dir)


@lru_cache(maxsize=4096)
def _loaded(words: tuple[str, ...], config_dir: str | None) -> Settings:
    return load(words, config_dir=config_dir)


@dataclass
class _Drawn:
    trial: Trial
    shown: Array
    regret: float


class _Round:
    def __init__(self, curves: Curves, settings: Settings, task: str, seed: int, own: Mapping[str, Value]) -> None:
        assert settings.study is not None
        self._curves, self._task, self._seed = curves, task, seed
        self._plan: Plan = plan_of(settings, settings.study, baseline=0 if own else None)
        self._has_barrier, self._stages = settings.search.barrier, list[Stage]()
        sampler = sampler_of(settings, settings.study, defaults=own, stages=(), on_stage=self._stages.append)
        self._judge = getattr(sampler, "judge", None)
        self._study = optuna.create_study(direction="maximize", sampler=sampler)
        if own:
            self._study.enqueue_trial(to_optuna_params(curves.space, own))
        self._history = History()
        self._trials: list[_Drawn] = []
        self._proposals: list[float] = []

    def run(self, workers: int, budget: float) -> Run:
        now = 0.0
        under_way: list[tuple[float, int, int]] = []
        while True:
            began = time.perf_counter()
            action = self._next_action() if len(under_way) < workers else Wait()
            if isinstance(action, Finished):
                break
            if isinstance(action, Wait):
                now, number, epoch = heapq.heappop(under_way)
                self._reach(number, epoch)
                if epoch < self._history[number].target:
                    self._train(number, epoch, now, under_way)
                continue
            if isinstance(action, Draw):
                trial, values = self._ask()
                self._proposals.append(1e3 * (time.perf_counter() - began))
                number, trained = self._begin(trial, values), 0
            else:
                self._proposals.append(1e3 * (time.perf_counter() - began))
                number, trained = action.number, self._history[action.number].last_epoch
                self._resume(action)
            self._train(number, trained, now, under_way)
        complete = self._history.ranked(self._plan.epochs)
        best = self._trials[complete[0][1]].regret if complete else 1.0
        clock = now * workers / self._plan.epochs
        return Run({budget: best}, {budget: len(self._trials)}, self._proposals, {budget: clock})

    def _next_action(self) -> Action:
        stages = self._stages if self._has_barrier else []
        plan = replace(self._plan, barrier_at=stages[-1].ends_at if stages else None)
        return next_action(self._history, plan, self._judge)

    def _ask(self) -> tuple[Trial, dict[str, Value]]:
        trial = self._study.ask()
        values = {}
        for one in self._curves.space:
            asked = distribution(one)
            values[one.name] = from_optuna(one, trial._suggest(optuna_name(one), asked))  # noqa: SLF001 as the ledger
        return trial, values

    def _train(self, number: int, trained: int, now: float, under_way: list[tuple[float, int, int]]) -> None:
        """Until the trial is read next. Of others than the baseline what they pass on the way to the end is left out: only
        the last decisions would see it."""
        stops = [self._history[number].target]
        if number == self._plan.baseline:
            stops += [rung for rung in self._plan.rungs if trained < rung < stops[0]]
        heapq.heappush(under_way, (now + min(stops) - trained, number, min(stops)))

    def _begin(self, trial: Trial, values: dict[str, Value]) -> int:
        self._trials.append(_Drawn(trial, *self._curves.trial(self._task, values, self._seed, trial.number)))
        target = self._plan.first_target(trial.number)
        self._history.drawn(trial.number, self._curves.space.to_unit(values), target)
        self._note(trial.number, **{TARGET: target, READINGS: []})
        return trial.number

    def _resume(self, action: Resume) -> None:
        self._history.resumed(action.number, action.until)
        self._note(action.number, **{TARGET: action.until, PAUSED_AT: None})

    def _reach(self, number: int, epoch: int) -> None:
        """A training is read after so many epochs."""
        drawn = self._trials[number]
        shown = float(drawn.shown[epoch - 1])
        self._history.read(number, epoch, -shown)
        readings = [[r.epoch, -r.value, r.order] for r in self._history[number].readings]
        self._note(number, **{READINGS: readings})
        if epoch < self._history[number].target:
            return
        if epoch < self._plan.epochs:
            self._history.paused(number)
            self._note(number, **{PAUSED_AT: epoch})
            return
        self._history.ended(number, State.COMPLETE)
        self._note(number, **{OUTCOME: str(State.COMPLETE)})
        self._study.tell(drawn.trial, shown, TrialState.COMPLETE)

    def _note(self, number: int, **attributes: object) -> None:
        for name, value in attributes.items():
            self._trials[number].trial.set_user_attr(name, value)
