"""What a free worker does next: decision tables, and rounds of simulated workers."""

import math
import random
from collections.abc import Sequence
from dataclasses import replace

import pytest

from tuner.search.history import Entry, History, Reading, State
from tuner.search.promotion import (
    CURVES_KNOWN,
    MOST_READINGS,
    Action,
    Draw,
    Expectation,
    Finished,
    Plan,
    Resume,
    Wait,
    next_action,
    rungs_for,
    survives,
)

R, RUNG = 50, 13
PLAN = Plan(epochs=R, rungs=(RUNG,), eta=4)


def paused(*values: float, rung: int = RUNG) -> History:
    history = History()
    for value in values:
        add(history, State.PAUSED, {rung: value})
    return history


def add(history: History, state: State, values: dict[int, float] | None = None, target: int | None = None) -> History:
    first = history.next_order
    readings = tuple(Reading(epoch, value, first + i) for i, (epoch, value) in enumerate((values or {}).items()))
    last = max(values or {RUNG: 0})
    history.add(Entry(len(history), {}, state, readings, target=target or last))
    return history


@pytest.mark.parametrize(
    ("epochs", "first", "eta", "rungs"),
    [
        (50, 0.25, 4, (13,)),
        (1, 0.25, 4, ()),
        (2, 0.25, 4, (1,)),
        (4, 0.25, 4, (1,)),
        (100, 0.25, 4, (25,)),
        (100, 0.0625, 4, (7, 28)),
        (81, 1 / 27, 3, (3, 9, 27)),
    ],
)
def test_rungs(epochs, first, eta, rungs):
    assert rungs_for(epochs, first, eta) == rungs


TABLE = {
    "an empty history": (History(), PLAN, Draw()),
    "an empty history, a budget below one rung": (History(), Plan(R, (RUNG,), 4, budget_epochs=5), Draw()),
    "three at the rung: one in four is none": (paused(3, 1, 2), PLAN, Draw()),
    "four at the rung: the best goes on": (paused(3, 1, 2, 4), PLAN, Resume(1, R)),
    "the best went on already": (add(paused(3, 2, 4), State.RUNNING, {RUNG: 1.0}, R), PLAN, Draw()),
    "a diverged one counts as worst": (add(paused(3, 1, 2), State.DIVERGED), PLAN, Resume(1, R)),
    "a failed one does not count": (add(paused(3, 1, 2), State.CRASHED), PLAN, Draw()),
    "the best is not finite": (paused(math.nan, math.inf, math.nan, math.inf), PLAN, Draw()),
    "ties go to the lower number": (paused(1, 1, 1, 1), PLAN, Resume(0, R)),
    "an interrupted trial first": (add(paused(3, 1, 2, 4), State.INTERRUPTED, None, 50), PLAN, Resume(4, 50)),
    "closing waits": (add(paused(3, 1, 2, 4), State.RUNNING), Plan(R, (RUNG,), 4, closing=True), Wait()),
    "the last draw is out, something runs": (add(paused(1, 2), State.RUNNING), Plan(R, (RUNG,), 4, trials=3), Wait()),
    "the last draw is in: one at least in full": (paused(2, 1, 3), Plan(R, (RUNG,), 4, trials=3), Resume(1, R)),
    "at a barrier with one running": (add(paused(1, 2), State.RUNNING), Plan(R, (RUNG,), 4, barrier_at=3), Wait()),
    "at a barrier with all in": (paused(1, 2, 3), Plan(R, (RUNG,), 4, barrier_at=3), Draw()),
    "at a barrier with one to promote": (paused(1, 2, 3, 4), Plan(R, (RUNG,), 4, barrier_at=4), Resume(0, R)),
    "the last training is chosen when all is known": (
        add(paused(1), State.RUNNING),
        Plan(R, (RUNG,), 4, budget_epochs=75),
        Wait(),
    ),
    "what is left is no full training": (
        add(add(paused(1, rung=3), State.COMPLETE, {R: 0.0}), State.RUNNING, {13: 0.0}, target=R),
        Plan(R, (3, 13), budget_epochs=53 + 50 + 40),
        Wait(),
    ),
    "one training and a draw do not both fit": (paused(1), Plan(R, (RUNG,), 4, budget_epochs=60), Resume(0, R)),
    "a budget below one training": (paused(1), Plan(R, (RUNG,), 4, budget_epochs=30), Resume(0, R)),
    "a budget of one rung": (paused(1), Plan(R, (RUNG,), 4, budget_epochs=13), Resume(0, R)),
    "two rungs: the higher one first": (
        add(paused(1, 2, 3, 4, rung=3), State.PAUSED, {3: 9.0, 13: 9.0}),
        Plan(R, (3, 13), eta=1),
        Resume(4, R),
    ),
    "two rungs: on to the next": (paused(1, 2, 3, 4, rung=3), Plan(R, (3, 13)), Resume(0, 13)),
    "no rungs": (add(History(), State.COMPLETE, {R: 1.0}), Plan(R), Draw()),
    "no rungs, the budget holds one more": (
        add(History(), State.COMPLETE, {R: 1.0}),
        Plan(R, budget_epochs=100),
        Draw(),
    ),
}


