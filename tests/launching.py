"""What tests of launchers share: a task, waiting for groups, and their processes."""

from __future__ import annotations

import time

from tuner.training.task import Task


def task(folder, *, trial=0, module=None, data=None, trainer=None, **changes):
    """A training of `faulty.Line`; what is given is merged into its nodes."""
    config = {
        "module": {"_target_": "faulty.Line", "marks": str(folder), **(module or {})},
        "data": {"_target_": "faulty.loaders", **(data or {})},
        "trainer": {"max_epochs": 3, "accelerator": "cpu", **(trainer or {})},
        "optimizer": None,
        "schedule": None,
    }
    return Task(trial, config, "val/loss", 0, str(folder / f"trial-{trial}"), **changes)


def wait_idle(launcher, count=1, seconds=90.0):
    """Until so many groups have nothing to do."""
    deadline = time.monotonic() + seconds
    while len(launcher.idle()) < count:
        assert time.monotonic() < deadline
        launcher.events(0.1)


def pids(launcher):
    """Of all ranks."""
    return [int(rank.where.rpartition(":")[2]) for group in launcher._groups.values() for rank in group.ranks]
