"""Positions trained per second, in the setting of published SASRec code on MovieLens-1M.

    .venv/bin/python benchmarks/train_step.py [--quick] [--together K] [--devices N]

6,040 users, 3,416 items, width 64, 2 blocks, 1 head, feed-forward width 64, dropout 0.2, batch 128, Adam at
1e-3, float32, binary cross-entropy with one uniform negative per position, inputs of 50 and of 200. The
sequences are synthetic and seeded; their lengths reproduce the real non-pad positions per sequence, 44.0 at
L = 50 and 107.2 at L = 200. Every event is a play, so each position is a target; feedback, station,
attributes and item biases are off, so the model does the work of a plain SASRec. The loop is that of
training: batches from the loader, put on the device, one jitted step. 8 steps warm up, then 48 in 6 windows.

For comparison, others in this setting on 2 cores of an AMD EPYC with AVX-512, measured once, in non-pad
positions/s at L = 200 and at L = 50: pmixer/SASRec.pytorch 38,649 and 75,750; RecTools 0.19.0 40,135 and
92,066; the Keras-RS example on JAX 48,527 and 102,239; a plain hand-made JAX step 32,938 and 78,707. Take
differences below a fifth for noise there, and do not compare figures of two machines.

On a CPU the allocator matters: XLA takes its buffers anew for each step, and much of the step is pages that are
mapped and cleared. Huge pages make them fewer; buffers below the size from which glibc maps each by itself, and ends
of the heap that are not given back, leave none (KEPT). That must be set before a process starts, so this script starts
itself again with it.

Prints one JSON line. For each length, under L50 and L200, with medians over windows:

    positions_per_s     non-pad positions; _min and _max are the slowest and the fastest window
    step_ms             likewise
    rows                of a batch, each of L positions; fewer than 128 where sequences share them
    floor_ms            time of 3 B L (2 (12 D^2 + 4 L D) + 4 D) FLOP at matmul_gflops, of B rows: the matrix
                        products, forward and twice that backward, over padding and the whole L x L attention
    floor_share         floor_ms / step_ms
    faults_per_step     minor page faults

With --devices N a CPU's cores are shared out among so many devices (--train.devices).

With --together K also, at each length under together, the time of K steps one by one over that of K in one call
(--train.steps-per-dispatch), in windows that take turns: ratio is the median, ratio_min and ratio_max the ends.

positions_per_s is that of L = 200; matmul_gflops is the best rate of 2048^3 float32 products in this run.
"""

import argparse
import json
import os
import pathlib
import resource
import statistics
import sys
import tempfile
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from pipeline import write_sessions  # beside this script

from jaxneg.config import Config, DataConfig, ModelConfig, OptimConfig
from jaxneg.data import pipeline, stores
from jaxneg.embeddings import sharding
from jaxneg.training import program

HUGE_PAGES = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
# And what a step frees stays with the process: glibc maps what is larger than 32 MiB anew each time, which is its
# highest limit, so XLA is told to part what a program needs.
KEPT = {
    "GLIBC_TUNABLES": ":".join(
        [*HUGE_PAGES.values(), "glibc.malloc.mmap_threshold=33554432", "glibc.malloc.top_pad=134217728"]
    ),
    "XLA_FLAGS": "--xla_multiheap_size_constraint_per_heap=30000000",
}
REPEATED = "JAXNEG_BENCHMARK_REPEATED"  # in the environment of a second start

