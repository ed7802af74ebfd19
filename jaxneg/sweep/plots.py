"""Plots of a sweep as PNG: one per figure, over the axes of the sweep. Needs matplotlib."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from jaxneg.figures import shortened

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#444444")  # apart for all eyes
MARKERS = "osD^vPX"
GREY = "#8A8A8A"


class Point(NamedTuple):
    """A figure of one cell: its labels, one per axis, mean and interval over seeds; None of one seed."""

    labels: tuple[str, ...]
    mean: float
    low: float | None
    high: float | None


def draw(
    directory: pathlib.Path,
    *,
    axes: Mapping[str, Sequence[str]],
    points: Mapping[str, Sequence[Point]],
    titles: Mapping[str, str],
    counted: str = "",
    baseline: tuple[str, Mapping[str, float]] | None = None,
) -> dict[str, str]:
    """Writes a plot per figure and returns titles by file name. Raises ImportError without matplotlib.

    The first axis of numbers lies along x, its labels spaced evenly; the others make lines. Without such an axis each
    cell is a row of dots. Whiskers are the intervals.

    Args:
      directory: to write to; made if it is not there.
      axes: labels of each axis of the sweep.
      points: of the cells that have the figure, by figure.
      titles: of the figures.
      counted: how many pairs, examples and users they are of, in words.
      baseline: name and figures of a baseline, drawn as a line where it has the figure.
    """
    from matplotlib.figure import Figure

    along = next((n for n, labels in enumerate(axes.values()) if _are_numbers(labels)), None)
    directory.mkdir(parents=True, exist_ok=True)
    made = {}
    for name, cells in points.items():
        line = None if baseline is None else (baseline[0], baseline[1].get(name))
        if along is None:
            figure = _dots(Figure, list(axes), cells, titles[name], line)
        else:
            figure = _lines(Figure, axes, along, cells, titles[name], line)
        if counted:
            figure.supxlabel(counted, fontsize="small", color="#444444")
        figure.savefig(directory / f"{name}.png", dpi=120)
        made[f"{name}.png"] = titles[name]
    return made


def _are_numbers(labels: Sequence[str]) -> bool:
    try:
        return len(labels) > 1 and all([float(label) or True for label in labels])
    except ValueError:
        return False


def _axes(kind: Any, height: float) -> tuple[Any, Any]:
    figure = kind(figsize=(7.2, height), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#E4E4E4", linewidth=0.8)
    axes.set_axisbelow(True)
    return figure, axes


def _lines(kind, axes, along, cells, title, baseline):
    figure, plot = _axes(kind, 4.2)
    x_labels = list(list(axes.values())[along])
    others = [name for n, name in enumerate(axes) if n != along]
    lines: dict[tuple[str, ...], list[Point]] = {}
    for cell in cells:
        lines.setdefault(cell.labels[:along] + cell.labels[along + 1 :], []).append(cell)
    for n, (labels, points) in enumerate(lines.items()):
        shift = 0.06 * (n - (len(lines) - 1) / 2) if len(lines) <= 8 else 0.0
        x = [x_labels.index(point.labels[along]) + shift for point in points]
        color, marker = COLORS[n % len(COLORS)], MARKERS[n // len(COLORS) % len(MARKERS)]
        name = ", ".join(f"{axis} {shortened(label)}" for axis, label in zip(others, labels, strict=True))
        plot.errorbar(
            x, [point.mean for point in points], yerr=_whiskers(points), color=color, marker=marker,
            markersize=6, linewidth=2, capsize=3, label=name or None,
        )  # fmt: skip
    if baseline is not None and baseline[1] is not None:
        plot.axhline(baseline[1], color=GREY, linestyle=":", linewidth=1.6, label=baseline[0])
    plot.set_xticks(range(len(x_labels)), x_labels)
    plot.set_xlim(-0.3, len(x_labels) - 0.7)  # also where a cell has no figure
    plot.set(xlabel=list(axes)[along], ylabel=f"{title} (mean, 95% interval)", title=title)
    if plot.get_legend_handles_labels()[1]:
        if len(lines) <= 4:
            plot.legend(frameon=False)
        else:
            plot.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def _dots(kind, names, cells, title, baseline):
    figure, plot = _axes(kind, 1.4 + 0.42 * len(cells))
    ordered = list(reversed(cells))
    if ordered:
        plot.errorbar(
            [point.mean for point in ordered], range(len(ordered)), xerr=_whiskers(ordered), color=COLORS[0],
            marker="o", markersize=8, linestyle="none", elinewidth=3, capsize=0,
        )  # fmt: skip
    if baseline is not None and baseline[1] is not None:
        plot.axvline(baseline[1], color=GREY, linestyle=":", linewidth=1.6, label=baseline[0])
        plot.legend(frameon=False, loc="best")
    texts = [", ".join(map(shortened, point.labels)) or "all seeds" for point in ordered]
    plot.set_yticks(range(len(ordered)), texts)
    plot.set_ylim(-0.6, len(ordered) - 0.4)
    plot.set(xlabel=f"{title} (mean, 95% interval)", ylabel=", ".join(names), title=title)
    return figure


def _whiskers(points: Sequence[Point]) -> list[list[float]]:
    return [
        [0.0 if point.low is None else point.mean - point.low for point in points],
        [0.0 if point.high is None else point.high - point.mean for point in points],
    ]
