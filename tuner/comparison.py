"""Compares choices that were each trained with the same seeds: means, epochs to a target, and paired tests.

Two trainings with the same seed share their order of batches and much of their luck, so choices are compared by the
differences within a seed. The test is the paired t test (Student 1908, doi 10.2307/2331554) with its confidence
interval: with five pairs, the usual number here, no test by signs or ranks can ever reach p < 0.05 (the smallest
two-sided p of five pairs is 2/32). Its assumption, differences that are roughly normal, cannot be checked on so few;
the exact sign-flip permutation p (Fisher 1935) stands beside it and assumes symmetry only. Several choices against the
same first one are several chances to be wrong: p is adjusted by Holm's procedure (1979, jstor.org/stable/4615733).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from scipy import stats

#: Chance of a wrong verdict that is accepted, over all choices of one comparison.
ALPHA = 0.05
#: Pairs up to which every sign flip is counted; of more pairs that many are drawn.
MOST_EXACT = 14
DRAWN_FLIPS = 20_000
#: Relative difference below which two values are equal but for their rounding.
ROUNDING = 1e-12

COMPLETE = "complete"
DIVERGED = "diverged"
CRASHED = "crashed"


@dataclass(frozen=True)
class Training:
    """One training of one choice.

    Attributes:
        choice: position of its choice.
        seed: of this training; each choice has one training for each seed.
        outcome: complete, diverged, or what else became of it.
        curve: (epochs trained, optimizer steps, objective) after each validation, in order.
        reason: one line where it is not complete.
        seconds: it took.
        traceback: of a crash, in full.
    """

    choice: int
    seed: int
    outcome: str
    curve: tuple[tuple[float, int, float], ...] = ()
    reason: str = ""
    seconds: float = 0.0
    traceback: str = ""

    @property
    def final(self) -> float | None:
        """The last value of a complete training."""
        return self.curve[-1][2] if self.outcome == COMPLETE and self.curve else None


@dataclass(frozen=True)
class Paired:
    """One choice against the first one, over the seeds with which both are complete.

    Attributes:
        pairs: how many.
        difference: mean of (this − first); None without pairs.
        low, high: 95 % confidence interval of the difference, not adjusted; None below two pairs.
        p: of the paired t test, two-sided, adjusted by Holm over the choices; None below two pairs, and where all
            differences are equal, which is no sample of anything random.
        p_signs: of the exact sign-flip permutation, two-sided, not adjusted; likewise None.
    """

    pairs: int
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None
    p_signs: float | None = None


@dataclass(frozen=True)
class Summary:
    """What the trainings of one choice came to.

    Attributes:
        crashed: trainings that neither completed nor diverged: the user's code raised, or memory ran out.
        mean, deviation: of the final values of its complete trainings; the deviation (n − 1) needs two.
        epochs: median of the epochs to the target over all its trainings; infinite where half of them or more never
            reach it, None where there is no target.
        never: trainings that did not reach the target.
        paired: against the first choice; None for the first choice itself.
        incomplete: trainings that are not complete by their outcome, the outcome of the first one first.
        reason: of the first training that is not complete.
    """

    label: str
    trainings: int
    complete: int
    diverged: int
    crashed: int
    mean: float | None
    deviation: float | None
    epochs: float | None
    never: int
    paired: Paired | None
    incomplete: Mapping[str, int] = field(default_factory=dict)
    reason: str = ""

    @property
    def fails(self) -> bool:
        """Whether it has no complete training because every one of its trainings crashed."""
        return self.trainings > 0 and self.incomplete.get(CRASHED) == self.trainings


@dataclass(frozen=True)
class Comparison:
    """Choices side by side, the first of them the reference.

    Attributes:
        target: value of the objective that `epochs` are counted to; None where the first choice has no value.
        target_given: whether it was asked for; else it is the first choice's mean final value.
    """

    maximize: bool
    target: float | None
    target_given: bool
    summaries: tuple[Summary, ...]


def compare(
    labels: Sequence[str], trainings: Sequence[Training], *, maximize: bool, target: float | None = None
) -> Comparison:
    """Put the choices side by side.

    Args:
        labels: of the choices, in their order; the first is what the others are tested against.
        trainings: of all choices, in any order.
        maximize: whether larger values of the objective are better.
        target: value whose first epoch is looked for; None for the first choice's mean final value.
    """
    groups = [[training for training in trainings if training.choice == choice] for choice in range(len(labels))]
    goal = target if target is not None else _mean(_finals(groups[0]))
    tests = [paired(groups[0], group) for group in groups[1:]]
    adjusted = holm([test.p for test in tests])
    against = [None, *(replace(test, p=p) for test, p in zip(tests, adjusted, strict=True))]
    summaries = [
        _summary(label, group, test, goal, maximize=maximize)
        for label, group, test in zip(labels, groups, against, strict=True)
    ]
    return Comparison(maximize, goal, target is not None, tuple(summaries))


def epochs_to(training: Training, target: float, *, maximize: bool) -> float:
    """Epochs until the objective first is as good as the target; infinite where it never is."""
    # A mean of equal values may differ from them by its rounding.
    slack = ROUNDING * abs(target)
    reached = (
        epoch
        for epoch, _, value in training.curve
        if (value >= target - slack if maximize else value <= target + slack)
    )
    return next(reached, math.inf)


def paired(reference: Sequence[Training], others: Sequence[Training]) -> Paired:
    """The test of one choice against the reference, before it is adjusted."""
    before = {training.seed: training.final for training in reference if training.final is not None}
    differences = np.array(
        [other.final - before[other.seed] for other in others if other.final is not None and other.seed in before]
    )
    count = len(differences)
    if count < 2:
        return Paired(count, float(differences[0]) if count else None)
    mean, error = float(differences.mean()), float(differences.std(ddof=1)) / math.sqrt(count)
    # Equal differences that were computed in floating point differ by their rounding.
    if error <= ROUNDING * max(abs(mean), *np.abs(list(before.values()))):
        return Paired(count, mean, mean, mean)
    half = float(stats.t.ppf(1 - ALPHA / 2, count - 1)) * error
    p = 2 * float(stats.t.sf(abs(mean) / error, count - 1))
    return Paired(count, mean, mean - half, mean + half, p, sign_flip_p(differences))


def sign_flip_p(differences: np.ndarray) -> float:
    """Two-sided p of the mean difference among all ways to flip the pairs, or among many drawn ones.

    Args:
        differences: of shape (n,).
    """
    count = len(differences)
    if count <= MOST_EXACT:
        signs = 1 - 2 * ((np.arange(2**count)[:, None] >> np.arange(count)) & 1)
    else:
        drawn = np.random.default_rng(0).integers(0, 2, size=(DRAWN_FLIPS, count))
        signs = np.vstack([np.ones((1, count), dtype=int), 1 - 2 * drawn])
    sums = np.abs(signs @ differences)
    return float(np.mean(sums >= sums[0] * (1 - ROUNDING)))  # the first row flips nothing


def holm(ps: Sequence[float | None]) -> list[float | None]:
    """The p values adjusted by Holm's step-down procedure, in their order; None stays None and does not count."""
    adjusted = list(ps)
    known = sorted((p, index) for index, p in enumerate(ps) if p is not None)
    worst = 0.0
    for rank, (p, index) in enumerate(known):
        worst = max(worst, min(1.0, p * (len(known) - rank)))
        adjusted[index] = worst
    return adjusted


