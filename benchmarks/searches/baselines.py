"""Optuna as a user would have it, on tables of learning curves: one study, so many workers, a simulated clock.

A worker asks for a configuration, trains it epoch by epoch, reports each value, and asks the pruner after each. The
recommendation is `study.best_trial`. What a run is given does not depend on its budget, so one run serves them all.
"""

from __future__ import annotations

import heapq
import time
import warnings
from collections.abc import Callable, Mapping, Sequence

import optuna
from optuna import pruners, samplers
from optuna.distributions import BaseDistribution
from optuna.trial import Trial, TrialState

from searches.runs import Run
from searches.tables import Array, Curves
from tuner.search.distributions import distribution, from_optuna, optuna_name, to_optuna_params

Sampler = Callable[[int], samplers.BaseSampler]

SAMPLERS: Mapping[str, Sampler] = {
    "TPE": lambda seed: samplers.TPESampler(seed=seed),  # 10 random starts
    "TPE 5": lambda seed: samplers.TPESampler(seed=seed, n_startup_trials=5),
    "GP 10": lambda seed: samplers.GPSampler(seed=seed, n_startup_trials=10),
    "GP 5": lambda seed: samplers.GPSampler(seed=seed, n_startup_trials=5),
    "random": lambda seed: samplers.RandomSampler(seed=seed),
    "QMC": lambda seed: samplers.QMCSampler(seed=seed),
}
PRUNERS: Mapping[str, Callable[[int], pruners.BasePruner | None]] = {
    "": lambda _: None,
    "Median": lambda _: pruners.MedianPruner(),
    "Hyperband": lambda epochs: pruners.HyperbandPruner(max_resource=epochs),
    "ASHA": lambda _: pruners.SuccessiveHalvingPruner(),
}
#: Systems by name: sampler and pruner.
SYSTEMS: Mapping[str, tuple[str, str]] = {
    f"{sampler} + {pruner}" if pruner else sampler: (sampler, pruner)
    for sampler, its in {
        "TPE": tuple(PRUNERS),
        "TPE 5": tuple(PRUNERS),
        "GP 10": tuple(PRUNERS),
        "GP 5": tuple(PRUNERS),
        "random": ("", "ASHA"),
        "QMC": ("",),
    }.items()
    for pruner in its
}


def simulate(
    curves: Curves,
    system: str,
    task: str,
    seed: int,
    workers: int,
    budgets: Sequence[float],
    own: float | None = None,
) -> Run:
    """One run up to the largest budget.

    Args:
        curves: the table.
        system: a name of `SYSTEMS`.
        task: of the table.
        seed: of the sampler and of the noise.
        workers: trials at a time.
        budgets: full trainings' worth of epochs at which the recommendation is judged.
        own: the share of random configurations that the first one is better than; None: the sampler draws it.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    sampler, pruner = SYSTEMS[system]
    stops = PRUNERS[pruner](curves.epochs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        # Named, because HyperbandPruner draws a trial's bracket by the name.
        name = f"{task}-{seed}"
        study = optuna.create_study(
            study_name=name, direction="maximize", sampler=SAMPLERS[sampler](seed), pruner=stops
        )
    if own is not None:
        study.enqueue_trial(to_optuna_params(curves.space, curves.own(task, seed, own)))
    return _Simulation(curves, study, task, seed, prunes=stops is not None).run(workers, budgets)


class _Simulation:
    def __init__(self, curves: Curves, study: optuna.Study, task: str, seed: int, *, prunes: bool) -> None:
        self._curves, self._study, self._task, self._seed, self._prunes = curves, study, task, seed, prunes
        self._asked: dict[str, BaseDistribution] = {optuna_name(one): distribution(one) for one in curves.space}
        self._shown: dict[int, Array] = {}
        self._regrets: dict[int, float] = {}
        self._proposals: list[float] = []

    def run(self, workers: int, budgets: Sequence[float]) -> Run:
        ends = {budget: budget * self._curves.epochs / workers for budget in budgets}
        regrets: dict[float, float] = {}
        spent: dict[float, int] = {}
        under_way = [(0.0, worker, self._next(), 0) for worker in range(workers)]
        while under_way:
            # Workers at the same instant act in their order.
            now, worker, trial, epoch = heapq.heappop(under_way)
            epoch += 1 if self._prunes else self._curves.epochs
            then = now + (1 if self._prunes else self._curves.epochs)
            for budget in [one for one in budgets if one not in regrets and then > ends[one]]:
                regrets[budget], spent[budget] = self._best(), len(self._regrets)
            if len(regrets) == len(ends):
                break
            if not self._goes_on(trial, epoch):
                trial, epoch = self._next(), 0
            heapq.heappush(under_way, (then, worker, trial, epoch))
        return Run(regrets, spent, self._proposals, {budget: budget for budget in budgets})

    def _next(self) -> Trial:
        began = time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trial = self._study.ask(self._asked)
        self._proposals.append(1e3 * (time.perf_counter() - began))
        params = {one.name: from_optuna(one, trial.params[optuna_name(one)]) for one in self._curves.space}
        self._shown[trial.number], self._regrets[trial.number] = self._curves.trial(
            self._task, params, self._seed, trial.number
        )
        return trial

    def _goes_on(self, trial: Trial, epoch: int) -> bool:
        value = float(self._shown[trial.number][epoch - 1])
        if epoch == self._curves.epochs:
            self._study.tell(trial, value)
            return False
        trial.report(value, epoch)
        if trial.should_prune():
            self._study.tell(trial, state=TrialState.PRUNED)
            return False
        return True

    def _best(self) -> float:
        try:
            return self._regrets[self._study.best_trial.number]
        except ValueError:
            return 1.0  # nothing was trained in full: a configuration at random
