"""Records learning curves of real trainings, so that searches can be compared on them without training anything.

Configurations are drawn evenly from the study's space, the same ones whatever it is that they are trained on, and trained in
full; some of them a second time with another seed, which tells the noise. Each training has one thread. What `search.py`
makes of the file is said in `searches/recorded.py`.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from figures import heading, note, parser, temporary_folder
from searches.recorded import FOLDS, explained

from tuner.config import load
from tuner.search.draws import uniform_point

QUICK = (4, 2)


def trained(words: Sequence[str], number: int, seed: int) -> dict[str, Any]:
    """A line of the file: configuration `number` of the space, and its objective after each epoch."""
    import lightning.pytorch as pl  # noqa: PLC0415 - only the children train
    import torch  # noqa: PLC0415
    from contenders.problem import fitted  # noqa: PLC0415
    from contenders.record import Record, read  # noqa: PLC0415

    from tuner.training.task import Task  # noqa: PLC0415

    torch.set_num_threads(1)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    study = load(words).study
    assert study is not None
    values = study.space.from_unit(uniform_point(0, 0, number, study.space.names))
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
        "values": values,
        "curve": shown,
        "seconds": round(time.perf_counter() - began, 2),
    }


def record(words: Sequence[str], file: Path, jobs: Sequence[tuple[int, int]], workers: int) -> None:
    """Train all (number, seed) that the file lacks.

    Raises:
        ValueError: the file is of another study.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    if not file.exists():
        file.write_text(f"{json.dumps({'words': list(words)})}\n", encoding="utf-8")
    first, *lines = map(json.loads, file.read_text(encoding="utf-8").splitlines())
    if first["words"] != list(words):
        raise ValueError(f"{file} is of {' '.join(first['words'])}: name another file")
    there = {(line["number"], line["seed"]) for line in lines}
    missing = [job for job in jobs if job not in there]
    with ProcessPoolExecutor(workers) as pool:
        running = [pool.submit(trained, words, *job) for job in missing]
        for count, done in enumerate(as_completed(running), 1):
            with file.open("a", encoding="utf-8") as stream:
                stream.write(f"{json.dumps(done.result())}\n")
            if count % 10 == 0 or count == len(missing):
                note(f"{file.name}: {count} of {len(missing)} trainings")


def main() -> int:
    line = _options()
    asked = line.parse_args()
    trials, again = QUICK if asked.quick else (asked.trials, asked.again)
    os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    # The seed is that of a round's trial; the second one is far from any of them.
    jobs = [(number, number) for number in range(trials)] + [(number, 100_000 + number) for number in range(again)]
    try:
        record(asked.words, asked.out, jobs, asked.jobs)
    except ValueError as error:
        line.error(str(error))
    print(heading(markdown=asked.markdown))
    if trials >= FOLDS:
        share = explained(asked.out)
        print(f"interpolated final values explain {share:.0%} of the variance at configurations that were left out")
    return 0


def _options() -> argparse.ArgumentParser:
    made = parser(__doc__)
    made.add_argument("words", nargs="+", help="of the study, as the command line has them: study=digits …")
    made.add_argument("--out", type=Path, required=True, help="file of the curves (.jsonl); what it has is kept")
    made.add_argument("--trials", type=int, default=300, help="configurations")
    made.add_argument("--again", type=int, default=50, help="the first so many are trained a second time")
    made.add_argument("--jobs", type=int, default=os.cpu_count(), help="trainings at a time")
    return made


if __name__ == "__main__":
    sys.exit(main())
