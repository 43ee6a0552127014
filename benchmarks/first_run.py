"""How long the first command of a newcomer takes, `python -m tuner study=digits` in an empty folder, and what it finds.

The configuration of the champion is then trained afresh with other seeds and looked at on the test split, which the
search never sees.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from figures import Spread, filled, heading, note, parser, positive_int, table, temporary_folder, timed, verdict

TARGET_S, TARGET_ACCURACY = 120.0, 0.97
QUICK = ("search.budget=2", "trainer.max_epochs=4")
#: The round's trials have the seeds 0, 1, 2, …
FIRST_SEED = 100_000


def first_run(folder: Path, words: list[str]) -> tuple[float, dict[str, Any]]:
    """Seconds of the command, and the champion's document."""
    import yaml  # noqa: PLC0415 - not needed by the child

    wall_s, _ = timed([["-m", "tuner", "study=digits", *words]], folder)
    _, [told] = timed([["-m", "tuner", "champion", "study=digits", *words]], folder)
    return wall_s, yaml.safe_load(told)


def tested(words: list[str], seed: int) -> float:
    """Test accuracy of one training of the study as the words of the command line have it."""
    import lightning.pytorch as pl  # noqa: PLC0415 - only the child trains

    from tuner.config import load  # noqa: PLC0415
    from tuner.training.build import build  # noqa: PLC0415
    from tuner.training.task import Task  # noqa: PLC0415

    settings = load(words)
    assert settings.study is not None
    config, metric = settings.study.nodes.plain(), settings.study.objective.metric
    with temporary_folder() as folder:
        pl.seed_everything(seed)
        parts = build(Task(trial=0, config=config, metric=metric, seed=seed, folder=str(folder)))
        trainer = pl.Trainer(**parts.trainer, enable_checkpointing=False)
        trainer.fit(parts.module, **parts.fit)
        [metrics] = trainer.test(parts.module, **parts.fit, verbose=False)
    return float(metrics["test/acc"])


def test_accuracies(words: list[str], seeds: int) -> list[float]:
    """In a process of its own, as a user would train the champion."""
    with temporary_folder() as folder:
        _, [printed] = timed([[str(Path(__file__).resolve()), "--train", str(seeds), *words]], folder)
    accuracies: list[float] = json.loads(printed.splitlines()[-1])
    return accuracies


def main() -> None:
    import shlex  # noqa: PLC0415 - not needed by the child

    options = parser(__doc__)
    options.add_argument("--repeats", type=positive_int, help="first runs, each with a seed of its own")
    options.add_argument("--seeds", type=positive_int, help="fresh trainings of each champion")
    asked = filled(options.parse_args(), usual={"repeats": 3, "seeds": 3}, quick={"repeats": 1, "seeds": 1})
    walls, accuracies, rows = list[float](), list[float](), list[list[str]]()
    for repeat in range(asked.repeats):
        words = [f"seed={repeat}", *(QUICK if asked.quick else ())]
        with temporary_folder() as folder:
            wall_s, champion = first_run(folder, words if repeat or asked.quick else [])
        found = test_accuracies(["study=digits", *words, *shlex.split(champion["overrides"])], asked.seeds)
        walls.append(wall_s)
        accuracies += found
        cells = [str(repeat), f"{wall_s:.1f}", f"{champion['value']:.4f}", ", ".join(f"{value:.4f}" for value in found)]
        note(f"seed {repeat}: {wall_s:.1f} s, test {cells[-1]}")
        rows.append(cells)
    print(heading(markdown=asked.markdown))
    print(
        f"\n{table(['round seed', 'wall time, s', 'val/acc of the champion', 'test/acc, fresh seeds'], rows, markdown=asked.markdown)}\n"
    )
    mean = Spread.of(accuracies).mean
    lines = [
        verdict(f"{Spread.of(walls)} s for the first run", f"below {TARGET_S:g}", met=max(walls) < TARGET_S),
        verdict(
            f"{mean:.4f} mean test accuracy of {len(accuracies)} trainings",
            f"at least {TARGET_ACCURACY}",
            met=mean >= TARGET_ACCURACY,
        ),
    ]
    print("\n".join(f"- {line}" if asked.markdown else line for line in lines))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--train"]:
        print(json.dumps([tested(sys.argv[3:], FIRST_SEED + place) for place in range(int(sys.argv[2]))]))
    else:
        main()
