"""Whether a worker that trains hundreds of trials keeps anything of them: memory, files, threads, processes.

A round of the digits study is run in this process by its one worker process, as the command line would run it. After
each training both processes are looked at from outside, in /proc, while the worker waits for the next one. With
`--cifar` the trials are of a small residual network on random images that two processes of a DataLoader make.

What the first trainings import and allocate for good is left out: the table begins with the 15th.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self
from unittest import mock

from figures import filled, heading, note, parser, plot_file, positive_int, short, table, temporary_folder, verdict

# The worker imports this file, too, as it does with every main program: what it need not have is imported where it is
# needed.

#: Trainings, counted from 1, whose median the last ones are compared with: of a long run, and of a short one.
FIRST, FIRST_OF_FEW = (15, 25), (11, 20)
LAST = 10
MOST_GROWTH = 0.05
#: How long a process that has ended a training may take to close what it has let go of: a thread of a loader, and its
#: pipe, which end by themselves. The next training does not begin before.
CLOSING_S = 2.0

IMAGES = '''\
"""Random images, in a DataLoader with processes of its own."""
import torch
from torch.utils.data import DataLoader, TensorDataset


def loaders(batch_size, num_workers):
    generator = torch.Generator().manual_seed(0)
    images, labels = torch.rand(320, 3, 32, 32, generator=generator), torch.randint(10, (320,), generator=generator)
    made = TensorDataset(images[:256], labels[:256]), TensorDataset(images[256:], labels[256:])
    return tuple(DataLoader(data, batch_size, num_workers=num_workers) for data in made)
'''
STUDY = """\
# @package _global_
name: images
module:
  _target_: studies.cifar.ResNet
  width: 4
  optimizer: {_target_: torch.optim.SGD, _partial_: true, lr: 0.1}
data: {_target_: images.loaders, batch_size: 64, num_workers: 2}
objective: {metric: val/acc, direction: maximize}
space:
  lr: {kind: log_uniform, low: 0.01, high: 1.0, path: module.optimizer.lr}
  width: {kind: categorical, choices: [4, 6, 8], path: module.width}
trainer: {max_epochs: 4}
"""


@dataclass(frozen=True)
class Usage:
    """What a process has.

    Attributes:
        memory_mib: resident.
        files: descriptors.
        threads, children: of the process itself; children that have ended and were not waited for count.
    """

    memory_mib: float
    files: int
    threads: int
    children: int

    @classmethod
    def of(cls, pid: int) -> Usage:
        status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        return cls(
            int(status["VmRSS"].split()[0]) / 1024,
            len(list(Path(f"/proc/{pid}/fd").iterdir())),
            int(status["Threads"]),
            _children(pid),
        )

    def has_no_more_than(self, before: Usage) -> bool:
        """Leaving the memory out, which is not given back at once."""
        return self.files <= before.files and self.threads <= before.threads and self.children <= before.children

    @classmethod
    def settled(cls, pid: int, before: Usage | None) -> Usage:
        """Of a process that has ended a training, as soon as it has no more than before it; at last as it is."""
        end = time.monotonic() + CLOSING_S
        found = cls.of(pid)
        while before is not None and not found.has_no_more_than(before) and time.monotonic() < end:
            time.sleep(0.02)
            found = cls.of(pid)
        return found


def _children(pid: int) -> int:
    found = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has just gone
            found += int(stat.read_text().rpartition(")")[2].split()[1]) == pid
    return found


@dataclass(frozen=True)
class Sample:
    """After one training; the GPU's memory is that of all processes on it, None without a GPU."""

    worker: Usage
    controller: Usage
    gpu_mib: float | None


class Watched:
    """A launcher that takes a sample whenever a training has ended; all else is the launcher's own."""

    def __init__(self, launcher: Any, samples: list[Sample], gpu: Callable[[], float | None]) -> None:
        self._launcher, self._samples, self._gpu = launcher, samples, gpu

    def __getattr__(self, name: str) -> Any:
        return getattr(self._launcher, name)

    def __enter__(self) -> Self:
        self._launcher.__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        self._launcher.__exit__(*exc)

    def events(self, timeout_s: float) -> Any:
        from tuner.launch.protocol import Ended  # noqa: PLC0415 - see the top

        found = self._launcher.events(timeout_s)
        for worker, event in found:
            if isinstance(event, Ended):
                pid = int(self._launcher.describe(worker).rpartition(":")[2])
                before = self._samples[-1].worker if self._samples else None
                self._samples.append(Sample(Usage.settled(pid, before), Usage.of(os.getpid()), self._gpu()))
                if len(self._samples) % 20 == 0:
                    note(f"{len(self._samples)} trainings, {self._samples[-1].worker}")
        return found


def gpu_mib() -> float | None:
    if shutil.which("nvidia-smi") is None:
        return None
    words = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits", "--id=0"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    return float(done.stdout.split()[0]) if done.returncode == 0 and done.stdout.strip() else None


def measure(folder: Path, trials: int, *, cifar: bool) -> list[Sample]:
    """A sample after each training of a round of so many trials."""
    from tuner.commands import tune  # noqa: PLC0415 - see the top
    from tuner.config import load  # noqa: PLC0415

    (folder / "conf" / "study").mkdir(parents=True)
    (folder / "conf" / "study" / "images.yaml").write_text(STUDY, encoding="utf-8")
    (folder / "images.py").write_text(IMAGES, encoding="utf-8")
    sys.path.insert(0, str(folder))
    words = [
        "study=images" if cifar else "study=digits", "search=random", "search.budget=null", f"search.trials={trials}",
        "launcher.workers=1", "trainer.max_epochs=4", f"store.url=sqlite:///{folder / 'tuner.db'}",
        f"store.folder={folder}",
    ]  # fmt: skip
    samples: list[Sample] = []
    launcher_of = tune.launcher_of

    def watched(*arguments: Any, **options: Any) -> Watched:
        return Watched(launcher_of(*arguments, **options), samples, gpu_mib)

    with mock.patch.object(tune, "launcher_of", watched), contextlib.redirect_stdout(sys.stderr):
        code = tune.tune(load(words, config_dir=str(folder / "conf")))
    if code:
        raise RuntimeError(f"the round ended with exit code {code}")
    return samples


