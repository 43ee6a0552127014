"""The workers of a command, as the configuration asks for them."""

from __future__ import annotations

from pathlib import Path

from tuner.config import Settings, StudySettings
from tuner.launch.devices import placements
from tuner.launch.local import LocalLauncher


def launcher_of(settings: Settings, study: StudySettings, logs: Path, most: int | None = None) -> LocalLauncher:
    """Local workers, not started yet.

    Args:
        settings: of this call.
        study: its study; the Trainer's accelerator decides whether GPUs are used.
        logs: folder of the workers' logs.
        most: no more workers than this, because there is no more to do.
    """
    accelerator = str(study.nodes.plain()["trainer"].get("accelerator", "auto"))
    places = placements(settings.launcher.workers, accelerator)[:most]
    # One thread for each CPU worker: more of them would only wait for each other's cores. A task alone has them all.
    alone = most == 1
    return LocalLauncher(places, logs, threads=None if alone or any(places) else 1)
