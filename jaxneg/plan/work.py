"""What each instruction of a compiled TPU program does: the compiler's cycles, bytes by memory, arithmetic, rows.

The compiler notes ``estimated_cycles`` beside what it writes as a loop over tiles. It notes none beside sorts, gathers,
scatters, running sums, kernels and moves, nor beside what goes over links. Bytes are those of arrays as they lie,
filled up to tiles, and count where the layout puts them: S(1) and the other small memories of a core, or HBM where it
names none. Of an operand that is only cut or gathered from, or changed in place, what is touched counts.
"""

import functools
import math
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from jaxneg.plan import hlo
from jaxneg.plan.hlo import Instruction

REGISTER = 4096  # bytes of a vector register: 8 x 128 numbers of 32 bits
HBM = 0  # the memory space of a layout that names none
FREE = {
    "parameter", "constant", "get-tuple-element", "tuple", "bitcast", "after-all", "while", "call", "conditional",
    "partition-id", "replica-id", "opt-barrier",
}  # fmt: skip
# Products of queries by keys, or as large, in kernels of splash attention: forward, for queries, for keys and values.
ATTENTION = {"splash_mha_fwd": 2, "splash_mha_dq": 3, "splash_mha_dkv": 4}
CUTTING = ("dynamic-slice", "slice", "gather")
LAID = re.compile(r"([a-z]\w*)\[([\d,<=]*)\](?:\{([\d,]*)(?::([^}]*))?\})?")


class Array(NamedTuple):
    """An array of a type as it lies in memory."""

    dtype: str
    shape: tuple[int, ...]
    space: int  # of memory; HBM is 0
    size: int  # bytes, filled up to tiles

    @property
    def numbers(self) -> int:
        return math.prod(self.shape)


class Work(NamedTuple):
    """One instruction of a step."""

    name: str
    kind: str  # "counted", "sort", "gather", "scatter", "scan", "kernel", "move", "prefetch", "link" or "scalar"
    times: int  # how often a step runs it
    cycles: int = 0  # the compiler's, of one run; 0 where it notes none
    flop: float = 0.0  # of matrix products
    hbm: int = 0  # bytes read and written in HBM
    near: int = 0  # bytes read and written in memory of the core
    rows: int = 0  # that a gather or scatter names; the length that a sort sorts
    lines: int = 0  # registers of 8 x 128 numbers of the result
    operands: int = 1  # that a sort carries along
    # of a gather or scatter: "rows" or "numbers", "near" or "far" (in HBM), "in order"
    how: str = ""
    table: int = 0  # bytes of what a scatter in order changes


def works(text: str) -> list[Work]:
    """The work of one device in a step. Takes ``compiled.as_text()``."""
    computations, entry = hlo.computations(text)
    return [] if entry is None else list(_walk(computations, entry, 1))


def _walk(computations: dict[str, list[Instruction]], name: str, times: int) -> Iterator[Work]:
    defined = _defined(computations.get(name, ()))
    for each in computations.get(name, ()):
        if each.opcode in ("while", "call", "conditional"):
            turns = (hlo.turns(each.text, computations) or 1) if each.opcode == "while" else 1
            for called in hlo.called(each.text):
                yield from _walk(computations, called, times * turns)
        elif each.opcode not in FREE and not each.opcode.endswith("-done"):
            yield _work(each, defined, computations, times)


def _work(
    each: Instruction, defined: dict[str, Instruction], computations: dict[str, list[Instruction]], times: int
) -> Work:
    inside = list(_fused(each, computations))
    noted = re.search(r'"estimated_cycles":"(\d+)"', each.text)
    cycles = int(noted[1]) if noted else 0
    name, kind = each.name.split()[-1], _kind(each, inside, cycles)
    if kind == "prefetch":
        hbm, near = _moved(each)
        return Work(name, kind, times, 0, 0.0, hbm, near)
    hbm, near = _touched(each, defined, inside)
    flop = sum(_flop(one, _defined(inside)) for one in inside) or _flop(each, defined)
    if kind == "kernel":
        flop = _of_kernel(name, [defined[name] for name in operands(each) if name in defined])
    if kind in ("gather", "scatter"):
        rows, how = _named(each, kind, inside, defined)
        table = max(array.size for array in arrays(each.result)) if how.endswith("in order") else 0
        return Work(name, kind, times, cycles, flop, hbm, near, rows, how=how, table=table)
    rows, lines, carried = _size(each, kind)
    return Work(name, kind, times, cycles, flop, hbm, near, rows, lines, carried)


def _fused(each: Instruction, computations: dict[str, list[Instruction]]) -> Iterator[Instruction]:
    """What a fusion fuses, its own computation first, then those fused into it; nothing of other instructions."""
    if each.opcode == "fusion":
        own = [line for name in hlo.called(each.text) for line in computations.get(name, ())]
        yield from own
        for one in own:
            yield from _fused(one, computations)


