"""What the tests of schedules share in Lightning: small modules, their data, and the rates of a training."""

import lightning.pytorch as pl
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from tuner.schedules import configure
from tuner.training.process import without_noise

BATCHES, EPOCHS = 5, 4


def points():
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(4 * BATCHES, 3, generator=generator)
    return TensorDataset(x, x.sum(dim=1, keepdim=True))


def loaders():
    return DataLoader(points(), 4), DataLoader(points(), 8)


class Bare(pl.LightningModule):
    """Linear regression that writes down its rate in each step; no configure_optimizers."""

    def __init__(self, rates=None):
        super().__init__()
        self.linear = nn.Linear(3, 1)
        self.rates = [] if rates is None else rates

    def training_step(self, batch, batch_idx):
        x, y = batch
        self.rates.append(self.trainer.optimizers[0].param_groups[0]["lr"])
        return nn.functional.mse_loss(self.linear(x), y)

    def validation_step(self, batch, batch_idx):
        x, y = batch
        self.log("val/loss", nn.functional.mse_loss(self.linear(x), y))


class Regression(Bare):
    """With configure_optimizers of its own, as a user writes it."""

    def __init__(self, schedule=None, file=None):
        super().__init__()
        self.schedule, self.file = schedule, file

    def configure_optimizers(self):
        return configure(self, torch.optim.SGD(self.parameters(), lr=0.1), self.schedule)

    def on_train_end(self):
        if self.file:
            torch.save(self.rates, self.file)


def fitted(module, train_loader=None, **options):
    options = {"max_epochs": EPOCHS, **options}
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    with without_noise():
        trainer = pl.Trainer(accelerator="cpu", num_sanity_val_steps=0, **quiet, **options)
        trainer.fit(module, loaders()[0] if train_loader is None else train_loader, loaders()[1])
    return module.rates


def course(factor, interval, steps=BATCHES * EPOCHS):
    return pytest.approx([0.1 * factor(i if interval == "step" else i // BATCHES) for i in range(steps)])
