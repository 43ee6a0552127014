"""Small LightningModules and data for the tests: one for each way in which users' modules differ."""

import os
import random
import warnings

import lightning.pytorch as pl
import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset


def points(count=64, seed=5):
    """A linear problem with noise: inputs (n, 4), targets (n, 1)."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(count, 4, generator=generator)
    return inputs, inputs.sum(dim=1, keepdim=True) + 0.1 * torch.randn(count, 1, generator=generator)


class Augmented(Dataset):
    """Adds noise from every global generator to each item."""

    def __init__(self, count=64):
        self.inputs, self.targets = points(count)

    def __len__(self):
        return len(self.inputs)

    def __getitem__(self, index):
        noise = 0.1 * torch.randn(4) + 0.1 * np.random.randn() + 0.1 * random.random()  # noqa: NPY002
        return (self.inputs[index] + noise).float(), self.targets[index]


def loaders(batch_size=8, *, workers=0, generator_seed=None, val_loaders=1, augmented=True, persistent=False):
    data = Augmented() if augmented else TensorDataset(*points())
    generator = None if generator_seed is None else torch.Generator().manual_seed(generator_seed)
    train = DataLoader(
        data, batch_size, shuffle=True, num_workers=workers, generator=generator, persistent_workers=persistent
    )
    val = [DataLoader(TensorDataset(*points(16, 9)), 8) for _ in range(val_loaders)]
    return train, val[0] if val_loaders == 1 else val


def train_only(batch_size=8):
    return DataLoader(TensorDataset(*points()), batch_size, shuffle=True), None


def draw():
    torch.randn(5)
    return loaders()


class Data(pl.LightningDataModule):
    def __init__(self, batch_size=8):
        super().__init__()
        self.batch_size = batch_size

    def train_dataloader(self):
        return loaders(self.batch_size)[0]

    def val_dataloader(self):
        return loaders(self.batch_size)[1]


class DrawingData(Data):
    """Draws when its validation loader is made."""

    def val_dataloader(self):
        torch.randn(3)
        return super().val_dataloader()


class Plain(pl.LightningModule):
    """Automatic optimization; draws in training from all random generators; no configure_optimizers."""

    def __init__(self, width=8, hook=None):
        super().__init__()
        self.save_hyperparameters()
        self.net = nn.Sequential(nn.Linear(4, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout(0.3))
        self.head = nn.Linear(width, 1)

    def loss(self, batch):
        inputs, targets = batch
        return nn.functional.mse_loss(self.head(self.net(inputs)), targets)

    def training_step(self, batch, batch_idx):
        loss = self.loss(batch) * (1 + 0.1 * random.random() + 0.1 * np.random.rand())  # noqa: NPY002
        self.log("train/loss", loss, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val/loss", self.loss(batch))


class Own(Plain):
    """With configure_optimizers of its own; `schedule` names one."""

    def __init__(self, width=8, schedule=None, epochs=6, steps=48):
        super().__init__(width)
        self.schedule = schedule
        self.epochs, self.steps = epochs, steps

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)
        schedulers = torch.optim.lr_scheduler
        match self.schedule:
            case "one cycle":
                schedule = schedulers.OneCycleLR(optimizer, 0.1, total_steps=self.steps)
                return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
            case "plateau":
                schedule = schedulers.ReduceLROnPlateau(optimizer, patience=0, threshold=0.5)
                return {
                    "optimizer": optimizer,
                    "lr_scheduler": {"scheduler": schedule, "monitor": "val/loss", "strict": False},
                }
            case "sequential":
                first = schedulers.LinearLR(optimizer, 0.1, total_iters=2)
                then = schedulers.CosineAnnealingLR(optimizer, self.epochs - 2)
                return [optimizer], [schedulers.SequentialLR(optimizer, [first, then], [2])]
            case _:
                return optimizer


class Convolution(Own):
    """Has a convolution, too."""

    def __init__(self):
        super().__init__()
        self.part = nn.Conv2d(3, 4, 3)


class Adam(Plain):
    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=0.01)


class Manual(Plain):
    """Manual optimization with two optimizers and a schedule that it steps itself."""

    def __init__(self, width=8):
        super().__init__(width)
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        first, second = self.optimizers()
        for optimizer in (first, second):
            loss = self.loss(batch)
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()
        self.lr_schedulers().step()
        return loss

    def configure_optimizers(self):
        first = torch.optim.SGD(self.net.parameters(), lr=0.05, momentum=0.9)
        second = torch.optim.Adam(self.head.parameters(), lr=0.01)
        return [first, second], [torch.optim.lr_scheduler.ExponentialLR(first, 0.99)]


class TwoLoaders(Own):
    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        self.log("val/loss", self.loss(batch))


class AtEpochEnd(Own):
    """Its objective is logged in on_train_epoch_end, although it has a validation."""

    def on_train_epoch_end(self):
        self.log("score", torch.tensor(float(self.current_epoch + 1)))


class NoValidation(Plain):
    validation_step = pl.LightningModule.validation_step

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.05)


class EveryOther(Own):
    """Logs its objective in every second validation only."""

    validations = 0

    def on_validation_epoch_end(self):
        self.validations += 1
        if self.validations % 2:
            self.log("sparse", torch.tensor(float(self.validations)))


class EveryOtherEpoch(NoValidation):
    """Logs its objective at the end of every second epoch only."""

    def on_train_epoch_end(self):
        if self.current_epoch % 2 == 0:
            self.log("sparse", torch.tensor(float(self.current_epoch + 1)))


class LogsNothing(Own):
    def training_step(self, batch, batch_idx):
        return self.loss(batch)

    def validation_step(self, batch, batch_idx):
        pass


class Scaled(Own):
    """From step `at` on its training loss is multiplied by `factor`."""

    def __init__(self, at=5, factor=float("nan")):
        super().__init__()
        self.at, self.factor = at, factor

    def training_step(self, batch, batch_idx):
        loss = self.loss(batch)
        return loss * self.factor if self.global_step >= self.at else loss


class NotFinite(Own):
    def validation_step(self, batch, batch_idx):
        self.log("val/loss", torch.tensor(float("inf")))


class Raises(Own):
    """Raises `error` in the hook `where`, after three steps."""

    def __init__(self, error="ValueError", where="training_step", text="a bad day"):
        super().__init__()
        self.error, self.where, self.text = error, where, text
        if where == "__init__":
            self.fail()

    def fail(self):
        kinds = {"OutOfMemoryError": torch.OutOfMemoryError, **vars(__import__("builtins"))}
        raise kinds[self.error](self.text)

    def training_step(self, batch, batch_idx):
        if self.where == "training_step" and self.global_step == 3:
            self.fail()
        return super().training_step(batch, batch_idx)

    def validation_step(self, batch, batch_idx):
        if self.where == "validation_step":
            self.fail()
        return super().validation_step(batch, batch_idx)


class Warns(Own):
    def training_step(self, batch, batch_idx):
        warnings.warn("mine: out of range", stacklevel=1)
        return super().training_step(batch, batch_idx)


class Greedy(Own):
    """Asks for more memory than there is."""

    def training_step(self, batch, batch_idx):
        return super().training_step(batch, batch_idx) + torch.empty(2**60, dtype=torch.uint8).sum()


class Unsafe(Own):
    """Puts into its checkpoint what cannot be read without executing it."""

    def on_save_checkpoint(self, checkpoint):
        checkpoint["folder"] = Unpicklable()


class Unpicklable:
    pass


class Average(pl.Callback):
    """As weight averaging does, changes the weights when a training ends, and keeps a state of its own."""

    def __init__(self):
        self.epochs = 0

    def on_train_epoch_end(self, trainer, pl_module):
        self.epochs += 1

    def on_train_end(self, trainer, pl_module):
        with torch.no_grad():
            for parameter in pl_module.parameters():
                parameter.zero_()

    def state_dict(self):
        return {"epochs": self.epochs}

    def load_state_dict(self, state_dict):
        self.epochs = state_dict["epochs"]


class StopsOnce(pl.Callback):
    """Asks for an end of the training after its first epoch, once."""

    def on_train_epoch_end(self, trainer, pl_module):
        if trainer.current_epoch == 0:
            trainer.should_stop = True


class Weights(pl.Callback):
    """Writes the weights, and all that was logged, when the last epoch ends."""

    def __init__(self, file, epochs):
        self.file, self.epochs = file, epochs

    def on_train_epoch_end(self, trainer, pl_module):
        if trainer.current_epoch + 1 == self.epochs:
            metrics = dict(trainer.callback_metrics)
            rates = [group["lr"] for optimizer in trainer.optimizers for group in optimizer.param_groups]
            state = {"weights": pl_module.state_dict(), "metrics": metrics, "rates": rates, "pid": os.getpid()}
            torch.save(state, self.file)


class Draws(pl.Callback):
    """Draws random numbers in the hooks of a training's start, as a logger of examples might."""

    def on_fit_start(self, trainer, pl_module):
        torch.randn(3)

    def on_train_start(self, trainer, pl_module):
        np.random.rand(), random.random(), torch.randn(2)  # noqa: NPY002
