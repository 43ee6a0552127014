"""Opening the database: engine, SQLite's settings, connections, the schema of Optuna and of tuner."""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import filelock
import sqlalchemy as sa
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from sqlalchemy.engine import URL, Engine
from sqlalchemy.exc import NoSuchModuleError, SQLAlchemyError

from tuner.errors import StoreError
from tuner.store.address import Address
from tuner.store.storage import Storage
from tuner.store.tables import Base
from tuner.store.waiting import RETRY_S, Waiting

#: The newest revision in migrations/versions; a test compares it with what Alembic finds there.
SCHEMA = "0002"
VERSION_TABLE = "tuner_alembic_version"
MIGRATIONS = Path(__file__).with_name("migrations")
#: Number of the advisory lock under which the schema is made on PostgreSQL; any constant of ours.
SCHEMA_LOCK = 0x74756E6572
#: Seconds that a writer waits for another one's lock on SQLite.
BUSY_S = 60
#: Of connections to PostgreSQL, where the URL does not say otherwise: a server that is gone without a word is noticed
#: within a minute or two, not after the two hours of the operating system.
LIBPQ = {
    "application_name": "tuner",
    "connect_timeout": 10,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 60_000,  # ms
    # A controller that was stopped in the middle of a transaction does not keep its locks from who takes over.
    "options": "-c idle_in_transaction_session_timeout=30s",
}


