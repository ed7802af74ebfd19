"""Sequences of very different lengths trained per second, several to a row against one to a row.

    .venv/bin/python benchmarks/packing.py [--quick]

The store is synthetic: 200 thousand users with one session each, of 2 + exp(normal(2.2, 1.2)) events, cut at 201: half
of them have at most 11, one in 200 has 201. Inputs are of 200 events. The model is that of train_step.py
(width 64, 2 blocks), a batch has 32 sequences. Both ways run in one process, by turns of a few steps. Prints one
JSON line:

    ratio               of sequences/s, packed over alone: median over turns; _min and _max are the least and the most
    packed, alone       of each way, with medians over windows:
        sequences_per_s     trained: loader, device and step; _min and _max are the slowest and the fastest window
        step_ms             likewise
        loader_per_s        sequences made by the loader alone, without prefetch
        fill                share of positions that hold an event, over an epoch
        steps_per_epoch     of the same sequences
    plan_s              to plan the rows of the store, once a run; plan_per_s is in sequences
"""

import argparse
import dataclasses
import json
import os
import pathlib
import statistics
import tempfile
import time
from typing import Any

import jax
import numpy as np
from pipeline import write_sessions  # beside this script
from train_step import KEPT, setting, start_with

from jaxneg.config import Config
from jaxneg.data import packing, pipeline, stores
from jaxneg.embeddings import sharding
from jaxneg.training import program

LENGTH, BATCH_SIZE, ITEMS = 200, 32, 3416


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="10 thousand users, 3 windows of 2 steps")
    quick = parser.parse_args().quick
    start_with(KEPT)
    users = 10_000 if quick else 200_000
    warmup, windows, steps = (1, 3, 2) if quick else (4, 7, 6)
    with tempfile.TemporaryDirectory() as directory:
        path = pathlib.Path(directory) / "store"
        write_store(path, users, np.random.default_rng(0))
        store = stores.Store.open(path)
        began = time.perf_counter()
        size_W = np.diff(store.session_indptr) - 1
        rows = packing.plan(size_W, LENGTH, 0)
        plan_s = time.perf_counter() - began
        ways = {name: Way(store, name == "packed") for name in ("packed", "alone")}
        for way in ways.values():
            way.train(warmup)
        for _ in range(windows):
            for way in ways.values():
                way.windows.append(way.train(steps))
        turns = zip(ways["packed"].windows, ways["alone"].windows, strict=True)
        by_turns = [(many / spent) / (few / taken) for (many, spent), (few, taken) in turns]
        result: dict[str, Any] = {"benchmark": "packing"}
        for name, way in ways.items():
            rates = [sequences / seconds for sequences, seconds in way.windows]
            step_ms = [1000 * seconds / steps for _, seconds in way.windows]
            places = way.batches.steps_per_epoch * way.batches.form.rows * LENGTH
            result[name] = {
                "sequences_per_s": round(statistics.median(rates)),
                "sequences_per_s_min": round(min(rates)),
                "sequences_per_s_max": round(max(rates)),
                "step_ms": round(statistics.median(step_ms), 1),
                "loader_per_s": round(way.loader(2 * steps)),
                "fill": round(int(size_W.sum()) / places, 4),
                "steps_per_epoch": way.batches.steps_per_epoch,
            }
    result |= {
        "ratio": round(statistics.median(by_turns), 2),
        "ratio_min": round(min(by_turns), 2),
        "ratio_max": round(max(by_turns), 2),
        "plan_s": round(plan_s, 3),
        "plan_per_s": round(users / plan_s),
        "rows": len(rows.indptr_R) - 1,
        "users": users,
        "length": LENGTH,
        "batch_size": BATCH_SIZE,
        "mean_inputs": round(float(size_W.mean()), 1),
        "windows": windows,
        "steps_per_window": steps,
        "jax": jax.__version__,
        "device": jax.devices()[0].device_kind,
        "cores": os.cpu_count(),
        "load_average": round(os.getloadavg()[0], 2),
    }
    print(json.dumps(result))


class Way:
    """Training on a store, packed or not, a few steps at a time."""

    def __init__(self, store: stores.Store, packed: bool):
        plain = setting(LENGTH, str(store.path))
        data = dataclasses.replace(plain.data, batch_size=BATCH_SIZE, packed="always" if packed else "never")
        config: Config = dataclasses.replace(plain, data=data)
        self.batches = pipeline.TrainBatches(store, data)
        built = program.build(
            config, program.catalogue_of(store), sharding.make_mesh(1), form=self.batches.form
        )
        self.mesh, self.update, self.state = built.mesh, built.update, built.init()
        self.attribute_VA = sharding.put(np.asarray(store.attribute_VA), self.mesh)
        self.source = self.batches.since(0)
        self.windows: list[tuple[int, float]] = []  # sequences and seconds

    def train(self, steps: int) -> tuple[int, float]:
        """Sequences and seconds of some steps."""
        found, metrics, began = 0, {}, time.perf_counter()
        for _ in range(steps):
            batch = next(self.source)
            found += sequences(batch)
            self.state, metrics = self.update(
                self.state, sharding.put_fields(batch, self.mesh), self.attribute_VA
            )
        jax.block_until_ready((self.state, metrics))
        assert np.isfinite(metrics["loss"])
        return found, time.perf_counter() - began

    def loader(self, steps: int) -> float:
        """Sequences per second of the loader alone."""
        began = time.perf_counter()
        return sum(sequences(self.batches[step]) for step in range(steps)) / (time.perf_counter() - began)


def sequences(batch) -> int:
    """How many a batch holds."""
    packed = batch.segment_BL.shape[1] > 0
    return int(batch.segment_BL.max(1).sum() if packed else (batch.item_BL[:, 0] > 0).sum())


def write_store(path: pathlib.Path, users: int, rng: np.random.Generator) -> None:
    """A store of one training session per user, all plays."""
    size = np.minimum(2 + np.exp(rng.normal(2.2, 1.2, users)).astype(np.int64), LENGTH + 1)
    item_T = rng.integers(1, ITEMS + 1, size.sum(), dtype=np.int32)
    write_sessions(path, size, item_T, np.ones(len(item_T), bool), np.zeros(len(item_T), np.int32), ITEMS)


if __name__ == "__main__":
    main()
