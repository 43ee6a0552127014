"""Ranks as processes of this machine, forked from a server that has imported torch and lightning already."""

from __future__ import annotations

import contextlib
import multiprocessing as mp
import os
import signal
import socket
import tempfile
import threading
from collections.abc import Iterator, Sequence
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any, Self

from tuner.launch.devices import Seat
from tuner.launch.groups import LEAVE_S, Groups, Rank
from tuner.launch.protocol import FromWorker, ToWorker


def local_groups(seats: Sequence[Sequence[Seat]], logs: Path, *, silent_after_s: float | None = None) -> Groups:
    """Groups of processes of this machine.

    Args:
        seats: of the ranks of each group.
        logs: folder of the workers' logs, `worker-N.log`, of further ranks `worker-N-rank-R.log`.
        silent_after_s: see `Groups`.
    """
    return Groups(Processes(seats, logs), len(seats), silent_after_s=silent_after_s)


def start_server() -> None:
    """Start the server that workers are forked from, which imports meanwhile what they need."""
    _context()  # says what it imports
    with _without_interrupts():
        forkserver.ensure_running()


def _context() -> mp.context.ForkServerContext:
    context = mp.get_context("forkserver")
    context.set_forkserver_preload(["tuner.launch.preload"])
    return context


class Processes:
    """The transport: a process and a pipe for each rank."""

    def __init__(self, seats: Sequence[Sequence[Seat]], logs: Path) -> None:
        self._seats, self._logs = seats, logs
        self._context = _context()
        self._meeting: tempfile.TemporaryDirectory[str] | None = None
        self._started = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._meeting is not None:
            self._meeting.cleanup()

    def start(self, group: int) -> list[Rank]:
        return [self._rank(group, seat, meeting) for meeting in [self._place()] for seat in self._seats[group]]

    def wait(self, ranks: Sequence[Rank], timeout_s: float) -> Sequence[Rank]:
        ends: dict[Any, LocalRank] = {}
        for rank in ranks:
            if isinstance(rank, LocalRank):
                # Its end as well: the workers of its loaders hold its pipe open after it.
                ends[rank.pipe] = ends[rank.process.sentinel] = rank
        return list({id(ends[end]): ends[end] for end in wait(list(ends), timeout_s)}.values())

    def log(self, group: int) -> str:
        return str(self._log(group, 0))

    def _rank(self, group: int, seat: Seat, meeting: str) -> Rank:
        log = self._log(group, seat.rank)
        return start_rank(self._context, seat, log, meeting, name=f"tuner-worker-{group}-{seat.rank}")

    def _log(self, group: int, rank: int) -> Path:
        return self._logs / (f"worker-{group}-rank-{rank}.log" if rank else f"worker-{group}.log")

    def _place(self) -> str:
        """Where the ranks of one start meet; never that of an earlier one, whose keys would be read as their own."""
        if self._meeting is None:
            self._meeting = tempfile.TemporaryDirectory(prefix="tuner-ranks-")
        self._started += 1
        return f"file://{self._meeting.name}/{self._started}"


class LocalRank:
    """One process with our end of its pipe."""

    def __init__(self, process: ForkServerProcess, pipe: Connection) -> None:
        self.process, self.pipe = process, pipe
        self.where = f"{socket.gethostname()}:{process.pid}"

    def say(self, message: ToWorker) -> None:
        with contextlib.suppress(OSError):
            self.pipe.send(message)

    def take(self) -> tuple[list[FromWorker], str | None]:
        messages: list[FromWorker] = []
        dead = not self.process.is_alive()  # asked first: what it said before is in the pipe by now
        try:
            while self.pipe.poll():
                messages.append(self.pipe.recv())
        except Exception as error:  # noqa: BLE001 - a pipe's end, or half a message, which unpickles to any error
            return messages, self._how_it_ended(error)
        return messages, _how(self.process.exitcode, EOFError()) if dead else None

    def kill(self) -> None:
        # With the workers of its loaders, which do not die with it: see `main` of the worker.
        with contextlib.suppress(OSError):
            os.killpg(self.process.pid, signal.SIGKILL)  # type: ignore[arg-type]
        self.process.kill()

    def end(self, patience_s: float) -> None:
        if not self._has_left(patience_s):
            self.kill()
            self.process.join()
        self.kill()  # what it has left behind
        self.pipe.close()

    def _has_left(self, patience_s: float) -> bool:
        self.process.join(patience_s)
        return not self.process.is_alive()

    def _how_it_ended(self, error: BaseException) -> str:
        if not self._has_left(LEAVE_S):
            return "stopped answering, and was killed"
        return _how(self.process.exitcode, error)


def start_rank(context: mp.context.ForkServerContext, seat: Seat, log: Path, meeting: str, *, name: str) -> LocalRank:
    """Start one rank, which says `Ready` when it has met the others of its group.

    Args:
        context: with its preload set.
        seat: where it runs.
        log: file that takes what it prints.
        meeting: URL of torch.distributed where the group's ranks meet; not looked at by a rank alone.
        name: of the process, for people.
    """
    ours, theirs = context.Pipe()
    # Imported by name in the worker: this process must not import torch for it.
    process = context.Process(
        target=_run_worker,
        args=(theirs, str(log), seat, meeting),
        name=name,
        # Not a daemon, because daemons may not have children and loaders have workers; it leaves with its pipe.
        daemon=False,
    )
    with _without_interrupts():
        process.start()
    theirs.close()
    return LocalRank(process, ours)


@contextlib.contextmanager
def _without_interrupts() -> Iterator[None]:
    """Ctrl-C waits: while the server imports torch it would kill it, and it passes its mask on to the workers."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    resource_tracker.ensure_running()  # starting it later, with the server, would let the signal through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _run_worker(pipe: Connection, log: str, seat: Seat, meeting: str) -> None:
    from tuner.launch.worker import main  # noqa: PLC0415 - imports torch, which only the worker may pay for

    main(pipe, log, seat, meeting)


def _how(exitcode: int | None, error: BaseException) -> str:
    if exitcode is None or exitcode == 0:
        return f"its pipe closed ({type(error).__name__})"
    if exitcode < 0:
        name = signal.Signals(-exitcode).name if -exitcode in set(signal.Signals) else str(-exitcode)
        hint = ", perhaps by the system because memory ran out" if name == "SIGKILL" else ""
        return f"ended by {name}{hint}"
    return f"left with exit code {exitcode}"
