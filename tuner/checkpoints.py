"""Files of a round: a folder a trial, in which a paused one waits with its checkpoint.

A worker writes its checkpoint beside the one before. The controller gives it its lasting name before the database knows
of it, and removes the one before after that, so that what the database names is always there and never a newer one.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

#: Names that tuner gives; every other file is the user's.
_NAME = re.compile(r"step-(?P<step>\d+)\.ckpt|epoch-\d+\.ckpt|paused\.ckpt|complete\.ckpt")


#: What a worker writes just before its trial leaves it.
_LAST = frozenset({"paused.ckpt", "complete.ckpt"})
#: The model of a trial that was trained in full.
FINAL = "final.ckpt"


@dataclass(frozen=True)
class Keep:
    """How many checkpoints of a round stay on disk.

    Attributes:
        best: of trials trained in full.
        paused: of those that wait at one rung; any further one would start anew.
    """

    best: int
    paused: int


class Checkpoints:
    """The trials' folders below a round's own."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def folder(self, number: int) -> Path:
        """Where a trial's worker and loggers write."""
        return self.root / f"trial-{number}"

    def at(self, number: int, name: str) -> Path | None:
        """The checkpoint of a trial with a name, if it is there."""
        file = self.folder(number) / name
        return file if file.is_file() else None

    def keep(self, number: int, written: Path, name: str) -> bool:
        """Give the checkpoint that a worker has written its lasting name; whether it is there at all."""
        try:
            written.replace(self.folder(number) / name)
        except FileNotFoundError:  # somebody has removed the folder
            return False
        return True

    def finals(self) -> list[int]:
        """Trials that have a model here."""
        names = (file.parent.name.removeprefix("trial-") for file in self.root.glob(f"trial-*/{FINAL}"))
        return [int(name) for name in names if name.isdecimal()]

    def drop_final(self, number: int) -> None:
        """Remove the model of a trial that is no longer among the best."""
        (self.folder(number) / FINAL).unlink(missing_ok=True)
        self._remove_if_empty(number)

    def drop(self, number: int, but: str | None = None) -> None:
        """Remove a trial's checkpoints: all, or those older than one. What its loggers and callbacks wrote stays.

        A training that goes on may have written newer ones than the controller has heard of.
        """
        folder = self.folder(number)
        for file in folder.glob("*.ckpt"):
            if _NAME.fullmatch(file.name) and file.name != but and not _is_newer(file.name, but):
                file.unlink(missing_ok=True)
        self._remove_if_empty(number)

    def _remove_if_empty(self, number: int) -> None:
        folder = self.folder(number)
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def size_bytes(root: Path) -> int:
    """Of all checkpoints below a round's folder, kept ones too."""
    files = [file for file in root.glob("trial-*/*.ckpt") if _NAME.fullmatch(file.name) or file.name == FINAL]
    return sum(file.stat().st_size for file in files)


def _is_newer(name: str, than: str | None) -> bool:
    if name in _LAST and than is not None:
        return True  # the result that names it is still on the way
    found, other = _NAME.fullmatch(name), _NAME.fullmatch(than or "")
    if not found or not other or not found["step"] or not other["step"]:
        return False
    return int(found["step"]) > int(other["step"])
