"""Plots of a report as PNG, from plain figures. Needs matplotlib."""

import itertools
import pathlib
import types
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxneg.figures import shortened

MODEL, BASELINE, LIKED, DISLIKED, GREY = (
    "#0072B2",
    "#8A8A8A",
    "#009E73",
    "#D55E00",
    "#444444",
)  # apart for colour-blind eyes


RUNS = (MODEL, "#CC79A7", "#E69F00", "#56B4E9")  # of runs side by side


def draw(
    directory: pathlib.Path,
    *,
    histories: Mapping[str, tuple[Sequence[Mapping[str, float | int]], float | None]],
    monitor: str,
    title: str,
    counted: str,
    examples: str,
    validated: str,
    accuracies: Mapping[str, tuple[float, float, float]],
    bands: Mapping[str, Sequence[Mapping[str, float | int]]],
    share: np.ndarray,
    ranks: Mapping[str, tuple[np.ndarray, float]],
    items: int,
    exposure: Mapping[str, tuple[np.ndarray, float]],
    kinds: Sequence[str] = (),
    cosines: Mapping[str, np.ndarray] = types.MappingProxyType({}),
) -> dict[str, str]:
    """Writes the plots and returns their titles by file name. Raises ImportError without matplotlib.

    Args:
      directory: to write to; made if it is not there.
      histories: by name, validations with epoch and figures, and the epoch of convergence, None where it is not
        known; the model first. Runs without the figure are left out.
      monitor: which of the figures decided for the model.
      title: of that figure.
      counted: how many pairs and users the accuracies are of, in words.
      examples: how many examples and users the ranks and lists are of, in words.
      validated: the same of the validations.
      accuracies: pair accuracy with the ends of its interval, by name; the model first.
      bands: by name, bands of positive share with low, high, pairs, pair_accuracy and the ends of its
        interval.
      share: positive share of each example.
      ranks: ranks and MRR of "liked" and "disliked" targets.
      items: size of the catalogue.
      exposure: by name, Lorenz curve and Gini coefficient.
      kinds: of feedback, in the order of ``cosines``.
      cosines: by name, a matrix of cosines between kinds of feedback; none draws none.
    """
    from matplotlib.figure import Figure

    def figure(height: float, **options: Any):
        made = Figure(figsize=(7.2, height), layout="constrained")
        axes = made.subplots(**options)
        for one in np.atleast_1d(axes):
            one.spines[["top", "right"]].set_visible(False)
            one.grid(color="#E4E4E4", linewidth=0.8)
            one.set_axisbelow(True)
        return made, axes

    made = {
        "validation.png": ("Validation by epoch", _validation(figure, histories, monitor, title, validated)),
        "accuracy.png": ("Pair accuracy, model and baselines", _accuracy(figure, accuracies, counted)),
        "share.png": ("Pair accuracy by share of positive feedback", _share(figure, bands, share, counted)),
        "ranks.png": ("Ranks of liked and disliked items", _ranks(figure, ranks, items, examples)),
        "exposure.png": ("Exposure of the catalogue", _exposure(figure, exposure, examples)),
    }
    if cosines:
        made["feedback.png"] = ("Cosines between kinds of feedback", _cosines(figure, kinds, cosines))
    directory.mkdir(parents=True, exist_ok=True)
    for name, (_, one) in made.items():
        one.savefig(directory / name, dpi=120)
    return {name: title for name, (title, _) in made.items()}


