"""How good the configuration is that a search recommends, on tables of learning curves: no training takes place.

`tuner` and Optuna search the same spaces with the same budgets, counted in epochs, and trial n of each has the same
noise. The score is normalised regret: 0 for the best value known on a task, 100 for the median of random
configurations (`searches/scores.py` says how systems are compared). With several workers tuner takes longer for the
same epochs, because some have nothing to do while the last trainings end; the time that both take is in the table, in
full trainings' worth of all workers. Runs that are done are kept in a file, so that a broken-off benchmark goes on.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import as_completed
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import product
from pathlib import Path

from figures import filled, heading, note, parser, plot_file, pool, positive_float, positive_int, short, table, verdict
from searches import baselines, rounds
from searches.rows import OURS, THEIRS, Kept, Row, code_of
from searches.scores import Against, Place, Scores
from searches.tables import Curves, load

from tuner.errors import TunerError

MAIN = "coarse_to_fine"
BUDGETS, QUICK_BUDGETS = (8.0, 16.0, 32.0, 64.0), (4.0, 8.0)
EARLY, EARLY_SHARE = (8.0, 16.0), 0.6
EXAMPLE = Path(__file__).resolve().parent / "searches" / "example"


@dataclass(frozen=True)
class Job:
    """One run, which serves several budgets where a run does not depend on its budget."""

    whose: str
    system: str
    task: str
    seed: int
    workers: int
    budgets: tuple[float, ...]
    own: float | None


@lru_cache(maxsize=1)
def _curves(folder: str) -> Curves:
    return load(Path(folder))


def run(folder: str, job: Job) -> list[Row]:
    """The rows of a job."""
    curves, where = _curves(folder), (job.task, job.seed, job.workers)
    if job.whose == OURS:
        done = rounds.simulate(curves, job.system, *where, job.budgets[0], job.own)
    else:
        done = baselines.simulate(curves, job.system, *where, job.budgets, job.own)
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
            decision_ms=cost,
            code=code,
            own=job.own,
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
                yield from (Job(OURS, system, task, seed, workers, (budget,), options.own) for budget in budgets)
            else:
                yield Job(THEIRS, system, task, seed, workers, budgets, options.own)


def measure(options: argparse.Namespace, tasks: Sequence[str], kept: Kept) -> list[Row]:
    """Rows of all jobs, those from the file that are there; with `--table-only` no others, of whatever version."""

    def runs_of(job: Job) -> list[tuple[object, ...]]:
        return [(job.whose, job.system, job.task, job.seed, job.workers, budget, job.own) for budget in job.budgets]

    def places_of(job: Job) -> list[tuple[object, ...]]:
        return [(code_of(job.whose, options.data), *named) for named in runs_of(job)]

    wanted = list(jobs(options, tasks))
    if options.table_only:
        known = kept.of_any_code(options.data)
        return [known[named] for job in wanted for named in runs_of(job) if named in known]
    kept.leave_aside(options.data)
    missing = [job for job in wanted if any(place not in kept for place in places_of(job))]
    with pool(options.jobs) as workers:
        running = [workers.submit(run, str(options.data), job) for job in missing]
        for count, done in enumerate(as_completed(running), 1):
            for row in done.result():
                kept.add(row)
            if count % 100 == 0 or count == len(missing):
                note(f"{count} of {len(missing)} runs")
    return [kept[place] for job in wanted for place in places_of(job) if place in kept]


def report(scores: Scores, *, markdown: bool, judged: bool) -> Iterator[str]:
    """Tables, and verdicts where the table of curves is one to judge by."""
    yield heading(markdown=markdown)
    header = ["regret, %", *map(_short, scores.places), "decision, ms", "seeds"]
    rows = []
    for system, seeds in scores.seeds.items():
        cells = [_with_error(*scores.mean(system, at)) if scores.has(system, at) else "" for at in scores.places]
        rows.append([_name(scores, system), *cells, short(scores.cost_ms(system)), str(len(seeds))])
    yield table(header, rows, markdown=markdown)
    if MAIN not in scores.seeds:
        return
    others = [system for system in scores.seeds if system != MAIN and scores.common_seeds(MAIN, system)]
    if others:
        rows = [[_name(scores, system), *_differences(scores, system)] for system in others]
        yield table([f"minus {MAIN} (95 %)", *map(_short, scores.places)], rows, markdown=markdown)
    # One with fewer seeds has its own line above; here all are compared on the same ones.
    candidates = [system for system in others if scores.whose[system] == THEIRS]
    theirs = [system for system in candidates if scores.covers(system, MAIN)]
    if fewer := [system for system in candidates if system not in theirs]:
        note(f"not among the best of Optuna, because they lack some of the seeds or budgets: {', '.join(fewer)}")
    if lacking := [str(place) for place in scores.places if not scores.has(MAIN, place)]:
        note(f"{MAIN} was not run at {', '.join(lacking)}")
    if theirs:
        yield from _against(scores, theirs, markdown=markdown, judged=judged)


def _differences(scores: Scores, system: str) -> Iterator[str]:
    for place in scores.places:
        both = scores.has(system, place) and scores.has(MAIN, place)
        yield _range(scores.difference(system, MAIN, place)) if both else ""


def _against(scores: Scores, theirs: Sequence[str], *, markdown: bool, judged: bool) -> Iterator[str]:
    rows, verdicts = [], []
    for place in filter(partial(scores.has, MAIN), scores.places):
        found, timed = (scores.against(MAIN, theirs, place, same_time=one) for one in (False, True))
        is_known = scores.clock(MAIN, place) <= scores.last_time(theirs, place.workers)
        rows.append(
            [
                str(place),
                found.best,
                _range(found.difference),
                _range(found.share, digits=2, signed=False) if found.share and place.budget in EARLY else "",
                f"{found.won:.0%}",
                f"{scores.clock(MAIN, place):.1f} / {scores.clock(found.best, place):.1f}",
                _range(timed.difference) if is_known else "",
                str(found.seeds),
            ]
        )
        verdicts.append(_verdict(place, found))
    header = [
        f"{MAIN} against",
        "best of Optuna",
        "difference (95 %)",
        "share of its regret",
        "tasks won",
        "time / its",
        "difference after the same time",
        "seeds",
    ]
    yield table(header, rows, markdown=markdown)
    if judged:
        yield "\n".join(verdicts)


def _verdict(place: Place, found: Against) -> str:
    wanted = EARLY_SHARE if place.budget in EARLY and found.its > 0 else 1.0
    limit = wanted * found.its
    fact = f"{place}: {found.mine:.1f} %, {found.best} {found.its:.1f} %"
    return verdict(fact, f"{limit:.1f} % at most", met=found.mine <= limit)


def _name(scores: Scores, system: str) -> str:
    return f"{scores.whose[system]}: {system}"


def _short(place: Place) -> str:
    return f"{place.budget:g}{f', {place.workers} workers' if place.workers > 1 else ''}"


def _with_error(mean: float, error: float) -> str:
    return f"{mean:.1f}" if math.isnan(error) else f"{mean:.1f} ± {error:.1f}"


def _range(values: tuple[float, float, float], *, digits: int = 1, signed: bool = True) -> str:
    value, low, high = (f"{one:{'+' if signed else ''}.{digits}f}" for one in values)
    return f"{value} ({low} to {high})"


def plot(scores: Scores, options: argparse.Namespace) -> None:
    """Regret over budget, a picture for each number of workers."""
    from matplotlib.figure import Figure  # noqa: PLC0415  most calls draw nothing

    figure = Figure(figsize=(4.8 * len(options.workers), 3.6), layout="constrained")
    axes = figure.subplots(1, len(options.workers), sharey=True, squeeze=False)[0]
    for axis, workers in zip(axes, options.workers, strict=True):
        for system in scores.seeds:
            budgets = [budget for budget in options.budgets if scores.has(system, Place(workers, budget))]
            values = [scores.mean(system, Place(workers, budget))[0] for budget in budgets]
            style = {"linewidth": 2.5} if system == MAIN else {"linewidth": 1.0, "alpha": 0.8}
            dashes = "-" if scores.whose[system] == OURS else "--"
            axis.plot(budgets, values, dashes, marker=".", label=f"{scores.whose[system]}: {system}", **style)
        axis.set(xscale="log", xlabel="budget, full trainings", title=f"{workers} at a time", xticks=options.budgets)
        axis.set_xticklabels([f"{budget:g}" for budget in options.budgets])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("mean regret, %")
    axes[-1].legend(fontsize=6)
    figure.savefig(options.plot, dpi=110)


def share(text: str) -> float:
    """Type of an option that is a share of a whole.

    Raises:
        argparse.ArgumentTypeError: it is not between 0 and 1.
    """
    value = positive_float(text)
    if value >= 1:
        raise argparse.ArgumentTypeError(f"a share between 0 and 1 is wanted, not {text}")
    return value


def _options() -> argparse.Namespace:
    known = [*rounds.SYSTEMS, *baselines.SYSTEMS]
    made = parser(__doc__)
    made.add_argument("--data", type=Path, default=EXAMPLE, help="a folder with a table of learning curves (a formula)")
    made.add_argument("--systems", nargs="+", choices=known, default=known, metavar="SYSTEM", help=", ".join(known))
    made.add_argument("--seeds", type=positive_int, help="runs of each system on each task (10)")
    made.add_argument("--first-seed", type=int, default=0, help="of them; development was on 0 to 19")
    made.add_argument("--workers", type=positive_int, nargs="+", default=[1, 8])
    made.add_argument("--own", type=share, help="all begin with a configuration better than this share of random ones")
    made.add_argument("--budgets", type=positive_float, nargs="+", help="in full trainings (8 16 32 64)")
    made.add_argument("--tasks", type=positive_int, help="the first so many of the table")
    made.add_argument("--jobs", type=positive_int, default=os.cpu_count(), help="runs at a time")
    made.add_argument("--keep", type=Path, help="file of the runs that are done, to go on from")
    made.add_argument("--table-only", action="store_true", help="run nothing: the table of what --keep has of them")
    made.add_argument("--plot", type=plot_file, help="file of the picture")
    options = filled(
        made.parse_args(),
        usual={"seeds": 10, "budgets": list(BUDGETS)},
        quick={"seeds": 1, "budgets": list(QUICK_BUDGETS), "tasks": 2},
    )
    if options.first_seed < 0:
        made.error(f"argument --first-seed: 0 or more is wanted, not {options.first_seed}")
    if options.table_only and options.keep is None:
        made.error("argument --table-only: --keep FILE says of which runs")
    for name in ("systems", "workers", "budgets"):
        setattr(options, name, list(dict.fromkeys(getattr(options, name))))
    return options


def main() -> int:
    options = _options()
    try:
        tasks = _curves(str(options.data)).tasks[: options.tasks]
    except (ValueError, IndexError, KeyError, OSError, TunerError) as error:
        sys.exit(f"--data {options.data}: it has no table that can be read: {error}")
    try:
        kept = Kept(options.keep)
    except (ValueError, TypeError, OSError) as error:
        sys.exit(f"--keep {options.keep}: it is no file of this benchmark: {error}. Name another one.")
    places = [Place(workers, budget) for workers, budget in product(options.workers, options.budgets)]
    scores = Scores(measure(options, tasks, kept), options.systems, places, tasks)
    if missing := [system for system in options.systems if system not in scores.seeds]:
        note(f"no seed with all tasks and budgets: {', '.join(missing)}")
    if not scores.seeds:
        return 1
    print("\n\n".join(report(scores, markdown=options.markdown, judged=options.data.resolve() != EXAMPLE)))
    if options.plot:
        plot(scores, options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