@pytest.mark.parametrize("case", TABLE)
def test_what_a_free_worker_does(case):
    history, plan, action = TABLE[case]
    assert next_action(history, plan) == action


def judge(new, pace=None, final=None, **of):
    """Expects that of a new configuration, and of trials by number: t0=…, t1=…; of the last ones what `final` says."""

    def judged(_, waiting):
        expected = {number: of[f"t{number}"] for number in waiting}
        return Expectation(new, expected, pace, {number: final[number] for number in waiting} if final else expected)

    return judged


def complete(history: History, count: int) -> History:
    for _ in range(count):
        add(history, State.COMPLETE, {R: 9.0})
    return history


def too_early(history, waiting):
    """As in a coarse stage."""
    return Expectation(math.inf, {})


LADDER = Plan(R, (6, 13, 25), eta=2)
JUDGED = {
    # To the next rung cost 7, 12 and 25 of 50 epochs: log(1 / share) is 1.97, 1.43 and 0.69.
    "the better a new one": (paused(1, rung=6), LADDER, judge(2.0, t0=0.0), Draw()),
    "the same for less": (paused(1, rung=6), LADDER, judge(2.0, t0=0.04), Resume(0, 13)),
    "not the best, but more is expected": (paused(1, 2, 3, 4, rung=13), LADDER, judge(0, t0=0, t1=1), Resume(1, 25)),
    "of the worse half nothing is expected": (paused(1, 2, 3, 4, rung=13), LADDER, judge(9.0, t0=0, t1=0), Draw()),
    "once whole curves are known, of the worse half too": (
        complete(paused(1, 2, 3, 4, rung=13), CURVES_KNOWN),
        LADDER,
        judge(0.0, t0=0, t1=0, t2=0, t3=9.0),
        Resume(3, 25),
    ),
    "but not where more is known than a model learns from": (
        complete(paused(1, 2, 3, 4, rung=13), MOST_READINGS),
        LADDER,
        judge(9.0, t0=0, t1=0),
        Draw(),
    ),
    "but not of what is not finite": (
        complete(paused(1, math.nan, rung=13), CURVES_KNOWN),
        LADDER,
        judge(0.0, t0=-9.0),
        Draw(),
    ),
    "as good, and less to go": (
        add(paused(1, rung=13), State.PAUSED, {6: 2.0}),
        LADDER,
        judge(0.0, t0=0.0, t1=0.0),
        Resume(1, 13),
    ),
    "too early to tell": (paused(1, rung=6), LADDER, too_early, Draw()),
    "the end comes too early for a model: the best at the highest rung": (
        add(paused(3, 2, 1, rung=6), State.PAUSED, {6: 4.0, 13: 9.0}),
        replace(LADDER, budget_epochs=31 + 44),
        too_early,
        Resume(3, R),
    ),
    "the same, at one rung": (
        paused(3, 2, 1, rung=6),
        replace(LADDER, budget_epochs=67),
        too_early,
        Resume(2, R),
    ),
    "no model": (paused(1, 2, rung=6), LADDER, lambda *_: None, Resume(0, 13)),
    "all drawn: places decide": (
        paused(1, 2, rung=6),
        replace(LADDER, trials=2),
        judge(0.0, t0=0, t1=9),
        Resume(0, 13),
    ),
    "no draw fits any more": (
        paused(1, 2, 3, 4, rung=13),
        replace(LADDER, budget_epochs=96),
        judge(9.0, t0=0.0, t1=1.0),
        Resume(1, R),
    ),
    "one that cannot be trained in full is not asked about": (
        add(add(paused(1, rung=25), State.PAUSED, {6: 0.5}), State.COMPLETE, {R: 9.0}),
        replace(LADDER, budget_epochs=81 + 40),
        judge(9.0, t0=0.0),
        Resume(0, R),
    ),
    "the last trainings are chosen when all is known": (
        add(paused(1, 2, 3, 4, rung=13), State.RUNNING, {}, target=13),
        replace(LADDER, budget_epochs=114),
        judge(9.0, t0=0.0, t1=1.0),
        Wait(),
    ),
    "what trains in full already is not waited for": (
        add(paused(1, 2, 3, 4, rung=13), State.RUNNING, {13: 9.0}, target=R),
        replace(LADDER, budget_epochs=151),
        judge(9.0, t0=0.0, t1=1.0),
        Resume(1, R),
    ),
    "at the end by what it is worth as the last one": (
        add(add(paused(1, rung=25), State.PAUSED, {6: 0.5}), State.COMPLETE, {R: 9.0}),
        replace(LADDER, budget_epochs=81 + 49),
        judge(9.0, t0=0.0, t1=5.0, final={0: -0.1, 1: -0.2}),
        Resume(0, R),
    ),
    "value not finite": (paused(math.nan, rung=6), LADDER, judge(0.0), Draw()),
}


