"""One controller for each round: who has it, since when, until when, and how another one takes over.

A lease is a row whose key is the round, so it is the database that lets in one controller at a time. It ends with its
owner, or when nobody has renewed it for `LEASE_S` seconds. Whoever has lost it must not write any more: `Fence` looks
at the lease inside of each transaction, just before it is committed.

Times are those of the database where it is a server, so that the clocks of machines need not agree.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from tuner.errors import RoundBusy
from tuner.store.tables import LeaseRow, UtcDateTime
from tuner.store.waiting import Waiting

#: Seconds after which a lease that nobody renews is free.
LEASE_S = 60.0
#: Seconds between two renewals.
RENEW_S = 10.0
LOST = "This process has lost its lease of the round to another one, and stops."


@dataclass(frozen=True)
class Owner:
    """A controller: the process, and the call of the round that it is for.

    Attributes:
        host: its name, for people.
        pid: of the process.
        process: what tells it from every other process, of other machines and containers too.
        token: of this call.
    """

    host: str
    pid: int
    process: str
    token: str

    @classmethod
    def this_process(cls) -> Owner:
        return cls(socket.gethostname(), os.getpid(), _process(os.getpid()), uuid.uuid4().hex)

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"

    def is_dead(self) -> bool:
        """Whether the process is known to be gone: only one of this machine (or container) can be looked up."""
        machine, _, _ = self.process.rpartition("/")
        if not machine or machine != _machine():
            return False
        return _process(self.pid) != self.process


@dataclass(frozen=True)
class Lease:
    """Who runs a round, as the database has it."""

    owner: Owner
    since: dt.datetime
    expires: dt.datetime
    now: dt.datetime  # by the same clock

    @property
    def is_over(self) -> bool:
        return self.expires < self.now or self.owner.is_dead()

    def __str__(self) -> str:
        return f"{self.owner} since {self.since.astimezone().strftime('%Y-%m-%d %H:%M:%S')}"


class Leases:
    """The leases of one database."""

    def __init__(self, engine: Engine, waiting: Waiting) -> None:
        self._engine, self._waiting = engine, waiting

    def of(self, round_id: int) -> Lease | None:
        with self._engine.connect() as connection:
            return _found(connection, round_id)

    def take(self, round_id: int, name: str, owner: Owner, *, force: bool = False) -> None:
        """Take a round for one controller.

        Args:
            round_id: of the round.
            name: of the round, for people.
            owner: who takes it.
            force: take it from whoever has it; a controller that still lives notices, and stops without writing.

        Raises:
            RoundBusy: another controller has it.
        """
        if not self._waiting.again(lambda: self._taken(round_id, owner, force=force)):
            who = self.of(round_id) or "another process"
            raise RoundBusy(
                f"{name} is being run by {who}. Wait for it, end that process, or write launcher.takeover=true to take"
                f" it over. A lease that nobody renews is free after {LEASE_S:.0f} s."
            )

    def _taken(self, round_id: int, owner: Owner, *, force: bool) -> bool:
        with contextlib.suppress(sa.exc.IntegrityError), self._engine.begin() as connection:
            lease = _found(connection, round_id)
            if lease is not None and lease.owner == owner:
                return True  # by an attempt whose answer was lost
            if lease is not None and (force or lease.is_over):
                # By its token: somebody else may have taken it over since it was read.
                gone = sa.delete(LeaseRow).where(LeaseRow.round_id == round_id, LeaseRow.token == lease.owner.token)
                connection.execute(gone)
            now = _now(connection)
            connection.execute(
                sa.insert(LeaseRow).values(
                    round_id=round_id,
                    token=owner.token,
                    host=owner.host,
                    pid=owner.pid,
                    process=owner.process,
                    since=now,
                    expires=now + dt.timedelta(seconds=LEASE_S),
                )
            )
            return True
        return False

    def renew(self, round_id: int, owner: Owner) -> bool:
        """Whether the lease is still the owner's; it then holds for `LEASE_S` more seconds."""
        with self._engine.begin() as connection:
            expires = _now(connection) + dt.timedelta(seconds=LEASE_S)
            mine = sa.update(LeaseRow).where(LeaseRow.round_id == round_id, LeaseRow.token == owner.token)
            return connection.execute(mine.values(expires=expires)).rowcount == 1

    def release(self, round_id: int, owner: Owner) -> None:
        """Give it back; nothing happens where it is another's by now."""
        mine = sa.delete(LeaseRow).where(LeaseRow.round_id == round_id, LeaseRow.token == owner.token)
        self._waiting.again(lambda: self._execute(mine))

    def _execute(self, statement: sa.Delete) -> None:
        with self._engine.begin() as connection:
            connection.execute(statement)


