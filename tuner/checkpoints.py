"""Files of a round: a folder a trial, in which a paused one waits with its checkpoint."""

from __future__ import annotations

from pathlib import Path

#: The file a paused trial goes on from, in its folder.
PAUSED = "paused.ckpt"


class Checkpoints:
    """The trials' folders below a round's own."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def folder(self, number: int) -> Path:
        return self.root / f"trial-{number}"

    def of(self, number: int) -> Path | None:
        """The checkpoint of a trial, if it has one."""
        file = self.folder(number) / PAUSED
        return file if file.is_file() else None

    def drop(self, number: int) -> None:
        """Remove the checkpoint of a trial that has ended; what its loggers wrote stays."""
        (self.folder(number) / PAUSED).unlink(missing_ok=True)
        folder = self.folder(number)
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