@pytest.mark.parametrize("case", JUDGED)
def test_what_a_model_expects_decides(case):
    history, plan, judged, action = JUDGED[case]
    assert next_action(history, plan, judged) == action


def paced(history: History, *paces: float) -> History:
    for number, pace in enumerate(paces):
        history.add(replace(history[number], pace=pace))
    return history


TIMED = replace(LADDER, seconds_left=1000.0)
UNDER_A_CLOCK = {
    # To rung 13 cost 7 epochs, a new one 50; 1 s an epoch where nothing else is said.
    "a slow new one": (paced(paused(1, rung=6), 1.0), TIMED, judge(2.0, t0=0.0, pace=2.0), Resume(0, 13)),
    "a fast new one": (paced(paused(1, rung=6), 1.0), TIMED, judge(1.9, t0=0.0, pace=0.5), Draw()),
    "of two that wait the faster": (
        paced(paused(1, 2, 3, 4, rung=13), 3.0, 1.0, 1.0, 1.0),
        TIMED,
        judge(0.0, t0=1.0, t1=0.5, pace=1.0),
        Resume(1, 25),
    ),
    "epochs count where a budget is given too": (
        paced(paused(1, rung=6), 1.0),
        replace(TIMED, budget_epochs=1e6),
        judge(2.0, t0=0.0, pace=2.0),
        Draw(),
    ),
    "no time for a new one in full: what waits goes to the end": (
        paced(paused(1, 2, rung=13), 1.0, 1.0),
        replace(TIMED, seconds_left=50),
        judge(9.0, t0=0.0),
        Resume(0, R),
    ),
    "nothing is waited for": (
        add(paced(paused(1, 2, rung=13), 1.0, 1.0), State.RUNNING, {}, target=13),
        replace(TIMED, seconds_left=50),
        judge(9.0, t0=0.0),
        Resume(0, R),
    ),
    "the best has no time, the next one has": (
        add(paced(paused(1, 2, 3, 4, rung=13), 2.0, 1.0, 1.0, 1.0), State.COMPLETE, {R: 9.0}),
        replace(TIMED, seconds_left=50),
        judge(9.0, t1=0.0),
        Resume(1, R),
    ),
    "none has time, something runs": (
        add(paced(paused(1, 2, rung=13), 1.0, 1.0), State.RUNNING, {13: 0.0}, target=R),
        replace(TIMED, seconds_left=10),
        judge(9.0),
        Wait(),
    ),
    "none has time and nothing was trained in full: at least it goes on": (
        paced(paused(1, 2, rung=13), 1.0, 1.0),
        replace(TIMED, seconds_left=10),
        judge(9.0),
        Resume(0, R),
    ),
    "no model: the best that has time": (
        paced(paused(1, 2, 3, 4, rung=25), 4.0, 1.0, 1.0, 1.0),
        replace(TIMED, seconds_left=30),
        None,
        Resume(1, R),
    ),
    "no model: none has time and nothing was trained in full": (
        paced(paused(1, 2, 3, 4, rung=13), 2.0, 1.0, 1.0, 1.0),
        replace(TIMED, seconds_left=30),
        None,
        Resume(0, R),
    ),
    "the new one is better, but slow: what waits has time": (
        paced(paused(1, rung=6), 1.0),
        replace(TIMED, seconds_left=100),
        judge(9.0, t0=0.0, pace=3.0),
        Resume(0, 13),
    ),
}


