"""Schedules whose course is fixed when the training starts: the rate depends on the step alone.

Those that follow the training are in `adaptive`, the warm-up in front of either in `warm_up`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, ExponentialLR, LambdaLR, LRScheduler, OneCycleLR, StepLR

from tuner.formulas import hold_then_decay_factor, inverse_sqrt_factor, inverse_time_factor, linear_factor
from tuner.schedules.arguments import (
    Interval,
    interval_problem,
    known,
    momentum_problem,
    range_problem,
    refuse,
    total_problem,
)
from tuner.schedules.nodes import per_minibatch


class _Formula:
    """A formula with its arguments, for LambdaLR, which saves what is in a callable's `__dict__`: the arguments."""

    __slots__ = ("__dict__", "_function")

    def __init__(self, function: Callable[..., float], **arguments: float) -> None:
        self._function = function
        self.__dict__.update(arguments)

    def __call__(self, i: int) -> float:
        return self._function(i, **self.__dict__)


def constant(optimizer: Optimizer) -> LRScheduler:
    """The rate as the optimizer was built: η."""
    return LambdaLR(optimizer, _Formula(inverse_time_factor, decay=0.0))


def linear(optimizer: Optimizer, total: int | None = None, interval: Interval = "epoch") -> LRScheduler:
    """Linear in time: η (1 − i/N), falling to 0 at the end of the training.

    Args:
        optimizer: whose rates are set.
        total: N, the epochs (or minibatches, as `interval` says) of the whole training.
        interval: what i counts.

    Raises:
        ConfigError: an argument is out of range, or there is neither a total nor a Trainer.

    Source: A. Defazio et al. (2023), arXiv 2310.07831, where it is the schedule that the theory arrives at.
    """
    refuse(total_problem(total), interval_problem(interval))
    return LambdaLR(optimizer, _Formula(linear_factor, total=known(total)))


def inverse_time(optimizer: Optimizer, decay: float, interval: Interval = "epoch") -> LRScheduler:
    """η / (1 + d·i).

    Args:
        optimizer: whose rates are set.
        decay: d, at least 0; the rate has halved at i = 1/d.
        interval: what i counts.

    Raises:
        ConfigError: an argument is out of range.

    Source: L. Bottou (2012), Stochastic gradient descent tricks, doi 10.1007/978-3-642-35289-8_25 (section 5.2).
    """
    refuse(range_problem("decay", decay, 0), interval_problem(interval))
    return LambdaLR(optimizer, _Formula(inverse_time_factor, decay=decay))


def exponential(optimizer: Optimizer, gamma: float = 0.99, interval: Interval = "epoch") -> LRScheduler:
    """η γ^i, torch's ExponentialLR.

    Args:
        optimizer: whose rates are set.
        gamma: γ in (0, 1].
        interval: what i counts.

    Raises:
        ConfigError: an argument is out of range.

    Source: torch.optim.lr_scheduler.ExponentialLR.
    """
    refuse(range_problem("gamma", gamma, 0, 1, above=True), interval_problem(interval))
    return ExponentialLR(optimizer, gamma)


def inverse_sqrt_epoch(optimizer: Optimizer, k: float = 1.0) -> LRScheduler:
    """η k/√epoch, the first epoch being number 1.

    Args:
        optimizer: whose rates are set.
        k: above 0.

    Raises:
        ConfigError: k is not above 0.

    Source: M. Zinkevich (2003), Online convex programming (ICML), where the rate of step t is t^−½.
    """
    refuse(range_problem("k", k, 0, above=True))
    return LambdaLR(optimizer, _Formula(inverse_sqrt_factor, k=k))


@per_minibatch
def inverse_sqrt_minibatch(optimizer: Optimizer, k: float = 1.0) -> LRScheduler:
    """η k/√t with t the number of the minibatch, from 1 on; otherwise as `inverse_sqrt_epoch`.

    Behind a warm-up it is the schedule of A. Vaswani et al. (2017), arXiv 1706.03762 (section 5.3), but for a factor.
    """
    return inverse_sqrt_epoch(optimizer, k)


