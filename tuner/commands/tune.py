"""`tuner study=NAME`: find the round that the configuration belongs to, and do what is left of it."""

from __future__ import annotations

import datetime as dt
import time
from typing import Any

import optuna
from optuna.trial import TrialState

from tuner import advice, output
from tuner.checkpoints import Checkpoints
from tuner.chosen import plan_of, pruner_of, sampler_of
from tuner.commands import report
from tuner.commands.batch_fit import batch_fit
from tuner.commands.folders import folder_of_round
from tuner.commands.lr_range import check_search, first_stage
from tuner.commands.signals import Signals
from tuner.commands.values import own_values
from tuner.commands.workers import launcher_of, prepare_workers, seats_of
from tuner.config import Settings, StudySettings
from tuner.config.identity import changes, data_version, digest
from tuner.ctrl_c import INTERRUPTED
from tuner.errors import ConfigError, RoundFailed, StoreError, StudyError
from tuner.progress import Progress
from tuner.recovery import recovered
from tuner.round import Ending, Round
from tuner.search.sampler import CoarseToFineSampler
from tuner.search.stages import Stage, stage_of
from tuner.space import Value
from tuner.store.database import Database
from tuner.store.leases import Held, Leases, Owner
from tuner.store.ledger import Ledger
from tuner.store.rounds import Champion, RoundRecord, Rounds, RoundState

#: Seconds between two notes of how long the round has taken.
NOTE_S = 10.0
#: Trial of the study's own values, where the space has them.
OWN_VALUES = 0


def tune(settings: Settings) -> int:
    """Run or finish the round of this configuration, and print its champion."""
    study, signals = report.needed(settings), Signals()
    check_search(settings, study)
    seats_of(settings, study)  # what cannot be divided is said before anything else
    try:
        return _tuned(settings, study, signals)
    except (StoreError, BrokenPipeError) as error:
        if not signals.count:
            raise
        if isinstance(error, StoreError):
            output.say(str(error))
        raise KeyboardInterrupt from None  # which is why it was not waited for, or who read the output has gone


def _tuned(settings: Settings, study: StudySettings, signals: Signals) -> int:
    with Database(settings.store.url) as database, database.explained():
        rounds, leases, owner = Rounds(database), Leases(database.engine, database.waiting), Owner.this_process()
        record = _round_of(settings, study, rounds)
        if record.state is RoundState.FINISHED and record.budget == budgets(settings):
            return report.finished_before(record, rounds)
        engines = [database.engine, database.storage.engine]
        with signals.noted(database.waiting):
            leases.take(record.id, record.name, owner, force=settings.launcher.takeover)
            session = None
            try:
                with Held(leases, record.id, owner, engines) as held:
                    session = _Session(settings, study, database, rounds, rounds.open(record), held, signals)
                    ending = session.run()
            finally:
                if session is not None and session.is_empty:
                    rounds.discard(record)
            return INTERRUPTED if ending is Ending.INTERRUPTED else report.finished(record, rounds)


def budgets(settings: Settings) -> dict[str, Any]:
    """What ends a round; the same budgets again have nothing left to do."""
    search = settings.search
    return {"budget": search.budget, "trials": search.trials, "timeout": search.timeout_s}


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)


def _round_of(settings: Settings, study: StudySettings, rounds: Rounds) -> RoundRecord:
    identity = digest(settings.identity)
    record = rounds.of_identity(study.name, identity)
    if record is not None:
        return record
    before = rounds.latest(study.name)
    record = rounds.create(
        study.name,
        digest=identity,
        identity=settings.identity,
        metric=study.objective.metric,
        direction=study.objective.direction,
        data_version=data_version(settings.identity),
        now=_now(),
    )
    if before is not None:
        output.say(f"{record.name} is a new round, because since {before.name} this has changed:")
        for change in changes(before.identity, settings.identity):
            output.say(f"  {change}")
    return record


