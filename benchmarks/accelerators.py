"""Positions a second, share of the peak, memory and the longest operations of a training step, over widths and lengths.

    .venv/bin/python benchmarks/accelerators.py [--dtype bfloat16] [--attention fused] [--peak TFLOPS] [--smoke]

SASRec of 2 blocks with a head for each 64 of the width, a feed-forward part as wide as the model, dropout 0.2, one
uniform negative per position, Adam, 100,000 items; made-up batches of full rows, some 200,000 positions each, which
--positions changes; --sequences packs so many into a row. Widths 64, 128, 512 and 1024, lengths 50, 200 and 1024;
--widths and --lengths take others. All devices share a batch, or as many as --devices says. --smoke is two small cells,
which take a CPU some seconds.

Prints one JSON line per cell, the smallest width first:

    positions_per_s  step_ms   medians over windows; _min and _max are the ends
    flop_counted     that XLA counts of a step, on one device: what kernels compute is not among it
    flop_products    of its matrix products, on one device, by 3 B L (n (12 D^2 + 2 L D) + 4 D) of n blocks, forward and
                     twice that backward, of attention the half that is seen
    mfu  mfu_counted  flop_products and flop_counted a second over the peak; null where the peak is not known
    program_gb       of arguments, results and temporaries of the program, by the compiler
    peak_gb          that this process has ever held on a device, earlier cells too; null where it does not say
    operations       the ten that take longest in a trace: ms a step, of all devices, and share of all operations
    error            instead of these, where the device has no room for the cell

The peak of a device is that published for dense products in 16 bits, for float32 of TF32 on GPUs and of 16 bits on
TPUs, which compute it in passes of these; --peak gives another.
"""

import argparse
import collections
import json
import pathlib
import statistics
import tempfile
import time
from typing import Any

import jax
import numpy as np

from jaxneg import batch as batches
from jaxneg.config import Config, DataConfig, ModelConfig, OptimConfig
from jaxneg.embeddings import sharding
from jaxneg.training import chips, program

LAYERS = 2
TRACED = 3  # steps


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--widths", type=int, nargs="+", default=[64, 128, 512, 1024])
    parser.add_argument("--lengths", type=int, nargs="+", default=[50, 200, 1024])
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], default="bfloat16")
    parser.add_argument("--residual", choices=["bfloat16", "float32"], default="float32")
    parser.add_argument("--attention", choices=["fused", "plain"], default="fused")
    parser.add_argument("--sequences", type=int, default=1, help="sequences in a row")
    parser.add_argument("--positions", type=int, default=204_800, help="positions of a batch, about")
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--windows", type=int, default=6)
    parser.add_argument("--steps", type=int, default=8, help="steps in a window")
    parser.add_argument("--devices", type=int, default=0, help="0 takes all")
    parser.add_argument("--peak", type=float, help="TFLOP/s of a device")
    parser.add_argument("--smoke", action="store_true", help="a few small cells, to see that it works")
    args = parser.parse_args()
    if args.smoke:
        args.widths, args.lengths, args.positions, args.items = [32], [8, 80], 640, 100
        args.windows, args.steps = 2, 1
    for width in sorted(args.widths):
        for length in sorted(args.lengths):
            print(json.dumps(cell(width, length, args)), flush=True)