def _validation(figure, histories, monitor, title, validated):
    made, axes = figure(4.0)
    last = 1.0
    for (name, (history, converged)), color in zip(histories.items(), itertools.cycle(RUNS), strict=False):
        lines = [line for line in history if monitor in line]
        if not lines:
            continue
        epochs, values = ([line[of] for line in lines] for of in ("epoch", monitor))
        last = max(last, *epochs)
        best = int(np.argmax(values))
        axes.plot(epochs, values, color=color, marker="o", markersize=3.5, linewidth=2, label=shortened(name))
        axes.plot(
            epochs[best], values[best], "*", color=color, markeredgecolor="white", markersize=15, zorder=5,
            linestyle="none", label=f"best: {values[best]:.3f}, epoch {epochs[best]:.4g}",
        )  # fmt: skip
        axes.plot(
            epochs[-1], values[-1], "s", color=color, markeredgecolor="white", markersize=8, zorder=4,
            linestyle="none", label=f"last: {values[-1]:.3f}, epoch {epochs[-1]:.4g}",
        )  # fmt: skip
        if converged is None:
            axes.plot([], [], linestyle="none", label="not converged")
        else:
            label = f"converged: epoch {converged:.4g}"
            axes.axvline(converged, color=color, linestyle="--", linewidth=1.3, label=label)
    axes.set(
        xlabel="epoch",
        ylabel=f"{title} on validation examples",
        title=_titled("Validation by epoch", validated),
    )
    axes.set_xlim(-0.02 * last, 1.02 * last)
    axes.xaxis.get_major_locator().set_params(integer=last > 4)
    if len(histories) == 1:
        axes.legend(frameon=False, loc="best")
    else:
        made.set_figheight(4.0 + 0.8 * len(histories) / 2)
        made.legend(frameon=False, loc="outside lower center", ncols=2)
    return made


def _titled(text: str, counted: str) -> str:
    return f"{text}: {counted}" if counted else text


def _accuracy(figure, accuracies, counted):
    model = next(iter(accuracies))
    ordered = sorted(accuracies, key=lambda name: np.nan_to_num(accuracies[name][0]))
    made, axes = figure(1.3 + 0.42 * len(ordered))
    for y, name in enumerate(ordered):
        value, low, high = accuracies[name]
        color = MODEL if name == model else RUNS[1] if name.startswith("run ") else BASELINE
        axes.plot([low, high], [y, y], color=color, linewidth=3, alpha=0.6, solid_capstyle="round")
        axes.plot(value, y, "o", color=color, markersize=8)
        end = value if np.isnan(high) else high
        axes.annotate(
            f"{value:.3f}", (end, y), xytext=(8, 0), textcoords="offset points", va="center", color=GREY
        )
    axes.axvline(0.5, color=GREY, linestyle=":", linewidth=1.3)
    axes.annotate(
        "chance",
        (0.5, len(ordered) - 0.55),
        xytext=(4, 0),
        textcoords="offset points",
        color=GREY,
        va="center",
    )
    axes.set_yticks(
        range(len(ordered)),
        [shortened(name if name.startswith("run ") else name.replace("_", " ")) for name in ordered],
    )
    axes.get_yticklabels()[ordered.index(model)].set_fontweight("bold")
    axes.set_ylim(-0.6, len(ordered) - 0.3)
    known = np.array([accuracies[name] for name in ordered])
    axes.set_xlim(min(0.48, np.nanmin(known, initial=0.5) - 0.02), np.nanmax(known, initial=0.5) + 0.05)
    axes.set(
        xlabel="liked above disliked, share of pairs\n(95% interval over users)",
        title=_titled("Pair accuracy", counted),
    )
    return made