class _Session:
    """One controller's work on one round, while it has the lease.

    Attributes:
        is_empty: whether nothing of the round is left but its row.
    """

    def __init__(
        self,
        settings: Settings,
        study: StudySettings,
        database: Database,
        rounds: Rounds,
        record: RoundRecord,
        held: Held,
        signals: Signals,
    ) -> None:
        self._settings, self._study, self._database = settings, study, database
        self._rounds, self._record, self._held, self._signals = rounds, record, held, signals
        self._noted = -NOTE_S
        self.is_empty = False
        self._state = RoundState.OPEN
        self._crowned: Champion | None = rounds.champion(record)
        self._seconds_used = record.seconds_used
        self._stages = [Stage.from_dict(stage) for stage in rounds.stages(record)]

    def run(self) -> Ending:
        """Do what is left of the round, and keep what it has come to, whatever that is.

        Raises:
            RoundBusy: another controller has taken it over; nothing more is written.
            TunerError: as `Round.run`.
            KeyboardInterrupt: a signal came before the training.
        """
        try:
            ending = self._run()
        except (StudyError, ConfigError):
            self._empty_if_nothing_was_trained()
            raise
        except RoundFailed:
            self._state = RoundState.FAILED
            raise
        finally:
            if not self._held.lost:
                self._rounds.close(
                    self._record, state=self._state, budget=budgets(self._settings), seconds_used=self._seconds_used
                )
        return ending

    def _empty_if_nothing_was_trained(self) -> None:
        """A mistake that only a worker could find leaves no round behind that nobody would ever go on with."""
        if any(trial.intermediate_values or trial.state.is_finished() for trial in self._ledger.trials):
            return  # one that has ended, if only by diverging, is a result
        storage = self._database.storage
        storage.delete_study(storage.get_study_id_from_name(self._record.name))
        self.is_empty = True

    def _run(self) -> Ending:
        """Open the trials, run the round, crown the champion."""
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        settings, study = self._settings, self._study
        self._signals.check()
        prepare_workers(settings)  # thousands of trials take seconds to read
        self._ledger = ledger = Ledger(
            self._database.storage,
            self._record.name,
            metric=study.objective.metric,
            direction=study.objective.direction,
            space=study.space,
            expand=settings.search.expand,
        )
        key = f"{digest(self._record.identity)} {self._record.created.isoformat()}"
        root = folder_of_round(settings.store.folder, self._record.name, key)
        checkpoints = Checkpoints(root)
        history = recovered(ledger, study, checkpoints)
        defaults, missing = _own_values(study)
        self._signals.check()
        # Before the range test, whose batches have to fit as well.
        fit = batch_fit(settings, study, ledger, root, self._tick) if study.fit_batch else None
        if settings.search.lr_range and not self._stages:
            self._record_stage(first_stage(settings, study, self._record.name, defaults, self._tick))
        sampler = sampler_of(settings, study, defaults=defaults, stages=self._stages, on_stage=self._on_stage)
        ledger.use(sampler, pruner_of(settings))
        if not len(ledger):
            if missing:
                output.say(
                    f"Trial 0 is a draw like the others, because the study's own values are not in the space: {missing}"
                )
            else:
                ledger.enqueue(study.space.active(defaults))
        own = None if missing else OWN_VALUES
        plan = plan_of(settings, study, baseline=own)
        with Progress(settings, self._record.name, plan, self.stage_name) as progress:
            self._progress = progress
            round_ = Round(
                settings,
                ledger=ledger,
                history=history,
                plan=plan,
                launcher=launcher_of(settings, study, root, note=progress.note),
                checkpoints=checkpoints,
                stage_of=self.stage_name,
                barrier=self._barrier,
                keep_lease=self._keep_lease,
                on_best=lambda: self._crown(ledger),
                judge=sampler.judge if isinstance(sampler, CoarseToFineSampler) else None,
                batch_fit=fit,
                seconds_used=self._record.seconds_used,
                watcher=progress,
            )

            self._signals.check()
            with self._signals.ending(round_):
                ending = round_.run()
        self._seconds_used = round_.seconds_used
        champion = self._crown(ledger)
        if ending is Ending.INTERRUPTED:
            report.interrupted(self._record, ledger, champion)
        else:
            self._state = RoundState.FINISHED
            report.summary(self._record, ledger, self._stages, round_, study, champion, own)
        return ending

    def _crown(self, ledger: Ledger) -> Champion | None:
        champion = champion_of(ledger, self._study)
        if champion is not None and champion != self._crowned:
            self._rounds.crown(self._record, champion, _now())
            self._crowned = champion
        return champion

    # -- stages -------------------------------------------------------------------------------------------------

    def stage_name(self, draw: int) -> str:
        """Name of the stage that a draw belongs to."""
        return stage_of(draw, self._stages).name if self._stages else self._settings.search.name

    def _barrier(self) -> int | None:
        return self._stages[-1].ends_at if self._settings.search.barrier and self._stages else None

    def _on_stage(self, stage: Stage) -> None:
        self._record_stage(stage)
        self._progress.stage(stage)
        for edge in stage.pressed:
            parameter = self._study.space[edge.parameter]
            self._progress.note(advice.pressed(parameter, edge.side, expanding=self._settings.search.expand))

    def _record_stage(self, stage: Stage) -> None:
        self._stages.append(stage)
        # Values beside coordinates, for whoever reads the database without the space.
        self._ledger.flush()  # what the stage follows from
        content = stage.to_dict() | {"ranges": advice.ranges(self._study.space, stage.box)}
        self._rounds.add_stage(self._record, stage.number, content, _now())

    def _tick(self) -> None:
        self._held.check()
        self._signals.check()

    def _keep_lease(self, seconds_used: float) -> None:
        self._held.check()
        self._seconds_used = seconds_used
        if time.monotonic() - self._noted >= NOTE_S:
            self._rounds.spent(self._record, seconds_used)
            self._noted = time.monotonic()


def champion_of(ledger: Ledger, study: StudySettings) -> Champion | None:
    """The best trial that was trained in full; provisional, because its value is one training's."""
    complete = [
        (trial.value, trial.number)
        for trial in ledger.trials
        if trial.state is TrialState.COMPLETE and trial.value is not None
    ]
    if not complete:
        return None
    value, number = min(complete, key=lambda pair: (study.objective.cost(pair[0]), pair[1]))
    effective = study.space.effective(ledger.values(number))
    return Champion(number, value, effective, tuple(study.nodes.overrides(effective, study.space)), provisional=True)


def _own_values(study: StudySettings) -> tuple[dict[str, Value], str]:
    """The study's own values of its parameters, as they would be drawn, and those that are not in the space."""
    own = own_values(study)
    drawn = study.space.drawn(own)
    missing = []
    for parameter in study.space:
        if not parameter.is_active(drawn):
            drawn.pop(parameter.name, None)
        elif parameter.name not in drawn or not parameter.scale.contains(drawn[parameter.name]):
            missing.append(f"{parameter.path}={own.get(parameter.name, '(none of the choices)')}")
            drawn.pop(parameter.name, None)
    return drawn, ", ".join(missing)
