"""One round: free workers are given work, what they report is recorded, until there is nothing left to do.

The loop knows neither how configurations are drawn (the ledger asks a sampler) nor what is worth going on with
(`tuner.search.promotion`), nor how a worker trains. It keeps the three in step, and writes down what happened before
it acts on it, so that the same command goes on from any point where it was cut off.
"""

from __future__ import annotations

import enum
import textwrap
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from omegaconf.errors import OmegaConfBaseException

from tuner.checkpoints import Checkpoints
from tuner.config.settings import Settings
from tuner.crashes import Crashes
from tuner.endings import TrialEndings
from tuner.errors import ConfigError, RoundFailed, StudyError, TunerError
from tuner.fitting import BatchFit
from tuner.launch.protocol import Checkpointed, Ended, Event, Launcher, Lost, Measured, Refused
from tuner.running import Running, Why
from tuner.search.history import History, State
from tuner.search.promotion import Action, Draw, Finished, Judge, Plan, Resume, Wait, next_action
from tuner.store.ledger import Ledger
from tuner.training.task import Answer, Measurement, Task
from tuner.trials import NO_CHECKPOINT, Trials

#: Longest wait for the workers' next message; the lease, the time limits and the screen are looked after in between.
TICK_S = 0.5
#: Characters of an error that is told in full elsewhere.
REASON_CHARACTERS = 80


class Ending(enum.StrEnum):
    """How a call of the round ended."""

    FINISHED = "finished"
    TIMEOUT = "out of time"
    INTERRUPTED = "interrupted"


class Watcher:
    """Told what happens, to show it; the default shows nothing."""

    def trial_left(self, number: int, state: State, attributes: Mapping[str, Any]) -> None:
        """A trial left its worker: it ended, paused or was interrupted; `attributes` are those of the ledger."""

    def tick(self, round_: Round) -> None:
        """The loop went round once."""

    def note(self, text: str) -> None:
        """Something that people should know."""


