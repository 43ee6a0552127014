"""What runs of searches on tables leave, and the file that keeps it, so that a benchmark that was broken off goes on."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

from figures import digest_of, note

OURS, THEIRS = "tuner", "Optuna"
VERSIONS = ("numpy", "optuna", "scikit-learn", "scipy", "torch")

_ROOT = Path(__file__).parents[2]
#: How a table is read, and the study that it stands for.
_TABLE = (
    *(Path(__file__).with_name(f"{name}.py") for name in ("tables", "recorded")),
    *(_ROOT / "tuner" / name for name in ("config", "space.py")),
    *(_ROOT / "tuner" / "search" / f"{name}.py" for name in ("distributions", "encoding", "dimensions")),
    _ROOT / "conf" / "study",
)
#: What the runs of each depend on, besides the table.
_CODE = {
    OURS: (
        Path(__file__).with_name("rounds.py"),
        *_TABLE,
        *(_ROOT / "tuner" / name for name in ("search", "chosen.py")),
        *(_ROOT / "conf" / name for name in ("search", "pruner", "config.yaml")),
    ),
    THEIRS: (Path(__file__).with_name("baselines.py"), *_TABLE),
}


@dataclass(frozen=True)
class Row:
    """What was recommended after one budget.

    Attributes:
        regret: 0 for the best value known, 1 for the median of random configurations.
        drawn: configurations until then.
        clock: time that the run took, in full trainings' worth of all workers.
        decision_ms: milliseconds from a free worker to what it does next, median of the run; of Optuna to its next trial.
        code: with which program and table; rows of another one are not taken from a file.
        own: share of random configurations that the first one is better than; None: the search drew it.
    """

    whose: str
    system: str
    task: str
    seed: int
    workers: int
    budget: float
    regret: float
    drawn: float
    clock: float
    decision_ms: float
    code: str = ""
    own: float | None = None

    @property
    def run(self) -> tuple[object, ...]:
        return self.whose, self.system, self.task, self.seed, self.workers, self.budget, self.own

    @property
    def place(self) -> tuple[object, ...]:
        return self.code, *self.run


@cache
def code_of(whose: str, data: Path) -> str:
    """What the rows of this project's systems, or of Optuna's, depend on besides their settings."""
    versions = " ".join(f"{name} {importlib.metadata.version(name)}" for name in VERSIONS)
    return f"{versions}, {digest_of(data, *_CODE[whose])}"


class Kept:
    """Rows in a file, a line of JSON each; in memory alone without one.

    Args:
        file: made by the first row.
    """

    def __init__(self, file: Path | None) -> None:
        self._file = file
        self._rows = {row.place: row for row in self._read()}

    def leave_aside(self, data: Path) -> None:
        """Say how many rows are of another code than today's."""
        self._tell_of_others(data, "left aside")

    def of_any_code(self, data: Path) -> dict[tuple[object, ...], Row]:
        """Rows by their runs, today's before those of another code, of which the last ones, and it is told of how many."""
        self._tell_of_others(data, "shown where there are none of this one")
        rows = sorted(self._rows.values(), key=lambda row: row.code == code_of(row.whose, data))
        return {row.run: row for row in rows}

    def _tell_of_others(self, data: Path, what: str) -> None:
        others = sum(row.code != code_of(row.whose, data) for row in self._rows.values())
        if others:
            note(f"{others} rows of {self._file} are of another version of the searches or of the table: {what}")

    def __contains__(self, place: object) -> bool:
        return place in self._rows

    def __getitem__(self, place: tuple[object, ...]) -> Row:
        return self._rows[place]

    def add(self, row: Row) -> None:
        self._rows[row.place] = row
        if self._file is not None:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with self._file.open("a", encoding="utf-8") as lines:
                lines.write(f"{json.dumps(asdict(row))}\n")

    def _read(self) -> Iterator[Row]:
        if self._file is None or not self._file.is_file():
            return
        text = self._file.read_text(encoding="utf-8")
        whole, _, rest = text.rpartition("\n")
        if rest:
            # Killed while it was written. Without its end the next row would be appended to it.
            note(f"{self._file}: the last line is cut off, and its run is done again")
            self._file.write_text(f"{whole}\n" if whole else "", encoding="utf-8")
        for line in whole.splitlines():
            yield Row(**json.loads(line))
