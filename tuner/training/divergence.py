"""Tells a training loss that has exploded from one that is merely large."""

from __future__ import annotations

import math
import statistics

import torch

REFERENCE_STEPS = 10
LOOK_STEPS = 20


class LossWatch:
    """Looks at every training loss; on an accelerator many at once.

    A loss is bad when it is not finite, or when its size exceeds `factor * max(reference, 1)`, where the reference is
    the median size of the first losses, up to ten. The median, because one wild loss among them must not hide the
    explosion that it begins.

    Reading one number from an accelerator waits for all of its queued work, so losses are kept there and read in one
    transfer every `LOOK_STEPS` steps and at the end of an epoch. On a CPU each is read at its step.
    """

    def __init__(self, factor: float | None) -> None:
        """`factor` is None for a watch that looks for losses that are not finite only."""
        self.factor = factor
        self.first: list[float] = []
        self._limit = math.inf
        self._unread: list[tuple[int, torch.Tensor]] = []

    def add(self, step: int, loss: torch.Tensor) -> str:
        """Take the loss of a step; answers why it has diverged, or nothing."""
        if not loss.is_cuda:
            return self._judge(step, loss.item())
        self._unread.append((step, loss.detach()))
        return self.look() if len(self._unread) >= LOOK_STEPS else ""

    def look(self) -> str:
        """Judge the losses that were not read yet; answers why the first bad one has diverged, or nothing."""
        if not self._unread:
            return ""
        steps, losses = zip(*self._unread, strict=True)
        self._unread.clear()
        values = torch.stack([loss.reshape(()) for loss in losses]).tolist()
        reasons = (self._judge(step, value) for step, value in zip(steps, values, strict=True))
        return next((reason for reason in reasons if reason), "")

    def resume(self, first: list[float]) -> None:
        """Go on with the first losses of an earlier part of this training."""
        self.first = list(first)
        self._set_limit()

    def _judge(self, step: int, loss: float) -> str:
        size = abs(loss)
        if size <= self._limit and size < math.inf:  # False for NaN
            if len(self.first) < REFERENCE_STEPS:
                self.first.append(size)
                self._set_limit()
            return ""
        if math.isfinite(loss):
            return f"training loss {loss:.4g} at step {step}, more than {self.factor:g} times its first values"
        return f"training loss is {loss} at step {step}"

    def _set_limit(self) -> None:
        if self.factor is not None and self.first:
            self._limit = self.factor * max(statistics.median(self.first), 1.0)
