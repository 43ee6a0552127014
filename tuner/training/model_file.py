"""The model of a training that is complete, as a file that `LightningModule.load_from_checkpoint` reads."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch

from tuner.training.files import write

#: Under which Lightning keeps what `save_hyperparameters` has seen.
_HYPERPARAMETERS = ("hyper_parameters", "datamodule_hyper_parameters")


def save_model(trainer: pl.Trainer, file: Path, *, weights_only: bool, whole: bool) -> list[str]:
    """Write the model after its training; every rank takes part.

    Args:
        trainer: that has trained it.
        file: replaced if it is there.
        weights_only: whether the file is to be read back without executing code. Hyperparameters that cannot be are
            left out then.
        whole: with the states of optimizers, schedules and callbacks, too.

    Returns:
        The names of the hyperparameters that were left out.

    Raises:
        TunerError: with `weights_only`, where the model itself could not be read back without executing code.
        OSError: it cannot be written; nothing is left of the attempt.
    """
    checkpoint = trainer._checkpoint_connector.dump_checkpoint(weights_only=not whole)  # noqa: SLF001 - as trainer.save_checkpoint does
    left_out = _without_code(checkpoint) if weights_only else []
    write(trainer, checkpoint, file, weights_only=weights_only)
    return left_out


def _without_code(checkpoint: dict[str, Any]) -> list[str]:
    left_out: set[str] = set()
    for key in _HYPERPARAMETERS:
        values = checkpoint.get(key, {})
        unsafe = {name for name, value in values.items() if not _is_safe(value)}
        if unsafe:
            checkpoint[key] = {name: value for name, value in values.items() if name not in unsafe}
            left_out |= unsafe
    return sorted(left_out)


def _is_safe(value: Any) -> bool:
    """Whether `torch.load(weights_only=True)` reads it back."""
    buffer = io.BytesIO()
    try:
        torch.save(value, buffer)
        buffer.seek(0)
        torch.load(buffer, weights_only=True)
    except Exception:  # noqa: BLE001 - pickling runs what the value's class wants, and it may fail in any way
        return False
    return True
