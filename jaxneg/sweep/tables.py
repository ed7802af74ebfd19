"""What the cells of a sweep measured -> one table: spread over seeds, paired differences, CSV and Markdown.

Pure functions of what was measured, so that the order in which cells were done does not show.
"""

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxneg import files, metrics, pages
from jaxneg.errors import UserError
from jaxneg.figures import counted, title
from jaxneg.files import arrays, documents
from jaxneg.metrics import measures
from jaxneg.sweep import leads

Figure = float | int | None
Labels = tuple[str, ...]  # of a cell, one per axis
COMPARED = ("pair_accuracy", "auc")  # figures that are compared in a table
SECONDS = " Seconds hold for this machine, busy as it was; those to convergence are of training steps alone."


class Values(NamedTuple):
    """Values per example X of one cell and seed, or of a baseline."""

    pair_X2: np.ndarray  # the pairs compared: alike where the examples are
    user_X: np.ndarray  # whose example each is
    value_X: Mapping[str, np.ndarray]  # by figure, NaN where an example has none


class Found(NamedTuple):
    """What stands of a cell: figures and values by seed, and why seeds failed."""

    figures: dict[int, Mapping[str, Figure]]
    values: dict[int, Values]
    failed: dict[int, str]


def over_examples(
    a: Sequence[Values], b: Sequence[Values], of: str, *, resamples: int, seed: int
) -> dict[str, Figure] | None:
    """Mean of a's values less b's and its 95% bootstrap interval over users, examples averaged over seeds first.

    With how many users and examples it is of. The ends are None where that is one user; None in all where the two are
    of different examples.
    """
    both = [*a, *b]
    if not a or not b or any(not np.array_equal(one.pair_X2, both[0].pair_X2) for one in both):
        return None
    a_X, b_X = (np.stack([one.value_X[of] for one in side]).astype(np.float64).mean(0) for side in (a, b))
    difference_X = a_X - b_X
    low, high = metrics.bootstrap(difference_X, both[0].user_X, resamples=resamples, seed=seed)
    mean, known = metrics.mean(difference_X), ~np.isnan(difference_X)
    if not mean.count:
        return None
    ends = {"low": low, "high": high} if math.isfinite(low) else {"low": None, "high": None}
    users = len(np.unique(both[0].user_X[known]))
    return {"mean": mean.value, **ends, "users": users, "examples": mean.count}


def summary(
    axes: Mapping[str, Sequence[str]],
    found: Mapping[Labels, Found],
    *,
    seeds: int,
    figures: Sequence[str],
    reference: Mapping[str, str],
    baselines: Mapping[str, tuple[Mapping[str, Any], Values]],
    resamples: int,
    seed: int,
) -> dict[str, Any]:
    """The contents of table.json.

    Args:
      axes: labels of each axis.
      found: what stands, by the labels of the cell.
      seeds: how many each cell was to have.
      figures: those that tables and plots show.
      reference: labels that make the cell to compare with of each cell; none compares nothing.
      baselines: figures and values by name.
      resamples: of the bootstrap over users.
      seed: of the bootstrap.
    """
    best = max(baselines, key=lambda name: baselines[name][0].get("validation_auc") or 0.0, default=None)
    cells = []
    for labels, one in found.items():
        names = sorted({name for line in one.figures.values() for name in line})
        cell: dict[str, Any] = {
            "labels": dict(zip(axes, labels, strict=True)),
            "n": len(one.figures),
            "figures": {name: metrics.spread(_known(one.figures, name)) for name in names},
            "seeds": {str(s): dict(one.figures[s]) for s in sorted(one.figures)},
            "failed": {str(s): one.failed[s] for s in sorted(one.failed)},
        }
        other_labels = tuple(reference.get(name, own) for name, own in zip(axes, labels, strict=True))
        if reference and other_labels != labels:
            cell["less_reference"] = _less(one, found[other_labels], names, resamples=resamples, seed=seed)
        if best is not None:
            values = [one.values[s] for s in sorted(one.values)]
            cell["less_best_baseline"] = {
                of: over_examples(values, [baselines[best][1]], of, resamples=resamples, seed=seed)
                for of in COMPARED
            }
        cells.append(cell)
    return {
        "axes": {name: list(labels) for name, labels in axes.items()},
        "seeds": seeds,
        "shown": list(figures),
        "reference": dict(reference),
        "cells": cells,
        "baselines": {name: dict(one) for name, (one, _) in sorted(baselines.items())},
        "best_baseline": best,
    }


def _known(figures: Mapping[int, Mapping[str, Figure]], name: str) -> list[float]:
    values = [figures[s].get(name) for s in sorted(figures)]
    if _flatters(name, values):
        return []
    return [float(value) for value in values if value is not None]


