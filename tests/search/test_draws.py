"""Draws: what they depend on, where they fall, and that each kind keeps the same contract."""

import math
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from scipy.stats import kstest

from tuner.search.cache import ScreenCache
from tuner.search.dimensions import Dimension, dimensions_of
from tuner.search.draws import sobol_point, uniform_point, zoomed
from tuner.search.encoding import Encoding
from tuner.search.evidence import MOST_ROWS, fit_size, measured_rows
from tuner.search.history import Entry, History, Reading, State
from tuner.search.screen import Screen
from tuner.search.stages import Stage, Zoom, stages_until
from tuner.space import Categorical, Int, LogInt, LogUniform, OneMinusPow10, Parameter, Space

EPOCHS = 50
SPACE = Space.of(
    [
        Parameter("lr", LogUniform(1e-4, 1.0), "lr"),
        Parameter("momentum", OneMinusPow10(0.9, 0.999), "m", when={"opt": ("sgd", "lion")}),
        Parameter("opt", Categorical(("sgd", "adam", "lion")), "o"),
        Parameter("layers", Int(1, 5), "l", memory=True),
        Parameter("units", LogInt(8, 512), "u", memory=True),
    ]
)
DIMENSIONS = dimensions_of(SPACE)


def loss(point):
    return (point["lr"] - 0.7) ** 2 + 0.1 * (1 - point["units"]) + (0.2 if 0.34 < point["opt"] < 0.66 else 0.0)


def grown(draws: int, seed: int = 0) -> History:
    """A history of uniform draws, the best of which were trained in full; a few are running."""
    history = History()
    stage = stages_until(0, (), history, DIMENSIONS, zoom=Zoom(5))[0]
    for number in range(draws):
        values = SPACE.from_unit(zoomed(stage, seed, number))
        history.drawn(number, SPACE.to_unit(values), 13)
        history.read(number, 13, loss(history[number].point | {"opt": 0.1}) + 0.1)
        history.paused(number)
        if number % 4 == 0:
            history.resumed(number, EPOCHS)
            history.read(number, EPOCHS, loss(history[number].point))
            history.ended(number, State.COMPLETE)
    return history


def screened(*given, **options) -> dict[str, float]:
    return Screen(*given, **options).best().point


def stage_for(history: History, **options) -> Stage:
    return stages_until(len(history), (), history, DIMENSIONS, zoom=Zoom(5, **options))[-1]


DRAWS = {
    "uniform": lambda history, seed, index: uniform_point(seed, 0, index, SPACE.names),
    "sobol": lambda history, seed, index: sobol_point(seed, index, SPACE.names),
    "zoomed": lambda history, seed, index: zoomed(stage_for(history), seed, index),
    "screened": lambda history, seed, index: screened(
        history, stage_for(history), DIMENSIONS, seed, index, epochs=EPOCHS
    ),
}


@pytest.mark.parametrize("draws", [0, 1, 20])
@pytest.mark.parametrize("kind", DRAWS)
def test_every_draw_is_inside_the_cube_and_repeats_itself(kind, draws):
    history = grown(draws)
    for index in range(20, 24):
        point = DRAWS[kind](history, 3, index)
        assert set(point) == set(SPACE.names)
        assert all(0.0 <= unit <= 1.0 for unit in point.values())
        assert DRAWS[kind](history, 3, index) == point
        assert DRAWS[kind](history, 4, index) != point
        assert DRAWS[kind](history, 3, index + 1) != point
        values = SPACE.from_unit(point)
        assert all(SPACE[name].scale.contains(value) for name, value in values.items())


@pytest.mark.parametrize("kind", DRAWS)
def test_a_resumed_round_draws_the_same(kind):
    history = grown(30)
    assert DRAWS[kind](History(list(history)), 0, 30) == DRAWS[kind](history, 0, 30)


def test_draws_are_the_same_in_another_process():
    code = "from tuner.search.draws import *; print(uniform_point(1, 2, 3, ['lr']), sobol_point(1, 3, ['lr', 'x']))"
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert there.strip() == f"{uniform_point(1, 2, 3, ['lr'])} {sobol_point(1, 3, ['lr', 'x'])}"


def test_a_coordinate_does_not_depend_on_the_other_names():
    assert uniform_point(1, 2, 3, ["a", "b"])["b"] == uniform_point(1, 2, 3, ["b"])["b"]
    assert sobol_point(1, 3, ["a", "b"])["b"] == sobol_point(1, 3, ["b"], first=1)["b"]


