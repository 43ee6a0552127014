"""What this machine has to train on, found without importing torch."""

from __future__ import annotations

import os
import re
from pathlib import Path

#: CPU workers beyond this many gain little and cost memory; more are made when asked for.
MOST_CPU_WORKERS = 8


def gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name for name in visible.split(",") if name.strip() and name.strip() != "-1"]
    # CUDA counts those it sees from 0, whatever numbers their device files have in a container.
    found = [entry for entry in Path("/dev").glob("nvidia*") if re.fullmatch(r"nvidia\d+", entry.name)]
    return [str(index) for index in range(len(found))]


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def placements(workers: int | None, accelerator: str) -> list[dict[str, str]]:
    """Environment variables of each worker, which pin it to its device.

    Args:
        workers: how many; None for one per GPU, else one per core.
        accelerator: the Trainer's argument; `cpu` ignores GPUs.
    """
    devices = [] if accelerator == "cpu" else gpus()
    if devices:
        # More workers than GPUs share them in turn, because the user asked for it.
        return [{"CUDA_VISIBLE_DEVICES": devices[index % len(devices)]} for index in range(workers or len(devices))]
    return [{} for _ in range(workers or min(cores(), MOST_CPU_WORKERS))]