def _flatters(name: str, values: Sequence[Figure]) -> bool:
    """Whether a mean over what is known would flatter: it would be of the runs that converged in time alone."""
    return name.endswith("_to_convergence") and None in values


def _less(one: Found, other: Found, names: Sequence[str], *, resamples: int, seed: int) -> dict[str, Any]:
    """Differences to another cell: over the seeds that both have, and over examples."""
    common = sorted(set(one.figures) & set(other.figures))
    over_seeds = {}
    for name in names:
        pairs = [(one.figures[s].get(name), other.figures[s].get(name)) for s in common]
        known = [float(a - b) for a, b in pairs if a is not None and b is not None]
        over_seeds[name] = metrics.spread(
            [] if _flatters(name, [end for pair in pairs for end in pair]) else known
        )
    mine, its = ([side.values[s] for s in common] for side in (one, other))
    return {
        "over_seeds": over_seeds,
        "over_examples": {
            of: over_examples(mine, its, of, resamples=resamples, seed=seed) for of in COMPARED
        },
    }


def csv_text(table: Mapping[str, Any]) -> str:
    """One line per cell and seed: labels, seed, every figure, and why it failed if it did."""
    names = sorted({name for cell in table["cells"] for line in cell["seeds"].values() for name in line})
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*table["axes"], "seed", *names, "failed"])
    for cell in table["cells"]:
        for s in map(str, range(table["seeds"])):
            line, failed = cell["seeds"].get(s), cell["failed"].get(s, "")
            values = [None if line is None else line.get(name) for name in names]
            writer.writerow([*cell["labels"].values(), s, *("" if v is None else v for v in values), failed])
    return out.getvalue()


def markdown(table: Mapping[str, Any], images: Mapping[str, str]) -> str:
    """One row per cell, baselines below; then differences to the reference, failures and plots.

    Args:
      table: what ``summary`` gave, with its split.
      images: titles of the plots by path.
    """
    cells, shown, axes = table["cells"], table["shown"], list(table["axes"]) or ["sweep"]
    by_auc = sorted(table["baselines"].items(), key=lambda pair: -(pair[1]["auc"] or 0.0))
    rows = [
        [
            *(cell["labels"].values() or ["all seeds"]),
            str(cell["n"]),
            *(_cell(cell["figures"].get(f)) for f in shown),
        ]
        for cell in cells
    ]
    rows += [
        [name.replace("_", " "), *[""] * len(axes), *(_number(one.get(f)) for f in shown)]
        for name, one in by_auc
    ]
    timed = any("seconds" in figure for figure in shown)
    word = "seed" if table["seeds"] == 1 else "seeds"
    parts = [
        f"# Sweep on the {table['split']} split",
        *leads.parts(table.get(leads.NAME, ()), images),
        f"Mean ± standard deviation over {table['seeds']} {word}. {_counted(cells)}{SECONDS if timed else ''}",
        pages.table([*axes, "seeds", *map(title, shown)], rows),
        *_differences(table, axes),
        *_failures(cells),
        *(pages.image(text, path) for path, text in images.items() if leads.NAME not in path),
    ]
    return "\n\n".join(parts) + "\n"


def how_many(cells: Sequence[Mapping[str, Any]]) -> str:
    """How many pairs, examples and users the figures of the test are of, in words."""
    names = ("users", "pairs", "examples")
    found = {tuple(line.get(name) for name in names) for cell in cells for line in cell["seeds"].values()}
    return "; or ".join(counted(*counts) for counts in sorted(c for c in found if None not in c))


def _counted(cells: Sequence[Mapping[str, Any]]) -> str:
    """A sentence on what the figures are of, and one on runs that have not converged."""
    text = f"Figures are of {of}." if (of := how_many(cells)) else ""
    lines = [line for cell in cells for line in cell["seeds"].values()]
    limit = sum(line.get("epochs_to_convergence", 0) is None for line in lines)
    if limit:
        text += (
            f" {limit} of {len(lines)} runs are not known to have converged, as they stopped at their limit or never "
            "passed their first validation: no row with such a run has figures to convergence."
        )
    return text.strip()


