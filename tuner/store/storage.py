"""Optuna's storage as tuner uses it: each call waits for a database that is away, and is applied once.

| call | why it may be repeated |
| --- | --- |
| what reads | it changes nothing |
| attributes, values of a curve | the same value again takes its own place |
| a parameter | a second one of the same name is refused by a constraint, which Optuna ignores |
| a trial's end | a trial that has already ended in just this way is what was asked for |
| a new trial | it is looked up by the id that the first attempt was given, under the lock that numbers trials |
| a study's removal | one that is gone is what was asked for |
| a new study | the second attempt raises DuplicatedStudyError, as for any study of that name that is there |
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import RDBStorage
from optuna.storages._rdb import models
from optuna.storages._rdb.storage import _create_scoped_session
from optuna.trial import FrozenTrial, TrialState, create_trial

from tuner.store.waiting import Waiting

#: Calls that do no harm when they are applied twice.
REPEATABLE = (
    "create_new_study",
    "get_all_studies",
    "get_all_trials",
    "get_best_trial",
    "get_study_directions",
    "get_study_id_from_name",
    "get_study_name_from_id",
    "get_study_system_attrs",
    "get_study_user_attrs",
    "get_trial",
    "get_trial_id_from_study_id_trial_number",
    "get_trial_param",
    "get_trial_system_attrs",
    "get_trial_user_attrs",
    "set_study_system_attr",
    "set_study_user_attr",
    "set_trial_intermediate_value",
    "set_trial_param",
    "set_trial_system_attr",
    "set_trial_user_attr",
    "_get_trials",
    "_set_trial_param",
)


class Storage(RDBStorage):
    """Waits by the clock of its database; otherwise Optuna's own."""

    def __init__(self, url: str, options: Mapping[str, Any], waiting: Waiting, *, create: bool) -> None:
        """Open Optuna's tables.

        Args:
            url: as SQLAlchemy wants it.
            options: of `sqlalchemy.create_engine`.
            waiting: of the database.
            create: whether to make the tables where they are not there.

        Raises:
            RuntimeError: the tables are those of another version of Optuna.
        """
        self.waiting = waiting
        try:
            super().__init__(url, dict(options), skip_table_creation=not create)
        except BaseException:
            if hasattr(self, "engine"):
                self.engine.dispose()
            raise

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        set_ = super().set_trial_state_values

        def repeated() -> bool:
            try:
                return set_(trial_id, state, values)
            except UpdateFinishedTrialError:
                trial = self.get_trial(trial_id)
                if trial.state is state and (values is None or trial.values == list(values)):
                    return True  # by an attempt whose connection broke before it could say so
                raise

        return self.waiting.again(lambda: set_(trial_id, state, values), repeated)

    def delete_study(self, study_id: int) -> None:
        delete = super().delete_study

        def repeated() -> None:
            with contextlib.suppress(KeyError):
                delete(study_id)

        self.waiting.again(lambda: delete(study_id), repeated)

    def _create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> FrozenTrial:
        # Instead of Optuna's, which after any error tries five times, and makes a second trial where the first was
        # made and only the answer was lost.
        template = template_trial or create_trial(state=TrialState.RUNNING)
        given: list[int] = []  # ids that attempts were given; each is one that may be there

        def add() -> FrozenTrial:
            with _create_scoped_session(self.scoped_session) as session:
                # Trials are numbered by counting, one transaction after the other. This waits for one of ours that the
                # server has not ended yet.
                models.StudyModel.find_or_raise_by_id(study_id, session, for_update=True)
                there = _made(session, study_id, given, template) if given else None
                trial: Any = there or self._get_prepared_new_trial(study_id, template, session)
                given.append(trial.trial_id)
                return _frozen(trial, template)

        return self.waiting.again(add)


def _made(session: Any, study_id: int, given: Sequence[int], template: FrozenTrial) -> Any:
    """The trial that an earlier attempt has made after all; None for none."""
    columns = models.TrialModel.__table__.c
    query = sa.select(models.TrialModel).where(
        columns.study_id == study_id,
        columns.trial_id.in_(given),
        # An id that was rolled back can be somebody else's now.
        columns.datetime_start == template.datetime_start,
    )
    return session.scalars(query).first()


def _frozen(trial: Any, template: FrozenTrial) -> FrozenTrial:
    frozen = copy.deepcopy(template)
    frozen.number, frozen.datetime_start, frozen._trial_id = trial.number, trial.datetime_start, trial.trial_id  # noqa: SLF001 - as Optuna's own
    return frozen


def _waits(name: str) -> Callable[..., Any]:
    def call(self: Storage, *args: Any, **kwargs: Any) -> Any:
        # Looked up at each call, as `super().name` would be.
        method = getattr(super(Storage, self), name)
        return self.waiting.again(lambda: method(*args, **kwargs))

    call.__name__ = name
    return call


for _name in REPEATABLE:
    setattr(Storage, _name, _waits(_name))


def waiting_of(storage: RDBStorage) -> Waiting:
    """The clock of a storage; one that is Optuna's own does not wait."""
    return storage.waiting if isinstance(storage, Storage) else Waiting("of Optuna")
