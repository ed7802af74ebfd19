"""Other settings for a plan: the first that fits, and the one that is fastest by its estimate, each compiled."""

import dataclasses
import math
import time
from collections.abc import Callable, Iterator
from typing import Any

from jaxneg.config import Config, rules, saved
from jaxneg.embeddings import tables
from jaxneg.errors import UserError
from jaxneg.models import splash
from jaxneg.plan import estimate, tpu
from jaxneg.training import program

Planned = Callable[[Config], dict[str, Any]]  # the plan of another config


def planned(
    config: Config,
    catalogue: program.Catalogue,
    where: tpu.Slice,
    *,
    tries: int = 0,
    minutes: int = 0,
    **rest: Any,
) -> dict[str, Any]:
    """The plan of a config; with a suggestion where it does not fit, or with advice where it does.

    Args:
      config: the experiment.
      catalogue: what its store decides.
      where: devices to compile for.
      tries: at most so many other settings are compiled where this one does not fit.
      minutes: for compiling settings that may be faster; none is begun that would probably end later.
      rest: as ``estimate.plan`` takes it.
    """

    def plan(other: Config) -> dict[str, Any]:
        return estimate.plan(other, catalogue, where, **rest)

    found = plan(config)
    if found["fits"] is False and tries > 0:
        found["suggestion"], found["tried"] = _suggest(config, where, tries, plan)
    elif "step" in found and minutes > 0:
        found["advice"] = _advise(config, where, minutes, found, plan)
    return found


def _advise(
    config: Config, where: tpu.Slice, minutes: int, now: dict[str, Any], plan: Planned
) -> list[dict[str, Any]]:
    """The changes that were compiled, the best first, each with how much faster it is and what it costs besides."""
    began, longest, advice = time.perf_counter(), now["compile_seconds"], []
    for other, price in _faster(config, where):
        if time.perf_counter() - began + longest > 60 * minutes:
            break
        start = time.perf_counter()
        found = plan(other)
        longest = max(longest, time.perf_counter() - start)
        if "step" in found and found["fits"] is not False:
            faster = rate(found) / rate(now)
            advice.append({"options": changed(config, other), "faster": faster, "but": price, "plan": found})
    return sorted(advice, key=lambda each: -each["faster"])


def rate(found: dict[str, Any]) -> float:
    """Sequences a second of a plan: the geometric mean of its range."""
    return math.sqrt(found["sequences_per_s"]["low"] * found["sequences_per_s"]["high"])


def _faster(config: Config, where: tpu.Slice) -> Iterator[tuple[Config, str]]:
    """Settings that may be faster, each a change to the config, with what the change means besides."""
    data, model = config.data, config.model
    heads = model.width // splash.LANES
    fused = {"attention": "fused", "dropout_attention": None}
    changes: list[tuple[bool, str, dict[str, Any], str]] = [
        (model.dtype == "float32", "model", {"dtype": "bfloat16"}, "products of 8 bits of mantissa"),
        (
            bool(where.chip) and 0 < heads < model.heads,
            "model",
            {"heads": heads},
            "another model: fewer, wider heads",
        ),
        (
            data.negatives > data.shared_negatives,
            "data",
            {"negatives": 0, "p_hard": 0.0, "shared_negatives": max(data.shared_negatives, 256)},
            "negatives are those of the batch and no longer each position's own",
        ),
        (True, "data", {"batch_size": 2 * data.batch_size}, "half as many updates an epoch"),
        (model.attention == "plain", "model", fused, "no dropout on attention weights"),
        (
            model.residual == "float32",
            "model",
            {"residual": "bfloat16", "dtype": "bfloat16"},
            "its cost in quality has not been measured",
        ),
        (config.train.shards > 1, "train", {"shards": config.train.shards // 2}, ""),
        (config.optim.rows == "dense", "optim", {"rows": "adagrad"}, "rows that are not in a batch rest"),
    ]
    for useful, part, fields, price in changes:
        other = dataclasses.replace(config, **{part: dataclasses.replace(getattr(config, part), **fields)})
        if useful and _allowed(other):
            yield other, price


def _suggest(
    config: Config, where: tpu.Slice, tries: int, plan: Planned
) -> tuple[dict[str, Any] | None, list[dict[str, Any]]]:
    """The plan of the first other setting that fits, and those compiled on the way that do not.

    First optimiser state of whole tables goes, then more devices share the tables, which costs no quality; then batches
    are halved, as long as what they save could be enough.
    """
    tried: list[dict[str, Any]] = []
    for other in _others(config, len(where.devices)):
        found = plan(other) | {"options": changed(config, other)}
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


def changed(old: Config, new: Config) -> str:
    """The options that turn one config into the other."""
    return " ".join(change.option for change in saved.changes(old, new))
