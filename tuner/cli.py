"""The command line: the first word names a command, the rest are Hydra overrides.

Nothing heavy is imported before the configuration is known to be good, so that a mistake is told at once.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from tuner import __version__, ctrl_c, output, sections
from tuner.errors import ConfigError, Problem, TunerError, did_you_mean
from tuner.sections import Key


class Command(NamedTuple):
    """What a command is for, and what its help shows.

    Attributes:
        what: it does.
        needs_study: whether it works on one study.
        keys: of its own section, which are written bare.
        usual: keys that it is often called with, as they are written.
        examples: words after `tuner`.
        answers_ctrl_c: whether it does so itself, wherever there is something to lose.
    """

    what: str
    needs_study: bool = True
    keys: Mapping[str, Key] = {}
    usual: Mapping[str, Key] = {}
    examples: tuple[str, ...] = ()
    answers_ctrl_c: bool = False


LABELLED = "choices={constant: null, cosine: {_target_: tuner.schedules.cosine, _partial_: true}}"
COMMANDS = {
    "tune": Command(
        "search for good hyperparameters, or go on with it (the default)",
        usual=sections.TUNE,
        examples=("study=digits", "study=digits search=random search.budget=8 space.lr.high=0.5"),
        answers_ctrl_c=True,
    ),
    "champion": Command(
        "print the configuration recommended now, as YAML",
        usual=sections.CHAMPION,
        examples=("champion study=digits",),
    ),
    "train": Command(
        "train the champion in full, save a checkpoint, and read the test set",
        keys=sections.TRAIN,
        usual=sections.TRAINING,
        examples=("train study=digits", "train study=digits split=train at=defaults folder=final"),
    ),
    "compare": Command(
        "train each choice of one parameter with the same seeds",
        keys=sections.COMPARE,
        usual=sections.TRAINING,
        examples=(
            "compare study=digits over=schedule seeds=3",
            "compare study=digits over=lr 'choices=[0.01,0.1]' trainer.max_epochs=8",
            f"compare study=digits over=schedule '{LABELLED}'",
        ),
    ),
    "lr-range": Command(
        "raise the learning rate in one short run to see where it works",
        keys=sections.LR_RANGE,
        usual=sections.TESTING,
        examples=("lr-range study=digits", "lr-range study=digits low=1e-5 high=1 at=defaults"),
    ),
    "status": Command(
        "rounds, stages, trials by outcome, running workers",
        needs_study=False,
        usual=sections.STATUS,
        examples=("status", "status study=digits"),
    ),
    "dashboard": Command(
        "serve optuna-dashboard on the study database",
        needs_study=False,
        usual=sections.DASHBOARD,
        examples=("dashboard", "dashboard dashboard.port=9000"),
    ),
}
DEFAULT = "tune"
#: The rule of a problem whose key is not there at the top of the configuration; `tuner.config` words it.
UNKNOWN = "is a key of the configuration"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0 done, 1 failed, 2 the user's mistake, 130 interrupted.

    Args:
        arguments: words after `tuner`; None for those of this process, whose Ctrl-C is then answered from here on.
    """
    as_program = arguments is None
    if as_program:
        ctrl_c.leaves()
    # The controller's matrices are small: a second thread gains nothing and waits for cores that workers train on.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    command, config_dir, overrides = parse(sys.argv[1:] if arguments is None else arguments)
    # As with `python -m`, so that the console script finds the modules of a study in the current folder.
    here = str(Path.cwd())
    if here not in sys.path and "" not in sys.path:
        sys.path.insert(0, here)
    try:
        code = _run(command, config_dir, overrides, interrupts=as_program and not COMMANDS[command].answers_ctrl_c)
    except KeyboardInterrupt:
        code = ctrl_c.INTERRUPTED
    if as_program:
        ctrl_c.leaves()  # there is nothing left to put away
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        _drop_output()
    return code


def _run(command: str, config_dir: str | None, overrides: Sequence[str], *, interrupts: bool) -> int:
    """The exit code of a command; with `interrupts`, Ctrl-C raises once the configuration is known to be good."""
    try:
        from tuner.config import load  # noqa: PLC0415 - after --help and --version, which need no Hydra

        chosen, name = COMMANDS[command], command.replace("-", "_")
        full = [f"{name}.{word}" if word.partition("=")[0] in chosen.keys else word for word in overrides]
        settings = load(full, config_dir=config_dir, needs_study=chosen.needs_study)
        module = importlib.import_module(f"tuner.commands.{name}")
        if interrupts:
            ctrl_c.interrupts()
        return int(getattr(module, name)(settings))
    except BrokenPipeError:
        _drop_output()
        return 0
    except ConfigError as error:
        count = len(error.problems)
        output.say(f"{count} problem{'' if count == 1 else 's'} in the configuration:")
        for problem in error.problems:
            output.say(f"  {_with_bare_keys(problem, command)}")
        return error.exit_code
    except TunerError as error:
        output.say(str(error))
        return error.exit_code


