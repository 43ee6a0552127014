"""Folders that commands write to, looked at before any work."""

from __future__ import annotations

import tempfile
from pathlib import Path

from tuner.checkpoints import size_bytes
from tuner.errors import ConfigError, Problem

#: Tells whose round a folder's checkpoints are.
MARK = ".round"


def folder_of_round(root: str, name: str, key: str) -> Path:
    """The folder of a round's checkpoints and logs, made where it is not there yet.

    Args:
        root: `store.folder`.
        name: of the round, which another database may have as well.
        key: what tells this round from all others of that name.

    Raises:
        ConfigError: it cannot be written to, or has the checkpoints of another database's round.
    """
    folder = writable(Path(root) / name, "store.folder")
    mark = folder / MARK
    if mark.is_file() and mark.read_text() != key and size_bytes(folder):
        rule = f"has no {name} with checkpoints of a round that is not in this database"
        remedy = f"Write store.folder=OTHER, or remove {folder} where nobody needs them any more."
        raise ConfigError([Problem("store.folder", rule, root, remedy)])
    mark.write_text(key)
    return folder


def writable(folder: str | Path, key: str) -> Path:
    """The folder's absolute path, made where it is not there yet.

    Args:
        folder: as the configuration gives it.
        key: of the configuration, which the error names.

    Raises:
        ConfigError: it cannot be made or written to.
    """
    path = Path(folder).expanduser().absolute()
    try:
        path.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path).close()
    except OSError as error:
        rule, remedy = "is a folder that can be written to", f"{error.strerror}. Name another one."
        raise ConfigError([Problem(key, rule, str(folder), remedy)]) from None
    return path
