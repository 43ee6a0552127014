"""Digits tuned by hand, as Optuna's examples for Lightning do it; what `throughput.py` compares `tuner` with.

The module is the one that is shipped. All else is what the examples have: loaders over tensor datasets, a Trainer with
its defaults, a study in memory, a pruner that is asked after each epoch.
"""

from __future__ import annotations

import argparse
import functools
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import optuna
import torch
from torch.utils.data import DataLoader, TensorDataset

from studies.digits import MLP, splits


class Data(pl.LightningDataModule):
    def __init__(self, batch_size: int) -> None:
        super().__init__()
        self.batch_size = batch_size
        self.train, self.val, _ = (TensorDataset(*split) for split in splits(0))

    def train_dataloader(self) -> DataLoader[Any]:
        # As many steps as the shipped data makes of an epoch.
        return DataLoader(self.train, batch_size=self.batch_size, shuffle=True, drop_last=True)

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.val, batch_size=self.batch_size)


class Pruning(pl.Callback):
    """Optuna's own callback in short; that one needs a package more."""

    def __init__(self, trial: optuna.Trial, monitor: str) -> None:
        self.trial, self.monitor = trial, monitor

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        del pl_module
        if trainer.sanity_checking:
            return
        self.trial.report(trainer.callback_metrics[self.monitor].item(), step=trainer.current_epoch)
        if self.trial.should_prune():
            raise optuna.TrialPruned


def objective(trial: optuna.Trial, *, epochs: int, folder: str, checkpoints: bool) -> float:
    pl.seed_everything(trial.number)
    optimizer = functools.partial(
        torch.optim.SGD,
        lr=trial.suggest_float("lr", 1e-4, 1.0, log=True),
        momentum=trial.suggest_float("momentum", 0.8, 0.995),
        weight_decay=trial.suggest_float("weight_decay", 1e-6, 1e-2, log=True),
        nesterov=True,
        fused=True,
    )
    schedule = {
        "constant": None,
        "cosine": functools.partial(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=epochs),
        "exponential": functools.partial(torch.optim.lr_scheduler.ExponentialLR, gamma=0.8),
    }[trial.suggest_categorical("schedule", ["constant", "cosine", "exponential"])]
    module = MLP(
        layers=trial.suggest_int("layers", 1, 4),
        hidden=trial.suggest_int("hidden", 16, 512, log=True),
        dropout=trial.suggest_float("dropout", 0.0, 0.6),
        optimizer=optimizer,
        schedule=schedule,
    )
    data = Data(trial.suggest_categorical("batch_size", [16, 32, 64, 128, 256]))
    trainer = pl.Trainer(
        max_epochs=epochs,
        default_root_dir=folder,
        enable_checkpointing=checkpoints,
        callbacks=[Pruning(trial, monitor="val/acc")],
    )
    trainer.fit(module, datamodule=data)
    return float(trainer.callback_metrics["val/acc"].item())


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("configurations", type=Path, help="JSON: a list of what to train")
    parser.add_argument("result", type=Path, help="JSON: when each trial ended, its epochs and its value")
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--no-checkpoints", action="store_true")
    parser.add_argument("--threads", type=int)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    configurations = json.loads(options.configurations.read_text(encoding="utf-8"))
    # Asked after each epoch and never content: both sides are to train the same epochs.
    pruner = optuna.pruners.MedianPruner(n_startup_trials=len(configurations))
    study = optuna.create_study(direction="maximize", pruner=pruner)
    for configuration in configurations:
        study.enqueue_trial(configuration)
    ended: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        train = functools.partial(
            objective, epochs=options.epochs, folder=folder, checkpoints=not options.no_checkpoints
        )
        study.optimize(train, n_trials=len(configurations), callbacks=[lambda *_: ended.append(time.time())])
    epochs = sum(len(trial.intermediate_values) for trial in study.trials)
    options.result.write_text(
        json.dumps({"ended": ended, "epochs": epochs, "best": study.best_value}), encoding="utf-8"
    )


if __name__ == "__main__":
    main()