@pytest.mark.parametrize("case", UNDER_A_CLOCK)
def test_what_a_free_worker_does_under_a_clock(case):
    history, plan, judged, action = UNDER_A_CLOCK[case]
    assert next_action(history, plan, judged) == action


def test_a_round_ends_before_its_time_when_nothing_more_fits():
    history = paced(paused(1, 2, rung=13), 1.0, 1.0)
    add(history, State.COMPLETE, {R: 0.0})
    action = next_action(history, replace(TIMED, seconds_left=10), judge(9.0, t0=0.0, t1=0.0))
    assert isinstance(action, Finished)
    assert action.for_time, "with more time it goes on"
    assert "10 s" in action.reason


@pytest.mark.parametrize("bounds", [{"budget_epochs": 76.0}, {"trials": 3}], ids=["budget", "trials"])
def test_a_round_that_has_used_up_its_budget_is_not_out_of_time(bounds):
    history = paced(paused(1, 2, rung=13), 1.0, 1.0)
    add(history, State.COMPLETE, {R: 0.0})
    plan = replace(TIMED, seconds_left=10, **bounds)
    action = next_action(history, plan, judge(9.0))
    assert isinstance(action, Finished)
    # Of the trials asked for one waits that would go on with more time; a budget that is used up stays so.
    assert action.for_time is ("trials" in bounds)
    assert ("budget of 76 epochs" in action.reason) is ("budget_epochs" in bounds)


def test_a_barrier_does_not_wait_until_the_studys_own_values_are_trained_in_full():
    plan, history = replace(LADDER, barrier_at=4, baseline=0), History()
    for number in range(4):
        history.drawn(number, {}, plan.first_target(number))
    history.read(0, 6, 1.0)

    def uniform(*_):
        return Expectation(math.inf, {})

    assert isinstance(next_action(history, plan, uniform), Wait), "the others are not read"
    for number in (1, 2, 3):
        history.read(number, 6, 2.0 + number)
        history.paused(number)
    assert isinstance(next_action(history, plan, uniform), Draw)
    history = History([replace(entry, readings=()) if entry.number == 0 else entry for entry in history])
    assert isinstance(next_action(history, plan, uniform), Wait), "they are not read"


@pytest.mark.parametrize(
    ("plan", "targets"),
    [
        (LADDER, [6, 6]),
        (replace(LADDER, baseline=0), [R, 6]),  # whatever bounds the round, if not epochs
        (replace(LADDER, baseline=0, budget_epochs=8 * R), [R, 6]),
        (replace(LADDER, baseline=0, budget_epochs=8 * R - 1), [6, 6]),
        (Plan(R, baseline=0), [R, R]),
    ],
)
def test_the_studys_own_values_train_in_full_at_once_where_that_is_little_of_the_budget(plan, targets):
    assert [plan.first_target(number) for number in range(2)] == targets


def test_no_more_than_half_of_a_budget_is_drawn_blindly():
    history, plan = History(), replace(LADDER, budget_epochs=8 * R)
    while not isinstance(next_action(history, plan), Wait):
        history.drawn(len(history), {}, plan.first_target(len(history)))
    assert history.spent == 204, "34 first rungs of 6 epochs, the first that is at half of 400"
    history.read(0, 6, 1.0)
    history.paused(0)
    assert isinstance(next_action(history, plan), Draw)


