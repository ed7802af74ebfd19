"""What a compiled program sends between devices, read from its text (HLO).

Bytes are what one device sends where a collective runs at its best, in rings: with n devices in a group and R bytes of
result on each,

    all-gather       R (n - 1) / n        reduce-scatter       R (n - 1)
    all-reduce     2 R (n - 1) / n        collective-permute   R
    all-to-all       R (n - 1) / n        ragged-all-to-all    R (n - 1) / n, R being room, hence at most

The body of a loop counts as often as the compiler knows that it runs, once where it does not; of branches, all count.
"""

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

# Share of the result that a device sends, by the number of devices in its group.
SENT = {
    "all-gather": lambda n: (n - 1) / n,
    "all-reduce": lambda n: 2 * (n - 1) / n,
    "reduce-scatter": lambda n: n - 1.0,
    "all-to-all": lambda n: (n - 1) / n,
    "ragged-all-to-all": lambda n: (n - 1) / n,
    "collective-permute": lambda n: 1.0 if n > 1 else 0.0,
    "collective-broadcast": lambda n: 1.0 if n > 1 else 0.0,
}
BITS = {"pred": 8, "token": 0, "c64": 64, "c128": 128}  # others say theirs: f32, bf16, s8, f8e4m3fn
HEADER = re.compile(r"^(ENTRY )?%?([\w.-]+) \(.*\{\s*$")
ARRAY = re.compile(r"([a-z]\w*)\[([\d,<=]*)\]")
CALLED = re.compile(
    r"(calls|to_apply|body|condition|true_computation|false_computation|branch_computations)="
    r"(?:%([\w.-]+)|\{([^}]*)\})"
)


class Instruction(NamedTuple):
    name: str  # as "%add.1", or "ROOT %add.1" of the last
    result: str  # its type, as "(f32[8,128]{1,0}, u32[])"
    opcode: str
    text: str  # the whole line


class Collective(NamedTuple):
    kind: str  # a key of SENT
    size: int  # bytes of the result on each device
    group: int  # devices that take part
    times: int  # how often a step runs it

    @property
    def sent(self) -> float:
        """Bytes that one device sends in a step."""
        return self.times * self.size * SENT[self.kind](self.group)


class Program(NamedTuple):
    """What the text of a compiled program tells."""

    collectives: list[Collective]
    custom_calls: list[str]  # targets of those outside fusions, each as often as it is costed
    loops: list[int | None]  # turns of each loop; None where the compiler does not know them


def program(text: str) -> Program:
    """What a compiled program sends, calls and repeats. Takes ``compiled.as_text()``."""
    lines, entry = computations(text)
    found = Program([], [], [])
    if entry is not None:
        partitions = re.search(r"num_partitions=(\d+)", text)
        _walk(lines, entry, 1, False, int(partitions[1]) if partitions else 1, found, set())
    return found


def computations(text: str) -> tuple[dict[str, list[Instruction]], str | None]:
    """The instructions of each computation, and the name of the one that runs first."""
    found: dict[str, list[Instruction]] = {}
    entry, into = None, None
    for line in text.splitlines():
        if header := HEADER.match(line):
            into = found.setdefault(header[2], [])
            entry = header[2] if header[1] else entry
        elif line.rstrip() == "}":
            into = None
        elif into and not line.startswith(" "):  # a kernel's attributes, which take several lines
            into[-1] = into[-1]._replace(text=into[-1].text + line)
        elif into is not None and " = " in line:
            left, _, right = line.partition(" = ")
            right = re.sub(r"/\*.*?\*/", "", right)
            end = end_of(right)
            opcode = right[end:].strip().partition("(")[0]
            into.append(Instruction(left.strip(), right[:end], opcode, right))
    return found, entry


def end_of(text: str) -> int:
    """Where the type that begins the text ends: at the bracket of a tuple, or at the first space."""
    if not text.startswith("("):
        return text.find(" ")
    depth = 0
    for at, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if depth == 0:
            return at + 1
    return len(text)


