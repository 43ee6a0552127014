"""How good the configuration is that a search recommends, on tables of learning curves: no training takes place.

`tuner` and Optuna search the same spaces with the same budgets, counted in epochs, and trial n of each has the same
noise. The score is normalised regret: 0 for the best value known on a task, 100 for the median of random
configurations. With several workers tuner takes longer for the same epochs, because some have nothing to do while the last
trainings end; the time that both take is in the table, in full trainings' worth of all workers. Runs that are done are
kept in a file, so that a broken-off benchmark goes on.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import statistics
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from functools import cache, lru_cache
from itertools import product
from pathlib import Path

import numpy as np
from figures import digest_of, heading, note, parser, short, table, verdict
from numpy.typing import NDArray
from searches import baselines, rounds
from searches.tables import Curves, load

MAIN = "coarse_to_fine"
BUDGETS, QUICK_BUDGETS = (8.0, 16.0, 32.0, 64.0), (4.0, 8.0)
EARLY, EARLY_SHARE = (8.0, 16.0), 0.6
EXAMPLE = Path(__file__).parent / "searches" / "example"
OURS, THEIRS = "tuner", "Optuna"


@dataclass(frozen=True)
class Job:
    """One run, which serves several budgets where a run does not depend on its budget."""

    whose: str
    system: str
    task: str
    seed: int
    workers: int
    budgets: tuple[float, ...]


@dataclass(frozen=True)
class Row:
    """What was recommended after one budget.

    `code` says with which program and table; rows of another one are not taken from a file.
    """

    whose: str
    system: str
    task: str
    seed: int
    workers: int
    budget: float
    regret: float
    drawn: float
    clock: float
    proposal_ms: float
    code: str = ""

    @property
    def place(self) -> tuple[object, ...]:
        return self.code, self.whose, self.system, self.task, self.seed, self.workers, self.budget


@lru_cache(maxsize=1)
def _curves(folder: str) -> Curves:
    return load(Path(folder))


@cache
def code_of(whose: str, data: Path) -> str:
    """What the rows of this project's systems, or of Optuna's, depend on besides their settings."""
    root, optuna = Path(__file__).parents[1], importlib.metadata.version("optuna")
    ours = [root / "tuner" / "search", root / "tuner" / "chosen.py", root / "conf" / "search", root / "conf" / "pruner"]
    return f"optuna {optuna}, {digest_of(data, *(ours if whose == OURS else []))}"


def run(folder: str, job: Job) -> list[Row]:
    """The rows of a job."""
    curves, where = _curves(folder), (job.task, job.seed, job.workers)
    if job.whose == OURS:
        done = rounds.simulate(curves, job.system, *where, job.budgets[0])
    else:
        done = baselines.simulate(curves, job.system, *where, job.budgets)
    cost, code = statistics.median(done.proposals), code_of(job.whose, Path(folder))
    return [
        Row(
            whose=job.whose,
            system=job.system,
            task=job.task,
            seed=job.seed,
            workers=job.workers,
            budget=budget,
            regret=done.regrets[budget],
            drawn=done.drawn[budget],
            clock=done.clock[budget],
            proposal_ms=cost,
            code=code,
        )
        for budget in job.budgets
    ]


def jobs(options: argparse.Namespace, tasks: Sequence[str]) -> Iterator[Job]:
    """All runs, seed by seed, so that a benchmark that is broken off has all systems with fewer seeds."""
    budgets = tuple(options.budgets)
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    for seed, workers, task in product(seeds, options.workers, tasks):
        for system in options.systems:
            if system in rounds.SYSTEMS:
                yield from (Job(OURS, system, task, seed, workers, (budget,)) for budget in budgets)
            else:
                yield Job(THEIRS, system, task, seed, workers, budgets)


def measure(options: argparse.Namespace, tasks: Sequence[str]) -> list[Row]:
    """Rows of all jobs, those from the file that are there."""
    rows = {row.place: row for row in _kept(options.keep)}
    others = sum(row.code != code_of(row.whose, options.data) for row in rows.values())
    if others:
        note(f"{others} rows of {options.keep} are of another version of the searches or of the table: left aside")
    if options.table_only:
        return [row for row in rows.values() if row.code == code_of(row.whose, options.data)]

    def places_of(job: Job) -> list[tuple[object, ...]]:
        code = code_of(job.whose, options.data)
        return [(code, job.whose, job.system, job.task, job.seed, job.workers, budget) for budget in job.budgets]

    wanted = list(jobs(options, tasks))
    places = {place for job in wanted for place in places_of(job)}
    missing = [job for job in wanted if any(place not in rows for place in places_of(job))]
    with ProcessPoolExecutor(options.jobs) as pool:
        running = [pool.submit(run, str(options.data), job) for job in missing]
        for count, done in enumerate(as_completed(running), 1):
            for row in done.result():
                rows[row.place] = row
                _keep(options.keep, row)
            if count % 100 == 0 or count == len(missing):
                note(f"{count} of {len(missing)} runs")
    return [row for place, row in rows.items() if place in places]


def _kept(file: Path | None) -> Iterator[Row]:
    if file is not None and file.is_file():
        for line in file.read_text(encoding="utf-8").splitlines():
            yield Row(**json.loads(line))


def _keep(file: Path | None, row: Row) -> None:
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("a", encoding="utf-8") as lines:
            lines.write(f"{json.dumps(asdict(row))}\n")


@dataclass(frozen=True)
class Difference:
    """Regrets of one system minus those of another, in percent.

    Attributes:
        values: of shape (tasks, seeds).
    """

    values: NDArray[np.float64]

    @property
    def mean(self) -> float:
        return float(self.values.mean())

    @property
    def won(self) -> float:
        """Share of the tasks on which the one is better in the mean over seeds."""
        return float((self.values.mean(axis=1) < 0).mean())

    @property
    def seeds(self) -> int:
        return len(self.values.T)

    def interval(self, draws: int = 2000) -> tuple[float, float]:
        """95 % of a bootstrap over tasks and over seeds, which all tasks share, as their noise and first draws."""
        generator = np.random.default_rng(0)
        means = []
        for _ in range(draws):
            tasks, seeds = (generator.integers(count, size=count) for count in self.values.shape)
            means.append(self.values[np.ix_(tasks, seeds)].mean())
        low, high = np.quantile(means, [0.025, 0.975])
        return float(low), float(high)


class Scores:
    """Mean regret in percent by system, workers and budget; differences are paired by task and seed."""

    def __init__(self, rows: Iterable[Row]) -> None:
        self._by: dict[tuple[str, int, float], dict[tuple[str, int], Row]] = defaultdict(dict)
        self.whose: dict[str, str] = {}
        self._costs: dict[str, list[float]] = defaultdict(list)
        for row in rows:
            self._by[row.system, row.workers, row.budget][row.task, row.seed] = row
            self.whose[row.system] = row.whose
            self._costs[row.system].append(row.proposal_ms)

    def mean(self, system: str, workers: int, budget: float) -> float:
        """Over the seeds of each task, then over tasks."""
        by_task = defaultdict[str, list[float]](list)
        for (task, _), row in self._by[system, workers, budget].items():
            by_task[task].append(100 * row.regret)
        return statistics.fmean(statistics.fmean(values) for values in by_task.values())

    def clock(self, system: str, workers: int, budget: float) -> float:
        return statistics.fmean(row.clock for row in self._by[system, workers, budget].values())

    def cost_ms(self, system: str) -> float:
        return statistics.median(self._costs[system])

    def seeds(self, system: str) -> int:
        return len({seed for (name, _, _), of in self._by.items() if name == system for _, seed in of})

    def difference(self, one: str, other: str, workers: int, budget: float) -> Difference:
        """How `one` compares with `other` on what both were run on."""
        mine, its = self._by[one, workers, budget], self._by[other, workers, budget]
        both = mine.keys() & its.keys()
        tasks, seeds = sorted({task for task, _ in both}), sorted({seed for _, seed in both})
        whole = [seed for seed in seeds if all((task, seed) in both for task in tasks)]
        if not whole:
            raise ValueError(f"{one} and {other} have no seed in common on all tasks")
        return Difference(
            100 * np.array([[mine[task, s].regret - its[task, s].regret for s in whole] for task in tasks])
        )

    def best_of(self, whose: str, workers: int, budget: float) -> str | None:
        """The system of the lowest mean."""
        those = [name for name, owner in self.whose.items() if owner == whose and self._by[name, workers, budget]]
        return min(those, key=lambda name: self.mean(name, workers, budget), default=None)


def report(scores: Scores, options: argparse.Namespace) -> Iterator[str]:
    """Tables and verdicts."""
    yield heading(markdown=options.markdown)
    places = list(product(options.workers, options.budgets))
    header = [
        "regret, %",
        *(f"{budget:g}{f', {workers} workers' if workers > 1 else ''}" for workers, budget in places),
    ]
    rows = []
    for system in options.systems:
        cells = [f"{scores.mean(system, *place):.1f}" for place in places]
        rows.append(
            [f"{scores.whose[system]}: {system}", *cells, short(scores.cost_ms(system)), str(scores.seeds(system))]
        )
    yield table([*header, "proposal, ms", "seeds"], rows, markdown=options.markdown)
    if MAIN not in options.systems or all(owner == OURS for owner in scores.whose.values()):
        return
    rows, verdicts = [], []
    for workers, budget in places:
        best = scores.best_of(THEIRS, workers, budget)
        if best is None:
            continue
        mine, its = scores.mean(MAIN, workers, budget), scores.mean(best, workers, budget)
        found = scores.difference(MAIN, best, workers, budget)
        low, high = found.interval()
        clocks = [f"{scores.clock(name, workers, budget):.1f}" for name in (MAIN, best)]
        what = f"{budget:g} full trainings, {workers} {'worker' if workers == 1 else 'workers'}"
        difference = f"{found.mean:+.1f} ({low:+.1f} to {high:+.1f})"
        rows.append([what, best, difference, f"{found.won:.0%}", " / ".join(clocks), str(found.seeds)])
        share = EARLY_SHARE if budget in EARLY else 1.0
        limit = share * its if its > 0 else its
        verdicts.append(
            verdict(f"{what}: {mine:.1f} %, {best} {its:.1f} %", f"{limit:.1f} % at most", met=mine <= limit)
        )
    header = [
        f"{MAIN} against",
        "best of Optuna",
        "difference (95 % over tasks and seeds)",
        "tasks won",
        "time / its",
        "seeds",
    ]
    yield table(header, rows, markdown=options.markdown)
    yield "\n".join(verdicts)


def plot(scores: Scores, options: argparse.Namespace) -> None:
    """Regret over budget, a picture for each number of workers."""
    from matplotlib.figure import Figure  # noqa: PLC0415  most calls draw nothing

    figure = Figure(figsize=(4.8 * len(options.workers), 3.6), layout="constrained")
    axes = figure.subplots(1, len(options.workers), sharey=True, squeeze=False)[0]
    for axis, workers in zip(axes, options.workers, strict=True):
        for system in options.systems:
            values = [scores.mean(system, workers, budget) for budget in options.budgets]
            style = {"linewidth": 2.5} if system == MAIN else {"linewidth": 1.0, "alpha": 0.8}
            dashes = "-" if scores.whose[system] == OURS else "--"
            axis.plot(options.budgets, values, dashes, marker=".", label=f"{scores.whose[system]}: {system}", **style)
        axis.set(xscale="log", xlabel="budget, full trainings", title=f"{workers} at a time", xticks=options.budgets)
        axis.set_xticklabels([f"{budget:g}" for budget in options.budgets])
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("mean regret, %")
    axes[-1].legend(fontsize=6)
    figure.savefig(options.plot, dpi=110)


def _options() -> argparse.Namespace:
    known = [*rounds.SYSTEMS, *baselines.SYSTEMS]
    made = parser(__doc__)
    made.add_argument("--data", type=Path, default=EXAMPLE, help="a folder with a table of learning curves (a formula)")
    made.add_argument("--systems", nargs="+", choices=known, default=known, metavar="SYSTEM", help=", ".join(known))
    made.add_argument("--seeds", type=int, default=10, help="runs of each system on each task (10)")
    made.add_argument("--first-seed", type=int, default=0, help="of them; development was on 0 to 19")
    made.add_argument("--workers", type=int, nargs="+", default=[1, 8])
    made.add_argument("--budgets", type=float, nargs="+", default=list(BUDGETS), help="in full trainings")
    made.add_argument("--tasks", type=int, help="the first so many of the table")
    made.add_argument("--jobs", type=int, default=os.cpu_count(), help="runs at a time")
    made.add_argument("--keep", type=Path, help="file of the runs that are done, to go on from")
    made.add_argument("--table-only", action="store_true", help="run nothing: the table of all that --keep has")
    made.add_argument("--plot", type=Path, help="file of the picture")
    options = made.parse_args()
    if options.quick:
        options.seeds, options.budgets, options.tasks = 1, list(QUICK_BUDGETS), options.tasks or 2
    return options


def main() -> int:
    options = _options()
    tasks = _curves(str(options.data)).tasks[: options.tasks]
    scores = Scores(measure(options, tasks))
    options.systems = [name for name in options.systems if name in scores.whose]
    print("\n\n".join(report(scores, options)))
    if options.plot:
        plot(scores, options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
