"""Statistics of a comparison, against scipy's and against plain enumeration, and what is said and drawn of them."""

import csv
import io
import itertools
import math
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from tuner.comparison import Training, compare, epochs_to, holm, lack, paired, sign_flip_p, verdict
from tuner.report import comparison as shown

VALUES = st.floats(-100, 100).map(lambda value: round(value, 3))


def training(choice, seed, final, outcome="complete", epochs=3):
    """A curve that falls (or rises) evenly to its final value."""
    come = range(1, epochs + 1 if final is not None else 1)
    return Training(choice, seed, outcome, tuple((float(epoch), epoch * 10, final * epoch / epochs) for epoch in come))


def both(first, second):
    return [training(0, seed, value) for seed, value in enumerate(first)], [
        training(1, seed, value) for seed, value in enumerate(second)
    ]


@given(st.lists(st.tuples(VALUES, VALUES), min_size=3, max_size=8))
def test_the_paired_test_and_its_interval_are_scipys(pairs):
    first, second = zip(*pairs, strict=True)
    found = paired(*both(first, second))
    differences = np.subtract(second, first)
    assert found.pairs == len(pairs)
    assert found.difference == pytest.approx(differences.mean(), abs=1e-12)
    if np.ptp(differences) < 1e-6:
        assert found.p is None
        return
    known = stats.ttest_rel(second, first)
    interval = known.confidence_interval()
    assert found.p == pytest.approx(known.pvalue, rel=1e-6)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), rel=1e-6, abs=1e-9)


@given(st.lists(st.floats(-10, 10).map(lambda value: round(value, 2)), min_size=1, max_size=7))
def test_sign_flips_are_counted_as_by_hand(differences):
    own = abs(sum(differences))
    sums = [
        abs(sum(s * d for s, d in zip(signs, differences, strict=True)))
        for signs in itertools.product((1, -1), repeat=len(differences))
    ]
    assert sign_flip_p(np.array(differences)) == pytest.approx(np.mean([each >= own - 1e-9 for each in sums]))


def test_many_pairs_are_flipped_at_random_and_close_to_scipys_permutation_test():
    differences = np.random.default_rng(1).normal(0.4, 1, 20)
    known = stats.permutation_test((differences,), np.mean, permutation_type="samples", n_resamples=50_000, rng=2)
    assert sign_flip_p(differences) == pytest.approx(known.pvalue, abs=0.015)  # over 3 standard errors of the two
    assert sign_flip_p(differences) == sign_flip_p(differences)


def test_five_pairs_never_reach_5_percent_by_sign_flips_but_may_by_the_t_test():
    found = paired(*both([0.0, 0.0, 0.0, 0.0, 0.0], [1.0, 1.1, 0.9, 1.05, 0.95]))
    assert found.p_signs == 2 / 32
    assert found.p < 1e-3


def test_choices_that_do_not_differ_are_told_apart_in_5_percent_of_comparisons():
    """4,000 comparisons of 5 pairs: 5 % ± 1.4 % is four standard errors, a false failure in 16,000; the seed is fixed."""
    random = np.random.default_rng(0)
    found = [paired(*both(random.normal(size=5), random.normal(size=5))).p < 0.05 for _ in range(4000)]
    assert np.mean(found) == pytest.approx(0.05, abs=0.014)


@pytest.mark.parametrize(
    ("ps", "adjusted"),
    [
        ([0.03], [0.03]),
        ([0.01, 0.04, 0.03], [0.03, 0.06, 0.06]),
        ([0.04, None, 0.01], [0.04, None, 0.02]),
        ([0.6, 0.7], [1.0, 1.0]),
        ([None], [None]),
        ([], []),
    ],
)
def test_holm(ps, adjusted):
    assert holm(ps) == [None if p is None else pytest.approx(p) for p in adjusted]


@given(st.lists(st.floats(0, 1), max_size=8))
def test_holm_keeps_the_order_and_never_lowers(ps):
    adjusted = holm(ps)
    assert all(p <= after <= 1 for p, after in zip(ps, adjusted, strict=True))
    assert [adjusted[i] for i in np.argsort(ps, kind="stable")] == sorted(adjusted)


@pytest.mark.parametrize(
    ("target", "maximize", "epochs"),
    [(0.5, False, 2.0), (0.2, False, 3.0), (0.1, False, math.inf), (0.9, True, 1.0), (0.95, True, math.inf)],
)
def test_epochs_to_the_target(target, maximize, epochs):
    curve = ((1.0, 10, 0.9), (2.0, 20, 0.5), (3.0, 30, 0.2), (4.0, 40, 0.6))
    assert epochs_to(Training(0, 0, "complete", curve), target, maximize=maximize) == epochs