@pytest.mark.parametrize("key", ["index", "stage", "seed", "name"])
def test_uniform_draws_are_uniform_along_each_part_of_their_key(key):
    """Fixed keys, so it passes or fails for ever; of all choices of keys one in 1000 would fail each case."""
    parts = {
        "index": (0, 0, None, "lr"),
        "stage": (0, None, 0, "lr"),
        "seed": (None, 0, 0, "lr"),
        "name": (0, 0, 0, None),
    }
    units = []
    for i in range(2000):
        seed, stage, index, name = (i if part is None else part for part in parts[key])
        units.append(uniform_point(seed, stage, index, [str(name)])[str(name)])
    assert kstest(units, "uniform").pvalue > 0.001


@pytest.mark.parametrize("seed", range(5))
def test_sobol_points_are_a_net(seed):
    """Every elementary interval of volume 1/64 has one of the first 64 points: Owen's scrambling keeps that."""
    points = np.array([list(sobol_point(seed, index, ["a", "b"]).values()) for index in range(64)])
    for bits in range(7):
        cells = np.floor(points * [2**bits, 2 ** (6 - bits)]).astype(int)
        assert len({tuple(cell) for cell in cells}) == 64


def test_screened_draws_go_where_it_is_good():
    """20 uniform draws lie 0.3 from the best learning rate on average; screened ones are expected within 0.2."""
    history = grown(20)
    points = [screened(history, stage_for(history), DIMENSIONS, 0, index, epochs=EPOCHS) for index in range(20, 26)]
    assert np.mean([abs(point["lr"] - 0.7) for point in points]) < 0.2


def test_a_place_where_a_trial_runs_promises_less_the_more_so_the_further_it_trains():
    expected = []
    for target in (None, 13, EPOCHS):
        history = grown(20)
        best = Screen(history, stage_for(history), DIMENSIONS, 0, 20, epochs=EPOCHS).best().point
        if target:
            history.drawn(20, SPACE.to_unit(SPACE.from_unit(best)), target)
        expected.append(Screen(history, stage_for(grown(20)), DIMENSIONS, 0, 20, epochs=EPOCHS).expected([best])[0])
    assert expected == sorted(expected, reverse=True)
    assert expected[0] - expected[2] > 0.01


def test_parallel_draws_differ():
    history, drawn = grown(20), []
    for index in range(20, 28):
        point = Screen(history, stage_for(grown(20)), DIMENSIONS, 0, index, epochs=EPOCHS).best().point
        history.drawn(index, SPACE.to_unit(SPACE.from_unit(point)), 6)
        drawn.append(point["lr"])
    assert len(set(drawn)) == 8


def test_what_diverged_was_not_trained_in_full():
    """One that went on to the end and diverged on its way: still the last one to be trained is what is recommended."""
    history = History()
    for number in range(4):
        history.drawn(number, {"lr": 0.1 + 0.2 * number}, 25)
        history.read(number, 25, 0.5 - 0.1 * number)
        history.paused(number)
    points = [history[number].point for number in range(3)]
    history.resumed(3, EPOCHS)
    history.ended(3, State.DIVERGED)
    screen = Screen(history, WHOLE_LINE, [Dimension("lr")], 0, 4, epochs=EPOCHS)
    x = Encoding([Dimension("lr")], EPOCHS)
    mean = screen._score._posterior.mean(x.encoded(x.matrix(points), np.full(3, EPOCHS)))
    assert screen.final(points) == pytest.approx(-mean)


def test_draws_keep_away_from_where_trials_diverged():
    """The upper half of the learning rates diverges; one draw in two would fall there."""
    history = History()
    for number in range(24):
        unit = uniform_point(0, 0, number, ["lr"])["lr"]
        history.drawn(number, {"lr": unit}, 13)
        if unit > 0.5:
            history.ended(number, State.DIVERGED)
        else:
            history.read(number, 13, 1.0 - unit)
            history.paused(number)
    dimensions = [Dimension("lr")]
    stage = stages_until(24, (), history, dimensions, zoom=Zoom(5))[-1]
    units = [screened(history, stage, dimensions, 0, index, epochs=EPOCHS)["lr"] for index in range(24, 34)]
    assert max(units) < 0.6