def _walk(
    computations, name: str, times: int, fused: bool, devices: int, found: Program, seen: set[str]
) -> None:
    """Adds what one run of a computation does, and all that it calls, ``times`` over."""
    for instruction in computations.get(name, ()):
        kind = instruction.opcode.removesuffix("-start")
        if kind in SENT:
            # The compiler spreads an all-gather over several fusions to hide it: one channel, one transfer.
            channel = re.search(r"channel_id=(\d+)", instruction.text) if fused else None
            if channel is None or channel[1] not in seen:
                result = instruction.result
                # An asynchronous start gives (operands, results, ...), but for sums, which land where they came from.
                if instruction.opcode.endswith("-start") and kind != "all-reduce":
                    result = _second(result)
                size = _bytes(result)
                found.collectives.append(Collective(kind, size, _group(instruction.text, devices), times))
            if channel is not None:
                seen.add(channel[1])
        elif instruction.opcode == "custom-call":
            target = re.search(r'custom_call_target="([^"]*)"', instruction.text)
            if not fused and target:
                found.custom_calls.append(target[1])
            continue
        repeated = 1
        if instruction.opcode == "while":
            known = turns(instruction.text, computations)
            found.loops.append(known)
            repeated = known or 1
        if kind in SENT:
            continue  # what it applies adds two numbers
        inside = fused or instruction.opcode == "fusion"
        for inner in called(instruction.text):
            _walk(computations, inner, times * repeated, inside, devices, found, seen)


def turns(text: str, computations: dict[str, list[Instruction]]) -> int | None:
    """How often a loop turns: as the compiler notes it, or by a condition that a counter is below a constant.

    So JAX writes scans and counted loops, which begin at 0 and go up by 1.
    """
    if noted := re.search(r'known_trip_count"?[:=]\s*\{"?n"?[:=]"?(\d+)', text):
        return int(noted[1])
    condition = re.search(r"condition=%([\w.-]+)", text)
    lines = {line.name.split()[-1]: line for line in computations.get(condition[1], ())} if condition else {}
    for line in lines.values():
        below = re.search(r"compare\((%[\w.-]+), (%[\w.-]+)\), direction=LT", line.text)
        if line.name.startswith("ROOT") and below and set(below.groups()) <= lines.keys():
            counter, limit = (lines[name] for name in below.groups())
            constant = re.search(r"constant\((\d+)\)", limit.text)
            if counter.opcode == "get-tuple-element" and constant:
                return int(constant[1])
    return None


def called(text: str) -> Iterator[str]:
    for _, one, several in CALLED.findall(text):
        yield from [one] if one else re.findall(r"%([\w.-]+)", several)


def _second(result: str) -> str:
    """The second part of a tuple's type, the first where there is none, and a type that is no tuple as it is."""
    if not result.startswith("("):
        return result
    parts, depth, part = [], 0, ""
    for letter in result[1:-1]:
        depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and depth == 0:
            parts.append(part.strip())
            part = ""
        else:
            part += letter
    parts.append(part.strip())
    return parts[1] if len(parts) > 1 else parts[0]


def _bytes(result: str) -> int:
    """Bytes of all arrays in a type, without the padding of their layout."""
    total = 0
    for dtype, shape in ARRAY.findall(result):
        total += size_of(dtype, math.prod(int(size.lstrip("<=")) for size in shape.split(",") if size))
    return total


def size_of(dtype: str, count: int) -> int:
    """Bytes of so many numbers."""
    if (bits := BITS.get(dtype)) is None:
        bits = int(re.search(r"\d+", dtype)[0])  # type: ignore[index]
    return math.ceil(count * bits / 8)


def _group(text: str, devices: int) -> int:
    """How many devices exchange with one another. The text knows four ways to say it."""
    if pairs := re.search(r"source_target_pairs=\{(.*?)\}\}", text):
        moves = [pair for pair in re.findall(r"(\d+),(\d+)", pairs[1]) if pair[0] != pair[1]]
        return 2 if moves else 1
    if mesh := re.search(
        r"replica_groups=mesh\[([^\]]*)\]\s*\{([^}]*)\}", text
    ):  # axes of a mesh, or parts of them
        sizes = dict(re.findall(r"'([^']+)'=(\d+)", mesh[1]))
        axes = re.findall(r"'([^']+)'(?::\(\d+\)(\d+))?", mesh[2])
        return math.prod(int(part or sizes[axis]) for axis, part in axes)
    if iota := re.search(r"replica_groups=\[(\d+),(\d+)\]", text):  # groups, devices in each
        return int(iota[2])
    if listed := re.search(r"replica_groups=\{\{([\d,]*)\}", text):
        return len(listed[1].split(","))
    return devices