class Held:
    """A lease in one controller's hands: renewed by a thread, and looked at before anything is committed.

    Attributes:
        lost: whether it is another controller's by now.
    """

    def __init__(
        self,
        leases: Leases,
        round_id: int,
        owner: Owner,
        engines: Sequence[Engine],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare; the lease has just been taken.

        Args:
            leases: of the database.
            round_id: of the round.
            owner: who holds it.
            engines: through which this process writes.
            clock: seconds, monotonic.
        """
        self.lost = False
        self._leases, self._round_id, self._owner, self._engines = leases, round_id, owner, engines
        self._clock, self._renewed = clock, clock()
        self._leave = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="tuner-lease", daemon=True)

    def __enter__(self) -> Self:
        for engine in self._engines:
            sa.event.listen(engine, "commit", self._refuse_if_lost)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._leave.set()
        self._thread.join()
        for engine in self._engines:
            sa.event.remove(engine, "commit", self._refuse_if_lost)
        if not self.lost:
            self._leases.release(self._round_id, self._owner)

    def check(self) -> None:
        """Raise where the lease is lost. A process that has slept for long asks before it goes on.

        Raises:
            RoundBusy: it is another controller's by now.
        """
        if self._clock() - self._renewed > LEASE_S / 2:
            self._renew()
        if self.lost:
            raise RoundBusy(LOST)

    def _keep(self) -> None:
        while not self._leave.wait(RENEW_S):
            # A database that is away is waited for by the thread that writes; here the next turn tries again.
            with contextlib.suppress(Exception):
                self._renew()

    def _renew(self) -> None:
        at = self._clock()
        self.lost = self.lost or not self._leases.renew(self._round_id, self._owner)
        self._renewed = at

    def _refuse_if_lost(self, connection: Connection) -> None:
        """In the transaction itself: a process may have been stopped for hours between any two of its instructions."""
        mine = sa.select(LeaseRow.token).where(LeaseRow.round_id == self._round_id, LeaseRow.token == self._owner.token)
        # On a server the row stays as it is until the transaction has ended; SQLite has one writer anyway.
        self.lost = self.lost or connection.execute(mine.with_for_update(read=True)).scalar() is None
        if self.lost:
            raise RoundBusy(LOST)


def _found(connection: Connection, round_id: int) -> Lease | None:
    row = connection.execute(sa.select(LeaseRow.__table__).where(LeaseRow.round_id == round_id)).mappings().first()
    if row is None:
        return None
    owner = Owner(row["host"], row["pid"], row["process"], row["token"])
    return Lease(owner, row["since"], row["expires"], _now(connection))


def _now(connection: Connection) -> dt.datetime:
    if connection.dialect.name == "sqlite":
        return dt.datetime.now(dt.UTC)
    found: dt.datetime = connection.execute(
        sa.select(sa.type_coerce(sa.func.clock_timestamp(), UtcDateTime()))
    ).scalar_one()
    return found


def _machine() -> str:
    """This boot of this machine, and the container in it; empty where the system does not tell."""
    with contextlib.suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{Path('/proc/self/ns/pid').stat().st_ino}"
    return ""


def _process(pid: int) -> str:
    """The machine and when the process was started, so that a later one with its number is not taken for it."""
    with contextlib.suppress(OSError, IndexError):
        # The name, in brackets, may hold anything.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        if fields[0] != "Z":
            return f"{_machine()}/{fields[19]}"
    return ""
