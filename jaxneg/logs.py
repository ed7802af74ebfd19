"""Metrics of a run: JSON lines always, TensorBoard where tensorboardX is installed."""

import json
import math
import pathlib
from typing import Any


class Writer:
    """Appends one JSON object per call to ``metrics.jsonl`` of a run directory.

    Args:
      directory: of the run.
      silent: write nothing, as another process does.
    """

    def __init__(self, directory: pathlib.Path, *, silent: bool = False):
        self._path = directory / "metrics.jsonl"
        self._silent, self._board = silent, None
        if silent:
            return
        directory.mkdir(parents=True, exist_ok=True)
        try:
            import tensorboardX
        except ImportError:
            return
        self._board = tensorboardX.SummaryWriter(str(directory / "tensorboard"))

    def rewind(self, step: int) -> None:
        """Drops lines past a step, which a continued run will write again, and a last line that was cut short."""
        if self._silent:
            return
        kept = [line for line in read(self._path.parent) if line["step"] <= step]
        text = "".join(json.dumps(line) + "\n" for line in kept)
        partial = self._path.with_suffix(".tmp")
        partial.write_text(text)
        partial.replace(self._path)

    def write(self, step: int, values: dict[str, Any]) -> None:
        """Writes figures of a step. A figure that is not finite is written as null, which JSON can hold."""
        if self._silent:
            return
        line = {"step": step} | {name: _finite(value) for name, value in values.items()}
        with self._path.open("a") as file:
            file.write(json.dumps(line) + "\n")
        if self._board is not None:
            for name, value in line.items():
                if isinstance(value, int | float) and name != "step":
                    self._board.add_scalar(name, value, step)

    def close(self) -> None:
        if self._board is not None:
            self._board.close()


def read(directory: pathlib.Path) -> list[dict[str, Any]]:
    """Lines of a run's ``metrics.jsonl``, oldest first; a last line cut short by a crash is left out."""
    path = directory / "metrics.jsonl"
    lines = []
    for text in path.read_text().splitlines() if path.exists() else ():
        try:
            lines.append(json.loads(text))
        except ValueError:
            break
    return lines


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
