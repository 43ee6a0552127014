"""Files of a round: a folder a trial, in which a paused one waits with its checkpoint.

A worker writes its checkpoint under one name. The controller renames it by its epoch before the database knows of it,
so that what the database names is always there and never a newer one.
"""

from __future__ import annotations

from pathlib import Path


class Checkpoints:
    """The trials' folders below a round's own."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def folder(self, number: int) -> Path:
        """Where a trial's worker and loggers write."""
        return self.root / f"trial-{number}"

    def at(self, number: int, epoch: int) -> Path | None:
        """The checkpoint of a trial at an epoch, if it is there."""
        file = self._file(number, epoch)
        return file if file.is_file() else None

    def keep(self, number: int, epoch: int, written: str) -> None:
        """Give the checkpoint that a worker has written its lasting name."""
        Path(written).replace(self._file(number, epoch))

    def drop(self, number: int, before: int | None = None) -> None:
        """Remove a trial's checkpoints, or those before an epoch; what its loggers wrote stays."""
        folder = self.folder(number)
        files = [*folder.glob("epoch-*.ckpt"), *(folder.glob("paused.ckpt") if before is None else ())]
        for file in files:
            if before is None or file != self._file(number, before):
                file.unlink(missing_ok=True)
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()

    def _file(self, number: int, epoch: int) -> Path:
        return self.folder(number) / f"epoch-{epoch}.ckpt"