def cell(width: int, length: int, args: argparse.Namespace) -> dict[str, Any]:
    """The line of a width and a length."""
    device, devices = jax.devices()[0], args.devices or jax.device_count()
    rows = max(1, args.positions // length // devices) * devices
    line: dict[str, Any] = {
        "benchmark": "accelerators",
        "width": width,
        "length": length,
        "rows": rows,
        "sequences": args.sequences,
        "items": args.items,
        **{name: getattr(args, name) for name in ("dtype", "residual", "attention")},
        "device": device.device_kind,
        "devices": devices,
        "jax": jax.__version__,
    }
    try:
        return line | measured(config_of(width, length, rows, args), args)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return line | {"error": str(error).partition("\n")[0]}


def config_of(width: int, length: int, rows: int, args: argparse.Namespace) -> Config:
    """Plain SASRec of a width, over rows of a length."""
    return Config(
        data=DataConfig(length=length, batch_size=rows, negatives=1, p_hard=0.0, target="any"),
        model=ModelConfig(
            width=width,
            layers=LAYERS,
            heads=max(1, width // 64),
            dropout=0.2,
            feedback="none",
            station=False,
            attributes=False,
            item_bias="none",
            dtype=args.dtype,
            residual=args.residual,
            attention=args.attention,
        ),
        optim=OptimConfig(warmup_steps=0, clip=0.0),
    )


def measured(config: Config, args: argparse.Namespace) -> dict[str, Any]:
    """What a cell's line says of its step."""
    rows, length, width = config.data.batch_size, config.data.length, config.model.width
    form = batches.Form(rows, length, packed=args.sequences > 1)
    mesh = sharding.make_mesh(args.devices)
    built = program.build(config, program.Catalogue(args.items, 0, ()), mesh, form=form)
    compiled = built.update.lower(built.state, built.batch, built.attribute_VA).compile()
    batch = sharding.put_fields(made(built.batch, args.items, args.sequences), mesh)
    attribute_VA = jax.device_put(np.zeros(built.attribute_VA.shape, np.int32), built.attribute_VA.sharding)
    state = built.init()

    def steps(count: int) -> float:
        """Seconds of so many."""
        nonlocal state
        began = time.perf_counter()
        for _ in range(count):
            state, metrics = compiled(state, batch, attribute_VA)
        jax.block_until_ready((state, metrics))
        return time.perf_counter() - began

    steps(2)
    ms = [1000 * steps(args.steps) / args.steps for _ in range(args.windows)]
    median, positions = statistics.median(ms), rows * length
    costs, memory = compiled.cost_analysis(), compiled.memory_analysis()
    products = flop(rows, length, width) / mesh.size
    published = chips.peak(jax.devices()[0].device_kind, config.model.dtype)
    peak = args.peak or (published and published / 1e12)

    def share(flop: float) -> float | None:
        return round(flop / (median * 1e9 * peak), 4) if peak else None

    held = (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
    program_bytes = (
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        + memory.temp_size_in_bytes
        - memory.alias_size_in_bytes
    )
    return {
        "positions_per_s": round(1000 * positions / median),
        "positions_per_s_min": round(1000 * positions / max(ms)),
        "positions_per_s_max": round(1000 * positions / min(ms)),
        "step_ms": round(median, 3),
        "step_ms_min": round(min(ms), 3),
        "step_ms_max": round(max(ms), 3),
        "flop_counted": costs.get("flops", 0.0),
        "flop_products": products,
        "peak_tflops": peak,
        "mfu": share(products),
        "mfu_counted": share(costs.get("flops", 0.0)),
        "program_gb": round(program_bytes / 1e9, 4),
        "peak_gb": held and round(held / 1e9, 4),
        "operations": longest(steps),
    }


def made(shapes: batches.Batch, items: int, sequences: int) -> batches.Batch:
    """A batch of full rows, each of so many sequences of one length."""
    rng = np.random.default_rng(0)
    B, L = shapes.item_BL.shape
    fields = {name: np.zeros(leaf.shape, leaf.dtype) for name, leaf in shapes._asdict().items()}
    for name in ("item_BL", "target_BL", "negative_BLN"):
        fields[name] = rng.integers(1, items + 1, fields[name].shape, np.int32)
    fields["label_BL"] += 1
    if sequences > 1:
        fields["segment_BL"] = np.broadcast_to(1 + np.arange(L, dtype=np.int32) * sequences // L, (B, L))
    return batches.Batch(**fields)


def flop(rows: int, length: int, width: int) -> float:
    """FLOP of the matrix products of one step."""
    return 3 * rows * length * (LAYERS * (12 * width**2 + 2 * length * width) + 4 * width)


def longest(steps: Any) -> list[dict[str, Any]]:
    """The ten operations that take longest in some steps, each by its name in the compiled program."""
    with tempfile.TemporaryDirectory() as directory:
        with jax.profiler.trace(directory):
            steps(TRACED)
        [path] = pathlib.Path(directory).rglob("*.xplane.pb")
        planes = list(jax.profiler.ProfileData.from_file(str(path)).planes)
        on_device = [plane for plane in planes if plane.name.startswith("/device:")]
        nanoseconds: collections.Counter[str] = collections.Counter()
        for plane in on_device or planes:
            lines = [
                line for line in plane.lines if not on_device or line.name.startswith(("XLA Ops", "Stream"))
            ]
            for event in (event for line in lines for event in line.events):
                name = dict(event.stats).get("hlo_op") or (on_device and event.name.partition(" = ")[0])
                if name and not event.name.startswith("end: "):
                    nanoseconds[str(name)] += event.duration_ns
    total = sum(nanoseconds.values())
    return [
        {"name": name, "ms": round(each / TRACED / 1e6, 4), "share": round(each / total, 4)}
        for name, each in nanoseconds.most_common(10)
    ]


if __name__ == "__main__":
    main()
