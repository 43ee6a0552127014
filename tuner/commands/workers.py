"""The workers of a command, as the configuration asks for them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from tuner import output
from tuner.config import Settings, StudySettings
from tuner.config.settings import RaySettings
from tuner.errors import ConfigError, Problem
from tuner.launch import ray, ray_cluster
from tuner.launch.devices import Seat, cores, gpus, seats
from tuner.launch.groups import Groups
from tuner.launch.local import local_groups, start_server


def prepare_workers(settings: Settings) -> None:
    """Start what workers of this machine are forked from, which takes seconds; there is something else to do until then."""
    if settings.launcher.ray is None:
        start_server()


def launcher_of(
    settings: Settings,
    study: StudySettings,
    logs: Path,
    most: int | None = None,
    note: Callable[[str], None] = output.say,
) -> Groups:
    """Worker groups, not started yet.

    Args:
        settings: of this call.
        study: its study; the Trainer's accelerator decides whether GPUs are used.
        logs: folder of the workers' logs.
        most: no more groups than this, because there is no more to do.
        note: told what people should know of a cluster.

    Raises:
        ConfigError: the devices that there are cannot be divided as it is asked for.
    """
    silent_after_s = settings.launcher.silent_after_s
    if settings.launcher.ray is not None:
        demand = _demand(settings, study, settings.launcher.ray, most)
        return ray.ray_groups(demand, logs, silent_after_s=silent_after_s, note=note)
    found = seats_of(settings, study)[:most]
    if most == 1:
        found = [[_alone(seat) for seat in found[0]]]
    return local_groups(found, logs, silent_after_s=silent_after_s)


def seats_of(settings: Settings, study: StudySettings) -> list[list[Seat]]:
    """Where the ranks of each group run; none are known of a cluster, whose nodes come and go.

    Raises:
        ConfigError: as `launcher_of`; or there is no Ray, or no cluster, where it is asked for.
    """
    launcher = settings.launcher
    if launcher.ray is not None:
        ray_cluster.check(launcher.ray.address)
        if launcher.ray.address is not None:
            _refuse_sharing(settings)
            return []
    return seats(
        accelerator=_accelerator(study),
        devices_per_trial=launcher.devices_per_trial,
        trials_per_device=launcher.trials_per_device,
        workers=launcher.workers,
    )


def _demand(settings: Settings, study: StudySettings, asked: RaySettings, most: int | None) -> ray.Demand:
    """What is asked of Ray. An instance of our own has what this machine has, divided as it is without Ray."""
    launcher, found = settings.launcher, seats_of(settings, study)
    limits = [limit for limit in (asked.max_groups, most) if limit is not None]
    demand = ray.Demand(
        address=asked.address,
        devices=launcher.devices_per_trial,
        sharing=launcher.trials_per_device,
        groups=launcher.workers,
        most=min(limits, default=None),
        cpus=asked.cpus_per_rank,
        on_gpu={"cpu": False, "gpu": True, "cuda": True}.get(_accelerator(study)),
        threads=asked.cpus_per_rank or 1,
        runtime_env=asked.runtime_env,
    )
    if not found:
        return demand
    on_gpu, size = bool(found[0][0].gpus), len(found[0])
    cpus = len(found) * size * (asked.cpus_per_rank or (0 if on_gpu else 1))
    return replace(
        demand,
        devices=size,
        sharing=launcher.trials_per_device if on_gpu else 1,
        groups=len(found),
        on_gpu=on_gpu,
        here={"num_cpus": max(len(cores()), cpus), "num_gpus": len(gpus()) if on_gpu else 0},
        threads=None if most == 1 and size == 1 else demand.threads,
    )


def _refuse_sharing(settings: Settings) -> None:
    sharing = settings.launcher.trials_per_device
    if sharing > 1 and settings.launcher.devices_per_trial != 1:
        rule, remedy = "is 1 where a trial has several devices", "Write launcher.trials_per_device=1."
        raise ConfigError([Problem("launcher.trials_per_device", rule, sharing, remedy)])


def _accelerator(study: StudySettings) -> str:
    return str(study.nodes.plain()["trainer"].get("accelerator", "auto"))


def _alone(seat: Seat) -> Seat:
    """A task with the machine to itself has all cores, where it is not divided among ranks."""
    return seat if seat.size > 1 else replace(seat, cores=(), threads=None)
