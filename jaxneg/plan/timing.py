"""How long a compiled TPU step takes, as a range, and what it rests on.

Low is what no run can beat, as far as is known: products at the published peak, HBM at its published rate, memory of
the core at four registers a cycle, ``COUNTED`` of the compiler's cycles, the rules' least. Copies that run beside the
rest cost nothing while the memory has time for them. High adds up the compiler's cycles, the rules' most, copies as
if all else waited, and links at half their published speed, as if nothing overlapped.

RULES are for what the compiler counts no cycles for: cycles a unit, least and most. The least are the VLIW bundles,
of one cycle each, that libtpu 0.0.42.1 schedules for such loops on a v5e; the most allow for waiting. None was timed
on a chip.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from jaxneg.plan import hlo, tpu, work

# Of the compiler's cycles, what its own later count has, that of the scheduled program: 0.40 of a sum, 0.52 of an
# addition.
COUNTED = 0.4
WINDOW = 15_831_040  # bytes of a table that a scatter in order holds at once on a v5e
BATCH = 512  # rows that a scatter in order goes through again for each window
HIDDEN = 0.5  # of attention, at least, is computed where a mask hides the half
BLOCKS = 0.1  # of the peak that products of a kernel of attention reach at least
REGISTERS = 4  # of memory that are read or written in a cycle at most: three loads and one store
OVERHEAD = 2e-6  # seconds that a collective takes at most before its bytes move, a hop


class Rule(NamedTuple):
    """Cycles for one of something."""

    low: float
    high: float


RULES = {
    "sort": Rule(2.7, 8),  # a register of each array, and stage of a bitonic network
    "gather rows near": Rule(2, 8),  # a row
    "gather rows far": Rule(5, 25),  # each by a copy of its own
    "gather numbers near": Rule(5.8, 20),  # a number, by the scalar unit
    "gather numbers far": Rule(6.5, 40),
    "scatter rows near": Rule(4.5, 20),
    "scatter rows far": Rule(64, 250),  # read, changed and written back, 16 at a time
    "scatter rows far in order": Rule(4.5, 20),  # a row, or a place of a step, beside the table's bytes
    "scatter numbers near": Rule(6.7, 25),
    "scatter numbers far in order": Rule(6.7, 25),
    "scan": Rule(10, 40),  # a register of the sums
    "move": Rule(1, 16),  # a register of the result
    "scalar": Rule(10, 200),  # an operation
}
# What the parts of a step are called.
NAMES = {
    "products": "matrix products",
    "vectors": "vector units",
    "memory": "memory (HBM)",
    "links": "links",
    "sort": "sorts",
    "rows": "rows gathered and scattered",
    "rest": "sums, moves and scalars",
    "kernel": "kernels",
    "launches": "launches",
}


class Range(NamedTuple):
    """Seconds, at least and at most."""

    low: float
    high: float

    def __add__(self, other: "Range") -> "Range":  # type: ignore[override]
        return Range(self.low + other.low, self.high + other.high)

    def times(self, factor: float) -> "Range":
        return Range(self.low * factor, self.high * factor)

    @property
    def middle(self) -> float:
        """The geometric mean, by which parts are compared; of one that may cost nothing, a quarter of the most."""
        return math.sqrt(max(self.low, self.high / 16) * self.high)


class Estimate(NamedTuple):
    """Of one step."""

    step: Range
    parts: dict[str, Range]  # a key of NAMES to what it takes alone
    bound: str  # the part that takes the most by its middle
    cycles: int  # that the compiler counts
    uncounted: dict[str, int]  # instructions for which it counts none, by kind
    hbm_bytes: int
    flop: float  # of matrix products

    def plain(self) -> dict[str, Any]:
        """As numbers for JSON."""
        return {
            **self.step._asdict(),
            "bound": NAMES[self.bound],
            "parts": {NAMES[name]: part._asdict() for name, part in self.parts.items()},
            "compiler_cycles": self.cycles,
            "without_cycles": self.uncounted,
            "share_of_rules": self.ruled,
            "hbm_bytes": self.hbm_bytes,
            "product_flop": self.flop,
        }

    @property
    def ruled(self) -> float:
        """The share of the high end that stands on rules and not on the compiler's cycles, bytes or links."""
        of_rules = sum(
            self.parts[name].high for name in ("sort", "rows", "rest", "kernel") if name in self.parts
        )
        return of_rules / self.step.high if self.step.high else 0.0


