"""A comparison for people: the table as text, learning curves as PNG, the raw values as CSV, one page with it all."""

from __future__ import annotations

import base64
import csv
import html
import io
import math
import string
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from tuner.comparison import Comparison, Paired, Summary, Training, epochs_to, lack, verdict

#: Largest over smallest value from which the axis of the objective is logarithmic.
LOG_RATIO = 100.0
#: Okabe and Ito's colours, which colour-blind readers tell apart (jfly.uni-koeln.de/color).
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")


@dataclass(frozen=True)
class Made:
    """How a comparison was made.

    Attributes:
        study: its name.
        over: what the choices are of.
        metric: the objective.
        facts: what a reader needs to repeat it, by name: command, values, seeds, versions.
        configs: the whole configuration of each choice as text, by label.
    """

    study: str
    over: str
    metric: str
    facts: Mapping[str, str]
    configs: Mapping[str, str]


# -- as text ----------------------------------------------------------------------------------------------------


def table(comparison: Comparison, made: Made) -> list[list[str]]:
    """Rows of the table, the first of them the heads of its columns."""
    goal = "" if comparison.target is None else f" {made.metric} {_sign(comparison)} {number(comparison.target)}"
    heads = [made.over, f"{made.metric} (mean ± sd)", f"epochs to{goal} (median)" if goal else "epochs to the target"]
    heads += ["diverged", "crashed", "difference to the first [95 % CI]", "p (paired t)", "p (sign flips)"]
    return [heads, *(_row(summary) for summary in comparison.summaries)]


def _row(summary: Summary) -> list[str]:
    test = summary.paired
    return [
        summary.label,
        _with_deviation(summary),
        _epochs(summary),
        str(summary.diverged),
        str(summary.crashed),
        _difference(test) if test else "",
        _p(test.p) if test else "",
        _p(test.p_signs) if test else "",
    ]


def _with_deviation(summary: Summary) -> str:
    if summary.mean is None:
        return "no complete training"
    spread = "" if summary.deviation is None else f" ± {number(summary.deviation, 2)}"
    return f"{number(summary.mean)}{spread} (n={summary.complete})"


def _epochs(summary: Summary) -> str:
    if summary.epochs is None:
        return "no target"
    never = f" ({summary.never} of {summary.trainings} never)" if summary.never else ""
    return ("never" if math.isinf(summary.epochs) else f"{summary.epochs:g}") + never


def _difference(test: Paired) -> str:
    if test.difference is None:
        return "no pair"
    if test.low is None or test.high is None:
        return f"{number(test.difference, sign=True)} (one pair)"
    return f"{number(test.difference, sign=True)} [{number(test.low, sign=True)}, {number(test.high, sign=True)}]"


def _p(p: float | None) -> str:
    if p is None:
        return "–"
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def number(value: float, digits: int = 4, *, sign: bool = False) -> str:
    """A value with few significant digits."""
    return f"{value:{'+' if sign else ''}.{digits}g}"


def _sign(comparison: Comparison) -> str:
    return "≥" if comparison.maximize else "≤"


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows as lines of text with their columns under each other; as wide as they need."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def notes(comparison: Comparison, made: Made) -> list[str]:
    """What stands under the table: the target and where it is from, who has no value, and the verdicts."""
    lacking = [f"{line}." for summary in comparison.summaries if (line := lack(summary))]
    return [about_the_target(comparison, made), *lacking, *verdicts(comparison)]


def about_the_target(comparison: Comparison, made: Made) -> str:
    """What the epochs are counted to, and where that is from."""
    first = comparison.summaries[0].label
    if comparison.target is None:
        return f"There is no target: {first}, whose mean it would be, has no complete training. target=VALUE sets one."
    goal = f"The target, {made.metric} {_sign(comparison)} {number(comparison.target)},"
    if comparison.target_given:
        return f"{goal} is the one that compare.target gives."
    return f"{goal} is the mean that the first choice, {first}, reaches in the end; target=VALUE sets another."


def verdicts(comparison: Comparison) -> list[str]:
    """One sentence for each choice but the first, and what the tests are."""
    first, *others = comparison.summaries
    lines = [f"{verdict(other, first.label, maximize=comparison.maximize)}." for other in others]
    tested = [other.paired for other in others if other.paired and other.paired.p is not None]
    if tested:
        lines.append(_about_the_tests(tested))
    return lines


def _about_the_tests(tested: Sequence[Paired]) -> str:
    pairs = min(test.pairs for test in tested)
    several = len(tested) > 1
    adjusted = f", adjusted by Holm's procedure for {len(tested)} comparisons (intervals are not)" if several else ""
    floor = f"; with {pairs} pairs that by sign flips is never below {2 / 2**pairs:.2g}" if pairs < 6 else ""
    return f"p is that of the paired t test over the seeds, two-sided{adjusted}{floor}."


# -- as CSV -----------------------------------------------------------------------------------------------------


def trainings_csv(comparison: Comparison, trainings: Sequence[Training]) -> str:
    """One line a training: its choice, seed, outcome, final value, epochs to the target, epochs, seconds, reason."""
    head = ["choice", "seed", "outcome", "final", "epochs_to_target", "epochs", "seconds", "reason"]
    return _csv(head, (_facts(comparison, training) for training in trainings))


