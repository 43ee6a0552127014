"""The history: its indexes always agree with the plain trials."""

import math
import random

import pytest

from tuner.search.history import Entry, History, State


def test_what_a_trial_goes_through():
    history = History()
    history.drawn(0, {"lr": 0.5}, 13)
    assert history.running == (0,)
    assert history.spent == 13
    reading = history.read(0, 13, 0.7)
    history.paused(0)
    assert (reading.order, history.waiting(13)) == (0, [(0.7, 0)])
    history.resumed(0, 50)
    assert history.spent == 50
    assert not history.waiting(13)
    history.interrupted(0)
    assert history.first(State.INTERRUPTED) == 0
    assert history.spent == 50
    history.resumed(0, 50)
    assert history[0].retries == 1
    history.read(0, 50, 0.3)
    history.ended(0, State.COMPLETE)
    assert [reading.value for reading in history[0].readings] == [0.7, 0.3]
    assert history.ranked(50) == [(0.3, 0)]
    assert history.spent == 50


def test_a_second_reading_at_an_epoch_changes_nothing():
    history = History()
    history.drawn(0, {}, 13)
    first = history.read(0, 13, 1.0)
    assert history.read(0, 13, 2.0) == first
    assert len(history.readings) == 1


@pytest.mark.parametrize(
    ("state", "epochs", "spent"),
    [(State.CRASHED, None, 13), (State.CRASHED, 20, 20), (State.COMPLETE, None, 13), (State.INFEASIBLE, 0, 0)],
)
def test_what_an_ended_trial_is_charged(state, epochs, spent):
    history = History()
    history.drawn(0, {}, 50)
    history.read(0, 13, 1.0)
    history.ended(0, state, epochs)
    assert history.spent == spent
    assert history.stillborn == (spent == 0)


def test_a_diverged_trial_is_the_worst_of_every_rung_it_set_out_for():
    history = History()
    for number in range(4):
        history.drawn(number, {}, 13)
    history.read(0, 13, 0.1)
    history.ended(0, State.DIVERGED)
    history.ended(1, State.DIVERGED, 2)
    history.read(2, 13, math.nan)
    history.read(3, 13, 5.0)
    assert history.population(13) == 4
    assert history.population(50) == 0
    assert [history.rank(number, 13) for number in range(4)] == [None, None, 1, 0]


@pytest.mark.parametrize("call", ["drawn", "paused", "ended"])
def test_contradictions_are_refused(call):
    history = History()
    history.drawn(0, {}, 13)
    with pytest.raises(ValueError, match=r"trial 0|is no end"):
        {
            "drawn": lambda: history.drawn(0, {}, 13),
            "paused": lambda: history.paused(0),
            "ended": lambda: history.ended(0, State.RUNNING),
        }[call]()


def _random_history(seed: int) -> History:
    chance = random.Random(seed)
    history = History()
    for number in range(60):
        history.drawn(number, {"lr": chance.random()}, 5)
        known = chance.randrange(number + 1)
        entry = history[known]
        if entry.state is State.RUNNING and chance.random() < 0.2:
            history.interrupted(known)
        elif entry.state is State.RUNNING and chance.random() < 0.8:
            history.read(known, entry.target, chance.choice([0.5, chance.random(), math.inf]))
            if entry.target == 5:
                history.paused(known)
            else:
                history.ended(known, chance.choice([State.COMPLETE, State.DIVERGED, State.PRUNED]))
        elif entry.state in (State.PAUSED, State.INTERRUPTED):
            history.resumed(known, 20)
    return history


@pytest.mark.parametrize("seed", range(10))
def test_indexes_agree_with_the_trials(seed):
    history = _random_history(seed)
    entries = list(history)
    alive = [entry for entry in entries if entry.state is not State.DIVERGED]
    for epoch in (5, 20):
        read = [(entry.at(epoch).rank_value, entry.number) for entry in alive if entry.at(epoch)]
        assert list(history.ranked(epoch)) == sorted(read)
        waiting = [(entry.at(5).rank_value, entry.number) for entry in entries if entry.state is State.PAUSED]
        assert list(history.waiting(epoch)) == (sorted(waiting) if epoch == 5 else [])
        fallen = [entry for entry in entries if entry.state is State.DIVERGED and entry.target >= epoch]
        assert history.population(epoch) == len(read) + len(fallen)
    assert history.spent == sum(entry.charge for entry in entries)
    assert [reading.order for _, _, reading in history.readings] == list(range(len(history.readings)))


@pytest.mark.parametrize("seed", range(10))
def test_a_history_rebuilt_in_any_order_is_the_same(seed):
    history = _random_history(seed)
    entries = list(history)
    random.Random(seed).shuffle(entries)
    rebuilt = History(entries)
    assert list(rebuilt) == list(history)
    assert rebuilt.readings == history.readings
    assert rebuilt.spent == history.spent
    for epoch in (5, 20):
        assert (rebuilt.ranked(epoch), rebuilt.waiting(epoch)) == (history.ranked(epoch), history.waiting(epoch))


def test_an_entry_replaces_what_was_known():
    history = History([Entry(0, {}, target=13)])
    history.add(Entry(0, {}, State.CRASHED, target=13, epochs=4))
    assert (len(history), history.spent, history.running) == (1, 4, ())


def test_the_pace_is_the_median_of_what_is_known_of_trials():
    history = History()
    for number in range(4):
        history.drawn(number, {}, 5)
        history.read(number, 5, 1.0)
    assert history.pace is None
    history.paused(0, 3.0)
    history.paused(1, 1.0)
    history.ended(2, State.COMPLETE, 5, 2.0)
    assert history.pace == 2.0
    history.resumed(0, 10)
    history.read(0, 10, 1.0)
    history.paused(0)
    assert history[0].pace == 3.0, "what was known of it stays"
    history.resumed(0, 20)
    history.read(0, 20, 1.0)
    history.ended(0, State.COMPLETE, 20, 0.5)
    assert history.pace == 1.0
