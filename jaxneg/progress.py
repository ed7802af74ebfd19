"""What a person sees while a command works: a progress bar on a terminal, quiet lines elsewhere. On standard error."""

import contextlib
import sys
import time
from collections.abc import Mapping
from types import TracebackType

from rich.console import Console
from rich.markdown import Markdown
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeRemainingColumn,
)

QUIET_SECONDS = 10.0  # between lines when there is no terminal


class Steps:
    """Progress of one command. Use as a context; call with what is done."""

    def __init__(self, title: str):
        self._title, self._task, self._said = title, None, 0.0
        self._bar = None
        if sys.stderr.isatty():
            self._bar = Progress(
                SpinnerColumn(),
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[figures]}"),
                console=Console(stderr=True),
                transient=True,
            )

    def __enter__(self) -> "Steps":
        if self._bar is not None:
            self._bar.start()
        self._said = time.monotonic()  # what is over within the first seconds needs no line
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(
        self, done: int, total: int, figures: Mapping[str, float | int] | None = None, stage: str = ""
    ) -> None:
        """Shows that ``done`` of ``total`` is done, with the latest figures beside it."""
        title = f"{self._title}: {stage}" if stage else self._title
        text = "  ".join(f"{name} {_number(value)}" for name, value in (figures or {}).items())
        if self._bar is not None:
            if self._task is None:
                self._task = self._bar.add_task(title, total=total, figures=text)
            self._bar.update(self._task, description=title, completed=done, total=total, figures=text)
            return
        now = time.monotonic()
        if now - self._said >= QUIET_SECONDS or (done >= total and text):
            self._said = now
            say(f"{title} {done:,} of {total:,}  {text}".rstrip())


def _number(value: float | int) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def say(text: str) -> None:
    """A line for the person, on standard error, so that standard output stays for results."""
    with contextlib.suppress(OSError, ValueError):  # nobody may be listening any more
        print(text, file=sys.stderr, flush=True)


def show_markdown(text: str) -> None:
    """A report on standard output: laid out on a terminal, as it is elsewhere."""
    if sys.stdout.isatty():
        Console().print(Markdown(text))
    else:
        print(text)
