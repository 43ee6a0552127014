"""Stages: where their borders are, what their boxes come from, and how they are recorded."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from tuner.search.dimensions import Dimension, dimensions_of
from tuner.search.history import Entry, History, Reading, State
from tuner.search.stages import Edge, Stage, Zoom, ranking, stage_of, stages_until
from tuner.space import Categorical, Int, LogInt, LogUniform, OneMinusPow10, Parameter, Space, Uniform

LR = Dimension("lr")


def history_of(*trials: tuple[dict[str, float], dict[int, float]], state: State = State.PAUSED) -> History:
    history = History()
    for number, (point, values) in enumerate(trials):
        first = history.next_order
        readings = tuple(Reading(epoch, value, first + i) for i, (epoch, value) in enumerate(values.items()))
        history.add(Entry(number, point, state if readings else State.CRASHED, readings))
    return history


def spaced(units: list[float], name: str = "lr") -> History:
    """Trials whose rank is their number."""
    return history_of(*(({name: unit}, {13: float(i)}) for i, unit in enumerate(units)))


def test_borders_double():
    stages = stages_until(100, (), History(), [LR], zoom=Zoom(5))
    assert [(stage.name, stage.starts_at, stage.ends_at) for stage in stages] == [
        ("coarse", 0, 6),
        ("fine 1", 6, 12),
        ("fine 2", 12, 24),
        ("fine 3", 24, 48),
        ("fine 4", 48, 96),
        ("fine 5", 96, 192),
    ]
    assert [stage_of(index, stages).number for index in (0, 5, 6, 11, 12, 100)] == [0, 0, 1, 1, 2, 5]


def test_a_box_holds_the_elites_with_its_margin():
    history = spaced([0.4, 0.5, 0.6, 0.5, 0.1, 0.9])
    stage = stages_until(6, (), history, [LR], zoom=Zoom(5))[-1]
    assert stage.elites == (0, 1, 2, 3)
    assert stage.box["lr"] == pytest.approx((0.35, 0.65))
    assert stage.frame["lr"] == (0.0, 1.0)
    assert stage.reason == "box of the 4 best of 6 trials at epoch 13, margin 0.1 of the width + 0.03"


def test_a_stage_made_late_is_made_from_what_came_before_it():
    history = spaced([0.4, 0.5, 0.6, 0.5, 0.1, 0.9])
    early = stages_until(6, (), history, [LR], zoom=Zoom(5))
    history.add(Entry(6, {"lr": 0.99}, State.PAUSED, (Reading(13, -1.0, 6),)))
    assert stages_until(8, (), history, [LR], zoom=Zoom(5)) == early


BOXES = {
    "unordered choices are not zoomed": (Dimension("x", ordered=False, size=3), [0.5] * 6, (0.0, 1.0)),
    "a cell is kept whole": (Dimension("x", size=10), [0.55] * 6, (0.47, 0.63)),
    "not past the declared range": (Dimension("x"), [0.01, 0.0, 0.02, 0.01, 0.5, 0.5], (0.0, 0.052)),
}


@pytest.mark.parametrize("case", BOXES)
def test_boxes(case):
    dimension, units, box = BOXES[case]
    stage = stages_until(6, (), spaced(units, "x"), [dimension], zoom=Zoom(5))[-1]
    assert stage.box["x"] == pytest.approx(box)


def test_a_conditional_dimension_of_one_elite_stays_open():
    history = history_of(*(({"lr": 0.5} | ({"x": 0.5} if i == 0 else {}), {13: float(i)}) for i in range(6)))
    stage = stages_until(6, (), history, [LR, Dimension("x")], zoom=Zoom(5))[-1]
    assert stage.box["x"] == (0.0, 1.0)


PRESSURE = {
    "best and two others": (Dimension("x"), [0.95, 0.2, 0.91, 0.99], "high"),
    "best and one other of four": (Dimension("x"), [0.05, 0.2, 0.1, 0.9], "low"),
    "all but the best": (Dimension("x"), [0.5, 0.99, 0.99, 0.99], None),
    "the best alone": (Dimension("x"), [0.99, 0.5, 0.5, 0.5], None),
    "the last cell of four": (Dimension("x", size=4), [0.875] * 4, "high"),
    "the last but one of four": (Dimension("x", size=4), [0.625] * 4, None),
    "two values have no edges": (Dimension("x", size=2), [0.75] * 4, None),
    "unordered ones neither": (Dimension("x", ordered=False, size=5), [0.9] * 4, None),
}


@pytest.mark.parametrize("case", PRESSURE)
def test_pressure_on_edges(case):
    dimension, units, side = PRESSURE[case]
    stage = stages_until(6, (), spaced(units, "x"), [dimension], zoom=Zoom(5))[-1]
    assert stage.pressed == ((Edge("x", side),) if side else ())


def test_a_pressed_edge_expands_by_half_the_box_within_the_reach():
    history = spaced([0.95, 0.9, 0.9, 1.0])
    wide = stages_until(6, (), history, [Dimension("lr", reach=(-1.0, 2.0))], zoom=Zoom(5, expand=True))[-1]
    assert wide.box["lr"] == pytest.approx((0.7, 1.15))
    near = stages_until(6, (), history, [Dimension("lr", reach=(0.0, 1.02))], zoom=Zoom(5, expand=True))[-1]
    assert near.box["lr"][1] == pytest.approx(1.02)
    still = stages_until(6, (), history, [Dimension("lr", reach=(-1.0, 2.0))], zoom=Zoom(5))[-1]
    assert still.box["lr"][1] == 1.0


def test_places_are_earned_at_the_rung_and_dealt_out_again_further_on():
    history = history_of(
        ({}, {13: 5.0, 50: 4.0}),  # went on early, when nothing better was there
        ({}, {13: 1.0, 50: 0.9}),
        ({}, {13: 2.0, 50: 0.5}),
        ({}, {13: 3.0}),
        ({}, {13: math.nan}),
    )
    history.add(Entry(5, {}, State.DIVERGED, (Reading(13, 0.0, 99),)))
    assert [entry.number for entry in ranking(history, list(history))] == [2, 1, 3, 0]


TIERS = [Dimension("lr"), Dimension("mom", tier=2), Dimension("wd", tier=3), Dimension("c", tier=3)]


SEVENTHS = [place / 7 for place in range(7)]


def tiered_until(last, *, expand=False, tiers=TIERS, drawn=SEVENTHS, worth=lambda point: abs(point["lr"] - 0.3)):
    """The stages of a tiered round, and its history, in which each draw is read before the next one."""
    defaults, zoom = {"lr": 0.5, "mom": 0.7, "wd": 0.2}, Zoom(5, expand=expand, tiered=True)
    stages, history = (), History()
    for number in range(last + 1):
        stages = stages_until(number, stages, history, tiers, zoom=zoom, defaults=defaults)
        box = stage_of(number, stages).box
        point = {name: low + (high - low) * drawn[number % len(drawn)] for name, (low, high) in box.items()}
        history.add(Entry(number, point, State.PAUSED, (Reading(13, worth(point), number),)))
    return stages, history


def test_each_tier_begins_with_a_coarse_stage_in_the_box_of_the_earlier_ones():
    stages, history = tiered_until(30)
    assert [(stage.name, stage.starts_at, stage.ends_at) for stage in stages] == [
        ("tier 1 coarse", 0, 6),
        ("tier 2 coarse", 6, 12),
        ("tier 3 coarse", 12, 18),
        ("fine 1", 18, 24),
        ("fine 2", 24, 36),
    ]
    free, first, second, third = (0.0, 1.0), *stages[:3]
    assert first.frame == first.box == {"lr": free, "mom": (0.7, 0.7), "wd": (0.2, 0.2), "c": (0.5, 0.5)}
    assert second.frame == {"lr": free, "mom": free, "wd": (0.2, 0.2), "c": (0.5, 0.5)}
    assert third.frame == dict.fromkeys(third.frame, free)
    best = [entry.point["lr"] for entry in ranking(history, [one for one in history if one.number < 6])[:4]]
    width = max(best) - min(best)
    assert second.box["lr"] == pytest.approx((max(0, min(best) - 0.1 * width - 0.03), max(best) + 0.1 * width + 0.03))
    assert second.box["mom"] == third.box["wd"] == free
    assert second.elites
    assert all(number < 6 for number in second.elites)
    assert [stage.box["lr"][1] - stage.box["lr"][0] < 0.8 for stage in stages] == [False, True, True, True, True]
    assert first.reason == "uniform over tier 1 (lr)"
    box = "box of the 4 best of 6 trials at epoch 13, margin 0.1 of the width + 0.03"
    assert second.reason == f"uniform over tier 2 (mom), the earlier ones in the {box}"
    assert stages[3].reason.startswith("box of the 4 best of 18")
    assert [stage.is_coarse for stage in stages] == [True, True, True, False, False]


def test_trials_in_which_a_parameter_was_fixed_do_not_say_where_it_is_good():
    """The best four have the own value of momentum, near its low end, because they were drawn before it was."""
    at_the_end = [Dimension("lr"), Dimension("mom", tier=2), Dimension("wd", tier=3)]
    stages, history = (), History()
    for number in range(13):
        stages = stages_until(
            number, stages, history, at_the_end, zoom=Zoom(5, expand=True, tiered=True), defaults={"mom": 0.05}
        )
        point = {name: (low + high) / 2 for name, (low, high) in stage_of(number, stages).box.items()}
        history.add(Entry(number, point, State.PAUSED, (Reading(13, float(number), number),)))
    third = stages[2]
    assert third.elites == (0, 1, 2, 3)
    assert third.box["mom"] == (0.0, 1.0)
    assert third.pressed == ()
    assert third.box["lr"][1] - third.box["lr"][0] < 0.1


@pytest.mark.parametrize(("at_the_edge", "side"), [(1, None), (2, "high"), (3, "high")])
def test_the_best_in_which_a_parameter_was_fixed_count_as_not_pressing_against_its_edge(at_the_edge, side):
    """Of the best four trials so many are of the second tier, all of them at the high end of its momentum."""
    units = [0.05] * 6 + [0.99] * at_the_edge + [0.5] * (6 - at_the_edge)
    values = [1.0] * 6 + [0.0] * at_the_edge + [2.0] * (6 - at_the_edge)
    history = history_of(*(({"lr": 0.5, "mom": unit}, {13: value}) for unit, value in zip(units, values, strict=True)))
    tiers, zoom = [LR, Dimension("mom", tier=2)], Zoom(5, tiered=True)
    fine = stages_until(12, (), history, tiers, zoom=zoom, defaults={"mom": 0.05})[-1]
    assert (fine.name, len(fine.elites)) == ("fine 1", 4)
    assert sum(number >= 6 for number in fine.elites) == at_the_edge
    assert fine.pressed == ((Edge("mom", side),) if side else ())


def test_trials_with_other_values_than_a_tier_is_fixed_at_are_not_among_its_best():
    """A value that the study does not have was given with `enqueue_trial`."""
    history = spaced([0.9, 0.1, 0.2, 0.15, 0.12, 0.11])
    for number, entry in enumerate(list(history)):
        history.add(Entry(number, {**entry.point, "mom": 0.3 if number == 0 else 0.7}, State.PAUSED, entry.readings))
    tiers = [LR, Dimension("mom", tier=2), Dimension("wd", tier=3)]
    zoom, defaults = Zoom(5, tiered=True), {"mom": 0.7, "wd": 0.2}
    for entry in list(history):
        history.add(
            Entry(entry.number, {**entry.point, "wd": 0.4 if entry.number == 0 else 0.2}, State.PAUSED, entry.readings)
        )
    second = stages_until(6, (), history, tiers, zoom=zoom, defaults=defaults)[-1]
    assert second.elites == (1, 2, 3, 4)
    assert second.box["lr"][1] < 0.5


def test_tiers_are_those_that_the_space_has_and_later_ones_stand_at_values_that_there_are():
    tiers = [Dimension("a", tier=2), Dimension.of_scale("layers", Int(1, 4))]
    tiers[1] = replace(tiers[1], tier=3)
    stages, _ = tiered_until(13, tiers=tiers, worth=lambda point: point["a"])
    assert [stage.name for stage in stages] == ["tier 2 coarse", "tier 3 coarse", "fine 1"]
    assert stages[0].frame["layers"] == (0.625, 0.625), "no number lies in the middle of four"


def test_a_tier_of_few_choices_takes_no_more_draws_than_there_are():
    few = [replace(Dimension.of_scale("opt", Categorical(("sgd", "adam"))), tier=1), Dimension("lr", tier=2)]
    stages, _ = tiered_until(14, tiers=few, worth=lambda point: point["opt"])
    assert [(stage.name, stage.starts_at) for stage in stages] == [
        ("tier 1 coarse", 0),
        ("tier 2 coarse", 2),
        ("fine 1", 8),
        ("fine 2", 14),
    ]


@pytest.mark.parametrize(("first", "starts"), [(LR, [0, 6, 8, 11]), (None, [0, 2, 5])])
def test_how_few_a_tier_has_does_not_depend_on_the_earlier_ones(first, starts):
    """Of two choices and then of three, after a continuum or nothing."""
    few = [
        replace(Dimension.of_scale("opt", Categorical(("sgd", "adam"))), tier=2),
        replace(Dimension.of_scale("act", Categorical(("relu", "gelu", "silu"))), tier=3),
    ]
    tiers = [*([first] if first else []), *few]
    stages = stages_until(starts[-1], (), spaced([0.5] * 12), tiers, zoom=Zoom(5, tiered=True))
    assert [stage.starts_at for stage in stages] == starts


OF_SGD = {"when": (("opt", (0.25,)),)}
OPT = Dimension.of_scale("opt", Categorical(("sgd", "adam")))
ACT = Dimension.of_scale("act", Categorical(("relu", "gelu", "silu")))
TWO_TIERS = [Dimension("mom", **OF_SGD), replace(OPT, tier=2), Dimension("lr", tier=2)]
BESIDE = [Dimension("mom", **OF_SGD), ACT, replace(OPT, tier=2)]
LATER = [Dimension("mom", **OF_SGD), Dimension("lr", tier=2), replace(OPT, tier=3)]
CHAIN = [Dimension("nesterov", when=(("mom", (0.5,)),)), replace(OPT, tier=2), Dimension("mom", tier=2, **OF_SGD)]


@pytest.mark.parametrize(
    ("tiers", "own", "stages"),
    [
        (TWO_TIERS, "sgd", [("tier 1 coarse", 6, ("mom",)), ("tier 2 coarse", 12, ("opt", "lr"))]),
        (TWO_TIERS, "adam", [("coarse", 6, ("mom", "opt", "lr"))]),
        (BESIDE, "sgd", [("tier 1 coarse", 6, ("mom", "act")), ("tier 2 coarse", 8, ("opt",))]),
        (BESIDE, "adam", [("tier 1 coarse", 3, ("act",)), ("tier 2 coarse", 9, ("mom", "opt"))]),
        (LATER, "adam", [("tier 2 coarse", 6, ("lr",)), ("tier 3 coarse", 12, ("mom", "opt"))]),
        (CHAIN, "adam", [("coarse", 6, ("nesterov", "opt", "mom"))]),
    ],
)
def test_what_the_studys_own_values_switch_off_is_tuned_once_it_can_be_active(tiers, own, stages):
    """It counts among what is new then, for the draws too; a tier that nothing else is of has no stage."""
    unit = {"sgd": 0.25, "adam": 0.75}[own]
    made = stages_until(
        stages[-1][1] - 1, (), spaced([0.5] * 12), tiers, zoom=Zoom(5, tiered=True), defaults={"opt": unit}
    )
    assert [(stage.name, stage.ends_at, stage.new) for stage in made] == stages
    assert all(made[-1].box[name] == (0.0, 1.0) for name in stages[-1][2])


@pytest.mark.parametrize(
    ("units", "box"), [((0.25, 0.25), (0.25, 0.25)), ((0.25, 0.75), (0.0, 1.0)), ((0.25,), (0.0, 1.0))]
)
def test_a_choice_that_all_of_the_best_have_is_kept_for_the_next_tier(units, box):
    tiers = [replace(Dimension.of_scale("opt", Categorical(("sgd", "adam"))), tier=1), Dimension("lr", tier=2)]
    history = history_of(*(({"opt": unit, "lr": 0.5}, {13: 1.0}) for unit in units))
    second = stages_until(2, (), history, tiers, zoom=Zoom(5, tiered=True), defaults={})[-1]
    assert (second.name, second.box["opt"], second.frame["opt"]) == ("tier 2 coarse", box, (0.0, 1.0))
    fine = stages_until(8, (), history, tiers, zoom=Zoom(5, tiered=True), defaults={})[-1]
    assert fine.box["opt"] == (0.0, 1.0)


def test_a_parameter_of_an_earlier_tier_may_still_go_past_an_edge_that_it_presses_against():
    tiers = [Dimension("lr", reach=(-1.0, 2.0)), *TIERS[1:]]
    (_, second, *_), _ = tiered_until(
        6, expand=True, tiers=tiers, drawn=(0, 0.5, 0.9, 0.95, 1), worth=lambda point: -point["lr"]
    )
    assert second.pressed == (Edge("lr", "high"),)
    assert second.box["lr"][1] > 1.0


def test_with_one_tier_alone_there_is_nothing_to_do_first():
    plain, tiered = (
        stages_until(20, (), spaced([0.5] * 20), [LR, Dimension("x")], zoom=Zoom(5, tiered=tiered))
        for tiered in (False, True)
    )
    assert plain == tiered


def test_a_stage_survives_json():
    history = spaced([0.95, 0.9, 0.9, 1.0, 0.1, 0.2])
    for stage in stages_until(20, (), history, [LR, Dimension("x")], zoom=Zoom(5)):
        assert Stage.from_dict(json.loads(json.dumps(stage.to_dict()))) == stage


def test_dimensions_know_cells_reach_and_conditions():
    space = Space.of(
        [
            Parameter("opt", Categorical(("sgd", "adam", "lion")), "o"),
            Parameter("momentum", OneMinusPow10(0.9, 0.99, (0.9, 0.999)), "m", when={"opt": ("sgd", "lion")}),
            Parameter("layers", Int(1, 4, (1, 6)), "l", tier=3, memory=True),
            Parameter("units", LogInt(1, 8), "u"),
            Parameter("lr", LogUniform(1e-4, 1.0), "lr"),
            Parameter("many", Int(0, 10**6), "n"),
            Parameter("drop", Uniform(0, 1), "d"),
        ]
    )
    by_name = {dimension.name: dimension for dimension in dimensions_of(space)}
    assert by_name["momentum"].when == (("opt", (0.5 / 3, 2.5 / 3)),)
    assert by_name["momentum"].reach == pytest.approx((0.0, 2.0))
    assert by_name["layers"].reach == (0.0, 1.5)
    assert (by_name["layers"].tier, by_name["layers"].memory) == (3, True)
    assert not by_name["opt"].ordered
    assert by_name["many"].cells == ()
    for name, units in {"layers": np.linspace(0, 1.499, 50), "units": np.linspace(0, 0.999, 50)}.items():
        scale = space[name].scale
        exact = [scale.to_unit(scale.from_unit(float(unit))) for unit in units]
        assert by_name[name].snapped(units) == pytest.approx(exact)
