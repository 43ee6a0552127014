"""A worker whose trainings take no time, and how long it waits for the controller.

There is one worker, so what is timed is the controller's own work. Where several share a controller, one may wait for
another's turn besides.
"""

from __future__ import annotations

import enum
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Self

from filling import STEPS_PER_EPOCH, VALUES, value_of

from scale.systems import EPOCHS
from tuner.launch.protocol import Ended, Event, Measured
from tuner.training.task import Answer, Measurement, Outcome, Result, Task

WARM_UP = 2  # trials before the first one that counts


class Kind(enum.StrEnum):
    """What a worker waits for, told by what it gets."""

    NEW = "a new configuration"
    RESUMED = "a paused trial taken up again"
    ANSWER = "the answer at a rung"


class Waits:
    """How long a worker has waited, by what it got; one wait at a time.

    | kind | begins | ends |
    | --- | --- | --- |
    | new, resumed | a trial has ended or paused; at first: the worker is there | the next trial is given to it |
    | answer | a value at a rung has been sent | it is told to go on or to pause |

    So the controller's records of the trial that has ended are among what is waited for.

    Attributes:
        milliseconds: of each wait that has ended.
    """

    def __init__(self) -> None:
        self.milliseconds: dict[Kind, list[float]] = {kind: [] for kind in Kind}
        self._since = time.perf_counter()

    def begin(self) -> None:
        self._since = time.perf_counter()

    def end(self, kind: Kind) -> None:
        self.milliseconds[kind].append(1e3 * (time.perf_counter() - self._since))

    def forget(self) -> None:
        """What has ended so far does not count."""
        for values in self.milliseconds.values():
            values.clear()


class Enough(Exception):
    """As many trials as were asked for have been measured."""


class InstantWorker:
    """A launcher with one worker in this process, whose trainings take no time.

    Attributes:
        entered_at: when the round had been opened and its workers were started.
        begins: when each newly drawn trial was given to the worker.
        waits: from the first trial after `WARM_UP` on, its own wait included.
    """

    def __init__(self, present: int, trials: int, at_warm: Callable[[], None]) -> None:
        """Prepare.

        Args:
            present: trials in the round beforehand; a number from there on is a new one.
            trials: to be measured after `WARM_UP`; the next one raises `Enough`.
            at_warm: called when the first trial that counts begins.
        """
        self._next, self._trials, self._at_warm = present, trials, at_warm
        self._events: Iterator[Event] | None = None
        self._answer = Answer.GO_ON
        self.entered_at = 0.0
        self.begins: list[float] = []
        self.waits = Waits()

    def __enter__(self) -> Self:
        self.entered_at = time.perf_counter()
        self.waits.begin()
        return self

    def __exit__(self, *exc: object) -> None:
        pass

    def idle(self) -> Sequence[int]:
        return [] if self._events else [0]

    def train(self, _worker: int, task: Task) -> None:
        if task.trial == self._next:
            self._begin()
        else:
            self.waits.end(Kind.RESUMED)
        self._events = self._training(task)

    def _begin(self) -> None:
        """A new trial."""
        is_first = len(self.begins) == WARM_UP
        if is_first:
            self.waits.forget()
        self.waits.end(Kind.NEW)
        self._next += 1
        self.begins.append(time.perf_counter())
        if is_first:
            self._at_warm()
        if len(self.begins) > WARM_UP + self._trials:
            raise Enough

    def events(self, _timeout_s: float) -> list[tuple[int, Event]]:
        event = next(self._events) if self._events else None
        if event is None:
            return []
        if isinstance(event, Ended):
            self._events = None
        if isinstance(event, Ended) or (isinstance(event, Measured) and event.waits):
            self.waits.begin()
        return [(0, event)]

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
        self.waits.end(Kind.ANSWER)
        self._answer = answer

    def halt(self, worker: int, *, save: bool = False) -> None:
        """Nothing: a training that takes no time has ended before it is told to stop."""

    def kill(self, worker: int) -> None:
        """Nothing, likewise."""

    def describe(self, worker: int) -> str:
        return f"localhost:{worker}"
