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

from tuner.ctrl_c import INTERRUPTED, is_ignored
from tuner.round import Round
from tuner.store.waiting import Waiting

FIRST = "{name}: stopping what runs; the same command goes on from here. Once more kills it."
LEAVING = "{name}: leaving; the same command goes on from here."
WAITING = "The database is being waited for; once more ends that."
SECOND = "{name}: killing what runs. Once more leaves everything as it is."


class Signals:
    """Signals SIGINT and SIGTERM of one call.

    | signal | before the training                       | while it trains                | after it                     |
    | ------ | ----------------------------------------- | ------------------------------ | ---------------------------- |
    | first  | `check` raises; no waiting for a database | trainings are saved and stop   | no waiting; all is written   |
    | second | no change: it is leaving                  | workers are killed; no waiting | no change                    |
    | third  | the process ends as if it were killed     | likewise                       | likewise                     |

    Attributes:
        count: signals that have come.
    """

    def __init__(self) -> None:
        self.count = 0
        self._waiting: Waiting | None = None
        self._round: Round | None = None

    @contextlib.contextmanager
    def noted(self, waiting: Waiting) -> Iterator[None]:
        """In the block, signals are noted, unless whoever started this process had it ignore them.

        Args:
            waiting: for the database.
        """
        self._waiting = waiting
        before = {}
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                if not is_ignored(number):
                    before[number] = signal.signal(number, self._handle)
        try:
            yield
        finally:
            for number, handler in before.items():
                # None: it was set by another language, and cannot be set again from here.
                signal.signal(number, signal.SIG_DFL if handler is None else handler)

    @contextlib.contextmanager
    def ending(self, round_: Round) -> Iterator[None]:
        """In the block, signals end this round's training; one that has come already does at once."""
        self._round = round_
        if self.count:
            round_.interrupt()
        try:
            yield
        finally:
            self._round = None

    def check(self) -> None:
        """Leave here if a signal has come.

        Raises:
            KeyboardInterrupt: it has.
        """
        if self.count:
            raise KeyboardInterrupt

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        self.count += 1
        if self.count > 2:
            os._exit(INTERRUPTED)  # the next call goes on, as after any other sudden end
        waits = self._waiting is not None and self._waiting.waited_s > 0
        if self._waiting is not None and (self.count > 1 or self._round is None):
            self._waiting.give_up()
        if self._round is not None:
            # Its workers may be on their way out, and what it raised would come out of whatever runs now.
            with contextlib.suppress(Exception):
                self._round.interrupt()
        # Not sys.stderr: the signal may have come in the middle of a write to it.
        said = LEAVING if self._round is None else FIRST if self.count == 1 else SECOND
        text = said.format(name=signal.Signals(number).name)
        if waits and said is FIRST:
            text += f"\n{WAITING}"
        with contextlib.suppress(OSError):  # who read it may have ended by the same signal
            os.write(2, f"\n{text}\n".encode())