def test_what_has_just_diverged_is_known_before_another_trial_is_read():
    """The lower the better so far, but the lowest diverges: again and again, if only trials that were read counted."""
    history = History()
    for number in range(8):
        history.drawn(number, {"lr": 0.3 + number / 12}, EPOCHS)
        history.read(number, EPOCHS, number / 8)
        history.ended(number, State.COMPLETE)
    before = screened(history, WHOLE_LINE, [Dimension("lr")], 0, 8, epochs=EPOCHS)["lr"]
    for number in range(8, 12):
        history.drawn(number, {"lr": before}, EPOCHS)
        history.ended(number, State.DIVERGED)
    after = screened(history, WHOLE_LINE, [Dimension("lr")], 0, 12, epochs=EPOCHS)["lr"]
    assert before < 0.25
    assert abs(after - before) > 0.05


@pytest.mark.parametrize("draws", [0, 20])
def test_what_is_not_smaller_than_an_infeasible_trial_is_not_drawn(draws):
    history = grown(draws)
    history.add(Entry(draws, {"layers": 0.3, "units": 0.3, "lr": 0.5}, State.INFEASIBLE))
    for index in range(30, 45):
        point = screened(history, stage_for(history), DIMENSIONS, 0, index, epochs=EPOCHS)
        assert point["layers"] < 0.3 or point["units"] < 0.3


def test_what_is_smaller_in_one_of_two_sizes_is_drawn_as_if_nothing_had_run_out_of_memory():
    history = History([Entry(0, {"layers": 0.5, "units": 0.5, "lr": 0.5}, State.INFEASIBLE)])
    stage = stage_for(history)
    smaller_in = []
    for index in range(40):
        alone = zoomed(stage, 0, index)
        if names := [name for name in ("layers", "units") if alone[name] < 0.4]:
            assert screened(history, stage, DIMENSIONS, 0, index, epochs=EPOCHS) == alone
            smaller_in.append(names)
    assert min(smaller_in.count(["layers"]), smaller_in.count(["units"])) > 5


def test_only_a_training_as_large_in_all_sizes_shows_that_it_was_not_these():
    trained = [
        Entry(number, {"layers": layers, "units": units, "lr": 0.5}, State.PAUSED, (Reading(13, 1.0, number),))
        for number, (layers, units) in enumerate([(0.9, 0.1), (0.1, 0.9)])
    ]
    history = History([*trained, Entry(2, {"layers": 0.5, "units": 0.5, "lr": 0.5}, State.INFEASIBLE)])
    for index in range(20):
        point = screened(history, stage_for(history), DIMENSIONS, 0, index, epochs=EPOCHS, learns=False)
        assert point["layers"] < 0.4 or point["units"] < 0.5


def test_where_everything_is_infeasible_the_smallest_is_drawn():
    history = History([Entry(0, {"layers": 0.1, "units": 0.01, "lr": 0.5}, State.INFEASIBLE)])
    for index in range(1, 11):
        point = screened(history, stage_for(history), DIMENSIONS, 0, index, epochs=EPOCHS)
        assert SPACE.from_unit(point)["layers"] == 1
        assert point["units"] < 0.1


def test_where_everything_is_infeasible_the_smallest_is_drawn_even_if_more_is_expected_of_the_largest():
    """Of adam, that is; the others were trained, and the more layers they had the better."""
    history = History()
    for number in range(12):
        point = {"lr": (0.37 * number) % 1, "opt": 1 / 6, "layers": (number % 5 + 0.5) / 5, "units": 0.5}
        history.drawn(number, point, 13)
        history.read(number, 13, 1.0 - point["layers"])
        history.paused(number)
    stage = stage_for(history)
    adam = replace(stage, frame=stage.frame | {"opt": (0.5, 0.5)}, box=stage.box | {"opt": (0.5, 0.5)})
    before = screened(history, adam, DIMENSIONS, 0, 13, epochs=EPOCHS)
    history.add(Entry(12, {"lr": 0.5, "opt": 0.5, "layers": 0.1, "units": 0.01}, State.INFEASIBLE))
    after = screened(history, adam, DIMENSIONS, 0, 13, epochs=EPOCHS)
    assert before["opt"] == after["opt"] == 0.5
    assert SPACE.from_unit(before)["layers"] >= 4
    assert SPACE.from_unit(after)["layers"] == 1