def verdict(summary: Summary, first: str, *, maximize: bool) -> str:
    """What may be said of a choice against the first one, in a sentence without a full stop."""
    test = summary.paired
    assert test is not None
    lost = summary.trainings - test.pairs
    note = f"; {lost} of {summary.trainings} seeds are left out, because a training of theirs is not complete" * (
        lost > 0
    )
    if test.difference is None:
        return f"{summary.label} cannot be compared with {first}: there is no seed with which both are complete"
    word = "better" if (test.difference > 0) == maximize else "worse"
    if test.difference == 0 and test.p is None:
        return f"{summary.label} is the same as {first} with {_seeds(test.pairs)}{note}"
    if test.low is None:
        return f"{summary.label} is {word} than {first} in the one pair there is, which tells nothing about other seeds{note}"
    if test.p is None:
        return f"{summary.label} is {word} than {first} by the same amount with {_seeds(test.pairs)}, which no test can judge{note}"
    few = f", and {test.pairs} seeds tell large differences only" if test.pairs < 5 else ""
    if test.p < ALPHA:
        return f"{summary.label} is {word} than {first} at the end (p = {test.p:.2g}{few}){note}"
    return f"{summary.label} and {first} cannot be told apart by their final values (p = {test.p:.2g}){few}{note}"


def lack(summary: Summary) -> str | None:
    """Why a choice has no value to compare, in a sentence without a full stop; None where it has one."""
    if summary.complete:
        return None
    if not summary.trainings:
        return f"{summary.label} has no training that is done"
    counts = ", ".join(f"{count} {outcome}" for outcome, count in summary.incomplete.items())
    return f"{summary.label} has no complete training ({counts}); the first: {summary.reason.rstrip('.')}"


def _seeds(pairs: int) -> str:
    return "the one seed there is" if pairs == 1 else "every seed"


def _summary(
    label: str, group: Sequence[Training], test: Paired | None, goal: float | None, *, maximize: bool
) -> Summary:
    finals = _finals(group)
    epochs = [] if goal is None else [epochs_to(training, goal, maximize=maximize) for training in group]
    lost = [training for training in group if training.final is None]
    diverged = sum(training.outcome == DIVERGED for training in group)
    return Summary(
        label=label,
        trainings=len(group),
        complete=len(finals),
        diverged=diverged,
        crashed=len(group) - len(finals) - diverged,
        mean=_mean(finals),
        deviation=float(np.std(finals, ddof=1)) if len(finals) > 1 else None,
        epochs=_median(epochs),
        never=sum(math.isinf(count) for count in epochs),
        paired=test,
        incomplete=Counter(training.outcome for training in lost),
        reason=(lost[0].reason or lost[0].outcome) if lost else "",
    )


def _finals(group: Sequence[Training]) -> list[float]:
    return [training.final for training in group if training.final is not None]


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None


def _median(values: Sequence[float]) -> float | None:
    """With infinities: half of the trainings that never arrive make it infinite."""
    if not values:
        return None
    ordered, middle = sorted(values), len(values) // 2
    return ordered[middle] if len(values) % 2 else (ordered[middle - 1] + ordered[middle]) / 2