def _kind(each: Instruction, inside: Sequence[Instruction], cycles: int) -> str:
    opcode = each.opcode.removesuffix("-start")
    if opcode in hlo.SENT:
        return "link"
    if opcode != each.opcode:
        return "prefetch"
    if cycles:
        return "counted"
    if each.opcode == "custom-call":
        return "kernel" if "tpu_custom_call" in each.text else "scalar"
    opcodes = {one.opcode for one in inside} | {each.opcode}
    for opcode, kind in (
        ("sort", "sort"),
        ("scatter", "scatter"),
        ("gather", "gather"),
        ("reduce-window", "scan"),
    ):
        if opcode in opcodes:
            return kind
    return "scalar" if all(array.numbers <= 1 for array in arrays(each.result)) else "move"


def _defined(lines: Sequence[Instruction]) -> dict[str, Instruction]:
    return {line.name.split()[-1]: line for line in lines}


def arrays(result: str) -> list[Array]:
    """The arrays of a type, as "(f32[8,100]{1,0:T(8,128)S(1)}, u32[])"."""
    found = []
    for dtype, dims, order, tiles in LAID.findall(result):
        shape = tuple(int(side.lstrip("<=")) for side in dims.split(",") if side)
        space = re.search(r"S\((\d+)\)", tiles)
        sides = [shape[int(at)] for at in reversed(order.split(",")) if at] if order else list(shape)
        tile = re.match(r"T\(([\d,*]+)\)", tiles)
        if tile and sides:
            fill = [int(side) if side.isdigit() else 1 for side in tile[1].split(",")][-len(sides) :]
            for back, side in enumerate(reversed(fill), 1):
                sides[-back] = math.ceil(sides[-back] / side) * side
        found.append(
            Array(dtype, shape, int(space[1]) if space else HBM, hlo.size_of(dtype, math.prod(sides)))
        )
    return found


def operands(each: Instruction) -> list[str]:
    """Names of what an instruction takes."""
    rest = each.text[each.text.index(each.opcode + "(") + len(each.opcode) :]
    return re.findall(r"%[\w.-]+", rest[: hlo.end_of(rest)])


def _moved(each: Instruction) -> tuple[int, int]:
    """Bytes that an asynchronous copy or cut moves, in HBM and near: of the smaller end, once at each end."""
    ends = [array for array in arrays(each.result) if array.numbers > 1][:2]
    size = min((array.size for array in ends), default=0)
    far = sum(array.space == HBM for array in ends)
    return size * far, size * (len(ends) - far)


def _touched(
    each: Instruction, defined: dict[str, Instruction], inside: Sequence[Instruction]
) -> tuple[int, int]:
    """Bytes read and written in HBM and near."""
    within = _defined(inside)
    sizes = {True: 0, False: 0}
    names = operands(each)
    changed = _changed(each, names, inside, within)
    for at, name in enumerate(names):
        if name not in defined:
            continue
        cut = _cut(at, inside, within) if inside else None
        if not inside and at == 0 and each.opcode in CUTTING:
            cut = sum(array.size for array in arrays(each.result))
        if at in changed:
            cut = changed[at]
        for array in arrays(defined[name].result):
            sizes[array.space == HBM] += array.size if cut is None else min(cut, array.size)
    written = arrays(each.result)
    by_place = {array: size for at, size in changed.items() if at < len(names) and names[at] in defined
                for array in arrays(defined[names[at]].result)}  # fmt: skip
    for array in written:
        sizes[array.space == HBM] += min(by_place.get(array, array.size), array.size)
    return sizes[True], sizes[False]


def _cut(at: int, inside: Sequence[Instruction], within: dict[str, Instruction]) -> int | None:
    """Bytes that a fusion reads of an operand that it only cuts or gathers from; None where it reads all of it."""
    parameter = next(
        (one for one in inside if one.opcode == "parameter" and f"parameter({at})" in one.text), None
    )
    if parameter is None:
        return None
    users = [one for one in inside if parameter.name in operands(one)] if parameter.name in within else []
    if not users or any(one.opcode not in CUTTING or operands(one)[0] != parameter.name for one in users):
        return None
    return sum(array.size for one in users for array in arrays(one.result))


def _changed(
    each: Instruction, names: Sequence[str], inside: Sequence[Instruction], within: dict[str, Instruction]
) -> dict[int, int]:
    """By place of an operand that is changed in place, the bytes that are changed."""
    found = {}
    for one in inside or (each,):
        taken = operands(one) if one.opcode in ("dynamic-update-slice", "scatter") else []
        update = {"dynamic-update-slice": 1, "scatter": 2}.get(one.opcode, 0)
        if len(taken) <= update:
            continue
        target = taken[0]
        while inside and target in within and within[target].opcode == "bitcast":
            target = operands(within[target])[0]
        if not inside:
            place = 0
        elif target in within and (number := re.search(r"parameter\((\d+)\)", within[target].text)):
            place = int(number[1])
        else:
            continue
        if inside and taken[update] in within:
            found[place] = sum(array.size for array in arrays(within[taken[update]].result))
    return found


