"""What the contenders share: the study with its space, and one training of a configuration as the peers write it.

A peer trains the study's LightningModule on the study's splits. All else is as the examples of Optuna and Ray have it:
a DataLoader over a Dataset, a Trainer with its defaults but for what the example sets. With `equal` the peers get all of
what the study says: its loaders, the settings of its trainer, and its own values as the first configuration.
"""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch.utils.data import DataLoader

from contenders.record import Record
from tuner.config import StudySettings, load
from tuner.space import Value
from tuner.training.build import build, instantiate
from tuner.training.task import Task


@dataclass(frozen=True)
class Job:
    """What one process of a contender is asked to do.

    Attributes:
        words: of the study, as the command line has them.
        log: see `record`.
        folder: for all other files.
        seconds: until no training is started any more.
        seed: of the contender.
        slots: trainings at the same time, of all of its processes together.
        place: of this process among them, from 0.
        threads: of torch in each training, however many the environment says; None for torch's own choice.
        equal: whether the peers get all of what the study says.
        loader_workers: processes of a DataLoader.
        own: the study's own values, as they would be drawn, for the first configuration with `equal`.
        options: of the contender.
    """

    words: Sequence[str]
    log: str
    folder: str
    seconds: float
    seed: int
    slots: int
    place: int
    threads: int | None
    equal: bool
    loader_workers: int
    own: Mapping[str, Value]
    options: Mapping[str, Any]

    @classmethod
    def of_process(cls) -> Job:
        """From this process's command line."""
        return cls(**json.loads(sys.argv[1]))

    def as_word(self) -> str:
        return json.dumps(asdict(self))

    @functools.cached_property
    def study(self) -> StudySettings:
        """Composed once, also where the job is sent to other processes after that."""
        study = load(self.words).study
        assert study is not None
        return study

    def train(self, trial: int | str, values: Mapping[str, Value], callbacks: Sequence[pl.Callback]) -> float:
        """Train a configuration as drawn; the objective at its end."""
        if self.threads is not None:
            torch.set_num_threads(self.threads)
        study, folder = self.study, str(Path(self.folder) / f"trial-{trial}")
        config = study.nodes.plain(study.space.effective(values), study.space)
        options: dict[str, Any] = {
            "callbacks": [Record(self.log, study.objective.metric), *callbacks],
            "enable_checkpointing": False,
        }
        if self.equal:
            trainer = fitted(Task(0, config, study.objective.metric, 0, folder), options["callbacks"])
        else:
            trainer = pl.Trainer(max_epochs=study.epochs, devices=1, default_root_dir=folder, **options)
            trainer.fit(instantiate(config["module"]), *loaders(config["data"], self.loader_workers))
        return float(trainer.callback_metrics[study.objective.metric])


def fitted(task: Task, callbacks: Sequence[pl.Callback]) -> pl.Trainer:
    """Train as the study says, with its loaders, its trainer's settings and its callbacks, and with these."""
    parts = build(task)
    trainer = pl.Trainer(**parts.trainer, callbacks=[*parts.callbacks, *callbacks], enable_checkpointing=False)
    trainer.fit(parts.module, **parts.fit)
    return trainer


def loaders(node: Mapping[str, Any], workers: int) -> tuple[DataLoader[Any], DataLoader[Any]]:
    """DataLoaders of training and validation over the examples of the study's data."""
    train, val = _DATASETS[node["_target_"]](json.dumps(node, sort_keys=True))
    batch = node["batch_size"]
    options: dict[str, Any] = {
        "num_workers": workers, "persistent_workers": workers > 0, "pin_memory": torch.cuda.is_available(),
    }  # fmt: skip
    # As many steps as the study's own loader makes of an epoch.
    return DataLoader(train, batch, shuffle=True, drop_last=True, **options), DataLoader(val, batch, **options)


def _digits(_: str) -> tuple[Any, Any]:
    from plain_optuna import Data  # noqa: PLC0415 - a study takes its own data alone

    data = Data(1)
    return data.train, data.val


def _cifar(node: str) -> tuple[Any, Any]:
    from cifar import usual_loaders  # noqa: PLC0415 - likewise

    return _cifar_of(json.dumps({**json.loads(node), "batch_size": 1}, sort_keys=True), usual_loaders)


@functools.cache
def _cifar_of(node: str, usual_loaders: Any) -> tuple[Any, Any]:
    """Read once per process, as a script would."""
    train, val = usual_loaders(instantiate(json.loads(node)), 1, 0)
    return train.dataset, val.dataset


_DATASETS = {"studies.digits.Digits": _digits, "studies.cifar.CIFAR10": _cifar}
