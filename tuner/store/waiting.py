"""Waiting for a database that is away for a while: what passes by itself, and for how long it is waited for.

What is repeated is a whole unit of work: one transaction, or the making of a connection. When a connection breaks, the
transaction in it may or may not have been applied, so a unit has to be harmless when it is done twice; where it is not,
its owner says what to do instead of repeating it (`Waiting.again`).
"""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable
from typing import Concatenate, ParamSpec, Protocol, TypeVar

from optuna.exceptions import StorageInternalError
from sqlalchemy.exc import DBAPIError

from tuner import output

#: Seconds for which a database that is away is waited for.
RETRY_S = 300.0
#: Seconds between two attempts: the first pause, doubled each time, and the longest.
FIRST_S, LONGEST_S = 0.1, 5.0
#: Seconds after which people are told; a connection that was only dropped is back before.
TELL_S = 1.0
#: Longest sleep in one piece, so that `give_up` is heard.
SLICE_S = 0.5

#: SQLSTATE codes and classes of PostgreSQL (its manual's appendix A) that pass by themselves.
PASSING_CLASSES = ("08",)  # connection exceptions
PASSING_STATES = frozenset({
    "25006",  # the server that answers only reads: another one is about to take over
    "40001", "40P01",  # one of two transactions that met was rolled back
    "53300",  # too many connections
    "57P01", "57P02", "57P03", "57P05",  # shut down by its administrator, crashed, starting, idle for too long
})  # fmt: skip
#: SQLITE_BUSY and SQLITE_LOCKED; the higher bits of an extended code say more.
SQLITE_PASSING = (5, 6)
#: What a refused connection says when waiting will not mend it; where the server does not speak English it is waited.
LASTING = ("authentication failed", "no password supplied", "does not exist", "pg_hba", "not permitted")

T = TypeVar("T")
P = ParamSpec("P")


def passes(error: BaseException) -> bool:
    """Whether what failed may well succeed later: the connection was lost, the server restarts, the file is locked."""
    if isinstance(error, StorageInternalError):  # Optuna's wrapping
        error = error.__cause__ or error
    driver: BaseException = error
    if isinstance(error, DBAPIError):
        if error.connection_invalidated:
            return True
        driver = error.orig or error
    code = getattr(driver, "sqlite_errorcode", None)
    if code is not None:
        return code & 0xFF in SQLITE_PASSING
    state = getattr(driver, "sqlstate", None)
    if state is not None:
        return state in PASSING_STATES or state.startswith(PASSING_CLASSES)
    # Without a code it is libpq that speaks, not the server: about a connection, made or lost.
    return _is_of_libpq(driver) and not any(text in str(driver) for text in LASTING)


def _is_of_libpq(error: BaseException) -> bool:
    # By name, because psycopg is not installed where there is no PostgreSQL.
    return any(
        kind.__name__ == "OperationalError" and kind.__module__.startswith("psycopg") for kind in type(error).__mro__
    )


class Waiting:
    """One clock for everything that waits for the same database; threads may share it.

    Attributes:
        worked: whether the database was ever there; before, nothing is repeated, because it is the URL that is wrong.
    """

    def __init__(
        self,
        place: str,
        cause: Callable[[BaseException], str] = str,
        *,
        retry_s: float = RETRY_S,
        say: Callable[[str], object] | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Prepare.

        Args:
            place: of the database, for people.
            cause: an error in one line, for people.
            retry_s: seconds, at least 0.
            say: gets one line when waiting begins and one when it ends; standard error by default.
            clock: seconds, monotonic.
            sleep: for so many seconds.
        """
        self.worked = False
        self._place, self._cause, self._retry_s = place, cause, retry_s
        self._say, self._clock, self._sleep = say or output.say, clock, sleep
        self._here = threading.local()
        self._since: float | None = None  # when the database was seen to be away
        self._told = self._given_up = False

    def again(self, work: Callable[[], T], repeated: Callable[[], T] | None = None) -> T:
        """What `work` returns, which is done again while the database is away.

        Args:
            work: one unit. Units lie inside each other: the outermost is the one that has come through.
            repeated: done instead of `work` after a failure, where `work` must not be applied twice.

        Raises:
            Exception: what `work` raised, when it will not pass or has been waited for long enough.
        """
        began, pause = self._clock(), FIRST_S
        outermost = not getattr(self._here, "inside", False)
        self._here.inside = True
        try:
            result = self._tried(work)
            while isinstance(result, _Failed):
                self._wait(result.error, pause, began)
                pause = min(2 * pause, LONGEST_S)
                result = self._tried(repeated or work)
        finally:
            if outermost:
                self._here.inside = False
        if outermost and self._since is not None:
            self._is_back()
        return result

    def give_up(self) -> None:
        """Stop waiting, now and later; may be called by a signal handler."""
        self._given_up = True

    @property
    def waited_s(self) -> float:
        """Seconds for which the database has been away by now."""
        since = self._since  # once: another thread may find the database back
        return 0.0 if since is None else self._clock() - since

    def _tried(self, work: Callable[[], T]) -> T | _Failed:
        try:
            return work()
        except Exception as error:
            if not self.worked or not passes(error):
                raise
            return _Failed(error)

    def _wait(self, error: Exception, pause_s: float, began: float) -> None:
        if self._since is None:
            self._since = began  # the attempt itself may have waited, for a lock or an answer
        if self.waited_s + pause_s > self._retry_s:
            raise error
        if not self._told and self.waited_s >= TELL_S:
            self._told = True
            self._say(
                f"The database {self._place} does not answer ({self._cause(error)}); waiting up to {self._retry_s:.0f} s for it."
            )
        until = self._clock() + pause_s
        while (left := until - self._clock()) > 0:
            if self._given_up:
                raise error
            self._sleep(min(left, SLICE_S))

    def _is_back(self) -> None:
        if self._told:
            self._say(f"The database answers again after {self.waited_s:.0f} s; going on.")
        self._since, self._told = None, False


class HasWaiting(Protocol):
    _waiting: Waiting


Self_ = TypeVar("Self_", bound=HasWaiting)


def waits(method: Callable[Concatenate[Self_, P], T]) -> Callable[Concatenate[Self_, P], T]:
    """Repeats a method while the database is away; it is one unit, and harmless when it is done twice."""

    @functools.wraps(method)
    def again(self: Self_, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._waiting.again(lambda: method(self, *args, **kwargs))

    return again


class _Failed:
    """Instead of a result: an error that passes."""

    def __init__(self, error: Exception) -> None:
        self.error = error
