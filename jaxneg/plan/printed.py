"""Plans for people."""

from collections.abc import Sequence
from typing import Any

import rich.box
import rich.console
import rich.table
import rich.text

from jaxneg.plan import estimate
from jaxneg.plan.tpu import GIB

NOTE = (
    "Estimates: nothing has run. Low ends are what no run can beat by published figures and the compiler's schedules; "
    "high ends add everything up, as if nothing overlapped. Waiting for batches, validation, saving and slow hosts "
    "come on top."
)


def render(plans: Sequence[dict[str, Any]], console: rich.console.Console | None = None) -> None:
    """Prints plans, one block each."""
    console = console or rich.console.Console()
    for found in plans:
        _render(found, console)
        if other := found.get("suggestion"):
            _say(console, f"\nThis fits: {other['options']}", "bold")
            _render(other, console)
        elif "suggestion" in found:
            _say(console, _missing(found))
        for line in advised(found):
            _say(console, line)
        console.print()
    _say(console, NOTE)


def _say(console: rich.console.Console, text: str, style: str = "") -> None:
    console.print(rich.text.Text(text, style=style))


def advised(found: dict[str, Any]) -> list[str]:
    """What to change, by what was compiled."""
    if "advice" not in found:
        return []
    if not found["advice"]:
        return ["No change was compiled in the minutes of --advise: give more."]
    better = [each for each in found["advice"] if each["faster"] > 1.02]
    lines = [
        f"{each['options']}: {each['faster']:.2f} times the sequences a second"
        + (f" ({each['but']})" if each["but"] else "")
        for each in better
    ]
    worse = [each["options"] for each in found["advice"] if each not in better]
    if worse:
        lines.append(f"No help, compiled too: {'; '.join(worse)}")
    return ["What would help, by compiling it:", *lines] if better else lines


def _missing(found: dict[str, Any]) -> str:
    """What is wanting where no setting fits."""
    nearest = min([*found["tried"], found], key=lambda plan: plan["used_bytes"])
    largest = max(nearest["memory"], key=nearest["memory"].__getitem__)
    tried = ", ".join(plan["options"] for plan in found["tried"]) or "none: the state alone is too much"
    return (
        f"Nothing that fits was found (compiled: {tried}). The nearest {verdict(nearest)}; most of it is {largest}, "
        f"{size(nearest['memory'][largest])}. Take a larger slice, a smaller model, fewer negatives or shorter "
        "sequences."
    )


def _render(found: dict[str, Any], console: rich.console.Console) -> None:
    _say(
        console, f"{found['topology']}  {found['chips']} x {found['device']}, {estimate.shape(found)}", "bold"
    )
    _say(console, verdict(found))
    table = rich.table.Table(box=rich.box.SIMPLE, show_header=False, padding=(0, 1))
    table.add_column()
    table.add_column(justify="right")
    for part, bytes_ in found["memory"].items():
        table.add_row(f"{part}, on a device", size(bytes_))
    table.add_section()
    for kind, row in found.get("collectives", {}).items():
        table.add_row(f"{kind} x {row['count']}, a device sends", size(row["bytes"]))
    if "collectives" in found:
        table.add_row("a chip sends in a step", size(found["collective_bytes_per_chip"]))
        table.add_section()
    if step := found.get("step"):
        for name, part in step["parts"].items():
            table.add_row(name, _ms(part))
        table.add_row(f"a step; bound by {step['bound']}", _ms(step), style="bold")
        table.add_section()
        table.add_row("sequences a second", _span(found["sequences_per_s"], ",.0f"))
    if epoch := found.get("epoch"):
        table.add_row(f"hours of an epoch, {epoch['sequences']:,} sequences", _span(epoch["hours"], ",.3g"))
        table.add_row("chip-hours", _span(epoch["chip_hours"], ",.3g"))
        if epoch["money"]:
            table.add_row("money, in that of --price", _span(epoch["money"], ",.2f"))
    for part, bytes_ in found["host"]["parts"].items():
        table.add_row(f"{part}, on a host", size(bytes_))
    console.print(table)
    for line in (*found["warnings"], *warnings(found)):
        _say(console, line)


def verdict(found: dict[str, Any]) -> str:
    """Whether it fits, and by how much."""
    used = size(found["used_bytes"])
    if found["fits"] is None:
        return f"takes {used} a device"
    limit, spare = size(found["available_bytes"]), size(abs(found["spare_bytes"]))
    least = "" if found["compiled"] else " or more"
    if found["fits"]:
        return f"fits: {used} of {limit} a device, {spare} to spare"
    return f"does not fit: {used}{least} of {limit} a device, {spare}{least} too much"


def warnings(found: dict[str, Any]) -> list[str]:
    """What a plan cannot know, and what it would be told in vain elsewhere."""
    lines = []
    if endless := found.get("loops", []).count(None):
        lines.append(
            f"{endless} loops end when their work is done, and count as one turn, in time and in bytes."
        )
    if step := found.get("step"):
        counted = step["compiler_cycles"]
        lines.append(
            f"{step['share_of_rules']:.0%} of the high end stands on rules for what the compiler counts no cycles for."
            if counted
            else "Bytes are those of the step as compiled for a CPU; nothing was compiled for a GPU."
        )
    if found["host"]["reads_all"]:
        lines.append(
            f"Each of {found['host']['hosts']} hosts reads the whole store and makes whole batches: "
            f"--data.blocks {found['host']['hosts']} has each make its own part."
        )
    return lines


def _ms(seconds: dict[str, float]) -> str:
    return f"{1e3 * seconds['low']:,.2f} to {1e3 * seconds['high']:,.2f} ms"


def _span(found: dict[str, float], form: str) -> str:
    return f"{found['low']:{form}} to {found['high']:{form}}"


def size(count: int | float) -> str:
    for unit, scale in (("GiB", GIB), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if count >= scale:
            return f"{count / scale:,.2f} {unit}"
    return f"{count:,.0f} bytes"
