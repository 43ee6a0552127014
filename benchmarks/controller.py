"""What the controller itself costs per trial, with 0, 1,000 and 10,000 trials in the study already.

`tuner` runs as on the command line, from the lease to the last record; only the workers are replaced, by one that
answers at once in this process. A trial is drawn and recorded, reports 10 values and is told. The alternative is plain
Optuna's ask, report and tell on the same database with the same settings. Each measurement is a process of its own on
a fresh copy of the same filled database, and the systems take turns.
"""

from __future__ import annotations

import contextlib
import cProfile
import functools
import itertools
import json
import os
import pstats
import resource
import shutil
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self
from unittest import mock

import optuna
import sqlalchemy as sa
from figures import Spread, heading, note, parser, short, table, temporary_folder, timed, verdict
from filling import STEPS_PER_EPOCH, VALUES, fill, fill_plain, is_complete, value_of

import tuner.round
from tuner.checkpoints import Checkpoints
from tuner.commands import tune
from tuner.config import Settings, load
from tuner.config.nodes import StudyNodes
from tuner.launch.protocol import Ended, Event, Measured
from tuner.progress import Progress
from tuner.search.distributions import distribution, optuna_name
from tuner.store.database import Database
from tuner.store.leases import Leases
from tuner.store.ledger import Ledger
from tuner.training.task import Answer, Measurement, Outcome, Result, Task

EPOCHS = 40
WARM_UP = 2  # trials before the first one that counts
TARGET_MS, TARGET_GROWTH, TARGET_MIB = 60.0, 2.0, 400.0

#: Systems by name: overrides of a tuner study, None for plain Optuna. The first is the one that targets are held to.
SYSTEMS: dict[str, tuple[str, ...] | None] = {
    "tuner, default search, no pruner": ("search=coarse_to_fine", "pruner=none"),
    "tuner, default search and pruner": ("search=coarse_to_fine", "pruner=promote"),
    "tuner, random search, no pruner": ("search=random", "pruner=none"),
    "plain Optuna, TPESampler": None,
}
MAIN, PAUSING, PLAIN = (
    "tuner, default search, no pruner",
    "tuner, default search and pruner",
    "plain Optuna, TPESampler",
)
PLAIN_STUDY = "plain"


# -- one measurement, in a process of its own -----------------------------------------------------------------------


class _Enough(Exception):
    pass


class InstantWorker:
    """A launcher with one worker in this process, whose trainings take no time.

    Attributes:
        entered_at: when the round had been opened and its workers were started.
        begins: when each newly drawn trial was given to the worker.
    """

    def __init__(self, trials: int, at_warm: Callable[[], None]) -> None:
        self._trials, self._at_warm = trials, at_warm
        self._events: Iterator[Event] | None = None
        self._answer = Answer.GO_ON
        self._seen: set[int] = set()
        self.entered_at = 0.0
        self.begins: list[float] = []

    def __enter__(self) -> Self:
        self.entered_at = time.perf_counter()
        return self

    def __exit__(self, *exc: object) -> None:
        pass

    def idle(self) -> Sequence[int]:
        return [] if self._events else [0]

    def train(self, _worker: int, task: Task) -> None:
        if task.trial not in self._seen:
            self._seen.add(task.trial)
            self.begins.append(time.perf_counter())
            if len(self.begins) == WARM_UP + 1:
                self._at_warm()
            if len(self.begins) > WARM_UP + self._trials:
                raise _Enough
        self._events = self._training(task)

    def events(self, _timeout_s: float) -> list[tuple[int, Event]]:
        event = next(self._events) if self._events else None
        if isinstance(event, Ended):
            self._events = None
        return [(0, event)] if event else []

    def _training(self, task: Task) -> Iterator[Event]:
        """Ten values on the way to each rung, and to the end."""
        began = 0
        if task.checkpoint:
            began = EPOCHS // 4
        for end in (*task.rungs, EPOCHS):
            for place in range(1, VALUES + 1):
                epoch = began + (end - began) * place / VALUES
                rung = place == VALUES and end in task.rungs
                step, value = round(STEPS_PER_EPOCH * epoch), value_of(task.trial, epoch)
                yield Measured(task.trial, Measurement(step, epoch, value, rung), waits=rung)
                if rung and self._answer is Answer.PAUSE:
                    file = Path(task.folder) / "paused.ckpt"
                    file.parent.mkdir(parents=True, exist_ok=True)
                    file.touch()
                    yield Ended(task.trial, Result(Outcome.PAUSED, value, epoch, step, checkpoint=str(file)))
                    return
            began = end
        yield Ended(
            task.trial, Result(Outcome.COMPLETE, value_of(task.trial, EPOCHS), EPOCHS, STEPS_PER_EPOCH * EPOCHS)
        )

    def reply(self, _worker: int, answer: Answer) -> None:
        self._answer = answer

    def halt(self, _worker: int) -> None:
        pass

    kill = halt

    def describe(self, worker: int) -> str:
        return f"localhost:{worker}"


