"""How the devices that there are become worker groups."""

import os

import pytest

from tuner.errors import ConfigError
from tuner.launch.devices import seats

# (visible GPUs, arguments, GPUs of each group and its ranks)
GROUPS = [
    ("0,1,2", {}, [("0",), ("1",), ("2",)]),
    ("0,1", {"workers": 1}, [("0",)]),
    ("0,1", {"trials_per_device": 2}, [("0",), ("1",), ("0",), ("1",)]),
    ("0,1", {"trials_per_device": 2, "workers": 3}, [("0",), ("1",), ("0",)]),
    ("0,1,2,3", {"devices_per_trial": 2}, [("0", "1"), ("2", "3")]),
    ("0,1,2,3", {"devices_per_trial": "all"}, [("0", "1", "2", "3")]),
    ("3", {"devices_per_trial": "all"}, [("3",)]),
    ("GPU-a,GPU-b", {"devices_per_trial": 2}, [("GPU-a", "GPU-b")]),
]


@pytest.mark.parametrize(("visible", "asked", "expected"), GROUPS)
def test_gpus_are_divided_among_groups(monkeypatch, visible, asked, expected):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    groups = seats(**asked)
    assert [group[0].gpus for group in groups] == expected
    for group in groups:
        assert [seat.rank for seat in group] == list(range(len(group[0].gpus)))
        assert {seat.size for seat in group} == {len(group)}
        assert {seat.gpus for seat in group} == {group[0].gpus}, "each rank sees all GPUs of its group"
        assert {seat.threads for seat in group} == {None}


REFUSED = [
    # (visible GPUs, arguments, key, what the rule says)
    ("0,1", {"devices_per_trial": 4}, "launcher.devices_per_trial", "there is: 2 GPUs"),
    ("0", {"devices_per_trial": 2}, "launcher.devices_per_trial", "there is: 1 GPU"),
    ("0,1,2,3", {"devices_per_trial": 3}, "launcher.devices_per_trial", "divides what there is: 4 GPUs"),
    ("0,1", {"workers": 3}, "launcher.workers", "at most 2, because there are 2 GPUs"),
    ("0,1,2,3", {"devices_per_trial": 2, "workers": 3}, "launcher.workers", "at most 2"),
    ("0,1", {"devices_per_trial": 2, "trials_per_device": 2}, "launcher.trials_per_device", "is 1 where a trial has 2"),
]


@pytest.mark.parametrize(("visible", "asked", "key", "rule"), REFUSED)
def test_devices_that_are_not_there_or_do_not_divide_are_refused_with_what_there_is(
    monkeypatch, visible, asked, key, rule
):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    with pytest.raises(ConfigError) as caught:
        seats(**asked)
    (problem,) = caught.value.problems
    assert problem.key == key
    assert rule in problem.rule


def test_a_gpu_that_is_asked_for_and_not_there_is_told_before_any_work(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(ConfigError, match="there is no GPU"):
        seats(accelerator="gpu")


@pytest.mark.parametrize("visible", ["", "-1", "0,1"])
def test_without_gpus_or_with_the_accelerator_cpu_the_cores_are_the_devices(monkeypatch, visible):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    for group in seats(accelerator="cpu" if visible == "0,1" else "auto", workers=2):
        assert group[0].gpus == ()
        assert group[0].threads == 1


CORES = [
    # (cores, arguments, cores of each rank of each group)
    ([4, 5, 6, 7], {"workers": 4}, [[(4,)], [(5,)], [(6,)], [(7,)]]),
    ([4, 5, 6, 7], {"workers": 1}, [[(4, 5, 6, 7)]]),
    ([4, 5, 6, 7], {"workers": 3}, [[(4,)], [(5,)], [(6, 7)]]),
    ([4, 5], {"workers": 3}, [[(4,)], [(5,)], [(4,)]]),
    ([4, 5, 6, 7], {"devices_per_trial": 2}, [[(4,), (5,)], [(6,), (7,)]]),
    ([4, 5, 6, 7], {"devices_per_trial": 2, "workers": 1}, [[(4, 5), (6, 7)]]),
    ([4, 5, 6, 7], {"devices_per_trial": "all"}, [[(4,), (5,), (6,), (7,)]]),
]


@pytest.mark.parametrize(("there", "asked", "expected"), CORES)
def test_cores_are_shared_out_side_by_side_with_one_thread_for_each_rank(monkeypatch, there, asked, expected):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(there), raising=False)
    groups = seats(accelerator="cpu", **asked)
    assert [[seat.cores for seat in group] for group in groups] == expected
    assert {seat.threads for group in groups for seat in group} == {1}


def test_more_ranks_than_cores_are_refused(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1}, raising=False)
    with pytest.raises(ConfigError, match="there is: 2 CPU cores"):
        seats(accelerator="cpu", devices_per_trial=4)
    with pytest.raises(ConfigError, match="at most 1"):
        seats(accelerator="cpu", devices_per_trial=2, workers=2)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system cannot pin a process to cores")
def test_only_cores_that_may_be_used_are_devices(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    allowed = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert [seat.cores for group in seats() for seat in group] == [(min(allowed),)]
    finally:
        os.sched_setaffinity(0, allowed)
