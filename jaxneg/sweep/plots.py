"""Plots of a sweep as PNG: one per figure, over the axes of the sweep. Needs matplotlib."""

import itertools
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxneg.evaluation.canvas import GREY, LEAST, MARKERS, RUNS, canvas, titled
from jaxneg.figures import shortened

WIDE = 30.0  # ratio of numbers above 0 from which on their axis is logarithmic
NEAR = 0.05  # share of an axis below which two of its numbers have no room for both
INTERVAL = f"mean and 95% interval over seeds, from {LEAST} on; dots are seeds"


class Point(NamedTuple):
    """A figure of one cell: its labels, one per axis, each seed's value, mean and interval over seeds."""

    labels: tuple[str, ...]
    seeds: tuple[float, ...]
    mean: float
    low: float | None = None
    high: float | None = None

    @property
    def whiskers(self) -> tuple[float, float]:
        """Below and above the mean; none of so few seeds that an interval says little."""
        if len(self.seeds) < LEAST or self.low is None or self.high is None:
            return 0.0, 0.0
        return self.mean - self.low, self.high - self.mean


class Plot(NamedTuple):
    """What a plot shows."""

    title: str
    axes: Mapping[str, Sequence[str]]  # labels of each axis of the sweep
    points: Sequence[Point]  # of the cells that have the figure
    counted: str = ""  # how many pairs, examples and users they are of, in words
    baseline: tuple[str, float] | None = None  # name and value of a baseline, drawn as a line


def draw(directory: pathlib.Path, plots: Mapping[str, Plot]) -> dict[str, str]:
    """Writes a plot per figure and returns titles by file name. Raises ImportError without matplotlib.

    The first axis of numbers lies along x to scale, the others make lines. Without such an axis each cell is a row.
    """
    directory.mkdir(parents=True, exist_ok=True)
    made = {}
    for name, plot in plots.items():
        along = next((n for n, labels in enumerate(plot.axes.values()) if _numbers(labels)), None)
        figure = _rows(plot) if along is None else _lines(plot, along)
        figure.savefig(directory / f"{name}.png", dpi=120)
        made[f"{name}.png"] = plot.title
    return made


def _numbers(labels: Sequence[str]) -> list[float]:
    """The labels as numbers; none if one is none, or one alone."""
    try:
        values = [float(label) for label in labels]
    except ValueError:
        return []
    return values if len(set(values)) > 1 and all(map(math.isfinite, values)) else []


def _lines(plot: Plot, along: int) -> Any:
    names = list(plot.axes)
    labels = list(list(plot.axes.values())[along])
    place = dict(zip(labels, _numbers(labels), strict=True))
    lines: dict[tuple[str, ...], list[Point]] = {}
    for cell in plot.points:
        lines.setdefault(cell.labels[:along] + cell.labels[along + 1 :], []).append(cell)
    figure, axes = canvas(4.4)
    _scale(axes, place)
    others = [name for n, name in enumerate(names) if n != along]
    looks = itertools.cycle((color, marker) for marker in MARKERS for color in RUNS)
    for (line, points), (color, marker) in zip(lines.items(), looks, strict=False):
        points = sorted(points, key=lambda point: place[point.labels[along]])
        x = [place[point.labels[along]] for point in points]
        for at, point in zip(x, points, strict=True):
            axes.plot(
                [at] * len(point.seeds), point.seeds, "o", color=color, markersize=4, alpha=0.45, zorder=4
            )
        axes.errorbar(
            x,
            [point.mean for point in points],
            yerr=np.transpose([point.whiskers for point in points]),
            color=color,
            marker=marker,
            markersize=6,
            linewidth=1.8,
            capsize=3,
            label=", ".join(f"{axis} {shortened(of)}" for axis, of in zip(others, line, strict=True)) or None,
        )
    if plot.baseline is not None:
        axes.axhline(plot.baseline[1], color=GREY, linestyle=":", linewidth=1.6, label=plot.baseline[0])
    axes.set(xlabel=names[along], ylabel=plot.title, title=titled(plot.title, _of(plot)))
    if axes.get_legend_handles_labels()[1]:
        beside = {"loc": "center left", "bbox_to_anchor": (1.0, 0.5)} if len(lines) > 4 else {}
        axes.legend(frameon=False, **beside)
    return figure


def _scale(axes: Any, place: Mapping[str, float]) -> None:
    """Numbers to scale along x, logarithmic where they lie far apart; labels that would touch are left out."""
    low, high = min(place.values()), max(place.values())
    logarithmic = low > 0 and high / low >= WIDE
    if logarithmic:
        axes.set_xscale("log")
        axes.minorticks_off()
    share = {label: _share(at, low, high, logarithmic) for label, at in place.items()}
    shown: list[str] = []
    for label in sorted(share, key=share.__getitem__):
        if not shown or share[label] - share[shown[-1]] >= NEAR:
            shown.append(label)
    axes.set_xticks([place[label] for label in shown], shown)
    # Also where a cell has no figure.
    if logarithmic:
        room = (high / low) ** NEAR
        axes.set_xlim(low / room, high * room)
    else:
        room = NEAR * (high - low)
        axes.set_xlim(low - room, high + room)


def _share(at: float, low: float, high: float, logarithmic: bool) -> float:
    if logarithmic:
        return math.log(at / low) / math.log(high / low)
    return (at - low) / (high - low)


def _rows(plot: Plot) -> Any:
    figure, axes = canvas(1.7 + 0.42 * len(plot.points))
    ordered = list(reversed(plot.points))
    for y, point in enumerate(ordered):
        axes.plot(point.seeds, [y] * len(point.seeds), "o", color=RUNS[0], markersize=4, alpha=0.45, zorder=4)
        axes.errorbar(
            point.mean,
            y,
            xerr=np.transpose([point.whiskers]),
            color=RUNS[0],
            marker="|",
            markersize=14,
            markeredgewidth=2.5,
            elinewidth=3,
            alpha=0.9,
        )
    if plot.baseline is not None:
        axes.axvline(plot.baseline[1], color=GREY, linestyle=":", linewidth=1.6, label=plot.baseline[0])
        axes.legend(frameon=False, loc="best")
    texts = [", ".join(map(shortened, point.labels)) or "all seeds" for point in ordered]
    axes.set_yticks(range(len(ordered)), texts)
    axes.set_ylim(-0.6, len(ordered) - 0.4)
    axes.set(xlabel=plot.title, ylabel=", ".join(plot.axes), title=titled(plot.title, _of(plot)))
    return figure


def _of(plot: Plot) -> str:
    """How many seeds, pairs, examples and users a plot is of, and what its dots are."""
    counts = sorted({len(point.seeds) for point in plot.points})
    seeds = " to ".join(dict.fromkeys(str(n) for n in (counts[0], counts[-1]))) if counts else "0"
    said = [f"{seeds} seed{'' if seeds == '1' else 's'}", *([plot.counted] if plot.counted else [])]
    return "; ".join([*said, INTERVAL] if counts and counts[-1] > 1 else said)