def hold_then_decay(optimizer: Optimizer, hold: int, rate: float = 1.0) -> LRScheduler:
    """η for the first epochs, then e^−1 times the rate of the epoch before.

    Args:
        optimizer: whose rates are set.
        hold: n, epochs with the rate η; at least 0.
        rate: the exponent of each epoch after them, above 0; 1 is a factor of e^−1.

    Raises:
        ConfigError: an argument is out of range.

    Source: the example of keras.callbacks.LearningRateScheduler, with rate 0.1 after 10 epochs.
    """
    refuse(range_problem("hold", hold, 0, whole=True), range_problem("rate", rate, 0, above=True))
    return LambdaLR(optimizer, _Formula(hold_then_decay_factor, hold=hold, rate=rate))


def step(optimizer: Optimizer, every: int, factor: float = 0.1, interval: Interval = "epoch") -> LRScheduler:
    """η f^⌊i/n⌋, torch's StepLR.

    Args:
        optimizer: whose rates are set.
        every: n, at least 1.
        factor: f in (0, 1].
        interval: what i counts.

    Raises:
        ConfigError: an argument is out of range.

    Source: torch.optim.lr_scheduler.StepLR.
    """
    refuse(
        range_problem("every", every, 1, whole=True),
        range_problem("factor", factor, 0, 1, above=True),
        interval_problem(interval),
    )
    return StepLR(optimizer, every, factor)


def cosine(
    optimizer: Optimizer, total: int | None = None, eta_min: float = 0.0, interval: Interval = "epoch"
) -> LRScheduler:
    """eta_min + (η − eta_min) (1 + cos(π i/N)) / 2, torch's CosineAnnealingLR; past N the rate rises again.

    Args:
        optimizer: whose rates are set.
        total: N, the epochs (or minibatches, as `interval` says) of the whole training.
        eta_min: the rate at N, of every group; at least 0.
        interval: what i counts.

    Raises:
        ConfigError: an argument is out of range, or there is neither a total nor a Trainer.

    Source: I. Loshchilov, F. Hutter (2016), SGDR, arXiv 1608.03983 (equation 5, without restarts).
    """
    refuse(total_problem(total), range_problem("eta_min", eta_min, 0), interval_problem(interval))
    return CosineAnnealingLR(optimizer, known(total), eta_min)


@per_minibatch
def one_cycle(
    optimizer: Optimizer,
    total: int | None = None,
    pct_start: float = 0.3,
    div_factor: float = 25.0,
    final_div_factor: float = 1e4,
    cycle_momentum: bool = False,  # noqa: FBT001, FBT002 - named in a configuration
) -> LRScheduler:
    """From η/div up to η and down to η/(div·final), along half cosines: torch's OneCycleLR with η as its highest rate.

    Args:
        optimizer: whose rates are set.
        total: minibatches of the whole training; stepping more often is an error of torch.
        pct_start: share of the training in which the rate rises, in [0, 1).
        div_factor: η over the first rate, at least 1.
        final_div_factor: the first rate over the last, at least 1.
        cycle_momentum: whether momentum (or the first beta) goes from 0.95 down to 0.85 and back, as in the paper,
            instead of staying what it was tuned to be.

    Raises:
        ConfigError: an argument is out of range, or there is neither a total nor a Trainer, or the optimizer has no
            momentum that could cycle.

    Source: L. N. Smith, N. Topin (2017), Super-convergence, arXiv 1708.07120.
    """
    refuse(
        total_problem(total),
        range_problem("pct_start", pct_start, 0, 1, below=True),
        range_problem("div_factor", div_factor, 1),
        range_problem("final_div_factor", final_div_factor, 1),
        momentum_problem(optimizer, cycle_momentum=cycle_momentum),
    )
    steps = known(total)
    if pct_start * steps == 1:
        pct_start *= 1 - 1e-9  # a rise of no step at all, which torch divides by
    highest: Any = [copied(group["lr"]) for group in optimizer.param_groups]
    return OneCycleLR(
        optimizer,
        highest,
        total_steps=steps,
        pct_start=float(pct_start),
        div_factor=div_factor,
        final_div_factor=final_div_factor,
        cycle_momentum=cycle_momentum,
    )


def copied(rate: Any) -> Any:
    """A rate that stays what it is when an optimizer with rates as tensors writes into its own."""
    return rate.clone() if isinstance(rate, Tensor) else rate
