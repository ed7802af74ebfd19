"""What a person is told of while a run goes on: gradients out of the usual, devices that wait for batches."""

import collections
import statistics
from collections.abc import Iterator

USUAL = 20  # lines of the log whose median is the usual gradient norm
KNOWN = 5  # lines before which nothing is called usual
TIMES = 30.0  # the usual norm: above it a gradient is told of
STARVING = 0.25  # share of a line's time in which devices wait
LINES = 2  # in a row, as one may be chance


class Alerts:
    """Lines for a person, each kind once until it is over."""

    def __init__(self) -> None:
        self._norms: collections.deque[float] = collections.deque(maxlen=USUAL)
        self._high, self._starved = False, 0

    def __call__(self, step: int, norm: float, waiting: float) -> Iterator[str]:
        """What a line of the log gives reason to say.

        Args:
          step: that it is of.
          norm: the largest gradient norm of its steps.
          waiting: share of their time in which devices had nothing to do while batches were made.
        """
        usual = statistics.median(self._norms) if len(self._norms) >= KNOWN else None
        high = usual is not None and norm > TIMES * usual
        if high and not self._high:
            yield (
                f"train warning: a gradient norm of {norm:.3g} up to step {step:,}, where {usual:.2g} is usual: "
                "if the loss rises with it, lower --optim.learning-rate or set --optim.clip"
            )
        self._high = high
        self._norms.append(norm)
        self._starved = self._starved + 1 if waiting > STARVING else 0
        if self._starved == LINES:
            yield (
                f"train warning: devices wait for batches {waiting:.0%} of the time: the store may lie on a slow disk, "
                "or other processes may take the cores that make batches"
            )
