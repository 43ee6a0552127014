"""Gradient descent on one parameter: what a learning-rate schedule does where everything else is known.

The loss of a step is (x − y)², where y is 0.5 plus a little noise, so the minimum of its mean is at x = 0.5 and its
curvature is 2. An epoch is one step. A rate η takes the distance to the minimum times 1 − 2η at each step: 0.5 would
land there at once, from 1 on it diverges. The noise is the reason for a rate that falls: with a fixed one, x keeps
jumping about the minimum by about √(η/(1 − η)) times the noise.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from tuner.schedules import configure

MINIMUM = 0.5


@dataclass(frozen=True)
class Rate:
    """A learning rate and how it goes on; one choice, because a schedule's best first rate is its own.

    Attributes:
        lr: of the first step.
        schedule: called with the optimizer; None leaves the rate as it is.
    """

    lr: float = 0.03
    schedule: Callable[[torch.optim.Optimizer], Any] | None = None


def loaders() -> tuple[DataLoader[Any], DataLoader[Any]]:
    """One batch for training and one for validation, without content: the loss needs none."""
    nothing = TensorDataset(torch.zeros(1))
    return DataLoader(nothing), DataLoader(nothing)


class Quadratic(pl.LightningModule):
    """One parameter x on its way to the minimum; logs `val/distance`, |x − 0.5| after each epoch.

    Args:
        start: where x begins.
        noise: standard deviation of the minimum that a step sees; 0 is plain gradient descent, the same for every seed.
        rate: of the descent.
    """

    def __init__(self, start: float = 0.0, noise: float = 0.01, rate: Rate = Rate()) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["rate"])  # its schedule is code
        self.x = nn.Parameter(torch.tensor(float(start)))
        self._noise = noise
        self._rate = rate

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:  # noqa: ARG002
        # Drawn on the CPU, so that a seed has the same noise on every device.
        seen = MINIMUM + self._noise * torch.randn(()).item()
        return (self.x - seen) ** 2

    def validation_step(self, batch: Any, batch_idx: int) -> None:  # noqa: ARG002
        self.log("val/distance", (self.x - MINIMUM).abs(), batch_size=1)

    def configure_optimizers(self) -> Any:
        return configure(self, torch.optim.SGD(self.parameters(), lr=self._rate.lr), self._rate.schedule)
