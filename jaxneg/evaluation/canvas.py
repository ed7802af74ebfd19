"""What all plots have in common: colours that differ for all eyes, a quiet grid, what they are of. Needs matplotlib."""

import pathlib
import textwrap
from typing import Any, Protocol, runtime_checkable

import numpy as np

MODEL, BASELINE, LIKED, DISLIKED, GREY, LIGHT = (
    "#0072B2",
    "#8A8A8A",
    "#009E73",
    "#D55E00",
    "#444444",
    "#E4E4E4",
)
RUNS = (MODEL, "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#444444")  # of runs side by side
MARKERS = "osD^vPX"  # which differ too, where colours come again
WIDE = 68  # characters of a title that the canvas holds
LEAST = 3  # seeds from which on an interval over them is drawn


@runtime_checkable
class Figure(Protocol):
    """Of matplotlib, whose own types say little."""

    def savefig(self, fname: pathlib.Path, *, dpi: int) -> None: ...

    def set_figheight(self, val: float) -> None: ...

    def legend(self, **options: object) -> object: ...

    def suptitle(self, t: str, **options: object) -> object: ...


def canvas(height: float, **panels: object) -> tuple[Figure, Any]:
    """A figure and its axes. Raises ImportError without matplotlib."""
    from matplotlib import figure

    made: Any = figure.Figure(figsize=(7.2, height), layout="constrained")
    axes = made.subplots(**panels)
    for one in np.ravel(axes):
        one.spines[["top", "right"]].set_visible(False)
        one.grid(color=LIGHT, linewidth=0.8)
        one.set_axisbelow(True)
    return made, axes


def titled(text: str, counted: str) -> str:
    """A title with what the plot is of on lines of its own, none wider than the canvas."""
    return "\n".join([text, *textwrap.wrap(counted, WIDE)])