FINISHED = {
    "what is left is no full training": (
        add(paused(1, rung=3), State.COMPLETE, {R: 0.0}),
        Plan(R, (3, 13), budget_epochs=53 + 40),
        "budget",
    ),
    "closing, nothing runs": (add(paused(1), State.INTERRUPTED), Plan(R, (RUNG,), 4, closing=True), "time"),
    "no rungs, the budget is used up": (add(History(), State.COMPLETE, {R: 1.0}), Plan(R, budget_epochs=99), "budget"),
    "no rungs, all drawn": (add(History(), State.COMPLETE, {R: 1.0}), Plan(R, trials=1), "trials"),
    "all drawn, the best in full": (
        add(paused(2, 3, 4), State.COMPLETE, {RUNG: 1.0, R: 1.0}),
        Plan(R, (RUNG,), 4, trials=4),
        "trials",
    ),
    "a draw could not be trained in full": (
        add(History(), State.COMPLETE, {RUNG: 1.0, R: 1.0}),
        Plan(R, (RUNG,), 4, budget_epochs=99),
        "budget",
    ),
}


@pytest.mark.parametrize("case", FINISHED)
def test_when_a_round_ends(case):
    history, plan, reason = FINISHED[case]
    action = next_action(history, plan)
    assert isinstance(action, Finished)
    assert reason in action.reason


def test_the_end_of_a_budget_goes_to_the_best_paused_trial():
    """From 95 % on nothing is drawn although a draw would fit: 1000 epochs, 960 spent, 40 left."""
    history = paused(5, 4, 3)
    for _ in range(18):
        add(history, State.COMPLETE, {RUNG: 0.0, R: 0.0})
    history.ended(3, State.COMPLETE, 71)
    assert history.spent == 960
    assert next_action(history, Plan(R, (RUNG,), eta=100, budget_epochs=1000)) == Resume(2, R)


@pytest.mark.parametrize(
    ("values", "number", "verdict"),
    [
        ([1.0], 0, True),
        ([1.0, 2.0], 1, False),
        ([2.0, 1.0], 1, True),
        ([1, 2, 3, 4, 5, 6, 7, 8], 1, True),
        ([1, 2, 3, 4, 5, 6, 7], 1, False),
        ([math.nan], 0, False),
    ],
)
def test_the_stopping_form(values, number, verdict):
    assert survives(paused(*values), number, RUNG, eta=4) is verdict


def _random_plan(chance: random.Random) -> Plan:
    epochs = chance.choice([1, 2, 7, 50])
    rungs = chance.choice([(), rungs_for(epochs, 1 / 4, 4), rungs_for(epochs, 1 / 16, 2)])
    budget = chance.choice([None, chance.uniform(0.2, 30) * epochs])
    trials = chance.randint(1, 40) if budget is None else chance.choice([None, chance.randint(1, 40)])
    barrier, baseline = chance.choice([None, 6]), chance.choice([None, 0])
    return Plan(epochs, rungs, chance.choice([2, 3, 4]), budget, trials, barrier_at=barrier, baseline=baseline)


def _random_round(seed: int) -> tuple[random.Random, Plan, float]:
    """Chances, a plan, and the share of trainings that fail."""
    chance = random.Random(seed)
    return chance, _random_plan(chance), chance.choice([0.0, 0.2, 0.6])


