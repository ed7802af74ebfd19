"""``jaxneg runs``: runs side by side, by the settings that differ."""

import json
import os
import pathlib
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import rich.console
import rich.table
import rich.text
import tyro

from jaxneg import figures, progress, shown
from jaxneg.cli import commands
from jaxneg.errors import UserError
from jaxneg.files import addresses
from jaxneg.training import records

NARROWEST = 12  # characters of a run's name
GAP = 2  # blanks between columns


@dataclass(frozen=True)
class Runs:
    """Lists the runs in directories and below, those of sweeps too, best first: the settings in which they differ, the
    figure of validation at the best checkpoint and at the last, epochs trained and state. Where nobody looks it prints
    values with tabs between them."""

    places: tyro.conf.Positional[Annotated[tuple[pathlib.Path, ...], commands.several("DIR", ".")]] = (
        pathlib.Path("."),
    )
    """Directories to look in."""
    figure: str = ""
    """Figure of validation to show and to sort by, as auc; else the one that each run decides by."""
    json: commands.Flag = False
    """Print one JSON object, a list of all runs with all their settings."""

    def run(self) -> None:
        found = records.summaries([addresses.listed(place, "DIR") for place in self.places])
        if self.figure:
            found = _sorted(found, self.figure)
        if self.json:
            print(json.dumps([one.to_dict() for one in found]))
        elif sys.stdout.isatty():
            show(found, self.figure, rich.console.Console())
        else:
            heads, rows = records.table(found, self.figure, full=True)
            for row in [heads, *rows]:
                print("\t".join(map(_plain, row)))
        for state in ("damaged", "failed"):
            for one in found:
                if one.state == state:
                    progress.say(f"{one.path} {'is ' * (state == 'damaged')}{state}: {one.why}")


def _sorted(found: list[records.Summary], figure: str) -> list[records.Summary]:
    if not any(one.best.get(figure) is not None for one in found):
        known = sorted({name for one in found for name in one.best if figures.is_monitor(name)})
        raise UserError(f"--figure {figure} is in no validation: choose among {', '.join(known) or 'none'}")
    return sorted(found, key=lambda one: -(one.best.get(figure) or 0.0))


def show(found: Sequence[records.Summary], figure: str, console: rich.console.Console) -> None:
    """Prints runs in columns; where these are wider than the console, a run's settings stand below it instead."""
    heads, rows = records.table(found, figure)
    names = list(records.spoken(found).values())
    at = range(1, 1 + len(names))
    width = console.width
    below = _wide(heads, rows) > width
    kept = [n for n in range(len(heads)) if not (below and n in at)]
    room = width - _wide(heads, rows, [n for n in kept if n]) - GAP
    if room < NARROWEST:  # so narrow that even figures have no room beside each other
        heads, kept, room = heads[:], [n for n in kept if heads[n] in ("run", "best", "state")], NARROWEST
    console.print(rich.text.Text(_title(found, figure)))
    table = rich.table.Table(
        box=None, padding=(0, GAP, 0, 0), pad_edge=False, header_style="bold", expand=False
    )
    for n in kept:
        table.add_column(heads[n], justify="left" if n == 0 or heads[n] == "state" else "right", no_wrap=True)
    blocks = []
    for row in rows:
        texts = [shown.cell(row[n]) for n in kept]
        texts[0] = figures.shortened(texts[0], max(room, NARROWEST))
        words = [f"{name}={shown.cell(row[n])}" for n, name in zip(at, names, strict=True)]
        blocks.append(
            textwrap.wrap(", ".join(words), width - 4, break_on_hyphens=False) if below and words else []
        )
        table.add_row(*map(rich.text.Text, texts))
    if not any(blocks):
        console.print(table, highlight=False)
        return
    with console.capture() as capture:
        console.print(table, highlight=False)
    head, *lines = capture.get().splitlines()
    print(head)
    for line, block in zip(lines, blocks, strict=True):
        print(line)
        for text in block:
            print(f"    {text}")


def _wide(heads: list[str], rows: Sequence[shown.Row], of: Sequence[int] | None = None) -> int:
    """Characters of columns; of a run's name as few as there must be."""
    columns = range(len(heads)) if of is None else of
    wide = [NARROWEST if n == 0 else max(len(shown.cell(row[n])) for row in [heads, *rows]) for n in columns]
    return sum(wide) + GAP * len(wide)


def _title(found: Sequence[records.Summary], figure: str) -> str:
    monitors = {figure} if figure else {one.monitor for one in found if one.best}
    runs = f"{len(found):,} run{'s' * (len(found) != 1)}"
    if len(monitors) != 1:
        return runs
    [monitor] = monitors
    n = "pairs" if monitor in figures.OF_PAIRS else "examples"
    return f"{runs}; validation {figures.title(monitor)} at the best checkpoint and at the last, n {n}"


def _plain(value: object) -> str:
    """A value without a tab or an end of line in it, and a whole number as one: epochs are counted in parts."""
    if value is None:
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return " ".join(value.split()) if isinstance(value, str) else json.dumps(value, default=os.fspath)


def parse(args: Sequence[str]) -> Runs:
    return commands.parsed(Runs, args, "runs")
