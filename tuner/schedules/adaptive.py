"""Schedules that follow the training: its objective (`plateau`) or its gradient (`gradient_norm`).

Those that depend on the step alone are in `fixed`.
"""

from __future__ import annotations

import math
from typing import Any, SupportsFloat

from torch import Tensor
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from tuner.formulas import gradient_factor
from tuner.schedules.arguments import MODES, mode_problem, monitor_problem, range_problem, refuse
from tuner.schedules.nodes import per_minibatch


class Plateau(ReduceLROnPlateau):
    """torch's ReduceLROnPlateau, which pays no heed to values while it is held: behind a warm-up that is not over.

    Attributes:
        held: whether values are ignored.
    """

    held = False

    def step(self, metrics: SupportsFloat, epoch: int | None = None) -> None:  # type: ignore[override]
        """Take the objective after a validation."""
        if not self.held:
            super().step(metrics, epoch)


def plateau(
    optimizer: Optimizer,
    mode: str,
    monitor: str | None = None,
    factor: float = 0.1,
    patience: int = 10,
    threshold: float = 1e-4,
    cooldown: int = 0,
    min_lr: float = 0.0,
) -> Plateau:
    """The rate times `factor` whenever the objective has not improved for more than `patience` epochs.

    Args:
        optimizer: whose rates are set.
        mode: min or minimize, max or maximize; in a study `${objective.direction}`.
        monitor: for `configure`: the key under which the objective is logged, in a study `${objective.metric}`. Not
            needed where tuner builds the optimizer, and not looked at in a plain loop, which calls `step(value)`.
        factor: in (0, 1).
        patience: epochs without improvement that are borne, at least 0.
        threshold: the least relative change that is an improvement, at least 0.
        cooldown: epochs after a reduction in which none is counted, at least 0.
        min_lr: the rate does not fall below it, at least 0.

    Raises:
        ConfigError: an argument is out of range.

    Source: torch.optim.lr_scheduler.ReduceLROnPlateau.
    """
    refuse(
        mode_problem(mode),
        monitor_problem(monitor),
        range_problem("factor", factor, 0, 1, above=True, below=True),
        range_problem("patience", patience, 0, whole=True),
        range_problem("threshold", threshold, 0),
        range_problem("cooldown", cooldown, 0, whole=True),
        range_problem("min_lr", min_lr, 0),
    )
    direction: Any = MODES[mode]
    return Plateau(optimizer, direction, factor, patience, threshold=threshold, cooldown=cooldown, min_lr=min_lr)


class GradientNorm(LRScheduler):
    """The schedule of `gradient_norm`.

    Attributes:
        factor: of the rates now.
        reference: running mean of the gradient's norm; None before the first gradient.
    """

    def __init__(self, optimizer: Optimizer, low: float, high: float, smoothing: float) -> None:
        self.low, self.high, self.smoothing = low, high, smoothing
        self.factor = 1.0
        self.reference: float | None = None
        super().__init__(optimizer)

    def get_lr(self) -> list[float | Tensor]:
        """The rates after the gradient that the optimizer has just used."""
        if self.last_epoch > 0:  # what is there before the first step is not a gradient of this training
            self._follow(_gradient_norm(self.optimizer))
        return [base * self.factor for base in self.base_lrs]

    def _follow(self, norm: float | None) -> None:
        if norm is None or not math.isfinite(norm):
            return
        if not self.reference:  # 0 as well: nothing is proportional to it
            self.reference = norm
            return
        self.factor = gradient_factor(norm, self.reference, self.low, self.high)
        self.reference = self.smoothing * self.reference + (1 - self.smoothing) * norm


def _gradient_norm(optimizer: Optimizer) -> float | None:
    """Over all groups; None where no parameter has a gradient."""
    gradients = [
        parameter.grad.coalesce().values() if parameter.grad.is_sparse else parameter.grad
        for group in optimizer.param_groups
        for parameter in group["params"]
        if parameter.grad is not None
    ]
    return float(get_total_norm(gradients)) if gradients else None


@per_minibatch
def gradient_norm(optimizer: Optimizer, low: float = 0.1, high: float = 2.0, smoothing: float = 0.99) -> LRScheduler:
    """η · clip(‖g‖ / r, low, high): the rate is proportional to the norm of the last gradient, within limits.

    r is the running mean of the norm before that gradient, r ← s·r + (1 − s)·‖g‖ from the first gradient's norm on. It
    takes the loss's scale out, so that η is comparable with the η of other schedules; the limits keep the rate from
    exploding with the gradient and from dying with it. The norm is that over all parameters, as the optimizer saw
    them (after clipping), so `step()` is called after `optimizer.step()` and before `zero_grad()`.

    | gradient | rate | reference |
    | --- | --- | --- |
    | finite | proportional, within the limits | follows |
    | zero | η · low, or unchanged where there is no reference yet | follows |
    | infinite, not a number, or a norm that overflows | unchanged | unchanged |
    | on no parameter | unchanged | unchanged |

    The norm is read on the host in each step, which waits for the device. Every rank of DDP has the same gradient and
    so the same rate; parameters that are sharded over ranks are not supported.

    Args:
        optimizer: whose rates are set.
        low: in (0, 1].
        high: at least 1.
        smoothing: s in [0, 1); 0 compares with the gradient before.

    Raises:
        ConfigError: an argument is out of range.

    Source: no publication; the opposite of normalised gradient descent, whose rate is proportional to 1/‖g‖
    (E. Hazan, K. Y. Levy, S. Shalev-Shwartz, 2015, arXiv 1507.02030), bounded.
    """
    refuse(
        range_problem("low", low, 0, 1, above=True),
        range_problem("high", high, 1),
        range_problem("smoothing", smoothing, 0, 1, below=True),
    )
    return GradientNorm(optimizer, low, high, smoothing)
