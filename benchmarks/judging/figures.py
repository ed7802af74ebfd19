"""Figures of cells as the study left them, their differences, and verdicts on these."""

import json
import math
import pathlib
import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple

from jaxneg import metrics
from judging.cells import Cell

SEEN, PARTLY, NOT_SEEN, UNTESTED = "seen", "in part", "not seen", "cannot be tested here"
NOT_RUN = "not run on these listeners"


class Missing(Exception):
    """A benchmark that a claim needs has not been run."""


class NotConverged(Missing):
    """A seed stopped at its limit: a mean over the others would flatter the cell."""


class Spread(NamedTuple):
    """A figure over seeds."""

    mean: float
    sd: float
    seeds: tuple[float, ...]

    def __str__(self) -> str:
        return (
            f"{self.mean:.4f} ± {self.sd:.4f}" if abs(self.mean) < 10 else f"{self.mean:.4g} ± {self.sd:.3g}"
        )


class Difference(NamedTuple):
    """A mean difference, and the outer ends of its intervals over seeds and over listeners."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:+.4f} [{self.low:+.4f}, {self.high:+.4f}]"

    def over(self, base: float) -> str:
        """In parts of a base."""
        return f"{self.mean / base:+.1%} [{self.low / base:+.1%}, {self.high / base:+.1%}]"

    def above(self) -> bool | None:
        """Whether it is above 0; None where that cannot be told."""
        return True if self.low > 0 else False if self.high < 0 else None

    def reaches(self, published: float) -> bool | None:
        """Whether it is above 0; None where the intervals hold both 0 and what was published: no test of it."""
        return True if self.low > 0 else False if self.high < published else None


def read(results: pathlib.Path, name: str, command: str) -> Any:
    path = results / f"{name}.json"
    if not path.is_file():
        raise Missing(command)
    return json.loads(path.read_text())


def table(results: pathlib.Path, sweep: str) -> Any:
    """A sweep's table as benchmarks/study.py left it."""
    return read(results, f"study/{sweep}", f"benchmarks/study.py --only {sweep}")


def by_seed(results: pathlib.Path, figure: str, cell: Cell) -> dict[str, float]:
    for one in table(results, cell.sweep)["cells"]:
        if tuple(one["labels"].values()) == cell.labels:
            lines = one["seeds"]
            found = {s: line[figure] for s, line in lines.items() if line.get(figure) is not None}
            if figure.endswith("_to_convergence") and len(found) < len(lines):
                raise NotConverged(f"not all seeds of {', '.join(cell.labels)} have converged")
            if found:
                return found
    raise Missing(f"{figure} of {', '.join(cell.labels)}")


def get(results: pathlib.Path, figure: str, cell: Cell) -> Spread:
    values = tuple(by_seed(results, figure, cell).values())
    return Spread(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0, values)


def paired(results: pathlib.Path) -> Any:
    return read(results, "study/pairs", "benchmarks/study.py --claims")


def key(cell: Cell) -> list[str]:
    return [cell.sweep, *cell.labels]


def over_seeds(values: Sequence[float]) -> Difference:
    """Mean and 95% t-interval; without end of a single one."""
    one = metrics.spread(values)
    ends = (one["low"], one["high"])
    assert one["mean"] is not None
    low, high = (-math.inf, math.inf) if ends[0] is None or ends[1] is None else (ends[0], ends[1])
    return Difference(one["mean"], low, high)


def by_seeds(results: pathlib.Path, figure: str, one: Cell, other: Cell) -> Difference:
    """A difference of figures that are no means over listeners, by seeds alone."""
    first = by_seed(results, figure, one)
    if other.sweep == "baselines":
        second = dict.fromkeys(first, float(paired(results)["baselines"][other.labels[0]][figure]))
    else:
        second = by_seed(results, figure, other)
    return over_seeds([first[s] - second[s] for s in first if s in second])


def less(results: pathlib.Path, figure: str, one: Cell, other: Cell) -> Difference:
    """A difference with its intervals over seeds and over listeners."""
    seeds = by_seeds(results, figure, one, other)
    for line in paired(results)["pairs"]:
        if (line["figure"], line["one"], line["other"]) == (figure, key(one), key(other)):
            return Difference(seeds.mean, min(seeds.low, line["low"]), max(seeds.high, line["high"]))
    raise Missing(f"{figure} of {', '.join(one.labels)} less {', '.join(other.labels)} over listeners")


def ratio(results: pathlib.Path, figure: str, one: Cell, other: Cell) -> Difference:
    """Geometric mean over seeds of one figure over another, with the interval of its logarithm."""
    first, second = (by_seed(results, figure, cell) for cell in (one, other))
    logs = over_seeds([math.log(first[s] / second[s]) for s in first if s in second])
    return Difference(math.exp(logs.mean), math.exp(logs.low), math.exp(min(logs.high, 700.0)))


def verdict(holds: Sequence[bool | None]) -> str:
    """Seen where all hold, not seen where none does."""
    return SEEN if all(holds) else PARTLY if any(holds) else NOT_SEEN


def tested(holds: Sequence[bool | None]) -> str:
    """The same of comparisons that may have been no test; it cannot be tested where none was."""
    return UNTESTED if all(one is None for one in holds) else verdict(holds)
