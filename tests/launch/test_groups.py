"""Groups of ranks: real processes that train one model together and stay together over all their trials."""

import os
import signal
import time
from pathlib import Path

import pytest
from faulty import Line
from launching import pids, task, wait_idle

from tuner.launch.devices import Seat
from tuner.launch.groups import Groups
from tuner.launch.local import Processes, local_groups
from tuner.launch.protocol import Ended, Lost, Measured, Refused
from tuner.training.task import Answer, Outcome

assert Line  # the workers import it by name

PAIR = [Seat(0, 2, threads=1), Seat(1, 2, threads=1)]
SINGLE = [Seat(threads=1)]


def until(launcher, *kinds, seconds=60.0):
    events, deadline = [], time.monotonic() + seconds
    while not any(isinstance(event, kinds) for event in events):
        assert time.monotonic() < deadline, f"only {events}"
        events += [event for _, event in launcher.events(0.2)]
    return events


def values(events):
    return [event.measurement.value for event in events if isinstance(event, Measured)]


@pytest.fixture
def pair(tmp_path):
    with local_groups([PAIR], tmp_path / "logs") as started:
        wait_idle(started)
        yield started


@pytest.mark.parametrize(
    ("data", "mode"),
    [
        ({}, "good"),
        ({"batch_size": 62}, "good"),  # a last batch of 2
        ({"batch_size": 62, "num_workers": 1}, "good"),
        ({"batch_size": 64}, "good"),
        ({"val": 31}, "good"),  # shares that differ by one
        ({"val": 31}, "log_dict"),
        ({"val": 31}, "log each step"),
    ],
)
def test_two_ranks_report_once_what_one_device_with_the_same_global_batch_reports(pair, tmp_path, data, mode):
    with local_groups([SINGLE], tmp_path / "single") as single:
        wait_idle(single)
        single.train(0, task(tmp_path, data=data, module={"mode": mode}))
        alone = until(single, Ended)
    pair.train(0, task(tmp_path, data=data, module={"mode": mode}))
    together = until(pair, Ended)
    assert together[-1].result.outcome is Outcome.COMPLETE
    assert together[-1].result.step == alone[-1].result.step
    assert values(together) == pytest.approx(values(alone), rel=1e-5)


def test_a_group_stays_together_over_its_trials(pair, tmp_path):
    before = pids(pair)
    for trial in range(3):
        pair.train(0, task(tmp_path, trial=trial))
        assert until(pair, Ended)[-1].result.outcome is Outcome.COMPLETE
    assert pids(pair) == before


def test_every_rank_pauses_at_the_same_step_and_another_kind_of_group_goes_on(pair, tmp_path):
    pair.train(0, task(tmp_path, trial=1))
    whole = until(pair, Ended)
    pair.train(0, task(tmp_path, rungs=(1, 2)))
    first = until(pair, Measured)
    pair.reply(0, Answer.GO_ON)
    first += until(pair, Measured)
    pair.reply(0, Answer.PAUSE)
    paused = until(pair, Ended)[-1].result
    assert paused.outcome is Outcome.PAUSED
    assert paused.epoch == 2
    pair.train(0, task(tmp_path, checkpoint=paused.checkpoint))
    second = until(pair, Ended)
    assert values(first) + values(second) == values(whole)


def test_a_halt_stops_both_ranks_and_the_next_trial_trains(pair, tmp_path):
    pair.train(0, task(tmp_path, module={"pause_s": 0.02}, trainer={"max_epochs": 500}))
    until(pair, Measured)
    before = pids(pair)
    pair.halt(0)
    assert until(pair, Ended)[-1].result.outcome is Outcome.STOPPED
    pair.train(0, task(tmp_path, trial=1))
    assert until(pair, Ended)[-1].result.outcome is Outcome.COMPLETE
    assert pids(pair) == before


@pytest.mark.parametrize("victim", [0, 1])
def test_a_rank_that_is_killed_takes_its_group_with_it_and_the_trial_is_lost_once(pair, tmp_path, victim):
    before = pids(pair)
    pair.train(0, task(tmp_path, module={"pause_s": 0.05}, trainer={"max_epochs": 100}))
    until(pair, Measured)
    os.kill(before[victim], signal.SIGKILL)
    (lost,) = [event for event in until(pair, Lost) if isinstance(event, Lost)]
    assert f"rank {victim} of 2 ended by SIGKILL" in lost.reason
    wait_idle(pair)
    assert not set(pids(pair)) & set(before)
    for pid in before:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    pair.train(0, task(tmp_path, trial=1))
    assert until(pair, Ended)[-1].result.outcome is Outcome.COMPLETE


