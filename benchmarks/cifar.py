"""Training samples per second on CIFAR-10: the shipped study against the same network written the usual way.

The usual way is what Lightning's and PyTorch's tutorials have: a Dataset of images with transforms of one image at a
time (padded random crop, flip, normalisation), a DataLoader with worker processes, weights and images as (n, channels,
height, width). All have the same network, optimizer and batch size, take turns, and use all cores that there are. The
first epoch of each is not counted. `--accuracy` trains the shipped study once in full and reads the test set.

Needs the data: see the study; `--root` or TUNER_DATA says where it is.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from figures import Spread, filled, heading, note, parser, positive_int, short, table, temporary_folder, timed, verdict
from lightning.pytorch.profilers import PassThroughProfiler
from torch.utils.data import DataLoader, Dataset

from studies.cifar import CIFAR10
from studies.cifar.data import DEVIATION, MEAN
from tuner.config import load
from tuner.training.build import build
from tuner.training.process import without_noise
from tuner.training.task import Task

#: Padding of the random crop.
PADDING = 4
SYSTEMS = {
    "tuner": "auto",
    "tuner, 32 bits": "32-true",
    "usual": "32-true",
    "usual, bfloat16": "bf16-mixed",
}


class Images(Dataset[tuple[torch.Tensor, int]]):
    """One image at a time, as torchvision's transforms do it."""

    def __init__(self, images: torch.Tensor, labels: torch.Tensor) -> None:
        self.images, self.labels = images, labels.tolist()
        self.mean, self.std = torch.tensor(MEAN).view(3, 1, 1), torch.tensor(DEVIATION).view(3, 1, 1)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        image = self.images[index].float()
        padded = torch.nn.functional.pad(image[None], [PADDING] * 4, mode="reflect")[0]
        top, left = torch.randint(2 * PADDING + 1, (2,)).tolist()
        image = padded[:, top : top + 32, left : left + 32]
        if torch.rand(()) < 0.5:
            image = image.flip(2)
        return (image - self.mean) / self.std, self.labels[index]


