"""Learning-rate schedules as hyperparameters: in a LightningModule, in a study's file, or in a plain torch loop.

Each is called with the optimizer and gives a scheduler of torch; η is the rate of a group as the optimizer was built,
so groups keep the ratios of their rates. In a configuration it is a node that is not called yet:
`schedule: {_target_: tuner.schedules.inverse_time, _partial_: true, decay: 0.1}`. `configure` calls it, tells Lightning
when to step it, and fills in the length of the training where the node does not give one.

| schedule | rate at step i = 0, 1, … | stepped after each | takes from the Trainer |
| --- | --- | --- | --- |
| `constant` | η | epoch | |
| `linear` | η (1 − i/N) | epoch (`interval`) | N |
| `inverse_time` | η / (1 + d·i) | epoch (`interval`) | |
| `exponential` | η γ^i | epoch (`interval`) | |
| `inverse_sqrt_epoch` | η k/√(i + 1) | epoch | |
| `inverse_sqrt_minibatch` | η k/√(i + 1) | minibatch | |
| `hold_then_decay` | η while i < n, then η e^−(i − n + 1) | epoch | |
| `step` | η f^⌊i/n⌋ | epoch (`interval`) | |
| `cosine` | η (1 + cos(π i/N)) / 2 | epoch (`interval`) | N |
| `one_cycle` | up from η/25 to η, down to η/250,000 | minibatch | N |
| `plateau` | falls when the objective no longer improves | epoch, with the objective | |
| `gradient_norm` | η ‖g‖ / (its running mean), within limits | minibatch | |
| `warmup` | linear up to the first rate of another schedule, then that one | minibatch | minibatches of an epoch |

`interval: step` lets a schedule count minibatches (steps of the optimizer) instead. A scheduler's state is plain values:
what was saved in the middle goes on to the last digit, and is read with `weights_only`.

The formulas themselves, the rate as a multiple of η, are in `tuner.formulas`.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any, Literal, SupportsFloat

import lightning.pytorch as pl
from torch import Tensor
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    ExponentialLR,
    LambdaLR,
    LRScheduler,
    OneCycleLR,
    ReduceLROnPlateau,
    StepLR,
)

from tuner.errors import ConfigError, Problem
from tuner.formulas import (
    gradient_factor,
    hold_then_decay_factor,
    inverse_sqrt_factor,
    inverse_time_factor,
    linear_factor,
    warmup_factor,
)

Interval = Literal["epoch", "step"]

#: What a node with `_partial_: true` becomes: called with the optimizer.
Schedule = Callable[[Optimizer], LRScheduler]

_MODES = {"min": "min", "minimize": "min", "max": "max", "maximize": "max"}


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
    _refuse(_total_problem(total), _interval_problem(interval))
    return LambdaLR(optimizer, _Formula(linear_factor, total=_known(total)))


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
    _refuse(_range_problem("decay", decay, 0), _interval_problem(interval))
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
    _refuse(_range_problem("gamma", gamma, 0, 1, above=True), _interval_problem(interval))
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
    _refuse(_range_problem("k", k, 0, above=True))
    return LambdaLR(optimizer, _Formula(inverse_sqrt_factor, k=k))


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
    _refuse(_range_problem("hold", hold, 0, whole=True), _range_problem("rate", rate, 0, above=True))
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
    _refuse(
        _range_problem("every", every, 1, whole=True),
        _range_problem("factor", factor, 0, 1, above=True),
        _interval_problem(interval),
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
    _refuse(_total_problem(total), _range_problem("eta_min", eta_min, 0), _interval_problem(interval))
    return CosineAnnealingLR(optimizer, _known(total), eta_min)


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
    _refuse(
        _total_problem(total),
        _range_problem("pct_start", pct_start, 0, 1, below=True),
        _range_problem("div_factor", div_factor, 1),
        _range_problem("final_div_factor", final_div_factor, 1),
        _momentum_problem(optimizer, cycle_momentum=cycle_momentum),
    )
    steps = _known(total)
    if pct_start * steps == 1:
        pct_start *= 1 - 1e-9  # a rise of no step at all, which torch divides by
    highest: Any = [_copied(group["lr"]) for group in optimizer.param_groups]
    return OneCycleLR(
        optimizer,
        highest,
        total_steps=steps,
        pct_start=float(pct_start),
        div_factor=div_factor,
        final_div_factor=final_div_factor,
        cycle_momentum=cycle_momentum,
    )


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
    _refuse(
        _mode_problem(mode),
        _monitor_problem(monitor),
        _range_problem("factor", factor, 0, 1, above=True, below=True),
        _range_problem("patience", patience, 0, whole=True),
        _range_problem("threshold", threshold, 0),
        _range_problem("cooldown", cooldown, 0, whole=True),
        _range_problem("min_lr", min_lr, 0),
    )
    direction: Any = _MODES[mode]
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
    _refuse(
        _range_problem("low", low, 0, 1, above=True),
        _range_problem("high", high, 1),
        _range_problem("smoothing", smoothing, 0, 1, below=True),
    )
    return GradientNorm(optimizer, low, high, smoothing)


class Warmup(LRScheduler):
    """The schedule of `warmup`.

    torch's SequentialLR of a LinearLR and another schedule would neither take a plateau nor one that counts epochs.

    Attributes:
        after: the schedule that follows.
        steps: of the warm-up.
        every: minibatches after which the schedule that follows is stepped; 0 where somebody else steps it.
    """

    def __init__(self, optimizer: Optimizer, steps: int, after: LRScheduler, every: int) -> None:
        self.steps, self.after, self.every = steps, after, every
        self._first = [_copied(group["lr"]) for group in optimizer.param_groups]
        super().__init__(optimizer)

    def get_lr(self) -> list[float | Tensor]:
        """The rates of the warm-up, then those that the schedule that follows has set."""
        i = self.last_epoch
        if isinstance(self.after, Plateau):
            self.after.held = i < self.steps
        if i <= self.steps:
            return [rate * warmup_factor(i, self.steps) for rate in self._first]
        if self.every and (i - self.steps) % self.every == 0:
            self.after.step()
        return [_copied(group["lr"]) for group in self.optimizer.param_groups]

    def state_dict(self) -> dict[str, Any]:
        """Plain values, with the state of the schedule that follows under `after`."""
        return {**super().state_dict(), "after": self.after.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up what `state_dict` gave."""
        self.after.load_state_dict(state_dict["after"])
        super().load_state_dict({key: value for key, value in state_dict.items() if key != "after"})