def test_in_a_discrete_space_nothing_is_drawn_twice_before_all_was_drawn_once():
    dimensions = [Dimension.of_scale("x", Int(1, 3)), Dimension.of_scale("y", Categorical(("a", "b", "c")))]
    history = History()
    for number in range(9):
        stage = stages_until(number, (), history, dimensions, zoom=Zoom(coarse=0))[-1]
        point = screened(history, stage, dimensions, 0, number, epochs=1)
        snapped = {d.name: float(d.snapped(np.array([point[d.name]]))[0]) for d in dimensions}
        history.add(Entry(number, snapped, State.COMPLETE, (Reading(1, sum(snapped.values()), number),)))
    assert len({tuple(entry.point.values()) for entry in history}) == 9


BRANCHES = [
    Dimension.of_scale("opt", Categorical(("adam", "lion", "sgd"))),
    Dimension("momentum", when=(("opt", (5 / 6,)),)),
]


@pytest.mark.parametrize("tiered", [False, True])
def test_a_branch_without_a_continuum_is_not_drawn_twice(tiered):
    """In stages that draw uniformly and in those with a model, which takes adam for the best there is."""
    dimensions = [replace(BRANCHES[0], tier=2), BRANCHES[1], Dimension("wd", tier=3)] if tiered else BRANCHES
    encoding = Encoding(tuple(dimensions), 1)
    for seed in range(3):
        history, stages, drawn = History(), (), []
        for number in range(6 if tiered else 20):
            zoom = Zoom(5, tiered=tiered)
            stages = stages_until(number, stages, history, dimensions, zoom=zoom, defaults={"opt": 0.5})
            point = screened(history, stages[-1], dimensions, seed, number, epochs=1, learns=number > 5)
            units = encoding.without_inactive(encoding.matrix([point]))[0]
            active = {one.name: unit for one, unit in zip(dimensions, units, strict=True) if not math.isnan(unit)}
            drawn.append(active["opt"])
            history.add(Entry(number, active, State.COMPLETE, (Reading(1, active["opt"], number),)))
        counts = {opt: sum(abs(opt - unit) < 0.01 for unit in drawn) for opt in (1 / 6, 1 / 2)}
        assert counts == {1 / 6: 1, 1 / 2: 1}


@pytest.mark.parametrize(("choices", "draws"), [(2, 2), (4, 4), (9, 6)])
def test_a_tier_of_choices_draws_each_of_them_once_whatever_the_others_are(choices, draws):
    tiers = [Dimension("lr"), replace(Dimension.of_scale("act", Categorical(tuple("abcdefghi"[:choices]))), tier=2)]
    for seed in range(5):
        history, stages = History(), ()
        for number in range(6 + draws):
            stages = stages_until(number, stages, history, tiers, zoom=Zoom(5, tiered=True), defaults={"act": 0.0})
            point = screened(history, stages[-1], tiers, seed, number, epochs=1, learns=False)
            point["act"] = float(tiers[1].snapped(np.array([point["act"]]))[0])
            history.add(Entry(number, point, State.COMPLETE, (Reading(1, point["lr"], number),)))
        assert (stages[-1].name, stages[-1].ends_at) == ("tier 2 coarse", 6 + draws)
        assert len({history[number].point["act"] for number in range(6, 6 + draws)}) == draws


def test_a_tiers_choices_are_all_drawn_also_beside_what_is_switched_off():
    """Activations, with the momentum of an optimizer that the study's own values do not have; three draws for three."""
    tiers = [
        Dimension("lr"),
        replace(Dimension.of_scale("act", Categorical(("relu", "gelu", "silu"))), tier=2),
        Dimension("momentum", tier=2, when=(("opt", (5 / 6,)),)),
        replace(BRANCHES[0], tier=3),
    ]
    for seed in range(5):
        history, stages = History(), ()
        for number in range(9):
            stages = stages_until(number, stages, history, tiers, zoom=Zoom(5, tiered=True), defaults={"opt": 0.5})
            point = screened(history, stages[-1], tiers, seed, number, epochs=1, learns=False)
            point = {
                one.name: float(one.snapped(np.array([point[one.name]]))[0])
                for one in tiers
                if one.tier != 2 or one.cells
            }
            history.add(Entry(number, point, State.COMPLETE, (Reading(1, point["lr"], number),)))
        assert (stages[-1].name, stages[-1].ends_at) == ("tier 2 coarse", 9)
        assert {int(3 * history[number].point["act"]) for number in (6, 7, 8)} == {0, 1, 2}


