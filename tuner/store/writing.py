"""What the database does not have yet: values and attributes of trials are written together, many in one transaction.

Optuna's own way is a transaction for each of them, 2 ms; a worker that waits for an answer would wait for it too, and
a round of small models writes hundreds of values a second.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from optuna.storages import RDBStorage
from optuna.storages._rdb import models
from optuna.trial import TrialState
from sqlalchemy.dialects import postgresql, sqlite

from tuner.store.storage import waiting_of

#: Values of a curve wait so long for others; what a search has decided is written at once.
VALUES_WAIT_S = 0.5

_CURVE, _USER, _SYSTEM = (
    model.__table__
    for model in (
        models.TrialIntermediateValueModel,
        models.TrialUserAttributeModel,
        models.TrialSystemAttributeModel,
    )
)
#: "Insert, or replace what is there", where a database has it.
_INSERTS: Mapping[str, Callable[[Any], Any]] = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}


class Writes:
    """Changes of trials that wait to be written, in an order that a controller's death may cut anywhere.

    All values and attributes go in together or not at all, and ends of trials after them: a trial that has ended in
    the database has all that it was given before. Each takes the place of its like, so that a transaction whose
    connection broke while it was committed can be repeated.
    """

    def __init__(self, storage: RDBStorage, clock: Callable[[], float] = time.monotonic) -> None:
        self._storage, self._waiting, self._clock = storage, waiting_of(storage), clock
        self._values: dict[tuple[int, int], float] = {}
        self._attributes: dict[tuple[bool, int, str], Any] = {}
        self._ends: list[tuple[int, TrialState, Sequence[float] | None]] = []
        self._written = clock()

    def value(self, trial_id: int, step: int, value: float) -> None:
        """One value of a trial's curve; it replaces one of the same step."""
        self._values[trial_id, step] = value

    def attribute(self, trial_id: int, key: str, value: Any, *, system: bool = False) -> None:
        """One attribute of a trial; it replaces the one before."""
        self._attributes[system, trial_id, key] = value

    def end(self, trial_id: int, state: TrialState, values: Sequence[float] | None) -> None:
        """The end of a trial; nothing about it may follow."""
        self._ends.append((trial_id, state, values))

    def flush(self, *, values: bool = True) -> None:
        """Write what waits; without `values`, values alone may wait a little longer for others."""
        urgent = values or self._attributes or self._ends
        if not urgent and (not self._values or self._clock() - self._written < VALUES_WAIT_S):
            return
        # Forgotten when they are written, so that a flush that failed can be repeated.
        if self._values or self._attributes:
            self._waiting.again(self._write)
            self._values.clear()
            self._attributes.clear()
        while self._ends:
            self._storage.set_trial_state_values(*self._ends[0])
            del self._ends[0]
        self._written = self._clock()

    def _write(self) -> None:
        insert = _INSERTS.get(self._storage.engine.dialect.name)
        if insert is None:
            self._write_one_by_one()
            return
        with self._storage.engine.begin() as connection:
            for table, key, rows in (
                (_CURVE, "step", self._value_rows()),
                (_USER, "key", self._attribute_rows(system=False)),
                (_SYSTEM, "key", self._attribute_rows(system=True)),
            ):
                if rows:
                    connection.execute(_upsert(insert(table), key, rows[0]), rows)

    def _write_one_by_one(self) -> None:
        for (trial_id, step), value in self._values.items():
            self._storage.set_trial_intermediate_value(trial_id, step, value)
        for (system, trial_id, key), value in self._attributes.items():
            write = self._storage.set_trial_system_attr if system else self._storage.set_trial_user_attr
            write(trial_id, key, value)

    def _value_rows(self) -> list[dict[str, Any]]:
        represented = models.TrialIntermediateValueModel.intermediate_value_to_stored_repr
        rows = []
        for (trial_id, step), value in self._values.items():
            stored, kind = represented(value)
            rows.append(
                {
                    "trial_id": trial_id,
                    "step": step,
                    "intermediate_value": stored,
                    "intermediate_value_type": kind,
                }
            )
        return rows

    def _attribute_rows(self, *, system: bool) -> list[dict[str, Any]]:
        return [
            {"trial_id": trial_id, "key": key, "value_json": json.dumps(value)}
            for (of_system, trial_id, key), value in self._attributes.items()
            if of_system is system
        ]


def _upsert(insert: Any, key: str, columns: Iterable[str]) -> sa.Insert:
    unique = ["trial_id", key]
    changed = {column: insert.excluded[column] for column in columns if column not in unique}
    statement: sa.Insert = insert.on_conflict_do_update(index_elements=unique, set_=changed)
    return statement
