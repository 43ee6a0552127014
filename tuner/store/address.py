"""Where a database is: the URL as it is used, as it is shown, and errors about it without its password."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from typing import Self
from urllib.parse import quote, quote_plus

from optuna.exceptions import StorageInternalError
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from tuner.errors import StoreError

EXAMPLES = "store.url=sqlite:///runs/tuner.db or store.url=postgresql://USER@HOST/NAME"
#: The one driver of PostgreSQL that is installed with tuner, whatever SQLAlchemy would take by default.
POSTGRESQL = "postgresql+psycopg"
HIDDEN = "***"

#: What to do about an error, by what its text has; PostgreSQL's own texts, where the server speaks English.
REMEDIES = (
    (
        r"authentication failed|no password supplied|role .* (does not exist|is not permitted)|pg_hba",
        "Mend the user, the password, or what the server permits; a URL has the @ of a password as %40.",
    ),
    (r"database .* does not exist", "Make the database (createdb NAME), or name another one."),
    (r"resolve host|translate host|Name or service not known", "Mend the host."),
    (r"starting up|shutting down|recovery", "Call again when the server has started."),
    (
        r"refused|timeout|unreachable|No route|server on socket",
        "Is a PostgreSQL server running there, and may this machine reach it?",
    ),
    (r"database is locked", "Another program is writing there; end it, or call again."),
)


@dataclass(frozen=True)
class Address:
    """A database URL, checked; `str` shows it without its password.

    Attributes:
        url: with everything that is needed to connect.
    """

    url: URL = field(repr=False)
    _written: str = field(repr=False)

    @classmethod
    def of(cls, text: str) -> Self:
        """Read what `store.url` says.

        Raises:
            StoreError: it is no URL of a database that can be used. A text that may hold a password where it was
                mistyped is not repeated.
        """
        try:
            url = make_url(text)
        except (ArgumentError, ValueError):
            raise StoreError(f"store.url is a database URL. Write for example {EXAMPLES}.") from None
        if url.get_backend_name() == "sqlite" and url.database in (None, "", ":memory:"):
            raise StoreError(
                "store.url names a file, because worker processes and later calls read it. Write for example "
                "store.url=sqlite:///runs/tuner.db."
            )
        if url.drivername in ("postgres", "postgresql"):
            url = url.set(drivername=POSTGRESQL)
        if url.get_backend_name() != "sqlite" and text.partition("?")[0].count("@") > 1:
            raise StoreError("store.url has a second @. Write the @ of a password or a user as %40.")
        if url.get_backend_name() == "postgresql" and url.drivername != POSTGRESQL:
            raise StoreError(
                f"store.url begins with {url.drivername}://, and tuner talks to PostgreSQL through psycopg 3. "
                "Write postgresql://…"
            )
        if isinstance(password := url.query.get("password"), str):  # as libpq allows
            url = url.difference_update_query(["password"]).set(password=url.password or password)
        return cls(url, text)

    def __str__(self) -> str:
        kept = [name for name in self.url.query if "password" in name]  # sslpassword
        shown = self.url.update_query_dict(dict.fromkeys(kept, HIDDEN)).render_as_string(hide_password=True)
        return shown.replace(quote(HIDDEN), HIDDEN)

    @property
    def without_password(self) -> URL:
        """For whoever only has to know what kind of database it is."""
        url = self.url
        query = {name: value for name, value in url.query.items() if "password" not in name}
        return URL.create(url.drivername, url.username, None, url.host, url.port, url.database, query)

    def hidden(self, text: str) -> str:
        """The text without the password, as it is and in the forms that it has in URLs."""
        secrets = [str(value) for name, value in self.url.query.items() if "password" in name]
        if self.url.password:
            written = self._written.partition("://")[2].rpartition("@")[0].partition(":")[2]
            secrets += [str(self.url.password), written]
        forms = {
            form for secret in secrets for form in (secret, quote(secret, safe=""), quote(secret), quote_plus(secret))
        }
        for form in sorted(filter(None, forms), key=len, reverse=True):
            text = text.replace(form, HIDDEN)
        return text

    def cause(self, error: BaseException) -> str:
        """What a driver says, in one line and without the password."""
        if isinstance(error, StorageInternalError):  # Optuna's wrapping
            error = error.__cause__ or error
        said = str(getattr(error, "orig", None) or error).strip()
        return self.hidden(said.splitlines()[0] if said else type(error).__name__)

    def sentence(self, error: BaseException) -> str:
        """What went wrong at this place and what to do about it."""
        cause = self.cause(error)
        who = os.environ.get("USER", "this user")
        remedy = next(
            (remedy for pattern, remedy in REMEDIES if re.search(pattern, cause)),
            f"Is it the right place, with room left, and may {who} write there?",
        )
        return f"store.url={self}: {cause.rstrip('.')}. {remedy}"
