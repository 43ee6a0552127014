"""Running rounds of the studies in `faulty.py`, in this process, and reading what they left in the database."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import optuna
import yaml

from tuner.cli import main
from tuner.store.database import Database

STUDY = {
    "name": "line",
    "module": {"_target_": "faulty.Line", "lr": 0.1, "mode": "good", "marks": ".", "pause_s": 0.0},
    "data": {"_target_": "faulty.loaders", "batch_size": 16},
    "objective": {"metric": "val/loss", "direction": "minimize"},
    "space": {"lr": {"kind": "log_uniform", "low": 1e-3, "high": 0.5, "path": "module.lr"}},
    "trainer": {"max_epochs": 4, "accelerator": "cpu", "deterministic": True},
    "search": {"budget": None, "trials": 4},
    "launcher": {"workers": 1},
}


def write_study(folder: Path, **changes: object) -> Path:
    """A --config-dir with study/line.yaml; `changes` are merged into it, one level deep."""
    study = {
        key: {**value, **changes.get(key, {})} if isinstance(value, dict) else value for key, value in STUDY.items()
    }
    study["module"]["marks"] = str(folder)
    (folder / "conf" / "study").mkdir(parents=True, exist_ok=True)
    (folder / "conf" / "study" / "line.yaml").write_text(f"# @package _global_\n{yaml.safe_dump(study)}")
    return folder / "conf"


def tune(folder: Path, *overrides: str) -> int:
    """The exit code of `tuner study=line …`; `faulty.py` is found because tests/ is on the path."""
    conf = folder / "conf"
    if not conf.is_dir():
        write_study(folder)
    return main(["study=line", *store_words(), *overrides, "--config-dir", str(conf)])


def store_words() -> list[str]:
    """What names the database of the fixture `round_store` on the command line."""
    return ["store=postgresql"] if "TUNER_DATABASE_URL" in os.environ else []


def store_url(folder: Path) -> str:
    return os.environ.get("TUNER_DATABASE_URL") or f"sqlite:///{folder}/runs/tuner.db"


def trials(folder: Path, name: str = "line-1") -> list[optuna.trial.FrozenTrial]:
    """What the database has of a round."""
    with Database(store_url(folder)) as database:
        return optuna.load_study(study_name=name, storage=database.storage).get_trials(deepcopy=False)


def outcomes(folder: Path, name: str = "line-1") -> list[str]:
    return [trial.user_attrs.get("outcome") for trial in trials(folder, name)]


def facts(folder: Path, name: str = "line-1") -> list[tuple[object, ...]]:
    """What must be equal between two runs of the same round: configurations, decisions, values, curves."""
    return [
        (
            trial.number,
            trial.state.name,
            trial.value,
            trial.params,
            trial.intermediate_values,
            trial.user_attrs["readings"],
        )
        for trial in trials(folder, name)
    ]


def start(folder: Path, *words: str) -> subprocess.Popen[str]:
    """`python -m tuner` as a process group of its own, in `folder`, with `faulty.py` on its path."""
    return subprocess.Popen(
        [sys.executable, "-m", "tuner", *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
        start_new_session=True,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def interrupted(process: subprocess.Popen[str]) -> tuple[str, str]:
    """What a process that gets Ctrl-C still says on (standard output, standard error)."""
    os.killpg(process.pid, signal.SIGINT)
    return process.communicate(timeout=60)
