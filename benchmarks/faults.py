"""What random faults cost: workers, ranks, controllers, disks and databases fail under the program, and code misbehaves.

Rounds of the digits study are run by the command line with faults at random moments, several in a round, and the same
command is given again until the round has ended. It is then held against an undisturbed round of the same seed: same
configurations, curves and values, nothing that was complete is lost, no trial is left running, no process and no
checkpoint is left behind. Beside that stands what the faults cost: training that was done twice, and the time to get on.

The study's own module writes down each step that it trains, and sleeps a little in each, so that faults meet trainings
and not imports. The lease is some seconds long instead of a minute. Processes are found in /proc, so this runs on Linux.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import shutil
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Self

import sqlalchemy as sa
from figures import filled, heading, note, parser, positive_float, positive_int, short, table

ROUND = "digits-1"
#: Models of the best trials that stay.
KEPT = 2
LEASE_S, RENEW_S = 6.0, 1.0
#: Seconds that an epoch sleeps.
EPOCH_S = 0.3
#: Seconds without anything new in the database, or without an end that was asked for: the round has not recovered.
PATIENCE_S = 180.0
#: Times that a program may end by itself, without a fault that ends it, before its round is given up.
MOST_EXITS = 4
#: Seconds in which all processes of a program have left after it.
LEAVE_S = 15.0
#: Faults of one round at most, those of the module aside.
FAULTS_A_ROUND = 7
POLL_S = 0.1
DISK_MIB = 64
#: Environment variables: which start of the program a process belongs to; for the module, its folder and pace.
START, FOLDER, PACE = "TUNER_FAULTS_START", "TUNER_FAULTS_FOLDER", "TUNER_FAULTS_EPOCH_S"

MODULE = '''\
"""The digits' network; it writes down each step, and misbehaves in the trials that troubles.json names."""
import json, os, resource, time
from pathlib import Path

import torch
from studies.digits import MLP

FOLDER, EPOCH_S = Path(os.environ["TUNER_FAULTS_FOLDER"]), float(os.environ["TUNER_FAULTS_EPOCH_S"])
TROUBLES = json.loads((FOLDER / "troubles.json").read_text())
MARKS = os.open(FOLDER / "marks.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)


def mark(*words):
    os.write(MARKS, (" ".join(map(str, words)) + "\\n").encode())


class Marked(MLP):
    def training_step(self, batch, batch_idx):
        time.sleep(EPOCH_S * len(batch[0]) / 1078)
        trial = os.environ["PL_GLOBAL_SEED"]
        if self.global_step == 5 and trial in TROUBLES:
            mark("fault", trial, TROUBLES[trial], time.time(), os.getpid())
            misbehave(self, TROUBLES[trial])
        return super().training_step(batch, batch_idx)

    def on_train_batch_end(self, *_):
        if self.global_rank == 0:
            mark("step", os.environ["PL_GLOBAL_SEED"], self.global_step, time.time(), os.getpid())


def misbehave(module, kind):
    if kind == "module-raise":
        raise ValueError("what a pity")
    if kind == "module-nan":
        with torch.no_grad():
            next(module.parameters()).fill_(float("nan"))
    if kind == "module-memory":
        allocate()
    if kind == "module-sleep":
        time.sleep(3600)
    if kind == "module-print":
        print("printed by the module " * 400_000, flush=True)
    if kind == "module-exit":
        os._exit(3)


def allocate():
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + (256 << 20), before[1]))
    held = []
    try:
        while True:
            held.append(torch.zeros(4 << 20))
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
'''

DRIVER = f'''\
"""`python -m tuner` with a lease of a few seconds."""
import sys

from tuner.store import leases

leases.LEASE_S, leases.RENEW_S = {LEASE_S}, {RENEW_S}

if __name__ == "__main__":
    from tuner.cli import main

    sys.exit(main())