def _named(
    each: Instruction, kind: str, inside: Sequence[Instruction], defined: dict[str, Instruction]
) -> tuple[int, str]:
    """Rows that the gathers or scatters of an instruction name, and how they lie."""
    within, rows, how = _defined(inside) if inside else defined, 0, ""
    table = [array for name in operands(each) if name in defined for array in arrays(defined[name].result)]
    table += arrays(each.result)
    for one in inside or (each,):
        if one.opcode != kind:
            continue
        taken = [arrays(within[name].result)[0] if name in within else None for name in operands(one)]
        if kind == "gather":
            result = arrays(one.result)[0]
            sides = re.search(r"slice_sizes=\{([\d,]*)\}", one.text)
            row = math.prod(int(side) for side in sides[1].split(",") if side) if sides else 1
            rows += max(result.numbers // max(row, 1), 1)
        else:
            update = next((array for array in taken[2:] if array), arrays(one.result)[0])
            window = re.search(r"update_window_dims=\{([\d,]*)\}", one.text)
            kept = {int(at) for at in window[1].split(",") if at} if window else set()
            row = math.prod(side for at, side in enumerate(update.shape) if at in kept)
            rows += max(update.numbers // max(row, 1), 1)
        source = taken[0].shape if taken and taken[0] else ()
        # A table that the core's memory holds beside is changed there and written out once.
        held = re.search(
            r'"used_scoped_memory_configs":\[\{"memory_space":"1","offset":"\d+","size":"(\d+)"', each.text
        )
        room = int(held[1]) if held and kind == "scatter" else 0
        far = any(array.space == HBM and array.shape == source and array.size > room for array in table)
        how = f"{'rows' if row > 1 else 'numbers'} {'far' if far else 'near'}"
        if kind == "scatter" and far and (row == 1 or "indices_are_sorted=true" in one.text):
            how += " in order"
    return max(rows, 1), how


def _size(each: Instruction, kind: str) -> tuple[int, int, int]:
    """The length that a sort sorts; registers of 1,024 numbers of its result; arrays that are ordered together."""
    outs = arrays(each.result)
    if kind == "sort":
        along = re.search(r"dimensions=\{(\d+)", each.text)
        length = outs[0].shape[int(along[1])] if along and outs[0].shape else outs[0].numbers
        return length, math.ceil(outs[0].size / REGISTER), len(outs)
    return 0, sum(math.ceil(array.size / REGISTER) for array in outs), 1


def _of_kernel(name: str, taken: Sequence[Instruction]) -> float:
    """Of a kernel of attention its products of all queries by all keys, what a mask hides among them; else 0."""
    products = next((count for begin, count in ATTENTION.items() if name.startswith("%" + begin)), 0)
    shapes = [array.shape for line in taken for array in arrays(line.result) if len(array.shape) == 4]
    if not products or len(shapes) < 2:
        return 0.0
    query, key = shapes[:2]
    return 2.0 * products * math.prod(query) * key[-2]


def _flop(one: Instruction, defined: dict[str, Instruction]) -> float:
    """Multiplications and additions of a matrix product, those with what a window finds beyond an edge left out."""
    if one.opcode not in ("convolution", "dot"):
        return 0.0
    taken = operands(one)
    if len(taken) < 2 or any(name not in defined for name in taken[:2]):
        return 0.0
    left, right = (arrays(defined[name].result)[0].shape for name in taken[:2])
    out = arrays(one.result)[0]
    if one.opcode == "dot":
        sides = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", one.text)
        return (
            2.0 * out.numbers * math.prod(left[int(at)] for at in sides[1].split(",") if at) if sides else 0.0
        )
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", one.text)
    if labels is None:
        return 0.0
    found, groups = (
        re.search(r"window=\{([^}]*)\}", one.text),
        re.search(r"batch_group_count=(\d+)", one.text),
    )
    window = {
        key: value.split("x") for key, value in re.findall(r"(\w+)=([-\dx_]+)", found[1] if found else "")
    }
    # The kernel's input features are those of one group already.
    total = 2.0 * right[labels[2].index("i")] * right[labels[2].index("o")]
    total *= left[labels[1].index("b")] / (int(groups[1]) if groups else 1)
    for at in range(sum(letter.isdigit() for letter in labels[2])):
        sides = [
            shape[letters.index(str(at))]
            for shape, letters in ((left, labels[1]), (right, labels[2]), (out.shape, labels[3]))
        ]
        own = {key: values[at] for key, values in window.items()}
        steps = [int(own.get(key, 1)) for key in ("stride", "lhs_dilate", "rhs_dilate")]
        total *= _met(*sides, *steps, int(own.get("pad", "0_0").partition("_")[0]))
    return total


@functools.cache
def _met(base: int, kernel: int, out: int, stride: int, spread: int, reach: int, low: int) -> int:
    """Pairs of a place of the result and one of the kernel that meet a number of the base."""
    start = np.arange(out, dtype=np.int64) * stride - low
    met = 0
    for at in range(kernel):
        place = start + at * reach
        met += int(np.count_nonzero((place >= 0) & (place <= (base - 1) * spread) & (place % spread == 0)))
    return met