class Database:
    """One study database, opened; its schema is up to date.

    Once it has been open, everything that fails because the database is away is repeated until it is back, for up to
    `RETRY_S` seconds (see `tuner.store.waiting`).

    Attributes:
        engine: of tuner's own tables; its connections wait. A transaction on it is repeated by `waiting.again`.
        waiting: the clock of that.
    """

    def __init__(self, url: str, *, retry_s: float = RETRY_S) -> None:
        """Open, and make or migrate the schema where needed; a server that is not there is told at once.

        Args:
            url: as `store.url`.
            retry_s: seconds that a database which goes away later is waited for.

        Raises:
            StoreError: the URL, the server or the schema cannot be used.
        """
        self._address = Address.of(url)
        self.url = self._address.without_password
        self.waiting = Waiting(str(self), self._address.cause, retry_s=retry_s)
        with self._opening():
            if self._is_sqlite:
                Path(self.url.database or "").absolute().parent.mkdir(parents=True, exist_ok=True)
            self._options = _engine_options(self._address.url, self.waiting)
            self.engine = sa.create_engine(self.url, **self._options)
            with _closed_on_failure(self.engine):
                if not _is_current(self.engine):
                    self._make_schema()
        self.waiting.worked = True
        self._storage: Storage | None = None

    @staticmethod
    def is_there(url: str) -> bool:
        """Whether there is anything to open; a server is taken to be there until it is asked."""
        parsed = Address.of(url).url
        return parsed.get_backend_name() != "sqlite" or Path(parsed.database or "").is_file()

    def close(self) -> None:
        """Give the connections back."""
        if self._storage is not None:
            self._storage.remove_session()
            self._storage.engine.dispose()
        self.engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def storage(self) -> RDBStorage:
        """Optuna's storage on the same database, which waits likewise."""
        if self._storage is None:
            with self._opening():
                self._storage = self.waiting.again(lambda: self._optuna(create=False))
        return self._storage

    @contextlib.contextmanager
    def explained(self) -> Iterator[None]:
        """What goes wrong with the database inside, said in one sentence instead of a driver's traceback.

        Raises:
            StoreError: the database cannot be reached, read or written any more.
        """
        try:
            yield
        except (SQLAlchemyError, StorageInternalError) as error:
            raise StoreError(self._sentence(error)) from None

    def __str__(self) -> str:
        return str(self._address)

    @property
    def _is_sqlite(self) -> bool:
        return self.url.get_backend_name() == "sqlite"

    def _sentence(self, error: BaseException) -> str:
        waited_s = self.waiting.waited_s
        waited = f" It has been away for {waited_s:.0f} s; the same command goes on from here." if waited_s >= 1 else ""
        return self._address.sentence(error) + waited

    @contextlib.contextmanager
    def _opening(self) -> Iterator[None]:
        """What can go wrong on the way to an open database, in one sentence."""
        try:
            yield
        except NoSuchModuleError:
            raise StoreError(
                f"store.url={self}: there is no driver for {self.url.drivername}. Write sqlite:///FILE or postgresql://…."
            ) from None
        except ImportError as error:
            raise StoreError(
                f"store.url={self}: its driver is not installed ({error.name}). For PostgreSQL: pip install 'tuner[postgres]'."
            ) from None
        except filelock.Timeout:
            raise StoreError(
                f"store.url={self}: another process has been making the schema for {BUSY_S} s. End it, or try again."
            ) from None
        except (SQLAlchemyError, StorageInternalError, OSError) as error:
            raise StoreError(self._sentence(error)) from None

    def _optuna(self, *, create: bool) -> Storage:
        # Optuna formats the URL; a brace in a file's name is not meant so.
        url = self.url.render_as_string(hide_password=False).replace("{", "{{").replace("}", "}}")
        try:
            # Optuna checks its schema's version in every constructor; once at the making is enough.
            return Storage(url, self._options, self.waiting, create=create)
        except RuntimeError as error:  # the only thing that it raises so is a version that does not fit
            raise StoreError(f"store.url={self}: {self._address.hidden(str(error))}") from None

    def _make_schema(self) -> None:
        # Alembic takes 0.3 s to import, and is needed once in a database's life.
        from alembic import command  # noqa: PLC0415
        from alembic.config import Config  # noqa: PLC0415

        logging.getLogger("alembic").setLevel(logging.WARNING)
        with self._alone():
            if _is_current(self.engine):
                return  # another process has just made it
            storage = self._optuna(create=True)
            storage.remove_session()
            storage.engine.dispose()
            config = Config()
            config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
            with self.engine.begin() as connection:
                if self._is_sqlite:
                    # The driver begins no transaction for CREATE TABLE; half a schema could not be mended later.
                    connection.exec_driver_sql("BEGIN IMMEDIATE")
                config.attributes["connection"] = connection
                command.upgrade(config, "head")

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Only one process makes the schema: two that create it at once fail."""
        if self._is_sqlite:
            with filelock.FileLock(f"{Path(self.url.database or '').absolute()}.lock", timeout=BUSY_S):
                yield
        elif self.url.get_backend_name() == "postgresql":
            # The lock belongs to the connection; a transaction that lies open for long would be ended by the server.
            with self.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                connection.execute(sa.select(sa.func.pg_advisory_lock(SCHEMA_LOCK)))
                try:
                    yield
                finally:
                    connection.execute(sa.select(sa.func.pg_advisory_unlock(SCHEMA_LOCK)))
        else:
            yield


def _engine_options(url: URL, waiting: Waiting) -> dict[str, Any]:
    """Arguments of `sqlalchemy.create_engine`, beside a URL that need not know the password."""
    options: dict[str, Any] = {"creator": _connector(url, waiting)}
    if url.get_backend_name() == "sqlite":
        return options | {"pool_events": [(_set_pragmas, "connect")]}
    return options | {"pool_pre_ping": True}


def _connector(url: URL, waiting: Waiting) -> Callable[[], Any]:
    """What makes a connection, and waits while the database is away."""
    kind = url.get_dialect()
    dialect = kind(dbapi=kind.import_dbapi())  # type: ignore[call-arg]
    known: dict[str, dict[str, Any]] = {"sqlite": {"timeout": BUSY_S}, "postgresql": LIBPQ}
    defaults = known.get(url.get_backend_name(), {})
    words, named = dialect.create_connect_args(url)
    return lambda: waiting.again(lambda: dialect.connect(*words, **{**defaults, **named}))


@contextlib.contextmanager
def _closed_on_failure(engine: Engine) -> Iterator[None]:
    try:
        yield
    except BaseException:
        engine.dispose()
        raise


def _set_pragmas(connection: Any, _record: object) -> None:
    cursor = connection.cursor()
    # Readers (the dashboard) never block the writer; a power cut may lose the last commits, never the file.
    _turn_on_wal(cursor)
    cursor.execute("PRAGMA synchronous=NORMAL")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()


def _turn_on_wal(cursor: Any) -> None:
    # Where several processes do so at once, SQLite has some of them fail without waiting, as it does for its other locks.
    until = time.monotonic() + BUSY_S
    while True:
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() >= until:
                raise
            time.sleep(0.02)
        else:
            return


def _is_current(engine: Engine) -> bool:
    with engine.connect() as connection:
        if not sa.inspect(connection).has_table(VERSION_TABLE):
            return False
        version = connection.execute(sa.text(f"SELECT version_num FROM {VERSION_TABLE}")).scalar()  # noqa: S608
    if version is not None and version > SCHEMA:
        raise StoreError(
            f"The database was made by a newer tuner (schema {version}, this one knows {SCHEMA}). Upgrade tuner, or name another store.url."
        )
    return version == SCHEMA


def metadata() -> sa.MetaData:
    """Of tuner's own tables, for migrations and their test."""
    return Base.metadata
