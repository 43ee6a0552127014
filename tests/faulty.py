"""Studies that misbehave on purpose, for tests of rounds: real Lightning modules, trained in real worker processes."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import lightning.pytorch as pl
import torch
from torch import nn
from torch.nn.functional import mse_loss
from torch.utils.data import DataLoader, TensorDataset


def loaders(
    batch_size: int = 16, num_workers: int = 0, val: int = 32, *, broken: bool = False, hangs: bool = False
) -> tuple[DataLoader, DataLoader]:
    """A line with noise: 64 points for training, 32 (or `val`) for validation."""
    if broken:
        return Broken(), Broken()
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(96, 1, generator=generator)
    y = 2 * x - 1 + 0.01 * torch.randn(96, 1, generator=generator)
    train = Hanging(x[:64], y[:64]) if hangs else TensorDataset(x[:64], y[:64])
    shuffled = DataLoader(train, batch_size, shuffle=True, num_workers=num_workers)
    return shuffled, DataLoader(TensorDataset(x[64 : 64 + val], y[64 : 64 + val]), 32)


class Hanging(TensorDataset):
    """A data set that never gives an example."""

    def __getitem__(self, index):
        time.sleep(3600)


class Broken:
    """A loader that fails when it is asked for its first batch."""

    def __len__(self):
        return 4

    def __iter__(self):
        raise RuntimeError("no batch today")


class Line(pl.LightningModule):
    """Linear regression that does as its `mode` says; `marks` is a folder for what must outlive the process."""

    def __init__(self, lr: float = 0.1, mode: str = "good", marks: str = ".", pause_s: float = 0.0) -> None:
        super().__init__()
        self.lr, self.mode, self.marks, self.pause_s = lr, mode, Path(marks), pause_s
        self.linear = nn.Linear(1, 1)
        nn.init.zeros_(self.linear.weight)  # every trial starts at the same place: only its learning rate tells
        nn.init.zeros_(self.linear.bias)
        if mode == "raise in init":
            raise ValueError("no module today")

    def training_step(self, batch, batch_idx):
        x, y = batch
        time.sleep(self.pause_s)
        if self.mode == "memory for 8" and len(x) > 8:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        if self.global_step == 2:
            self._misbehave()
        return mse_loss(self.linear(x), y)

    def on_train_epoch_end(self):
        with (self.marks / "epochs.txt").open("a") as file:
            file.write(f"{self.lr:.6g} {self.current_epoch}\n")

    def _misbehave(self) -> None:
        once = self.marks / "once"
        if self.mode == "raise" or (self.mode == "raise on rank 1" and self.global_rank == 1):
            raise ValueError("what a pity")
        if self.mode == "memory":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        if self.mode == "exit":
            os._exit(3)
        if self.mode == "killed once" and not once.exists():
            once.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if self.mode == "sleep" or (self.mode == "sleep on rank 1" and self.global_rank == 1):
            time.sleep(3600)
        if self.mode == "diverge":
            with torch.no_grad():
                self.linear.weight.fill_(float("nan"))
        if self.mode == "print":
            print("printed by the module", flush=True)

    def validation_step(self, batch, batch_idx):
        x, y = batch
        if self.mode == "log_dict":
            self.log_dict({"val/loss": mse_loss(self.linear(x), y)})
        elif self.mode != "silent":
            self.log("val/loss", mse_loss(self.linear(x), y), on_step=self.mode == "log each step", on_epoch=True)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.lr)
