"""Records learning curves of real trainings, so that searches can be compared on them without training anything.

Configurations are drawn evenly from the study's space, the same ones whatever it is that they are trained on, and trained in
full; some of them a second time with another seed, which tells the noise. They are none that a round of tuner draws, with
any seed: a search that began with points of the table would be shown no interpolation. Each training has one thread. What
`search.py` makes of the file is said in `searches/recorded.py`.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import as_completed
from pathlib import Path
from typing import Any

from figures import filled, heading, note, parser, pool, positive_int, temporary_folder
from searches.recorded import FOLDS, explained

from tuner.config import StudySettings, load
from tuner.errors import TunerError
from tuner.search.draws import uniform
from tuner.space import Value


def study_of(words: Sequence[str]) -> StudySettings:
    """The study as the command line has it; see `opened`."""
    study = load(words).study
    assert study is not None
    return study


def configuration(study: StudySettings, number: int) -> dict[str, Value]:
    """Hyperparameters as drawn; the key "record" is that of no round."""
    return study.space.from_unit({name: uniform("record", number, name) for name in study.space.names})


def trained(words: Sequence[str], number: int, seed: int, values: Mapping[str, Value]) -> dict[str, Any]:
    """A line of the file: configuration `number` with these hyperparameters, and its objective after each epoch."""
    import lightning.pytorch as pl  # noqa: PLC0415 - only the children train
    from contenders.problem import fitted  # noqa: PLC0415
    from contenders.record import Record, read  # noqa: PLC0415

    from tuner.training.task import Task  # noqa: PLC0415

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    study = study_of(words)
    config, metric = study.nodes.plain(study.space.effective(values), study.space), study.objective.metric
    began = time.perf_counter()
    with temporary_folder() as folder:
        log = str(folder / "log.jsonl")
        pl.seed_everything(seed, verbose=False)
        task = Task(trial=number, config=config, metric=metric, seed=seed, folder=str(folder))
        fitted(task, [Record(log, metric)])
        curve = [line["value"] for line in read(Path(log)) if "epoch" in line]
    shown = [round(value, 5) if math.isfinite(value) else None for value in curve]
    return {
        "number": number,
        "seed": seed,
        "values": dict(values),
        "curve": shown,
        "seconds": round(time.perf_counter() - began, 2),
    }


def opened(words: Sequence[str], file: Path) -> list[dict[str, Any]]:
    """The trainings that the file has; it is made where it is not there.

    Raises:
        ValueError: the file is of another study.
        TunerError: the words name none, or it cannot be configured so.
        OSError: the file cannot be made.
    """
    study_of(words)
    file.parent.mkdir(parents=True, exist_ok=True)
    if not file.exists():
        file.write_text(f"{json.dumps({'words': list(words)})}\n", encoding="utf-8")
    first, *lines = map(json.loads, file.read_text(encoding="utf-8").splitlines())
    if first["words"] != list(words):
        raise ValueError(f"{file} is of {' '.join(first['words'])}: name another file")
    return lines


def record(
    words: Sequence[str], file: Path, lines: Sequence[Mapping[str, Any]], jobs: Sequence[tuple[int, int]], workers: int
) -> None:
    """Train all (number, seed) that are not among the lines of the file.

    A configuration that the file has is trained as it is there, whatever would be drawn for its number.
    """
    there = {(line["number"], line["seed"]) for line in lines}
    missing, study = [job for job in jobs if job not in there], study_of(words)
    values = {number: configuration(study, number) for number, _ in missing}
    values |= {line["number"]: line["values"] for line in lines}
    with pool(workers) as processes:
        running = [processes.submit(trained, words, number, seed, values[number]) for number, seed in missing]
        for count, done in enumerate(as_completed(running), 1):
            with file.open("a", encoding="utf-8") as stream:
                stream.write(f"{json.dumps(done.result())}\n")
            if count % 10 == 0 or count == len(missing):
                note(f"{file.name}: {count} of {len(missing)} trainings")


def main() -> int:
    line = _options()
    asked = filled(line.parse_args(), usual={"trials": 300}, quick={"trials": 4})
    filled(asked, usual={"again": min(50, asked.trials)}, quick={"again": min(2, asked.trials)})
    if not 0 <= asked.again <= asked.trials:
        line.error(f"--again is at most --trials ({asked.trials}) and not below 0, not {asked.again}")
    # The seed is that of a round's trial; the second one is far from any of them.
    jobs = [(number, number) for number in range(asked.trials)]
    jobs += [(number, 100_000 + number) for number in range(asked.again)]
    try:
        lines = opened(asked.words, asked.out)
    except (ValueError, OSError, TunerError) as error:
        line.error(str(error))
    record(asked.words, asked.out, lines, jobs, asked.jobs)
    print(heading(markdown=asked.markdown))
    if asked.trials >= FOLDS:
        share = explained(asked.out)
        print(f"interpolated final values explain {share:.0%} of the variance at configurations that were left out")
    return 0


def _options() -> argparse.ArgumentParser:
    made = parser(__doc__)
    made.add_argument("words", nargs="+", help="of the study, as the command line has them: study=digits …")
    made.add_argument("--out", type=Path, required=True, help="file of the curves (.jsonl); what it has is kept")
    made.add_argument("--trials", type=positive_int, help="configurations (300)")
    made.add_argument("--again", type=int, help="the first so many are trained a second time (50)")
    made.add_argument("--jobs", type=positive_int, default=os.cpu_count(), help="trainings at a time")
    return made


if __name__ == "__main__":
    sys.exit(main())