'''

COMMON = (
    "study=digits", "module._target_=marked.Marked", "space.batch_size.choices=[64,128,256]", "trainer.accelerator=cpu",
    "trainer.checkpoint_every_s=0.2", "search=random", "search.budget=null", "launcher.workers=1",
    "seed=0", f"store.keep_checkpoints={KEPT}",
)  # fmt: skip
PROMOTED = (*COMMON, "pruner=promote", "trainer.max_epochs=8", "launcher.max_retries=50")


@dataclass(frozen=True)
class Scene:
    """A sort of rounds.

    Attributes:
        words: of the command line.
        trials: of a round; the number of epochs is the words' business.
        alike: name of the scene whose undisturbed round has the same trials, where it is not this one.
    """

    words: tuple[str, ...]
    trials: int
    alike: str | None = None


SCENES: Mapping[str, Scene] = {
    "one": Scene(PROMOTED, 16),
    "group": Scene((*PROMOTED, "launcher.devices_per_trial=2"), 12),
    # A disk is nobody's death: nothing is to be taken up again for it, so nothing may be lost with few retries.
    "disk": Scene((*PROMOTED, "launcher.max_retries=2"), 16, "one"),
    "server": Scene(PROMOTED, 16, "one"),
    # No promotions: whether a trial goes on depends on the others. Once more is enough for what always fails.
    "module": Scene(
        (*COMMON, "pruner=none", "trainer.max_epochs=2", "launcher.max_retries=1", "launcher.silent_after_s=10"), 14
    ),
}
#: Each kind of fault with its scene.
KINDS: Mapping[str, str] = {
    "worker-kill": "one", "worker-term": "one", "controller-kill": "one", "controller-term": "one",
    "controller-stop": "one", "file-locked": "one", "rank-kill": "group", "rank-term": "group", "disk-full": "disk",
    "server-restart": "server", "module-raise": "module", "module-nan": "module", "module-memory": "module",
    "module-sleep": "module", "module-print": "module", "module-exit": "module",
}  # fmt: skip
QUICK = ("worker-kill", "worker-term", "controller-kill", "controller-term", "module-raise", "module-exit")
#: How a trial ends in which the module misbehaves.
OUTCOMES: Mapping[str, str] = {
    "module-raise": "crashed", "module-nan": "diverged", "module-memory": "out of memory", "module-sleep": "lost",
    "module-print": "complete", "module-exit": "lost",
}  # fmt: skip
ABOUT: Mapping[str, str] = {
    "worker-kill": "kill -9 of a worker", "worker-term": "SIGTERM to a worker",
    "controller-kill": "kill -9 of the controller", "controller-term": "SIGTERM to the controller",
    "controller-stop": "controller stopped, taken over, continued", "file-locked": "SQLite file locked",
    "rank-kill": "kill -9 of one of two ranks", "rank-term": "SIGTERM to one of two ranks",
    "disk-full": "disk of the checkpoints full", "server-restart": "PostgreSQL restarted",
    "module-raise": "module raises", "module-nan": "module's weights are NaN", "module-memory": "module takes all memory",
    "module-sleep": "module sleeps for ever", "module-print": "module prints 9 MB", "module-exit": "module ends its process",
}  # fmt: skip
#: Faults that the same command has to be given again after.
ENDING = ("controller-kill", "controller-term")


# -- what is seen from outside --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Trial:
    """A trial as the database has it; two are the same if all of this is."""

    state: str
    value: float | None
    params: tuple[tuple[str, float], ...]
    curve: tuple[tuple[int, float | None], ...]
    outcome: str | None
    hyperparameters: str


class Store:
    """The round's database, read without the program's own code."""

    def __init__(self, url: str) -> None:
        """`url` is that of a server, or of an SQLite file, which need not be there yet."""
        if url.startswith("sqlite:///"):
            url = f"sqlite:///file:{url.removeprefix('sqlite:///')}?mode=ro&uri=true"
        url = url.replace("postgresql://", "postgresql+psycopg://")
        self._engine = sa.create_engine(url, poolclass=sa.NullPool)

    def counts(self) -> tuple[int, int, int] | None:
        """Trials, ended ones, and values of their curves; None where the database does not answer."""
        query = (
            "SELECT (SELECT count(*) FROM trials), (SELECT count(*) FROM trials WHERE state <> 'RUNNING'),"
            " (SELECT count(*) FROM trial_intermediate_values)"
        )
        with contextlib.suppress(sa.exc.SQLAlchemyError), self._engine.connect() as connection:
            return tuple(connection.execute(sa.text(query)).one())
        return None

    def trials(self) -> dict[int, Trial]:
        """By number; nothing where the database is not there yet."""
        with contextlib.suppress(sa.exc.OperationalError), self._engine.connect() as connection:

            def rows(columns: str, kind: str) -> dict[int, list[Any]]:
                query = f"SELECT trial_id, {columns} FROM {kind} ORDER BY 1, 2"
                by_trial = itertools.groupby(connection.execute(sa.text(query)), lambda row: row[0])
                return {number: [tuple(row[1:]) for row in group] for number, group in by_trial}

            trials = rows("number, state", "trials")
            values, params = rows("value", "trial_values"), rows("param_name, param_value", "trial_params")
            curves = rows("step, intermediate_value", "trial_intermediate_values")
            attributes = rows("key, value_json", "trial_user_attributes")
            found = {}
            for place, [(number, state)] in trials.items():
                noted = dict(attributes.get(place, ()))
                found[number] = Trial(
                    state,
                    values[place][0][0] if place in values else None,
                    tuple(params.get(place, ())),
                    tuple(curves.get(place, ())),
                    json.loads(noted.get("outcome", "null")),
                    noted.get("hyperparameters", ""),
                )
            return found
        return {}


class Step(NamedTuple):
    """A step that was trained: of which trial, which step of it, when, and in which process."""

    trial: int
    step: int
    time: float
    pid: int


class Timeline(threading.Thread):
    """Looks at the database all the time, and keeps when it grew."""

    def __init__(self, store: Store) -> None:
        super().__init__(daemon=True)
        self._store, self._leave = store, threading.Event()
        self.grown: list[float] = []
        self._last: tuple[int, ...] = (0, 0, 0)

    def run(self) -> None:
        while not self._leave.wait(POLL_S):
            counts = self._store.counts()
            if counts is not None and counts != self._last:
                self._last = counts
                self.grown.append(time.time())

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._leave.set()
        self.join()

    def since(self, moment: float) -> bool:
        return bool(self.grown) and self.grown[-1] > moment


def repeated_s(steps: Sequence[Step], faults: Sequence[float]) -> list[float]:
    """Seconds of training that were done before, for each fault: what was trained again until the next one.

    Args:
        steps: in the order of time.
        faults: their moments, ascending.
    """
    found, seen, last = [0.0] * len(faults), set[tuple[int, int]](), dict[int, Step]()
    took = [later.time - one.time for one, later in itertools.pairwise(steps) if one[::3] == later[::3]]
    usual = statistics.median(took) if took else 0.0
    for step in steps:
        place = sum(fault <= step.time for fault in faults) - 1
        if (step.trial, step.step) in seen and place >= 0:
            before = last.get(step.pid)
            found[place] += step.time - before.time if before and before.trial == step.trial else usual
        seen.add((step.trial, step.step))
        last[step.pid] = step
    return found


def recovered_s(
    steps: Sequence[Step], grown: Sequence[float], faults: Sequence[float], ends: Sequence[Container[int]]
) -> list[float | None]:
    """Seconds from each fault to the first thing in the database after a step that had not been trained before.

    None where there was none before the next fault or the round's end.

    Args:
        steps: in the order of time.
        grown: moments at which something new was in the database, ascending.
        faults: their moments, ascending.
        ends: processes that each fault ends; what they still do is no recovery.
    """
    seen, new = set[tuple[int, int]](), list[Step]()
    for step in steps:
        if (step.trial, step.step) not in seen:
            new.append(step)
        seen.add((step.trial, step.step))
    found = list[float | None]()
    for (fault, until), gone in zip(itertools.pairwise([*faults, float("inf")]), ends, strict=True):
        trained = next((step.time for step in new if step.time > fault and step.pid not in gone), until)
        written = next((moment for moment in grown if moment > trained), until)
        found.append(written - fault if written < until else None)
    return found


# -- the program ----------------------------------------------------------------------------------------------------


class Program:
    """One start of the command, with all its processes."""

    def __init__(self, words: Sequence[str], folder: Path, environment: Mapping[str, str], number: int) -> None:
        self.mark = f"{START}={folder.name}-{os.getpid()}-{number}"
        self.error = folder / f"start-{number}.err"
        with (folder / f"start-{number}.out").open("wb") as out, self.error.open("wb") as error:
            self.process = subprocess.Popen(
                [sys.executable, "driver.py", *words],
                cwd=folder,
                env={**os.environ, **environment, START: self.mark.partition("=")[2]},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=error,
                start_new_session=True,
            )
        self.began = time.time()

    @property
    def code(self) -> int | None:
        return self.process.poll()

    def wait(self) -> int:
        """The exit code.

        Raises:
            GivenUp: it does not end.
        """
        try:
            return self.process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            raise GivenUp(f"process {self.process.pid} has not ended for {PATIENCE_S:g} s") from None

    def processes(self) -> dict[int, int]:
        """Those that live now: pid and the parent's."""
        found, mark = {}, self.mark.encode()
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError, ValueError, IndexError):
                if entry.name.isdigit() and mark in (entry / "environ").read_bytes().split(b"\0"):
                    fields = (entry / "stat").read_text().rpartition(")")[2].split()
                    if fields[0] not in "ZX":
                        found[int(entry.name)] = int(fields[1])
        return found

    def workers(self) -> list[int]:
        """Processes that the controller's server has forked."""
        there = self.processes()
        servers = {pid for pid, parent in there.items() if parent == self.process.pid}
        return sorted(pid for pid, parent in there.items() if parent in servers)

    def left_behind(self) -> dict[int, str]:
        """Processes that have not left `LEAVE_S` after the program, with their command lines."""
        until = time.monotonic() + LEAVE_S
        while (there := self.processes()) and time.monotonic() < until:
            time.sleep(POLL_S)
        found = {}
        for pid in there:
            with contextlib.suppress(OSError):
                found[pid] = Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")[:200]
        return found

    def end(self) -> None:
        """End all there is of it."""
        while there := self.processes():
            for pid in there:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(POLL_S)
        self.process.wait()


class GivenUp(Exception):
    """The round does not get on any more."""


# -- a round with faults --------------------------------------------------------------------------------------------


@dataclass
class Fault:
    """One fault, and what was seen of it.

    Attributes:
        kind: one of `KINDS`.
        time: of its beginning.
        before: the trials just before it.
        ends: processes that it ends.
        lost, stuck, differ: numbers of trials: complete before and not after; still running; other than undisturbed.
        orphans: processes that outlived the program that it ended.
        files: checkpoints that are left of trials that have ended, and models of the best that are not there.
        exits: times that the program ended by itself after it.
    """

    kind: str
    time: float
    before: Mapping[int, Trial]
    ends: Collection[int] = ()
    recovered: bool = False
    lost: list[int] = field(default_factory=list)
    stuck: list[int] = field(default_factory=list)
    differ: list[int] = field(default_factory=list)
    orphans: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    exits: int = 0
    repeated_s: float = 0.0
    recover_s: float | None = None


class Case:
    """One round in a folder of its own, with faults at random moments, and what it has come to.

    Attributes:
        faults: that have happened.
        problems: sentences for whoever repeats them.
    """

    def __init__(
        self, folder: Path, scene: str, url: str, rng: random.Random, *, lock_s: float, server: Any = None
    ) -> None:
        """`server` is that of `url`, if it is on one."""
        self.folder, self.scene, self.url, self.rng = folder, scene, url, rng
        self.lock_s, self.server = lock_s, server
        self.checkpoints = folder / "disk"
        self.store = Store(url)
        self.timeline = Timeline(self.store)
        self.faults: list[Fault] = []
        self.problems: list[str] = []
        self.ended = False
        self._starts: list[Program] = []
        self._watchers: list[threading.Thread] = []
        self._exits = 0

    @property
    def words(self) -> list[str]:
        scene = SCENES[self.scene]
        where = [f"store.url={self.url}"] if self.url.startswith("sqlite") else ["store=postgresql"]
        return [*scene.words, f"search.trials={scene.trials}", *where, f"store.folder={self.checkpoints}"]

    @property
    def program(self) -> Program:
        return self._starts[-1]

    def prepare(self, troubles: Mapping[int, str]) -> None:
        """Write the user's files; `troubles` are kinds of faults by trial."""
        self.checkpoints.mkdir(parents=True, exist_ok=True)
        (self.folder / "marked.py").write_text(MODULE, encoding="utf-8")
        (self.folder / "driver.py").write_text(DRIVER, encoding="utf-8")
        (self.folder / "troubles.json").write_text(json.dumps(troubles), encoding="utf-8")

    def run(self, kinds: Sequence[str], undisturbed: Mapping[int, Trial]) -> int:
        """How many of the faults have happened; the round may have ended before the others."""
        # Every other trial, so that one that is well follows each.
        troubles = {2 * place + 1: kind for place, kind in enumerate(kinds)} if self.scene == "module" else {}
        self.prepare(troubles)
        with self.timeline:
            try:
                self.start()
                if not troubles:
                    self._disturb(kinds)
                self._finish()
            except GivenUp as error:
                self.problems.append(f"given up: {error}")
            finally:
                for program in self._starts:
                    if program.code is None:
                        program.end()
                for watcher in self._watchers:
                    watcher.join()
        self.judge(troubles, undisturbed)
        return len(self.faults)

    def undisturbed(self) -> dict[int, Trial]:
        """The trials of a round without faults."""
        self.prepare({})
        self.start(pace=0.0)
        if self.program.wait() != 0:
            raise RuntimeError(f"a round without faults failed:\n{self.program.error.read_text()[-4000:]}")
        return self.store.trials()

    def start(self, pace: float = EPOCH_S) -> None:
        """Give the command, for the first time or again."""
        environment = {FOLDER: str(self.folder), PACE: str(pace), "TUNER_DATABASE_URL": self.url}
        self._starts.append(Program(self.words, self.folder, environment, len(self._starts)))

    def _disturb(self, kinds: Sequence[str]) -> None:
        for kind in kinds:
            early = kind in ENDING and self.rng.random() < 0.25
            if early:
                time.sleep(self.rng.uniform(0.2, 5.0))
            else:
                self._until_it_gets_on()
                time.sleep(self.rng.uniform(0.0, 1.5))
            if self._has_ended():
                return
            self.faults.append(Fault(kind, time.time(), self.store.trials()))
            FAULTS[kind](self)

    def _until_it_gets_on(self) -> None:
        """Until something is in the database that was not there at the last start or fault."""
        since = max([self.program.began, *(fault.time for fault in self.faults[-1:])])
        until = time.monotonic() + PATIENCE_S
        while not self.timeline.since(since) and not self._has_ended():
            if time.monotonic() > until:
                raise GivenUp(f"nothing new in the database for {PATIENCE_S:g} s")
            time.sleep(POLL_S)

    def _has_ended(self) -> bool:
        """Whether the round is over; a program that has ended without that is started again."""
        code = self.program.code
        if code is None:
            return False
        if not self.ended:
            self._watch_leaving(self.program)
        self.ended = code == 0
        if not self.ended:
            self._ended_by_itself(code)
        return self.ended

    def _ended_by_itself(self, code: int) -> None:
        said = self.program.error.read_text(errors="replace")
        last = " ".join(said.strip().splitlines()[-1:])
        self._exits += 1
        if self.faults:
            self.faults[-1].exits += 1
        note(f"  {self.folder.name}: the program ended by itself with exit code {code}: {last}")
        if "Traceback" in said:
            self.problems.append(f"a traceback, see {self.program.error.name}: {last}")
        if self._exits > MOST_EXITS:
            raise GivenUp(f"the program has ended by itself {self._exits} times, at last with exit code {code}: {last}")
        self.start()

    def _finish(self) -> None:
        until = time.monotonic() + PATIENCE_S
        while not self._has_ended():
            if time.monotonic() > until:
                raise GivenUp(f"the round has not ended {PATIENCE_S:g} s after the last fault")
            time.sleep(POLL_S)

    def _watch_leaving(self, program: Program) -> None:
        """Whether all processes of a program leave with it; looked at while the next one starts."""
        fault = self.faults[-1] if self.faults else None

        def look() -> None:
            left = program.left_behind()
            if left:
                self.problems.append(f"processes outlived {program.mark}: {left}")
                if fault is not None:
                    fault.orphans += left.values()
                program.end()

        self._watchers.append(threading.Thread(target=look))
        self._watchers[-1].start()

    # -- faults -----------------------------------------------------------------------------------------------------

    def signal_worker(self, number: signal.Signals) -> None:
        """To one of the workers, or of their ranks; they may just be starting."""
        until = time.monotonic() + PATIENCE_S
        while not (there := self.program.workers()):
            if self.program.code is not None or time.monotonic() > until:
                return
            time.sleep(POLL_S)
        self.faults[-1].ends = there  # a group is ended as a whole
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.rng.choice(there), number)

    def signal_controller(self, number: signal.Signals) -> None:
        """And give the command again, if it has ended by that."""
        program = self.program
        self.faults[-1].ends = program.workers()
        program.process.send_signal(number)
        code = program.wait()
        if code == 0:
            return  # it had ended already
        # A signal before the program listens ends it as any other.
        expected = (-signal.SIGKILL,) if number is signal.SIGKILL else (130, -signal.SIGTERM)
        said = program.error.read_text(errors="replace")
        if code not in expected or "Traceback" in said:
            self.problems.append(f"{number.name} ended the controller with exit code {code}: {said[-400:]}")
        self._watch_leaving(program)
        self.start()

    def stop_controller(self) -> None:
        """For longer than its lease; a second one takes over, and the first one goes on."""
        first = self.program
        self.faults[-1].ends = first.workers()
        first.process.send_signal(signal.SIGSTOP)
        try:
            time.sleep(LEASE_S + 0.5)
            self.start()
            self._until_it_gets_on()
        finally:
            first.process.send_signal(signal.SIGCONT)
        code, said = first.wait(), first.error.read_text(errors="replace")
        self._watch_leaving(first)
        # Stopped before it had the lease, it finds it taken.
        is_told = "has lost its lease" in said or "is being run by" in said
        if code != 2 or not is_told or "Traceback" in said:
            self.problems.append(f"{first.mark} was taken over and ended with exit code {code}: {said[-400:]}")

    def lock_file(self) -> None:
        connection = sqlite3.connect(self.url.removeprefix("sqlite:///"), timeout=60, isolation_level=None)
        with contextlib.closing(connection):
            connection.execute("BEGIN EXCLUSIVE")
            time.sleep(self.lock_s)
            connection.execute("ROLLBACK")

    def fill_disk(self) -> None:
        """For some seconds, to the last byte."""
        file = self.checkpoints / "somebody-elses"
        with file.open("wb", buffering=0) as full, contextlib.suppress(OSError):
            for size in (1 << 20, 1 << 12):
                with contextlib.suppress(OSError):
                    while full.write(bytes(size)):
                        pass
        time.sleep(self.rng.uniform(2.0, 6.0))
        file.unlink()

    def restart_server(self) -> None:
        """In order or by a crash, and away for some seconds."""
        assert self.server is not None
        self.server.stop(self.rng.choice(["fast", "immediate"]))
        time.sleep(self.rng.uniform(0.0, 4.0))
        self.server.start()

    # -- what it has come to ----------------------------------------------------------------------------------------

    def judge(self, troubles: Mapping[int, str], undisturbed: Mapping[int, Trial]) -> None:
        """Hold the round against an undisturbed one, and put what is wrong, and what it cost, to its faults."""
        steps = self._read_marks(troubles)
        after = self.store.trials()
        moments = [fault.time for fault in self.faults]
        again = repeated_s(steps, moments)
        recovery = recovered_s(steps, self.timeline.grown, moments, [fault.ends for fault in self.faults])
        costs = zip(self.faults, again, recovery, strict=True)
        for fault, fault.repeated_s, fault.recover_s in costs:
            fault.recovered = self.ended
            complete = {number: trial for number, trial in fault.before.items() if trial.state == "COMPLETE"}
            fault.lost = [number for number, trial in complete.items() if after.get(number) != trial]
        for number, trial in undisturbed.items():
            self._compare(number, trial, after.get(number), troubles)
        if len(after) > len(undisturbed):
            self._blame(len(undisturbed)).differ += list(after)[len(undisturbed) :]
            self.problems.append(f"{len(after)} trials instead of {len(undisturbed)}")
        if self.ended:
            self._look_at_files(after)
        self.problems += [f"{fault.kind} lost the complete trials {fault.lost}" for fault in self.faults if fault.lost]

    def _compare(self, number: int, undisturbed: Trial, found: Trial | None, troubles: Mapping[int, str]) -> None:
        if found is None or found.state == "RUNNING":
            self._blame(number).stuck.append(number)
            self.problems.append(f"trial {number} was left as {found}")
        elif number in troubles and OUTCOMES[troubles[number]] != "complete":
            if found.outcome != OUTCOMES[troubles[number]] or found.params != undisturbed.params:
                self._blame(number).differ.append(number)
                self.problems.append(f"{troubles[number]} ended trial {number} as {found.outcome}")
        elif found != undisturbed:
            self._blame(number).differ.append(number)
            self.problems.append(f"trial {number} differs:\n    {found}\n    undisturbed: {undisturbed}")

    def _blame(self, number: int) -> Fault:
        """The last fault before a trial's end, or its own where its module misbehaves."""
        if not self.faults:
            self.faults.append(Fault("worker-kill", time.time(), {}))
        own = [fault for fault in self.faults if self.scene == "module" and number in fault.before]
        ended = {"COMPLETE", "PRUNED", "FAIL"}
        met = [fault for fault in self.faults if getattr(fault.before.get(number), "state", "") not in ended]
        return (own or met or self.faults)[-1]

    def _look_at_files(self, after: Mapping[int, Trial]) -> None:
        """Of the best trials the models are there, and of no trial anything else."""
        complete = [(-(trial.value or 0.0), number) for number, trial in after.items() if trial.state == "COMPLETE"]
        kept = {f"{ROUND}/trial-{number}/final.ckpt" for _, number in sorted(complete)[:KEPT]}
        found = {
            str(file.relative_to(self.checkpoints))
            for pattern in ("*.ckpt", "*.writing", "*.part")
            for file in self.checkpoints.rglob(pattern)
        }
        # A disk that was full when a training ended has no model of it.
        missing = kept - found if self.scene != "disk" else set()
        if wrong := sorted(found - kept | missing):
            self.problems.append(f"files left behind: {sorted(found - kept)}; missing: {sorted(missing)}")
            self.faults[-1].files += wrong

    def _read_marks(self, troubles: Mapping[int, str]) -> list[Step]:
        """The steps; and the faults of the module, which it has written down itself."""
        steps, file = list[Step](), self.folder / "marks.txt"
        for line in file.read_text(encoding="utf-8").splitlines() if file.is_file() else []:
            what, *words = line.split()
            if what == "step":
                steps.append(Step(int(words[0]), int(words[1]), float(words[2]), int(words[3])))
            elif int(words[0]) not in {number for fault in self.faults for number in fault.before}:
                trial = Trial("RUNNING", None, (), (), None, "")
                self.faults.append(Fault(words[1], float(words[2]), {int(words[0]): trial}))
        if missing := len(troubles) - len(self.faults) if troubles else 0:
            self.problems.append(f"{missing} of the module's faults did not happen")
        return sorted(steps, key=lambda step: step.time)


FAULTS: Mapping[str, Callable[[Case], None]] = {
    "worker-kill": lambda case: case.signal_worker(signal.SIGKILL),
    "worker-term": lambda case: case.signal_worker(signal.SIGTERM),
    "rank-kill": lambda case: case.signal_worker(signal.SIGKILL),
    "rank-term": lambda case: case.signal_worker(signal.SIGTERM),
    "controller-kill": lambda case: case.signal_controller(signal.SIGKILL),
    "controller-term": lambda case: case.signal_controller(signal.SIGTERM),
    "controller-stop": Case.stop_controller,
    "file-locked": Case.lock_file,
    "disk-full": Case.fill_disk,
    "server-restart": Case.restart_server,
}


# -- all rounds -----------------------------------------------------------------------------------------------------


def unavailable(scenes: Collection[str]) -> dict[str, str]:
    """Those of the scenes that cannot be had here, and why."""
    checks = {"group": _no_second_core, "disk": _no_small_disk, "server": _no_server}
    found = {scene: check() for scene, check in checks.items() if scene in scenes}
    return {scene: why for scene, why in found.items() if why}


def _no_second_core() -> str:
    return "" if len(os.sched_getaffinity(0)) >= 2 else "a group of two ranks needs two cores"


def _no_small_disk() -> str:
    with tempfile.TemporaryDirectory() as folder:
        try:
            with small_disk(Path(folder)):
                return ""
        except (OSError, subprocess.CalledProcessError):
            return "no small disk can be mounted, which takes root"


def _no_server() -> str:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
    try:
        from postgres import programs  # noqa: PLC0415 - of the tests
    except ImportError as error:
        return f"no PostgreSQL: {error}"
    return "" if programs() else "PostgreSQL's server programs are not installed"


@contextlib.contextmanager
def small_disk(place: Path) -> Iterator[None]:
    """A file system of its own at a folder."""
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MIB}m", "tuner-faults", str(place)]
    subprocess.run(mount, check=True, capture_output=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True, capture_output=True)


@contextlib.contextmanager
def started_server() -> Iterator[Any]:
    """A PostgreSQL server of our own."""
    from postgres import Server  # noqa: PLC0415 - of the tests

    server = Server()
    try:
        server.start()
        yield server
    finally:
        server.remove()


class Bench:
    """Faults in random order, dealt to rounds, until they have all happened or the time is up."""

    def __init__(self, root: Path, seed: int, lock_s: float, server: Any) -> None:
        self.root, self.lock_s, self.server = root, lock_s, server
        self.rng = random.Random(seed)
        self.faults: list[Fault] = []
        self.failed: list[Case] = []
        self._undisturbed: dict[str, dict[int, Trial]] = {}
        self._count = 0

    def run(self, kinds: Sequence[str], count: int, seconds: float) -> int:
        """How many faults there was no time for."""
        waiting = [kind for kind, _ in zip(itertools.cycle(kinds), range(count), strict=False)]
        self.rng.shuffle(waiting)
        until = time.monotonic() + seconds
        while waiting and time.monotonic() < until:
            # The scene in which most is left to do, so that the time's end leaves out some of each.
            scene = Counter(KINDS[kind] for kind in waiting).most_common(1)[0][0]
            most = SCENES[scene].trials // 2 - 1 if scene == "module" else FAULTS_A_ROUND
            chosen = [kind for kind in waiting if KINDS[kind] == scene][:most]
            happened = self._case(scene, chosen)
            for kind in chosen[:happened]:
                waiting.remove(kind)
        return len(waiting)

    def undisturbed(self, scene: str) -> dict[int, Trial]:
        """The trials of an undisturbed round, which is run once."""
        scene = SCENES[scene].alike or scene
        if scene not in self._undisturbed:
            folder = self._folder(f"{scene}-undisturbed")
            note(f"{folder.name}: a round without faults")
            self._undisturbed[scene] = self._new(folder, scene).undisturbed()
            shutil.rmtree(folder)
        return self._undisturbed[scene]

    def _case(self, scene: str, kinds: Sequence[str]) -> int:
        """One round, and how many of the faults it has had."""
        undisturbed = self.undisturbed(scene)
        with contextlib.ExitStack() as stack:
            folder = self._folder(scene)
            (folder / "disk").mkdir()
            if scene == "disk":
                stack.enter_context(small_disk(folder / "disk"))
            url = stack.enter_context(self.server.database()) if scene == "server" else None
            case = self._new(folder, scene, url)
            note(f"{folder.name}: {', '.join(kinds)}")
            began = time.monotonic()
            happened = case.run(kinds, undisturbed)
            note(f"  {happened} faults in {time.monotonic() - began:.0f} s, {len(case.problems)} problems")
            self.faults += case.faults
            if case.problems:
                self._keep(case)
        if not case.problems:
            shutil.rmtree(folder)
        return happened

    def _new(self, folder: Path, scene: str, url: str | None = None) -> Case:
        url = url or f"sqlite:///{folder / 'tuner.db'}"
        return Case(folder, scene, url, self.rng, lock_s=self.lock_s, server=self.server)

    def _keep(self, case: Case) -> None:
        """All that a failed round has left, in its folder."""
        self.failed.append(case)
        if case.scene == "disk":
            shutil.copytree(case.checkpoints, case.folder / "disk-copy")
        faults = [f"{fault.time:.3f} {fault.kind} recovered={fault.recovered}" for fault in case.faults]
        # Without store.url, which may have a password.
        told = ["python driver.py", *(word for word in case.words if not word.startswith("store.url"))]
        lines = [" ".join(told), "", *case.problems, "", *faults]
        (case.folder / "problems.txt").write_text("\n".join(lines), encoding="utf-8")
        for problem in case.problems:
            note(f"  PROBLEM {problem}")

    def _folder(self, what: str) -> Path:
        self._count += 1
        folder = self.root / f"{self._count:02d}-{what}"
        folder.mkdir()
        return folder


HEADER = (
    "kind", "faults", "recovered", "lost complete trials", "stuck trials", "orphans", "files left or missing", "values differ",
    "ended by itself", "work repeated, s: median, max", "time to recover, s: median, max",
)  # fmt: skip


def row(what: str, faults: Sequence[Fault]) -> list[str]:
    counts = [
        len(faults),
        sum(fault.recovered for fault in faults),
        *(
            sum(len(getattr(fault, name)) for fault in faults)
            for name in ("lost", "stuck", "orphans", "files", "differ")
        ),
        sum(fault.exits for fault in faults),
    ]
    spans = [
        [fault.repeated_s for fault in faults],
        [fault.recover_s for fault in faults if fault.recover_s is not None],
    ]
    told = [f"{short(statistics.median(span))}, {short(max(span))}" if span else "" for span in spans]
    return [what, *map(str, counts), *told]


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--faults", type=positive_int, help="how many")
    options.add_argument("--minutes", type=positive_float, default=30.0, help="no round begins after so many")
    options.add_argument("--seed", type=int, default=0, help="of the faults' order and moments")
    options.add_argument(
        "--lock-seconds", type=positive_float, default=20.0, help="for which the SQLite file is locked"
    )
    options.add_argument("--kinds", nargs="+", choices=list(KINDS), metavar="KIND", help=f"of {', '.join(KINDS)}")
    asked = filled(
        options.parse_args(),
        usual={"faults": 100, "kinds": list(KINDS)},
        quick={"faults": len(QUICK), "kinds": list(QUICK)},
    )
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # which ends what was started, too
    reasons = unavailable({KINDS[kind] for kind in asked.kinds})
    missing = {kind: reasons[KINDS[kind]] for kind in asked.kinds if KINDS[kind] in reasons}
    there = [kind for kind in asked.kinds if kind not in missing]
    root = Path(tempfile.mkdtemp(prefix="tuner-faults-"))
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(started_server()) if "server-restart" in there else None
        bench = Bench(root, asked.seed, asked.lock_seconds, server)
        waiting = bench.run(there, asked.faults, 60 * asked.minutes) if there else asked.faults
    rows = [row(ABOUT[kind], [one for one in bench.faults if one.kind == kind]) for kind in there]
    rows += [[ABOUT[kind], "0", f"skipped: {why}", *[""] * (len(HEADER) - 3)] for kind, why in missing.items()]
    print(heading(markdown=asked.markdown))
    print(f"\n{table(HEADER, [*rows, row('all', bench.faults)], markdown=asked.markdown)}\n")
    bullet = "- " if asked.markdown else ""
    if waiting:
        print(f"{bullet}no time for {waiting} of {asked.faults} faults")
    for case in bench.failed:
        print(f"{bullet}FAILED, {len(case.problems)} problems: see {case.folder}/problems.txt")
    if not bench.failed:
        shutil.rmtree(root)
    return int(bool(bench.failed) or not bench.faults)


if __name__ == "__main__":
    sys.exit(main())
