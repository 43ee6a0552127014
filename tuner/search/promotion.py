"""What a free worker does next: take up a trial, draw a configuration, wait, or leave.

A trial stops at a rung with its checkpoint. Without a model it goes on whenever it is among the best 1/eta there, which
is asynchronous successive halving (Li et al. 2020, arXiv:1810.05934) in its pausing form: late arrivals can bring an early
one up, and no worker waits for a rung to fill. With a model, whatever promises the most improvement for its cost is next,
a paused trial or a new configuration (freeze-thaw: Swersky et al. 2014, arXiv:1406.3896). How configurations are drawn is
the business of `draws`, what a model expects that of `screen`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from tuner.search.history import Entry, History, State

#: From this share of the budget on nothing is drawn: what is left goes to the best of the paused trials.
ENDGAME = 0.95
#: Of the time that a training is expected to take, what must be left for it to begin: paces vary.
CAUTION = 1.1
#: Of the trials that wait at a rung, the best that are looked at.
MOST_JUDGED = 64
#: Share of the budget that the study's own values may have at once. In smaller budgets they pause like all others: in half of
#: them more is found than in one training of values that may be no good.
MOST_FOR_BASELINE = 1 / 8
#: Share of the budget that may be drawn while nothing has been read, where trials pause.
MOST_BLIND = 0.5
#: Full trainings after which a model may promote from anywhere in a rung: those that win late have lost early.
CURVES_KNOWN = 8
#: Readings that a model learns from; in a longer history there are trials of which it has seen nothing.
MOST_READINGS = 224


@dataclass(frozen=True)
class Draw:
    """Draw a configuration and train it to the first rung, or in full if there are no rungs."""


@dataclass(frozen=True)
class Resume:
    """Take up trial `number` from its checkpoint and train it to epoch `until`."""

    number: int
    until: int


@dataclass(frozen=True)
class Wait:
    """Nothing to do before a running trial reports."""


@dataclass(frozen=True)
class Finished:
    """Nothing runs and nothing is left to do; `reason` says why, for people.

    With more time there would be more to do where `for_time` is set.
    """

    reason: str
    for_time: bool = False


Action = Draw | Resume | Wait | Finished


@dataclass(frozen=True)
class Expectation:
    """What a model of the history expects at full length.

    Attributes:
        new: log of the expected improvement of the best new configuration; infinite where it is too early to tell.
        waiting: the same of paused trials, by number.
        pace: seconds per epoch of that new configuration, or None where that is not asked or not known.
        final: what paused trials are worth, by number, if one of them is the last to be trained in full: the higher the
            better.
    """

    new: float
    waiting: Mapping[int, float]
    pace: float | None = None
    final: Mapping[int, float] = field(default_factory=dict)


#: Expectations of paused trials, or None where no model is to decide.
Judge = Callable[[History, Sequence[int]], Expectation | None]


@dataclass(frozen=True)
class Plan:
    """What bounds a round.

    Attributes:
        epochs: full length of a training, R.
        rungs: epochs at which trials are compared, ascending and below `epochs`; none: every trial trains in full.
        eta: one in `eta` trials goes on from a rung.
        budget_epochs: epochs of all trials together; whatever it is, one training in full is allowed.
        trials: number of configurations drawn at most.
        barrier_at: number of draws at which the present stage ends, if the round waits there for what runs.
        closing: the round's time is up: nothing is started any more.
        seconds_left: until the round's time is up, where that is bounded.
        baseline: number of the trial with the study's own values, if there is one; it trains in full at once where that is
            little of the budget.
    """

    epochs: int
    rungs: tuple[int, ...] = ()
    eta: int = 2
    budget_epochs: float | None = None
    trials: int | None = None
    barrier_at: int | None = None
    closing: bool = False
    seconds_left: float | None = None
    baseline: int | None = None

    @property
    def timed(self) -> bool:
        """Whether time alone bounds the round, so that it is what trials cost."""
        return self.seconds_left is not None and self.budget_epochs is None and self.trials is None

    def first_target(self, number: int) -> int:
        """Epoch that trial `number` trains to when it is fresh."""
        in_full = number == self.baseline and self.epochs <= MOST_FOR_BASELINE * self.budget
        return self.epochs if in_full or not self.rungs else self.rungs[0]

    @property
    def budget(self) -> float:
        return math.inf if self.budget_epochs is None else self.budget_epochs

    def after(self, rung: int) -> int:
        """Where a trial paused at `rung` trains to."""
        return next((later for later in self.rungs if later > rung), self.epochs)


def rungs_for(epochs: int, first: float, eta: int) -> tuple[int, ...]:
    """Rungs at the share `first` of the full length, and from there on `eta` times as far each, below `epochs`.

    The earlier the first one, the more often what wins there loses late, as large learning rates do.
    """
    rungs = []
    rung = max(1, math.ceil(first * epochs - 1e-9))
    while rung < epochs:
        rungs.append(rung)
        rung *= eta
    return tuple(rungs)


def survives(history: History, number: int, rung: int, eta: int) -> bool:
    """Whether a trial is in the best 1/eta at a rung so far; the best one always is, a value not finite never.

    This is the form of the rule for trials that cannot pause, and the place that a model may promote from.
    """
    rank = history.rank(number, rung)
    if rank is None or not math.isfinite(history.ranked(rung)[rank][0]):
        return False
    return rank < max(1, history.population(rung) // eta)


def next_action(history: History, plan: Plan, judge: Judge | None = None) -> Action:
    """What a free worker does next; the first line that applies.

    | when | action |
    | --- | --- |
    | the time is up | wait for what runs, then finish |
    | a trial was interrupted | it goes on to its target |
    | a paused trial is in the top floor(n/eta) of its rung, and what it costs is left | it goes on; higher rungs first |
    | a draw is left, and after it the budget holds one promotion in full | draw (at a barrier: once nothing runs that is awaited) |
    | the budget holds no such draw, or 95 % of it is spent | once all that runs is in full: the best paused trial goes to the end |
    | something runs | wait |
    | nothing was ever trained in full | the best paused trial goes on whatever the budget says, or a draw is made |
    | else | finished |

    With a judge the two lines in the middle are one. Asked about are the paused trials that can be trained in full and
    are among the best 1/eta of their rung, or any of them once eight trainings in full have shown what becomes of late
    bloomers. Of these and of the best new configuration, that of the highest expected improvement per epoch is next,
    where a paused trial costs the epochs to its next rung, and a new one those of a full training. At the end it is the
    paused one that is expected to improve most on what has been trained in full.

    A draw that could not be trained in full afterwards is not made, unless nothing was trained in full so far. Budgets
    are kept to the epoch, but for that one full training. While nothing has been read, half of the budget at most is drawn.
    Where time is bounded the same holds of the time that is left, by the paces of the trials so far, but nothing waits then
    for what is on its way to a rung; and where nothing else is bounded trials cost seconds instead of epochs, but for the
    last ones, which cost what is left anyway.
    """
    action = _next_action(history, plan, judge)
    if not isinstance(action, Finished) or plan.closing or plan.seconds_left is None:
        return action
    if isinstance(_next_action(history, replace(plan, seconds_left=None), judge), Finished):
        return action
    return Finished(f"nothing can be trained to its end in the {plan.seconds_left:.0f} s that are left", for_time=True)


def _next_action(history: History, plan: Plan, judge: Judge | None) -> Action:
    if plan.closing:
        return Wait() if history.count(State.RUNNING) else Finished("the time is up")
    interrupted = history.first(State.INTERRUPTED)
    if interrupted is not None:
        return Resume(interrupted, history[interrupted].target)
    expected = _expected(history, plan, judge)
    action = _by_place(history, plan) if expected is None else _judged(expected, history, plan)
    return action or _ending(expected, history, plan)


def _left(history: History, plan: Plan) -> float:
    # A trial that died before its first epoch is charged one, so that a round in which all of them do has an end.
    return plan.budget - history.spent - history.stillborn


def _expected(history: History, plan: Plan, judge: Judge | None) -> Expectation | None:
    """What the judge expects; None where places at the rungs decide."""
    # All drawn: the trials asked for are there, and how many of them go on is a matter of places.
    if judge is None or not plan.rungs or not _trials_left(history, plan):
        return None
    left = _left(history, plan)
    # Of what a model has not seen of a trial it expects as much as of an unknown place.
    knows_curves = len(history.ranked(plan.epochs)) >= CURVES_KNOWN and len(history.readings) <= MOST_READINGS
    waiting = [
        number
        for rung in plan.rungs
        if plan.epochs - rung <= left
        for value, number in history.waiting(rung)[:MOST_JUDGED]
        # Where a model knows little, it expects as much of the worst: what fell behind is not worth a look.
        if (math.isfinite(value) if knows_curves else survives(history, number, rung, plan.eta))
        if _has_time_for(history[number], history, plan)
    ]
    return judge(history, waiting)


def _by_place(history: History, plan: Plan) -> Action | None:
    return _promotion(history, plan) or _draw(history, plan)


def _judged(expected: Expectation, history: History, plan: Plan) -> Action | None:
    draw = _draw(history, plan)
    if draw is None:
        return None

    def worth(number: int) -> float:
        entry = history[number]
        epochs = plan.after(entry.last_epoch) - entry.last_epoch
        return expected.waiting[number] - _log_cost(history, plan, epochs, entry.pace)

    best = max(sorted(expected.waiting), key=worth, default=None)
    new = expected.new - _log_cost(history, plan, plan.epochs, expected.pace)
    if best is None or (new >= worth(best) and _has_time(history, plan, plan.epochs, expected.pace)):
        return draw
    return Resume(best, plan.after(history[best].last_epoch))


def _log_cost(history: History, plan: Plan, epochs: int, pace: float | None) -> float:
    """Of epochs at a pace, if that is known, else at that of most trials; seconds only where they are what counts."""
    return math.log(epochs * (pace or history.pace or 1.0) if plan.timed else epochs)


def _has_time(history: History, plan: Plan, epochs: int, pace: float | None = None) -> bool:
    """Whether so many epochs fit in the time that is left, at a pace if that is known, else at that of most trials."""
    pace = pace or history.pace
    return plan.seconds_left is None or pace is None or CAUTION * epochs * pace <= plan.seconds_left


def _has_time_for(entry: Entry, history: History, plan: Plan) -> bool:
    """Whether a paused trial can be trained to the end in the time that is left."""
    return _has_time(history, plan, plan.epochs - entry.last_epoch, entry.pace)


def _promotion(history: History, plan: Plan) -> Resume | None:
    for rung in reversed(plan.rungs):
        best = _best_waiting(history, plan, rung)
        if best is None:
            continue
        rank = history.rank(best, rung)
        fits = plan.after(rung) - rung <= _left(history, plan)
        if rank is not None and rank < history.population(rung) // plan.eta and fits:
            return Resume(best, plan.after(rung))
    return None


def _draw(history: History, plan: Plan) -> Draw | Wait | None:
    if not _trials_left(history, plan):
        return None
    if len(history) and (_is_endgame(history, plan) or not _draw_fits(history, plan)):
        return None
    if len(history) == plan.barrier_at and _awaited(history, plan):
        return Wait()
    if history.count(State.RUNNING) and _is_blind(history, plan):
        return Wait()
    return Draw()


def _awaited(history: History, plan: Plan) -> bool:
    """Whether a barrier holds: for the study's own values until they are read, not until they are trained in full."""
    return any(number != plan.baseline or not history[number].readings for number in history.running)


