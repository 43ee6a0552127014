"""Checkpoints as files: a name that is there is whole, even after the machine has lost power."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.strategies import Strategy

from tuner.errors import TunerError

_PART = ".writing"


def write(trainer: pl.Trainer, checkpoint: dict[str, Any], file: Path, *, weights_only: bool) -> None:
    """Write beside the file's place, then rename: whoever reads finds the old file or the new one.

    Raises:
        TunerError: with `weights_only`, where the checkpoint could not be read back without executing code.
        OSError: the disk is full, or the folder is gone; nothing is left of the attempt.
    """
    beside = file.with_suffix(_PART)
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        _put(trainer, checkpoint, beside)
        if trainer.is_global_zero:
            if weights_only:
                _refuse_code(beside)
            _sync(beside)
            beside.replace(file)
            with contextlib.suppress(OSError):  # the file is there; some network file systems have no such thing
                _sync(file.parent)
    finally:
        if trainer.is_global_zero:
            beside.unlink(missing_ok=True)


def remove_parts(folder: Path) -> None:
    """What was being written when an earlier process was killed."""
    for part in folder.glob(f"*{_PART}"):
        part.unlink(missing_ok=True)


def _put(trainer: pl.Trainer, checkpoint: dict[str, Any], beside: Path) -> None:
    strategy = trainer.strategy
    own = type(strategy).save_checkpoint is not Strategy.save_checkpoint
    if own or type(strategy.checkpoint_io) is not TorchCheckpointIO:
        strategy.save_checkpoint(checkpoint, beside)
    elif trainer.is_global_zero:
        # As Lightning does, through memory: torch makes of a full disk an error that does not say so. Not by
        # Lightning: it writes to the system's temporary folder first, and leaves there what does not fit the disk.
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        beside.write_bytes(buffer.getbuffer())


def _refuse_code(file: Path) -> None:
    try:
        torch.load(file, map_location="meta", weights_only=True)  # meta: the tensors' values are not read
    except pickle.UnpicklingError as error:
        raise TunerError(
            "The checkpoint of this training holds objects that are more than tensors and plain values, so it"
            f" could not be read back safely: {_first_line(error)} Put them into state_dict as tensors, or, where"
            " you trust what writes to the store, set trainer.weights_only=false."
        ) from error


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if "nsupported" in line), str(error).split("\n")[0])


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
