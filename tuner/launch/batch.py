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
    retries: int = 0,
    on_start: Callable[[Task], None] | None = None,
    on_value: Callable[[Task, Measurement], None] | None = None,
    on_retry: Callable[[Task, str], None] | None = None,
    on_end: Callable[[Task, Result], None] | None = None,
    on_tick: Callable[[], object] | None = None,
) -> list[Result]:
    """Do all tasks and give their results in the same order; Ctrl-C ends the workers and leaves.

    A task whose worker dies starts again from its beginning on the worker that takes the dead one's place, before any
    task that has not started yet. Once its retries are used up it has crashed; the others go on.

    Args:
        launcher: the workers, not entered yet.
        tasks: with numbers (`trial`) that differ.
        retries: times that each task may start again.
        on_start: told of each task whenever it starts: values of an earlier attempt, if there was one, do not count.
        on_value: told of each validation's value.
        on_retry: told of each task that is to start again, with a sentence for people that says why.
        on_end: told of each task that is done, once.
        on_tick: called twice a second and more, whatever happens.

    Raises:
        StudyError: the study cannot be trained as it is configured.
    """
    batch = _Batch(launcher, tasks, retries, on_start, on_value, on_retry, on_end)
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
        retries: int,
        on_start: Callable[[Task], None] | None,
        on_value: Callable[[Task, Measurement], None] | None,
        on_retry: Callable[[Task, str], None] | None,
        on_end: Callable[[Task, Result], None] | None,
    ) -> None:
        self._launcher, self._retries = launcher, retries
        self._on_start, self._on_value, self._on_retry, self._on_end = on_start, on_value, on_retry, on_end
        self._tasks = {task.trial: task for task in tasks}
        self._waiting = list(reversed(tasks))
        self._retried = dict.fromkeys(self._tasks, 0)
        self.results: dict[int, Result] = {}

    def employ(self) -> None:
        for worker in self._launcher.idle():
            if self._waiting:
                task = self._waiting.pop()
                if self._on_start:
                    self._on_start(task)
                self._launcher.train(worker, task)

    def handle(self, worker: int, event: Event) -> None:
        task = self._tasks[event.trial]
        if isinstance(event, Measured):
            if self._on_value:
                self._on_value(task, event.measurement)
            if event.waits:
                self._launcher.reply(worker, Answer.GO_ON)
        elif isinstance(event, Refused):
            raise StudyError(event.text)
        elif isinstance(event, Ended) and event.result.outcome in (Outcome.PAUSED, Outcome.STOPPED):
            self._waiting.append(task)  # nobody asked for that but its machine, which is wanted for something else
            if self._on_retry:
                self._on_retry(task, "its worker was told to leave; starts again")
        elif isinstance(event, Ended):
            self._end(task, event.result)
        elif isinstance(event, Lost):
            self._lose(task, event)

    def _lose(self, task: Task, event: Lost) -> None:
        if self._retried[task.trial] == self._retries:
            self._end(task, _of_lost(event, self._retries))
            return
        self._retried[task.trial] += 1
        self._waiting.append(task)
        if self._on_retry:
            count = f"retry {self._retried[task.trial]} of {self._retries}"
            self._on_retry(task, f"the worker died: {event.reason}; starts again ({count})")

    def _end(self, task: Task, result: Result) -> None:
        self.results[task.trial] = result
        if self._on_end:
            self._on_end(task, result)


def _of_lost(event: Lost, retried: int) -> Result:
    tries = f", and so did {retried} before it" if retried else ""
    text = f"the worker died: {event.reason}{tries}; its log is in the folder of the workers' logs"
    return Result(Outcome.CRASHED, reason=text, traceback=text)
