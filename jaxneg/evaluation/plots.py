"""Plots of a report as PNG. Each says how many pairs, examples and users it is of. Needs matplotlib."""

import itertools
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxneg import figures, metrics
from jaxneg.config import Config, saved
from jaxneg.evaluation import measuring, serving_page, time_to_target, tuning
from jaxneg.evaluation.canvas import (
    BASELINE,
    DISLIKED,
    GREY,
    LIGHT,
    LIKED,
    MODEL,
    RUNS,
    Figure,
    canvas,
    titled,
)
from jaxneg.figures import shortened
from jaxneg.files import documents
from jaxneg.metrics import measures
from jaxneg.training import records

MANY = 3  # settings beyond which a legend does not name them


def draw(directory: pathlib.Path, findings: measuring.Findings) -> dict[str, str]:
    """Writes the plots and returns their titles by file name. Raises ImportError without matplotlib."""
    run = findings.run
    made: dict[str, tuple[str, Figure]] = {}
    if findings.reached:
        counted = figures.validated(run.result)
        made["target.png"] = (
            "Time to target",
            time_to_target.plot(findings.sides, findings.reached, counted),
        )
    made |= {
        "validation.png": ("Validation by epoch", validation(findings)),
        "accuracy.png": ("Pair accuracy, model and baselines", accuracy(findings)),
        "share.png": ("Pair accuracy by share of positive feedback", by_share(findings)),
        "ranks.png": ("Ranks of liked and disliked items", ranks(run.report)),
        "exposure.png": ("Exposure of the catalogue", exposure(findings)),
    }
    if cosines := dict(run.probed.get("feedback_cosines", {})):
        kinds = cosines.pop("kinds")
        made["feedback.png"] = ("Cosines between kinds of feedback", feedback(kinds, cosines))
    if findings.forms:
        made[serving_page.PLOT] = ("Serving forms over beta", serving_page.plot(findings.forms))
    directory.mkdir(parents=True, exist_ok=True)
    for name, (_, figure) in made.items():
        figure.savefig(directory / name, dpi=120)
    return {name: title for name, (title, _) in made.items()}


def legends(configs: Mapping[str, Config]) -> dict[str, str]:
    """What a legend calls runs: by the settings that differ between them, where these are few."""
    flat = {name: saved.flat(one) for name, one in configs.items()}
    differing = [field for field in records.apart(list(flat.values())) if field not in saved.FREE]
    if not 0 < len(differing) <= MANY:
        return {name: shortened(name) for name in configs}
    return {
        name: f"{shortened(name)}: "
        + ", ".join(f"{key.split('.')[1]} {shortened(str(one[key]))}" for key in differing)
        for name, one in flat.items()
    }


def _shown(findings: measuring.Findings) -> dict[str, measures.Report]:
    """The model, and the best baseline where there is one."""
    best = tuning.best_of(findings.baselines)
    return {"model": findings.run.report} | ({} if best is None else {best: findings.baselines[best].report})


def validation(findings: measuring.Findings) -> Figure:
    """The figure that decides, over epochs, of each run that has it; best, last, and where it converged."""
    run, monitor = findings.run, findings.run.result["monitor"]
    title = figures.title(monitor)
    runs = {"model": run} | {f"run {name}": other for name, other in findings.runs.items()}
    names = legends({name: one.config for name, one in runs.items()})
    figure, axes = canvas(4.0)
    last = 1.0
    for (name, one), color in zip(runs.items(), itertools.cycle(RUNS), strict=False):
        lines: list[documents.Object] = [line for line in one.result["history"] if monitor in line]
        if not lines:
            continue
        epochs, values = ([line[of] for line in lines] for of in ("epoch", monitor))
        last, best = max(last, *epochs), int(np.argmax(values))
        axes.plot(epochs, values, color=color, marker="o", markersize=3.5, linewidth=2, label=names[name])
        for place, marker, size, word in ((best, "*", 15, "best"), (-1, "s", 8, "last")):
            axes.plot(
                epochs[place],
                values[place],
                marker,
                color=color,
                markeredgecolor="white",
                markersize=size,
                zorder=5,
                linestyle="none",
                label=f"{word}: {values[place]:.3f}, epoch {epochs[place]:.4g}",
            )
        converged = one.result.get("epochs_to_convergence")
        if converged is None:
            axes.plot([], [], linestyle="none", label="not converged")
        else:
            label = f"converged: epoch {converged:.4g}"
            axes.axvline(converged, color=color, linestyle="--", linewidth=1.3, label=label)
    axes.set(
        xlabel="epoch",
        ylabel=f"{title} on validation examples",
        title=titled("Validation by epoch", figures.validated(run.result)),
    )
    axes.set_xlim(-0.02 * last, 1.02 * last)
    axes.xaxis.get_major_locator().set_params(integer=last > 4)
    if len(runs) == 1:
        axes.legend(frameon=False, loc="best")
    else:
        figure.set_figheight(4.0 + 0.8 * len(runs) / 2)
        figure.legend(frameon=False, loc="outside lower center", ncols=2)
    return figure


