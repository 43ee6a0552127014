"""What Ctrl-C does to a command outside of a round, whose own answer is in `tuner.commands.signals`.

A KeyboardInterrupt that Python raises between any two instructions of any library may be lost in a finalizer, or become
another error there. So a command is left at once while it has nothing to put away, and with an exception only after that.
Imports next to nothing: `tuner.__main__` sets it up before anything else is read.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType

#: What a shell expects of a program that Ctrl-C ended.
INTERRUPTED = 130


class CtrlC(KeyboardInterrupt):
    """A KeyboardInterrupt that Python's `exec` does not take note of.

    A plain one that goes through an `exec` of text, as dataclasses and named tuples are made by, has Python die by the
    signal at its end, whether it was caught or not.
    """


def leaves() -> None:
    """From here on Ctrl-C ends the process at once, with what was printed."""
    _answer(_leave)


def interrupts() -> None:
    """From here on Ctrl-C raises `CtrlC`."""
    _answer(_raise)


def is_ignored(number: signal.Signals) -> bool:
    """Whether whoever started the process had it ignore a signal, as a shell script does with what it starts by `&`."""
    return signal.getsignal(number) is signal.SIG_IGN


def _answer(answer: Callable[[int, FrameType | None], None]) -> None:
    if threading.current_thread() is threading.main_thread() and not is_ignored(signal.SIGINT):
        signal.signal(signal.SIGINT, answer)


def _leave(_number: int, _frame: FrameType | None) -> None:
    # The signal may have come in the middle of a write, which cannot be entered twice.
    with contextlib.suppress(Exception):
        sys.stdout.flush()
    os._exit(INTERRUPTED)


def _raise(_number: int, _frame: FrameType | None) -> None:
    raise CtrlC