def warmup(
    optimizer: Optimizer,
    steps: int | None = None,
    epochs: float | None = None,
    after: Schedule | None = None,
    steps_per_epoch: int | None = None,
) -> Warmup:
    """r₀ (i + 1)/(n + 1) for n minibatches, then another schedule from its first rate r₀ on.

    It is stepped after each minibatch, and steps a schedule that counts epochs every `steps_per_epoch` minibatches. In
    a plain loop a plateau behind it is stepped by the loop, `scheduler.after.step(value)` after each validation.
    A warm-up that is longer than the training never ends, which is no error: the batch size may be a hyperparameter.

    Args:
        optimizer: whose rates are set.
        steps: n, at least 0; either this or `epochs`.
        epochs: n as a number of epochs, also a fraction.
        after: the schedule that follows, constant by default; called with the optimizer. Where its length comes from
            the Trainer, it is what the warm-up leaves.
        steps_per_epoch: minibatches of an epoch, at least 1; needed with `epochs` and before a schedule that counts
            epochs, and taken from the Trainer if not given.

    Raises:
        ConfigError: an argument is out of range or missing.

    Source: P. Goyal et al. (2017), arXiv 1706.02677 (section 2.2, gradual warm-up).
    """
    _refuse(*_warmup_problems(steps, epochs, after, steps_per_epoch))
    following = _called(constant if after is None else after, optimizer)
    every = 0 if isinstance(following, ReduceLROnPlateau) else 1
    if every and _counts_epochs(after):
        every = _known(steps_per_epoch)
    return Warmup(optimizer, _warm_steps(steps, epochs, steps_per_epoch), following, every)