def _share(figure, bands, share, counted):
    made, (top, bottom) = figure(5.2, nrows=2, sharex=True, height_ratios=[2.4, 1])
    width = 0.014
    for n, (name, rows) in enumerate(bands.items()):
        rows = [row for row in rows if row["pairs"]]
        x = np.array([(row["low"] + row["high"]) / 2 for row in rows]) + (n - (len(bands) - 1) / 2) * width
        y = np.array([row["pair_accuracy"] for row in rows])
        ends = (
            np.array([[row["pair_accuracy_low"], row["pair_accuracy_high"]] for row in rows]).reshape(-1, 2).T
        )
        color = MODEL if n == 0 else BASELINE
        top.errorbar(
            x, y, yerr=np.nan_to_num(np.abs(ends - y)), color=color, marker="o", markersize=6, capsize=3,
            linewidth=2 if n == 0 else 1.3, label=name.replace("_", " "),
        )  # fmt: skip
    top.axhline(0.5, color=GREY, linestyle=":", linewidth=1.3)
    top.annotate("chance", (0, 0.5), xytext=(4, 4), textcoords="offset points", color=GREY)
    top.set_ylabel("pair accuracy (95% interval over users)")
    top.set_title(_titled("By share of positive feedback in the history", counted), pad=26)
    top.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 0.99), ncols=len(bands))
    first = next(iter(bands.values()))
    edges = sorted({row["low"] for row in first} | {row["high"] for row in first})
    for edge in edges:
        top.axvline(edge, color="#E4E4E4", linewidth=0.8, zorder=0)
    bottom.hist(share[~np.isnan(share)], bins=np.linspace(0, 1, 41), color=BASELINE)
    bottom.set(xlabel="share of positives among likes and dislikes", ylabel="examples", xlim=(0, 1))
    return made


def _ranks(figure, ranks, items, examples):
    made, axes = figure(4.0)
    for name, color in (("liked", LIKED), ("disliked", DISLIKED)):
        rank, mrr = ranks[name]
        if len(rank):
            axes.step(
                np.sort(rank), np.arange(1, len(rank) + 1) / len(rank), where="post",
                color=color, linewidth=2, label=f"{name}: MRR {mrr:.4f}, {len(rank):,} items",
            )  # fmt: skip
    chance = np.unique(np.geomspace(1, max(items, 2), 200).astype(int))
    axes.plot(chance, chance / items, color=GREY, linestyle=":", linewidth=1.3, label="a random order")
    axes.set_xscale("log")
    axes.set(
        xlabel=f"rank among {items:,} items", ylabel="share of held-out items there or higher up",
        title=_titled("Ranks of held-out items", examples), xlim=(1, max(items, 2)), ylim=(0, 1),
    )  # fmt: skip
    axes.legend(frameon=False, loc="upper left")
    return made


def _exposure(figure, exposure, examples):
    made, axes = figure(4.6)
    styles = [(MODEL, "-"), (MODEL, "--"), (BASELINE, "-"), (BASELINE, "--")]
    for (name, (curve, gini)), (color, line) in zip(exposure.items(), styles, strict=False):
        axes.plot(
            np.linspace(0, 1, len(curve)),
            curve,
            color=color,
            linestyle=line,
            linewidth=2,
            label=f"{name}: Gini {gini:.3f}",
        )
    axes.plot([0, 1], [0, 1], color=GREY, linestyle=":", linewidth=1.3, label="all items alike")
    axes.set(
        xlabel="share of items, least shown first", ylabel="share of what is recommended",
        xlim=(0, 1), ylim=(0, 1), title=_titled("Exposure in the top of lists (Lorenz curve)", examples),
    )  # fmt: skip
    axes.legend(frameon=False, loc="upper left")
    return made


def _cosines(figure, kinds, cosines):
    names = [kind.replace("_", " ") for kind in kinds]
    made, panels = figure(1.2 + 0.45 * len(kinds), ncols=len(cosines))
    for axes, (title, cosine_FF) in zip(np.atleast_1d(panels), cosines.items(), strict=True):
        axes.imshow(cosine_FF, cmap="RdBu_r", vmin=-1, vmax=1)
        for (row, column), value in np.ndenumerate(cosine_FF):
            shade = "white" if abs(value) > 0.6 else "black"
            axes.text(column, row, f"{value:.2f}", ha="center", va="center", color=shade, fontsize=9)
        axes.set_xticks(range(len(names)), names, rotation=30, ha="right")
        axes.set_yticks(range(len(names)), names)
        axes.tick_params(length=0)
        axes.grid(False)
        axes.set_title(f"{title} rows")
    return made
