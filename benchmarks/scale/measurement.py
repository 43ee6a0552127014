"""One measurement, in a process of its own: what it costs the controller to go on with a round, or to end it.

`tuner` runs as on the command line; only its workers are replaced. Plain Optuna does the same work by ask, report and
tell.
"""

from __future__ import annotations

import contextlib
import cProfile
import functools
import itertools
import json
import pstats
import resource
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import optuna
import sqlalchemy as sa
from filling import STEPS_PER_EPOCH, VALUES, value_of

import tuner.round
from scale.systems import EPOCHS, PLAIN, PLAIN_STUDY, SYSTEMS, settings_of
from scale.worker import WARM_UP, Enough, InstantWorker, Kind, Waits
from tuner.checkpoints import Checkpoints
from tuner.commands import tune
from tuner.config import Settings
from tuner.config.nodes import StudyNodes
from tuner.progress import Progress
from tuner.search.distributions import distribution, optuna_name
from tuner.store.database import Database
from tuner.store.leases import Leases
from tuner.store.ledger import Ledger


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
        contextlib.suppress(Enough),
    ):
        tune.tune(settings)
    figures = _figures(began, worker.entered_at, worker.begins, worker.waits, phases)
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
        opened, begins, waits = time.perf_counter(), list[float](), Waits()
        ask, tell = phases.timed("draw", study.ask), phases.timed("tell", study.tell)
        report = phases.timed("measure", optuna.Trial.report)
        for _ in range(WARM_UP + trials + 1):
            trial = ask(distributions)
            if len(begins) == WARM_UP:
                waits.forget()
            waits.end(Kind.NEW)
            begins.append(time.perf_counter())
            if len(begins) == WARM_UP + 1:
                phases.reset()
            for place in range(1, VALUES + 1):
                report(
                    trial, value_of(trial.number, EPOCHS * place / VALUES), STEPS_PER_EPOCH * EPOCHS * place // VALUES
                )
            waits.begin()  # as a worker does that has ended its trial
            tell(trial, value_of(trial.number, EPOCHS))
    return _figures(began, opened, begins, waits, phases)


def _figures(began: float, opened: float, begins: Sequence[float], waits: Waits, phases: Phases) -> dict[str, Any]:
    counted = begins[WARM_UP:]
    milliseconds = [1e3 * (after - before) for before, after in itertools.pairwise(counted)]
    return {
        "open_s": opened - began,
        "first_s": begins[0] - opened,
        "trial_ms": milliseconds,
        "waits_ms": waits.milliseconds,
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