class Phases:
    """Where the time goes: each moment belongs to the innermost phase that runs."""

    def __init__(self) -> None:
        self.seconds = defaultdict[str, float](float)
        self._running: list[str] = []
        self._since = 0.0

    def reset(self) -> None:
        self.seconds.clear()

    def timed(self, phase: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            self._switch()
            self._running.append(phase)
            try:
                return function(*args, **kwargs)
            finally:
                self._switch()
                self._running.pop()

        return wrapper

    def _switch(self) -> None:
        now = time.perf_counter()
        if self._running:
            self.seconds[self._running[-1]] += now - self._since
        self._since = now

    @contextlib.contextmanager
    def in_tuner(self) -> Iterator[None]:
        places = [
            ("draw", Ledger, "draw"),
            ("record", Ledger, "record"),
            ("measure", Ledger, "measure"),
            ("note", Ledger, "note"),
            ("flush", Ledger, "flush"),
            ("tell", Ledger, "tell"),
            ("decide", tuner.round, "next_action"),
            ("task", StudyNodes, "plain"),
            ("files", Checkpoints, "drop"),
            ("lease", Leases, "renew"),
            ("show", Progress, "trial_left"),
            ("show", Progress, "tick"),
        ]
        with contextlib.ExitStack() as stack:
            for phase, place, name in places:
                stack.enter_context(mock.patch.object(place, name, self.timed(phase, getattr(place, name))))
            yield


def settings_of(system: str, folder: Path, trials: int, *more: str) -> Settings:
    return load(words_of(system, folder, trials, *more))


def words_of(system: str, folder: Path, trials: int, *more: str) -> list[str]:
    """The words of the command line."""
    chosen = SYSTEMS[system] or ("pruner=none",)
    budget = ["search.budget=null", f"search.trials={trials}", f"trainer.max_epochs={EPOCHS}"]
    return [
        "study=digits",
        *chosen,
        *budget,
        f"store.url=sqlite:///{folder / 'tuner.db'}",
        f"store.folder={folder}",
        *more,
    ]


def run_tuner(system: str, folder: Path, present: int, trials: int) -> dict[str, Any]:
    """Open a round that has `present` trials and go on with so many more."""
    phases = Phases()
    worker = InstantWorker(trials, phases.reset)
    settings = settings_of(system, folder, present + 10 * (WARM_UP + trials))
    began = time.perf_counter()
    with mock.patch.object(tune, "launcher_of", return_value=worker), phases.in_tuner(), contextlib.suppress(_Enough):
        tune.tune(settings)
    figures = _figures(began, worker.entered_at, worker.begins, phases)
    if present:
        check_filling(settings, present)
    return figures


def check_filling(settings: Settings, present: int) -> None:
    """Trials that were filled in must look like those that the round wrote, or sizes could not be compared."""
    query = sa.text(
        "SELECT t.number < :present, t.state, t.number, group_concat(a.key) FROM trials t"
        " JOIN (SELECT trial_id, key FROM trial_user_attributes ORDER BY key) a ON a.trial_id = t.trial_id"
        " WHERE t.number BETWEEN :present - 20 AND :present + 20 GROUP BY t.number ORDER BY t.number"
    )
    seen = defaultdict[tuple[str, bool], dict[bool, str]](dict)
    with Database(settings.store.url) as database, database.engine.connect() as connection:
        for filled, state, _, keys in connection.execute(query, {"present": present}):
            if ("outcome" in keys) == (state == "COMPLETE"):  # not in training, nor interrupted
                seen[state, "paused_at" in keys][bool(filled)] = keys
    for (state, _), kinds in seen.items():
        if len(set(kinds.values())) > 1:
            raise RuntimeError(f"{state}: filled trials have {kinds[True]}, those of a round {kinds[False]}")


def close_round(system: str, folder: Path, present: int) -> dict[str, Any]:
    """End a round that has drawn all its trials: those that are paused are let go."""
    # The filled round is finished with the same trials and no limit in time, so this call has another one.
    settings, phases = settings_of(system, folder, present, "search.timeout=1e6"), Phases()
    run = phases.timed("run", tuner.round.Round.run)
    with mock.patch.object(tuner.round.Round, "run", run), contextlib.redirect_stdout(sys.stderr):
        tune.tune(settings)
    return {"seconds": phases.seconds["run"]}


def run_plain(folder: Path, _present: int, trials: int) -> dict[str, Any]:
    """The same with Optuna alone."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    settings, phases = settings_of(PLAIN, folder, 1), Phases()
    study_settings = settings.study
    assert study_settings is not None
    distributions = {optuna_name(parameter): distribution(parameter) for parameter in study_settings.space}
    began = time.perf_counter()
    with Database(settings.store.url) as database:
        sampler = optuna.samplers.TPESampler(seed=0)
        study = optuna.load_study(study_name=PLAIN_STUDY, storage=database.storage, sampler=sampler)
        opened, begins = time.perf_counter(), []
        ask, tell = phases.timed("draw", study.ask), phases.timed("tell", study.tell)
        report = phases.timed("measure", optuna.Trial.report)
        for _ in range(WARM_UP + trials + 1):
            trial = ask(distributions)
            begins.append(time.perf_counter())
            if len(begins) == WARM_UP + 1:
                phases.reset()
            for place in range(1, VALUES + 1):
                report(
                    trial, value_of(trial.number, EPOCHS * place / VALUES), STEPS_PER_EPOCH * EPOCHS * place // VALUES
                )
            tell(trial, value_of(trial.number, EPOCHS))
    return _figures(began, opened, begins, phases)


def _figures(began: float, opened: float, begins: Sequence[float], phases: Phases) -> dict[str, Any]:
    counted = begins[WARM_UP:]
    milliseconds = [1e3 * (after - before) for before, after in itertools.pairwise(counted)]
    return {
        "open_s": opened - began,
        "first_s": begins[0] - opened,
        "trial_ms": milliseconds,
        "phases_ms": {name: 1e3 * seconds / len(milliseconds) for name, seconds in phases.seconds.items()},
        "peak_mib": _peak_mib(),
    }


def _peak_mib() -> float:
    with contextlib.suppress(OSError):
        # Not ru_maxrss: after a fork it starts from the parent's.
        for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def cell(words: Sequence[str]) -> None:
    """The child's side: one measurement, its figures as a line of JSON."""
    kind, system, folder, present, trials = words[0], words[1], Path(words[2]), int(words[3]), int(words[4])
    if kind == "close":
        figures = close_round(system, folder, present)
    elif SYSTEMS[system] is None:
        figures = run_plain(folder, present, trials)
    elif kind == "profile":
        profile = cProfile.Profile()
        figures = profile.runcall(run_tuner, system, folder, present, trials)
        pstats.Stats(profile, stream=sys.stdout).sort_stats("cumulative").print_stats(60)
    else:
        figures = run_tuner(system, folder, present, trials)
    print(json.dumps(figures))


# -- all measurements -----------------------------------------------------------------------------------------------


class Bench:
    """Filled databases by system and size, and the figures measured on copies of them."""

    def __init__(self, root: Path, sizes: Sequence[int], trials: int) -> None:
        self.root, self.sizes, self.trials = root, sizes, trials
        self.runs = defaultdict[tuple[str, int], list[dict[str, Any]]](list)
        self.seconds = defaultdict[tuple[str, int], list[float]](list)  # of whole commands, by what is asked
        self.let_go_ms: list[float] = []

    def template(self, system: str, size: int) -> Path:
        return self.root / f"{list(SYSTEMS).index(system)}-{size}"

    def fill(self) -> None:
        for system in SYSTEMS:
            for size in self.sizes:
                folder = self.template(system, size)
                settings = settings_of(system, folder, size or 1)
                began = time.perf_counter()
                if system == PLAIN:
                    fill_plain(settings, PLAIN_STUDY, size)
                else:
                    fill(settings, size)
                note(f"filled: {system}, {size} trials, {time.perf_counter() - began:.1f} s")

    def measure(self, repeat: int) -> None:
        # Each repeat starts with another system, so that none always follows the same one.
        names = [*list(SYSTEMS)[repeat % len(SYSTEMS) :], *list(SYSTEMS)[: repeat % len(SYSTEMS)]]
        for size in self.sizes:
            for system in names:
                figures = self.child("run", system, size)
                self.runs[system, size].append(figures)
                note(f"{system}, {size} trials: {Spread.of(figures['trial_ms'])} ms")
            self.commands(size)

    def child(self, kind: str, system: str, size: int) -> dict[str, Any]:
        folder = self.copy(system, size)
        words = [str(Path(__file__).resolve()), "--cell", kind, system, str(folder), str(size), str(self.trials)]
        _, [printed] = timed([words], self.root)
        shutil.rmtree(folder)
        *before, last = printed.splitlines()
        if before:
            note("\n".join(before))
        figures: dict[str, Any] = json.loads(last)
        return figures

    def commands(self, size: int) -> None:
        """Whole commands on a finished round."""
        if not size:
            return
        folder = self.copy(MAIN, size)
        again = words_of(MAIN, folder, size)
        for name, words in {"status": ["status", again[-2]], "same command again": again}.items():
            seconds, _ = timed([["-m", "tuner", *words]], self.root)
            self.seconds[name, size].append(seconds)
        shutil.rmtree(folder)

    def close(self, size: int) -> None:
        paused = sum(1 for number in range(size) if not is_complete(number))
        self.let_go_ms.append(1e3 * self.child("close", PAUSING, size)["seconds"] / paused)

    def copy(self, system: str, size: int) -> Path:
        folder = self.root / "now"
        shutil.copytree(self.template(system, size), folder)
        return folder

    # -- tables -----------------------------------------------------------------------------------------------------

    def per_trial(self, *, markdown: bool) -> str:
        header = [
            "ms per trial",
            *(f"{size:,} present" for size in self.sizes),
            f"growth to {self.sizes[-1]:,}",
            f"plain Optuna / this, {self.sizes[-1]:,}",
        ]
        rows = []
        for system in SYSTEMS:
            cells = [str(self._trial_ms(system, size)) for size in self.sizes]
            rows.append([system, *cells, str(self._growth(system)), str(self._against_plain(system))])
        return table(header, rows, markdown=markdown)

    def phases(self, *, markdown: bool) -> str:
        """Means, because what happens seldom and costs much, as fitting the model, is in them."""
        names = ["draw", "record", "measure", "note", "flush", "tell", "decide", "task", "show", "lease", "files"]
        rows = []
        for system in SYSTEMS:
            for size in self.sizes:
                runs = self.runs[system, size]
                means = {name: Spread.of([run["phases_ms"].get(name, 0.0) for run in runs]).median for name in names}
                total = Spread.of([Spread.of(run["trial_ms"]).mean for run in runs]).median
                rows.append([system, f"{size:,}", *(short(means[name]) for name in names), short(total)])
        return table(["ms per trial, means", "present", *names, "all"], rows, markdown=markdown)

    def opening(self, *, markdown: bool) -> str:
        rows = []
        for system in SYSTEMS:
            for size in self.sizes:
                runs = self.runs[system, size]
                facts = [str(Spread.of([run[key] for run in runs])) for key in ("open_s", "first_s", "peak_mib")]
                rows.append([system, f"{size:,}", *facts])
        return table(
            ["a controller", "present", "open, s", "first draw, s", "peak memory, MiB"], rows, markdown=markdown
        )

    def others(self, *, markdown: bool) -> str:
        rows = [
            [f"`tuner` {name}, {size:,} trials", f"{Spread.of(values)} s"]
            for (name, size), values in self.seconds.items()
        ]
        rows += (
            [["a paused trial let go at the end of a round", f"{Spread.of(self.let_go_ms)} ms"]]
            if self.let_go_ms
            else []
        )
        return table(["whole commands", "time"], rows, markdown=markdown)

    def verdicts(self) -> list[str]:
        last = self.sizes[-1]
        growth = self._growth(MAIN)
        worst = max(self._trial_ms(MAIN, size).median for size in self.sizes)
        memory = max(run["peak_mib"] for run in self.runs[MAIN, last])
        return [
            verdict(f"{short(worst)} ms per trial at most", f"below {TARGET_MS:g}", met=worst < TARGET_MS),
            verdict(
                f"{short(growth.median)} times the cost at {last:,} trials",
                f"below {TARGET_GROWTH:g}",
                met=growth.median < TARGET_GROWTH,
            ),
            verdict(f"{memory:.0f} MiB at {last:,} trials", f"below {TARGET_MIB:g}", met=memory < TARGET_MIB),
        ]

    def _trial_ms(self, system: str, size: int) -> Spread:
        return Spread.of([value for run in self.runs[system, size] for value in run["trial_ms"]])

    def _growth(self, system: str) -> Spread:
        """Cost at the largest size over that at the smallest, repeat by repeat."""
        first, last = self._medians(system, self.sizes[0]), self._medians(system, self.sizes[-1])
        return Spread.of([after / before for before, after in zip(first, last, strict=True)])

    def _against_plain(self, system: str) -> Spread:
        """Plain Optuna's cost over this one's at the largest size, repeat by repeat."""
        plain, own = self._medians(PLAIN, self.sizes[-1]), self._medians(system, self.sizes[-1])
        return Spread.of([theirs / ours for theirs, ours in zip(plain, own, strict=True)])

    def _medians(self, system: str, size: int) -> list[float]:
        return [Spread.of(run["trial_ms"]).median for run in self.runs[system, size]]


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--sizes", type=int, nargs="+", help="trials in the study beforehand")
    options.add_argument("--trials", type=int, help="trials measured in each process")
    options.add_argument("--repeats", type=int, help="processes for each system and size")
    options.add_argument("--profile", action="store_true", help="only profile the default at the largest size")
    asked = options.parse_args()
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as the command line does before it imports numpy
    sizes = asked.sizes or ([0, 100] if asked.quick else [0, 1_000, 10_000])
    repeats = asked.repeats or (1 if asked.quick else 5)
    with temporary_folder() as folder:
        bench = Bench(folder, sizes, asked.trials or (5 if asked.quick else 30))
        bench.fill()
        if asked.profile:
            bench.child("profile", MAIN, sizes[-1])
            return
        for repeat in range(repeats):
            bench.measure(repeat)
            bench.close(min(size for size in sizes if size))
    print(heading(markdown=asked.markdown))
    for part in (bench.per_trial, bench.phases, bench.opening, bench.others):
        print(f"\n{part(markdown=asked.markdown)}")
    print()
    print("\n".join(f"{'- ' if asked.markdown else ''}{line}" for line in bench.verdicts()))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--cell"]:
        cell(sys.argv[2:])
    else:
        main()
