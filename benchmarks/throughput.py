"""Trials per minute on digits: `tuner` against a script of Optuna and Lightning as their examples are written.

All train the same configurations for the same epochs with the same module, and ask a median pruner after each epoch,
which lets all of them go on. They take turns. The script's study is in memory, that of `tuner` in its database.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from figures import Spread, filled, heading, note, parser, positive_int, short, table, temporary_folder, timed, verdict

from tuner.store.database import Database

TARGET = 3.0
#: Trials that may end before the clock of "without start-up" begins.
FIRST = 2


@dataclass(frozen=True)
class Measured:
    """One run of one system.

    Attributes:
        wall_s: of the whole command, from the shell to its end.
        steady: trials per second from the end of the second trial to the end of the last.
        epochs: trained by all trials together.
        best: highest accuracy of a trial.
    """

    wall_s: float
    steady: float
    epochs: float
    best: float


class Bench:
    def __init__(self, root: Path, trials: int, epochs: int) -> None:
        self.root, self.trials, self.epochs = root, trials, epochs
        self.configurations: list[dict[str, Any]] = []
        self.runs = defaultdict[str, list[Measured]](list)
        self._count = 0

    @property
    def systems(self) -> Mapping[str, Callable[[], Measured]]:
        return {
            "tuner, 2 workers": lambda: self.tuner(2),
            "script": lambda: self.script(1),
            "script, no checkpoints": lambda: self.script(1, "--no-checkpoints"),
            "script, no checkpoints, 2 processes": lambda: self.script(2, "--no-checkpoints", "--threads", "1"),
            "tuner, 1 worker": lambda: self.tuner(1),
        }

    def measure(self, names: Sequence[str]) -> None:
        for name in names:
            measured = self.systems[name]()
            self.runs[name].append(measured)
            note(
                f"{name}: {measured.wall_s:.1f} s, {60 * measured.steady:.1f} trials per minute, best {measured.best:.4f}"
            )

    def tuner(self, workers: int) -> Measured:
        folder = self._folder()
        url = f"sqlite:///{folder / 'tuner.db'}"
        words = [
            "study=digits", "search=random", "search.budget=null", f"search.trials={self.trials}",
            f"trainer.max_epochs={self.epochs}", "pruner=median", f"+pruner.n_startup_trials={self.trials}",
            f"launcher.workers={workers}", f"store.url={url}", f"store.folder={folder}",
        ]  # fmt: skip
        wall_s, _ = timed([["-m", "tuner", *words]], folder)
        with Database(url) as database:
            trials = optuna.load_study(study_name="digits-1", storage=database.storage).trials
        if any(trial.state is not optuna.trial.TrialState.COMPLETE for trial in trials):
            raise RuntimeError(f"not all trials are complete: {[trial.user_attrs.get('outcome') for trial in trials]}")
        drawn = [trial.user_attrs["hyperparameters"] for trial in trials]
        if drawn != (self.configurations or drawn):
            raise RuntimeError("the draws differ between runs, so nothing can be compared")
        self.configurations = drawn
        ended = [trial.datetime_complete.timestamp() for trial in trials if trial.datetime_complete]
        epochs = sum(trial.user_attrs["epochs"] for trial in trials)
        return Measured(wall_s, _steady(ended), epochs, max(trial.value or 0.0 for trial in trials))

    def script(self, processes: int, *options: str) -> Measured:
        folder = self._folder()
        commands = []
        for share in range(processes):
            # Dealt in turn, as a shared queue would roughly do.
            mine = [one for place, one in enumerate(self.configurations) if place % processes == share]
            file = folder / f"configurations-{share}.json"
            file.write_text(json.dumps(mine), encoding="utf-8")
            script = str(Path(__file__).resolve().with_name("plain_optuna.py"))
            result = str(folder / f"result-{share}.json")
            commands.append([script, str(file), result, f"--epochs={self.epochs}", *options])
        wall_s, _ = timed(commands, folder)
        results = [
            json.loads((folder / f"result-{share}.json").read_text(encoding="utf-8")) for share in range(processes)
        ]
        ended = [moment for result in results for moment in result["ended"]]
        return Measured(
            wall_s,
            _steady(ended),
            sum(result["epochs"] for result in results),
            max(result["best"] for result in results),
        )

    def _folder(self) -> Path:
        self._count += 1
        folder = self.root / str(self._count)
        folder.mkdir()
        return folder

    def ratios(self, name: str, value: Callable[[Measured], float]) -> Spread:
        """How many times as fast as `name` the first system is, repeat by repeat."""
        own = self.runs[next(iter(self.systems))]
        return Spread.of([value(mine) / value(other) for mine, other in zip(own, self.runs[name], strict=True)])

    def table(self, *, markdown: bool) -> str:
        rows = []
        for name, runs in self.runs.items():
            total = Spread.of([self._per_minute(run) for run in runs])
            steady = Spread.of([60 * run.steady for run in runs])
            ratios = [self.ratios(name, self._per_minute), self.ratios(name, lambda run: run.steady)]
            epochs = sorted({round(run.epochs) for run in runs})
            best = f"{max(run.best for run in runs):.4f}"
            rows.append(
                [
                    name,
                    str(total),
                    str(ratios[0]),
                    str(steady),
                    str(ratios[1]),
                    ", ".join(map(str, epochs)),
                    best,
                ]
            )
        header = [
            "trials per minute",
            "with start-up",
            "tuner / this",
            "without",
            "tuner / this",
            "epochs",
            "best val/acc",
        ]
        return table(header, rows, markdown=markdown)

    def _per_minute(self, run: Measured) -> float:
        return 60 * self.trials / run.wall_s


def _steady(ended: Sequence[float]) -> float:
    ordered = sorted(ended)
    return (len(ordered) - FIRST) / (ordered[-1] - ordered[FIRST - 1])


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--trials", type=positive_int, help="configurations that are trained")
    options.add_argument("--epochs", type=positive_int, help="of each training")
    options.add_argument("--repeats", type=positive_int, help="runs of each system")
    asked = filled(
        options.parse_args(),
        usual={"trials": 16, "epochs": 24, "repeats": 3},
        quick={"trials": 4, "epochs": 2, "repeats": 1},
    )
    with temporary_folder() as folder:
        bench = Bench(folder, asked.trials, asked.epochs)
        names = list(bench.systems)
        for _ in range(asked.repeats):
            bench.measure(names[:2] if asked.quick else names)
    print(heading(markdown=asked.markdown))
    print(
        f"- {bench.trials} configurations, {bench.epochs} epochs each\n"
        if asked.markdown
        else f"{bench.trials} configurations, {bench.epochs} epochs each\n"
    )
    print(bench.table(markdown=asked.markdown))
    print()
    for what, value in (("with start-up", lambda run: 1 / run.wall_s), ("without start-up", lambda run: run.steady)):
        ratio = bench.ratios("script", value)
        line = verdict(
            f"{short(ratio.median)} times the script's trials per minute, {what}",
            f"at least {TARGET:g}",
            met=ratio.median >= TARGET,
        )
        print(f"- {line}" if asked.markdown else line)


if __name__ == "__main__":
    main()
