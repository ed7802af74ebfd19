"""What training on a catalogue of 100 million songs would take on TPUs and GPUs, by their figures: nothing runs.

    .venv/bin/python benchmarks/plan.py [--slices v5e:4x4 v5e:16x16] [--negatives own] [--calibrate]

Needs pip install 'jaxneg[tpu]', 4 GB of memory and some minutes of a core a row, one for GPUs. Plans
configs/plan_100m.py, 64 sequences a chip, its rows spread over all chips; --negatives own gives every position 256
negatives of its own. --calibrate plans a layer whose share of the peak is published (CALIBRATED), some minutes a
chip, and a step for this CPU, which is run.
Rows replace their like in benchmarks/results/plan.json; plan.md beside it is made of all of them. Prints one JSON
object with the ratios of v5e:16x16 to v5e:4x4.
"""

import argparse
import importlib.metadata
import json
import pathlib
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxneg import config as configs, files, progress
from jaxneg.embeddings import sharding
from jaxneg.plan import costs, estimate, gpu, machines, places, printed, timing, tpu
from jaxneg.training import program

ROOT = pathlib.Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
SLICES = ("v5e:16x16", "v5e:4x4", "v5p:4x4x4", "v6e:16x16", "tpu7x:4x4x4", "h100:8x2", "h200:8x2", "b200:8x2")
PER_CHIP, SEQUENCES = 64, 100_000_000
CATALOGUE = program.Catalogue(items=99_999_999, stations=1000, attributes=())
NEGATIVES = {
    "shared": ("256 negatives shared by the batch", []),
    "own": (
        "256 negatives of each position's own",
        "--data.negatives 256 --data.p-hard 0 --data.shared-negatives 0 --loss.log-q none".split(),
    ),
}
SMALL, LARGE = "v5e:4x4", "v5e:16x16"
# Model FLOP utilisation of Llama 2 70B at 4,096 tokens as MaxText publishes it: "Run Llama2" (v4-128, v5p-128, v5e-256)
# and "Optimized models tiering" (v6e, 256 chips).
CALIBRATED = {"v4:2x2x1": 0.57, "v5e:2x2": 0.57, "v5p:2x2x1": 0.65, "v6e:2x2": 0.438}
OTHERS = ("calibration", "cpu")
TOKENS, WIDTH, WIDER, KEYS = 4096, 8192, 28672, 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--slices", nargs="*", default=SLICES, metavar="NAME")
    parser.add_argument("--negatives", choices=NEGATIVES, default="shared")
    parser.add_argument("--calibrate", action="store_true")
    asked = parser.parse_args()
    found: dict[str, Any] = {}
    for where in places.places(asked.slices):
        found = kept(NEGATIVES[asked.negatives][0], where.name, planned(where, NEGATIVES[asked.negatives][1]))
    if asked.calibrate:
        for name, mfu in CALIBRATED.items():
            found = kept("calibration", name, calibrated(name) | {"published_mfu": mfu})
        found = kept("cpu", "cpu", of_cpu())
    print(json.dumps({title: ratios(rows) for title, rows in found.items() if title not in OTHERS}))


def kept(title: str, name: str, row: dict[str, Any]) -> dict[str, Any]:
    """All rows with this one; another process may have added some."""
    path = RESULTS / "plan.json"
    rows: dict[str, dict[str, Any]] = json.loads(path.read_text()) if path.is_file() else {}
    versions = {package: importlib.metadata.version(package) for package in ("jax", "libtpu")}
    rows.setdefault(title, {})[name] = row | {"versions": versions}
    files.write_text(path, json.dumps(rows, indent=1) + "\n")
    files.write_text(RESULTS / "plan.md", markdown(rows))
    return rows


def planned(where: tpu.Slice, options: list[str]) -> dict[str, Any]:
    """The plan of one slice."""
    config = configs.load(ROOT / "configs" / "plan_100m.py")
    config = configs.override(config, [*options, "--train.shards", str(len(where.devices))])
    config = estimate.per_chip(config, where, PER_CHIP)
    return estimate.plan(config, CATALOGUE, where, epoch=costs.Epoch(SEQUENCES), say=progress.say)


