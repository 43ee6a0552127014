"""The process in which many trainings follow each other: what it says, what it keeps, and what it frees.

Of Lightning's remarks to a person at the keyboard only those are silenced that are noise by the nature of tuning, each
with its reason. Every other warning, and all that the user's own code says, is shown.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import signal
import threading
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from lightning.pytorch.profilers import PassThroughProfiler

# Each pattern is matched at the start of the warning's text.
_NOISE = (
    # Many trainings share a machine, so a loader's workers are the study's choice and not a mistake.
    r"The '\w+' does not have many workers",
    r"Consider setting `persistent_workers=True`",
    # Short epochs are usual in a search; log_every_n_steps is the study's choice.
    r"The number of training batches \(\d+\) is smaller than the logging interval",
    # A trial that goes on finds the folder in which its first part already wrote.
    r"Checkpoint directory .* exists and is not empty",
    r"Experiment logs directory .* exists and is not empty",
    # Which device a worker uses is decided by the launcher.
    r"GPU available but not used",
    r"MPS available but not used",
    # The launcher starts the processes, not srun.
    r"The `srun` command is available on your system but is not used",
    # Lightning and torch differ on a private detail of torch's pytree.
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",
)
_LOGGERS = ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero")


def quiet() -> None:
    """Silence Lightning's information lines and the warnings that are noise, for the rest of this process."""
    _ignore_noise()
    for name in _LOGGERS:
        logging.getLogger(name).setLevel(logging.WARNING)


class NoProfiler(PassThroughProfiler):
    """Lightning's profiler that measures nothing, without its generator: 30 are opened and closed in each step.

    On a small model that is 4 % of the time.
    """

    _nothing = contextlib.nullcontext()

    def profile(self, action_name: str) -> contextlib.AbstractContextManager[None]:  # type: ignore[override]  # noqa: ARG002
        return self._nothing


class _Settled:
    """Whether this process has set its imports apart, and whether a training has imported the rest since."""

    asked = False
    complete = False


def settle() -> None:
    """Set what is imported by now apart from the garbage collector's work; for workers, after their imports.

    Torch, Lightning and what they import are 380,000 objects that live as long as the process. With them a full
    collection takes 225 ms and without them 0.3 ms, so that each training's objects can be freed when it ends. What
    the first training imports is set apart when it has ended.
    """
    gc.collect()
    gc.freeze()
    _Settled.asked, _Settled.complete = True, False


def free_memory(*, urgent: bool) -> None:
    """Free the objects of a training that has ended, which know each other in circles.

    Where that is slow and nothing presses, it is left to the collector's own time: see `settle`.
    """
    on_cuda = torch.cuda.is_available() and torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    if urgent or on_cuda or _Settled.asked:
        gc.collect()
    if _Settled.asked and not _Settled.complete:
        gc.freeze()
        _Settled.complete = True
    if on_cuda:
        torch.cuda.empty_cache()


@contextlib.contextmanager
def settings_kept() -> Iterator[None]:
    """Put back, after the block, the settings of the process that a Trainer or a module may change."""
    deterministic = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    benchmark, dtype, grad = torch.backends.cudnn.benchmark, torch.get_default_dtype(), torch.is_grad_enabled()
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)
        torch.backends.cudnn.benchmark = benchmark
        torch.set_default_dtype(dtype)
        torch.set_grad_enabled(grad)
        if threading.current_thread() is threading.main_thread():
            _set_handlers(handlers)


def _set_handlers(handlers: dict[signal.Signals, Any]) -> None:
    for number, handler in handlers.items():
        if handler is not None and signal.getsignal(number) is not handler:  # None: it was not set from Python
            signal.signal(number, handler)


@contextlib.contextmanager
def without_noise() -> Iterator[None]:
    """Ignore, within the block, the warnings that are noise to a tuner."""
    with warnings.catch_warnings():
        _ignore_noise()
        yield


def _ignore_noise() -> None:
    for pattern in _NOISE:
        warnings.filterwarnings("ignore", message=rf"(?s).*?{pattern}")
