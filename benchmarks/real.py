"""Real trainings against a wall clock: `tuner`, plain Optuna and Ray Tune, each with the same budget on this machine.

Every contender searches the same space with the same module on the same splits, as many epochs at most, as many trainings
at a time as the machine has places (GPUs, or cores with one thread each); of plain Optuna there is also the usual single
process, which has all cores. Contenders run alone and take turns, in an order that rotates with the seed; time counts
from the start of their processes. tuner runs from the command line with its default search. The peers are written as
their own examples are (`contenders/`); `--equal` gives them the study's loaders, trainer settings and first configuration
as well, which leaves the search and the processes to compare. What each recommends at the end of its budget is trained
afresh by the same code, and only there is the test set read.

Ray Tune runs in an environment of its own, which is made from `peers.txt` where it is not there yet.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from contenders.curves import Run
from contenders.race import CONTENDERS, OWN, Race, peers_python, write
from contenders.results import Results, plot, recommended, seen
from figures import heading, parser, temporary_folder

from studies.cifar import files
from tuner.errors import StudyError
from tuner.launch.devices import gpus

QUICK = (OWN, "optuna-tpe-median")
QUICK_SECONDS = 12.0

#: A network that one core trains in half a minute, and batches that leave 10,000 images enough steps.
SMALL_CIFAR = (
    "data.limit=10000", "module.width=8", "space.width.choices=[4,6,8,12]", "data.batch_size=128",
    "space.batch_size.choices=[32,64,128,256]", "trainer.max_epochs=8",
)  # fmt: skip
#: Seconds of a contender's budget where none are given.
SECONDS = {"digits": 60.0, "cifar": 600.0}


def words_of(study: str, root: str, *, quick: bool) -> list[str]:
    """The study as the command line has it, of a size for this machine."""
    if study == "digits":
        return ["study=digits", *(["trainer.max_epochs=4"] if quick else [])]
    # The usual augmentation has no cutout, and all are to train on the same images.
    return ["study=cifar", f"data.root={root}", "data.cutout=0", *(() if gpus() else SMALL_CIFAR)]


def measure(race: Race, names: Sequence[str], seeds: int) -> Results:
    runs = list[dict[str, Run]]()
    for seed in range(seeds):
        turn = seed % len(names)
        runs.append({name: race.run(name, seed) for name in [*names[turn:], *names[:turn]]})
    # Not timed, so they may run side by side.
    with ThreadPoolExecutor(race.slots) as pool:
        jobs = [
            {name: pool.submit(race.tested, name, seed, run) for name, run in by.items()}
            for seed, by in enumerate(runs)
        ]
        tests = [{name: job.result() for name, job in by.items()} for by in jobs]
    return Results(race, runs, tests)


@contextmanager
def kept_in(folder: Path | None) -> Iterator[Path]:
    """The folder of finished runs; one that is removed in the end where none is given."""
    if folder is None:
        with temporary_folder() as made:
            yield made
    else:
        yield folder.resolve()


def refuse_other_settings(race: Race) -> None:
    """Runs that were kept under other settings cannot be compared with new ones.

    Raises:
        ValueError: it says what differs.
    """
    race.keep.mkdir(parents=True, exist_ok=True)
    file = race.keep / "settings.json"
    if not file.exists():
        write(file, race.settings)
    kept = json.loads(file.read_text(encoding="utf-8"))
    changed = [f"{key} was {kept.get(key)} and is {now}" for key, now in race.settings.items() if kept.get(key) != now]
    if changed:
        raise ValueError(
            f"--keep: {race.keep} has runs with other settings: {'; '.join(changed)}. Name another folder."
        )


def options() -> argparse.ArgumentParser:
    made = parser(__doc__)
    made.add_argument("--study", nargs="+", choices=list(SECONDS), default=["digits"])
    made.add_argument("--seconds", nargs="+", type=float, help="of each contender's budget; one for each study")
    made.add_argument("--seeds", type=int, help="runs of each contender (5)")
    made.add_argument("--fresh", type=int, help="trainings of each recommendation for its test value (3)")
    made.add_argument("--contenders", nargs="+", choices=list(CONTENDERS), help="all where none are named")
    made.add_argument("--equal", action="store_true", help="give the peers the study's loaders, trainer and own values")
    made.add_argument("--root", default=os.environ.get("TUNER_DATA", "data"), help="folder of CIFAR-10")
    made.add_argument("--peers", type=Path, default=Path(".peers"), help="the peers' virtual environment")
    made.add_argument("--keep", type=Path, help="folder of finished runs, from which a broken-off benchmark goes on")
    made.add_argument("--plot", type=Path, help="file of a figure (PNG, SVG or PDF)")
    return made


def main() -> int:
    line = options()
    asked = line.parse_args()
    names = list(dict.fromkeys(asked.contenders or (QUICK if asked.quick else CONTENDERS)))
    if len(gpus()) == 1:  # one place: the same as a single process
        names = [name for name in names if CONTENDERS[name].processes is not None]
    seconds = asked.seconds or [QUICK_SECONDS if asked.quick else SECONDS[study] for study in asked.study]
    if len(seconds) != len(asked.study) or min(seconds) <= 0:
        line.error(f"--seconds has one number above 0 for each study ({len(asked.study)}), not {asked.seconds}")
    seeds, fresh = asked.seeds or (1 if asked.quick else 5), asked.fresh or (1 if asked.quick else 3)
    root = str(Path(asked.root).resolve())
    if not gpus():
        # One thread for each training; of the samplers' algebra, too.
        os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    with kept_in(asked.keep) as keep:
        races = [
            Race(words_of(study, root, quick=asked.quick), budget, asked.equal, fresh, None, keep / study)
            for study, budget in zip(asked.study, seconds, strict=True)
        ]
        try:
            for race in races:
                refuse_other_settings(race)
            if "cifar" in asked.study:
                files.fetch(Path(root))
        except (ValueError, StudyError) as error:
            line.error(str(error))
        python = peers_python(asked.peers.resolve()) if any(CONTENDERS[name].peers for name in names) else None
        found = [measure(replace(race, peers=python), names, seeds) for race in races]
    report(found, python, markdown=asked.markdown)
    if asked.plot:
        plot(found, asked.plot)
    return 0


def report(found: Sequence[Results], python: Path | None, *, markdown: bool) -> None:
    bullet = "- " if markdown else ""
    print(heading(markdown=markdown))
    if python:
        ask = [str(python), "-c", "import ray; print(ray.__version__)"]
        print(f"{bullet}peers: ray {subprocess.run(ask, capture_output=True, text=True, check=True).stdout.strip()}")
    for results in found:
        race = results.race
        print(
            f"{bullet}{race.study.name}: {race.seconds:g} s for each of {len(results.names)} contenders, n={len(results.seeds)} seeds, {race.slots} trainings at a time{', equal' if race.equal else ''}; `{' '.join(race.words)}`"
        )
        for title, curve in (
            ("validation value of the recommended", recommended),
            ("best validation value so far", seen),
        ):
            print(f"\n{race.study.name}, {title}, in %, mean of the seeds (95 % interval):\n")
            print(results.over_time(curve, markdown=markdown))
        print(f"\n{results.summary(markdown=markdown)}\n")
        for said in results.verdicts():
            print(f"{bullet}{said}")


if __name__ == "__main__":
    sys.exit(main())
