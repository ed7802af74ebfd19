"""The steps since the last line of the log."""

import time
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, cast

import jax
import numpy as np


class Sums(NamedTuple):
    """What a line of the log is made of."""

    steps: int
    values: dict[str, np.ndarray]  # of each step, by name
    seconds: float  # of the steps alone
    since: float  # seconds since the last line, or since a validation after it
    waited: float  # of ``seconds``, in which devices had nothing to do while batches were made


def _now() -> float:
    return time.perf_counter()


class Promised(Protocol):
    """An array of JAX, of whose methods its types leave one out."""

    def is_ready(self) -> bool:
        """Whether a device has computed it."""
        ...


@dataclass
class Interval:
    """Metrics that are still on their way, and when the steps began that they are of."""

    pending: list[dict[str, jax.Array]] = field(
        default_factory=list[dict[str, jax.Array]]
    )  # of one step or several
    mark: float = field(default_factory=_now)  # when the steps began that are pending
    logged: float = field(default_factory=_now)  # when the last line was made, or a validation after it
    waited: float = 0.0

    @property
    def steps(self) -> int:
        return sum(line["loss"].size for line in self.pending)

    def begin(self) -> float | None:
        """Says that batches are being made; gives the time, for ``batched``, where devices have nothing to do."""
        now = _now()
        if not self.pending:
            self.mark = now
        return now if not self.pending or cast(Promised, self.pending[-1]["loss"]).is_ready() else None

    def batched(self, idle_since: float | None) -> None:
        """Says that batches are there."""
        if idle_since is not None:
            self.waited += _now() - idle_since

    def apart(self, seconds: float) -> None:
        """Takes what something else took, as compiling a program, out of the time of steps."""
        if self.pending:
            self.mark += seconds
        else:
            self.mark, self.waited = _now(), 0.0

    def sums(self) -> Sums:
        """Of the steps that were pending, which are done: metrics come to the host in one transfer."""
        lines = jax.device_get(self.pending)
        values = {name: np.hstack([line[name] for line in lines]) for name in lines[0]}
        now = _now()
        found = Sums(len(values["loss"]), values, now - self.mark, now - self.logged, self.waited)
        self.pending, self.mark, self.logged, self.waited = [], now, now, 0.0
        return found
