"""The figure of a learning-rate range test: losses over the learning rate, with the zones and the suggestion."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from tuner.lr_range import Reading

#: Colours that differ in lightness as well, so that a grey print and most colour-blind readers tell them apart.
FLAT, FALLING, UNSTABLE = "#dddddd", "#b7dfc0", "#f4b9a7"
CURVE, MARK = "#1f3b70", "#b3261e"
#: Share of the losses' range that is left free above and below the curve.
MARGIN = 0.06
#: Share of the range until then by which the losses may rise above their first ones and still be shown.
RISE = 0.3


def draw(reading: Reading, title: str, subtitle: str = "") -> Figure:
    """The figure; of matplotlib's global state nothing is used or changed."""
    figure = Figure(figsize=(8, 5), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    axes.set_xscale("log")
    axes.set_xlim(reading.lrs[0], reading.lrs[-1])
    _zones(axes, reading)
    axes.plot(reading.lrs, reading.losses, color=CURVE, alpha=0.5, linewidth=0.8, label="loss of each step")
    axes.plot(reading.lrs, reading.smoothed, color=CURVE, linewidth=2.2, label="smoothed")
    if reading.suggestion is not None:
        value = reading.suggestion.value
        height = np.interp(np.log10(value), np.log10(reading.lrs), reading.smoothed)
        axes.axvline(value, color=MARK, linewidth=1.2, linestyle="--")
        axes.plot([value], [height], "o", color=MARK, markersize=7, label=f"suggested: {value:.2g}, half of the fall")
    axes.set_ylim(*_heights(reading))
    axes.set_xlabel("learning rate (log scale)")
    axes.set_ylabel("training loss of a batch")
    axes.xaxis.set_major_locator(LogLocator(numticks=20))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.grid(visible=True, axis="x", color="white", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(f"{title}\n{subtitle}" if subtitle else title, loc="left", fontsize=11)
    figure.legend(loc="outside lower center", ncols=6, frameon=False, fontsize=9)
    return figure


def save(figure: Figure, file: Path) -> None:
    """Write a figure as PNG, beside its place first, so that no half of one is ever there."""
    beside = file.with_name(f".{file.name}.part")
    figure.savefig(beside, format="png")
    beside.replace(file)


def _zones(axes: Axes, reading: Reading) -> None:
    first, last = float(reading.lrs[0]), float(reading.lrs[-1])
    unstable = last if reading.unstable_from is None else reading.unstable_from
    falls = unstable if reading.falls_from is None else reading.falls_from
    for name, colour, low, high in (
        ("flat", FLAT, first, falls),
        ("falling", FALLING, falls, unstable),
        ("unstable", UNSTABLE, unstable, last),
    ):
        if low < high:
            axes.axvspan(low, high, color=colour, alpha=0.6, linewidth=0, label=name, zorder=0)


def _heights(reading: Reading) -> tuple[float, float]:
    """Limits that show the fall; an explosion leaves through the top, or it would press the rest flat."""
    finite = reading.losses[np.isfinite(reading.losses)]
    if not len(finite):
        return 0.0, 1.0
    low, usual = float(finite.min()), float(finite[: max(1, len(finite) // 4)].max())
    high = min(float(finite.max()), usual + RISE * (usual - low))
    margin = MARGIN * (high - low) or MARGIN * (abs(high) or 1.0)
    return low - margin, high + margin
