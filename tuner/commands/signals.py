"""Ctrl-C, and a polite end from the system, while a round is this process's.

An exception that a signal raises may come out of the middle of a transaction and leave it open, or get lost in a
finalizer. So a signal is only noted here, and the work asks at points where it can leave.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any, Self

from tuner.round import Round
from tuner.store.waiting import Waiting

#: What a shell expects of a program that SIGINT ended.
INTERRUPTED = 130


class Signals:
    """Asks a round to end at the first signal, and kills what runs at the second one. A context manager."""

    def __init__(self, waiting: Waiting) -> None:
        """Prepare.

        Args:
            waiting: for the database; a second signal ends it.
        """
        self._round: Round | None = None
        self._waiting, self._count = waiting, 0
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            numbers = (signal.SIGINT, signal.SIGTERM)
            self._before = {number: signal.signal(number, self._handle) for number in numbers}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def check(self) -> None:
        """Leave here if a signal has come.

        Raises:
            KeyboardInterrupt: it has.
        """
        if self._count:
            raise KeyboardInterrupt

    @contextlib.contextmanager
    def ending(self, round_: Round) -> Iterator[None]:
        """In the block, signals end this round's training."""
        self._round = round_
        try:
            yield
        finally:
            self._round = None

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        self._count += 1
        # Not sys.stderr: the signal may have come in the middle of a write to it.
        name = signal.Signals(number).name
        os.write(2, f"\n{name}: stopping what runs; the same command goes on from here. Once more kills it.\n".encode())
        again, waited = self._count > 1, self._waiting.waited_s
        if again:
            self._waiting.give_up()
        elif waited:
            os.write(2, b"The database is being waited for; once more ends that.\n")
        if self._round is not None:
            self._round.interrupt()
        elif again and not waited:
            os._exit(INTERRUPTED)  # as if it were killed: the next call goes on
