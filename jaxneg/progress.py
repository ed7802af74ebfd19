"""What a person sees while a command works: a progress bar on a terminal, quiet lines elsewhere. On standard error."""

import sys
import time
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from jaxneg import errors

if TYPE_CHECKING:
    from rich.progress import Progress

QUIET_SECONDS = 10.0  # between lines when there is no terminal
LONG_SECONDS = 60.0  # where milestones have lines of their own
MILESTONE = "validated"  # a stage whose figures are worth a line at once

Figures = Mapping[str, float | int]
NONE: Figures = {}


@runtime_checkable
class OnProgress(Protocol):
    """Told how far something is, by everything that takes long."""

    def __call__(self, done: int, total: int, figures: Figures = NONE, /, *, stage: str = "") -> None:
        """Says that ``done`` of ``total`` is done.

        Args:
          done: of the stage, or of all where there are no stages.
          total: likewise.
          figures: the latest, by the names that a person knows.
          stage: what is being done, in a word or two; MILESTONE where new figures are there.
        """
        ...


def silent(done: int, total: int, figures: Figures = NONE, /, *, stage: str = "") -> None:
    """Progress that nobody looks at."""


class Steps:
    """Progress of one command, to be called as an ``OnProgress``. Use as a context.

    On a terminal a bar with what is left, and the figures in a line of their own; elsewhere a line for each milestone,
    and one where nothing was said for long.
    """

    def __init__(self, title: str):
        self._title, self._task, self._said = title, None, 0.0
        self._quiet, self._shown = QUIET_SECONDS, ""
        self._bar = _bar() if sys.stderr.isatty() else None

    def __enter__(self) -> "Steps":
        if self._bar is not None:
            self._bar.start()
        self._said = time.monotonic()  # what is over within the first seconds needs no line
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, done: int, total: int, figures: Figures = NONE, /, *, stage: str = "") -> None:
        """Shows that ``done`` of ``total`` is done, with the latest figures beside it."""
        reached = stage == MILESTONE
        title = self._title if reached or not stage else f"{self._title}: {stage}"
        text = "  ".join(f"{name} {_number(value)}" for name, value in figures.items())
        if self._bar is not None:
            self._shown = text or self._shown  # the last ones stay
            if self._task is None:
                self._task = self._bar.add_task(title, total=total, figures=self._shown)
            self._bar.update(self._task, description=title, completed=done, total=total, figures=self._shown)
            return
        now = time.monotonic()
        if reached:
            self._quiet = LONG_SECONDS
        if reached or now - self._said >= self._quiet or (done >= total and text):
            self._said = now
            say(f"{title} {done:,} of {total:,}  {text}".rstrip())


def _bar() -> "Progress":
    """A bar whose time to go is whole in 80 columns: what may be long, the stage and the figures, is cut instead."""
    from rich import progress, table, text
    from rich.console import Console, Group

    class Bar(progress.Progress):
        """The figures come below it."""

        def get_renderable(self) -> Group:
            figures = (task.fields["figures"] for task in self.tasks)
            below = [text.Text(f"  {line}", no_wrap=True, overflow="ellipsis") for line in figures if line]
            return Group(self.make_tasks_table(self.tasks), *below)

    what, bar = (table.Column(no_wrap=True, overflow="ellipsis", ratio=ratio) for ratio in (2, 1))
    return Bar(
        progress.SpinnerColumn(),
        progress.TextColumn("{task.description}", table_column=what),
        progress.BarColumn(bar_width=None, table_column=bar),
        progress.MofNCompleteColumn(),
        progress.TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
        expand=True,
    )


def _number(value: float | int) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def say(text: str) -> None:
    """A line for the person, on standard error, so that standard output stays for results."""
    errors.tell(errors.spoken(text))


def show_markdown(text: str) -> None:
    """A report on standard output: laid out on a terminal, as it is elsewhere."""
    text = errors.spoken(text)
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.markdown import Markdown

        Console().print(Markdown(text))
    else:
        print(text)