def of(finals_by_choice, **keywords):
    trainings = [
        training(choice, seed, *(final if isinstance(final, tuple) else (final,)))
        for choice, finals in enumerate(finals_by_choice)
        for seed, final in enumerate(finals)
    ]
    labels = [f"choice {number}" for number in range(len(finals_by_choice))]
    return compare(labels, trainings, maximize=True, **keywords), trainings


def test_trainings_that_do_not_complete_are_counted_and_leave_their_pair():
    comparison, _ = of([[1.0, 2.0, 3.0, 4.0], [2.0, (9.0, "diverged"), (None, "crashed"), 5.5]])
    first, second = comparison.summaries
    assert (first.complete, first.diverged, first.crashed, first.paired) == (4, 0, 0, None)
    assert (second.complete, second.diverged, second.crashed) == (2, 1, 1)
    assert second.mean == 3.75  # the value that the diverged one had on its way is not in it
    assert (second.paired.pairs, second.paired.difference) == (2, 1.25)
    assert "2 of 4 seeds are left out" in verdict(second, "choice 0", maximize=True)


def test_the_target_is_what_the_first_choice_reaches_unless_it_is_given():
    comparison, _ = of([[1.0, 3.0], [6.0, 0.5]])
    assert comparison.target == 2.0
    assert not comparison.target_given
    first, second = comparison.summaries
    assert (first.epochs, first.never) == (math.inf, 1)  # one of two does not get to the mean of both
    assert (second.epochs, second.never) == (math.inf, 1)
    given_target, _ = of([[1.0, 3.0], [6.0, 0.5]], target=0.5)
    assert [summary.epochs for summary in given_target.summaries] == [1.5, 2.0]
    assert given_target.target_given


def test_where_the_target_is_from_is_said():
    said = "The target, val/loss ≥ 2, is the mean that the first choice, choice 0, reaches in the end; target=VALUE"
    assert shown.notes(of([[1.0, 3.0], [6.0, 0.5]])[0], MADE)[0].startswith(said)
    given_target, _ = of([[1.0, 3.0], [6.0, 0.5]], target=0.5)
    assert shown.notes(given_target, MADE)[0] == "The target, val/loss ≥ 0.5, is the one that compare.target gives."


LACKING = [
    # (outcomes of the trainings, what is said, whether the choice fails)
    (["crashed", "crashed"], "a has no complete training (2 crashed); the first: reason 0", True),
    (["diverged", "crashed"], "a has no complete training (1 diverged, 1 crashed); the first: reason 0", False),
    (["out of memory"], "a has no complete training (1 out of memory); the first: reason 0", False),
    (["complete", "crashed"], None, False),
    ([], "a has no training that is done", False),
]


@pytest.mark.parametrize(("outcomes", "said", "fails"), LACKING)
def test_a_choice_without_a_complete_training_is_named_with_the_first_reason(outcomes, said, fails):
    trainings = [
        Training(0, seed, outcome, ((1.0, 1, 0.5),) if outcome == "complete" else (), f"reason {seed}.")
        for seed, outcome in enumerate(outcomes)
    ]
    (summary,) = compare(["a"], trainings, maximize=True).summaries
    assert (lack(summary), summary.fails) == (said, fails)


@given(st.floats(1e-3, 1e3), st.integers(1, 12), st.booleans())
def test_equal_values_reach_their_own_mean(value, count, maximize):
    trainings = [Training(0, seed, "complete", ((1.0, 1, value),)) for seed in range(count)]
    assert compare(["a"], trainings, maximize=maximize).summaries[0].never == 0