def estimate(text: str, where: tpu.Slice) -> Estimate:
    """The estimate of a compiled step. Takes ``compiled.as_text()``."""
    chip = where.chip
    assert chip is not None
    # A scatter in order goes through all of its table, window by window, and writes it back.
    done = [each._replace(hbm=max(each.hbm, 2 * each.table)) for each in work.works(text)]
    parts: dict[str, Range] = {}
    hbm = 0
    beside = 0.0
    for each in done:
        bytes_ = each.times * each.hbm
        hbm += bytes_
        if each.kind == "prefetch":
            beside += bytes_ / (chip.reads * 1e9)
        elif each.kind != "link":
            name, taken = _one(each, chip)
            parts[name] = parts.get(name, Range(0.0, 0.0)) + Range(*(each.times * end for end in taken))
    core = Range(sum(part.low for part in parts.values()), sum(part.high for part in parts.values()))
    moved = hbm / (chip.memory_rate * 1e9)
    parts["memory"] = parts.get("memory", Range(0.0, 0.0)) + Range(0.0, beside)
    links = _links(text, where)
    parts["links"] = links
    low, high = max(core.low, moved) + links.low, core.high + beside + links.high
    return gathered(Range(low, high), parts, done, sum(each.times * each.flop for each in done))


def gathered(step: Range, parts: dict[str, Range], done: Sequence[work.Work], flop: float) -> Estimate:
    """The estimate of a step that takes so long, of such parts, for such work."""
    return Estimate(
        step=step,
        parts={name: parts[name] for name in NAMES if name in parts and parts[name].high > 0},
        bound=max(parts, key=lambda name: parts[name].middle),
        cycles=sum(each.times * each.cycles for each in done),
        uncounted=_uncounted(done),
        hbm_bytes=sum(each.times * each.hbm for each in done),
        flop=flop,
    )


def _uncounted(done: Sequence[work.Work]) -> dict[str, int]:
    found: dict[str, int] = {}
    for each in done:
        if each.kind != "counted":
            found[each.kind] = found.get(each.kind, 0) + each.times
    return found


def _one(each: work.Work, chip: tpu.Chip) -> tuple[str, Range]:
    """The part that one run of an instruction belongs to, and its seconds."""
    clock = chip.clock * 1e9
    product = each.flop / (chip.peak * 1e12)
    memory = Range(each.hbm / (chip.memory_rate * 1e9), each.hbm / (chip.reads * 1e9))
    near = each.near / (REGISTERS * work.REGISTER * clock)
    least = max(product, memory.low, near)
    if each.kind == "counted":
        took = Range(
            max(least, COUNTED * each.cycles / clock), max(each.cycles / clock, memory.high, product)
        )
        name = "products" if each.flop else "memory" if 2 * memory.high > took.high else "vectors"
        return name, took
    if each.kind == "kernel":
        return "kernel", Range(max(memory.low, near, HIDDEN * product), memory.high + product / BLOCKS)
    rule, units = RULES.get(f"{each.kind} {each.how}".strip(), RULES["move"]), _units(each)
    if each.how.endswith("in order"):  # windows are waited for
        own = Range(rule.low * units / clock, rule.high * units / clock)
        return "rows", own + memory
    took = Range(max(least, rule.low * units / clock), max(memory.high, rule.high * units / clock, product))
    name = {"gather": "rows", "scatter": "rows", "sort": "sort"}.get(each.kind, "rest")
    return name, took


def _units(each: work.Work) -> float:
    if each.kind == "sort":
        levels = math.ceil(math.log2(max(each.rows, 2)))
        return each.lines * each.operands * levels * (levels + 1) / 2
    if each.kind in ("gather", "scatter"):
        return each.rows + BATCH * math.ceil(each.table / WINDOW)
    return 1 if each.kind == "scalar" else each.lines


def _links(text: str, where: tpu.Slice) -> Range:
    """Links at their published speed; at most half of it, and the way across the slice for each collective."""
    collectives = hlo.program(text).collectives
    least = tpu.link_seconds(where, collectives) or 0.0
    hops = sum(side // 2 for side in where.sides)
    return Range(least, 2 * least + OVERHEAD * max(hops, 1) * sum(each.times for each in collectives))