@pytest.mark.parametrize("values", [[math.nan] * 8, [1.0] * 8, [1.0, math.inf] * 4, [-math.inf, 1e300, 0.0, 1.0] * 2])
def test_any_values_give_a_draw(values):
    history = History()
    for number, value in enumerate(values):
        history.drawn(number, {"lr": number / 8}, 13)
        history.read(number, 13, value)
        history.paused(number)
    stage = stages_until(8, (), history, [Dimension("lr")], zoom=Zoom(5))[-1]
    assert 0.0 <= screened(history, stage, [Dimension("lr")], 0, 8, epochs=EPOCHS)["lr"] <= 1.0


def test_an_expanded_box_is_drawn_from():
    stage = Stage(1, "fine 1", 6, 12, {"lr": (0.0, 1.0)}, {"lr": (0.8, 1.4)})
    history = History()
    for number in range(6):
        history.add(Entry(number, {"lr": number / 5}, State.COMPLETE, (Reading(1, -float(number), number),)))
    units = [screened(history, stage, [Dimension("lr")], 0, index, epochs=1)["lr"] for index in range(6, 12)]
    assert max(units) > 1.0
    assert max(units) <= 1.4


def test_fixed_dimensions_stay_fixed():
    history = grown(20)
    stage = stage_for(history)
    fixed = {"lr": (0.25, 0.25)}
    held = Stage(1, "fine 1", 6, 12, {**stage.frame, **fixed}, {**stage.box, **fixed})
    assert screened(history, held, DIMENSIONS, 0, 20, epochs=EPOCHS)["lr"] == 0.25


def test_encoding():
    """Unordered choices are one apart, what is switched off is in the middle, and 1/16 of the length is 0."""
    encoding = Encoding(DIMENSIONS, 64)
    points = [{"lr": 0.1, "opt": unit, "layers": 0.33, "units": 0.5, "momentum": 0.9} for unit in (0.1, 0.4, 0.9)]
    x = encoding.encoded(encoding.without_inactive(encoding.matrix(points)), np.array([4, 16, 64]))
    places = {dimension.name: place for place, dimension in enumerate(DIMENSIONS)}
    columns = {name: [i for i, g in enumerate(encoding.groups) if g == place] for name, place in places.items()}
    one_hot = x[:, columns["opt"]]
    assert [np.linalg.norm(one_hot[i] - one_hot[j]) for i, j in ((0, 1), (0, 2))] == pytest.approx([1.0, 1.0])
    assert x[:, columns["momentum"][0]] == pytest.approx([0.9, 0.5, 0.9])
    assert x[:, columns["layers"][0]] == pytest.approx([0.3] * 3)
    assert x[:, -1] == pytest.approx([0.0, 0.5, 1.0])


def test_the_fit_repeats_only_when_the_data_grew_by_a_tenth():
    sizes = sorted({fit_size(n) for n in range(2, 2000)})
    assert all(larger <= max(size + 1, 1.1 * size) for size, larger in pairwise(sizes[1:]))
    cache = ScreenCache()
    history = grown(40)
    cached = [screened(history, stage_for(history), DIMENSIONS, 0, i, epochs=EPOCHS, cache=cache) for i in (40, 41)]
    assert cache.fits == 1
    assert cached == [screened(history, stage_for(history), DIMENSIONS, 0, i, epochs=EPOCHS) for i in (40, 41)]


def test_what_a_rule_decided_by_is_not_searched_for_again_when_it_is_drawn():
    cache, history = ScreenCache(), grown(40)
    stage = stage_for(history)

    def best(entries, index=40, **options):
        return Screen(History(entries), stage, DIMENSIONS, 0, index, epochs=EPOCHS, cache=cache, **options).best()

    decided = best(history)
    assert best(history) is decided
    assert cache.searches == 1
    fresh = Screen(history, stage, DIMENSIONS, 0, 41, epochs=EPOCHS).best()
    assert best(history, 41) == fresh != decided
    started = History(history)
    started.drawn(40, decided.point, 13)
    assert best(started, 41) not in (fresh, decided), "what runs counts"
    paced = [replace(entry, pace=1.0 + entry.number) for entry in history]
    assert best(paced, timed=True) != decided
    assert cache.searches == 4


@pytest.mark.parametrize(("learns", "state"), [(False, State.INFEASIBLE), (True, State.CRASHED)])
def test_what_a_rule_decided_by_is_searched_for_again_once_it_is_known_to_fail(learns, state):
    """No value is new by that: nothing that the model of the values learns from, where there is one."""
    cache, history = ScreenCache(), grown(40) if learns else History()
    stage = stage_for(history)
    given = (stage, DIMENSIONS, 0, len(history) + 1)
    decided = Screen(history, *given, epochs=EPOCHS, learns=learns, cache=cache).best()
    point = SPACE.to_unit(SPACE.from_unit(decided.point))
    history.add(Entry(len(history), point, state, target=13))
    again = Screen(history, *given, epochs=EPOCHS, learns=learns, cache=cache).best()
    assert again == Screen(history, *given, epochs=EPOCHS, learns=learns).best() != decided


