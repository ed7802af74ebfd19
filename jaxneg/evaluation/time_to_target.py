"""The head of a report on a run and others: when it was as good as each of them at best, in words, plot and table."""

import itertools
from collections.abc import Mapping, Sequence

from jaxneg import figures, pages
from jaxneg.evaluation.canvas import GREY, RUNS, Figure, canvas, titled
from jaxneg.figures import shortened
from jaxneg.training import target_words, targets

PANELS = {"epochs": "epoch", "seconds": "seconds of training steps"}


def parts(found: Sequence[targets.Comparison], titles: Mapping[str, str]) -> list[str]:
    """The sentences, the plot and the table, in Markdown; nothing without other runs.

    Args:
      found: comparisons of a run with each other.
      titles: of the plots of the page, by file name.
    """
    if not found:
        return []
    name = "target.png"
    return [
        *map(target_words.spoken, found),
        pages.image(titles[name], f"plots/{name}") if name in titles else "",
        pages.table(target_words.HEADS, [target_words.row(one) for one in found], numbers=False),
    ]


def plot(sides: Sequence[targets.Side], found: Sequence[targets.Comparison], counted: str) -> Figure:
    """Validation by epochs and by seconds, a line a run; stars where others are best, and where the first is as good.

    Args:
      sides: the run's, then those that it is compared with.
      found: the comparisons with the latter.
      counted: how many the validation is of, in words.
    """
    figure_ = sides[0].runs[0].monitor
    lines = [line for side in sides for one in side.runs for line in targets.known(one.history, figure_)]
    shown = [unit for unit in PANELS if all(line.get(targets.UNITS[unit]) is not None for line in lines)]
    figure, panels = canvas(4.2, ncols=len(shown), squeeze=False, sharey=True)
    colors = list(itertools.islice(itertools.cycle(RUNS), len(sides)))
    for axes, unit in zip(panels[0], shown, strict=True):
        key = targets.UNITS[unit]
        for side, color in zip(sides, colors, strict=True):
            label: str | None = shortened(side.name)
            for one in side.runs:
                history = targets.known(one.history, figure_)
                x, y = ([line[of] for line in history] for of in (key, figure_))
                axes.plot(x, y, color=color, marker="o", markersize=3, linewidth=1.6, label=label)
                label = None
        for one, color in zip(found, colors[1:], strict=True):
            for passage in one["passages"]:
                its, own = passage["other_cost"][unit], (passage["cost"] or passage["within"])[unit]
                axes.plot([own, its], [passage["target"]] * 2, color=GREY, linestyle=":", linewidth=1.3)
                axes.plot(its, passage["target"], "*", color=color, markersize=14, markeredgecolor="white")
                if passage["cost"] is not None:
                    axes.plot(
                        own, passage["target"], "*", color=colors[0], markersize=14, markeredgecolor="white"
                    )
        axes.set_xlabel(PANELS[unit])
    panels[0][0].set_ylabel(f"validation {figures.title(figure_)}")
    panels[0][-1].legend(frameon=False, loc="lower right")
    figure.suptitle(titled(_head(found), counted), fontsize="medium")
    return figure


def _head(found: Sequence[targets.Comparison]) -> str:
    """The first comparison in few words."""
    one = found[0]
    if one["ratio"] is None:
        how = (
            "not compared"
            if one["why_not"]
            else f"reached in {one['reached']} of {len(one['passages'])} runs"
        )
    else:
        how = target_words.change(one["ratio"]["epochs"], "epochs")
    return f"Time to the best of {shortened(one['other'])}: {how}"
