"""The head of a sweep's table: when each cell was as good as the reference cell at best, in words, table and plot."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, cast

from jaxneg import pages
from jaxneg.errors import UserError
from jaxneg.sweep import grids, plots
from jaxneg.training import target_words, targets

MOST = 5  # cells of which a sentence tells; of more the table
NAME = "time_to_target"
HEADS = ("", *target_words.HEADS)

Lead = Mapping[str, Any]  # a ``targets.Comparison`` with the labels of its cell, and as a sentence


def leads(
    cells: Sequence[grids.Cell], axes: Mapping[str, Any], reference: Mapping[str, str], workdir: pathlib.Path
) -> list[dict[str, Any]]:
    """Each cell against its reference, else against the first cell, over seeds; what has failed is left out.

    Args:
      cells: of all seeds.
      axes: by name.
      reference: labels that make the cell to compare with of each cell.
      workdir: of the sweep.
    """
    by_labels: dict[tuple[str, ...], list[targets.Trace]] = {}
    for cell in cells:
        found = by_labels.setdefault(cell.labels, [])
        try:
            if cell.trouble is None:
                one = targets.trace(workdir / "cells" / cell.name)
                found.append(one._replace(seed=(cell.seed,)))
        except UserError:  # it failed, of which the table tells
            continue
    made: list[dict[str, Any]] = []
    for labels, runs in by_labels.items():
        other = tuple(reference.get(name, own) for name, own in zip(axes, labels, strict=True))
        other = other if reference else next(iter(by_labels))
        if other == labels or not runs or not by_labels.get(other):
            continue
        sides = [targets.Side(named(axes, of), by_labels[of]) for of in (labels, other)]
        one = targets.compare(*sides)
        told = target_words.spoken(one, settings=False)  # labels name them
        made.append({"labels": list(labels), **one, "spoken": told})
    return made


def named(axes: Mapping[str, Any], labels: Sequence[str]) -> str:
    """A cell in words: "p_hard 0.4"."""
    return ", ".join(f"{axis} {label}" for axis, label in zip(axes, labels, strict=True))


def spoken(found: Sequence[Lead]) -> list[str]:
    """A sentence on each cell, where they are few."""
    return [one["spoken"] for one in found] if len(found) <= MOST else []


def rows(found: Sequence[Lead]) -> list[list[str]]:
    """Rows under HEADS."""
    return [[one["name"], *target_words.row(cast(targets.Comparison, one))] for one in found]


def parts(found: Sequence[Lead], images: Mapping[str, str]) -> list[str]:
    """Sentences, plot and table in Markdown; nothing of a single cell.

    Args:
      found: what ``leads`` gave.
      images: titles of the plots by path.
    """
    path = f"plots/{NAME}.png"
    return [
        *spoken(found),
        *([pages.image(images[path], path)] if path in images else []),
        *([pages.table(HEADS, rows(found), numbers=False), TEXT] if found else []),
    ]


TEXT = (
    "The best validation of the cell that others are compared with is the target; for each unit its own cost and the "
    "cell's until then, means over seeds, and the change with its 95% interval over pairs of seeds."
)


def plot(found: Sequence[Lead], axes: Mapping[str, Sequence[str]]) -> plots.Plot | None:
    """Epochs to the target over those of the reference, by cell and seed; None where no cell has all seeds there."""
    points, short = [], []
    for one in found:
        ratio = None if one["ratio"] is None else one["ratio"]["epochs"]
        if ratio is None or ratio["mean"] is None:
            if one["why_not"] is None:
                n = len(one["passages"])
                short.append(f"{one['name']} in {one['reached']} of {n} seeds")
            continue
        seeds = tuple(own["cost"]["epochs"] / own["other_cost"]["epochs"] for own in one["passages"])
        points.append(plots.Point(tuple(one["labels"]), seeds, ratio["mean"], ratio["low"], ratio["high"]))
    if not points:
        return None
    others = dict.fromkeys(one["other"] for one in found)
    other = next(iter(others)) if len(others) == 1 else "the reference"
    told = f"reached: {', '.join(short)}" if short else ""
    return plots.Plot(f"epochs to the best of {other}, over its own", axes, points, told, (other, 1.0))
