"""How fast `prepare` takes a log of VK-LSVD's schema, and whether it keeps every row. Prints a line of JSON.

    python benchmarks/readers.py --events 4000000

Writes a sample of weekly Parquet files, as published: rows in order of time, without a time, and items_metadata. Each
user and item occurs often, so a row that is missing in the store was lost.
"""

import argparse
import json
import os
import pathlib
import tempfile
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from jaxneg.data import engine, prepare
from jaxneg.data.prepare_config import PrepareConfig
from jaxneg.data.readers import READERS

WEEKS = 26  # the last one for validation
FLAGS = {
    "like": 0.03,
    "dislike": 0.001,
    "share": 0.006,
    "bookmark": 0.001,
    "click_on_author": 0.002,
    "open_comments": 0.01,
}


def write(folder: pathlib.Path, events: int, users: int, items: int, seed: int) -> None:
    """A sample of `events` rows; each user and item occurs in the first week."""
    rng = np.random.default_rng(seed)
    for week in range(WEEKS):
        rows = events * (week + 1) // WEEKS - events * week // WEEKS
        item = (rng.pareto(1.0, rows) * items / 50).astype(np.int64) % items
        user = rng.integers(0, users, rows)
        if week == 0:
            every = np.arange(max(users, items))
            user[: len(every)], item[: len(every)] = every % users, every % items
        columns = {
            "user_id": pa.array(user * 7 + 1, pa.uint32()),
            "item_id": pa.array(item * 11 + 1, pa.uint32()),
            **{
                name: pa.array(rng.integers(0, 5, rows), pa.uint8())
                for name in ("place", "platform", "agent")
            },
            "timespent": pa.array(rng.integers(0, 256, rows), pa.uint8()),
            **{name: pa.array(rng.random(rows) < share) for name, share in FLAGS.items()},
        }
        part = folder / ("validation" if week == WEEKS - 1 else "train") / f"week_{week:02}.parquet"
        part.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(columns), part)
    metadata = {
        "item_id": pa.array(np.arange(items) * 11 + 1, pa.uint32()),
        "author_id": pa.array(np.arange(items) // 5, pa.uint32()),
        "duration": pa.array(rng.integers(5, 181, items), pa.uint8()),
        "train_interactions_rank": pa.array(np.arange(items), pa.uint32()),
    }
    pq.write_table(pa.table(metadata), folder / "items_metadata.parquet")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--events", type=int, default=4_000_000)
    parser.add_argument("--users", type=int, default=20_000)
    parser.add_argument("--items", type=int, default=50_000)
    parser.add_argument("--memory-limit", default="2GB")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="40,000 events of 500 users and 1,000 items")
    args = parser.parse_args()
    if args.quick:
        args.events, args.users, args.items = 40_000, 500, 1_000
    if args.events < WEEKS * max(args.users, args.items):
        parser.error(f"--events must be at least {WEEKS} times --users and --items")
    with tempfile.TemporaryDirectory(prefix="jaxneg-readers-") as scratch:
        source, out = pathlib.Path(scratch) / "ur0.01", pathlib.Path(scratch) / "store"
        write(source, args.events, args.users, args.items, args.seed)
        reader = READERS["vk_lsvd"]
        begin = time.perf_counter()
        con = engine.connect(args.memory_limit, temp_dir=pathlib.Path(scratch) / "spill")
        log = reader.read(con, source, reader.Options())
        settings = PrepareConfig(memory_limit=args.memory_limit, **reader.settings)
        metadata = prepare.prepare(log, out, settings, con, reader="vk_lsvd")
        seconds = time.perf_counter() - begin
    kept = metadata.counts["events"]
    line = {
        "benchmark": "readers",
        "reader": "vk_lsvd",
        "events": args.events,
        "seconds": round(seconds, 2),
        "events_per_second": round(args.events / seconds),
        "rows_kept": kept,
        "every_row_kept": kept == args.events,
        "users": args.users,
        "items": args.items,
        "cores": os.cpu_count(),
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
