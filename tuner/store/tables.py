"""tuner's own tables. Every change to them comes with a migration in `migrations/versions`."""

from __future__ import annotations

import datetime as dt
from typing import Any, ClassVar

from sqlalchemy import JSON, DateTime, Dialect, Double, ForeignKey, MetaData, String, TypeDecorator, UniqueConstraint
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

#: Names of constraints are fixed, so that a migration can find them on every database.
NAMING = {
    "ix": "ix_%(column_0_label)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}


class UtcDateTime(TypeDecorator[dt.datetime]):
    """An aware time in UTC; SQLite keeps no zone, so it is put back when read."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: dt.datetime | None, dialect: Dialect) -> dt.datetime | None:  # noqa: ARG002
        return None if value is None else value.astimezone(dt.UTC)

    def process_result_value(self, value: dt.datetime | None, dialect: Dialect) -> dt.datetime | None:  # noqa: ARG002
        if value is None:
            return None
        return value.replace(tzinfo=dt.UTC) if value.tzinfo is None else value.astimezone(dt.UTC)


class Base(DeclarativeBase):
    metadata = MetaData(naming_convention=NAMING)
    type_annotation_map: ClassVar[dict[Any, Any]] = {
        dict[str, Any]: JSON,
        list[Any]: JSON,
        dt.datetime: UtcDateTime,
        float: Double,
        str: String(512),
    }


class DataVersionRow(Base):
    """One state of a study's data."""

    __tablename__ = "tuner_data_versions"
    __table_args__ = (UniqueConstraint("study", "fingerprint"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    study: Mapped[str]
    fingerprint: Mapped[str]
    first_seen: Mapped[dt.datetime]


class RoundRow(Base):
    """One tuning of a study on one data version.

    `digest` is the hash of `identity`: calling again with the same identity goes on with the same round.
    """

    __tablename__ = "tuner_rounds"
    __table_args__ = (UniqueConstraint("study", "number"), UniqueConstraint("study", "digest"))

    id: Mapped[int] = mapped_column(primary_key=True)
    study: Mapped[str]
    number: Mapped[int]
    optuna_study: Mapped[str] = mapped_column(unique=True)
    digest: Mapped[str]
    identity: Mapped[dict[str, Any]]
    metric: Mapped[str]
    direction: Mapped[str]
    data_version_id: Mapped[int] = mapped_column(ForeignKey("tuner_data_versions.id"))
    state: Mapped[str]  # see RoundState
    created: Mapped[dt.datetime]
    seconds_used: Mapped[float] = mapped_column(default=0.0)
    budget: Mapped[dict[str, Any]]  # what the round had when it was last finished


class LeaseRow(Base):
    """Who runs a round. The key is the round, so that the database itself lets in one controller at a time."""

    __tablename__ = "tuner_leases"

    round_id: Mapped[int] = mapped_column(ForeignKey("tuner_rounds.id", ondelete="CASCADE"), primary_key=True)
    token: Mapped[str]  # of one call of one controller
    host: Mapped[str]
    pid: Mapped[int]
    process: Mapped[str]  # tells a process of this machine from a later one with the same pid; see leases.py
    since: Mapped[dt.datetime]
    expires: Mapped[dt.datetime]


class StageRow(Base):
    """A part of a round with its box, its elites and the reason for it."""

    __tablename__ = "tuner_stages"
    __table_args__ = (UniqueConstraint("round_id", "number"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    round_id: Mapped[int] = mapped_column(ForeignKey("tuner_rounds.id", ondelete="CASCADE"))
    number: Mapped[int]
    content: Mapped[dict[str, Any]]
    created: Mapped[dt.datetime]


class ChampionRow(Base):
    """The configuration that a round recommends, with its evidence."""

    __tablename__ = "tuner_champions"
    __table_args__ = (UniqueConstraint("round_id"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    round_id: Mapped[int] = mapped_column(ForeignKey("tuner_rounds.id", ondelete="CASCADE"))
    trial: Mapped[int]
    value: Mapped[float]
    params: Mapped[dict[str, Any]]
    overrides: Mapped[list[Any]]
    provisional: Mapped[bool]
    created: Mapped[dt.datetime]
