"""The smallest real study: 1,797 handwritten digits of 8x8 pixels and a network of a few linear layers.

The images come with scikit-learn, so nothing is downloaded. Everything is made for training many networks in little
time: the data is one tensor in memory, a batch is an index into it, and nothing is logged per step.

Source of the data: E. Alpaydin, C. Kaynak (1998), Optical Recognition of Handwritten Digits, UCI; doi 10.24432/C50P49.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from tuner.schedules import configure
from tuner.training.batches import FULL, Batches, device_of

PIXELS = 64
CLASSES = 10

OptimizerOf = Callable[..., torch.optim.Optimizer]
ScheduleOf = Callable[[torch.optim.Optimizer], torch.optim.lr_scheduler.LRScheduler]
Split = tuple[Tensor, Tensor]


class Digits(pl.LightningDataModule):
    """Digits in three stratified splits: 60 % training, 20 % validation, 20 % test.

    Pixels are scaled with the mean and deviation of all pixels of the training split. Batches are pairs of images,
    float32 of shape (n, 64), and labels, int64 of shape (n,).

    Args:
        batch_size: of training, or "full"; the other splits are one batch each.
        split_seed: fixes the splits, whatever the seed of the training.
        train_on_all: whether the validation split joins the training split, for a final training; pixels are scaled as
            without it, so that both networks take the same images.
    """

    def __init__(
        self,
        batch_size: int | str = 64,
        split_seed: int = 0,
        train_on_all: bool = False,  # noqa: FBT001, FBT002 - named in a configuration
    ) -> None:
        super().__init__()
        self.batch_size = batch_size
        self.train_on_all = train_on_all
        self.train, self.val, self.test = splits(split_seed)

    def train_dataloader(self) -> Batches:
        images, labels = self.train
        if self.train_on_all:
            images, labels = torch.cat([images, self.val[0]]), torch.cat([labels, self.val[1]])
        return Batches((images, labels), self.batch_size, shuffle=True, device=device_of(self))

    def val_dataloader(self) -> Batches:
        return Batches(self.val, FULL, device=device_of(self))

    def test_dataloader(self) -> Batches:
        return Batches(self.test, FULL, device=device_of(self))


class MLP(pl.LightningModule):
    """Linear layers with batch norm, an activation and dropout between them.

    Logs `train/loss`, `val/loss`, `val/acc` and `test/acc`, each once per epoch.

    Args:
        layers: hidden layers; 0 is logistic regression.
        hidden: units of each hidden layer.
        dropout: share of the hidden units that a training step leaves out.
        activation: a class of `torch.nn`, by name.
        batch_norm: whether hidden layers are normalised; their linear part then has no bias, which the shift of the
            norm would cancel.
        optimizer: makes the optimizer from the parameters.
        schedule: makes the learning-rate schedule from the optimizer; see `tuner.schedules.configure`.
    """

    def __init__(
        self,
        layers: int = 2,
        hidden: int = 128,
        dropout: float = 0.0,
        activation: str = "ReLU",
        batch_norm: bool = True,  # noqa: FBT001, FBT002 - named in a configuration
        optimizer: OptimizerOf = torch.optim.AdamW,
        schedule: ScheduleOf | None = None,
    ) -> None:
        super().__init__()
        # The two factories are code: load_from_checkpoint takes them as arguments where it is to train on.
        self.save_hyperparameters(ignore=["optimizer", "schedule"])
        self.network = network(layers, hidden, dropout, getattr(nn, activation), batch_norm=batch_norm)
        self._optimizer = optimizer
        self._schedule = schedule
        self._epoch_loss = torch.zeros(())

    def forward(self, images: Tensor) -> Tensor:
        """Logits of shape (n, 10) of images of shape (n, 64)."""
        logits: Tensor = self.network(images)
        return logits

    def training_step(self, batch: Split, batch_idx: int) -> Tensor:  # noqa: ARG002
        images, labels = batch
        loss = cross_entropy(self(images), labels)
        self._epoch_loss += loss.detach()
        return loss

    def on_train_epoch_start(self) -> None:
        self._epoch_loss = torch.zeros((), device=self.device)

    def on_train_epoch_end(self) -> None:
        # self.log in each step costs 0.4 ms on a CPU, a quarter of the step.
        self.log("train/loss", self._epoch_loss / self.trainer.num_training_batches)

    def validation_step(self, batch: Split, batch_idx: int) -> None:  # noqa: ARG002
        self._evaluate(batch, "val")

    def test_step(self, batch: Split, batch_idx: int) -> None:  # noqa: ARG002
        self._evaluate(batch, "test")

    def configure_optimizers(self) -> Any:
        return configure(self, self._optimizer(self.parameters()), self._schedule)

    def _evaluate(self, batch: Split, split: str) -> None:
        images, labels = batch
        logits = self(images)
        accuracy = (logits.argmax(dim=1) == labels).float().mean()
        metrics = {f"{split}/acc": accuracy, f"{split}/loss": cross_entropy(logits, labels)}
        self.log_dict(metrics, batch_size=len(labels))


def network(
    layers: int, hidden: int, dropout: float, activation: type[nn.Module], *, batch_norm: bool
) -> nn.Sequential:
    """The modules from 64 pixels to 10 logits, with `layers` hidden layers of `hidden` units."""
    modules: list[nn.Module] = []
    width = PIXELS
    for _ in range(layers):
        modules.append(nn.Linear(width, hidden, bias=not batch_norm))
        if batch_norm:
            modules.append(nn.BatchNorm1d(hidden))
        modules.append(activation())
        if dropout > 0:
            modules.append(nn.Dropout(dropout))
        width = hidden
    return nn.Sequential(*modules, nn.Linear(width, CLASSES))


@functools.cache
def splits(seed: int) -> tuple[Split, Split, Split]:
    """Training, validation and test split; read once per process, so they must not be written to."""
    images, labels = load_digits(return_X_y=True)
    train_x, rest_x, train_y, rest_y = train_test_split(
        images, labels, train_size=0.6, stratify=labels, random_state=seed
    )
    val_x, test_x, val_y, test_y = train_test_split(rest_x, rest_y, test_size=0.5, stratify=rest_y, random_state=seed)
    mean, deviation = train_x.mean(), train_x.std()

    def tensors(pixels: Any, digits: Any) -> Split:
        scaled = torch.as_tensor((pixels - mean) / deviation, dtype=torch.float32)
        return scaled, torch.as_tensor(digits, dtype=torch.int64)

    return tensors(train_x, train_y), tensors(val_x, val_y), tensors(test_x, test_y)
