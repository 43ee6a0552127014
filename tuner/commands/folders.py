"""Folders that commands write to, looked at before any work."""

from __future__ import annotations

import tempfile
from pathlib import Path

from tuner.errors import ConfigError, Problem


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