def _warm_steps(steps: int | None, epochs: float | None, steps_per_epoch: int | None) -> int:
    return steps if steps is not None else round(_known(epochs) * _known(steps_per_epoch))


def configure(module: pl.LightningModule, optimizer: Optimizer, schedule: Any, metric: str | None = None) -> Any:
    """What `configure_optimizers` returns for an optimizer and a schedule.

    A module calls it with what it was given: `return configure(self, optimizer, self.schedule)`.

    Args:
        module: whose Trainer knows how long the training is; without a Trainer the schedule has to say so itself.
        optimizer: whose rates are set.
        schedule: one of these schedules, one of torch's, or any other callable that takes the optimizer; or Lightning's
            own dictionary with such a callable under `scheduler`, whose other keys win; or None. torch's OneCycleLR and
            CosineAnnealingLR take their length from the Trainer where they have none. Torch's schedules are stepped
            after each epoch, but for a OneCycleLR without `total_steps`.
        metric: the key of the objective, for a plateau that names no `monitor`.

    Raises:
        ConfigError: the schedule does not take the arguments that it is given, one of them is out of range, or the
            length of the training or the objective is not known.
    """
    if schedule is None:
        return optimizer
    options = dict(schedule) if isinstance(schedule, Mapping) else {"scheduler": schedule}
    unmade = options.pop("scheduler", None)
    interval = options.get("interval", _interval(unmade))
    _refuse(_interval_problem(interval), _minibatch_problem(unmade, interval))
    # Lightning's `frequency` leaves steps out, so that the training is not as long as the Trainer says.
    length = _Length(_trainer(module) if options.get("frequency", 1) == 1 else None)
    scheduler = _called(_filled(unmade, interval, length), optimizer)
    if interval == "step":
        options["interval"] = interval
    watched = scheduler.after if isinstance(scheduler, Warmup) else scheduler
    if isinstance(watched, ReduceLROnPlateau) and "monitor" not in options:
        options["monitor"] = _monitor(unmade if watched is scheduler else _given(unmade, "after"), metric)
    if isinstance(watched, ReduceLROnPlateau) and watched is not scheduler:
        # Two entries, because Lightning steps a schedule either after each minibatch or with the objective.
        warm = {"scheduler": scheduler, "interval": "step"}
        return [optimizer], [warm, {**options, "interval": "epoch", "scheduler": watched}]
    return {"optimizer": optimizer, "lr_scheduler": {**options, "scheduler": scheduler}}


#: Schedules whose formula counts minibatches.
_PER_MINIBATCH = (inverse_sqrt_minibatch, one_cycle, gradient_norm, warmup)
#: The argument that says how long the training is.
_TOTALS = {linear: "total", cosine: "total", one_cycle: "total", CosineAnnealingLR: "T_max", OneCycleLR: "total_steps"}


class _Length:
    """How long a training is, less a warm-up, as far as its Trainer knows; loaders are made only when asked for it."""

    def __init__(self, trainer: pl.Trainer | None, warm_steps: int = 0) -> None:
        self._trainer, self._warm_steps = trainer, warm_steps

    def less(self, warm_steps: int) -> _Length:
        return _Length(self._trainer, self._warm_steps + warm_steps)

    def total(self, interval: Interval) -> int | None:
        """Epochs or minibatches, at least 1; None where the training has no end of its own."""
        whole = self._steps() if interval == "step" else self._epochs()
        if whole is None or not self._warm_steps:
            return whole
        warm = self._warm_steps if interval == "step" else self._warm_steps // (self.steps_per_epoch() or 1)
        return max(1, whole - warm)

    def steps_per_epoch(self) -> int | None:
        """Steps of the optimizer in an epoch: minibatches, or groups of them whose gradients are accumulated."""
        trainer = self._trainer
        if trainer is None:
            return None
        if trainer.train_dataloader is None:
            trainer.fit_loop.setup_data()  # as Trainer.estimated_stepping_batches does
        batches = trainer.num_training_batches
        return None if math.isinf(batches) else max(1, math.ceil(batches / trainer.accumulate_grad_batches))

    def _steps(self) -> int | None:
        steps = math.inf if self._trainer is None else self._trainer.estimated_stepping_batches
        return None if math.isinf(steps) or steps < 0 else max(1, int(steps))

    def _epochs(self) -> int | None:
        trainer = self._trainer
        if trainer is None:
            return None
        bounds = [] if trainer.max_epochs in {None, -1} else [trainer.max_epochs]
        if trainer.max_steps != -1 and (per_epoch := self.steps_per_epoch()):
            bounds.append(math.ceil(trainer.max_steps / per_epoch))
        return max(1, min(bounds)) if bounds else None


