"""Workers that train a formula in no time, in this process: for tests of the controller at many points of a round."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from tuner.launch.protocol import Checkpointed, Ended, Event, Lost, Measured
from tuner.training.task import Answer, Measurement, Outcome, Result, Saved, Task

STEPS_PER_EPOCH = 10
#: Epochs between two checkpoints of a training that goes on; not a divisor of the rungs.
SAVED_EVERY = 3


def value_at(lr: float, epoch: int) -> float:
    """A loss that falls with the epochs, lowest at lr = 0.01; below lr = 0.002 it diverges."""
    return abs(math.log10(lr) + 2) + 1 / epoch


class Simulated:
    """As many workers as asked for; each event takes one call of `events`, the workers in turn.

    Attributes:
        trained: (trial, epoch) of every epoch trained, over all launchers that share the list.
    """

    def __init__(self, workers: int, trained: list[tuple[int, int]]) -> None:
        self._jobs: list[Iterator[Event] | None] = [None] * workers
        self._answers = [Answer.GO_ON] * workers
        self._turn = 0
        self.trained = trained

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        pass

    def idle(self) -> list[int]:
        return [worker for worker, job in enumerate(self._jobs) if job is None]

    def train(self, worker: int, task: Task) -> None:
        self._jobs[worker] = self._training(worker, task)

    def reply(self, worker: int, answer: Answer) -> None:
        self._answers[worker] = answer

    def halt(self, worker: int, *, save: bool = False) -> None:
        self._answers[worker] = Answer.STOP

    def kill(self, worker: int) -> None:
        raise AssertionError("nothing hangs here")

    def describe(self, worker: int) -> str:
        return f"here:{worker}"

    def events(self, timeout_s: float) -> list[tuple[int, Event]]:
        for offset in range(len(self._jobs)):
            worker = (self._turn + offset) % len(self._jobs)
            if job := self._jobs[worker]:
                self._turn = worker + 1
                event = next(job)
                if isinstance(event, Ended | Lost):
                    self._jobs[worker] = None
                return [(worker, event)]
        return []

    def _training(self, worker: int, task: Task) -> Iterator[Event]:
        lr, epochs = task.config["module"]["lr"], task.config["trainer"]["max_epochs"]
        began = int(Path(task.checkpoint).read_text()) if task.checkpoint else 0
        for epoch in range(began + 1, epochs + 1):
            self.trained.append((task.trial, epoch))
            value, step = value_at(lr, epoch), epoch * STEPS_PER_EPOCH
            if lr < 0.002 and epoch == 2:
                yield Ended(task.trial, Result(Outcome.DIVERGED, value, epoch, step, reason="loss is nan"))
                return
            rung, self._answers[worker] = epoch in task.rungs, Answer.GO_ON
            yield Measured(task.trial, Measurement(step, epoch, value, rung), waits=rung or task.every_value)
            if self._answers[worker] is Answer.PAUSE:
                file = Path(task.folder) / "paused.ckpt"
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(str(epoch))
                yield Ended(task.trial, Result(Outcome.PAUSED, value, epoch, step, checkpoint=str(file)))
                return
            if epoch % SAVED_EVERY == 0 and epoch < epochs:
                file = Path(task.folder) / f"step-{step}.ckpt"
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(str(epoch))
                yield Checkpointed(task.trial, Saved(str(file), step, epoch))
            if self._answers[worker] is Answer.STOP:
                yield Ended(task.trial, Result(Outcome.STOPPED, value, epoch, step))
                return
        model = Path(task.folder) / "complete.ckpt"
        model.parent.mkdir(parents=True, exist_ok=True)
        model.write_text(str(value))
        yield Ended(task.trial, Result(Outcome.COMPLETE, value, epochs, step, checkpoint=str(model)))


class DyingWhenStopped(Simulated):
    """Workers that do not come to their next batch when they are told to stop, and are killed for it."""

    def __init__(self, workers: int, trained: list[tuple[int, int]]) -> None:
        super().__init__(workers, trained)
        self._trials: dict[int, int] = {}

    def train(self, worker: int, task: Task) -> None:
        self._trials[worker] = task.trial
        super().train(worker, task)

    def halt(self, worker: int, *, save: bool = False) -> None:
        self._jobs[worker] = iter([Lost(self._trials[worker], "ended by SIGKILL")])
