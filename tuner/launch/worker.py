"""A worker process: takes tasks from a pipe, trains them, and tells the controller about it.

Importing this module imports torch and lightning: the forkserver does so once, and each worker starts from there.
A thread reads the pipe all the time, for two reasons: a halt is seen at the next batch, and when the controller dies
the pipe's end ends this process at once, so that nothing trains for nobody.
"""

from __future__ import annotations

import contextlib
import errno
import io
import multiprocessing
import os
import queue
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from tuner.errors import TunerError
from tuner.launch.devices import Seat
from tuner.launch.protocol import (
    Alive,
    Checkpointed,
    Ended,
    FromWorker,
    Halt,
    Leave,
    Leaving,
    Measured,
    Ready,
    Refused,
    Reply,
    Train,
)
from tuner.training import ranks
from tuner.training.jobs import run
from tuner.training.process import quiet, settle
from tuner.training.task import Answer, Measurement, Outcome, Result, Saved, Task

if TYPE_CHECKING:
    from typing_extensions import Buffer  # of collections.abc from Python 3.12 on

#: A worker that a user's thread keeps alive is not waited for when its controller has gone.
ORPHAN_EXIT = 70
#: Seconds between two messages of a training that has nothing to say but that it gets on.
ALIVE_S = 5.0


def main(pipe: Connection, log: str, seat: Seat, meeting: str) -> None:
    """Work until told to leave.

    Args:
        pipe: this worker's end.
        log: file that takes what the user's code prints, so that it reaches neither the results on standard output
            nor the live table.
        seat: the devices of this worker, and its place in a group of ranks.
        meeting: where the ranks of a group meet.
    """
    # Ctrl-C goes to the whole foreground group; the controller decides what it means. It was blocked so far.
    os.setpgid(0, 0)  # so that the workers of its loaders can be ended with it
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    # A worker of a loader is forked from here, as in a program of the user's own. The server's way of starting
    # processes, which is inherited, would start another server in each trial.
    multiprocessing.set_start_method(None, force=True)
    _redirect(Path(log))
    _sit(seat)
    quiet()
    settle()
    worker = _Worker(pipe, speaks=seat.rank == 0)
    signal.signal(signal.SIGTERM, worker.told_to_leave)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    if seat.size > 1:
        ranks.join(seat.rank, seat.size, meeting, local=seat.local)
    worker.run()


def _sit(seat: Seat) -> None:
    if seat.gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(seat.gpus)
    if seat.cores and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, seat.cores)
    if seat.threads is not None:
        torch.set_num_threads(seat.threads)


class _Worker:
    def __init__(self, pipe: Connection, *, speaks: bool) -> None:
        """`speaks`: whether this is the rank that says what is measured and saved."""
        self._pipe, self._speaks = pipe, speaks
        self._tasks: queue.SimpleQueue[Train | Leave] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[Answer] = queue.SimpleQueue()
        self._halted: Answer | None = None
        self._leaving = False
        self._spoke = 0.0
        threading.Thread(target=self._read, name="tuner-pipe", daemon=True).start()

    def run(self) -> None:
        self._send(Ready())
        while isinstance(message := self._tasks.get(), Train):
            self._train(message.task)
        if self._leaving:
            self._send(Leaving())

    def told_to_leave(self, *_: object) -> None:
        """SIGTERM: this machine is wanted for something else. Save what is trained, and go."""
        self._leaving = True
        self._tasks.put(Leave())  # after the training, if there is one

    def _train(self, task: Task) -> None:
        print(f"--- trial {task.trial} at {time.strftime('%Y-%m-%d %H:%M:%S')}", flush=True)  # noqa: T201 - the log's own heading

        def report(measurement: Measurement) -> Answer:
            waits = measurement.rung or task.every_value
            if self._speaks:
                self._send(Measured(task.trial, measurement, waits))
            return self._answers.get() if waits else Answer.GO_ON

        def interrupted() -> Answer | None:
            if time.monotonic() - self._spoke >= ALIVE_S:
                self._send(Alive(task.trial))
            return Answer.PAUSE if self._leaving and self._halted is None else self._halted

        def saved(checkpoint: Saved) -> None:
            if self._speaks:
                self._send(Checkpointed(task.trial, checkpoint))

        end = _end_of(task, lambda: run(task, report, interrupted, saved))
        if isinstance(end, Ended) and end.result.traceback:
            print(end.result.traceback)  # noqa: T201 - into the log, where its reader looks for it
        sys.stdout.flush()
        if self._leaving:
            self._send(Leaving())  # first, or it would be given another task
        self._send(end)

    def _send(self, message: FromWorker) -> None:
        self._pipe.send(message)
        self._spoke = time.monotonic()

    def _read(self) -> None:
        with contextlib.suppress(EOFError, OSError):
            while True:
                message = self._pipe.recv()
                if isinstance(message, Reply):
                    self._answers.put(message.answer)
                elif isinstance(message, Halt):
                    self._halted = Answer.PAUSE if message.save else Answer.STOP
                    self._answers.put(self._halted)  # if it is waiting for an answer just now
                elif isinstance(message, Train):
                    # A halt that crossed the end of the training before belongs to that one.
                    self._halted = None
                    while not self._answers.empty():
                        self._answers.get_nowait()
                    self._tasks.put(message)
                else:
                    self._tasks.put(message)
        if os.getpgrp() == os.getpid():
            os.killpg(0, signal.SIGKILL)
        os._exit(ORPHAN_EXIT)


def _end_of(task: Task, job: Callable[[], Result]) -> Ended | Refused:
    try:
        return Ended(task.trial, job())
    except TunerError as error:
        return Refused(task.trial, str(error))
    except Exception as error:  # noqa: BLE001 - a fault of ours is told as such, not as a machine that died
        text = traceback.format_exc()
        reason = f"{type(error).__name__}: {error}"
        return Ended(task.trial, Result(Outcome.CRASHED, reason=reason, traceback=text))


def _redirect(log: Path) -> None:
    log.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    sys.stdout.flush()
    sys.stderr.flush()
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)
    sys.stdout, sys.stderr = (
        io.TextIOWrapper(io.BufferedWriter(_Lossy(number, "w", closefd=False)), errors="replace", line_buffering=True)
        for number in (1, 2)
    )


class _Lossy(io.FileIO):
    """A log on a full disk loses lines; a `print` of the user's code must not fail for that."""

    def write(self, data: Buffer) -> int:
        try:
            return super().write(data)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            return memoryview(data).nbytes
