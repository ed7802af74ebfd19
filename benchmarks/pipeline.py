"""Training sequences made per second on one core: gathered from a store, negatives drawn, batched.

    .venv/bin/python benchmarks/pipeline.py [--quick]

The store is synthetic: 100 thousand users with one session of 51 events each, hence sequences of 50, items by
Zipf's law from a catalogue of 100 thousand. Half of the events are plays (targets), half skips (hard
negatives). The process is pinned to one core, the prefetch thread included. Prints one JSON line:

    sequences_per_s         median over windows, p_hard 0.5; _min and _max are the slowest and the fastest
    sequences_per_cpu_s     the same by processor time, which other processes on the core disturb less
    p_hard_0, p_hard_1      medians with random negatives only, and with hard ones only
    hard_share              of the negatives drawn with p_hard 0.5
"""

import argparse
import json
import os
import pathlib
import statistics
import tempfile
import time

import numpy as np

from jaxneg.batch import CODE
from jaxneg.config import DataConfig
from jaxneg.data import pipeline, stores
from jaxneg.data.metadata import Metadata
from jaxneg.data.writer import StoreWriter

LENGTH, BATCH_SIZE = 50, 1024
EVENTS = LENGTH + 1  # of each user
STATIONS = 50


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="10 thousand users and items, shorter windows")
    quick = parser.parse_args().quick
    users = items = 10_000 if quick else 100_000
    windows, steps = (5, 30) if quick else (15, 100)
    core = pin()
    with tempfile.TemporaryDirectory() as directory:
        path = pathlib.Path(directory) / "store"
        write_store(path, users, items, np.random.default_rng(0))
        store = stores.Store.open(path)
        found = {p_hard: measure(store, p_hard, windows, steps) for p_hard in (0.5, 0.0, 1.0)}
    rate, cpu_rate, hard_share = found[0.5]
    result = {
        "benchmark": "pipeline",
        "sequences_per_s": round(statistics.median(rate)),
        "sequences_per_s_min": round(min(rate)),
        "sequences_per_s_max": round(max(rate)),
        "sequences_per_cpu_s": round(statistics.median(cpu_rate)),
        "p_hard_0": round(statistics.median(found[0.0][0])),
        "p_hard_1": round(statistics.median(found[1.0][0])),
        "hard_share": round(hard_share, 3),
        "length": LENGTH,
        "negatives": 1,
        "batch_size": BATCH_SIZE,
        "users": users,
        "items": items,
        "events": users * EVENTS,
        "targets_per_sequence": LENGTH // 2,
        "windows": windows,
        "steps_per_window": steps,
        "core": core,
        "cores": os.cpu_count(),
        "load_average": round(os.getloadavg()[0], 2),
    }
    print(json.dumps(result))


def pin() -> int | None:
    """Keeps this process, and threads it starts, on one core; None where the system cannot."""
    if not hasattr(os, "sched_setaffinity"):
        return None
    core = max(os.sched_getaffinity(0))
    for thread in os.listdir("/proc/self/task"):  # numpy has started some already
        os.sched_setaffinity(int(thread), {core})
    return core


def measure(
    store: stores.Store, p_hard: float, windows: int, steps: int
) -> tuple[list[float], list[float], float]:
    """Sequences per second, and per second of processor time, by window; the share of hard negatives."""
    data = DataConfig(length=LENGTH, batch_size=BATCH_SIZE, negatives=1, p_hard=p_hard)
    batches = pipeline.TrainBatches(store, data)
    source = batches.since(0)
    hard = drawn = 0
    for _ in range(steps):  # warm-up, and the pages of the store come into memory
        batch = next(source)
        hard += int(batch.hard_BLN.sum())
        drawn += int((batch.negative_BLN > 0).sum())
    rate, cpu_rate = [], []
    for _ in range(windows):
        began, cpu_began = time.perf_counter(), time.process_time()
        sequences = 0
        for _ in range(steps):
            sequences += int((next(source).item_BL[:, 0] > 0).sum())  # the last batch of an epoch is not full
        rate.append(sequences / (time.perf_counter() - began))
        cpu_rate.append(sequences / (time.process_time() - cpu_began))
    return rate, cpu_rate, hard / drawn


def write_store(path: pathlib.Path, users: int, items: int, rng: np.random.Generator) -> None:
    """A store of one training session of EVENTS events per user, at one station each."""
    events = users * EVENTS
    weight = 1.0 / np.arange(1, items + 1)
    item_T = np.searchsorted(np.cumsum(weight) / weight.sum(), rng.random(events)).astype(np.int32) + 1
    liked_T = rng.random(events) < 0.5
    station_T = np.repeat(rng.integers(1, STATIONS + 1, users), EVENTS)
    write_sessions(path, np.full(users, EVENTS), item_T, liked_T, station_T, items)


def write_sessions(path, size_S, item_T, liked_T, station_T, items: int, held_out: int = 0) -> None:
    """A store of one session per user, of ``size_S`` events each: plays where liked, else skips.

    The last ``held_out`` events of each are the test's, all others those of training.
    """
    users = len(size_S)
    indptr = np.concatenate([[0], np.cumsum(size_S)])
    user_T = np.repeat(np.arange(users), size_S)
    # Distinct positives by user, ascending.
    positive = np.unique(user_T[liked_T] * (items + 1) + item_T[liked_T])
    columns = {
        "item_T": item_T,
        "feedback_T": np.where(liked_T, CODE["play"], CODE["skip"]),
        "station_T": station_T,
        "time_T": np.arange(len(item_T)),
        "group_T": user_T,
        "session_indptr": indptr,
        "session_user": np.arange(users),
        "session_train_end": indptr[1:] - held_out,
        "session_valid_end": indptr[1:] - held_out,
        "user_indptr": np.arange(users + 1),
        "user_group_indptr": np.arange(users + 1),
        "negative_indptr": np.concatenate([[0], np.cumsum(np.bincount(user_T[~liked_T], minlength=users))]),
        "negative_item": item_T[~liked_T],
        "positive_indptr": np.searchsorted(positive // (items + 1), np.arange(users + 1)),
        "positive_item": positive % (items + 1),
    }
    metadata = Metadata(
        reader="",
        source="synthetic",
        settings={},
        polarity={"play": 1, "skip": -1},
        split={},
        counts={"stations": int(station_T.max())},
        feedback={},
        dropped={},
        attributes=[],
        sessions_overlap=False,
    )
    with StoreWriter(path) as writer:
        for field, values in columns.items():
            writer.column(field).append(values)
        writer.column("attribute_VA", width=0).append(np.zeros((items + 1, 0), np.int32))
        writer.finish(metadata)


if __name__ == "__main__":
    main()
