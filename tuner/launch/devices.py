"""What this machine has to train on, and how it is divided among workers; found without importing torch.

A worker is a group of `devices_per_trial` ranks. On GPUs each group has its own, or shares one with others where
`trials_per_device` says so; without GPUs the devices are the cores, divided evenly among the groups.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tuner.errors import ConfigError, Problem

#: CPU workers beyond this many gain little and cost memory; more are made when asked for.
MOST_CPU_WORKERS = 8


@dataclass(frozen=True)
class Seat:
    """Where one rank of a group runs.

    Attributes:
        rank: in its group, from 0.
        size: ranks of the group.
        gpus: that the rank sees, as CUDA_VISIBLE_DEVICES names them: all of the group, or only its own where the
            ranks are not `local`; empty on a CPU.
        cores: that the rank may use; empty for all.
        threads: of torch; None for torch's own choice.
        local: whether all ranks are on one machine and see each other's devices; a rank elsewhere sees its own alone.
    """

    rank: int = 0
    size: int = 1
    gpus: tuple[str, ...] = ()
    cores: tuple[int, ...] = ()
    threads: int | None = None
    local: bool = True


def gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name for name in visible.split(",") if name.strip() and name.strip() != "-1"]
    # CUDA counts those it sees from 0, whatever numbers their device files have in a container.
    found = [entry for entry in Path("/dev").glob("nvidia*") if re.fullmatch(r"nvidia\d+", entry.name)]
    return [str(index) for index in range(len(found))]


def cores() -> list[int]:
    """CPU cores that this process may use."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))


def seats(
    *,
    accelerator: str = "auto",
    devices_per_trial: int | Literal["all"] = 1,
    trials_per_device: int = 1,
    workers: int | None = None,
) -> list[list[Seat]]:
    """The ranks of each worker, each pinned to its place.

    Args:
        accelerator: the Trainer's argument; `cpu` ignores GPUs.
        devices_per_trial: ranks of a group, or all devices in one group.
        trials_per_device: groups that share each device.
        workers: groups at most; None for as many as the devices hold (of CPU workers `MOST_CPU_WORKERS`). On CPUs,
            more groups of one rank than cores share them.

    Raises:
        ConfigError: the devices that there are cannot be divided so.
    """
    found: Sequence[str | int] = [] if accelerator == "cpu" else gpus()
    if accelerator in ("gpu", "cuda") and not found:
        remedy = "Write trainer.accelerator=auto, or look at what CUDA_VISIBLE_DEVICES hides."
        raise ConfigError(
            [Problem("trainer.accelerator", "is what this machine has: there is no GPU", accelerator, remedy)]
        )
    on_gpu, found = bool(found), found or cores()
    each = len(found) if devices_per_trial == "all" else devices_per_trial
    kind = "GPU" if on_gpu else "CPU core"
    _refuse(kind, len(found), devices_per_trial, each, trials_per_device)
    most = len(found) // each * trials_per_device
    if workers is not None and workers > most and (on_gpu or each > 1):
        rule = f"is at most {most}, because there {_are(len(found), kind)} and a trial has {each}"
        more = f" or launcher.trials_per_device={-(-workers * each // len(found))}" if each == 1 else ""
        raise ConfigError([Problem("launcher.workers", rule, workers, f"Write launcher.workers={most}{more}.")])
    if on_gpu:
        return [_on_gpus([str(gpu) for gpu in _part(found, group, each)], each) for group in range(workers or most)]
    groups = workers or min(most, MOST_CPU_WORKERS * trials_per_device)
    shares = groups if each > 1 else min(groups, len(found))
    return [_on_cores(cores(), group % shares, shares, each) for group in range(groups)]


def _part(found: Sequence[str | int], group: int, each: int) -> Sequence[str | int]:
    """Devices of a group; groups that share a device come after all devices have been given out once."""
    first = group % (len(found) // each)
    return found[first * each : (first + 1) * each]


def _on_gpus(mine: Sequence[str], each: int) -> list[Seat]:
    return [Seat(rank, each, tuple(mine)) for rank in range(each)]


def _on_cores(found: Sequence[int], share: int, shares: int, each: int) -> list[Seat]:
    """Ranks side by side on the group's share of the cores. One thread each, or they would wait for each other."""
    mine = found[len(found) * share // shares : len(found) * (share + 1) // shares]
    return [
        Seat(rank, each, (), tuple(mine[len(mine) * rank // each : len(mine) * (rank + 1) // each]), threads=1)
        for rank in range(each)
    ]


def _refuse(kind: str, there: int, asked: int | Literal["all"], each: int, sharing: int) -> None:
    key = "launcher.devices_per_trial"
    if sharing > 1 and each > 1:
        remedy = "Write launcher.trials_per_device=1."
        raise ConfigError(
            [Problem("launcher.trials_per_device", f"is 1 where a trial has {each} devices", sharing, remedy)]
        )
    if each > there:
        remedy = f"Write {key}={there} or less, or {key}=all."
        raise ConfigError(
            [Problem(key, f"is at most what there is: {there} {kind}{'s' * (there != 1)}", asked, remedy)]
        )
    if there % each:
        fits = ", ".join(str(count) for count in range(1, there + 1) if there % count == 0)
        rule = f"divides what there is: {there} {kind}s"
        raise ConfigError(
            [Problem(key, rule, asked, f"Write one of {fits}, or hide devices with CUDA_VISIBLE_DEVICES.")]
        )


def _are(count: int, kind: str) -> str:
    return f"is {count} {kind}" if count == 1 else f"are {count} {kind}s"
