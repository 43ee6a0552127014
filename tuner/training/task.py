"""What a worker is asked to train and what it answers: plain data, so that it travels over a pipe without torch."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


class Kind(enum.StrEnum):
    """What a worker does with a task; `tuner.training.jobs` has a function for each."""

    TRAIN = "train"
    LR_RANGE = "lr_range"
    FINAL = "final"
    FIT_BATCH = "fit_batch"


@dataclass(frozen=True)
class Task:
    """One training, or the next part of one.

    Attributes:
        trial: the trial's number.
        config: the study's nodes as plain containers, resolved, with the trial's values written to their paths:
            `module`, `data`, `trainer`, and `optimizer` and `schedule` (None where the study has none).
        metric: the objective's key in `trainer.callback_metrics`.
        seed: seeds Python, NumPy and torch before anything is built.
        folder: where this trial's checkpoints and files go.
        rungs: epochs after which the trial asks whether to go on, ascending; the last epoch is not one of them.
        checkpoint: file to go on from; None starts from scratch.
        every_value: whether each validation waits for an answer (a pruner looks at it), not only those at rungs.
        keep: whether the model of a training that is complete is written down.
        kind: what is done with the module, data and trainer of `config`.
        options: of that kind, plain values.
    """

    trial: int
    config: Mapping[str, Any]
    metric: str
    seed: int
    folder: str
    rungs: tuple[int, ...] = ()
    checkpoint: str | None = None
    every_value: bool = False
    keep: bool = False
    kind: Kind = Kind.TRAIN
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Measurement:
    """The objective after one validation.

    Attributes:
        step: optimizer steps so far (`trainer.global_step`).
        epoch: epochs trained so far; a fraction between two ends of epochs.
        value: the objective.
        rung: whether the trial stands at a rung and waits for the answer.
    """

    step: int
    epoch: float
    value: float
    rung: bool = False


@dataclass(frozen=True)
class Saved:
    """A checkpoint of a training that goes on; with it as `Task.checkpoint` another process can go on from there.

    Attributes:
        file: its path. The name is there only if the file is whole. A later one of the same step replaces it.
        step: optimizer steps so far.
        epoch: epochs trained so far; a fraction within an epoch.
        value: the objective's last value so far; None before the first.
    """

    file: str
    step: int
    epoch: float
    value: float | None = None


class Answer(enum.Enum):
    """What a training does after a measurement, or when it is interrupted."""

    GO_ON = "go on"
    PAUSE = "pause"  # write a checkpoint and hand the trial back; after a measurement only at a rung
    STOP = "stop"  # end the trial here, nothing is kept


class Outcome(enum.StrEnum):
    """How a training ended."""

    COMPLETE = "complete"
    PAUSED = "paused"
    STOPPED = "stopped"  # by the controller's answer: pruned, timed out or interrupted, as the controller knows
    DIVERGED = "diverged"
    OUT_OF_MEMORY = "out of memory"
    CRASHED = "crashed"
    NO_OBJECTIVE = "no objective"  # the metric is not among what the module logs


@dataclass(frozen=True)
class Result:
    """How one part of a training ended.

    Attributes:
        outcome: see `Outcome`.
        value: the objective's last value; None when there was no validation.
        epoch: epochs trained in all, over every part of the trial.
        step: optimizer steps in all.
        seconds: of this part, building and closing included.
        checkpoint: the file that a paused trial goes on from, or the model of a complete one where it was to be kept.
        reason: one line for people: what diverged, which memory, the exception.
        traceback: of a crash, in full.
        logged: keys that the module does log, for `NO_OBJECTIVE`.
        findings: what a task of another kind than TRAIN found, plain values.
    """

    outcome: Outcome
    value: float | None = None
    epoch: float = 0.0
    step: int = 0
    seconds: float = 0.0
    checkpoint: str | None = None
    reason: str = ""
    traceback: str = ""
    logged: tuple[str, ...] = field(default=())
    findings: Mapping[str, Any] = field(default_factory=dict)
