"""A worker process: takes tasks from a pipe, trains them, and tells the controller about it.

Importing this module imports torch and lightning: the forkserver does so once, and each worker starts from there.
A thread reads the pipe all the time, for two reasons: a halt is seen at the next batch, and when the controller dies
the pipe's end ends this process at once, so that nothing trains for nobody.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import queue
import signal
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from tuner.errors import TunerError
from tuner.launch.protocol import Ended, Halt, Leave, Measured, Ready, Refused, Reply, Train
from tuner.training.jobs import run
from tuner.training.process import quiet, settle
from tuner.training.task import Answer, Measurement, Outcome, Result, Task

#: A worker that a user's thread keeps alive is not waited for when its controller has gone.
ORPHAN_EXIT = 70


def main(pipe: Connection, log: str, environment: Mapping[str, str], threads: int | None) -> None:
    """Work until told to leave.

    Args:
        pipe: this worker's end.
        log: file that takes what the user's code prints, so that it reaches neither the results on standard output
            nor the live table.
        environment: variables that pin this worker to its devices.
        threads: torch threads, or None for torch's own choice.
    """
    # Ctrl-C goes to the whole foreground group; the controller decides what it means. It was blocked so far.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    # A worker of a loader is forked from here, as in a program of the user's own. The server's way of starting
    # processes, which is inherited, would start another server in each trial.
    multiprocessing.set_start_method(None, force=True)
    os.environ.update(environment)
    _redirect(Path(log))
    if threads is not None:
        torch.set_num_threads(threads)
    quiet()
    settle()
    _Worker(pipe).run()


class _Worker:
    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe
        self._tasks: queue.SimpleQueue[Train | Leave] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[Answer] = queue.SimpleQueue()
        self._halted = threading.Event()
        threading.Thread(target=self._read, name="tuner-pipe", daemon=True).start()

    def run(self) -> None:
        self._pipe.send(Ready())
        while isinstance(message := self._tasks.get(), Train):
            self._train(message.task)

    def _train(self, task: Task) -> None:
        print(f"--- trial {task.trial} at {time.strftime('%Y-%m-%d %H:%M:%S')}", flush=True)  # noqa: T201 - the log's own heading

        def report(measurement: Measurement) -> Answer:
            waits = measurement.rung or task.every_value
            self._pipe.send(Measured(task.trial, measurement, waits))
            return self._answers.get() if waits else Answer.GO_ON

        try:
            end: Ended | Refused = Ended(task.trial, run(task, report, self._halted.is_set))
        except TunerError as error:
            end = Refused(task.trial, str(error))
        except Exception as error:  # noqa: BLE001 - a fault of ours is told as such, not as a machine that died
            text = traceback.format_exc()
            reason = f"{type(error).__name__}: {error}"
            end = Ended(task.trial, Result(Outcome.CRASHED, reason=reason, traceback=text))
        if isinstance(end, Ended) and end.result.traceback:
            print(end.result.traceback)  # noqa: T201 - into the log, where its reader looks for it
        sys.stdout.flush()
        self._pipe.send(end)

    def _read(self) -> None:
        with contextlib.suppress(EOFError, OSError):
            while True:
                message = self._pipe.recv()
                if isinstance(message, Reply):
                    self._answers.put(message.answer)
                elif isinstance(message, Halt):
                    self._halted.set()
                    self._answers.put(Answer.STOP)  # if it is waiting for an answer just now
                elif isinstance(message, Train):
                    # A halt that crossed the end of the training before belongs to that one.
                    self._halted.clear()
                    while not self._answers.empty():
                        self._answers.get_nowait()
                    self._tasks.put(message)
                else:
                    self._tasks.put(message)
        os._exit(ORPHAN_EXIT)


def _redirect(log: Path) -> None:
    log.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    sys.stdout.flush()
    sys.stderr.flush()
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)