@pytest.mark.parametrize("mode", ["raise on rank 1", "raise"])
def test_a_crash_on_any_rank_is_told_once_with_its_traceback(pair, tmp_path, mode):
    pair.train(0, task(tmp_path, module={"mode": mode}))
    events = until(pair, Ended)
    assert events[-1].result.outcome is Outcome.CRASHED
    assert "what a pity" in events[-1].result.traceback
    wait_idle(pair)
    pair.train(0, task(tmp_path, trial=1))
    after = until(pair, Ended)
    assert [event.trial for event in after if isinstance(event, Ended)] == [1]
    assert after[-1].result.outcome is Outcome.COMPLETE


def test_a_batch_that_two_ranks_cannot_share_is_refused_with_what_to_write(pair, tmp_path):
    pair.train(0, task(tmp_path, data={"batch_size": 7}))
    assert "divisible by the 2 ranks" in until(pair, Refused)[-1].text


def test_a_rank_that_hangs_alone_is_ended_for_its_silence(tmp_path):
    with local_groups([PAIR], tmp_path / "logs", silent_after_s=6.0) as pair:
        wait_idle(pair)
        pair.train(0, task(tmp_path, module={"mode": "sleep on rank 1"}))
        (lost,) = [event for event in until(pair, Lost) if isinstance(event, Lost)]
        assert "sent nothing for 6 s" in lost.reason
        wait_idle(pair)


@pytest.mark.slow
def test_a_training_that_gets_on_is_not_silent_however_long_its_epoch(tmp_path):
    with local_groups([SINGLE], tmp_path / "logs", silent_after_s=6.0) as single:
        wait_idle(single)
        single.train(0, task(tmp_path, data={"batch_size": 1}, module={"pause_s": 0.16}, trainer={"max_epochs": 1}))
        assert until(single, Ended, Lost)[-1].result.outcome is Outcome.COMPLETE


@pytest.mark.parametrize("victim", [0, 1])
def test_a_rank_that_fails_because_another_one_was_killed_is_not_taken_for_a_crash_of_the_module(
    pair, tmp_path, monkeypatch, victim
):
    """The survivor's collective operation raises, and may say so before the death of the other is heard."""
    pair.train(0, task(tmp_path, module={"pause_s": 0.05}, trainer={"max_epochs": 100}))
    until(pair, Measured)
    ranks = pair._groups[0].ranks
    take = type(ranks[victim]).take
    late = time.monotonic() + 1.0

    def heard_late(rank):
        return ([], None) if rank is ranks[victim] and time.monotonic() < late else take(rank)

    monkeypatch.setattr(type(ranks[victim]), "take", heard_late)
    os.kill(pids(pair)[victim], signal.SIGKILL)
    events = until(pair, Lost, Ended)
    assert isinstance(events[-1], Lost)


def children(pid):
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_there(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("by", ["launcher", "somebody"])
def test_a_worker_whose_loader_hangs_dies_with_the_loaders_workers_and_is_heard_of_at_once(tmp_path, by):
    """They hold the pipe open, and would live on."""
    with local_groups([SINGLE], tmp_path / "logs") as single:
        wait_idle(single)
        (pid,) = pids(single)
        single.train(0, task(tmp_path, data={"num_workers": 2, "hangs": True}))
        deadline = time.monotonic() + 20
        while len(loaders := children(pid)) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        if by == "launcher":
            single.kill(0)
        else:
            os.kill(pid, signal.SIGKILL)
        assert isinstance(until(single, Lost, seconds=4.0)[-1], Lost)
        deadline = time.monotonic() + 10  # a killed process takes its time to give its memory back
        while any(map(is_there, [pid, *loaders])):
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_what_is_said_of_a_trial_that_has_ended_does_not_hit_the_worker_that_is_there_now(tmp_path):
    with local_groups([SINGLE], tmp_path / "logs") as single:
        wait_idle(single)
        (pid,) = pids(single)
        single.kill(0)
        single.halt(0)
        single.train(0, task(tmp_path))
        assert until(single, Ended, Lost)[-1].result.outcome is Outcome.COMPLETE
        assert pids(single) == [pid]


def test_a_controller_that_was_away_does_not_take_its_workers_for_silent(tmp_path):
    now = 0.0
    with Groups(Processes([SINGLE], tmp_path / "logs"), 1, silent_after_s=30.0, clock=lambda: now) as single:
        wait_idle(single)
        single.train(0, task(tmp_path, data={"hangs": True}))
        for _ in range(3):
            now += 3600.0  # Ctrl-Z and fg, or a database that was waited for
            assert single.events(0.1) == []
        for _ in range(40):
            now += 1.0
            if events := single.events(0.01):
                break
        assert isinstance(events[0][1], Lost), "it is silent while it is listened to"
