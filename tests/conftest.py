"""Fixtures that several folders of tests use."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from postgres import Server


@pytest.fixture
def workdir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder, so that `runs/` of one test is not another's."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    """A PostgreSQL server; who stops it in a test need not start it again."""
    server = Server()
    try:
        server.start()
        yield server
    finally:
        server.remove()


@pytest.fixture
def postgres_url(postgres: Server) -> Iterator[str]:
    """An empty database on the server."""
    with postgres.database() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """`store.url` of an empty database, of each kind in turn."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/tuner.db"
    return request.getfixturevalue("postgres_url")


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def round_store(request: pytest.FixtureRequest, workdir: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The database that the helpers in rounds.py use, of each kind in turn: SQLite in the folder, or a server."""
    if request.param == "sqlite":
        monkeypatch.delenv("TUNER_DATABASE_URL", raising=False)
        return f"sqlite:///{workdir}/runs/tuner.db"
    url = request.getfixturevalue("postgres_url")
    monkeypatch.setenv("TUNER_DATABASE_URL", url)
    return url