def test_the_model_is_given_a_bounded_number_of_rows_with_the_best_and_the_newest():
    history = grown(2000)
    rows = measured_rows(history, EPOCHS, len(history.readings))
    assert len(rows) <= MOST_ROWS
    assert len(set(rows)) == len(rows)
    assert {number for _, number in history.ranked(EPOCHS)[:20]} <= {row.number for row in rows if row.epoch == EPOCHS}
    assert 1999 in {row.number for row in rows}


def test_the_better_a_trial_has_done_the_more_is_expected_of_it():
    history = grown(40)
    screen = Screen(history, stage_for(history), DIMENSIONS, 0, 40, epochs=EPOCHS)
    waiting = [number for _, number in history.waiting(13)]
    expected = screen.expected([history[number].point for number in waiting])
    assert np.median(expected[:5]) > np.median(expected[-5:])
    assert screen.best().expected >= expected.max(), "the best candidate is better than what was drawn"
    assert screen.expected([]).shape == (0,)


WHOLE_LINE = Stage(0, "coarse", 0, 99, {"lr": (0.0, 1.0)}, {"lr": (0.0, 1.0)})


@pytest.mark.parametrize("trained", [None, 0, 5])
def test_the_last_to_be_trained_in_full_improves_on_what_has_been(trained):
    """The larger the learning rate the better: six trials at half of the length, a seventh far away at an eighth."""
    history = History()
    for number in range(6):
        lr = 0.05 + 0.08 * number
        history.drawn(number, {"lr": lr}, 25)
        history.read(number, 6, 0.6 - lr)
        history.read(number, 25, 0.5 - lr)
        history.paused(number)
    history.drawn(6, {"lr": 0.95}, 6)
    history.read(6, 6, 0.3)
    history.paused(6)
    if trained is not None:
        history.resumed(trained, EPOCHS)
        history.read(trained, EPOCHS, 0.45 - history[trained].point["lr"])
        history.ended(trained, State.COMPLETE)
    screen = Screen(history, WHOLE_LINE, [Dimension("lr")], 0, 7, epochs=EPOCHS)
    points = [history[number].point for number in range(7)]
    expected, final = screen.expected(points), screen.final(points)
    if trained == 5:
        assert final == pytest.approx(expected), "the best is trained in full"
        return
    assert final[:6].tolist() == sorted(final[:6])
    assert final[5] > final[6] + 0.5, "what is likely to be good, not what nobody knows"
    assert final[4] - final[6] > 0.5 > expected[4] - expected[6]


def timed_history(paces):
    """Trials over lr that all did the same; how long an epoch took them is a function of lr."""
    history = History()
    for number in range(12):
        lr = (number + 0.5) / 12
        history.add(
            Entry(number, {"lr": lr}, State.COMPLETE, (Reading(EPOCHS, (lr - 0.5) ** 2, number),), pace=paces(lr))
        )
    return history


def test_where_time_counts_what_is_as_good_and_faster_is_drawn():
    """A valley around 0.5, where the learning rate alone says how long an epoch takes: 16 times as long at 1 as at 0."""
    dimensions = [Dimension("lr")]
    history = timed_history(lambda lr: 16**lr)
    drawn = {
        timed: [
            Screen(history, WHOLE_LINE, dimensions, 0, index, epochs=EPOCHS, timed=timed).best() for index in range(6)
        ]
        for timed in (False, True)
    }
    assert max(best.point["lr"] for best in drawn[True]) < min(best.point["lr"] for best in drawn[False])
    assert all(best.pace is None for best in drawn[False])
    assert [best.pace for best in drawn[True]] == pytest.approx(
        [16 ** best.point["lr"] for best in drawn[True]], rel=0.2
    )


def test_where_no_time_is_known_nothing_else_is_drawn():
    history = timed_history(lambda _: None)
    given = (history, WHOLE_LINE, [Dimension("lr")], 0, 12)
    assert Screen(*given, epochs=EPOCHS, timed=True).best() == Screen(*given, epochs=EPOCHS).best()