def _is_blind(history: History, plan: Plan) -> bool:
    """Whether so much was drawn without knowing anything that the rest of the budget is for what will be known."""
    return bool(plan.rungs) and not history.readings and history.spent >= MOST_BLIND * plan.budget


def _draw_fits(history: History, plan: Plan) -> bool:
    return plan.epochs <= _left(history, plan) and _has_time(history, plan, plan.epochs)


def _ending(expected: Expectation | None, history: History, plan: Plan) -> Action:
    left, trials_left = _left(history, plan), _trials_left(history, plan)
    if trials_left:
        # What is left pays for few full trainings, so each is chosen when all is known that can be. But while time runs
        # out nobody waits.
        on_its_way = any(history[number].target < plan.epochs for number in history.running)
        if on_its_way and _has_time(history, plan, plan.epochs):
            return Wait()
        best = _best_to_complete(expected, history, plan)
        if best is not None:
            return Resume(best, plan.epochs)
    if history.count(State.RUNNING):
        return Wait()
    if not history.count(State.COMPLETE):
        # Over the budget if need be, once: a round ends with something trained in full.
        best = _best_to_complete(expected, history, plan, anyway=True)
        if best is not None and (left > 0 or history.spent < plan.epochs):
            return Resume(best, plan.epochs)
    fits = _draw_fits(history, plan) if history.count(State.COMPLETE) else plan.first_target(len(history)) <= left
    return Draw() if trials_left and fits else _finished(history, plan)


