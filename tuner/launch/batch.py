"""Tasks without a search: each is done once, as many at a time as there are workers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tuner.errors import StudyError
from tuner.launch.protocol import Ended, Event, Launcher, Lost, Measured, Refused
from tuner.training.task import Answer, Measurement, Outcome, Result, Task

#: Longest wait for the workers' next message, so that Ctrl-C is seen.
TICK_S = 0.5


def run_batch(
    launcher: Launcher,
    tasks: Sequence[Task],
    *,
    on_value: Callable[[Task, Measurement], None] | None = None,
    on_end: Callable[[Task, Result], None] | None = None,
    on_tick: Callable[[], object] | None = None,
) -> list[Result]:
    """Do all tasks and give their results in the same order; Ctrl-C ends the workers and leaves.

    A task whose worker dies has crashed; the others go on.

    Args:
        launcher: the workers, not entered yet.
        tasks: with numbers (`trial`) that differ.
        on_value: told of each validation's value.
        on_end: told of each task that is done.
        on_tick: called twice a second and more, whatever happens.

    Raises:
        StudyError: the study cannot be trained as it is configured.
    """
    batch = _Batch(launcher, tasks, on_value, on_end)
    with launcher:
        while len(batch.results) < len(tasks):
            batch.employ()
            if on_tick:
                on_tick()
            for worker, event in launcher.events(TICK_S):
                batch.handle(worker, event)
    return [batch.results[task.trial] for task in tasks]


class _Batch:
    def __init__(
        self,
        launcher: Launcher,
        tasks: Sequence[Task],
        on_value: Callable[[Task, Measurement], None] | None,
        on_end: Callable[[Task, Result], None] | None,
    ) -> None:
        self._launcher, self._on_value, self._on_end = launcher, on_value, on_end
        self._tasks = {task.trial: task for task in tasks}
        self._waiting = list(reversed(tasks))
        self.results: dict[int, Result] = {}

    def employ(self) -> None:
        for worker in self._launcher.idle():
            if self._waiting:
                self._launcher.train(worker, self._waiting.pop())

    def handle(self, worker: int, event: Event) -> None:
        task = self._tasks[event.trial]
        if isinstance(event, Measured):
            if self._on_value:
                self._on_value(task, event.measurement)
            if event.waits:
                self._launcher.reply(worker, Answer.GO_ON)
        elif isinstance(event, Refused):
            raise StudyError(event.text)
        else:
            result = event.result if isinstance(event, Ended) else _of_lost(event)
            self.results[event.trial] = result
            if self._on_end:
                self._on_end(task, result)


def _of_lost(event: Lost) -> Result:
    text = f"the worker died: {event.reason}; its log is in the folder of the workers' logs"
    return Result(Outcome.CRASHED, reason=text, traceback=text)
