"""The command line: the first word names a command, the rest are Hydra overrides.

Nothing heavy is imported before the configuration is known to be good, so that a mistake is told at once.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from tuner import __version__
from tuner.errors import ConfigError, TunerError
from tuner.sections import COMPARE, LR_RANGE, TRAIN


class Command(NamedTuple):
    """What a command is for, whether it needs a study, and the keys of its own section that are written bare."""

    what: str
    needs_study: bool = True
    keys: tuple[str, ...] = ()


COMMANDS = {
    "tune": Command("search for good hyperparameters, or go on with it (the default)"),
    "champion": Command("print the configuration recommended now, as YAML"),
    "train": Command("train the champion in full, save a checkpoint, and read the test set", keys=TRAIN),
    "compare": Command("train each choice of one parameter with the same seeds", keys=COMPARE),
    "lr-range": Command("raise the learning rate in one short run to see where it works", keys=LR_RANGE),
    "status": Command("rounds, stages, trials by outcome, running workers", needs_study=False),
    "dashboard": Command("serve optuna-dashboard on the study database", needs_study=False),
}
DEFAULT = "tune"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0 done, 1 failed, 2 the user's mistake, 130 interrupted."""
    # The controller's matrices are small: a second thread gains nothing and waits for cores that workers train on.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    command, config_dir, overrides = parse(sys.argv[1:] if arguments is None else arguments)
    # As with `python -m`, so that the console script finds the modules of a study in the current folder.
    here = str(Path.cwd())
    if here not in sys.path and "" not in sys.path:
        sys.path.insert(0, here)
    try:
        from tuner.config import load  # noqa: PLC0415 - after --help and --version, which need no Hydra

        chosen, name = COMMANDS[command], command.replace("-", "_")
        full = [f"{name}.{word}" if word.partition("=")[0] in chosen.keys else word for word in overrides]
        settings = load(full, config_dir=config_dir, needs_study=chosen.needs_study)
        module = importlib.import_module(f"tuner.commands.{name}")
        code = int(getattr(module, name)(settings))
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read the output has enough of it, as `tuner status | head` does.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except ConfigError as error:
        count = len(error.problems)
        sys.stderr.write(f"{count} problem{'' if count == 1 else 's'} in the configuration:\n")
        sys.stderr.writelines(f"  {problem}\n" for problem in error.problems)
        return error.exit_code
    except TunerError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    else:
        return code


def parse(arguments: Sequence[str]) -> tuple[str, str | None, list[str]]:
    """(command, --config-dir, overrides) of the words of the command line."""
    words = "\n".join(f"  {name:<10} {what}" for name, (what, *_) in COMMANDS.items())
    keys = "\n".join(f"  {name:<10} {' '.join(command.keys)}" for name, command in COMMANDS.items() if command.keys)
    parser = argparse.ArgumentParser(
        prog="tuner",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="tuner [COMMAND] [study=NAME] [KEY=VALUE ...] [--config-dir DIR]",
        description=f"Tune the hyperparameters of PyTorch Lightning models.\n\ncommands:\n{words}\n\n"
        f"keys of single commands, explained in conf/config.yaml:\n{keys}",
        epilog="examples:\n  tuner study=digits\n  tuner study=digits search=random search.budget=8 space.lr.high=0.5\n"
        "  tuner champion study=digits\n  tuner compare study=digits over=schedule seeds=5\n  tuner status",
    )
    parser.add_argument("words", nargs="*", help=argparse.SUPPRESS)
    parser.add_argument("--config-dir", metavar="DIR", help="folder with your own study/NAME.yaml (and other groups)")
    parser.add_argument("--version", action="version", version=f"tuner {__version__}")
    known, unknown = parser.parse_known_intermixed_args(list(arguments))
    if unknown:
        parser.error(f"there is no option {unknown[0]}; settings are written KEY=VALUE")
    command, words_left = DEFAULT, list(known.words)
    if words_left and "=" not in words_left[0] and not words_left[0].startswith(("~", "+")):
        command = words_left.pop(0)
        if command not in COMMANDS:
            parser.error(f"there is no command {command}; there is: {', '.join(COMMANDS)}")
    return command, known.config_dir, words_left
