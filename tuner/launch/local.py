"""Workers as processes of this machine, forked from a server that has imported torch and lightning already."""

from __future__ import annotations

import contextlib
import multiprocessing as mp
import signal
import socket
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any, Self

from tuner.errors import RoundFailed
from tuner.launch.protocol import Ended, Event, Halt, Leave, Lost, Ready, Refused, Reply, Train
from tuner.training.task import Answer, Task

#: Seconds that a worker told to leave is given before it is killed.
LEAVE_S = 5.0
#: Workers that die one after the other before they are ready: nothing will ever train here.
MOST_STILLBORN = 3


class LocalLauncher:
    """Local worker processes. A worker that dies is reported as `Lost`, and replaced."""

    def __init__(self, placements: Sequence[Mapping[str, str]], logs: Path, threads: int | None = 1) -> None:
        """Prepare; processes start on entering the context.

        Args:
            placements: one entry a worker: the environment that pins it to its devices.
            logs: folder of the workers' logs, `worker-N.log`.
            threads: torch threads of each worker.
        """
        self._placements, self._logs, self._threads = placements, logs, threads
        self._context = mp.get_context("forkserver")
        self._context.set_forkserver_preload(["tuner.launch.preload"])
        self._workers: dict[int, _Local] = {}
        self._stillborn = 0

    def __enter__(self) -> Self:
        for index in range(len(self._placements)):
            self._start(index)
        return self

    def __exit__(self, *exc: object) -> None:
        for worker in self._workers.values():
            worker.say(Halt())
            worker.say(Leave())
        deadline = time.monotonic() + LEAVE_S
        for worker in self._workers.values():
            worker.end(max(deadline - time.monotonic(), 0.0))
        self._workers.clear()

    def idle(self) -> list[int]:
        return [index for index, worker in sorted(self._workers.items()) if worker.ready and worker.trial is None]

    def train(self, worker: int, task: Task) -> None:
        self._workers[worker].trial = task.trial
        self._workers[worker].say(Train(task))

    def reply(self, worker: int, answer: Answer) -> None:
        self._workers[worker].say(Reply(answer))

    def halt(self, worker: int) -> None:
        self._workers[worker].say(Halt())

    def kill(self, worker: int) -> None:
        self._workers[worker].process.kill()

    def describe(self, worker: int) -> str:
        return f"{socket.gethostname()}:{self._workers[worker].process.pid}"

    def events(self, timeout_s: float) -> list[tuple[int, Event]]:
        by_end: dict[Any, int] = {worker.pipe: index for index, worker in self._workers.items()}
        found: list[tuple[int, Event]] = []
        for end in wait(list(by_end), timeout_s):
            index = by_end[end]
            found.extend((index, event) for event in self._receive(index))
        return sorted(found, key=lambda pair: pair[0])

    def _receive(self, index: int) -> list[Event]:
        worker, events = self._workers[index], list[Event]()
        try:
            while worker.pipe.poll():
                message = worker.pipe.recv()
                if isinstance(message, Ready):
                    worker.ready, self._stillborn = True, 0
                    continue
                events.append(message)
                if isinstance(message, Ended | Refused):
                    worker.trial = None
        except Exception as error:  # noqa: BLE001 - a pipe's end, or half a message, which unpickles to any error
            reason = self._bury(index, error)
            if worker.trial is not None:
                events.append(Lost(worker.trial, reason))
        return events

    def _bury(self, index: int, error: BaseException) -> str:
        worker = self._workers[index]
        left = worker.end(LEAVE_S)
        reason = _how(worker.process.exitcode, error) if left else "stopped answering, and was killed"
        self._stillborn += not worker.ready
        if self._stillborn >= MOST_STILLBORN:
            raise RoundFailed(f"No worker comes up, the last one {reason}. See {self._log(index)} and the lines above.")
        self._start(index)
        return reason

    def _start(self, index: int) -> None:
        ours, theirs = self._context.Pipe()
        # Imported by name in the worker: this process must not import torch for it.
        process = self._context.Process(
            target=_run_worker,
            args=(theirs, str(self._log(index)), dict(self._placements[index]), self._threads),
            name=f"tuner-worker-{index}",
            # Not a daemon, because daemons may not have children and loaders have workers; it leaves with its pipe.
            daemon=False,
        )
        with _without_interrupts():
            process.start()
        theirs.close()
        self._workers[index] = _Local(process, ours)

    def _log(self, index: int) -> Path:
        return self._logs / f"worker-{index}.log"


class _Local:
    """One process with our end of its pipe, and the trial it trains."""

    def __init__(self, process: ForkServerProcess, pipe: Connection) -> None:
        self.process, self.pipe = process, pipe
        self.ready = False
        self.trial: int | None = None

    def say(self, message: Train | Reply | Halt | Leave) -> None:
        # A worker that has just died is told by the pipe's end, in events().
        with contextlib.suppress(OSError):
            self.pipe.send(message)

    def end(self, patience_s: float) -> bool:
        """Wait for the process to leave, and kill it if it does not; whether it left by itself."""
        self.process.join(patience_s)
        left = not self.process.is_alive()
        if not left:
            self.process.kill()
            self.process.join()
        self.pipe.close()
        return left


@contextlib.contextmanager
def _without_interrupts() -> Iterator[None]:
    """Ctrl-C waits: while the server imports torch it would kill it, and it passes its mask on to the workers."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    resource_tracker.ensure_running()  # starting it later, with the server, would let the signal through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _run_worker(pipe: Connection, log: str, environment: Mapping[str, str], threads: int | None) -> None:
    from tuner.launch.worker import main  # noqa: PLC0415 - imports torch, which only the worker may pay for

    main(pipe, log, environment, threads)


def _how(exitcode: int | None, error: BaseException) -> str:
    if exitcode is None or exitcode == 0:
        return f"its pipe closed ({type(error).__name__})"
    if exitcode < 0:
        name = signal.Signals(-exitcode).name if -exitcode in set(signal.Signals) else str(-exitcode)
        hint = ", perhaps by the system because memory ran out" if name == "SIGKILL" else ""
        return f"ended by {name}{hint}"
    return f"left with exit code {exitcode}"
