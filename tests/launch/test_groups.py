"""Groups of ranks: real processes that train one model together and stay together over all their trials."""

import os
import signal
import time

import pytest
from faulty import Line

from tuner.launch.devices import Seat
from tuner.launch.local import local_groups
from tuner.launch.protocol import Ended, Lost, Measured, Refused
from tuner.training.task import Answer, Outcome, Task

assert Line  # the workers import it by name

PAIR = [Seat(0, 2, threads=1), Seat(1, 2, threads=1)]
SINGLE = [Seat(threads=1)]


def task(folder, *, trial=0, module=None, data=None, trainer=None, **changes):
    config = {
        "module": {"_target_": "faulty.Line", "marks": str(folder), **(module or {})},
        "data": {"_target_": "faulty.loaders", **(data or {})},
        "trainer": {"max_epochs": 3, "accelerator": "cpu", **(trainer or {})},
        "optimizer": None,
        "schedule": None,
    }
    return Task(trial, config, "val/loss", 0, str(folder / f"trial-{trial}"), **changes)


def until(launcher, *kinds, seconds=60.0):
    events, deadline = [], time.monotonic() + seconds
    while not any(isinstance(event, kinds) for event in events):
        assert time.monotonic() < deadline, f"only {events}"
        events += [event for _, event in launcher.events(0.2)]
    return events


def wait_idle(launcher, count=1, seconds=60.0):
    deadline = time.monotonic() + seconds
    while len(launcher.idle()) < count:
        assert time.monotonic() < deadline
        launcher.events(0.1)


def pids(launcher):
    return [int(rank.where.rpartition(":")[2]) for group in launcher._groups.values() for rank in group.ranks]


def values(events):
    return [event.measurement.value for event in events if isinstance(event, Measured)]


@pytest.fixture
def pair(tmp_path):
    with local_groups([PAIR], tmp_path / "logs") as started:
        wait_idle(started)
        yield started


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"batch_size": 62},  # a last batch of 2
        {"batch_size": 62, "num_workers": 1},
        {"batch_size": 64},
    ],
)
def test_two_ranks_report_once_what_one_device_with_the_same_global_batch_reports(pair, tmp_path, data):
    with local_groups([SINGLE], tmp_path / "single") as single:
        wait_idle(single)
        single.train(0, task(tmp_path, data=data))
        alone = until(single, Ended)
    pair.train(0, task(tmp_path, data=data))
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