def calibrated(name: str) -> dict[str, Any]:
    """Share of the peak that a layer of Llama 2 70B reaches by its range, forward and backward, computed twice."""
    where = tpu.tpu(name)
    place = jax.sharding.SingleDeviceSharding(where.devices[0])
    sides = {
        "query": (WIDTH, WIDTH),
        "key": (WIDTH, KEYS),
        "value": (WIDTH, KEYS),
        "out": (WIDTH, WIDTH),
        "gate": (WIDTH, WIDER),
        "up": (WIDTH, WIDER),
        "down": (WIDER, WIDTH),
    }

    @jax.checkpoint
    def layer(weights, x):
        h = norm(x)
        mixed = (h @ weights["query"]) * jnp.tile(h @ weights["key"] + h @ weights["value"], WIDTH // KEYS)
        x = x + mixed @ weights["out"]
        h = norm(x)
        return x + (jax.nn.silu(h @ weights["gate"]) * (h @ weights["up"])) @ weights["down"]

    def norm(x):
        wide = x.astype(jnp.float32)
        return (wide * jax.lax.rsqrt((wide**2).mean(-1, keepdims=True) + 1e-5)).astype(x.dtype)

    def back(weights, x, cotangent):
        y, pull = jax.vjp(layer, weights, x)
        return y, pull(cotangent)

    def shaped(*shape: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=place)

    x = shaped(TOKENS, WIDTH)
    compiled = jax.jit(back).lower({key: shaped(*each) for key, each in sides.items()}, x, x).compile()
    found = timing.estimate(compiled.as_text() or "", where)
    assert where.chip is not None
    flop = 6.0 * TOKENS * sum(rows * columns for rows, columns in sides.values())
    shares = sorted(flop / seconds / (where.chip.peak * 1e12) for seconds in found.step)
    return {"step": found.plain(), "mfu": dict(zip(("low", "high"), shares, strict=True))}


def of_cpu() -> dict[str, Any]:
    """A step on this CPU, by the roofline of GPUs and as measured: in seconds of processors, which other work on the
    machine lengthens less than those of a clock."""
    config = configs.override(
        configs.load(ROOT / "configs" / "plan_100m.py"),
        "--data.batch-size 64 --train.shards 1 --model.dtype float32".split(),
    )
    built = program.build(config, program.Catalogue(99_999, 1000, ()), sharding.make_mesh(1))
    lowered = built.update.lower(built.state, built.batch, built.attribute_VA)
    compiled = lowered.compile()
    batch = jax.tree.map(lambda leaf: np.ones(leaf.shape, leaf.dtype), built.batch)
    batch = batch._replace(
        item_BL=np.random.default_rng(0).integers(1, 100_000, batch.item_BL.shape, np.int32)
    )
    attribute_VA, state = np.zeros(built.attribute_VA.shape, np.int32), [built.init()]

    def step():
        state[0], metrics = compiled(state[0], batch, attribute_VA)
        return metrics

    a = jnp.ones((2048, 2048), jnp.float32)
    long = jnp.ones(1 << 26, jnp.float32)
    peak = 2 * 2048**3 / busy(jax.jit(lambda: a @ a))
    rate = 2 * long.nbytes / busy(jax.jit(lambda: long + 1))
    counted: Any = lowered.cost_analysis()
    flop = counted.get("flops", 0.0)
    own = machines.Gpu(rate=rate / 1e9, link=1, net=1)
    found = gpu.estimate(compiled.as_text() or "", flop, own, 1, peak)
    return {"peak": peak, "rate": rate, "step": found.plain(), "measured": busy(step)}


def busy(call: Callable[[], Any], times: int = 7) -> float:
    """The median over calls of seconds of processors."""
    jax.block_until_ready(call())
    taken = []
    for _ in range(times):
        began = time.process_time()
        jax.block_until_ready(call())
        taken.append(time.process_time() - began)
    return statistics.median(taken)


def ratios(rows: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Figures of 256 chips over those of 16, rows and sequences a chip being the same."""
    if not all("step" in rows.get(name, {}) for name in (SMALL, LARGE)):
        return {}
    large, small = rows[LARGE], rows[SMALL]
    found = {f"step_{end}": round(large["step"][end] / small["step"][end], 3) for end in ("low", "high")}
    sent = "collective_bytes_per_chip"
    return found | {sent: round(large[sent] / small[sent], 3)}


def markdown(rows: dict[str, dict[str, Any]]) -> str:
    lines = [
        "# What 100 million songs take on TPUs and GPUs that are not here",
        "",
        "`.venv/bin/python benchmarks/plan.py --calibrate`: [configs/plan_100m.py](../../configs/plan_100m.py), 100 "
        f"million rows of 128 numbers spread over all chips, {PER_CHIP} sequences of 200 events on each chip, an epoch "
        f"of {SEQUENCES:,} sequences. One place alone is `jaxneg plan configs/plan_100m.py --items {CATALOGUE.items} "
        f"--stations {CATALOGUE.stations} --topology {LARGE} --per-chip {PER_CHIP}`.",
        "",
        f"**{printed.NOTE}** The ends are those of jaxneg/plan/timing.py for TPUs, whose compiler compiles the step, "
        "and of jaxneg/plan/gpu.py for GPUs, by roofline. Products, vectors and so on are what each part takes alone. "
        "The rounds of a lookup are a loop whose turns no compiler knows: one is counted, and one is the rule.",
    ]
    for title, plans in rows.items():
        if title in OTHERS:
            continue
        order = sorted(
            plans, key=lambda name: (name[0] != "v" and name[0] != "t", name[:3], plans[name]["chips"])
        )
        lines += [
            "",
            f"## {title[0].upper()}{title[1:]}",
            "",
            *table(STEP, [step_row(plans[name]) for name in order]),
        ]
        lines += ["", *table(PARTS, [parts_row(plans[name]) for name in order if "step" in plans[name]])]
        lines += ["", "Hosts: " + hosts(plans, order), "", versions(plans)]
        if ratio := ratios(plans):
            lines += [
                "",
                f"{LARGE} over {SMALL}, with the same rows and sequences a chip: low end {ratio['step_low']:.2f}, high "
                f"end {ratio['step_high']:.2f}, bytes sent a chip {ratio['collective_bytes_per_chip']:.2f}.",
            ]
    if layers := rows.get("calibration"):
        lines += [
            "",
            "## Against published figures",
            "",
            f"A layer of Llama 2 70B, {TOKENS:,} tokens on one device, by the same code: products of its projections, "
            "forward, backward and forward once more, without attention itself, optimiser and links. Published is the "
            "share of the peak of whole runs (MaxText), with all of these.",
            "",
            *table(CALIBRATION, [layer_row(name, row) for name, row in layers.items()]),
            "",
            versions(layers),
        ]
    if here := rows.get("cpu"):
        row = here["cpu"]
        step = row["step"]
        lines += [
            "",
            "The roofline of GPUs on the CPU that this ran on, with its own peak and rate measured "
            f"({row['peak'] / 1e9:,.0f} GFLOP/s, {row['rate'] / 1e9:,.1f} GB/s, per second of a processor), a step of "
            f"64 sequences over 100,000 songs: reckoned {span(step, ',.2f')} s, bound by {step['bound']}; measured "
            f"{row['measured']:,.2f} s, {row['measured'] / step['low']:.1f} times the low end and "
            f"{row['measured'] / step['high']:.2f} times the high end.",
        ]
    return "\n".join(lines) + "\n"


STEP = (
    "place",
    "chips",
    "memory a device, GiB",
    "step, ms",
    "bound by",
    "sequences/s",
    "hours",
    "chip-hours",
)
PARTS = ("ms of a step", *timing.NAMES.values(), "of the high end by rules")
CALIBRATION = ("chip", "share of the peak, reckoned", "published")


def table(columns: tuple[str, ...], rows: list[list[str]]) -> list[str]:
    return [
        "| " + " | ".join(columns) + " |",
        "|" + " --- |" + " ---: |" * (len(columns) - 1),
        *("| " + " | ".join(cells) + " |" for cells in rows),
    ]


def span(found: dict[str, float] | None, form: str, times: float = 1.0) -> str:
    return "–" if found is None else f"{times * found['low']:{form}} to {times * found['high']:{form}}"


def step_row(found: dict[str, Any]) -> list[str]:
    fits = "of" if found["fits"] else "**too much for**"
    used, room = (found[name] / tpu.GIB for name in ("used_bytes", "available_bytes"))
    cells = [found["topology"], str(found["chips"]), f"{used:.2f} {fits} {room:.2f}"]
    if "step" not in found:
        return cells + ["–"] * (len(STEP) - len(cells))
    epoch = found["epoch"]
    return [
        *cells,
        span(found["step"], ".1f", 1e3),
        found["step"]["bound"],
        span(found["sequences_per_s"], ",.0f"),
        span(epoch["hours"], ".2g"),
        span(epoch["chip_hours"], ".1f"),
    ]


def parts_row(found: dict[str, Any]) -> list[str]:
    step = found["step"]
    parts = [span(step["parts"].get(name), ".2f", 1e3) for name in timing.NAMES.values()]
    return [found["topology"], *parts, f"{step['share_of_rules']:.0%}"]


def layer_row(name: str, row: dict[str, Any]) -> list[str]:
    mfu = row["mfu"]
    return [name.partition(":")[0], f"{mfu['low']:.0%} to {mfu['high']:.0%}", f"{row['published_mfu']:.0%}"]


def hosts(plans: dict[str, dict[str, Any]], order: list[str]) -> str:
    """Memory of a host of each place, GiB."""
    each = (
        f"{name} {plans[name]['hosts']} x {plans[name]['host']['bytes'] / tpu.GIB:,.0f} GiB" for name in order
    )
    return (
        ", ".join(each)
        + " of memory, most of it the store in the page cache, of which each host of many reads all."
    )


def versions(rows: dict[str, dict[str, Any]]) -> str:
    found = sorted({f"{key} {value}" for row in rows.values() for key, value in row["versions"].items()})
    return f"Compiled with {', '.join(found)}."


if __name__ == "__main__":
    main()
