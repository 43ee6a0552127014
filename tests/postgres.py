"""A real PostgreSQL server for tests: made in a temporary folder, on 127.0.0.1 and a free port, gone afterwards."""

from __future__ import annotations

import contextlib
import itertools
import os
import pwd
import select
import shlex
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import psycopg
import pytest

USER = "tuner"
#: With all that has a meaning in a URL, in Hydra's grammar or in a format string.
PASSWORD = "p@ss:w/ört%41{}"
#: What no output may have; the password as it is and as it stands in a URL.
SECRETS = (PASSWORD, quote(PASSWORD, safe=""), "w/ört", "w%2F")
START_S = 60


def programs() -> Path | None:
    """The folder of initdb and postgres: on PATH, or where Debian keeps them; None where there is no server."""
    found = shutil.which("initdb")
    candidates = [Path(found).resolve().parent] if found else []
    candidates += sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: float(path.parent.name))[::-1]
    return next((path for path in candidates if (path / "initdb").exists() and (path / "postgres").exists()), None)


def required() -> Path:
    """The programs; a test that needs them fails without them where CI is set, and is skipped elsewhere."""
    found = programs()
    if found is None:
        text = "PostgreSQL's server programs (initdb, postgres) are not installed: apt-get install postgresql"
        pytest.fail(text) if os.environ.get("CI") else pytest.skip(text)
    return found


def unprivileged() -> dict[str, object]:
    """Arguments for subprocess: PostgreSQL refuses to run as root."""
    if os.getuid() != 0:
        return {}
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            found = pwd.getpwnam(name)
            return {"user": found.pw_uid, "group": found.pw_gid, "extra_groups": []}
    raise RuntimeError("root needs a user postgres or nobody to run PostgreSQL as")


class Server:
    """One server with one superuser, who has a password (SCRAM). `start` and `stop` as often as a test likes."""

    def __init__(self) -> None:
        self._programs, self._as = required(), unprivileged()
        # Not pytest's own folder, which only its user can enter.
        self.folder = Path(tempfile.mkdtemp(prefix="tuner-postgres-"))
        self.data, self.log = self.folder / "data", self.folder / "log"
        secret = self.folder / "password"
        secret.write_text(PASSWORD)
        if self._as:
            for path in (self.folder, secret):
                os.chown(path, self._as["user"], self._as["group"])
        self._run(
            "initdb", "-D", str(self.data), "-U", USER, "-A", "scram-sha-256", f"--pwfile={secret}", "-E", "UTF8",
            "--locale=C", "--no-sync",
        )  # fmt: skip
        secret.unlink()
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._watchdog: subprocess.Popen[bytes] | None = None
        self._databases = itertools.count()

    def _run(self, program: str, *words: str) -> None:
        subprocess.run(
            [self._programs / program, *words],
            env={"PATH": os.defpath, "LC_ALL": "C"}, cwd=self.folder, check=True, capture_output=True, **self._as,
        )  # fmt: skip

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self, *, wait: bool = True) -> None:
        """Start on the same port; with `wait`, until it takes connections."""
        settings = {
            "listen_addresses": "127.0.0.1", "port": self.port, "unix_socket_directories": self.folder, "fsync": "off",
            "full_page_writes": "off", "max_connections": 50, "shared_buffers": "16MB",
        }  # fmt: skip
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [self._programs / "postgres", "-D", self.data, *(f"--{key}={value}" for key, value in settings.items())],
                env={"PATH": os.defpath, "LC_ALL": "C"}, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log,
                stderr=log, start_new_session=True, **self._as,
            )  # fmt: skip
        # When these tests are killed, its standard input ends, and it stops the server and removes the folder.
        pid, folder = self._process.pid, shlex.quote(str(self.folder))
        gone = f"for _ in 1 2 3 4 5 6 7 8 9; do kill -0 {pid} || break; sleep 1; done 2>/dev/null"
        self._watchdog = subprocess.Popen(
            ["sh", "-c", f"read _; kill -INT {pid}; {gone}; rm -rf {folder}"],
            stdin=subprocess.PIPE,
            start_new_session=True,
        )
        if wait:
            self._wait()

    def _wait(self) -> None:
        until = time.monotonic() + START_S
        while True:
            try:
                return self.connect().close()
            except psycopg.OperationalError:
                if not self.is_running or time.monotonic() > until:
                    raise RuntimeError(f"PostgreSQL does not start:\n{self.log.read_text()}") from None
                time.sleep(0.05)

    def stop(self, mode: str = "fast") -> None:
        """`fast` ends every connection in order; `immediate` is a crash, after which the server recovers."""
        if self._process is None or self._watchdog is None:
            return
        self._watchdog.kill()
        self._watchdog.communicate()
        self._process.send_signal({"fast": signal.SIGINT, "immediate": signal.SIGQUIT}[mode])
        self._process.wait(START_S)
        self._process = None

    def restart(self, mode: str = "fast") -> None:
        self.stop(mode)
        self.start()

    def remove(self) -> None:
        self.stop("immediate")
        shutil.rmtree(self.folder)

    def connect(self, database: str = "postgres") -> psycopg.Connection:
        return psycopg.connect(
            host="127.0.0.1", port=self.port, user=USER, password=PASSWORD, dbname=database, autocommit=True
        )

    def url(self, database: str, *, user: str = USER, password: str = PASSWORD) -> str:
        return f"postgresql://{user}:{quote(password, safe='')}@127.0.0.1:{self.port}/{database}"

    @contextlib.contextmanager
    def database(self) -> Iterator[str]:
        """The URL of a new, empty database."""
        name = f"test_{next(self._databases)}"
        with self.connect() as connection:
            connection.execute(f"CREATE DATABASE {name}")
        try:
            yield self.url(name)
        finally:
            if not self.is_running:
                self.start()
            with self.connect() as connection:
                connection.execute(f"DROP DATABASE {name} WITH (FORCE)")

    def empty(self, url: str) -> None:
        """Make a database of `database` anew, whoever is still connected to it."""
        name = url.rpartition("/")[2]
        with self.connect() as connection:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
            connection.execute(f"CREATE DATABASE {name}")


def free_port() -> int:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return bound.getsockname()[1]


class Cutter:
    """Stands between a client and a server, and cuts the connection at a commit: before the server has it, or after.

    After: the server has committed, and its answer never arrives; the client cannot tell the two apart.
    """

    def __init__(self, port: int) -> None:
        self._server_port = port
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self._left: int | None = None
        self._after = False
        self.cuts = 0
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def cut(self, *, after: bool, skip: int = 0) -> None:
        """Cut at the next commit, or at a later one."""
        self._after, self._left = after, skip

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)  # wakes who waits in accept
        self._socket.close()
        for thread in self._threads:
            thread.join(10)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._socket.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self._server_port))
            thread = threading.Thread(target=self._relay, args=(client, server), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _relay(self, client: socket.socket, server: socket.socket) -> None:
        with client, server:
            while True:
                for ready in select.select([client, server], [], [], 0.2)[0]:
                    try:
                        data = ready.recv(65536)
                    except OSError:
                        return
                    if not data or (ready is client and b"COMMIT" in data and self._cuts(server, data)):
                        return
                    (server if ready is client else client).sendall(data)
                if self._socket.fileno() == -1:
                    return

    def _cuts(self, server: socket.socket, data: bytes) -> bool:
        if self._left is None:
            return False
        self._left -= 1
        if self._left >= 0:
            return False
        self._left = None
        self.cuts += 1
        if self._after:
            server.sendall(data)
            answer = b""
            while b"COMMIT\0" not in answer:
                answer += server.recv(65536)
        return True