USERS, ITEMS, BATCH_SIZE = 6040, 3416, 128
# Lengths are FLOOR + exp(normal): the mean of min(length, L) is 44.0 at L = 50 and 107.2 at L = 200.
FLOOR, MU, SIGMA = 10, 4.3828, 1.3608


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="2 steps to warm up, then 6 in 3 windows")
    parser.add_argument("--together", type=int, default=1, metavar="K", help="also K steps in one call")
    most = os.cpu_count() or 1
    told = f"that share a CPU's cores, up to {most} here"
    parser.add_argument("--devices", type=int, default=1, choices=range(1, most + 1), metavar="N", help=told)
    args = parser.parse_args()
    quick = args.quick
    start_with(KEPT)
    sharding.share_cores(args.devices)
    warmup, windows, steps_per_window = (2, 3, 2) if quick else (8, 6, 8)
    mesh = sharding.make_mesh(args.devices)
    gflops = matmul_gflops()
    found = {length: measure(length, warmup, windows, steps_per_window, mesh) for length in (50, 200)}
    gflops = max(gflops, matmul_gflops())
    config = setting(200, "")
    result: dict[str, Any] = {"benchmark": "train_step"}
    for length, (step_ms, rates, positions, faults, rows) in found.items():
        median = statistics.median(step_ms)
        floor_ms = flop(rows, length, config.model.width) / gflops / 1e6
        result[f"L{length}"] = {
            "positions_per_s": round(statistics.median(rates)),
            "positions_per_s_min": round(min(rates)),
            "positions_per_s_max": round(max(rates)),
            "step_ms": round(median, 1),
            "step_ms_min": round(min(step_ms), 1),
            "step_ms_max": round(max(step_ms), 1),
            "rows": rows,
            "floor_ms": round(floor_ms, 1),
            "floor_share": round(floor_ms / median, 3),
            "positions_per_sequence": round(positions, 1),
            "faults_per_step": round(faults),
        }
    if args.together > 1:
        for length in (50, 200):
            result[f"L{length}"]["together"] = together(length, args.together, windows, mesh)
    result |= {
        "positions_per_s": result["L200"]["positions_per_s"],
        "matmul_gflops": round(gflops),
        "users": USERS,
        "items": ITEMS,
        "batch_size": BATCH_SIZE,
        "warmup_steps": warmup,
        "windows": windows,
        "steps_per_window": steps_per_window,
        "glibc_tunables": os.environ.get("GLIBC_TUNABLES", ""),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "glibc_tunables_set_by": "this script" if REPEATED in os.environ else "the caller",
        "jax": jax.__version__,
        "device": jax.devices()[0].device_kind,
        "devices": args.devices,
        "cores": os.cpu_count(),
        "load_average": round(os.getloadavg()[0], 2),
    }
    print(json.dumps(result))


def start_with(variables: dict[str, str]) -> None:
    """Starts this script again with these, unless the caller has chosen an allocator."""
    if sys.platform == "linux" and "GLIBC_TUNABLES" not in os.environ:
        environment = added({**os.environ}, variables) | {REPEATED: "1"}
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)


def added(environment: dict[str, str], variables: dict[str, str]) -> dict[str, str]:
    """An environment with these; flags of XLA's follow those that are there."""
    flags = (found.get("XLA_FLAGS", "") for found in (environment, variables))
    return environment | variables | {"XLA_FLAGS": " ".join(filter(None, flags))}


def setting(length: int, store: str) -> Config:
    """Plain SASRec: no input but items and positions, no item biases, uniform negatives."""
    return Config(
        data=DataConfig(store=store, length=length, batch_size=BATCH_SIZE, negatives=1, p_hard=0.0),
        model=ModelConfig(
            width=64,
            layers=2,
            heads=1,
            feed_forward=64,
            dropout=0.2,
            feedback="none",
            station=False,
            attributes=False,
            item_bias="none",
        ),
        optim=OptimConfig(learning_rate=1e-3, warmup_steps=0, clip=0.0),
    )


def flop(rows: int, length: int, width: int) -> float:
    """FLOP of the matrix products of one step."""
    return 3 * rows * length * (2 * (12 * width**2 + 4 * length * width) + 4 * width)


def matmul_gflops(size: int = 2048, repeats: int = 8) -> float:
    """Best rate of float32 products of square matrices: on a CPU of all cores, whichever devices share them."""
    a = jnp.ones((size, size), jnp.float32)
    product = jax.jit(lambda a: a @ a)
    product(a).block_until_ready()
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        product(a).block_until_ready()
        seconds.append(time.perf_counter() - began)
    return 2 * size**3 / min(seconds) / 1e9