def _trainer(module: pl.LightningModule) -> pl.Trainer | None:
    try:
        return module.trainer
    except RuntimeError:  # a module outside of a training
        return None


def _filled(schedule: Any, interval: Interval, length: _Length) -> Any:
    """The schedule with what it was not told and the Trainer knows."""
    target = _target(schedule)
    missing: dict[str, Any] = {}
    if target is warmup:
        missing = _filled_warmup(schedule, length)
    elif target is OneCycleLR and _given(schedule, "epochs") is not None:
        if _given(schedule, "steps_per_epoch") is None:
            missing["steps_per_epoch"] = length.steps_per_epoch()
    elif target in _TOTALS and _given(schedule, _TOTALS[target]) is None:
        missing[_TOTALS[target]] = length.total(interval)
    return functools.partial(schedule, **{name: value for name, value in missing.items() if value is not None})


def _filled_warmup(schedule: Any, length: _Length) -> dict[str, Any]:
    steps, epochs, after, per_epoch = (
        _given(schedule, name) for name in ("steps", "epochs", "after", "steps_per_epoch")
    )
    if per_epoch is None and (epochs is not None or _counts_epochs(after)):
        per_epoch = length.steps_per_epoch()
    if after is not None and not any(_warmup_problems(steps, epochs, after, per_epoch)):
        left = length.less(_warm_steps(steps, epochs, per_epoch))
        after = _filled(after, _interval(after), left)
    return {"after": after, "steps_per_epoch": per_epoch}


def _called(schedule: Any, optimizer: Optimizer) -> Any:
    try:
        inspect.signature(schedule).bind(optimizer)
    except TypeError as error:
        raise ConfigError([_arguments_problem(schedule, error)]) from None
    return schedule(optimizer)


def _target(schedule: Any) -> Any:
    while isinstance(schedule, functools.partial):  # Hydra's own kind does not merge with one around it
        schedule = schedule.func
    return schedule


def _given(schedule: Any, name: str) -> Any:
    """What the schedule will be called with under this name: given or by default; None where it has no such argument."""
    try:
        if isinstance(schedule, functools.partial):  # whose own signature does not say which argument is wrong
            inspect.signature(schedule.func).bind_partial(*schedule.args, **schedule.keywords)
        parameter = inspect.signature(schedule).parameters.get(name)
    except TypeError as error:
        raise ConfigError([_arguments_problem(schedule, error)]) from None
    return None if parameter is None or parameter.default is inspect.Parameter.empty else parameter.default


def _interval(schedule: Any) -> Interval:
    target = _target(schedule)
    if target is OneCycleLR:  # total_steps alone may count either; Lightning asks about epochs
        return "step" if _given(schedule, "total_steps") is None else "epoch"
    return "step" if target in _PER_MINIBATCH or _given(schedule, "interval") == "step" else "epoch"


def _counts_epochs(after: Any) -> bool:
    """Whether a warm-up before it has to know where an epoch ends."""
    stepped = after is not None and _target(after) not in (constant, plateau, ReduceLROnPlateau)
    return stepped and _interval(after) == "epoch"


def _monitor(schedule: Any, metric: str | None) -> str:
    key = _given(schedule, "monitor") or metric
    if key is None:
        remedy = "Write `monitor: ${objective.metric}` beside its _target_."
        raise ConfigError([Problem("schedule.monitor", "a plateau needs the key of the objective", None, remedy)])
    return str(key)


def _known(value: Any) -> Any:
    assert value is not None, "refused before"
    return value


