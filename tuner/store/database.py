"""Opening the database: engine, SQLite's settings, the schema of Optuna and of tuner, and errors without passwords."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import filelock
import sqlalchemy as sa
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from sqlalchemy.engine import URL, Engine, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

from tuner.errors import StoreError
from tuner.store.tables import Base

#: The newest revision in migrations/versions; a test compares it with what Alembic finds there.
SCHEMA = "0001"
VERSION_TABLE = "tuner_alembic_version"
#: Number of the advisory lock under which the schema is made on PostgreSQL; any constant of ours.
SCHEMA_LOCK = 0x74756E6572
#: Seconds that a writer waits for another one's lock on SQLite.
BUSY_S = 60


class Database:
    """One study database, opened; its schema is up to date."""

    def __init__(self, url: str) -> None:
        """Open, and make or migrate the schema where needed.

        Raises:
            StoreError: the URL, the server or the schema cannot be used.
        """
        self.url = _parsed(url)
        with _explained(self.url):
            if self.url.get_backend_name() == "sqlite":
                Path(self.url.database or "").absolute().parent.mkdir(parents=True, exist_ok=True)
            self.engine = sa.create_engine(self.url, **_engine_options(self.url))
            if not _is_current(self.engine):
                self._make_schema()
        self._storage: RDBStorage | None = None

    @staticmethod
    def is_there(url: str) -> bool:
        """Whether there is anything to open; a server is taken to be there until it is asked."""
        parsed = _parsed(url)
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
        """Optuna's storage on the same database."""
        if self._storage is None:
            with _explained(self.url):
                self._storage = self._optuna(create=False)
        return self._storage

    @contextlib.contextmanager
    def explained(self) -> Iterator[None]:
        """What goes wrong with the database inside, said in one sentence instead of a driver's traceback.

        Raises:
            StoreError: the database cannot be reached, read or written any more.
        """
        try:
            yield
        except SQLAlchemyError as error:
            raise StoreError(_sentence(self.url, error)) from None
        except StorageInternalError as error:  # Optuna wraps its driver's errors
            raise StoreError(_sentence(self.url, error.__cause__ or error)) from None

    def __str__(self) -> str:
        return self.url.render_as_string(hide_password=True)

    def _optuna(self, *, create: bool) -> RDBStorage:
        url = self.url.render_as_string(hide_password=False)
        # Optuna checks its schema's version in every constructor; once at the making is enough.
        return RDBStorage(
            url, _engine_options(self.url), skip_table_creation=not create, skip_compatibility_check=False
        )

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
            config.set_main_option("script_location", str(Path(__file__).with_name("migrations")))
            with self.engine.begin() as connection:
                config.attributes["connection"] = connection
                command.upgrade(config, "head")

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Only one process makes the schema: two that create it at once fail."""
        if self.url.get_backend_name() == "sqlite":
            with filelock.FileLock(f"{Path(self.url.database or '').absolute()}.lock", timeout=BUSY_S):
                yield
        elif self.url.get_backend_name() == "postgresql":
            with self.engine.connect() as connection:
                connection.execute(sa.select(sa.func.pg_advisory_lock(SCHEMA_LOCK)))
                try:
                    yield
                finally:
                    connection.execute(sa.select(sa.func.pg_advisory_unlock(SCHEMA_LOCK)))
        else:
            yield


def _parsed(url: str) -> URL:
    try:
        parsed = make_url(url)
    except ArgumentError:
        # The text may hold a password where it was mistyped, so it is not repeated.
        raise StoreError(
            "store.url is a database URL. Write for example store.url=sqlite:///runs/tuner.db or postgresql+psycopg://USER@HOST/NAME."
        ) from None
    if parsed.get_backend_name() == "sqlite" and parsed.database in (None, "", ":memory:"):
        raise StoreError(
            "store.url names a file, because worker processes and later calls read it. Write for example store.url=sqlite:///runs/tuner.db."
        )
    return parsed


def _engine_options(url: URL) -> dict[str, Any]:
    if url.get_backend_name() != "sqlite":
        return {"pool_pre_ping": True}
    return {"connect_args": {"timeout": BUSY_S}, "pool_events": [(_set_pragmas, "connect")]}


def _set_pragmas(connection: Any, _record: object) -> None:
    cursor = connection.cursor()
    # Readers (the dashboard) never block the writer; a power cut may lose the last commits, never the file.
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=NORMAL")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()


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


@contextlib.contextmanager
def _explained(url: URL) -> Iterator[None]:
    """Turn what a driver says into one sentence that names the place and never the password."""
    shown = url.render_as_string(hide_password=True)
    try:
        yield
    except NoSuchModuleError:
        raise StoreError(
            f"store.url={shown}: there is no driver for {url.drivername}. Write sqlite:///FILE or postgresql+psycopg://…."
        ) from None
    except ImportError as error:
        raise StoreError(
            f"store.url={shown}: its driver is not installed ({error.name}). For PostgreSQL: pip install 'tuner[postgres]'."
        ) from None
    except filelock.Timeout:
        raise StoreError(
            f"store.url={shown}: another process has been making the schema for {BUSY_S} s. End it, or try again."
        ) from None
    except (SQLAlchemyError, OSError) as error:
        raise StoreError(_sentence(url, error)) from None


def _sentence(url: URL, error: BaseException) -> str:
    cause = str(getattr(error, "orig", None) or error).strip().splitlines()[0]
    if url.password:
        cause = cause.replace(str(url.password), "***")
    who = os.environ.get("USER", "this user")
    return (
        f"store.url={url.render_as_string(hide_password=True)}: {cause}. "
        f"Is it the right place, with room left, and may {who} write there?"
    )


def metadata() -> sa.MetaData:
    """Of tuner's own tables, for migrations and their test."""
    return Base.metadata
