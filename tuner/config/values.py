"""Typed values of a plain configuration, each checked where it is read; what is wrong is collected, not raised."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from tuner.errors import Problem, did_you_mean


class Values:
    """Reads values by their dotted keys.

    Attributes:
        plain: the composed configuration as plain containers.
        problems: what is wrong with it, so far.
    """

    def __init__(self, plain: dict[str, Any]) -> None:
        self.plain, self.problems = plain, list[Problem]()

    def wrong(self, key: str, rule: str, value: Any, remedy: str) -> None:
        self.problems.append(Problem(key, rule, value, remedy))

    def at(self, key: str) -> Any:
        node: Any = self.plain
        for part in key.split("."):
            node = node.get(part) if isinstance(node, Mapping) else None
        return node

    def text(self, key: str) -> str:
        value = self.at(key)
        if not isinstance(value, str) or not value:
            self.wrong(key, "is a text", value, f"Write {key}=TEXT.")
            return ""
        return value

    def one_of(self, key: str, names: Sequence[str]) -> str | None:
        value = self.at(key)
        if value is not None and value not in names:
            self.wrong(key, f"is one of {', '.join(names)}", value, did_you_mean(str(value), names))
            return None
        return None if value is None else str(value)

    def flag(self, key: str, *, default: bool) -> bool:
        value = self.at(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            self.wrong(key, "is true or false", value, f"Write {key}=true or {key}=false.")
            return default
        return value

    def whole(self, key: str, at_least: int = 0, default: int = 0) -> int:
        value = self.at(key)
        if value is None and default:
            return default
        checked = self.checked_whole(key, value, at_least)
        return default if checked is None else checked

    def optional_whole(self, key: str, at_least: int) -> int | None:
        value = self.at(key)
        return None if value is None else self.checked_whole(key, value, at_least)

    def checked_whole(self, key: str, value: Any, at_least: int) -> int | None:
        if isinstance(value, bool) or not isinstance(value, int) or value < at_least:
            self.wrong(key, f"is a whole number of at least {at_least}", value, f"Write {key}={at_least} or more.")
            return None
        return value

    def optional_number(self, key: str) -> float | None:
        value = self.at(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value <= 0:
            self.wrong(
                key, "is a number above 0, or null for no such bound", value, f"Write {key}=NUMBER or {key}=null."
            )
            return None
        return float(value)