def _facts(comparison: Comparison, training: Training) -> list[object]:
    label, target = comparison.summaries[training.choice].label, comparison.target
    reached = math.inf if target is None else epochs_to(training, target, maximize=comparison.maximize)
    return [
        *(label, training.seed, training.outcome, "" if training.final is None else training.final),
        "" if math.isinf(reached) else f"{reached:g}",
        f"{training.curve[-1][0]:g}" if training.curve else "0",
        *(f"{training.seconds:.3f}", training.reason),
    ]


def curves_csv(comparison: Comparison, trainings: Sequence[Training]) -> str:
    """One line a validation: choice, seed, epochs trained, optimizer steps, value of the objective."""
    labels = [summary.label for summary in comparison.summaries]
    lines = ([labels[training.choice], training.seed, *point] for training in trainings for point in training.curve)
    return _csv(["choice", "seed", "epoch", "step", "value"], lines)


def _csv(head: Sequence[str], lines: Iterator[Sequence[object]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(head)
    writer.writerows(lines)
    return text.getvalue()


# -- as a figure ------------------------------------------------------------------------------------------------


def figure(comparison: Comparison, trainings: Sequence[Training], made: Made) -> Figure:
    """Learning curves: for each choice the mean over its complete trainings, in a band from the worst to the best.

    A training that did not complete is a thin line as far as it came.
    """
    drawn = Figure(figsize=(8, 5), dpi=120, layout="constrained")
    axes = drawn.add_subplot(xlabel="epoch", ylabel=made.metric, title=f"{made.study}: {made.over}")
    for choice, summary in enumerate(comparison.summaries):
        _draw(axes, COLOURS[choice % len(COLOURS)], summary.label, [one for one in trainings if one.choice == choice])
    if comparison.target is not None:
        axes.axhline(
            comparison.target, color="0.5", linestyle=":", linewidth=1, label=f"target {number(comparison.target)}"
        )
    values = [value for training in trainings for _, _, value in training.curve]
    if values and min(values) > 0 and max(values) > LOG_RATIO * min(values):
        axes.set_yscale("log")
    axes.grid(visible=True, alpha=0.3)
    axes.legend()
    return drawn


def _draw(axes: Axes, colour: str, label: str, trainings: Sequence[Training]) -> None:
    for training in trainings:
        if training.final is None and training.curve:
            epochs, _, partial = zip(*training.curve, strict=True)
            axes.plot(epochs, partial, color=colour, linewidth=0.6, marker="x", markevery=[-1], alpha=0.7)
    curves = [{epoch: value for epoch, _, value in one.curve} for one in trainings if one.final is not None]
    # Where some of them stopped earlier, the mean of those that are left would be that of other seeds.
    shared = sorted(set.intersection(*map(set, curves))) if curves else []
    values = np.array([[curve[epoch] for epoch in shared] for curve in curves])
    counted = f"{label} ({len(curves)} of {len(trainings)} complete)" if len(curves) < len(trainings) else label
    axes.plot(shared, values.mean(axis=0) if curves else [], color=colour, label=counted, marker=".", markersize=3)
    if len(curves) > 1:
        axes.fill_between(shared, values.min(axis=0), values.max(axis=0), color=colour, alpha=0.18, linewidth=0)


def png(drawn: Figure) -> bytes:
    """The figure as a PNG, drawn without a window and without pyplot's global state."""
    buffer = io.BytesIO()
    FigureCanvasAgg(drawn)
    drawn.savefig(buffer, format="png")
    return buffer.getvalue()


# -- as a page --------------------------------------------------------------------------------------------------

_PAGE = string.Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
table { border-collapse: collapse; } td, th { border: 1px solid #ccc; padding: .3rem .6rem; text-align: left; vertical-align: top; }
.wide { overflow-x: auto; } img { max-width: 100%; } pre { background: #f5f5f5; padding: .6rem; overflow-x: auto; }
</style>
</head>
<body>
<h1>$title</h1>
<div class="wide"><table>
$table
</table></div>
<ul>
$notes
</ul>
<p><img alt="Learning curves of each choice" src="data:image/png;base64,$figure"></p>
<p>A line is the mean over the complete trainings of a choice, its band goes from the worst seed to the best. A thin
line with a cross at its end is a training that did not complete.</p>
<h2>How it was made</h2>
<div class="wide"><table>
$facts
</table></div>
<h2>Configurations</h2>
$configs
</body>
</html>
""")


def page(comparison: Comparison, made: Made, picture: bytes) -> str:
    """The whole comparison as one HTML file that needs no other."""
    heads, *rows = table(comparison, made)
    return _PAGE.substitute(
        title=html.escape(f"{made.study}: {made.over} compared"),
        table="\n".join([_cells(heads, "th"), *(_cells(row, "td") for row in rows)]),
        notes="\n".join(f"<li>{html.escape(line)}</li>" for line in notes(comparison, made)),
        figure=base64.b64encode(picture).decode(),
        facts="\n".join(_cells([name, value], "td") for name, value in made.facts.items()),
        configs="\n".join(
            f"<details><summary>{html.escape(label)}</summary><pre>{html.escape(text)}</pre></details>"
            for label, text in made.configs.items()
        ),
    )


def _cells(texts: Sequence[str], tag: str) -> str:
    return "<tr>" + "".join(f"<{tag}>{html.escape(text)}</{tag}>" for text in texts) + "</tr>"
