"""One study, for which the contenders run: their command lines and processes, and what is kept of each run.

What is kept counts for the same files, versions and processor only (`Race.code`). A seed is run in one go:

| kept of a seed | what happens |
| --- | --- |
| runs of all the contenders, by this code | they are taken |
| a run of one of them by other code | it is put aside with all others of the seed, which is run again as a whole |
| no run of some of them | those run now, and `Race.remarks` says that they did not run beside the others |

What the logs come to is the business of `curves` and `results`, so that these two are no part of the code.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from figures import digest_of, note, processor, temporary_folder
from first_run import test_accuracies
from optuna.trial import TrialState

from contenders.curves import Run
from contenders.problem import Job
from contenders.record import read, recommend
from tuner.commands.values import own_values
from tuner.config import StudySettings, load
from tuner.launch.devices import cores, gpus
from tuner.store.database import Database

BENCHMARKS = Path(__file__).resolve().parents[1]
#: Seconds that a contender may take to end after its budget, before it is taken for stuck.
STUCK_S = 300.0
#: `search.timeout` counts from the lease of the study, the contenders' seconds from the start of their processes.
LEASED_AFTER_S = 3.0
OWN = "tuner"
#: Modules of this folder that only look at what is kept.
LOOKING = ("curves.py", "results.py")
#: Other benchmarks of which the peers take parts: a callback and the data of digits, and the data of CIFAR-10.
TAKEN = ("plain_optuna.py", "cifar.py")
PACKAGES = ("optuna", "torch", "lightning")


@dataclass(frozen=True)
class Contender:
    """A program that searches.

    Attributes:
        title: in tables.
        module: to run, or None for tuner's command line.
        processes: of it; None for one in each place.
        options: of the module.
        peers: whether it needs the peers' environment.
    """

    title: str
    module: str | None = None
    processes: int | None = 1
    options: Mapping[str, str] | None = None
    peers: bool = False


def _optuna(title: str, sampler: str, pruner: str) -> dict[str, Contender]:
    options = {"sampler": sampler, "pruner": pruner}
    key = f"optuna-{sampler}" if pruner == "none" else f"optuna-{sampler}-{pruner}"
    one = Contender(f"Optuna, {title}", "contenders.optuna_study", 1, options)
    return {key: one, f"{key}-all": replace(one, title=f"{one.title}, all places", processes=None)}


CONTENDERS = {
    OWN: Contender("tuner"),
    **_optuna("TPE, median pruner", "tpe", "median"),
    **_optuna("TPE, Hyperband", "tpe", "hyperband"),
    **_optuna("Gaussian process", "gp", "none"),
    "ray-asha": Contender("Ray Tune, ASHA", "contenders.ray_tune", peers=True),
}


@dataclass(frozen=True)
class Race:
    """One study, for which the contenders run.

    Attributes:
        words: of the study, as the command line has them.
        seconds: of each contender's budget.
        equal: whether the peers get all of what the study says.
        fresh: trainings of each recommendation with fresh seeds.
        peers: Python of the peers' environment; None where it is not needed.
        keep: folder of finished runs.
    """

    words: Sequence[str]
    seconds: float
    equal: bool
    fresh: int
    peers: Path | None
    keep: Path

    @property
    def slots(self) -> int:
        """Trainings at the same time."""
        return places()

    @functools.cached_property
    def study(self) -> StudySettings:
        study = load(self.words).study
        assert study is not None
        return study

    @property
    def settings(self) -> dict[str, Any]:
        """What runs must share to be compared."""
        return {"words": list(self.words), "seconds": self.seconds, "equal": self.equal, "slots": self.slots}

    def code(self, name: str) -> dict[str, str]:
        """What a run of a contender depends on besides the settings, as it is now: files, versions, the processor.

        The peers train with tuner's parts too (its space and its study, with `equal` its loaders), so that its files
        are among those of all.
        """
        peers = CONTENDERS[name].peers
        versions = versions_in(str(self.peers), ("ray", *PACKAGES[1:])) if peers else versions_in(sys.executable)
        programs = [file for file in (BENCHMARKS / "contenders").glob("*.py") if file.name not in LOOKING]
        return {
            **product_files(),
            "benchmarks": digest_of(*sorted(programs), *(BENCHMARKS / file for file in TAKEN)),
            **versions,
            "processor": processor(),
        }

    def go(self, names: Sequence[str], seed: int) -> dict[str, Run]:
        """What the contenders do with a seed, one after the other in this order, or did where it is kept."""
        changed = [f"{name} ({', '.join(found)})" for name in names if (found := self._changed(name, seed))]
        if changed:
            note(f"{self.study.name}, seed {seed} is run again by all, because of other code: {'; '.join(changed)}")
            self._put_aside(seed)
        began = time.time()
        return {name: self._run(name, seed, began) for name in names}

    def _changed(self, name: str, seed: int) -> list[str]:
        """What has changed since the contender was run with this seed; nothing where it was not."""
        kept = self._kept(name, seed)
        if not kept:
            return []
        was, now = kept.get("code"), self.code(name)
        if not isinstance(was, dict):
            return ["not known"]
        return [f"{key} was {was.get(key)} and is {value}" for key, value in now.items() if was.get(key) != value]

    def _put_aside(self, seed: int) -> None:
        """All runs of a seed, so that none of them is taken for one of the same go, should this one be broken off."""
        before = self.keep / "aside"
        aside = before / str(len(list(before.glob("*"))))
        aside.mkdir(parents=True)
        for name in CONTENDERS:
            file = self._file(name, seed)
            if file.exists():
                file.replace(aside / file.name)

    def _run(self, name: str, seed: int, go: float) -> Run:
        kept = self._kept(name, seed)
        if not kept:
            code = self.code(name)
            with temporary_folder() as folder:
                began = self._tuner(folder, seed) if name == OWN else self._peer(CONTENDERS[name], folder, seed)
                # Not known, if files were edited meanwhile: nobody knows which of its processes had which.
                kept = {"code": None, "go": go, "began": began, "lines": read(folder / "log.jsonl")}
            with contextlib.suppress(SyntaxError):  # of a file that is being edited
                if self.code(name) == code:
                    kept["code"] = code
            write(self._file(name, seed), kept)
        run = Run.of_log(kept["lines"], kept["began"], self.seconds)
        best = run.seen[-1][1] if run.seen else math.nan
        note(f"{self.study.name}, {name}, seed {seed}: {run.trainings} trainings, {run.epochs} epochs, best {best:.4f}")
        return run

    def remarks(self, names: Sequence[str], seeds: int) -> Iterator[str]:
        """What a reader of the runs has to know: whose are of other code, and who did not run beside the others."""
        for seed in range(seeds):
            kept = {name: self._kept(name, seed) for name in names}
            of_other_code = [name for name in names if self._changed(name, seed)]
            if of_other_code:
                yield f"seed {seed}: files have changed since {', '.join(of_other_code)} began: run the command again"
            first = min(one["go"] for one in kept.values())
            for name, one in kept.items():
                if one["go"] != first:
                    yield f"seed {seed}: {name} did not run beside the others, but {(one['go'] - first) / 60:.0f} min later"

    def _file(self, name: str, seed: int) -> Path:
        return self.keep / f"{name}-{seed}.json"

    def _kept(self, name: str, seed: int) -> dict[str, Any]:
        return _read(self._file(name, seed))

    def _tuner(self, folder: Path, seed: int) -> float:
        log, url = folder / "log.jsonl", f"sqlite:///{folder / 'tuner.db'}"
        timeout = max(1.0, self.seconds - LEASED_AFTER_S)
        metric = self.study.objective.metric
        callback = f"{{_target_: contenders.record.Record, file: '{log}', metric: {metric}}}"
        workers = [] if gpus() else [f"launcher.workers={self.slots}"]
        words = [
            "-m", "tuner", *self.words, f"seed={seed}", f"search.timeout={timeout:g}", "search.budget=null",
            f"store.url={url}", f"store.folder={folder}", f"+trainer.callbacks=[{callback}]", *workers,
        ]  # fmt: skip
        # 1: without one training in full there is no champion.
        began, [code] = together([[sys.executable, *words]], folder, self.seconds + STUCK_S, may_exit={0, 1})
        with Database(url) as database:
            [record] = database.storage.get_all_studies()
            trials = database.storage.get_all_trials(record._study_id)  # noqa: SLF001 - Optuna's storages are keyed by it
        complete = [
            (trial.datetime_complete, trial.value, trial)
            for trial in trials
            if trial.state is TrialState.COMPLETE and trial.datetime_complete and trial.value is not None
        ]
        if code and complete:
            raise RuntimeError(f"tuner, seed {seed}, ended with exit code {code} though trials are complete")
        best = -math.inf
        for ended, value, trial in sorted(complete, key=lambda one: one[0]):
            if value > best:
                best = value
                values = trial.user_attrs["hyperparameters"]
                recommend(log, f"trial-{trial.number}", value, values, at=ended.timestamp())
        return began

    def _peer(self, contender: Contender, folder: Path, seed: int) -> float:
        python = self.peers if contender.peers else Path(sys.executable)
        processes = contender.processes or self.slots
        trainings = self.slots if contender.peers else processes  # at a time
        job = Job(
            words=self.words,
            log=str(folder / "log.jsonl"),
            folder=str(folder),
            seconds=self.seconds,
            seed=seed,
            slots=self.slots,
            place=0,
            threads=None if gpus() else max(1, len(cores()) // trainings),
            equal=self.equal,
            # Processes that load images keep a GPU busy; on a CPU they would take the cores that train.
            loader_workers=min(8, len(cores()) // self.slots) if gpus() else 0,
            own=self.study.space.drawn(own_values(self.study)) if self.equal else {},
            options={**(contender.options or {}), "processes": processes},
        )
        commands = [
            [str(python), "-m", str(contender.module), replace(job, place=place).as_word()]
            for place in range(processes)
        ]
        # Ray divides the devices by itself.
        seen = [
            {} if contender.peers or not gpus() else {"CUDA_VISIBLE_DEVICES": gpus()[place]}
            for place in range(processes)
        ]
        return together(commands, folder, self.seconds + STUCK_S, seen)[0]

    def recommended(self, run: Run) -> tuple[str, ...]:
        """Overrides of the configuration that a run recommends; none where it recommends nothing."""
        return () if run.values is None else tuple(self.study.nodes.overrides(run.values, self.study.space))

    def tested(self, overrides: Sequence[str]) -> list[float]:
        """Test values of a configuration, trained afresh; the same seeds and the same code whoever recommends it."""
        named = hashlib.blake2b("\n".join(overrides).encode(), digest_size=8).hexdigest()
        file = self.keep / f"test-{named}.json"
        code = {**product_files(), "benchmarks": digest_of(BENCHMARKS / "first_run.py"), **versions_in(sys.executable)}
        kept = _read(file)
        found: list[float] = kept.get("found", [])[: self.fresh]
        if len(found) < self.fresh or kept.get("code") != code:
            found = test_accuracies([*self.words, *overrides], self.fresh)
            write(file, {"code": code, "overrides": list(overrides), "found": found})
        note(f"{self.study.name}, test {', '.join(f'{value:.4f}' for value in found)} of {' '.join(overrides)}")
        return found


def places() -> int:
    """Trainings that this machine has a device or a core for at the same time."""
    return len(gpus()) or len(cores())


def product_files() -> dict[str, str]:
    """Digests of what is trained and searched with, as it is now: a file may be edited while a race runs."""
    return {folder: digest_of(BENCHMARKS.parent / folder) for folder in ("tuner", "conf", "studies")}


@functools.cache
def versions_in(python: str, packages: Sequence[str] = PACKAGES) -> dict[str, str]:
    """The versions that a Python has of packages.

    Raises:
        subprocess.CalledProcessError: it lacks one of them.
    """
    ask = "import importlib.metadata, sys; print(*map(importlib.metadata.version, sys.argv[1:]))"
    done = subprocess.run([python, "-c", ask, *packages], capture_output=True, text=True, check=True)
    return dict(zip(packages, done.stdout.split(), strict=True))


def _read(file: Path) -> dict[str, Any]:
    """What was written; empty where there is nothing."""
    kept: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    return kept


def write(file: Path, content: Any) -> None:
    beside = file.with_suffix(".new")
    beside.write_text(json.dumps(content), encoding="utf-8")
    beside.replace(file)


def together(
    commands: Sequence[Sequence[str]],
    folder: Path,
    limit_s: float,
    environments: Sequence[Mapping[str, str]] = (),
    *,
    may_exit: Container[int] = (0,),
) -> tuple[float, list[int]]:
    """Start these commands side by side and wait for all.

    Args:
        commands: words of each; they find the modules of the benchmarks.
        folder: to run in; their output goes there.
        limit_s: after which they are killed.
        environments: what each has besides this process's environment.
        may_exit: codes that are no failure.

    Returns:
        When they were started, in seconds since the epoch, and their exit codes.

    Raises:
        RuntimeError: one of them has failed, or has not ended in time.
    """
    paths = [str(BENCHMARKS), *filter(None, [os.environ.get("PYTHONPATH")])]
    outputs = [folder / f"output-{place}.txt" for place in range(len(commands))]
    given = [
        {**os.environ, **own, "PYTHONPATH": os.pathsep.join(paths)} for own in environments or [{}] * len(commands)
    ]
    began, started = time.time(), list[subprocess.Popen[bytes]]()
    try:
        for words, output, own in zip(commands, outputs, given, strict=True):
            with output.open("wb") as file:
                started.append(
                    subprocess.Popen(
                        words, cwd=folder, env=own, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
                    )
                )
        for process in started:
            process.wait(max(0.0, began + limit_s - time.time()))
    except subprocess.TimeoutExpired as error:
        raise RuntimeError(f"{error}\n{_end_of(outputs)}") from None
    finally:
        for process in started:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    codes = [process.returncode for process in started]
    if any(code not in may_exit for code in codes):
        raise RuntimeError(f"{' '.join(commands[0][:3])} failed:\n{_end_of(outputs)}")
    return began, codes


def _end_of(outputs: Sequence[Path]) -> str:
    return "\n".join(output.read_text(encoding="utf-8", errors="replace")[-3000:] for output in outputs)


def peers_python(folder: Path) -> Path:
    """Python of the peers' environment, which is made where it is not there or its list has changed.

    Raises:
        RuntimeError: it cannot be installed.
    """
    python, wanted, stamp = folder / "bin" / "python", BENCHMARKS / "peers.txt", folder / "peers.txt"
    if stamp.exists() and stamp.read_bytes() == wanted.read_bytes():
        return python
    note(f"installing the peers into {folder}, once")
    install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    for words in (
        [sys.executable, "-m", "venv", str(folder)],
        [
            str(python),
            *install,
            "-c",
            str(BENCHMARKS.parent / "constraints.txt"),
            "-r",
            str(wanted),
            "-e",
            str(BENCHMARKS.parent),
        ],
    ):
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{folder} cannot be made: {done.stderr.strip()[-2000:]}")
    shutil.copyfile(wanted, stamp)
    return python