def measure(length: int, warmup: int, windows: int, steps_per_window: int, mesh: jax.sharding.Mesh):
    """Milliseconds per step and positions/s by window, positions per sequence, page faults per step, rows."""
    with tempfile.TemporaryDirectory() as directory:
        path = pathlib.Path(directory) / "store"
        write_store(path, length, np.random.default_rng(0))
        store, batches, built = begun(path, length, mesh)
        state, update = built.init(), built.update
        attribute_VA = sharding.put(np.asarray(store.attribute_VA), mesh)
        source, metrics = batches.since(0), {}
        for _ in range(warmup):
            state, metrics = update(state, sharding.put_fields(next(source), mesh), attribute_VA)
        jax.block_until_ready(metrics)
        step_ms, rates = [], []
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(windows):
            positions, began = 0, time.perf_counter()
            for _ in range(steps_per_window):
                batch = next(source)
                positions += int((batch.item_BL > 0).sum())
                state, metrics = update(state, sharding.put_fields(batch, mesh), attribute_VA)
            jax.block_until_ready((state, metrics))
            seconds = time.perf_counter() - began
            step_ms.append(1000 * seconds / steps_per_window)
            rates.append(positions / seconds)
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults
        assert np.isfinite(metrics["loss"])
        total = int(np.diff(store.session_indptr).sum()) - USERS
    return step_ms, rates, total / USERS, faults / windows / steps_per_window, batches.form.rows


def together(length: int, count: int, windows: int, mesh: jax.sharding.Mesh) -> dict[str, float]:
    """How many times longer ``count`` steps one by one take than in one call."""
    with tempfile.TemporaryDirectory() as directory:
        path = pathlib.Path(directory) / "store"
        write_store(path, length, np.random.default_rng(0))
        store, batches, built = begun(path, length, mesh)
        source = batches.since(0)
        attribute_VA = sharding.put(np.asarray(store.attribute_VA), mesh)

        def single(state):
            for _ in range(count):
                state, _ = built.update(state, sharding.put_fields(next(source), mesh), attribute_VA)
            return state

        def stacked(state):
            made = [next(source) for _ in range(count)]
            return built.updates(state, sharding.put_stacked(made, mesh), attribute_VA)[0]

        states, ratios = [built.init(), built.init()], []
        for n in range(windows + 1):
            seconds = []
            for at, run in enumerate((single, stacked)):
                began = time.perf_counter()
                states[at] = jax.block_until_ready(run(states[at]))
                seconds.append(time.perf_counter() - began)
            if n > 0:  # the first window compiles
                ratios.append(seconds[0] / seconds[1])
    return {
        "steps": count,
        "ratio": round(statistics.median(ratios), 3),
        "ratio_min": round(min(ratios), 3),
        "ratio_max": round(max(ratios), 3),
    }


def begun(
    path: pathlib.Path, length: int, mesh: jax.sharding.Mesh
) -> tuple[stores.Store, pipeline.TrainBatches, program.Program]:
    """A store, its batches and the program of a step, as training has them."""
    store, config = stores.Store.open(path), setting(length, str(path))
    batches = pipeline.of_config(config, store)
    built = program.build(config, program.catalogue_of(store), mesh, batches.steps_per_epoch, batches.form)
    return store, batches, built


def lengths(users: int, rng: np.random.Generator) -> np.ndarray:
    """Lengths of histories, int64."""
    place = (np.arange(users) + 0.5) / users  # quantiles, so that the mean does not depend on the draw
    z = np.array([statistics.NormalDist().inv_cdf(value) for value in place])
    return np.round(FLOOR + np.exp(MU + SIGMA * rng.permutation(z))).astype(np.int64)


def write_store(
    path: pathlib.Path, length: int, rng: np.random.Generator, *, users: int = USERS, held_out: int = 0
) -> None:
    """A store of one session per user: the last ``length`` + 1 events of a history, all plays."""
    size = np.minimum(lengths(users, rng), length) + 1
    weight = 1.0 / (np.arange(1, ITEMS + 1) + 50)  # flatter than Zipf, as films are
    item_T = np.searchsorted(np.cumsum(weight) / weight.sum(), rng.random(size.sum())).astype(np.int32) + 1
    liked_T, station_T = np.ones(len(item_T), bool), np.zeros(len(item_T), np.int32)
    write_sessions(path, size, item_T, liked_T, station_T, ITEMS, held_out)


if __name__ == "__main__":
    main()
