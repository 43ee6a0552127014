"""The one protocol between the controller and its workers, whatever carries the messages.

| controller says | worker does |
| --- | --- |
| `Train(task)` | trains, sends `Measured` at each validation, ends with `Ended` or `Refused` |
| `Reply(answer)` | goes on, pauses or stops; only after a `Measured` that waits for it |
| `Halt()` | stops the training at the next batch |
| `Leave()` | leaves after what it does now |

A worker says `Ready` once, before anything else. Whatever ends it in a trial without `Ended` is reported as `Lost` by the launcher.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, Self

from tuner.training.task import Answer, Measurement, Result, Task

# -- to a worker ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Train:
    task: Task


@dataclass(frozen=True)
class Reply:
    answer: Answer


@dataclass(frozen=True)
class Halt:
    pass


@dataclass(frozen=True)
class Leave:
    pass


# -- from a worker ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ready:
    """The worker has imported what it needs and waits for its first task."""


@dataclass(frozen=True)
class Measured:
    trial: int
    measurement: Measurement
    waits: bool


@dataclass(frozen=True)
class Ended:
    trial: int
    result: Result


@dataclass(frozen=True)
class Refused:
    """The study cannot be trained as it is configured; `text` tells the user what to mend."""

    trial: int
    text: str


# -- from the launcher ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Lost:
    """The worker died in a trial; `reason` says how, as far as the system tells."""

    trial: int
    reason: str


Event = Measured | Ended | Refused | Lost


class Launcher(Protocol):
    """A set of workers, each training one trial at a time; used by one thread, as a context manager."""

    def idle(self) -> Sequence[int]:
        """Workers that are ready and have nothing to do, lowest first."""

    def train(self, worker: int, task: Task) -> None:
        """Give an idle worker a task."""

    def reply(self, worker: int, answer: Answer) -> None:
        """Answer a measurement that waits."""

    def halt(self, worker: int) -> None:
        """Have a worker stop its training at the next batch; it ends with `Ended`."""

    def kill(self, worker: int) -> None:
        """End a worker that does not answer; reported as `Lost`, and a new one takes its place."""

    def events(self, timeout_s: float) -> list[tuple[int, Event]]:
        """What happened, waiting at most `timeout_s` for the first of it."""

    def describe(self, worker: int) -> str:
        """Where the worker runs, for people: host:pid."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc: object) -> None: ...
