"""The one protocol between the controller and its workers, whatever carries the messages.

| controller says | worker does |
| --- | --- |
| `Train(task)` | trains, sends `Measured` at each validation, ends with `Ended` or `Refused` |
| `Reply(answer)` | goes on, pauses or stops; only after a `Measured` that waits for it |
| `Halt()` | stops the training at the next batch, with a checkpoint if `save` says so |
| `Leave()` | leaves after what it does now |

A worker says `Ready` once, before anything else; while it trains `Alive` now and then, and `Checkpointed` when it has
saved the trial; and `Leaving` when its machine is wanted for something else. Whatever ends it in a trial without `Ended`,
its own silence included, is reported as `Lost` by the launcher.

A worker may be a group of processes, the ranks that train one model together. Each of them hears everything; what they
measure and save is said by the first rank alone, and each says for itself that it is alive and how its part has ended.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, Self

from tuner.training.task import Answer, Measurement, Result, Saved, Task

# -- to a worker ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Train:
    task: Task


@dataclass(frozen=True)
class Reply:
    answer: Answer


@dataclass(frozen=True)
class Halt:
    """Stop; with `save` a checkpoint is written first, from which the trial can go on."""

    save: bool = False


@dataclass(frozen=True)
class Leave:
    pass


# -- from a worker ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ready:
    """The worker has imported what it needs and waits for its first task."""


@dataclass(frozen=True)
class Alive:
    """The training has got on since the last message."""

    trial: int


@dataclass(frozen=True)
class Leaving:
    """The worker's machine is wanted for something else: it takes no further task, and ends."""


@dataclass(frozen=True)
class Checkpointed:
    """A checkpoint has been written, and the training goes on."""

    trial: int
    saved: Saved


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


ToWorker = Train | Reply | Halt | Leave
FromWorker = Ready | Alive | Leaving | Checkpointed | Measured | Ended | Refused
Event = Checkpointed | Measured | Ended | Refused | Lost


class Launcher(Protocol):
    """A set of workers, each training one trial at a time; used by one thread, as a context manager."""

    def idle(self) -> Sequence[int]:
        """Workers that are ready and have nothing to do, lowest first."""

    def train(self, worker: int, task: Task) -> None:
        """Give an idle worker a task."""

    def reply(self, worker: int, answer: Answer) -> None:
        """Answer a measurement that waits."""

    def halt(self, worker: int, *, save: bool = False) -> None:
        """Have a worker stop its training at the next batch, and save it where asked; it ends with `Ended`."""

    def kill(self, worker: int) -> None:
        """End a worker that does not answer; reported as `Lost`, and a new one takes its place."""

    def events(self, timeout_s: float) -> list[tuple[int, Event]]:
        """What happened, waiting at most `timeout_s` for the first of it."""

    def describe(self, worker: int) -> str:
        """Where the worker runs, for people: host:pid."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc: object) -> None: ...
