"""A residual network of nine layers that reaches 94 % on CIFAR-10 within a few epochs' worth of seconds on a GPU.

Source: D. Page (2018), How to train your ResNet, https://github.com/davidcpage/cifar10-fast.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from tuner.schedules import configure

CLASSES = 10

OptimizerOf = Callable[..., torch.optim.Optimizer]
Batch = tuple[Tensor, Tensor]


class ResNet(pl.LightningModule):
    """Three stages of convolutions, the first and the last with a residual branch, and one linear layer.

    Logs `train/loss`, `val/loss`, `val/acc` and `test/acc`, each once per epoch.

    Args:
        width: channels of the first layer; the stages have 2, 4 and 8 times as many.
        batch_norm: whether each convolution is normalised; it then has no bias, which the norm's shift would cancel.
        label_smoothing: share of the target that is spread over all classes, in training only.
        scale: factor of the logits. Below 1 it keeps the first steps of a high learning rate from saturating them.
        optimizer: called with two groups of parameters: the weights, and those with one dimension (norms and biases),
            which do not decay.
        schedule: called with the optimizer; see `tuner.schedules`.
    """

    def __init__(
        self,
        width: int = 64,
        batch_norm: bool = True,  # noqa: FBT001, FBT002 - named in a configuration
        label_smoothing: float = 0.1,
        scale: float = 0.125,
        optimizer: OptimizerOf = torch.optim.SGD,
        schedule: Callable[..., Any] | None = None,
    ) -> None:
        super().__init__()
        # The two factories are code: load_from_checkpoint takes them as arguments where it is to train on.
        self.save_hyperparameters(ignore=["optimizer", "schedule"])
        self.network = network(width, batch_norm=batch_norm)
        self._label_smoothing, self._scale = label_smoothing, scale
        self._optimizer, self._schedule = optimizer, schedule
        self._losses = _Mean()

    def forward(self, images: Tensor) -> Tensor:
        """Logits, float32 of shape (n, 10), of normalised images of shape (n, 3, 32, 32)."""
        logits: Tensor = self.network(images)
        return logits.float() * self._scale

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:  # noqa: ARG002
        images, labels = batch
        loss = cross_entropy(self(images), labels, label_smoothing=self._label_smoothing)
        self._losses.add(loss.detach())
        return loss

    def on_train_epoch_start(self) -> None:
        self._losses.clear()

    def on_train_epoch_end(self) -> None:
        # self.log in each step reads nothing from the GPU, but costs more than a small step's kernels.
        self.log("train/loss", self._losses.value, sync_dist=True)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:  # noqa: ARG002
        self._evaluate(batch, "val")

    def test_step(self, batch: Batch, batch_idx: int) -> None:  # noqa: ARG002
        self._evaluate(batch, "test")

    def configure_optimizers(self) -> Any:
        weights = [parameter for parameter in self.parameters() if parameter.ndim > 1]
        others = [parameter for parameter in self.parameters() if parameter.ndim <= 1]
        optimizer = self._optimizer([{"params": weights}, {"params": others, "weight_decay": 0.0}])
        return configure(self, optimizer, self._schedule)

    def _evaluate(self, batch: Batch, split: str) -> None:
        images, labels = batch
        logits = self(images)
        accuracy = (logits.argmax(dim=1) == labels).float().mean()
        metrics = {f"{split}/acc": accuracy, f"{split}/loss": cross_entropy(logits, labels)}
        self.log_dict(metrics, batch_size=len(labels), sync_dist=True)


class _Mean:
    """Mean of losses, added up where they are: a GPU is not waited for."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        self._sum: Tensor | None = None
        self._count = 0

    def add(self, loss: Tensor) -> None:
        self._sum = loss if self._sum is None else self._sum + loss
        self._count += 1

    @property
    def value(self) -> Tensor:
        return torch.tensor(torch.nan) if self._sum is None else self._sum / self._count


def network(width: int, *, batch_norm: bool = True) -> nn.Sequential:
    """The modules from images of shape (n, 3, 32, 32) to logits of shape (n, 10)."""

    def convolution(inputs: int, outputs: int) -> nn.Sequential:
        layers: list[nn.Module] = [nn.Conv2d(inputs, outputs, 3, padding=1, bias=not batch_norm)]
        if batch_norm:
            layers.append(nn.BatchNorm2d(outputs))
        return nn.Sequential(*layers, nn.ReLU(inplace=True))

    def residual(channels: int) -> nn.Module:
        return Residual(nn.Sequential(convolution(channels, channels), convolution(channels, channels)))

    def stage(inputs: int) -> list[nn.Module]:
        return [convolution(inputs, 2 * inputs), nn.MaxPool2d(2)]

    return nn.Sequential(
        convolution(3, width),
        *stage(width), residual(2 * width),
        *stage(2 * width),
        *stage(4 * width), residual(8 * width),
        nn.AdaptiveMaxPool2d(1), nn.Flatten(),
        nn.Linear(8 * width, CLASSES),
    )  # fmt: skip


class Residual(nn.Module):
    """A branch added to its own input."""

    def __init__(self, branch: nn.Module) -> None:
        super().__init__()
        self.branch = branch

    def forward(self, images: Tensor) -> Tensor:
        """Of the input's shape."""
        added: Tensor = images + self.branch(images)
        return added
