"""`tuner dashboard`: optuna-dashboard in this process, on the configured store."""

from __future__ import annotations

import socketserver
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import optuna_dashboard

from tuner import output
from tuner.config import Settings
from tuner.errors import TunerError
from tuner.store.database import Database


class _Server(socketserver.ThreadingMixIn, WSGIServer):
    """One thread a request: a slow plot does not hold up the others."""

    daemon_threads = True


class _Handler(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """Say nothing of each request."""


def dashboard(settings: Settings) -> int:
    """Serve until interrupted.

    Raises:
        TunerError: the port is taken, or the host is not this machine's.
    """
    where = settings.dashboard
    with Database(settings.store.url) as database, database.explained():
        try:
            server = make_server(where.host, where.port, optuna_dashboard.wsgi(database.storage), _Server, _Handler)
        except OSError as error:
            raise TunerError(
                f"dashboard.host={where.host} dashboard.port={where.port}: {error.strerror or error}. Write another dashboard.port, or 0 for any free one."
            ) from None
        with server:
            output.say(f"optuna-dashboard on http://{where.host}:{server.server_port}/ for {database}; Ctrl-C ends it.")
            try:
                server.serve_forever()
            except KeyboardInterrupt:
                return 0
    return 0
