"""Seconds of an evaluation: all users of MovieLens-1M's size, and users of a catalogue of a million items.

    .venv/bin/python benchmarks/evaluation.py [--quick]

Both rank one held-out item of each user in the whole catalogue and give all figures of ``evaluate`` with their
intervals, out of a plain SASRec of width 64 and 2 blocks that has not been trained. Making batches is part of it.

    films     the users, items and contexts of train_step.py: 6,040 users, 3,416 items, up to 200 events, on average
              107.2. "seen" is the same with the context's items left out of the rankings.
    million   512 users with 50 events each, 1,000,000 items. Their score matrix alone would be 2 GB.

Each is evaluated twice to compile, then some times. Prints one JSON line; of each part

    seconds         the median of those times; _min and _max are the fastest and the slowest
    cpu_seconds     of all threads, the median: other load on the machine hardly touches it
    first_seconds   of the first time, compiling or reading compiled programs
    users_per_s     at the median
    peak_gb         most memory that the process held in this part, where the system tells (Linux)
    begin_gb        what it held when the part began evaluating: model, item table and JAX itself

matmul_gflops is the best rate of 2048^3 float32 products in this run. PYTHONPATH=CHECKOUT measures the library of
another checkout: for a ratio let the two take turns.
"""

import argparse
import dataclasses
import gc
import json
import os
import pathlib
import statistics
import tempfile
import time
from typing import Any

import jax
import numpy as np
import train_step  # beside this script
from pipeline import write_sessions

from jaxneg.config import Config, EvalConfig
from jaxneg.data import held_out, stores
from jaxneg.embeddings import sharding
from jaxneg.metrics import measures
from jaxneg.training import program, runs

LENGTH = 200  # of the films' contexts
MILLION = {"users": 512, "items": 1_000_000, "length": 50}
FEW = {"users": 64, "items": 20_000, "length": 50}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--quick", action="store_true", help="once, 300 users, 20 thousand items for a million"
    )
    quick = parser.parse_args().quick
    train_step.start_with(train_step.HUGE_PAGES)
    times, users, size = (1, 300, FEW) if quick else (7, train_step.USERS, MILLION)
    gflops = train_step.matmul_gflops()
    result: dict[str, Any] = {"benchmark": "evaluation"}
    with tempfile.TemporaryDirectory() as directory:
        million = pathlib.Path(directory) / "million"
        write_million(million, **size)
        result["million"] = size | measure(million, size["length"], EvalConfig(), times)
        films = pathlib.Path(directory) / "films"
        train_step.write_store(films, LENGTH, np.random.default_rng(0), users=users, held_out=1)
        result["films"] = {"users": users, "items": train_step.ITEMS, "length": LENGTH}
        result["films"] |= measure(films, LENGTH, EvalConfig(), times)
        result["films"]["seen"] = measure(films, LENGTH, EvalConfig(exclude_seen=True), times)
    result |= {
        "seconds": result["films"]["seconds"],
        "matmul_gflops": round(max(gflops, train_step.matmul_gflops())),
        "times": times,
        "batch_size": EvalConfig().batch_size,
        "glibc_tunables": os.environ.get("GLIBC_TUNABLES", ""),
        "jax": jax.__version__,
        "device": jax.devices()[0].device_kind,
        "cores": os.cpu_count(),
        "load_average": round(os.getloadavg()[0], 2),
    }
    print(json.dumps(result))


def measure(path: pathlib.Path, length: int, config: EvalConfig, times: int) -> dict[str, float]:
    """Seconds and memory of evaluating a new model on a store's test, twice and then some times."""
    store = stores.Store.open(path)
    setting: Config = dataclasses.replace(train_step.setting(length, str(path)), eval=config)
    built = program.build(setting, program.catalogue_of(store), sharding.make_mesh(1))
    # An evaluation has no use for the optimiser's part.
    state = jax.block_until_ready(built.init()._replace(opt_state=()))
    trained = runs.Trained(setting, store, built.model, state, {}, built.layout)
    examples = held_out.EvalBatches(store, setting.data, setting.eval, "test")
    score = runs.catalogue_score(trained)
    gc.collect()  # what made the first state goes
    begin = memory("VmRSS")
    forget_peak()
    seconds, cpu = [], []
    for _ in range(times + 2):
        began, cpu_began = time.perf_counter(), time.process_time()
        found = measures.evaluate(score, examples, items=store.items, config=setting.eval)
        seconds.append(time.perf_counter() - began)
        cpu.append(time.process_time() - cpu_began)
    first, _, *again = seconds  # the second may compile what the first had no use for
    assert found.figures["examples"] == examples.examples and 0 < found.figures["mrr_positive"] < 1
    return {
        "seconds": round(statistics.median(again), 3),
        "seconds_min": round(min(again), 3),
        "seconds_max": round(max(again), 3),
        "cpu_seconds": round(statistics.median(cpu[2:]), 3),
        "first_seconds": round(first, 2),
        "users_per_s": round(examples.examples / statistics.median(again)),
        "begin_gb": begin,
        "peak_gb": memory("VmHWM"),
    }


def memory(name: str) -> float | None:
    """GB of this process as the kernel counts them; None where it does not."""
    try:
        lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    found = [int(line.split()[1]) for line in lines if line.startswith(f"{name}:")]
    return round(found[0] * 1024 / 1e9, 3) if found else None


def forget_peak() -> None:
    """Has the kernel count the peak of memory anew, where it can."""
    try:
        pathlib.Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def write_million(path: pathlib.Path, users: int, items: int, length: int) -> None:
    """A store of one session per user, whose last event is the test's; all are plays."""
    rng, events = np.random.default_rng(0), users * (length + 1)
    item_T = np.clip(np.exp(rng.random(events) * np.log(items + 1.0)), 1, items).astype(np.int32)
    none_T = np.zeros(events, np.int32)
    write_sessions(path, np.full(users, length + 1), item_T, np.ones(events, bool), none_T, items, held_out=1)


if __name__ == "__main__":
    main()
