"""Metrics of a run: JSON lines always, TensorBoard where tensorboardX is installed."""

import contextlib
import json
import math
import os
import pathlib
import time
from collections.abc import Generator
from contextvars import ContextVar
from typing import Any, Protocol, TypedDict, runtime_checkable

from jaxneg import errors, files
from jaxneg.errors import UserError
from jaxneg.files import documents

MEND = "move the file away to go on without it"
WITHOUT = "mend tensorboardX, or go on without it (pip uninstall tensorboardX)"


class Line(TypedDict):
    """What a line holds at least."""

    step: documents.Count


@runtime_checkable
class Listener(Protocol):
    """Who is told of a run beside its file."""

    def begin(self, directory: pathlib.Path, step: int) -> None:
        """At the first step of a process, or where it goes on."""
        ...

    def line(self, step: int, values: documents.Object) -> None:
        """Of each line."""
        ...


_listeners: ContextVar[tuple[Listener, ...]] = ContextVar("listeners", default=())


@contextlib.contextmanager
def also(listener: Listener) -> Generator[None, None, None]:
    """Runs whose writer is made in this block are told to a listener as well."""
    token = _listeners.set((*_listeners.get(), listener))
    try:
        yield
    finally:
        _listeners.reset(token)


class Writer:
    """Appends one JSON object per call to ``metrics.jsonl`` of a run directory.

    Args:
      directory: of the run.
      silent: write nothing, as another process does.
    """

    def __init__(self, directory: pathlib.Path, *, silent: bool = False):
        self._path = directory / "metrics.jsonl"
        self._silent, self._board = silent, None
        self._listeners = () if silent else _listeners.get()
        if silent:
            return
        directory.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(ImportError), self._carried():
            self._board = _Board(directory / "tensorboard")

    def rewind(self, step: int) -> None:
        """Drops lines past a step, which a continued run will write again, and a last line that was cut short."""
        if self._silent:
            return
        kept = [line for line in read(self._path.parent) if line["step"] <= step]
        text = "".join(json.dumps(line) + "\n" for line in kept)
        files.write_text(self._path, text)
        for one in self._listeners:
            one.begin(self._path.parent, max(step, 0))

    def write(self, step: int, values: documents.Object) -> None:
        """Writes figures of a step. A figure that is not finite is written as null, which JSON can hold."""
        if self._silent:
            return
        line = {"step": step} | {name: _finite(value) for name, value in values.items()}
        with errors.named(self._path), self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        if self._board is not None:
            with self._carried():
                self._board.write(step, {name: value for name, value in line.items() if name != "step"})
        for one in self._listeners:
            one.line(step, {name: value for name, value in line.items() if name != "step"})

    def close(self) -> None:
        if self._board is not None:
            with self._carried():
                self._board.close()

    @contextlib.contextmanager
    def _carried(self) -> Generator[None, None, None]:
        what = f"TensorBoard's file of {self._path.parent} could not be written"
        with errors.carried(what, WITHOUT, (ImportError,)), errors.named(self._path.parent / "tensorboard"):
            yield


class _Board:
    """TensorBoard's file, written in the caller's thread.

    tensorboardX's own writer is a thread that dies of a full disk without a word, and then the queue to it is full.
    """

    def __init__(self, directory: pathlib.Path):
        """Raises ImportError where tensorboardX is not installed."""
        from tensorboardX import event_file_writer, summary
        from tensorboardX.proto import event_pb2

        directory.mkdir(parents=True, exist_ok=True)
        self._event, self._scalar = getattr(event_pb2, "Event"), summary.scalar  # noqa: B009 (made at run time)
        self._file = event_file_writer.EventsWriter(str(directory / "events"), f".{os.getpid()}")

    def write(self, step: int, values: documents.Object) -> None:
        for name, value in values.items():
            if isinstance(value, int | float):
                made = self._event(step=step, wall_time=time.time(), summary=self._scalar(name, value))
                self._file.write_event(made)
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def read(directory: pathlib.Path) -> list[dict[str, Any]]:
    """Lines of a run's ``metrics.jsonl``, oldest first; a last line cut short by a crash is left out.

    Raises UserError on a line before it that is none of ours.
    """
    path = directory / "metrics.jsonl"
    try:
        texts = documents.content(path, 1 << 31).splitlines() if os.path.lexists(path) else []
    except documents.Wrong as error:
        raise UserError(f"{path} is damaged: {error}: {MEND}") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}: {MEND}") from error
    lines: list[dict[str, Any]] = []
    for number, text in enumerate(texts, start=1):
        try:
            lines.append(documents.parsed(text, Line, more=True))
        except documents.Wrong as error:
            if number == len(texts):
                break
            raise UserError(f"{path}, line {number} is damaged: {error}: {MEND}") from error
    return lines


def _finite(value: object) -> object:
    return None if isinstance(value, float) and not math.isfinite(value) else value
