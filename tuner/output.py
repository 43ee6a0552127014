"""What a command tells people: results on standard output, all else on standard error."""

from __future__ import annotations

import contextlib
import sys


def say(text: str) -> None:
    """One line for people, on standard error."""
    with contextlib.suppress(BrokenPipeError):  # nobody reads it, which is no reason to stop
        sys.stderr.write(f"{text}\n")


def put(text: str) -> None:
    """One line of a result, on standard output."""
    sys.stdout.write(f"{text}\n")