def _copied(rate: Any) -> Any:
    """A rate that stays what it is when an optimizer with rates as tensors writes into its own."""
    return rate.clone() if isinstance(rate, Tensor) else rate


def _refuse(*found: Problem | None) -> None:
    if problems := [problem for problem in found if problem is not None]:
        raise ConfigError(problems)


def _range_problem(
    name: str,
    value: Any,
    low: float,
    high: float = math.inf,
    *,
    above: bool = False,
    below: bool = False,
    whole: bool = False,
) -> Problem | None:
    """What is wrong with a number that is to lie in [low, high], open at the ends that `above` and `below` name."""
    kind = int if whole else (int, float)
    if isinstance(value, kind) and not isinstance(value, bool) and math.isfinite(value):
        over = value > low if above else value >= low
        under = value < high if below else value <= high
        if over and under:
            return None
    end = "" if math.isinf(high) else f" and {'below' if below else 'at most'} {high:g}"
    rule = f"is {'a whole' if whole else 'a'} number {'above' if above else 'of at least'} {low:g}{end}"
    return Problem(f"schedule.{name}", rule, value, "Write such a number.")


def _total_problem(total: Any) -> Problem | None:
    if total is None:
        rule = "needs the length of the training, which no Trainer tells"
        remedy = "Write the epochs (or minibatches) of the training, or set trainer.max_epochs; not with `frequency`."
        return Problem("schedule.total", rule, None, remedy)
    return _range_problem("total", total, 1, whole=True)


def _interval_problem(interval: Any) -> Problem | None:
    if interval in ("epoch", "step"):
        return None
    return Problem("schedule.interval", "is epoch or step", interval, "Write `interval: epoch` or `interval: step`.")


def _minibatch_problem(schedule: Any, interval: Interval) -> Problem | None:
    if interval == "step" or _target(schedule) not in _PER_MINIBATCH:
        return None
    rule = f"{_target(schedule).__name__} is stepped after each minibatch"
    return Problem("schedule.interval", rule, interval, "Leave `interval` out.")


def _momentum_problem(optimizer: Optimizer, *, cycle_momentum: bool) -> Problem | None:
    if not cycle_momentum or {"momentum", "betas"} & optimizer.defaults.keys():
        return None
    rule = f"{type(optimizer).__name__} has no momentum that could cycle"
    return Problem("schedule.cycle_momentum", rule, cycle_momentum, "Leave it out.")


def _mode_problem(mode: Any) -> Problem | None:
    if isinstance(mode, str) and mode in _MODES:
        return None
    rule = "is min, max, minimize or maximize"
    return Problem("schedule.mode", rule, mode, "In a study's file write `mode: ${objective.direction}`.")


def _monitor_problem(monitor: Any) -> Problem | None:
    if monitor is None or isinstance(monitor, str):
        return None
    return Problem("schedule.monitor", "is a key that the module logs", monitor, "Write for example val/loss.")


def _warmup_problems(steps: Any, epochs: Any, after: Any, steps_per_epoch: Any) -> list[Problem | None]:
    found = [
        None if steps is None else _range_problem("steps", steps, 0, whole=True),
        None if epochs is None else _range_problem("epochs", epochs, 0),
        None if steps_per_epoch is None else _range_problem("steps_per_epoch", steps_per_epoch, 1, whole=True),
    ]
    if (steps is None) == (epochs is None):
        given = None if steps is None else {"steps": steps, "epochs": epochs}
        found.append(Problem("schedule", "a warm-up has either steps or epochs", given, "Write one of them."))
    if steps_per_epoch is None and (epochs is not None or _counts_epochs(after)):
        rule = "is needed where epochs are counted and no Trainer tells how long they are"
        found.append(Problem("schedule.steps_per_epoch", rule, None, "Write the number of minibatches of an epoch."))
    return found


def _arguments_problem(schedule: Any, error: TypeError) -> Problem:
    target = _target(schedule)
    name = getattr(target, "__qualname__", repr(target))
    remedy = "Mend the keys beside its _target_, which has `_partial_: true`."
    return Problem(f"schedule ({name})", "is called with the optimizer and takes its arguments", str(error), remedy)
