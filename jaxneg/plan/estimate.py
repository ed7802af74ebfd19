"""What training would take on devices that are not there: the step of ``train``, compiled for them and never run."""

import dataclasses
import math
import re
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import rich.box
import rich.console
import rich.table
import rich.text

from jaxneg.config import Config, rules, saved
from jaxneg.data import pipeline, stores
from jaxneg.embeddings import sharding, tables
from jaxneg.errors import UserError
from jaxneg.plan import hlo, timing, tpu
from jaxneg.plan.tpu import GIB
from jaxneg.training import program

NOTE = (
    "An estimate by the compiler; nothing has run. It reckons with arithmetic and memory traffic; links are added at "
    "their published speed, as if nothing overlapped. Making batches, validation, saving and slow hosts come on top."
)
# What the fields of step.State are to a person; others are "other state".
PARTS = {
    "params": "parameters",
    "tables": "item tables",
    "opt_state": "optimiser state",
    "average": "averaged weights",
}
UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": GIB, "T": GIB << 10}


class Epoch(NamedTuple):
    """One pass over the training sequences."""

    sequences: int
    per_row: float = 0.0  # sequences that a packed row holds on average; 0 where each has a row of its own


UNKNOWN = Epoch(0)


def plan(
    config: Config,
    catalogue: program.Catalogue,
    where: tpu.Slice,
    *,
    epoch: Epoch = UNKNOWN,
    tries: int = 0,
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """What the step of a config takes on a slice, as plain numbers for JSON; where it does not fit, with a suggestion.

    Args:
      config: the experiment.
      catalogue: what its store decides.
      where: devices to compile for.
      epoch: how much there is to train on; where unknown, what an epoch takes is left out.
      tries: at most so many other settings are compiled where this one does not fit.
      say: told what is being compiled.
    """
    found = _estimate(config, catalogue, where, epoch, say)
    if found["fits"] is False and tries > 0:
        found["suggestion"], found["tried"] = _suggest(config, catalogue, where, epoch, tries, say)
    return found


def of_store(config: Config) -> tuple[program.Catalogue, Epoch]:
    """The catalogue of a config's store, and its epoch."""
    try:
        with stores.named("the config or --data.store says so"):
            store = stores.Store.open(config.data.store)
    except UserError as error:
        raise UserError(f"{error}; or give --items for a catalogue that is not there") from error
    batches = pipeline.of_config(config, store)
    per_row = batches.sequences_per_row if batches.form.packed else 0.0
    return program.catalogue_of(store), Epoch(batches.spans, per_row)


def per_chip(config: Config, where: tpu.Slice, sequences: int) -> Config:
    """The config with so many sequences a step on each chip; as it is with 0."""
    if not sequences:
        return config
    return dataclasses.replace(
        config, data=dataclasses.replace(config.data, batch_size=sequences * where.chips)
    )


def _estimate(config, catalogue, where, epoch, say) -> dict[str, Any]:
    mesh, parts = sharding.mesh_of(where.devices, config.train.shards), config.optim.accumulate
    sharding.check_batch(config.data.batch_size, mesh, parts, where.name)
    form = pipeline.form_of(config.data, epoch.per_row, mesh.size * parts)
    built = program.build(config, catalogue, mesh, form=form)
    memory = _arguments(built)
    found: dict[str, Any] = {
        "topology": where.name,
        "device": where.devices[0].device_kind,
        "devices": mesh.size,
        "chips": where.chips,
        "mesh": dict(mesh.shape),
        "batch_size": config.data.batch_size,
        "sequences_per_chip": config.data.batch_size / where.chips,
        "available_bytes": where.memory,
        "compiled": False,
        "note": NOTE,
    }
    if where.memory is not None and sum(memory.values()) > where.memory:
        return found | _memory(memory, where)
    say(f"compiling for {where.name}: {_shape(found)}")
    began = time.perf_counter()
    try:
        compiled = built.update.lower(built.state, built.batch, built.attribute_VA).compile()
    except jax.errors.JaxRuntimeError as error:
        if (needed := _refused(str(error), memory)) is None:
            raise
        memory["temporaries"] = max(needed - sum(memory.values()), 0)
        return found | _memory(memory, where)
    at_once = form.held * (epoch.per_row or 1.0)
    found |= {"compiled": True, "compile_seconds": time.perf_counter() - began}
    return found | _memory(memory | _rest(built, compiled), where) | _speed(compiled, where, at_once, epoch)


def _bytes(tree) -> int:
    """Bytes of a tree's arrays on one device."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
    )


def _arguments(built: program.Program) -> dict[str, int]:
    """Bytes on one device of what a step takes, by part."""
    memory = dict.fromkeys(PARTS.values(), 0) | {"other state": 0}
    for name, part in built.state._asdict().items():
        memory[PARTS.get(name, "other state")] += _bytes(part)
    memory["batch"] = _bytes(built.batch)
    memory["track attributes"] = _bytes(built.attribute_VA)
    return {name: size for name, size in memory.items() if size}


def _rest(built: program.Program, compiled) -> dict[str, int]:
    """Bytes on one device beside what a step takes. Of its results, most take the place of the old state."""
    stats = compiled.memory_analysis()
    places = jax.tree.leaves(compiled.input_shardings[0], is_leaf=lambda place: place is None)
    leaves = jax.tree.leaves((built.state, built.batch, built.attribute_VA))
    taken = _bytes([leaf for leaf, place in zip(leaves, places, strict=True) if place is not None])
    return {
        "padding of arrays to tiles": max(stats.argument_size_in_bytes - taken, 0),
        "temporaries": stats.temp_size_in_bytes,
        "results beside the state": max(stats.output_size_in_bytes - stats.alias_size_in_bytes, 0),
        "code": stats.generated_code_size_in_bytes,
    }


def _memory(memory: dict[str, int], where: tpu.Slice) -> dict[str, Any]:
    used = sum(memory.values())
    spare = None if where.memory is None else where.memory - used
    fits = None if spare is None else spare >= 0
    return {"memory": memory, "used_bytes": used, "fits": fits, "spare_bytes": spare}


def _refused(message: str, memory: dict[str, int]) -> int | None:
    """Bytes that the compiler says it needs in all, from its refusal; None where it fails for another reason."""
    if total := re.search(r"Used ([\d.]+)([KMGT]?) of [\d.]+[KMGT]? hbm", message):
        return int(float(total[1]) * UNITS[total[2]])
    if temporary := re.search(r"HLO temporaries \(([\d.]+)([KMGT]?)\) exceeds", message):
        return sum(memory.values()) + int(float(temporary[1]) * UNITS[temporary[2]])
    return None


def _speed(compiled, where: tpu.Slice, at_once: float, epoch: Epoch) -> dict[str, Any]:
    """What a compiled step sends and how long it takes, and what an epoch takes."""
    text = compiled.as_text()
    told = hlo.program(text)
    by_kind: dict[str, dict[str, float]] = {}
    for each in told.collectives:
        row = by_kind.setdefault(each.kind, {"count": 0, "bytes": 0.0})
        row["count"] += each.times
        row["bytes"] += each.sent
    per_chip = where.chip.devices if where.chip else 1
    on_chip = tpu.compiler_seconds(where, compiled.cost_analysis() or {}, told.custom_calls)
    on_links = tpu.link_seconds(where, told.collectives)
    found: dict[str, Any] = {
        "collectives": by_kind,
        "collective_bytes_per_chip": per_chip * sum(row["bytes"] for row in by_kind.values()),
        "loops": told.loops,
        "compiler_seconds": on_chip,
        "link_seconds": on_links,
    }
    if on_chip is None or on_links is None:
        return found
    found["step"] = timing.plain(timing.estimate(text, where))
    seconds = on_chip + on_links
    found |= {"step_seconds": seconds, "sequences_per_s": at_once / seconds}
    if epoch.sequences:
        steps = math.ceil(epoch.sequences / at_once)
        hours = steps * seconds / 3600
        found["epoch"] = {
            "sequences": epoch.sequences,
            "steps": steps,
            "hours": hours,
            "chip_hours": hours * where.chips,
        }
    return found


def _suggest(
    config, catalogue, where, epoch, tries, say
) -> tuple[dict[str, Any] | None, list[dict[str, Any]]]:
    """The plan of the first other setting that fits, and those compiled on the way that do not.

    First optimiser state of whole tables goes, then more devices share the tables, which costs no quality; then batches
    are halved, as long as what they save could be enough.
    """
    tried: list[dict[str, Any]] = []
    for other in _others(config, len(where.devices)):
        found = _estimate(other, catalogue, where, epoch, say) | {"options": _changed(config, other)}
        if found["fits"]:
            return found, tried
        if "temporaries" not in found["memory"]:
            continue  # was not compiled: the state alone is too much
        tried.append(found)
        if len(tried) > 1 and tried[-2]["batch_size"] == 2 * found["batch_size"]:
            # by half of the batch; all of it saves twice that
            saved = tried[-2]["used_bytes"] - found["used_bytes"]
            if found["used_bytes"] - saved > found["available_bytes"]:
                break
        if len(tried) == tries:
            break
    return None, tried


def _others(config: Config, devices: int) -> Iterator[Config]:
    """Settings to try, each beside those before it."""
    if config.optim.rows == "dense":
        rows = dataclasses.replace(config, optim=dataclasses.replace(config.optim, rows="adagrad"))
        if _allowed(rows):  # else nothing can be shared
            config = rows
            yield config
    for shards in sorted({1 << power for power in range(devices.bit_length())} | {devices}):
        more = dataclasses.replace(config, train=dataclasses.replace(config.train, shards=shards))
        if shards > config.train.shards and devices % shards == 0 and _allowed(more):
            config = more
            yield config
    while config.data.batch_size % (2 * devices) == 0:
        data = dataclasses.replace(config.data, batch_size=config.data.batch_size // 2)
        config = dataclasses.replace(config, data=data)
        yield config


def _allowed(config: Config) -> bool:
    try:
        rules.check(config)
        tables.check_shards(config.train.shards)
    except UserError:
        return False
    return True


def _changed(old: Config, new: Config) -> str:
    """The options that turn one config into the other."""
    return " ".join(change.option for change in saved.changes(old, new))


def _shape(found: dict[str, Any]) -> str:
    data, model = found["mesh"]["data"], found["mesh"]["model"]
    return f"mesh data {data} x model {model}, {found['batch_size']:,} sequences a step"


def render(plans: Sequence[dict[str, Any]], console: rich.console.Console | None = None) -> None:
    """Prints plans, one block each."""
    console = console or rich.console.Console()
    for found in plans:
        _render(found, console)
        if other := found.get("suggestion"):
            console.print(rich.text.Text(f"\nThis fits: {other['options']}", style="bold"))
            _render(other, console)
        elif "suggestion" in found:
            console.print(rich.text.Text(_missing(found)))
        console.print()
    console.print(rich.text.Text(NOTE))


def _missing(found: dict[str, Any]) -> str:
    """What is wanting where no setting fits."""
    nearest = min([*found["tried"], found], key=lambda plan: plan["used_bytes"])
    largest = max(nearest["memory"], key=nearest["memory"].__getitem__)
    tried = ", ".join(plan["options"] for plan in found["tried"]) or "none: the state alone is too much"
    return (
        f"Nothing that fits was found (compiled: {tried}). The nearest {verdict(nearest)}; most of it is {largest}, "
        f"{_size(nearest['memory'][largest])}. Take a larger slice, a smaller model, fewer negatives or shorter "
        "sequences."
    )


def _render(found: dict[str, Any], console: rich.console.Console) -> None:
    name = f"{found['topology']}  {found['chips']} chips ({found['device']}), {_shape(found)}"
    console.print(rich.text.Text(name, style="bold"))
    console.print(rich.text.Text(verdict(found)))
    table = rich.table.Table(box=rich.box.SIMPLE, show_header=False, padding=(0, 1))
    table.add_column()
    table.add_column(justify="right")
    for part, size in found["memory"].items():
        table.add_row(f"{part}, on a device", _size(size))
    table.add_section()
    if "collectives" in found:
        for kind, row in found["collectives"].items():
            table.add_row(f"{kind} x {row['count']}, a device sends", _size(row["bytes"]))
        table.add_row("a chip sends in a step", _size(found["collective_bytes_per_chip"]))
        table.add_section()
    if "step_seconds" in found:
        for name, seconds in (
            ("arithmetic and memory, by the compiler", found["compiler_seconds"]),
            ("links, at least", found["link_seconds"]),
            ("a step, both added", found["step_seconds"]),
        ):
            table.add_row(name, f"{1e3 * seconds:,.2f} ms")
        step = found["step"]
        for name, part in step["parts"].items():
            table.add_row(name, _span(part))
        table.add_row("a step by these", _span(step))
        table.add_section()
        table.add_row("sequences a second", f"{found['sequences_per_s']:,.0f}")
    if epoch := found.get("epoch"):
        table.add_row(f"hours of an epoch of {epoch['sequences']:,} sequences", f"{epoch['hours']:,.3g}")
        table.add_row("chip-hours", f"{epoch['chip_hours']:,.3g}")
    console.print(table)
    for line in warnings(found):
        console.print(rich.text.Text(line))


def verdict(found: dict[str, Any]) -> str:
    """Whether it fits, and by how much."""
    used = _size(found["used_bytes"])
    if found["fits"] is None:
        return f"takes {used} a device"
    limit, spare = _size(found["available_bytes"]), _size(abs(found["spare_bytes"]))
    least = "" if found["compiled"] else " or more"
    if found["fits"]:
        return f"fits: {used} of {limit} a device, {spare} to spare"
    return f"does not fit: {used}{least} of {limit} a device, {spare}{least} too much"


def warnings(found: dict[str, Any]) -> list[str]:
    """What makes an estimate too low."""
    loops = found.get("loops", [])
    lines = []
    if any(turns is not None and turns > 1 for turns in loops):
        turns = ", ".join(str(turn) for turn in loops if turn is not None and turn > 1)
        lines.append(
            f"The step has loops of {turns} turns. The time counts each body once and is too low; "
            "bytes count all turns."
        )
    if None in loops:
        lines.append(
            f"{loops.count(None)} loops end when their work is done, and count as one turn, in time and in bytes."
        )
    return lines


def _span(seconds: dict[str, float]) -> str:
    return f"{1e3 * seconds['low']:,.2f} to {1e3 * seconds['high']:,.2f} ms"


def _size(size: int | float) -> str:
    for unit, scale in (("GiB", GIB), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if size >= scale:
            return f"{size / scale:,.2f} {unit}"
    return f"{size:,.0f} bytes"
