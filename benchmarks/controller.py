"""What the controller itself costs, per trial and to go on with a round, from an empty study to one of 10,000 trials.

`tuner` runs as on the command line, from the lease to the last record; only the workers are replaced, by one that
answers at once in this process. A trial is drawn and recorded, reports 20 values, or 20 on the way to each rung and to
the end where trials pause, and is told. The alternative is plain Optuna's ask, report and tell on the same database with
the same settings. Each measurement is a process of its own on a fresh copy of the same filled database, and the systems
take turns.

A proposal is the time from a free worker to its new configuration. Now and then one waits for the model to be fitted
again, when the data has grown by a tenth; so in the first turn the default search goes on for an eighth more trials. A
resumed round is the whole command, with real workers.
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
import signal
import sqlite3
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self
from unittest import mock

import optuna
import sqlalchemy as sa
from figures import Spread, heading, note, parser, short, table, temporary_folder, timed, verdict
from filling import STEPS_PER_EPOCH, VALUES, fill, fill_plain, is_complete, value_of

import tuner.round
from tuner import ctrl_c
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
TARGET_MS, TARGET_GROWTH = 60.0, 2.0
TARGET_PROPOSAL_MS, TARGET_MIB, TARGET_RESUME_S, TARGET_STATUS_S = 100.0, 500e6 / 2**20, 15.0, 3.0
POLL_S = 0.01

#: Systems by name: overrides of a tuner study, None for plain Optuna.
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
DEFAULTS = (MAIN, PAUSING)  # that targets of the default search are held to
PLAIN_STUDY = "plain"
#: Whole commands.
RESUMED, FROM_LEASE = "a resumed round until its first new trial", "of which since the lease"
STATUS, AGAIN = "`tuner status`", "the command of a finished round again"


# -- one measurement, in a process of its own -----------------------------------------------------------------------


class _Enough(Exception):
    pass


class InstantWorker:
    """A launcher with one worker in this process, whose trainings take no time.

    Attributes:
        entered_at: when the round had been opened and its workers were started.
        begins: when each newly drawn trial was given to the worker.
        proposals: seconds that the worker was free before that.
    """

    def __init__(self, present: int, trials: int, at_warm: Callable[[], None]) -> None:
        self._next, self._trials, self._at_warm = present, trials, at_warm
        self._events: Iterator[Event] | None = None
        self._answer = Answer.GO_ON
        self._free_since = 0.0
        self.entered_at = 0.0
        self.begins: list[float] = []
        self.proposals: list[float] = []

    def __enter__(self) -> Self:
        self.entered_at = time.perf_counter()
        return self

    def __exit__(self, *exc: object) -> None:
        pass

    def idle(self) -> Sequence[int]:
        self._free_since = time.perf_counter()
        return [] if self._events else [0]

    def train(self, _worker: int, task: Task) -> None:
        if task.trial == self._next:
            self._next += 1
            self.begins.append(time.perf_counter())
            self.proposals.append(self.begins[-1] - self._free_since)
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
        """`VALUES` values on the way to each rung, and to the end."""
        began = float(Path(task.checkpoint).read_text(encoding="utf-8")) if task.checkpoint else 0.0
        for end in (rung for rung in (*task.rungs, EPOCHS) if rung > began):
            for place in range(1, VALUES + 1):
                epoch = began + (end - began) * place / VALUES
                rung = place == VALUES and end in task.rungs
                step, value = round(STEPS_PER_EPOCH * epoch), value_of(task.trial, epoch)
                yield Measured(task.trial, Measurement(step, epoch, value, rung), waits=rung)
                if rung and self._answer is Answer.PAUSE:
                    file = Path(task.folder) / "paused.ckpt"
                    file.parent.mkdir(parents=True, exist_ok=True)
                    file.write_text(str(epoch), encoding="utf-8")
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
    worker = InstantWorker(present, trials, phases.reset)
    settings = settings_of(system, folder, present + 10 * (WARM_UP + trials))
    began = time.perf_counter()
    with (
        mock.patch.object(tune, "launcher_of", return_value=worker),
        mock.patch.object(tune, "prepare_workers"),
        phases.in_tuner(),
        contextlib.suppress(_Enough),
    ):
        tune.tune(settings)
    figures = _figures(began, worker.entered_at, worker.begins, worker.proposals, phases)
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
        opened, begins, proposals = time.perf_counter(), list[float](), list[float]()
        ask, tell = phases.timed("draw", study.ask), phases.timed("tell", study.tell)
        report = phases.timed("measure", optuna.Trial.report)
        for _ in range(WARM_UP + trials + 1):
            free_since = time.perf_counter()
            trial = ask(distributions)
            begins.append(time.perf_counter())
            proposals.append(begins[-1] - free_since)
            if len(begins) == WARM_UP + 1:
                phases.reset()
            for place in range(1, VALUES + 1):
                report(
                    trial, value_of(trial.number, EPOCHS * place / VALUES), STEPS_PER_EPOCH * EPOCHS * place // VALUES
                )
            tell(trial, value_of(trial.number, EPOCHS))
    return _figures(began, opened, begins, proposals, phases)


def _figures(
    began: float, opened: float, begins: Sequence[float], proposals: Sequence[float], phases: Phases
) -> dict[str, Any]:
    counted = begins[WARM_UP:]
    milliseconds = [1e3 * (after - before) for before, after in itertools.pairwise(counted)]
    return {
        "open_s": opened - began,
        "first_s": begins[0] - opened,
        "trial_ms": milliseconds,
        "proposal_ms": [1e3 * seconds for seconds in proposals[WARM_UP:]],
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
    """Filled databases by system and size, and the figures measured on copies of them.

    Attributes:
        runs: figures of each process, by system and size.
        seconds: of whole commands at the largest size, by what they do.
        let_go_ms: for each paused trial, at the end of a round of the largest size.
    """

    def __init__(
        self, root: Path, sizes: Sequence[int], trials: int, *, systems: Sequence[str], at_once: int = 1
    ) -> None:
        self.root, self.sizes, self.trials = root, sizes, trials
        self.systems, self._at_once = systems, at_once
        self._copies = itertools.count()
        self.runs = defaultdict[tuple[str, int], list[dict[str, Any]]](list)
        self.seconds = defaultdict[str, list[float]](list)
        self.let_go_ms: list[float] = []

    def template(self, system: str, size: int) -> Path:
        return self.root / f"{list(SYSTEMS).index(system)}-{size}"

    def fill(self) -> None:
        for system in self.systems:
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
        first = repeat % len(self.systems)
        jobs = [
            functools.partial(self.run, system, size, repeat)
            for size in self.sizes
            for system in [*self.systems[first:], *self.systems[:first]]
        ]
        with ThreadPoolExecutor(self._at_once) as pool:
            for _ in pool.map(lambda job: job(), [*jobs, self.resume, self.commands, self.close]):
                pass

    def run(self, system: str, size: int, repeat: int) -> None:
        eighth = size // 8 if system == PAUSING and repeat == 0 else 0
        figures = self.child("run", system, size, max(self.trials, eighth))
        self.runs[system, size].append(figures)
        note(f"{system}, {size} trials: {Spread.of(figures['trial_ms'])} ms")

    def child(self, kind: str, system: str, size: int, trials: int) -> dict[str, Any]:
        with self.copy(system, size) as folder:
            words = [str(Path(__file__).resolve()), "--cell", kind, system, str(folder), str(size), str(trials)]
            _, [printed] = timed([words], self.root)
        *before, last = printed.splitlines()
        if before:
            note("\n".join(before))
        figures: dict[str, Any] = json.loads(last)
        return figures

    def resume(self) -> None:
        """The whole command that goes on with a round, real workers and all, until its first new trial is recorded."""
        size = self.sizes[-1]
        with self.copy(PAUSING, size) as folder:
            command = [sys.executable, "-m", "tuner", *words_of(PAUSING, folder, size + 1)]
            began = time.perf_counter()
            process = subprocess.Popen(
                command, cwd=self.root, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            )
            try:
                leased, drawn = _leased_and_drawn(process, folder / "tuner.db", size)
                process.send_signal(signal.SIGINT)
                printed, _ = process.communicate()
            finally:
                process.kill()
        if process.returncode != ctrl_c.INTERRUPTED:
            raise RuntimeError(f"the resumed round ended with exit code {process.returncode}:\n{printed[-4000:]}")
        self.seconds[RESUMED].append(drawn - began)
        self.seconds[FROM_LEASE].append(drawn - leased)
        note(f"resumed, {size} trials: {drawn - began:.1f} s, {drawn - leased:.1f} s from the lease")

    def commands(self) -> None:
        """Whole commands on a finished round."""
        size = self.sizes[-1]
        with self.copy(PAUSING, size) as folder:
            again = words_of(PAUSING, folder, size)
            for name, words in {STATUS: ["status", again[-2]], AGAIN: again}.items():
                seconds, _ = timed([["-m", "tuner", *words]], self.root)
                self.seconds[name].append(seconds)

    def close(self) -> None:
        size = self.sizes[-1]
        paused = sum(1 for number in range(size) if not is_complete(number))
        self.let_go_ms.append(1e3 * self.child("close", PAUSING, size, 0)["seconds"] / paused)

    @contextlib.contextmanager
    def copy(self, system: str, size: int) -> Iterator[Path]:
        folder = self.root / f"copy-{next(self._copies)}"
        shutil.copytree(self.template(system, size), folder)
        try:
            yield folder
        finally:
            shutil.rmtree(folder)

    # -- tables -----------------------------------------------------------------------------------------------------

    def per_trial(self, *, markdown: bool) -> str:
        header = [
            "ms per trial",
            *(f"{size:,} present" for size in self.sizes),
            f"growth to {self.sizes[-1]:,}",
            f"plain Optuna / this, {self.sizes[-1]:,}",
        ]
        rows = []
        for system in self.systems:
            cells = [str(self.spread("trial_ms", system, size)) for size in self.sizes]
            rows.append([system, *cells, str(self._growth(system)), str(self._against_plain(system))])
        return table(header, rows, markdown=markdown)

    def proposals(self, *, markdown: bool) -> str:
        """With how many were above the target, which tells a refitted model from a machine that was busy."""
        rows = []
        for system in self.systems:
            spreads = [self.spread("proposal_ms", system, size) for size in self.sizes]
            rows.append([system, *(f"{short(one.median)}, {short(max(one.values))}, {_late(one)}" for one in spreads)])
        header = [
            f"ms per proposal: median, worst, above {TARGET_PROPOSAL_MS:g}",
            *(f"{size:,} present" for size in self.sizes),
        ]
        return table(header, rows, markdown=markdown)

    def phases(self, *, markdown: bool) -> str:
        """Means, because what happens seldom and costs much, as fitting the model, is in them."""
        names = ["draw", "record", "measure", "note", "flush", "tell", "decide", "task", "show", "lease", "files"]
        rows = []
        for system in self.systems:
            for size in self.sizes:
                runs = self.runs[system, size]
                means = {name: Spread.of([run["phases_ms"].get(name, 0.0) for run in runs]).median for name in names}
                total = Spread.of([Spread.of(run["trial_ms"]).mean for run in runs]).median
                rows.append([system, f"{size:,}", *(short(means[name]) for name in names), short(total)])
        return table(["ms per trial, means", "present", *names, "all"], rows, markdown=markdown)

    def opening(self, *, markdown: bool) -> str:
        rows = []
        for system in self.systems:
            for size in self.sizes:
                runs = self.runs[system, size]
                facts = [str(Spread.of([run[key] for run in runs])) for key in ("open_s", "first_s", "peak_mib")]
                rows.append([system, f"{size:,}", *facts])
        return table(
            ["a controller", "present", "open, s", "first draw, s", "peak memory, MiB"], rows, markdown=markdown
        )

    def others(self, *, markdown: bool) -> str:
        rows = [[name, f"{Spread.of(values)} s"] for name, values in self.seconds.items()]
        rows.append(["a paused trial let go at the end of a round", f"{Spread.of(self.let_go_ms)} ms"])
        return table([f"{self.sizes[-1]:,} trials", "time"], rows, markdown=markdown)

    def verdicts(self) -> list[str]:
        last, sizes = self.sizes[-1], self.sizes
        growth = self._growth(MAIN).median
        cost = max(self.spread("trial_ms", MAIN, size).median for size in sizes)
        proposals = [self.spread("proposal_ms", system, size) for system in DEFAULTS for size in sizes]
        median, worst = max(one.median for one in proposals), max(max(one.values) for one in proposals)
        memory = max(run["peak_mib"] for system in DEFAULTS for run in self.runs[system, last])
        resumed, status = max(self.seconds[RESUMED]), max(self.seconds[STATUS])
        facts = [
            (f"{short(cost)} ms per trial at most", cost, TARGET_MS, ""),
            (f"{short(growth)} times the cost at {last:,} trials", growth, TARGET_GROWTH, ""),
            (f"{short(median)} ms per proposal at most (median)", median, TARGET_PROPOSAL_MS, ""),
            (f"{short(worst)} ms per proposal at most (worst)", worst, TARGET_PROPOSAL_MS, ""),
            (f"{memory:.0f} MiB at {last:,} trials", memory, TARGET_MIB, " (500 MB)"),
            (f"{short(resumed)} s at most until a resumed round has drawn", resumed, TARGET_RESUME_S, " s"),
            (f"{short(status)} s at most for its status", status, TARGET_STATUS_S, " s"),
        ]
        return [verdict(fact, f"below {target:.3g}{unit}", met=found < target) for fact, found, target, unit in facts]

    def plot(self, file: Path) -> None:
        """Cost of a trial, and of its proposal, over the number of trials present."""
        # Half a second that each measurement would pay for.
        from matplotlib.figure import Figure  # noqa: PLC0415
        from matplotlib.ticker import LogLocator, NullFormatter  # noqa: PLC0415

        figure = Figure(figsize=(10, 4), dpi=150, layout="constrained")
        trials, proposals = figure.subplots(1, 2)
        for system in self.systems:
            spreads = [self.spread("trial_ms", system, size) for size in self.sizes]
            [line] = trials.plot(self.sizes, [one.median for one in spreads], marker="o", label=system)
            quartiles = [[one.quantile(share) for one in spreads] for share in (0.25, 0.75)]
            trials.fill_between(self.sizes, *quartiles, color=line.get_color(), alpha=0.2, linewidth=0)
            spreads = [self.spread("proposal_ms", system, size) for size in self.sizes]
            proposals.plot(self.sizes, [one.median for one in spreads], marker="o", color=line.get_color())
            worst = [max(one.values) for one in spreads]
            proposals.plot(self.sizes, worst, marker="^", linestyle=":", color=line.get_color())
        proposals.axhline(TARGET_PROPOSAL_MS, color="grey", linewidth=0.8, label="target of the default search")
        trials.set_title("ms per trial: median and quartiles", loc="left")
        proposals.set_title("ms per proposal: median, and worst (dotted)", loc="left")
        trials.set_ylim(bottom=0)
        proposals.set_yscale("log")
        proposals.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        proposals.yaxis.set_major_formatter("{x:g}")
        proposals.yaxis.set_minor_formatter(NullFormatter())
        for axes in (trials, proposals):
            linear_to = next(size for size in self.sizes if size)
            axes.set_xscale("symlog", linthresh=linear_to)
            axes.set_xlim(-linear_to / 10, 1.2 * self.sizes[-1])
            axes.set_xticks(self.sizes, [f"{size:,}" for size in self.sizes])
            axes.tick_params(which="minor", length=0)
            axes.legend(fontsize=7, frameon=False)
            axes.set_xlabel("trials in the round")
            axes.grid(visible=True, alpha=0.3)
            axes.spines[["top", "right"]].set_visible(False)
        figure.savefig(file)

    def spread(self, what: str, system: str, size: int) -> Spread:
        """All values of one quantity, of all processes."""
        return Spread.of([value for run in self.runs[system, size] for value in run[what]])

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


def _late(proposals: Spread) -> str:
    return f"{sum(value >= TARGET_PROPOSAL_MS for value in proposals.values)} of {len(proposals.values)}"


def _leased_and_drawn(process: subprocess.Popen[str], file: Path, number: int) -> tuple[float, float]:
    """When a controller had its lease, and when it had recorded trial `number`, or had ended without."""
    lease, trial = (
        "SELECT EXISTS (SELECT 1 FROM tuner_leases)",
        f"SELECT EXISTS (SELECT 1 FROM trials WHERE number = {number})",
    )
    leased = None
    with contextlib.closing(sqlite3.connect(file, timeout=60)) as database:
        while process.poll() is None and not database.execute(trial).fetchone()[0]:
            if leased is None and database.execute(lease).fetchone()[0]:
                leased = time.perf_counter()
            time.sleep(POLL_S)
    drawn = time.perf_counter()
    return drawn if leased is None else leased, drawn


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--sizes", type=int, nargs="+", help="trials in the study beforehand")
    options.add_argument("--trials", type=int, help="trials measured in each process")
    options.add_argument("--repeats", type=int, help="processes for each system and size")
    options.add_argument("--plot", type=Path, help="file of a figure (PNG, SVG or PDF)")
    options.add_argument("--profile", action="store_true", help="only profile the default at the largest size")
    asked = options.parse_args()
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as the command line does before it imports numpy
    sizes = sorted(asked.sizes or ([0, 100] if asked.quick else [0, 100, 1_000, 3_000, 10_000]))
    if not sizes[-1]:
        options.error("--sizes has one above 0, because an empty round is not resumed")
    systems = (*DEFAULTS, PLAIN) if asked.quick else tuple(SYSTEMS)
    # A smoke test is after mistakes, not times.
    at_once = os.cpu_count() or 1 if asked.quick else 1
    trials = asked.trials or (5 if asked.quick else 30)
    with temporary_folder() as folder:
        bench = Bench(folder, sizes, trials, systems=systems, at_once=at_once)
        bench.fill()
        if asked.profile:
            bench.child("profile", MAIN, sizes[-1], trials)
            return
        for repeat in range(asked.repeats or (1 if asked.quick else 5)):
            bench.measure(repeat)
    print(heading(markdown=asked.markdown))
    for part in (bench.per_trial, bench.proposals, bench.phases, bench.opening, bench.others):
        print(f"\n{part(markdown=asked.markdown)}")
    print()
    print("\n".join(f"{'- ' if asked.markdown else ''}{line}" for line in bench.verdicts()))
    if asked.plot:
        bench.plot(asked.plot)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--cell"]:
        cell(sys.argv[2:])
    else:
        main()