class Round:
    """The loop over one opened round. Call `run` once."""

    def __init__(
        self,
        settings: Settings,
        *,
        ledger: Ledger,
        history: History,
        plan: Plan,
        launcher: Launcher,
        checkpoints: Checkpoints,
        stage_of: Callable[[int], str],
        barrier: Callable[[], int | None],
        keep_lease: Callable[[float], None],
        on_best: Callable[[], object],
        judge: Judge | None = None,
        batch_fit: BatchFit | None = None,
        seconds_used: float = 0.0,
        watcher: Watcher | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare; nothing is started yet.

        Args:
            settings: of this call, with a study.
            ledger: the round's trials, its sampler and pruner in use.
            history: the same trials as the search's rules see them.
            plan: budgets and rungs.
            launcher: the workers, not entered yet.
            checkpoints: where paused trials wait.
            stage_of: name of the stage that a draw belongs to.
            barrier: number of draws at which the present stage waits, None for no waiting.
            keep_lease: called with the seconds used, often; raises when the lease is lost.
            on_best: called when a trial trained in full is better than all before it.
            judge: what a model expects of the next draw and of what waits; None: places at the rungs decide.
            batch_fit: which batches have to be divided, None where it was not measured.
            seconds_used: by earlier calls.
            watcher: shows what happens.
            clock: seconds, monotonic.
        """
        if settings.study is None:
            raise ValueError("a round needs a study")
        self.settings, self.study = settings, settings.study
        self.history, self.plan = history, plan
        self._launcher, self._ledger, self._checkpoints = launcher, ledger, checkpoints
        self._stage_of, self._barrier, self._keep_lease = stage_of, barrier, keep_lease
        self._batch_fit, self._judge = batch_fit, judge
        self._watcher, self._clock = watcher or Watcher(), clock
        self._trials = Trials(
            ledger,
            history,
            checkpoints,
            epochs=plan.epochs,
            keep=settings.store.keep,
            cost=self.study.objective.cost,
            left=self._watcher.trial_left,
        )
        self._seconds_before, self._began = seconds_used, clock()
        self._running = Running(launcher, clock)
        self._trial_endings = TrialEndings(
            settings,
            self.study,
            self._trials,
            self._running,
            crashes=Crashes(plan.trials),
            epochs=plan.epochs,
            on_best=on_best,
            note=self._watcher.note,
        )
        self._ended = False
        self.ending: Ending | None = None
        self.reason = ""

    # -- the loop -----------------------------------------------------------------------------------------------

    def run(self) -> Ending:
        """Work until the round has finished, its time is up, or `interrupt` was called.

        Raises:
            ConfigError: the module never logs the objective.
            StudyError: the study cannot be trained as it is configured.
            RoundFailed: the user's code fails whatever the configuration.
        """
        self._trials.drop_stale_models()
        action = self._next(closing=False)
        if self._is_out_of_time():
            self.ending, self.reason = Ending.TIMEOUT, "the time is up"
        elif isinstance(action, Finished):
            self._finish(action)  # no worker has to start for that
        else:
            self._work()
        self.ending = self.ending or Ending.FINISHED
        if self.ending is Ending.FINISHED:
            self._let_go()
        self._ledger.flush()
        return self.ending

    def _work(self) -> None:
        with self._launcher:
            if self._judge is not None:
                import tuner.search.model  # noqa: F401, PLC0415  takes a second, while the workers start
            try:
                while not self._ended:
                    self._employ()
                    # After the workers have been given work, which need not wait for a disk.
                    self._ledger.flush(values=False)
                    events = self._launcher.events(0.0 if self._ended else TICK_S)
                    # Before anything is written: this process may have slept until its lease was another's.
                    self._look_at_the_clock()
                    self._handle(events)
                    self._watcher.tick(self)
                self._ledger.flush()  # before workers are waited for that do not leave
            except (ConfigError, StudyError, RoundFailed) as error:
                self._abandon(error)
                raise

    def interrupt(self) -> None:
        """Stop what runs and end the call; a second one kills the workers."""
        if self.ending is Ending.INTERRUPTED:
            self._running.kill_all()
        self.ending = Ending.INTERRUPTED

    @property
    def seconds_used(self) -> float:
        return self._seconds_before + self._clock() - self._began

    @property
    def running(self) -> int:
        return len(self._running)

    def _employ(self) -> None:
        """Give each idle worker what is next."""
        if self.ending is not None and not self._running:
            self._ended, self.reason = True, "the time is up" if self.ending is Ending.TIMEOUT else str(self.ending)
            return
        for worker in self._launcher.idle():
            action = self._next(closing=self.ending is not None)
            if isinstance(action, Draw):
                self._draw(worker)
            elif isinstance(action, Resume):
                self._resume(worker, action)
            elif isinstance(action, Finished):
                self._finish(action)
                return
            elif isinstance(action, Wait):
                return

    def _finish(self, action: Finished) -> None:
        self._ended, self.reason = not self._running, action.reason
        if self._ended and action.for_time and self.ending is None:
            self.ending = Ending.TIMEOUT  # with more time it goes on

    def _next(self, *, closing: bool) -> Action:
        limit = self.plan.seconds_left
        left = None if limit is None else max(limit - self.seconds_used, 0.0)
        plan = replace(self.plan, closing=closing, barrier_at=self._barrier(), seconds_left=left)
        drawn = len(self.history)
        ran_out = self._ledger.exhausted and (plan.trials is None or drawn < plan.trials)
        action = next_action(self.history, replace(plan, trials=drawn) if ran_out else plan, self._judge)
        if ran_out and isinstance(action, Finished) and not closing and not action.for_time:
            return replace(action, reason=f"the sampler has nothing left to draw: {action.reason}")
        return action

    def _handle(self, events: Sequence[tuple[int, Event]]) -> None:
        """Record what happened, all of it, and stop then if some of it says so."""
        stop: TunerError | None = None
        for worker, event in events:
            try:
                self._handle_one(worker, event)
            except (ConfigError, StudyError, RoundFailed) as error:
                stop = stop or error
        if stop is not None:
            raise stop

    def _handle_one(self, worker: int, event: Event) -> None:
        if isinstance(event, Measured):
            self._measured(worker, event.trial, event.measurement, waits=event.waits)
        elif isinstance(event, Refused):
            raise StudyError(event.text)
        elif isinstance(event, Ended):
            self._trial_endings.ended(self._running.end(event.trial), event.result)
        elif isinstance(event, Lost):
            self._trial_endings.lost(self._running.end(event.trial), event.reason)
        elif isinstance(event, Checkpointed):
            self._trial_endings.saved(self._running[event.trial], event.saved)

    def _look_at_the_clock(self) -> None:
        self._keep_lease(self.seconds_used)
        if self.ending is None and self._is_out_of_time():
            self.ending = Ending.TIMEOUT
        limit = self.settings.search.trial_timeout_s
        for job in self._running:
            if self.ending is not None:
                self._running.stop(job, Why.INTERRUPTED)
            elif limit is not None and self._running.seconds(job) >= limit:
                self._running.stop(job, Why.TIMED_OUT)
        self._running.kill_the_late()

    def _is_out_of_time(self) -> bool:
        limit = self.settings.search.timeout_s
        return limit is not None and self.seconds_used >= limit

    # -- starting -----------------------------------------------------------------------------------------------

    def _draw(self, worker: int) -> None:
        drawn = self._ledger.draw()
        effective = self.study.space.effective(drawn.values)
        config, divided = self._config(drawn.number, effective)
        target = self.plan.first_target(drawn.number)
        self.history.drawn(drawn.number, self.study.space.to_unit(drawn.values), target)
        # It trains while it is written down; what is not written when this process dies is drawn again.
        self._train(worker, drawn.number, config)
        self._ledger.record(
            drawn.number,
            stage=self._stage_of(drawn.number),
            hyperparameters=effective,
            worker=self._launcher.describe(worker),
            target=target,
            readings=[],
            **divided,
        )

    def _resume(self, worker: int, action: Resume) -> None:
        effective = self.study.space.effective(self._ledger.values(action.number))
        config, _ = self._config(action.number, effective)
        self._trials.resumed(action.number, action.until, worker=self._launcher.describe(worker))
        self._train(worker, action.number, config)

    def _config(self, number: int, effective: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, int]]:
        """A trial's configuration, and what was done to its batch to make it fit."""
        try:
            config = self.study.nodes.plain(effective, self.study.space)
        except (OmegaConfBaseException, TypeError, LookupError) as error:
            raise StudyError(f"Trial {number} with {dict(effective)} has no configuration: {error}") from None
        return config, self._batch_fit.apply(config, effective) if self._batch_fit else {}

    def _train(self, worker: int, number: int, config: Mapping[str, Any]) -> None:
        kept = self._trials.kept(number)
        checkpoint = self._trials.checkpoint(number)
        if kept is not NO_CHECKPOINT and checkpoint is None:
            # What it read at a rung stays, because the search has acted on it.
            self._watcher.note(
                f"trial {number} starts anew: its checkpoint is not in {self._checkpoints.folder(number)}"
            )
            kept = NO_CHECKPOINT
        self._running.begin(number, worker, seconds=float(kept["seconds"]), validations=kept["validations"])
        task = Task(
            trial=number,
            config=config,
            metric=self.study.objective.metric,
            # Each trial its own, so that no configuration wins by a seed that suits all.
            seed=self.settings.seed + number,
            folder=str(self._checkpoints.folder(number)),
            rungs=self.plan.rungs,  # those that its checkpoint lies behind are not asked at again
            checkpoint=str(checkpoint) if checkpoint else None,
            every_value=self._asks_optuna,
            keep=self.settings.store.keep.best > 0,
        )
        self._launcher.train(worker, task)

    @property
    def _asks_optuna(self) -> bool:
        return not isinstance(self.settings.pruner.rule, str)

    # -- what workers report ------------------------------------------------------------------------------------

    def _measured(self, worker: int, number: int, measurement: Measurement, *, waits: bool) -> None:
        job = self._running[number]
        job.validations += 1
        self._ledger.measure(number, measurement.step, job.validations, measurement.value)
        answer = Answer.GO_ON
        if measurement.rung and self._answer_at_rung(number, measurement) is Answer.PAUSE:
            answer, job.pausing = Answer.PAUSE, True
        elif self._asks_optuna and self._ledger.should_prune(number):
            answer = Answer.STOP
            self._running.pruned(job)
        if waits:
            self._launcher.reply(worker, answer)

    def _answer_at_rung(self, number: int, measurement: Measurement) -> Answer:
        """Whether a trial goes straight on: if it were paused, would it be the one to take up?"""
        rung = max(rung for rung in self.plan.rungs if rung <= measurement.epoch + 1e-9)
        self._trials.read(number, rung, measurement.value)
        if rung < self.history[number].target:
            return Answer.GO_ON  # decided when it began, or before it was interrupted
        entry = self.history[number]
        self.history.paused(number)
        closing = self.ending is not None or self._running[number].stopping is not None
        action = self._next(closing=closing)
        if isinstance(action, Resume) and action.number == number:
            self.history.resumed(number, action.until)
            self._ledger.note(number, target=action.until)
            return Answer.GO_ON
        self.history.add(entry)  # it runs until its checkpoint is written
        return Answer.PAUSE

    def _abandon(self, error: TunerError) -> None:
        """Let go of what trains. A missing objective is another configuration's to mend; else the next call goes on."""
        reason = f"the round stopped: {textwrap.shorten(str(error).splitlines()[0], REASON_CHARACTERS)}"
        for number in [job.number for job in self._running]:
            if isinstance(error, ConfigError):
                self._trials.close(number, State.CRASHED, reason=reason)
            else:
                self._trials.interrupted(number, reason=reason)
        self._ledger.flush()

    def _let_go(self) -> None:
        """End the trials that are not taken up any more; a round that is out of time keeps them for a longer one."""
        for number in self.history.numbers(State.PAUSED):
            reason = f"not among the best at epoch {self.history[number].last_epoch}"
            self._trials.close(number, State.PRUNED, paused_at=None, reason=reason)
