"""A page with its figures and plots: written together, so that none stands beside those of another time."""

import pathlib
import types
from collections.abc import Callable, Mapping
from typing import NamedTuple

from jaxneg import files, pages, progress
from jaxneg.files import documents

Titles = dict[str, str]  # of plots, by file name


class Page(NamedTuple):
    """What is shown."""

    name: str  # of its files: "report" makes report.json, report.md and report.html
    title: str
    values: documents.Object
    draw: Callable[[pathlib.Path], Titles]  # into a directory; raises ImportError without matplotlib
    text: Callable[[Titles], str]  # in Markdown, with plots at plots/
    more: Mapping[str, str] = types.MappingProxyType({})  # further files, by name


def write(directory: pathlib.Path, page: Page) -> None:
    """Writes the JSON, Markdown and HTML of a page, its further files and plots/, all or none of them."""
    # Plots take long to draw.
    drawn = files.scratch(files.real(directory) / "plots")
    with files.unfinished(drawn):
        titles = _drawn(page, drawn)
        text = page.text(titles)
        html = pages.html(text, page.title, {f"plots/{name}": drawn / name for name in titles})
        with files.COMMIT:
            files.move_into(directory / "plots", drawn)
            files.write_json(directory / f"{page.name}.json", page.values)
            for name, content in {**page.more, f"{page.name}.md": text, f"{page.name}.html": html}.items():
                files.write_text(directory / name, content)


def _drawn(page: Page, directory: pathlib.Path) -> Titles:
    """Titles of the plots; none without matplotlib."""
    try:
        return page.draw(directory)
    except ImportError:
        progress.say(f"jaxneg: {pages.NO_PLOTS}")
        return {}