def accuracy(findings: measuring.Findings) -> Figure:
    """Pair accuracy with its interval over users, of the model, other runs and baselines."""
    report = findings.run.report
    others = {f"run {name}": one.report for name, one in findings.runs.items()}
    reports = {"model": report} | others | {name: one.report for name, one in findings.baselines.items()}
    ends = ("pair_accuracy", "pair_accuracy_low", "pair_accuracy_high")
    accuracies = {name: tuple(one.figures[end] for end in ends) for name, one in reports.items()}
    # as in the plot of validations
    colors = dict(zip(["model", *others], itertools.cycle(RUNS), strict=False))
    ordered = sorted(accuracies, key=lambda name: np.nan_to_num(accuracies[name][0]))
    figure, axes = canvas(1.5 + 0.42 * len(ordered))
    for y, name in enumerate(ordered):
        value, low, high = accuracies[name]
        color = colors.get(name, BASELINE)
        axes.plot([low, high], [y, y], color=color, linewidth=3, alpha=0.6, solid_capstyle="round")
        axes.plot(value, y, "o", color=color, markersize=8)
        end = value if np.isnan(high) else high
        _note(axes, f"{value:.3f}", (end, y), (8, 0))
    axes.axvline(0.5, color=GREY, linestyle=":", linewidth=1.3)
    _note(axes, "chance", (0.5, len(ordered) - 0.55), (4, 0))
    labels = [shortened(name if name in others else name.replace("_", " ")) for name in ordered]
    axes.set_yticks(range(len(ordered)), labels)
    axes.get_yticklabels()[ordered.index("model")].set_fontweight("bold")
    axes.set_ylim(-0.6, len(ordered) - 0.3)
    known = np.array(list(accuracies.values()))
    axes.set_xlim(min(0.48, np.nanmin(known, initial=0.5) - 0.02), np.nanmax(known, initial=0.5) + 0.05)
    counted = _pairs(report)
    axes.set(
        xlabel="liked above disliked, share of pairs (95% interval over users)",
        title=titled("Pair accuracy", counted),
    )
    return figure


def _note(axes: Any, text: str, at: tuple[float | int, float | int], away: tuple[int, int]) -> None:
    axes.annotate(text, at, xytext=away, textcoords="offset points", va="center", color=GREY)


def by_share(findings: measuring.Findings) -> Figure:
    """Pair accuracy by bands of positive share, and how many examples have which share."""
    report = findings.run.report
    bands = {name: one.bands for name, one in _shown(findings).items()}
    share_X = report.value_X["share"]
    figure, (top, bottom) = canvas(5.4, nrows=2, sharex=True, height_ratios=[2.4, 1])
    width = 0.014
    for n, (name, rows) in enumerate(bands.items()):
        rows = [row for row in rows if row["pairs"]]
        x = np.array([(row["low"] + row["high"]) / 2 for row in rows]) + (n - (len(bands) - 1) / 2) * width
        y = np.array([row["pair_accuracy"] for row in rows])
        ends = np.array([[row[f"pair_accuracy_{end}"] for end in ("low", "high")] for row in rows])
        whiskers = np.nan_to_num(np.abs(ends.reshape(-1, 2).T - y))
        top.errorbar(
            x,
            y,
            yerr=whiskers,
            color=BASELINE if n else MODEL,
            marker="o",
            markersize=6,
            capsize=3,
            linewidth=1.3 if n else 2,
            label=name.replace("_", " "),
        )
    top.axhline(0.5, color=GREY, linestyle=":", linewidth=1.3)
    _note(top, "chance", (0, 0.5), (4, 7))
    top.set_ylabel("pair accuracy (95% interval over users)")
    counted = _pairs(report)
    top.set_title(titled("By share of positive feedback in the history", counted), pad=26)
    top.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 0.99), ncols=len(bands))
    for edge in sorted({row[end] for row in report.bands for end in ("low", "high")}):
        top.axvline(edge, color=LIGHT, linewidth=0.8, zorder=0)
    bottom.hist(share_X[~np.isnan(share_X)], bins=np.linspace(0, 1, 41), color=BASELINE)
    bottom.set(xlabel="share of positives among likes and dislikes", ylabel="examples", xlim=(0, 1))
    return figure