class Workers:
    """Workers that obey `next_action`; a share of trials diverges, runs out of memory, crashes or is lost.

    With a judge that knows nothing, and with seconds that pass while they train, if so asked.
    """

    def __init__(
        self, plan: Plan, workers: int, chance: random.Random, trouble: float, *, judged: bool = False
    ) -> None:
        self.plan, self.workers, self.chance, self.trouble = plan, workers, chance, trouble
        self.judge = self._judge if judged else None
        self.history = History()
        self.trained: dict[int, int] = {}
        self.seconds = 0.0
        self.reason = ""

    def _judge(self, history: History, waiting: Sequence[int]) -> Expectation:
        new = math.inf if len(history) < 5 else self.chance.gauss()
        pace = self.chance.choice([None, self.chance.uniform(0.1, 10)])
        if math.isinf(new):
            return Expectation(new, {}, pace)
        expected, final = ({number: self.chance.gauss() for number in waiting} for _ in range(2))
        return Expectation(new, expected, pace, final)

    def _next(self) -> Action:
        if self.plan.seconds_left is None:
            return next_action(self.history, self.plan, self.judge)
        left = max(0.0, self.plan.seconds_left - self.seconds)
        return next_action(self.history, replace(self.plan, seconds_left=left, closing=left == 0), self.judge)

    def run(self) -> History:
        for _ in range(5000):
            action = self._next()
            busy = len(self.history.running)
            if isinstance(action, Finished):
                assert not busy, "finished while something runs"
                self.reason = action.reason
                return self.history
            if isinstance(action, Wait):
                assert busy, "waits for nothing"
            if isinstance(action, Wait) or busy == self.workers:
                self._advance(self.chance.choice(self.history.running))
            elif isinstance(action, Draw):
                number = len(self.history)
                self.history.drawn(number, {"x": self.chance.random()}, self.plan.first_target(number))
                self.trained[number] = 0
            else:
                self.history.resumed(action.number, action.until)
        raise AssertionError("the round never ends")

    def _advance(self, number: int) -> None:
        entry = self.history[number]
        if self.chance.random() < self.trouble:
            self._fail(number, entry)
            return
        assert self.trained[number] < entry.target, "an epoch would be trained twice"
        pace = 0.2 + 2 * entry.point["x"]
        self.seconds += (entry.target - self.trained[number]) * pace / self.workers
        self.trained[number] = entry.target
        self.history.read(number, entry.target, entry.point["x"])
        if entry.target < self.plan.epochs:
            self.history.paused(number, pace)
        else:
            self.history.ended(number, State.COMPLETE, pace=pace)

    def _fail(self, number: int, entry: Entry) -> None:
        how = self.chance.choice([State.INTERRUPTED, State.DIVERGED, State.INFEASIBLE, State.CRASHED, State.TIMED_OUT])
        if how is State.INTERRUPTED:
            self.history.interrupted(number)
        else:
            self.history.ended(number, how, self.chance.randint(entry.last_epoch, entry.target))


@pytest.mark.parametrize("judged", [False, True], ids=["places", "judge"])
@pytest.mark.parametrize("workers", [1, 8])
@pytest.mark.parametrize("seed", range(60))
def test_rounds_end_within_their_budgets(seed, workers, judged):
    chance, plan, trouble = _random_round(seed)
    history = Workers(plan, workers, chance, trouble, judged=judged).run()
    assert history.spent <= max(plan.budget + plan.epochs, plan.epochs)
    assert plan.trials is None or len(history) <= plan.trials
    if not trouble:
        assert history.count(State.COMPLETE), "nothing was trained in full"
        assert history.spent <= max(plan.budget, plan.epochs) or history.count(State.COMPLETE) == 1
        is_little = 8 * plan.epochs <= plan.budget
        assert plan.baseline is None or not is_little or history[plan.baseline].state is State.COMPLETE


@pytest.mark.parametrize("judged", [False, True], ids=["places", "judge"])
@pytest.mark.parametrize("workers", [1, 8])
@pytest.mark.parametrize("seed", range(60))
def test_rounds_end_within_their_time(seed, workers, judged):
    chance, plan, trouble = _random_round(seed)
    bounds = {} if chance.random() < 0.5 else {"budget_epochs": None, "trials": None}
    plan = replace(plan, seconds_left=chance.uniform(0.5, 20) * plan.epochs / workers, **bounds)
    team = Workers(plan, workers, chance, trouble, judged=judged)
    history = team.run()
    assert team.reason
    if not trouble:
        assert history.count(State.COMPLETE) or team.seconds >= plan.seconds_left, "time was left to end a training"


@pytest.mark.parametrize("workers", [1, 8])
@pytest.mark.parametrize("seed", range(20))
def test_a_round_of_trials_trains_the_best_quarter_in_full(seed, workers):
    chance = random.Random(seed)
    trials = chance.randint(1, 60)
    history = Workers(Plan(R, (RUNG,), 4, trials=trials), workers, chance, trouble=0.0).run()
    best = {number for _, number in history.ranked(RUNG)[: max(1, trials // 4)]}
    assert len(history) == trials
    assert best <= set(history.numbers(State.COMPLETE))


def test_a_round_in_which_everything_dies_at_once_ends():
    class Doomed(Workers):
        def _advance(self, number):
            self.history.ended(number, State.INFEASIBLE, 0)

    history = Doomed(Plan(R, (RUNG,), 4, budget_epochs=400), 2, random.Random(0), 0.0).run()
    assert history.count(State.INFEASIBLE) == len(history) > 0
