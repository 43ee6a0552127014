"""What rows of several systems say of them: means, paired differences, and how sure these are.

A seed decides of the noise and of the first draws of a system on all tasks alike, so that tasks are no repetitions of
each other: intervals are those of a bootstrap that draws tasks and seeds anew, with repetition.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray

from searches.rows import Row

Array = NDArray[np.float64]

DRAWS = 2000


@dataclass(frozen=True)
class Place:
    """Where systems are compared; the budget is in full trainings."""

    workers: int
    budget: float

    def __str__(self) -> str:
        return f"{self.budget:g} full trainings, {self.workers} {'worker' if self.workers == 1 else 'workers'}"


@dataclass(frozen=True)
class Against:
    """One system against the best of others, at one place.

    The best of them was chosen on the same rows. Of many alike the best one is lucky, so that this counts against the one.

    Attributes:
        best: the one of the lowest mean.
        mine: mean regret in percent.
        its: the same of the best one.
        difference: mine minus its, and its 95 % interval.
        share: mine by its and its 95 % interval; None where its is not above 0.
        won: share of the tasks on which the one is better than the best in the mean over seeds.
        seeds: that all of them have.
    """

    best: str
    mine: float
    its: float
    difference: tuple[float, float, float]
    share: tuple[float, float, float] | None
    won: float
    seeds: int


class Scores:
    """Regrets in percent of systems; of each the seeds that it has on all tasks at all of its places.

    Args:
        rows: of any systems.
        systems: in the order of the tables.
        places: that they are compared at; a system may have no row at all at some of them.
        tasks: of the table.
    """

    def __init__(
        self, rows: Iterable[Row], systems: Sequence[str], places: Sequence[Place], tasks: Sequence[str]
    ) -> None:
        self.places, self._tasks = tuple(places), tuple(tasks)
        self._cells = {(row.system, row.workers, row.budget, row.task, row.seed): row for row in rows}
        self.whose = {row.system: row.whose for row in self._cells.values()}
        at = {(system, Place(workers, budget)) for system, workers, budget, task, _ in self._cells if task in tasks}
        self._has = {system: tuple(place for place in self.places if (system, place) in at) for system in systems}
        seeds = {system: self._whole_seeds(system) for system in systems}
        #: Seeds by system; one that has none is not there.
        self.seeds = {system: its for system, its in seeds.items() if its}

    def _whole_seeds(self, system: str) -> list[int]:
        places = self._has[system]
        found = Counter(
            seed
            for name, workers, budget, task, seed in self._cells
            if name == system and Place(workers, budget) in places and task in self._tasks
        )
        return sorted(seed for seed, count in found.items() if count == len(places) * len(self._tasks))

    def has(self, system: str, place: Place) -> bool:
        return place in self._has[system]

    def covers(self, system: str, one: str) -> bool:
        """Whether a system has all the seeds and places that `one` has."""
        return set(self.seeds[one]) <= set(self.seeds[system]) and set(self._has[one]) <= set(self._has[system])

    def regrets(self, system: str, place: Place, seeds: Sequence[int] | None = None) -> Array:
        """In percent, shape (tasks, seeds): of those seeds, or of all that it has."""
        return 100 * self._values(system, place, seeds, lambda row: row.regret)

    def _values(self, system: str, place: Place, seeds: Sequence[int] | None, of: Callable[[Row], float]) -> Array:
        wanted = self.seeds[system] if seeds is None else seeds
        return np.array([[of(self._row(system, place, task, seed)) for seed in wanted] for task in self._tasks])

    def _row(self, system: str, place: Place, task: str, seed: int) -> Row:
        return self._cells[system, place.workers, place.budget, task, seed]

    def mean(self, system: str, place: Place) -> tuple[float, float]:
        """Mean regret, and its standard error over seeds; NaN of a single one."""
        by_seed = self.regrets(system, place).mean(axis=0)
        error = by_seed.std(ddof=1) / np.sqrt(len(by_seed)) if len(by_seed) > 1 else np.nan
        return float(by_seed.mean()), float(error)

    def clock(self, system: str, place: Place) -> float:
        """Time that it took, in full trainings' worth of all workers."""
        return float(self._values(system, place, None, lambda row: row.clock).mean())

    def cost_ms(self, system: str) -> float:
        """Milliseconds of a decision, median over the runs of its largest budget; smaller ones know less and are faster."""
        largest = max(place.budget for place in self._has[system])
        return statistics.median(
            row.decision_ms for row in self._cells.values() if (row.system, row.budget) == (system, largest)
        )

    def common_seeds(self, *systems: str) -> list[int]:
        return sorted(set.intersection(*(set(self.seeds[system]) for system in systems)))

    def difference(self, one: str, other: str, place: Place) -> tuple[float, float, float]:
        """Regret of `one` minus that of `other` with its 95 % interval, paired by task and by the seeds that both have."""
        seeds = self.common_seeds(one, other)
        return _mean_with_interval(self.regrets(one, place, seeds) - self.regrets(other, place, seeds))

    def against(self, one: str, others: Sequence[str], place: Place, *, same_time: bool = False) -> Against:
        """How `one` compares with the best of others on the seeds that all of them have.

        Args:
            one: the system.
            others: that it is compared with.
            place: where.
            same_time: after the time that `one` took there, not after as many epochs; the others' regret then is
                interpolated between their budgets, over the logarithm of the time.
        """
        seeds = self.common_seeds(one, *others)
        time = self.clock(one, place) if same_time else place.budget
        regrets = {other: self._after(other, place.workers, time, seeds) for other in others}
        best = min(others, key=lambda other: regrets[other].mean())
        mine, its = self.regrets(one, place, seeds), regrets[best]

        def share(tasks: Array, chosen: Array) -> float:
            cells = np.ix_(tasks, chosen)
            return float(mine[cells].mean() / its[cells].mean()) if its[cells].mean() > 0 else np.inf

        return Against(
            best=best,
            mine=float(mine.mean()),
            its=float(its.mean()),
            difference=_mean_with_interval(mine - its),
            share=_with_interval(share, mine.shape) if its.mean() > 0 else None,
            won=float((mine.mean(axis=1) < its.mean(axis=1)).mean()),
            seeds=len(seeds),
        )

    def last_time(self, others: Sequence[str], workers: int) -> float:
        """How long the runs of the largest budget took, the longest of these systems."""
        return max(self.clock(other, self._places(other, workers)[-1]) for other in others)

    def _places(self, system: str, workers: int) -> list[Place]:
        """Where it was run with so many workers, the largest budget last."""
        return sorted((at for at in self._has[system] if at.workers == workers), key=lambda at: at.budget)

    def _after(self, system: str, workers: int, time: float, seeds: Sequence[int]) -> Array:
        """Regrets after a time, shape (tasks, seeds); before the first and after the last budget those of that one."""
        places = self._places(system, workers)
        known = np.stack([self.regrets(system, place, seeds) for place in places])
        times = np.log([self.clock(system, place) for place in places])
        return np.asarray(np.apply_along_axis(lambda values: np.interp(np.log(time), times, values), 0, known))


def _mean_with_interval(values: Array) -> tuple[float, float, float]:
    return _with_interval(lambda tasks, seeds: float(values[np.ix_(tasks, seeds)].mean()), values.shape)


def _with_interval(statistic: Callable[[Array, Array], float], shape: tuple[int, ...]) -> tuple[float, float, float]:
    """A statistic of the cells (tasks, seeds), and its 95 % interval: those of a bootstrap over both."""
    tasks, seeds = cast("tuple[int, int]", shape)
    generator = np.random.default_rng(0)
    drawn = [
        statistic(generator.integers(tasks, size=tasks), generator.integers(seeds, size=seeds)) for _ in range(DRAWS)
    ]
    # Not interpolated: some may be infinite.
    low, high = np.quantile(drawn, [0.025, 0.975], method="nearest")
    return statistic(np.arange(tasks), np.arange(seeds)), float(low), float(high)
