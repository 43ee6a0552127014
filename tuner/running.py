"""Trials in training, as their controller sees them: where each one runs, for how long, and whether it is to stop."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tuner.launch.protocol import Launcher

#: A worker that was told to stop and does not within this time is killed: it hangs in the user's code.
STOP_S = 10.0


class Why(enum.StrEnum):
    """Why the controller stops a training."""

    PRUNED = "pruned"
    TIMED_OUT = "timed out"
    INTERRUPTED = "interrupted"  # the trial is to go on later


@dataclass
class Job:
    """One trial in training.

    Attributes:
        number: of the trial.
        worker: that trains it.
        began: by the clock.
        seconds_before: that earlier parts of the trial have taken.
        validations: so far, earlier parts included.
        pausing: whether it was told to wait at its rung.
        stopping: why it was told to stop, if it was.
        kill_at: when it is killed for not stopping.
    """

    number: int
    worker: int
    began: float
    seconds_before: float
    validations: int
    pausing: bool = False
    stopping: Why | None = None
    kill_at: float | None = None


class Running:
    """All of them, by the number of the trial."""

    def __init__(self, launcher: Launcher, clock: Callable[[], float]) -> None:
        self._launcher, self._clock = launcher, clock
        self._jobs: dict[int, Job] = {}

    def __len__(self) -> int:
        return len(self._jobs)

    def __iter__(self) -> Iterator[Job]:
        return iter(self._jobs.values())

    def __getitem__(self, number: int) -> Job:
        return self._jobs[number]

    def begin(self, number: int, worker: int, *, seconds: float, validations: int) -> None:
        """A trial is given to a worker, with what its earlier parts have come to."""
        self._jobs[number] = Job(number, worker, self._clock(), seconds, validations)

    def end(self, number: int) -> Job:
        """A trial has left its worker."""
        return self._jobs.pop(number)

    def stop(self, job: Job, why: Why) -> None:
        """Have a training stop at its next batch; one that is to go on later is saved first."""
        if job.stopping is None:
            self._stops(job, why)
            self._launcher.halt(job.worker, save=why is Why.INTERRUPTED)

    def pruned(self, job: Job) -> None:
        """A training is answered that it stops."""
        self._stops(job, Why.PRUNED)

    def kill_the_late(self) -> None:
        """End the workers that have not stopped in time."""
        now = self._clock()
        for job in self:
            if job.kill_at is not None and now >= job.kill_at:
                self._launcher.kill(job.worker)

    def kill_all(self) -> None:
        for job in self:
            self._launcher.kill(job.worker)

    def seconds(self, job: Job) -> float:
        """That a trial has been trained for in all its parts."""
        return job.seconds_before + self._clock() - job.began

    def _stops(self, job: Job, why: Why) -> None:
        job.stopping, job.kill_at = why, self._clock() + STOP_S
