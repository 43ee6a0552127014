"""Errors that tuner raises on purpose, and the exit code of each.

A mistake of the user never shows a traceback: the command line prints the text of a `TunerError` and leaves with
its `exit_code`. A crash inside the user's own code is the one case where a traceback is printed (`RoundFailed`).
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


class TunerError(Exception):
    """Something the user can mend; its text says what and how."""

    exit_code = 1


@dataclass(frozen=True)
class Problem:
    """One thing wrong with a configuration.

    Attributes:
        key: dotted key as the command line would write it, for example `space.lr.low`.
        rule: what must hold.
        value: what was given, as the user would recognise it.
        remedy: what to write instead.
    """

    key: str
    rule: str
    value: object
    remedy: str

    def __str__(self) -> str:
        return without_passwords(f"{self.key}: {self.rule}; got {self.value!r}. {self.remedy}")


class ConfigError(TunerError):
    """Every problem of a configuration at once."""

    exit_code = 2

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in problems))


class StudyError(TunerError):
    """The study's module and data cannot be trained as they are configured; found by the first trial."""

    exit_code = 2


class StoreError(TunerError):
    """The study database cannot be used as it is."""

    exit_code = 2


class RoundBusy(TunerError):
    """Another controller holds the round's lease."""

    exit_code = 2


class RoundFailed(TunerError):
    """The round cannot go on, because the user's own code fails; carries the traceback of that failure."""

    exit_code = 1


def without_passwords(text: str) -> str:
    """The text with each password of a URL in it replaced: `scheme://user:password@host`, `?password=…`."""
    text = re.sub(r"(://[^\s:/@]*:)[^\s'\"]*@", r"\1***@", text)
    return re.sub(r"(password=)[^\s&'\"]+", r"\1***", text)


def neighbours(word: str, known: Iterable[str], count: int = 3) -> list[str]:
    """Up to `count` of the `known` words that look most like `word`, best first."""
    return difflib.get_close_matches(word, list(known), n=count, cutoff=0.5)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A sentence that names the neighbours of a misspelt word, or all there is when nothing is near."""
    names = sorted(known)
    near = [name for name in names if name.startswith(f"{word}/")][:3] or neighbours(word, names)
    if near:
        return f"Did you mean {' or '.join(near)}?"
    return f"There is: {', '.join(names)}." if names else "Nothing is there."