# -- what it says ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Trend:
    """One quantity over all trainings.

    Attributes:
        what: it is.
        values: after each training.
        must_stay: whether any change after the first ones is a leak; otherwise `MOST_GROWTH` is let pass.
    """

    what: str
    values: Sequence[float]
    must_stay: bool

    @property
    def window(self) -> tuple[int, int]:
        return FIRST if len(self.values) >= FIRST[1] + 3 * LAST else FIRST_OF_FEW

    @property
    def first(self) -> float:
        begin, end = self.window
        return statistics.median(self.values[begin - 1 : end])

    @property
    def last(self) -> float:
        return statistics.median(self.values[-LAST:])

    @property
    def per_hundred(self) -> float:
        """Growth in 100 trainings, between the middles of the two spans."""
        apart = len(self.values) - (LAST - 1) / 2 - sum(self.window) / 2
        return 100 * (self.last - self.first) / apart

    @property
    def leaks(self) -> bool:
        if not self.must_stay:
            return self.last > self.first * (1 + MOST_GROWTH)
        after = self.values[self.window[0] - 1 :]
        # What is gone at the next look was closing, on a machine too busy for it to be done in `CLOSING_S`.
        stayed = [min(pair) for pair in itertools.pairwise(after)]
        return max(stayed) > min(after)

    @property
    def row(self) -> list[str]:
        # Growth of a process that gives memory back is below zero.
        sign = "-" if self.per_hundred < 0 else "+"
        return [self.what, short(self.first), short(self.last), f"{sign}{short(abs(self.per_hundred))}"]


def trends(samples: Sequence[Sample]) -> list[Trend]:
    found = [
        Trend("worker, memory, MiB", [one.worker.memory_mib for one in samples], must_stay=False),
        Trend("worker, open files", [one.worker.files for one in samples], must_stay=True),
        Trend("worker, threads", [one.worker.threads for one in samples], must_stay=True),
        Trend("worker, child processes", [one.worker.children for one in samples], must_stay=True),
        Trend("controller, memory, MiB", [one.controller.memory_mib for one in samples], must_stay=False),
        Trend("controller, open files", [one.controller.files for one in samples], must_stay=True),
        Trend("controller, threads", [one.controller.threads for one in samples], must_stay=True),
        Trend("controller, child processes", [one.controller.children for one in samples], must_stay=True),
    ]
    on_gpu = [one.gpu_mib for one in samples if one.gpu_mib is not None]
    return [*found, Trend("GPU, memory, MiB", on_gpu, must_stay=False)] if len(on_gpu) == len(samples) else found


def plot(found: Sequence[Trend], file: Path) -> None:
    """Each quantity over the trainings, as its change since the first span."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - see the top

    figure = Figure(figsize=(8, 5), dpi=150, layout="constrained")
    memory, counts = figure.subplots(2, sharex=True)
    for trend in found:
        axes = memory if "MiB" in trend.what else counts
        places = range(1, len(trend.values) + 1)
        axes.plot(places, [value - trend.first for value in trend.values], label=f"{trend.what} ({short(trend.first)})")
    memory.set_ylabel("change, MiB")
    counts.set_ylabel("change, number")
    counts.set_xlabel("trainings")
    for axes in (memory, counts):
        axes.grid(visible=True, alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(fontsize=7, frameon=False)
    low, high = counts.get_ylim()
    counts.set_ylim(min(low, -1), max(high, 1))  # no change is a line, not a scale of nothing
    begin, end = found[0].window
    memory.set_title(f"After each training: change from the median of trainings {begin} to {end}", loc="left")
    figure.savefig(file)


def main() -> int:
    options: argparse.ArgumentParser = parser(__doc__)
    options.add_argument("--trials", type=positive_int, help="of the round")
    options.add_argument("--cifar", action="store_true", help="convolutions, and loaders with processes of their own")
    options.add_argument("--plot", type=plot_file, help="file of a figure (PNG, SVG or PDF)")
    asked = filled(options.parse_args(), usual={"trials": 200}, quick={"trials": 40})
    if asked.trials < FIRST_OF_FEW[1] + LAST:
        options.error(f"--trials is at least {FIRST_OF_FEW[1] + LAST}, to tell what grows from what begins")
    with temporary_folder() as folder:
        samples = measure(folder, asked.trials, cifar=asked.cifar)
    found = trends(samples)
    begin, end = found[0].window
    header = ["process", f"trainings {begin} to {end}", f"last {LAST}", "growth per 100"]
    bullet = "- " if asked.markdown else ""
    print(heading(markdown=asked.markdown))
    print(f"{bullet}trainings: {len(samples)}, of {asked.trials} trials\n")
    print(f"{table(header, [trend.row for trend in found], markdown=asked.markdown)}\n")
    for trend in found:
        after = trend.values[begin - 1 :]
        fact = f"{trend.what}: {short(min(after))} to {short(max(after))}"
        target = "no change that stays" if trend.must_stay else f"growth below {100 * MOST_GROWTH:g} %"
        print(f"{bullet}{verdict(fact, target, met=not trend.leaks)}")
    if asked.plot:
        plot(found, asked.plot)
    return int(any(trend.leaks for trend in found))


if __name__ == "__main__":
    sys.exit(main())
