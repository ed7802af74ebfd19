"""What training would take on devices that are not there: the step of ``train``, compiled and never run.

``plan`` gives plain numbers for JSON, ``SCHEMA`` being the version of their names; ``advice`` looks for other settings,
``printed`` writes for people.
"""

import dataclasses
import math
import re
import time
from collections.abc import Callable
from typing import Any

import jax

from jaxneg.config import Config, parts
from jaxneg.data import pipeline, stores
from jaxneg.embeddings import sharding
from jaxneg.errors import UserError
from jaxneg.models.splash import LANES
from jaxneg.plan import costs, gpu, hlo, timing, tpu
from jaxneg.plan.costs import UNKNOWN, Epoch
from jaxneg.plan.tpu import GIB
from jaxneg.training import chips, program

SCHEMA = 2  # changes where a name of what plan gives goes or means something else
# What the fields of step.State are to a person; others are "other state".
PARTS = {
    "params": "parameters",
    "tables": "item tables",
    "opt_state": "optimiser state",
    "average": "averaged weights",
}
UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": GIB, "T": GIB << 10}


def of_store(config: Config) -> tuple[program.Catalogue, Epoch]:
    """The catalogue of a config's store, and its epoch."""
    try:
        with stores.named("the config or --data.store says so"):
            store = stores.Store.open(config.data.store)
    except UserError as error:
        raise UserError(f"{error}; or give --items for a catalogue that is not there") from error
    batches = pipeline.of_config(config, store)
    per_row = batches.sequences_per_row if batches.form.packed else 0.0
    size = sum(path.stat().st_size for path in store.path.rglob("*") if path.is_file())
    return program.catalogue_of(store), Epoch(batches.spans, per_row, size)


def per_chip(config: Config, where: tpu.Slice, sequences: int) -> Config:
    """The config with so many sequences a step on each chip; as it is with 0."""
    if not sequences:
        return config
    return dataclasses.replace(
        config, data=dataclasses.replace(config.data, batch_size=sequences * where.chips)
    )


def plan(
    config: Config,
    catalogue: program.Catalogue,
    where: tpu.Slice,
    *,
    epoch: Epoch = UNKNOWN,
    price: float = 0.0,
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """What the step of a config takes on a slice, as plain numbers for JSON.

    Args:
      config: the experiment.
      catalogue: what its store decides.
      where: devices to compile for.
      epoch: how much there is to train on; where unknown, what an epoch takes is left out.
      price: of a chip and hour, in any money; 0 leaves what an epoch costs out.
      say: told what is being compiled.
    """
    mesh, pieces = sharding.mesh_of(where.devices, config.train.shards), config.optim.accumulate
    sharding.check_batch(config.data.batch_size, mesh, pieces, where.name)
    form = pipeline.form_of(config.data, epoch.per_row, mesh.size * pieces)
    built = program.build(config, catalogue, mesh, form=form)
    memory = _arguments(built)
    found: dict[str, Any] = {
        "topology": where.name,
        "device": where.kind,
        "devices": mesh.size,
        "chips": where.chips,
        "hosts": where.hosts,
        "mesh": dict(mesh.shape),
        "batch_size": config.data.batch_size,
        "sequences_per_chip": config.data.batch_size / where.chips,
        "available_bytes": where.memory,
        "host": costs.of_host(config, epoch, where, _whole(built.batch), _bytes(built.state)),
        "warnings": lanes(config, where),
        "compiled": False,
    }
    if where.memory is not None and sum(memory.values()) > where.memory:
        return found | _memory(memory, where)
    say(f"compiling for {where.name}: {shape(found)}")
    began = time.perf_counter()
    lowered = built.update.lower(built.state, built.batch, built.attribute_VA)
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if (needed := _refused(str(error), memory)) is None:
            raise
        memory["temporaries"] = max(needed - sum(memory.values()), 0)
        return found | _memory(memory, where)
    at_once = form.held * (epoch.per_row or 1.0)
    found |= {"compiled": True, "compile_seconds": time.perf_counter() - began}
    found |= _memory(memory | _rest(built, compiled), where)
    return found | _speed(lowered, compiled, config.model.dtype, where, at_once, epoch, price)


def shape(found: dict[str, Any]) -> str:
    """Mesh and batch of a plan."""
    data, model = found["mesh"]["data"], found["mesh"]["model"]
    return f"mesh data {data} x model {model}, {found['batch_size']:,} sequences a step"


def lanes(config: Config, where: tpu.Slice) -> list[str]:
    """What of a config leaves lanes of a TPU empty: its registers and tiles hold 128 numbers in a line."""
    width, heads = config.model.width, config.model.heads
    if where.chip is None:
        return []
    if width % LANES:
        return [
            f"--model.width {width} fills {width / (-(-width // LANES) * LANES):.0%} of lines of {LANES} numbers"
        ]
    if parts.ENCODERS[config.model.encoder].blocks and width // heads < LANES:
        best = f"; --model.heads {width // LANES} fills them" if width >= LANES else ""
        return [
            f"heads of {width // heads} numbers fill {width / heads / LANES:.0%} of {LANES} lanes in attention{best}"
        ]
    return []


def _bytes(tree) -> int:
    """Bytes of a tree's arrays on one device."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
    )


def _whole(tree) -> int:
    """Bytes of a tree's arrays on all devices together, copies counted once."""
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


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


def _speed(
    lowered, compiled, dtype: str, where: tpu.Slice, at_once: float, epoch: Epoch, price: float
) -> dict[str, Any]:
    """What a compiled step sends and how long it takes, and what an epoch takes."""
    text = compiled.as_text()
    told = hlo.program(text)
    by_kind: dict[str, dict[str, float]] = {}
    for each in told.collectives:
        row = by_kind.setdefault(each.kind, {"count": 0, "bytes": 0.0})
        row["count"] += each.times
        row["bytes"] += each.sent
    a_chip = where.chip.devices if where.chip else 1
    found: dict[str, Any] = {
        "collectives": by_kind,
        "collective_bytes_per_chip": a_chip * sum(row["bytes"] for row in by_kind.values()),
        "loops": told.loops,
    }
    if where.chip:
        reckoned = timing.estimate(text, where)
    elif where.card:
        flop = (lowered.cost_analysis() or {}).get("flops", 0.0) / len(where.devices)
        peak = chips.peak(where.card.kind, dtype) or math.nan
        reckoned = gpu.estimate(text, flop, where.card, where.sides[0], peak)
    else:
        return found
    step = reckoned.step
    found |= {
        "step": reckoned.plain(),
        "sequences_per_s": {"low": at_once / step.high, "high": at_once / step.low},
    }
    if epoch.sequences:
        found["epoch"] = costs.of_epoch(epoch, at_once, step, where, price)
    return found