def _drop_output() -> None:
    """Whoever read the output has enough of it, as `tuner status | head` does."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _with_bare_keys(problem: Problem, command: str) -> Problem:
    """A key that the configuration does not have at its top may be meant as one of those that commands take bare."""
    from tuner.config.compose import GROUPS  # noqa: PLC0415 - there already, as it is what found the problem
    from tuner.config.schema import TOP  # noqa: PLC0415 - likewise

    word, keys = problem.key.lstrip("+~"), COMMANDS[command].keys
    if problem.rule != UNKNOWN or "." in word:
        return problem
    owners = [f"tuner {name}" for name, other in COMMANDS.items() if word in other.keys]
    if word in keys:
        return replace(problem, remedy=f"Write {word}=VALUE.")
    if owners:
        return replace(problem, remedy=f"It is a key of {' and '.join(owners)}.")
    return replace(problem, remedy=did_you_mean(word, {*keys, *TOP, *GROUPS}))


def parse(arguments: Sequence[str]) -> tuple[str, str | None, list[str]]:
    """(command, --config-dir, overrides) of the words of the command line; with --help it is printed, and that is all."""
    parser = _parser(_general())
    known, unknown = parser.parse_known_intermixed_args(list(arguments))
    if unknown:
        parser.error(f"there is no option {unknown[0]}; settings are written KEY=VALUE")
    command, words_left = None, list(known.words)
    if words_left and "=" not in words_left[0] and not words_left[0].startswith(("~", "+")):
        command = words_left.pop(0)
        if command not in COMMANDS:
            parser.error(f"there is no command {command}. {did_you_mean(command, COMMANDS)}")
    if known.help:
        (_parser(_of_command(command)) if command else parser).print_help()
        parser.exit()
    return command or DEFAULT, known.config_dir, words_left


# -- help -------------------------------------------------------------------------------------------------------------


class Help(NamedTuple):
    """The parts of a help text around the options."""

    usage: str
    description: str
    examples: Sequence[str]


def _parser(text: Help) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tuner",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage=f"tuner {text.usage} [--config-dir DIR]",
        description=text.description,
        epilog="\n".join(["examples:", *(f"  tuner {words}" for words in text.examples)]),
        add_help=False,  # which command it is for is known when all words are read
    )
    parser.add_argument("words", nargs="*", help=argparse.SUPPRESS)
    parser.add_argument("-h", "--help", action="store_true", help="show this, or what COMMAND before it takes")
    parser.add_argument("--config-dir", metavar="DIR", help="folder with your own study/NAME.yaml (and other groups)")
    parser.add_argument("--version", action="version", version=f"tuner {__version__}")
    return parser


def _general() -> Help:
    words = "\n".join(f"  {name:<10} {command.what}" for name, command in COMMANDS.items())
    keys = "\n".join(f"  {name:<10} {' '.join(command.keys)}" for name, command in COMMANDS.items() if command.keys)
    return Help(
        "[COMMAND] [study=NAME] [KEY=VALUE ...]",
        f"Tune the hyperparameters of PyTorch Lightning models.\n\ncommands:\n{words}\n\n"
        f"keys of single commands, explained by tuner COMMAND --help:\n{keys}",
        [command.examples[0] for command in COMMANDS.values()],
    )


def _of_command(name: str) -> Help:
    command = COMMANDS[name]
    parts = [f"{command.what[0].upper()}{command.what[1:]}."]
    if command.keys:
        parts.append(f"keys of this command (in files below {name.replace('-', '_')}):\n{_lines(command.keys)}")
    parts.append(f"{'other keys' if command.keys else 'keys'}, of any in the configuration:\n{_lines(command.usual)}")
    study = "study=NAME " if command.needs_study else ""
    return Help(f"{name} {study}[KEY=VALUE ...]", "\n\n".join(parts), command.examples)


def _lines(keys: Mapping[str, Key]) -> str:
    width = max(map(len, keys)) + 1
    return "\n".join(f"  {name + '=':<{width}}  {key.what} (default: {key.default})" for name, key in keys.items())
