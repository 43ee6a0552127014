"""What the controller costs: that every wait of a worker is counted, once and for what it was."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest

from tuner.launch.protocol import Ended
from tuner.running import Running, Why
from tuner.training.task import Task

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
TRIALS = 12
#: A round in a process of its own, as it is measured, that prints in which order waits and fits of the model came.
WATCHED = """
import contextlib, json, sys
from pathlib import Path
from unittest import mock

import tuner.search.model as model
from scale import measurement, systems, worker
from tuner.round import Round

log = []

def spied(place, name, said):
    real = getattr(place, name)

    def spy(self, *args):
        log.append(said(*args))
        return real(self, *args)

    return mock.patch.object(place, name, spy)

fit = model.fit
with (
    spied(worker.Waits, "begin", lambda: "begin"),
    spied(worker.Waits, "end", str),
    spied(Round, "_resume", lambda *_: "resume"),
    mock.patch.object(model, "fit", lambda *args: log.append("fit") or fit(*args)),
    contextlib.redirect_stdout(sys.stderr),
):
    figures = measurement.run_tuner(systems.PAUSING, Path(sys.argv[1]), 0, int(sys.argv[2]))
print(json.dumps({"log": log, "waits_ms": figures["waits_ms"]}))
"""


@pytest.fixture
def benchmarks(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import controller
    from scale import systems, worker

    return SimpleNamespace(controller=controller, systems=systems, worker=worker)


@pytest.fixture(scope="module")
def watched(tmp_path_factory):
    words = [sys.executable, "-c", WATCHED, str(tmp_path_factory.mktemp("round")), str(TRIALS)]
    done = subprocess.run(words, cwd=BENCHMARKS, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout)


def test_a_wait_begins_and_ends_before_the_next_one(watched, benchmarks):
    kinds = {str(kind) for kind in benchmarks.worker.Kind}
    told = ["begin" if said == "begin" else "end" for said in watched["log"] if said in {"begin", *kinds}]
    assert told == ["begin", "end"] * (len(told) // 2)


def test_a_wait_counts_as_what_the_worker_got(watched, benchmarks):
    log, kind = watched["log"], benchmarks.worker.Kind
    counts = {name: len(values) for name, values in watched["waits_ms"].items()}
    warm_up = benchmarks.worker.WARM_UP
    assert log.count(kind.NEW) == warm_up + TRIALS + 1
    assert counts[kind.NEW] == TRIALS + 1  # that of the first trial after the warm-up is the first that counts
    assert log.count(kind.RESUMED) == log.count("resume") > 0
    # No trial goes by its first rung without an answer.
    assert counts[kind.ANSWER] >= TRIALS
    counted = [said for said in log if said in set(kind)]
    first = [place for place, said in enumerate(counted) if said == kind.NEW][warm_up]
    assert counts == {one: counted[first:].count(one) for one in kind}


def test_the_model_is_fitted_while_a_worker_waits_and_at_no_other_time(watched, benchmarks):
    kind, fits, pending = benchmarks.worker.Kind, Counter(), None
    for said in watched["log"]:
        if said == "begin":
            pending = 0
        elif said in set(kind):
            fits[said], pending = fits[said] + pending, None
        elif said == "fit":
            assert pending is not None, "nobody waits"
            pending += 1
    assert fits[kind.ANSWER] > 0  # where new values come in


def test_a_trial_that_is_stopped_still_ends(benchmarks, tmp_path):
    """A Ctrl-C while this is measured halts the worker as it does a real one."""
    worker = benchmarks.worker.InstantWorker(0, 1, lambda: None)
    running = Running(worker, time.monotonic)
    task = Task(trial=0, config={}, metric="val/acc", seed=0, folder=str(tmp_path), rungs=())
    worker.train(0, task)
    running.begin(0, 0, seconds=0.0, validations=0)
    for why in (Why.INTERRUPTED, Why.TIMED_OUT):
        running.stop(running[0], why)
    running.kill_all()
    events = [event for _ in range(benchmarks.systems.EPOCHS) for _, event in worker.events(0.0)]
    assert isinstance(events[-1], Ended)
    assert worker.idle() == [0]


def bench_of(benchmarks, tmp_path, **waits: list[float]):
    """Figures of one process, at one size, of the default search with its pruner."""
    systems, kinds = benchmarks.systems, benchmarks.worker.Kind
    bench = benchmarks.controller.Bench(tmp_path, [100], 3, systems=[systems.PAUSING])
    bench.runs[systems.PAUSING, 100].append({"waits_ms": {str(kind): waits.get(kind.name, []) for kind in kinds}})
    return bench


def test_each_kind_of_wait_has_its_row(benchmarks, tmp_path):
    bench = bench_of(benchmarks, tmp_path, NEW=[10.0, 20.0, 30.0], ANSWER=[1.0, 250.0])
    header, *rows = [re.split(r"  +", line) for line in bench.waits(markdown=False).splitlines()]
    assert header == ["ms that a worker waits: median, worst, above 100, n", "for", "100 present"]
    assert rows == [
        [benchmarks.systems.PAUSING, "a new configuration", "20.0, 30.0, 0, 3"],
        [benchmarks.systems.PAUSING, "the answer at a rung", "126, 250, 1, 2"],
    ]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--repeats", "0"], "--repeats: a whole number, 1 or more, is wanted, not '0'"),
        (["--trials", "0"], "--trials: a whole number, 1 or more, is wanted, not '0'"),
        (["--sizes", "100", "-5"], "--sizes: a whole number, 0 or more, is wanted, not '-5'"),
        (["--sizes", "0"], "--sizes: one above 0 is wanted too"),
        (["--plot", "scale.doc"], "--plot: "),
        (["--plot", "/nowhere/scale.png"], "--plot: "),
    ],
)
def test_a_mistake_is_told_before_any_work(benchmarks, monkeypatch, capsys, words, told):
    monkeypatch.setattr(sys, "argv", ["controller.py", *words])
    with pytest.raises(SystemExit) as ended:
        benchmarks.controller.main()
    assert ended.value.code == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert told in error


def test_quick_leaves_alone_what_was_asked_for(benchmarks, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["controller.py", "--quick", "--sizes", "300", "0", "300", "--repeats", "2"])
    asked = benchmarks.controller.options()
    assert (asked.sizes, asked.repeats, asked.trials) == ([0, 300], 2, 5)