def _finished(history: History, plan: Plan) -> Finished:
    if _trials_left(history, plan):
        return Finished(f"the budget of {plan.budget:g} epochs is used up")
    trained = ", and the best of them trained in full" if history.count(State.COMPLETE) else ""
    return Finished(f"all {plan.trials} trials are drawn{trained}")


def _best_to_complete(
    expected: Expectation | None, history: History, plan: Plan, *, anyway: bool = False
) -> int | None:
    """The paused trial to be trained in full with what is left: the best that the model has judged, or of the rungs."""
    if expected is not None and expected.final:
        return max(sorted(expected.final), key=expected.final.__getitem__)
    for rung in reversed(plan.rungs):
        best = _best_waiting(history, plan, rung, anyway=anyway)
        if best is not None and (anyway or plan.epochs - rung <= _left(history, plan)):
            return best
    return None


def _is_endgame(history: History, plan: Plan) -> bool:
    return bool(plan.rungs) and history.spent >= ENDGAME * plan.budget


def _trials_left(history: History, plan: Plan) -> bool:
    return plan.trials is None or len(history) < plan.trials


def _best_waiting(history: History, plan: Plan, rung: int, *, anyway: bool = False) -> int | None:
    """The best trial that waits at a rung and has time to be trained in full; whatever the time is with `anyway`."""
    for value, number in history.waiting(rung)[:MOST_JUDGED]:
        if math.isfinite(value) and (anyway or _has_time_for(history[number], history, plan)):
            return number
    return None
