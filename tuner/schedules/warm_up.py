"""The linear warm-up in front of any other schedule.

How many minibatches an epoch has, and what is left of the training behind the warm-up, `trainer` fills in.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from tuner.errors import Problem
from tuner.formulas import warmup_factor
from tuner.schedules.adaptive import Plateau, plateau
from tuner.schedules.arguments import known, range_problem, refuse
from tuner.schedules.fixed import constant, copied
from tuner.schedules.nodes import Schedule, called, interval_of, per_minibatch, target_of


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
        self._first = [copied(group["lr"]) for group in optimizer.param_groups]
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
        return [copied(group["lr"]) for group in self.optimizer.param_groups]

    def state_dict(self) -> dict[str, Any]:
        """Plain values, with the state of the schedule that follows under `after`."""
        return {**super().state_dict(), "after": self.after.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up what `state_dict` gave."""
        self.after.load_state_dict(state_dict["after"])
        super().load_state_dict({key: value for key, value in state_dict.items() if key != "after"})


@per_minibatch
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
    refuse(*warmup_problems(steps, epochs, after, steps_per_epoch))
    following = called(constant if after is None else after, optimizer)
    every = 0 if isinstance(following, ReduceLROnPlateau) else 1
    if every and counts_epochs(after):
        every = known(steps_per_epoch)
    return Warmup(optimizer, warmup_steps(steps, epochs, steps_per_epoch), following, every)


def warmup_steps(steps: int | None, epochs: float | None, steps_per_epoch: int | None) -> int:
    """Minibatches of a warm-up in which `warmup_problems` finds nothing wrong."""
    return steps if steps is not None else round(known(epochs) * known(steps_per_epoch))


def counts_epochs(after: Any) -> bool:
    """Whether a warm-up before it has to know where an epoch ends."""
    stepped = after is not None and target_of(after) not in (constant, plateau, ReduceLROnPlateau)
    return stepped and interval_of(after) == "epoch"


def warmup_problems(steps: Any, epochs: Any, after: Any, steps_per_epoch: Any) -> list[Problem | None]:
    """What is wrong with a warm-up, one entry for each check; None where nothing is.

    Raises:
        ConfigError: the schedule behind it does not take what it was given.
    """
    found = [
        None if steps is None else range_problem("steps", steps, 0, whole=True),
        None if epochs is None else range_problem("epochs", epochs, 0),
        None if steps_per_epoch is None else range_problem("steps_per_epoch", steps_per_epoch, 1, whole=True),
    ]
    if (steps is None) == (epochs is None):
        given = None if steps is None else {"steps": steps, "epochs": epochs}
        found.append(Problem("schedule", "a warm-up has either steps or epochs", given, "Write one of them."))
    if steps_per_epoch is None and (epochs is not None or counts_epochs(after)):
        rule = "is needed where epochs are counted and no Trainer tells how long they are"
        found.append(Problem("schedule.steps_per_epoch", rule, None, "Write the number of minibatches of an epoch."))
    return found