def _examples(report: measures.Report) -> str:
    of = report.counts["context"]
    return figures.counted(of["users"], examples=of["examples"])


def _pairs(report: measures.Report) -> str:
    of = report.counts["pair_accuracy"]
    return figures.counted(of["users"], of["pairs"])


def ranks(report: measures.Report) -> Figure:
    """How many held-out items, liked and disliked, stand at a rank or higher up."""
    items = len(next(iter(report.shown_V.values())))
    figure, axes = canvas(4.2)
    for name, rank, color in (
        ("liked", report.liked_rank, LIKED),
        ("disliked", report.disliked_rank, DISLIKED),
    ):
        mrr = report.figures["mrr_positive" if name == "liked" else "mrr_negative"]
        if len(rank):
            axes.step(
                np.sort(rank),
                np.arange(1, len(rank) + 1) / len(rank),
                where="post",
                color=color,
                linewidth=2,
                label=f"{name}: MRR {mrr:.4f}, {len(rank):,} items",
            )
    chance = np.unique(np.geomspace(1, max(items, 2), 200).astype(int))
    axes.plot(chance, chance / items, color=GREY, linestyle=":", linewidth=1.3, label="a random order")
    axes.set_xscale("log")
    axes.set(
        xlabel=f"rank among {items:,} items",
        ylabel="share of held-out items there or higher up",
        title=titled("Ranks of held-out items", _examples(report)),
        xlim=(1, max(items, 2)),
        ylim=(0, 1),
    )
    axes.legend(frameon=False, loc="upper left")
    return figure


def exposure(findings: measuring.Findings) -> Figure:
    """Lorenz curves of what lists show, at the two shortest cut-offs."""
    figure, axes = canvas(4.8)
    for name, report in _shown(findings).items():
        for (k, count_V), line in zip(sorted(report.shown_V.items())[:2], ("-", "--"), strict=False):
            curve = metrics.lorenz(count_V)
            axes.plot(
                np.linspace(0, 1, len(curve)),
                curve,
                color=MODEL if name == "model" else BASELINE,
                linestyle=line,
                linewidth=2,
                label=f"{name.replace('_', ' ')}, top {k}: Gini {report.figures[f'gini@{k}']:.3f}",
            )
    axes.plot([0, 1], [0, 1], color=GREY, linestyle=":", linewidth=1.3, label="all items alike")
    axes.set(
        xlabel="share of items, least shown first",
        ylabel="share of what is recommended",
        title=titled("Exposure in the top of lists (Lorenz curve)", _examples(findings.run.report)),
        xlim=(0, 1),
        ylim=(0, 1),
    )
    axes.legend(frameon=False, loc="upper left")
    return figure


def feedback(kinds: list[str], cosines: documents.Object) -> Figure:
    """A matrix of cosines between kinds of feedback for each table that has rows of them."""
    names = [kind.replace("_", " ") for kind in kinds]
    figure, panels = canvas(1.2 + 0.45 * len(kinds), ncols=len(cosines), squeeze=False)
    for axes, (title, matrix) in zip(panels[0], cosines.items(), strict=True):
        cosine_FF = np.array(matrix, float)
        axes.imshow(cosine_FF, cmap="RdBu_r", vmin=-1, vmax=1)
        for (row, column), value in np.ndenumerate(cosine_FF):
            shade = "white" if abs(value) > 0.6 else "black"
            axes.text(column, row, f"{value:.2f}", ha="center", va="center", color=shade, fontsize=9)
        axes.set_xticks(range(len(names)), names, rotation=30, ha="right")
        axes.set_yticks(range(len(names)), names)
        axes.tick_params(length=0)
        axes.grid(False)
        axes.set_title(f"{title} rows")
    return figure
