"""What every job that trains has around it: whatever the user's code does becomes an outcome, and nothing is left behind.

`run` and `lr_range` say what is trained and what is read from it; `process` has the settings of the process.
"""

from __future__ import annotations

import contextlib
import re
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import lightning.pytorch as pl
import torch
from hydra.errors import InstantiationException
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.exceptions import SIGTERMException

from tuner.errors import TunerError
from tuner.training.process import free_memory, settings_kept, without_noise
from tuner.training.task import Outcome, Result

_OUT_OF_MEMORY = re.compile(
    r"out of memory|can'?t allocate memory|cannot allocate memory|unable to allocate|_STATUS_ALLOC_FAILED",
    re.IGNORECASE,
)


class Witness(Protocol):
    """The callback that saw how the training was left."""

    @property
    def keyboard(self) -> bool:
        """Whether a KeyboardInterrupt ended it."""

    @property
    def foreign(self) -> BaseException | None:
        """What our own caller raised: not the module's doing."""


@dataclass(frozen=True)
class Failure:
    """Of the user's code."""

    outcome: Outcome
    reason: str
    traceback: str = ""

    def details(self) -> dict[str, Any]:
        return {"outcome": self.outcome, "reason": self.reason, "traceback": self.traceback}


def timed(job: Callable[[], Result]) -> Result:
    """The job's result with its seconds, run without Lightning's noise; the process is as it was before."""
    started_s = time.monotonic()
    with without_noise(), settings_kept():
        result = job()
        free_memory(urgent=result.outcome is Outcome.OUT_OF_MEMORY)
    return replace(result, seconds=time.monotonic() - started_s)


def failure_of(fit: Callable[[], None], witness: Witness) -> Failure | None:
    """How the user's code failed in `fit`; None where it did not.

    Raises:
        TunerError: a mistake in the study.
        KeyboardInterrupt, SIGTERMException: the process is asked to end.
        Exception: what the witness calls foreign.
    """
    try:
        fit()
    except (TunerError, KeyboardInterrupt, SIGTERMException):
        raise
    except BaseException as error:
        if witness.keyboard:
            raise KeyboardInterrupt from None  # Lightning has made a SystemExit of it
        if error is witness.foreign:
            raise
        return _told(error)
    return None


def _told(error: BaseException) -> Failure:
    reason, text = cause(error), "".join(traceback.format_exception(error))
    traceback.clear_frames(error.__traceback__)  # their locals hold the model and the batch
    if is_out_of_memory(error):
        return Failure(Outcome.OUT_OF_MEMORY, reason)
    return Failure(Outcome.CRASHED, reason, text)


def trainer_of(arguments: Mapping[str, Any], **ours: Any) -> pl.Trainer:
    """Lightning's Trainer; an argument that is in both is refused as any other that it does not take.

    Raises:
        TunerError: it refuses its arguments.
    """
    try:
        return pl.Trainer(**arguments, **ours)
    except (MisconfigurationException, TypeError, ValueError) as error:
        raise TunerError(f"Lightning's Trainer refuses what is under trainer: {error}") from None


def end_loader_workers(trainer: pl.Trainer) -> None:
    """Those that are left when a training ends within an epoch or a validation."""
    fit = trainer.fit_loop
    for loop in (fit, fit.epoch_loop.val_loop):
        # A loader that failed while it was being made cannot be taken down either; how it failed is told already.
        with contextlib.suppress(Exception):
            if loop._data_fetcher is not None:  # noqa: SLF001
                loop._data_fetcher.teardown()  # noqa: SLF001
        with contextlib.suppress(Exception):
            if loop._combined_loader is not None:  # noqa: SLF001
                loop._combined_loader.reset()  # noqa: SLF001


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether the error, or one that it was raised from, says that memory ran out."""
    if error is None:
        return False
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    if isinstance(error, RuntimeError) and _OUT_OF_MEMORY.search(str(error)):
        return True
    return is_out_of_memory(error.__cause__)


def cause(error: BaseException) -> str:
    """The error in one line; where Hydra wrapped it, the one that the user's class raised."""
    if isinstance(error, InstantiationException) and error.__cause__ is not None:
        return cause(error.__cause__)
    message = str(error).strip()
    return f"{type(error).__name__}: {message.splitlines()[0]}" if message else type(error).__name__