def test_without_a_complete_training_of_the_first_choice_there_is_no_target_and_no_test():
    comparison, _ = of([[(None, "crashed")] * 2, [1.0, 2.0]])
    assert comparison.target is None
    assert comparison.summaries[1].epochs is None
    assert comparison.summaries[1].paired.difference is None
    assert shown.notes(comparison, MADE) == [
        "There is no target: choice 0, whose mean it would be, has no complete training. target=VALUE sets one.",
        "choice 0 has no complete training (2 crashed); the first: crashed.",
        "choice 1 cannot be compared with choice 0: there is no seed with which both are complete.",
    ]


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        ([1.0, 1.1, 0.9, 1.0, 1.05], [2.0, 2.15, 1.9, 2.0, 2.0], "choice 1 is better than choice 0 at the end"),
        ([2.0, 2.15, 1.9, 2.0, 2.0], [1.0, 1.1, 0.9, 1.0, 1.05], "choice 1 is worse than choice 0 at the end"),
        ([1.0, 2.0, 3.0, 1.5, 2.5], [2.0, 1.0, 3.5, 1.0, 2.5], "cannot be told apart by their final values"),
        ([1.0, 2.0, 3.0], [2.0, 1.0, 3.5], "seeds tell large differences only"),
        ([1.0], [2.0], "better than choice 0 in the one pair there is, which tells nothing about other seeds"),
        ([1.0, 2.0, 3.0], [1.0, 2.0, 3.0], "choice 1 is the same as choice 0 with every seed"),
        ([1.0], [1.0], "choice 1 is the same as choice 0 with the one seed there is"),
        (
            [1.1, 2.1, 3.1],
            [1.3, 2.3, 3.3],
            "better than choice 0 by the same amount with every seed, which no test can judge",
        ),
    ],
)
def test_verdicts_say_no_more_than_the_pairs_do(first, second, said):
    comparison, _ = of([first, second])
    assert said in shown.verdicts(comparison)[0]


def test_a_better_choice_has_the_smaller_value_where_the_objective_is_minimized():
    trainings = [*both([1.0, 1.1, 0.9], [0.5, 0.62, 0.38])[0], *both([1.0, 1.1, 0.9], [0.5, 0.62, 0.38])[1]]
    comparison = compare(["a", "b"], trainings, maximize=False)
    assert verdict(comparison.summaries[1], "a", maximize=False).startswith("b is better than a")


MADE = shown.Made(
    "line", "lr", "val/loss", {"command": "tuner compare <x>"}, {"choice 0": "a: 1", "choice 1": "a: <2>"}
)


def test_raw_values_come_back_from_the_csv_files():
    comparison, trainings = of([[1.0, 3.0], [6.0, (0.5, "diverged")]])
    rows = list(csv.DictReader(io.StringIO(shown.curves_csv(comparison, trainings))))
    assert len(rows) == 12
    assert rows[4] == {"choice": "choice 0", "seed": "1", "epoch": "2.0", "step": "20", "value": "2.0"}
    ends = list(csv.DictReader(io.StringIO(shown.trainings_csv(comparison, trainings))))
    assert [(end["outcome"], end["final"], end["epochs_to_target"]) for end in ends] == [
        ("complete", "1.0", ""),
        ("complete", "3.0", "2"),
        ("complete", "6.0", "1"),
        ("diverged", "", ""),
    ]


def test_the_figure_has_a_mean_and_a_band_for_each_choice_and_what_did_not_complete_as_a_thin_line():
    comparison, trainings = of([[1.0, 3.0], [6.0, (0.5, "diverged")]])
    drawn = shown.figure(comparison, trainings, MADE)
    (axes,) = drawn.axes
    lines = {line.get_label(): line for line in axes.lines}
    assert list(lines["choice 0"].get_ydata()) == pytest.approx([2 / 3, 4 / 3, 2.0])
    assert "choice 1 (1 of 2 complete)" in lines
    assert f"target {2}" in lines
    assert len(axes.collections) == 1  # a band needs two
    assert len(axes.lines) == 4
    assert shown.png(drawn).startswith(b"\x89PNG")


def test_the_axis_is_logarithmic_where_values_span_orders_of_magnitude():
    wide, trainings = of([[1000.0, 1000.0], [1.0, 1.0]])
    assert shown.figure(wide, trainings, MADE).axes[0].get_yscale() == "log"
    narrow, trainings = of([[2.0, 2.0], [1.0, -1.0]])
    assert shown.figure(narrow, trainings, MADE).axes[0].get_yscale() == "linear"


def test_the_page_needs_no_other_file_and_escapes_what_it_shows():
    comparison, trainings = of([[1.0, 3.0], [6.0, 5.0]])
    page = shown.page(comparison, MADE, shown.png(shown.figure(comparison, trainings, MADE)))
    assert not re.search(r'(src|href)="(?!data:)', page)
    assert "tuner compare &lt;x&gt;" in page
    assert "a: &lt;2&gt;" in page
    for row in shown.table(comparison, MADE):
        assert all(cell.replace(">", "&gt;").replace("<", "&lt;") in page for cell in row)


def test_columns_stand_under_each_other():
    lines = shown.aligned([["a", "bb", "c"], ["long", "b", "c"]])
    assert lines == ["a     bb  c", "long  b   c"]
