"""Rounds in the database: which one a configuration belongs to, who runs it, its stages and its champion."""

from __future__ import annotations

import datetime as dt
import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from tuner.errors import StoreError
from tuner.store.database import Database
from tuner.store.tables import ChampionRow, DataVersionRow, LeaseRow, RoundRow, StageRow
from tuner.store.waiting import waits


class RoundState(enum.StrEnum):
    OPEN = "open"
    FINISHED = "finished"
    FAILED = "failed"  # the user's code failed whatever the configuration; the next call tries again


@dataclass(frozen=True)
class RoundRecord:
    """A round as the database knows it."""

    id: int
    study: str
    number: int
    name: str  # of its Optuna study
    metric: str
    direction: str
    identity: Mapping[str, Any]
    data_version: str
    state: RoundState
    created: dt.datetime
    seconds_used: float
    budget: Mapping[str, Any]


@dataclass(frozen=True)
class Champion:
    """The configuration that a round recommends; `provisional`: its value is one training's."""

    trial: int
    value: float
    params: Mapping[str, Any]
    overrides: tuple[str, ...]
    provisional: bool


class Rounds:
    """The rounds of one database."""

    def __init__(self, database: Database) -> None:
        self._engine, self._waiting = database.engine, database.waiting

    # -- finding ------------------------------------------------------------------------------------------------

    def of_identity(self, study: str, digest: str) -> RoundRecord | None:
        return self._one(RoundRow.study == study, RoundRow.digest == digest)

    def latest(self, study: str, *, with_champion: bool = False) -> RoundRecord | None:
        """The round with the highest number; with `with_champion`, among those that have one."""
        return self._one(
            RoundRow.study == study, *([RoundRow.id.in_(sa.select(ChampionRow.round_id))] if with_champion else [])
        )

    @waits
    def all(self, study: str | None = None) -> list[RoundRecord]:
        query = sa.select(RoundRow, DataVersionRow.fingerprint).join(
            DataVersionRow, RoundRow.data_version_id == DataVersionRow.id
        )
        if study is not None:
            query = query.where(RoundRow.study == study)
        with Session(self._engine) as session:
            return [
                _record(row, data) for row, data in session.execute(query.order_by(RoundRow.study, RoundRow.number))
            ]

    @waits
    def _one(self, *conditions: sa.ColumnElement[bool]) -> RoundRecord | None:
        query = sa.select(RoundRow, DataVersionRow.fingerprint).join(
            DataVersionRow, RoundRow.data_version_id == DataVersionRow.id
        )
        with Session(self._engine) as session:
            found = session.execute(query.where(*conditions).order_by(RoundRow.number.desc()).limit(1)).first()
            return _record(*found) if found else None

    # -- making and running -------------------------------------------------------------------------------------

    @waits
    def create(
        self,
        study: str,
        *,
        digest: str,
        identity: Mapping[str, Any],
        metric: str,
        direction: str,
        data_version: str,
        now: dt.datetime,
    ) -> RoundRecord:
        """A new round with the next number. Two callers with the same identity get the same round."""
        try:
            with Session(self._engine) as session, session.begin():
                data = session.scalar(
                    sa.select(DataVersionRow).where(
                        DataVersionRow.study == study, DataVersionRow.fingerprint == data_version
                    )
                )
                if data is None:
                    data = DataVersionRow(study=study, fingerprint=data_version, first_seen=now)
                    session.add(data)
                    session.flush()
                number = (
                    session.scalar(sa.select(sa.func.max(RoundRow.number)).where(RoundRow.study == study)) or 0
                ) + 1
                session.add(
                    RoundRow(
                        study=study,
                        number=number,
                        optuna_study=f"{study}-{number}",
                        digest=digest,
                        identity=dict(identity),
                        metric=metric,
                        direction=direction,
                        data_version_id=data.id,
                        state=RoundState.OPEN.value,
                        created=now,
                        seconds_used=0.0,
                        budget={},
                    )
                )
        except sa.exc.IntegrityError:
            pass  # another controller made it, or took the number, between our look and our write
        found = self.of_identity(study, digest)
        return found or self.create(
            study,
            digest=digest,
            identity=identity,
            metric=metric,
            direction=direction,
            data_version=data_version,
            now=now,
        )

    def open(self, record: RoundRecord) -> RoundRecord:
        """Read a round again whose lease has just been taken: the controller before may have changed it until then."""
        self._change(sa.update(RoundRow).where(RoundRow.id == record.id).values(state=RoundState.OPEN.value))
        found = self._one(RoundRow.id == record.id)
        if found is None:
            raise StoreError(f"{record.name} is not in the database any more. Start the same command again.")
        return found

    def spent(self, record: RoundRecord, seconds_used: float) -> None:
        """Keep how long the round has been worked on."""
        self._change(sa.update(RoundRow).where(RoundRow.id == record.id).values(seconds_used=seconds_used))

    def close(self, record: RoundRecord, *, state: RoundState, budget: Mapping[str, Any], seconds_used: float) -> None:
        """Keep what the round has come to, before its lease goes back."""
        update = sa.update(RoundRow).where(RoundRow.id == record.id)
        self._change(update.values(state=state.value, budget=dict(budget), seconds_used=seconds_used))

    def discard(self, record: RoundRecord) -> None:
        """Remove a round in which nothing was trained, if nobody has taken it up since."""
        taken = sa.select(LeaseRow.round_id).where(LeaseRow.round_id == record.id).exists()
        self._change(sa.delete(RoundRow).where(RoundRow.id == record.id, ~taken))

    def _change(self, change: sa.Update | sa.Delete) -> None:
        def changed() -> None:
            with self._engine.begin() as connection:
                connection.execute(change)

        self._waiting.again(changed)

    # -- stages and champions -----------------------------------------------------------------------------------

    @waits
    def stages(self, record: RoundRecord) -> list[dict[str, Any]]:
        with Session(self._engine) as session:
            query = sa.select(StageRow.content).where(StageRow.round_id == record.id).order_by(StageRow.number)
            return list(session.scalars(query))

    def add_stage(self, record: RoundRecord, number: int, content: Mapping[str, Any], now: dt.datetime) -> None:
        def added() -> None:
            with Session(self._engine) as session, session.begin():
                session.add(StageRow(round_id=record.id, number=number, content=dict(content), created=now))

        # The number is taken where an earlier attempt has come through and only its answer was lost.
        self._waiting.again(added, lambda: None if dict(content) in self.stages(record) else added())

    @waits
    def champion(self, record: RoundRecord) -> Champion | None:
        with Session(self._engine) as session:
            row = session.scalar(sa.select(ChampionRow).where(ChampionRow.round_id == record.id))
            return Champion(row.trial, row.value, row.params, tuple(row.overrides), row.provisional) if row else None

    @waits
    def crown(self, record: RoundRecord, champion: Champion, now: dt.datetime) -> None:
        """Record the champion, instead of an earlier one of the same round."""
        with Session(self._engine) as session, session.begin():
            session.execute(sa.delete(ChampionRow).where(ChampionRow.round_id == record.id))
            session.add(
                ChampionRow(
                    round_id=record.id,
                    trial=champion.trial,
                    value=champion.value,
                    params=dict(champion.params),
                    overrides=list(champion.overrides),
                    provisional=champion.provisional,
                    created=now,
                )
            )


def _record(row: RoundRow, data_version: str) -> RoundRecord:
    return RoundRecord(
        row.id,
        row.study,
        row.number,
        row.optuna_study,
        row.metric,
        row.direction,
        row.identity,
        data_version,
        RoundState(row.state),
        row.created,
        row.seconds_used,
        row.budget,
    )
