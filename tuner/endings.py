"""How a training ended, and what becomes of its trial."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from tuner.config.settings import Settings, StudySettings
from tuner.crashes import Crashes, place_of
from tuner.errors import ConfigError, Problem, did_you_mean
from tuner.running import Job, Running, Why
from tuner.search.history import State
from tuner.training.task import Outcome, Result, Saved
from tuner.trials import Trials

#: Characters of a traceback that are stored with its trial; the end of it names the error.
TRACEBACK_CHARACTERS = 20_000


class TrialEndings:
    """Records what trainings end with, and stops the round when trying on would help nobody.

    That is when the user's code fails whatever the configuration, when workers only die, and when the objective is
    never logged.
    """

    def __init__(
        self,
        settings: Settings,
        study: StudySettings,
        trials: Trials,
        running: Running,
        *,
        crashes: Crashes,
        epochs: int,
        on_best: Callable[[], object],
        note: Callable[[str], None],
    ) -> None:
        """Prepare.

        Args:
            settings: of this call.
            study: that is trained.
            trials: of the round.
            running: those in training.
            crashes: that this call has seen.
            epochs: of a full training.
            on_best: called when a trial trained in full is better than all before it.
            note: told what people should know.
        """
        self._settings, self._study, self._trials, self._running = settings, study, trials, running
        self._crashes, self._epochs, self._on_best, self._note = crashes, epochs, on_best, note
        self._history = trials.history

    def ended(self, job: Job, result: Result) -> None:
        """A training has ended, by itself or because it was told to.

        Raises:
            ConfigError: the module never logs the objective.
            RoundFailed: the user's code fails whatever the configuration.
        """
        number, result = job.number, self._with_value(job.number, result)
        # A trial that fails before it goes on has still had the epochs before its pause.
        epochs = max(round(result.epoch, 3), self._history[number].last_epoch)
        facts = {"epochs": epochs, "seconds": self._seconds(job)}
        if result.outcome is Outcome.PAUSED and job.pausing:
            self._trials.paused(number, Path(str(result.checkpoint)), validations=job.validations, **facts)
        elif result.outcome is Outcome.STOPPED and job.pausing and job.stopping is None:
            self._note(f"trial {number}: {result.reason}")
            self._trials.paused(number, None, validations=job.validations, **facts)
        elif result.outcome is Outcome.PAUSED:  # it was halted, or its machine is wanted for something else
            self.saved(job, Saved(str(result.checkpoint), result.step, result.epoch))
            self._trials.interrupted(number)
        elif result.outcome is Outcome.COMPLETE and result.value is not None:
            self._completed(number, result.value, result.checkpoint, facts)
        elif result.outcome is Outcome.STOPPED:
            self._stopped(job, facts)
        elif result.outcome is Outcome.DIVERGED:
            self._trials.ended(number, State.DIVERGED, reason=result.reason, **facts)
        elif result.outcome is Outcome.OUT_OF_MEMORY:
            self._trials.ended(number, State.INFEASIBLE, reason=result.reason, **facts)
        elif result.outcome is Outcome.CRASHED:
            self._crashed(number, result, facts)

    def lost(self, job: Job, reason: str) -> None:
        """A worker died with its training.

        Raises:
            RoundFailed: so did that of each trial so far.
        """
        if job.stopping is not None:
            self._stopped(job, {"epochs": self._history[job.number].last_epoch, "seconds": self._seconds(job)})
            return
        retries = int(self._trials.attributes(job.number).get("retries", 0))
        if retries < self._settings.launcher.max_retries:
            self._trials.interrupted(job.number, retries=retries + 1, reason=f"worker lost: {reason}")
        else:
            self._trials.ended(job.number, State.LOST, reason=f"{reason}, after {retries} retries")
            logs = self._trials.checkpoints.root
            self._stop_if_hopeless("lost", f"The worker of each trial so far died: {reason}. See the logs in {logs}.")

    def saved(self, job: Job, saved: Saved) -> None:
        """A trial can go on from a new checkpoint, should its worker be lost."""
        self._trials.saved(job.number, saved, validations=job.validations, seconds=self._seconds(job))

    def _seconds(self, job: Job) -> float:
        return round(self._running.seconds(job), 3)

    def _with_value(self, number: int, result: Result) -> Result:
        """A training that ended without a value of its own has the last one of its earlier parts."""
        missing = result.outcome is Outcome.COMPLETE and result.value is None
        if not missing and result.outcome is not Outcome.NO_OBJECTIVE:
            return result
        curve = self._trials.ledger.trial(number).intermediate_values
        if not curve:
            self._trials.close(number, State.CRASHED, reason="the objective was not logged")
            raise ConfigError([self._no_objective(result)])
        return replace(result, outcome=Outcome.COMPLETE, value=curve[max(curve)])

    def _no_objective(self, result: Result) -> Problem:
        metric = self._study.objective.metric
        logged = f"It logs: {', '.join(result.logged)}. " if result.logged else ""
        near = did_you_mean(metric, result.logged) if result.logged else "Log it with self.log(...) in validation_step."
        remedy = f"{logged}{near} If it does log it, no validation ran: see limit_val_batches, check_val_every_n_epoch and the loader's length."
        return Problem("objective.metric", "is a metric that the module logs", metric, remedy)

    def _completed(self, number: int, value: float, checkpoint: str | None, facts: Mapping[str, Any]) -> None:
        self._trials.completed(number, value, Path(checkpoint) if checkpoint else None, **facts)
        if self._history.rank(number, self._epochs) == 0:
            self._trials.ledger.flush()  # before another table names this trial
            self._on_best()

    def _stopped(self, job: Job, facts: Mapping[str, Any]) -> None:
        if job.stopping is Why.PRUNED:
            self._trials.ended(job.number, State.PRUNED, reason="stopped by the pruner", **facts)
        elif job.stopping is Why.TIMED_OUT:
            limit = self._settings.search.trial_timeout_s
            self._trials.ended(job.number, State.TIMED_OUT, reason=f"search.trial_timeout={limit:g} s", **facts)
        else:
            self._trials.interrupted(job.number)  # what it trained since its last checkpoint is trained again

    def _crashed(self, number: int, result: Result, facts: Mapping[str, Any]) -> None:
        traceback = result.traceback[-TRACEBACK_CHARACTERS:]
        self._trials.ended(number, State.CRASHED, reason=result.reason, traceback=traceback, **facts)
        self._stop_if_hopeless(place_of(result.traceback), result.traceback)

    def _stop_if_hopeless(self, place: str, text: str) -> None:
        trained = any(entry.readings or entry.state is State.PRUNED for entry in self._history)
        self._crashes.add(place, text, trained=trained)