def _differences(table: Mapping[str, Any], axes: Sequence[str]) -> list[str]:
    head, asked = [*axes, *map(title, COMPARED)], []
    if table["reference"]:
        name = ", ".join(f"{axis} {label}" for axis, label in table["reference"].items())
        asked.append(("less_reference", f"Less {name}", lambda cell: cell["less_reference"]["over_examples"]))
    if table["best_baseline"]:
        name = table["best_baseline"].replace("_", " ")
        asked.append(
            (
                "less_best_baseline",
                f"Less the best baseline by AUC on validation, {name}",
                lambda cell: cell["less_best_baseline"],
            )
        )
    parts: list[str] = []
    for key, heading, of in asked:
        rows = [
            [
                *(cell["labels"].values() or ["all seeds"]),
                *(_interval(of(cell)[figure]) for figure in COMPARED),
            ]
            for cell in table["cells"]
            if key in cell
        ]
        if not rows:  # the reference alone
            continue
        parts += [
            f"## {heading}",
            "Paired: each example's value averaged over seeds first. Brackets hold 95% bootstrap intervals over "
            "users, each drawn with all of their examples.",
            pages.table(head, rows),
        ]
    return parts


def _failures(cells: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = [
        f"- {name_of(cell['labels'], int(s))}: {reason}"
        for cell in cells
        for s, reason in cell["failed"].items()
    ]
    return ["## Failed", "\n".join(lines)] if lines else []


def name_of(labels: Mapping[str, str], seed: int) -> str:
    """A cell and seed in words: "p_hard 0.4, seed 1"."""
    return ", ".join([*(f"{axis} {label}" for axis, label in labels.items()), f"seed {seed}"])


def _number(value: Figure, sign: str = "") -> str:
    """Four decimals, or four digits from 10 on."""
    if value is None:
        return ""
    return f"{value:{sign}.4f}" if abs(value) < 10 else f"{value:{sign}.4g}"


def _cell(one: Mapping[str, Any] | None) -> str:
    if one is None or one["mean"] is None:
        return ""
    return _number(one["mean"]) + ("" if one["sd"] is None else f" ± {_number(one['sd'])}")


def _interval(one: Mapping[str, Figure] | None) -> str:
    if one is None:
        return ""
    if one["low"] is None:
        return _number(one["mean"], "+")
    return f"{_number(one['mean'], '+')} [{_number(one['low'], '+')}, {_number(one['high'], '+')}]"


def scalars(figures: Mapping[str, Any]) -> dict[str, Figure]:
    """The numbers among what a cell wrote, and None where there was nothing to measure.

    Pair accuracy by bands of positive share comes as "pair_accuracy of share 0.2 to 0.4".
    """
    bands = {
        f"{of} of share {band['low']:.2g} to {band['high']:.2g}": band[of]
        for band in figures.get("bands", ())
        for of in COMPARED[:1]
    }
    return bands | {
        name: value
        for name, value in figures.items()
        if value is None or (isinstance(value, int | float) and not isinstance(value, bool))
    }


def load_values(path: Any) -> dict[str, Values]:
    """Values by name of what ``save_values`` wrote."""
    try:
        found = arrays.npz(path)
        names = documents.parsed(str(found["names"]), list[str])
        pair_X2, user_X = found["pair_X2"], found["user_X"]
        values = {name: _of(found, name) for name in names}
        X = len(pair_X2)
        by_example = [user_X, *(one for value in values.values() for one in value.values())]
        shapes = [(pair_X2, (X, 2)), *((one, (X,)) for one in by_example)]
        if any(array.shape != shape or array.dtype.kind not in "iuf" for array, shape in shapes):
            raise arrays.Damaged(f"{path.name} holds arrays of other shapes")
    except (arrays.Damaged, documents.Wrong, KeyError, TypeError) as error:
        raise UserError(
            f"{path} is damaged: {arrays.line(error)}: remove {path.with_suffix('.json')} to measure again"
        ) from error
    return {name: Values(pair_X2, user_X, value) for name, value in values.items()}


def _of(found: Mapping[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    """What was measured of one by figure. Raises KeyError where a figure that is compared is missing."""
    first = f"{name}."
    values = {key.removeprefix(first): one for key, one in found.items() if key.startswith(first)}
    return {of: values[of] for of in COMPARED} | values


def kept(report: measures.Report) -> dict[str, np.ndarray]:
    """Values per example of each figure that is a mean of such."""
    return {of: value_X for of, value_X in report.value_X.items() if of in report.figures}


def save_values(path: Any, values: Mapping[str, Values]) -> None:
    """Writes values per example of things measured on the same examples, whole or not at all."""
    first = next(iter(values.values()))
    arrays: dict[str, Any] = {
        "names": np.array(json.dumps(list(values))),
        "pair_X2": first.pair_X2,
        "user_X": first.user_X,
    }
    for name, one in values.items():
        arrays |= {f"{name}.{of}": np.asarray(value_X, np.float32) for of, value_X in one.value_X.items()}
    with files.whole(path) as partial, open(partial, "wb") as file:
        np.savez_compressed(file, **arrays)