class Clock(pl.Callback):
    """Seconds of each epoch's training, the device's queue emptied at both ends."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._began = 0.0

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        del trainer, pl_module
        self._began = _now()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        del pl_module, outputs, batch
        if batch_idx + 1 == trainer.num_training_batches:  # before the validation, which is no part of it
            self.seconds.append(_now() - self._began)


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def run(system: str, options: dict[str, Any]) -> dict[str, float]:
    """Train a few epochs in this process; samples per second and peak memory."""
    words = [
        "study=cifar", f"data.root={options['root']}", f"data.batch_size={options['batch']}",
        f"data.limit={options['limit']}", f"module.width={options['width']}", f"trainer.max_epochs={options['epochs']}",
        f"trainer.precision={SYSTEMS[system]}", "++trainer.limit_val_batches=1",
        f"trainer.channels_last={str(system.startswith('tuner')).lower()}", f"trainer.compile={options['compile']}",
    ]  # fmt: skip
    study = load(words).study
    assert study is not None
    pl.seed_everything(0, verbose=False)
    task = Task(0, study.nodes.plain(), study.objective.metric, 0, str(options["folder"]))
    clock = Clock()
    with without_noise():
        parts = build(task)
        trainer = pl.Trainer(**parts.trainer, callbacks=[clock], enable_checkpointing=False)
        if system.startswith("usual"):
            loaders = usual_loaders(parts.fit["datamodule"], options["batch"], options["workers"])
            trainer = pl.Trainer(
                **parts.trainer | {"profiler": PassThroughProfiler()}, callbacks=[clock], enable_checkpointing=False
            )
            trainer.fit(parts.module, *loaders)
        else:
            trainer.fit(parts.module, **parts.fit)
    samples = trainer.num_training_batches * options["batch"]
    found = {
        "samples_per_s": samples / Spread.of(clock.seconds[1:]).median,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }
    if torch.cuda.is_available():
        found["gpu_mib"] = torch.cuda.max_memory_allocated() / 2**20
        if system == "tuner":
            found["idle_share"] = idle_share(parts, task)
    return found


def usual_loaders(data: CIFAR10, batch: int, workers: int) -> list[DataLoader[Any]]:
    data.prepare_data()
    data.setup("fit")
    pixels, labels = (tensor.contiguous() for tensor in data._training)  # noqa: SLF001 - the same images
    train, val = (Images(pixels[rows], labels[rows]) for rows in (data._train_rows, data._val_rows))  # noqa: SLF001
    options: dict[str, Any] = {"num_workers": workers, "pin_memory": torch.cuda.is_available()}
    shuffled = DataLoader(train, batch, shuffle=True, drop_last=True, persistent_workers=workers > 0, **options)
    return [shuffled, DataLoader(val, batch, **options)]


def idle_share(parts: Any, task: Task) -> float:
    """Share of an epoch's time in which the GPU runs no kernel."""
    trainer = pl.Trainer(**{**parts.trainer, "max_epochs": 1}, enable_checkpointing=False)
    activities = [torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        began = _now()
        trainer.fit(build(task).module, **build(task).fit)
        wall_s = _now() - began
    spans = sorted((event.time_range.start, event.time_range.end) for event in profile.events())
    busy, until = 0.0, 0.0
    for start, end in spans:
        busy += max(end - max(start, until), 0.0)
        until = max(until, end)
    return 1 - busy / 1e6 / wall_s


def accuracy(root: str, words: list[str]) -> None:
    """One training in full with the study's own values, timed, and the test set read after it."""
    study = load(["study=cifar", f"data.root={root}", *words]).study
    assert study is not None
    with temporary_folder() as folder, without_noise():
        pl.seed_everything(0, verbose=False)
        parts = build(Task(0, study.nodes.plain(), study.objective.metric, 0, str(folder)))
        trainer = pl.Trainer(**{**parts.trainer, "limit_val_batches": 0}, enable_checkpointing=False)
        began = _now()
        trainer.fit(parts.module, **parts.fit)
        seconds = _now() - began
        [tested] = trainer.test(parts.module, **parts.fit, verbose=False)
    print(f"{seconds:.1f} s of training, data and start-up included; test accuracy {tested['test/acc']:.4f}")


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--root", default=os.environ.get("TUNER_DATA", "data"))
    options.add_argument("--width", type=positive_int, default=16)
    options.add_argument("--batch", type=positive_int, default=128)
    options.add_argument("--limit", default="5120", help="training images; null for all")
    options.add_argument("--epochs", type=positive_int, default=3)
    options.add_argument("--workers", type=int, default=2, help="of the usual way's DataLoader")
    options.add_argument("--repeats", type=positive_int)
    options.add_argument("--compile", default="false")
    options.add_argument("--accuracy", nargs="*", metavar="OVERRIDE", help="train the study in full instead")
    asked = filled(options.parse_args(), usual={"repeats": 3}, quick={"repeats": 1})
    root = str(Path(asked.root).resolve())
    if asked.accuracy is not None:
        print(heading(markdown=asked.markdown))
        accuracy(root, asked.accuracy)
        return
    found = defaultdict[str, list[dict[str, float]]](list)
    with temporary_folder() as folder:
        names = ("root", "width", "batch", "limit", "epochs", "workers", "compile")
        facts = {name: getattr(asked, name) for name in names} | {"root": root, "folder": str(folder)}
        for _ in range(asked.repeats):
            for system in SYSTEMS:
                words = [str(Path(__file__).resolve()), "--cell", system, json.dumps(facts)]
                _, [printed] = timed([words], folder)
                found[system].append(json.loads(printed.splitlines()[-1]))
                note(f"{system}: {found[system][-1]}")
    print(heading(markdown=asked.markdown))
    print(f"width {asked.width}, batches of {asked.batch}, {asked.limit} images, {asked.workers} loader workers\n")
    rows = []
    for system, runs in found.items():
        ratio = Spread.of(
            [mine["samples_per_s"] / other["samples_per_s"] for mine, other in zip(found["tuner"], runs, strict=True)]
        )
        more = [str(Spread.of([run[name] for run in runs])) if name in runs[0] else "" for name in ("peak_mib", "gpu_mib", "idle_share")]  # fmt: skip
        rows.append([system, str(Spread.of([run["samples_per_s"] for run in runs])), str(ratio), *more])
    header = ["", "samples/s", "tuner / this", "host memory, MiB", "GPU memory, MiB", "GPU idle, share"]
    print(table(header, rows, markdown=asked.markdown))
    target = 5.0 if torch.cuda.is_available() else 1.5
    ratio = Spread.of([a["samples_per_s"] / b["samples_per_s"] for a, b in zip(found["tuner"], found["usual"], strict=True)]).median  # fmt: skip
    print(
        "\n"
        + verdict(
            f"{short(ratio)} times the usual way's samples per second", f"at least {target:g}", met=ratio >= target
        )
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--cell"]:
        print(json.dumps(run(sys.argv[2], json.loads(sys.argv[3]))))
    else:
        main()
