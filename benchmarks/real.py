"""Real trainings against a wall clock: `tuner`, plain Optuna and Ray Tune, each with the same budget on this machine.

Every contender searches the same space with the same module on the same splits, as many epochs at most, as many trainings
at a time as the machine has places (GPUs, or cores with one thread each); of plain Optuna there is also the usual single
process, which has all cores. Contenders run alone and take turns, in an order that rotates with the seed; time counts
from the start of their processes. tuner runs from the command line with its default search. The peers are written as
their own examples are (`contenders/`); `--equal` gives them the study's loaders, trainer settings and first configuration
as well, which leaves the search and the processes to compare. What each recommends at the end of its budget is trained
afresh by the same code, and only there is the test set read.

With `--keep`, runs are taken from the folder while the files, versions and processor are the same. When one contender of a
seed has to run again, all of that seed do; those that are missing, because they were added or the benchmark was broken
off, run alone, and the report says that they did not run beside the others.

Ray Tune runs in an environment of its own, which is made from `peers.txt` where it is not there yet.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from contenders.curves import Run
from contenders.race import CONTENDERS, OWN, Race, peers_python, places, versions_in, write
from contenders.results import Results, plot, recommended, seen
from figures import (
    filled,
    heading,
    note,
    one_thread_each,
    parser,
    plot_file,
    positive_float,
    positive_int,
    temporary_folder,
)

from studies.cifar import files
from tuner.errors import TunerError
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
        runs.append(race.go([*names[turn:], *names[:turn]], seed))
    recommended = [{name: race.recommended(run) for name, run in by.items()} for by in runs]
    # Not timed, so they may run side by side. Those that share their first draws may recommend the same.
    different = [*dict.fromkeys(one for by in recommended for one in by.values() if one)]
    with ThreadPoolExecutor(race.slots) as pool:
        found = dict(zip(different, pool.map(race.tested, different), strict=True))
    tests = [{name: found.get(one, []) for name, one in by.items()} for by in recommended]
    return Results(race, runs, tests, [*race.remarks(names, seeds)])


def with_places(names: Sequence[str]) -> list[str]:
    """The contenders that differ on this machine; which do not, and why, is told.

    Raises:
        ValueError: none is left.
    """
    same = [name for name in names if CONTENDERS[name].processes is None] if places() == 1 else []
    left = [name for name in names if name not in same]
    why = f"{', '.join(same)}: this machine has one place to train, where all places are the same as a single process"
    if not left:
        raise ValueError(f"--contenders: {why}. Name {', '.join(name.removesuffix('-all') for name in same)}.")
    if same:
        note(f"left out {why}")
    return left


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
        ValueError: it says what differs, or that the folder cannot be written.
    """
    file = race.keep / "settings.json"
    try:
        race.keep.mkdir(parents=True, exist_ok=True)
        if not file.exists():
            write(file, race.settings)
    except OSError as error:
        raise ValueError(f"--keep: runs cannot be kept in {race.keep}: {error}. Name another folder.") from None
    try:
        kept = json.loads(file.read_text(encoding="utf-8"))
        missing = [key for key in race.settings if key not in kept]
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(f"--keep: {file} has no settings that can be read: {error}. Name another folder.") from None
    if missing:
        raise ValueError(f"--keep: {file} does not have {', '.join(missing)}. Name another folder.")
    changed = [f"{key} was {kept[key]} and is {now}" for key, now in race.settings.items() if kept[key] != now]
    if changed:
        raise ValueError(
            f"--keep: {race.keep} has runs with other settings: {'; '.join(changed)}. Name another folder."
        )


def options() -> argparse.ArgumentParser:
    made = parser(__doc__)
    made.add_argument("--study", nargs="+", choices=list(SECONDS), default=["digits"])
    made.add_argument("--seconds", nargs="+", type=positive_float, help="of each contender's budget, for each study")
    made.add_argument("--seeds", type=positive_int, help="runs of each contender (5)")
    made.add_argument("--fresh", type=positive_int, help="trainings of each recommendation for its test value (3)")
    made.add_argument("--contenders", nargs="+", choices=list(CONTENDERS), help="all where none are named")
    made.add_argument("--equal", action="store_true", help="give the peers the study's loaders, trainer and own values")
    made.add_argument("--root", default=os.environ.get("TUNER_DATA", "data"), help="folder of CIFAR-10")
    made.add_argument("--peers", type=Path, default=Path(".peers"), help="the peers' virtual environment")
    made.add_argument(
        "--keep",
        type=Path,
        help="folder of finished runs, from which a broken-off benchmark goes on; runs of other code are done again",
    )
    made.add_argument("--plot", type=plot_file, help="file of a figure (PNG, SVG or PDF)")
    return made


def main() -> int:
    line = options()
    asked = line.parse_args()
    filled(
        asked,
        usual={"seeds": 5, "fresh": 3, "contenders": CONTENDERS, "seconds": [SECONDS[study] for study in asked.study]},
        quick={"seeds": 1, "fresh": 1, "contenders": QUICK, "seconds": [QUICK_SECONDS] * len(asked.study)},
    )
    if len(asked.seconds) != len(asked.study):
        line.error(f"--seconds has one number for each study ({len(asked.study)}), not {asked.seconds}")
    root = str(Path(asked.root).resolve())
    if not gpus():
        # One thread for each training; of the samplers' algebra, too.
        one_thread_each()
    with kept_in(asked.keep) as keep:
        races = [
            Race(words_of(study, root, quick=asked.quick), budget, asked.equal, asked.fresh, None, keep / study)
            for study, budget in zip(asked.study, asked.seconds, strict=True)
        ]
        try:
            names = with_places(list(dict.fromkeys(asked.contenders)))
            for race in races:
                refuse_other_settings(race)
            if "cifar" in asked.study:
                files.fetch(Path(root))
            python = peers_python(asked.peers.resolve()) if any(CONTENDERS[name].peers for name in names) else None
        except (ValueError, OSError, RuntimeError, TunerError) as error:
            line.error(str(error))
        found = [measure(replace(race, peers=python), names, asked.seeds) for race in races]
    report(found, python, markdown=asked.markdown)
    if asked.plot:
        plot(found, asked.plot)
    return 0


def report(found: Sequence[Results], python: Path | None, *, markdown: bool) -> None:
    bullet = "- " if markdown else ""
    print(heading(markdown=markdown))
    if python:
        print(f"{bullet}peers: ray {versions_in(str(python), ('ray',))['ray']}")
    for results in found:
        race = results.race
        print(
            f"{bullet}{race.study.name}: {race.seconds:g} s for each of {len(results.names)} contenders, n={len(results.seeds)} seeds, {race.slots} trainings at a time{', equal' if race.equal else ''}; `{' '.join(race.words)}`"
        )
        for remark in results.remarks:
            print(f"{bullet}{race.study.name}, {remark}")
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
