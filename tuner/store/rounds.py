"""Rounds in the database: which one a configuration belongs to, who runs it, its stages and its champion."""

from __future__ import annotations

import datetime as dt
import enum
import os
import socket
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from tuner.errors import RoundBusy
from tuner.store.database import Database
from tuner.store.tables import ChampionRow, DataVersionRow, RoundRow, StageRow

#: Seconds after which a lease that nobody renews is free.
LEASE_S = 60.0
#: Seconds between two renewals.
RENEW_S = 10.0


class RoundState(enum.StrEnum):
    OPEN = "open"
    FINISHED = "finished"


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
    owner: str | None
    lease_expires: dt.datetime | None


@dataclass(frozen=True)
class Champion:
    """The configuration that a round recommends; `provisional`: its value is one training's."""

    trial: int
    value: float
    params: Mapping[str, Any]
    overrides: tuple[str, ...]
    provisional: bool


@dataclass(frozen=True)
class Owner:
    """The controller that holds a lease."""

    host: str
    pid: int
    token: str

    @classmethod
    def this_process(cls) -> Owner:
        return cls(socket.gethostname(), os.getpid(), uuid.uuid4().hex[:12])

    @classmethod
    def parse(cls, text: str) -> Owner:
        host, pid, token = text.rsplit(":", 2)
        return cls(host, int(pid), token)

    def __str__(self) -> str:
        return f"{self.host}:{self.pid}:{self.token}"

    def is_dead(self) -> bool:
        """Whether the owner is known to be gone: only a process of this host can be looked up."""
        if self.host != socket.gethostname():
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            return False
        return False


class Rounds:
    """The rounds of one database."""

    def __init__(self, database: Database) -> None:
        self._engine = database.engine

    # -- finding ------------------------------------------------------------------------------------------------

    def of_identity(self, study: str, digest: str) -> RoundRecord | None:
        return self._one(RoundRow.study == study, RoundRow.digest == digest)

    def latest(self, study: str, *, with_champion: bool = False) -> RoundRecord | None:
        """The round with the highest number; with `with_champion`, among those that have one."""
        return self._one(
            RoundRow.study == study, *([RoundRow.id.in_(sa.select(ChampionRow.round_id))] if with_champion else [])
        )

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

    def _one(self, *conditions: sa.ColumnElement[bool]) -> RoundRecord | None:
        query = sa.select(RoundRow, DataVersionRow.fingerprint).join(
            DataVersionRow, RoundRow.data_version_id == DataVersionRow.id
        )
        with Session(self._engine) as session:
            found = session.execute(query.where(*conditions).order_by(RoundRow.number.desc()).limit(1)).first()
            return _record(*found) if found else None

    # -- making and running -------------------------------------------------------------------------------------

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

    def lease(self, record: RoundRecord, owner: Owner, now: dt.datetime) -> RoundRecord:
        """Take the round for one controller, and read it again: the one before may have changed it until just now.

        Raises:
            RoundBusy: another controller runs it.
        """
        holder = Owner.parse(record.owner) if record.owner else None
        free = sa.or_(RoundRow.lease_owner.is_(None), RoundRow.lease_expires < now)
        if holder is not None and holder.is_dead():
            free = sa.or_(free, RoundRow.lease_owner == str(holder))
        update = sa.update(RoundRow).where(RoundRow.id == record.id, free)
        expires = now + dt.timedelta(seconds=LEASE_S)
        taken = self._change(update.values(lease_owner=str(owner), lease_expires=expires, state=RoundState.OPEN.value))
        found = self._one(RoundRow.id == record.id)
        if taken and found is not None:
            return found
        who = Owner.parse(found.owner) if found and found.owner else None
        place = f"process {who.pid} on {who.host}" if who else "another process"
        raise RoundBusy(
            f"{record.name} is being run by {place}. Wait for it, or end that process; a lease that nobody renews is free after {LEASE_S:.0f} s."
        )

    def renew(self, record: RoundRecord, owner: Owner, now: dt.datetime, *, seconds_used: float) -> None:
        """Keep the lease.

        Raises:
            RoundBusy: it has been lost to another controller; this one must not write any more.
        """
        update = sa.update(RoundRow).where(RoundRow.id == record.id, RoundRow.lease_owner == str(owner))
        if not self._change(
            update.values(lease_expires=now + dt.timedelta(seconds=LEASE_S), seconds_used=seconds_used)
        ):
            raise RoundBusy(f"{record.name}: this process has lost its lease to another one, and stops.")

    def release(
        self, record: RoundRecord, owner: Owner, *, state: RoundState, budget: Mapping[str, Any], seconds_used: float
    ) -> None:
        """Give the lease back, with what the round has come to."""
        update = sa.update(RoundRow).where(RoundRow.id == record.id, RoundRow.lease_owner == str(owner))
        self._change(
            update.values(
                lease_owner=None, lease_expires=None, state=state.value, budget=dict(budget), seconds_used=seconds_used
            )
        )

    def _change(self, update: sa.Update) -> bool:
        with self._engine.begin() as connection:
            return connection.execute(update).rowcount == 1

    # -- stages and champions -----------------------------------------------------------------------------------

    def stages(self, record: RoundRecord) -> list[dict[str, Any]]:
        with Session(self._engine) as session:
            query = sa.select(StageRow.content).where(StageRow.round_id == record.id).order_by(StageRow.number)
            return list(session.scalars(query))

    def add_stage(self, record: RoundRecord, number: int, content: Mapping[str, Any], now: dt.datetime) -> None:
        with Session(self._engine) as session, session.begin():
            session.add(StageRow(round_id=record.id, number=number, content=dict(content), created=now))

    def champion(self, record: RoundRecord) -> Champion | None:
        with Session(self._engine) as session:
            row = session.scalar(sa.select(ChampionRow).where(ChampionRow.round_id == record.id))
            return Champion(row.trial, row.value, row.params, tuple(row.overrides), row.provisional) if row else None

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
        row.lease_owner,
        row.lease_expires,
    )
