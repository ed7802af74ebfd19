"""Ten billion events of a hundred million songs: what they take on slices that are not here, and one host's part here.

    .venv/bin/python benchmarks/ten_billion.py [--only plan store shard] [--directory DIR] [--quick]

Parts, each of which replaces its like in benchmarks/results/ten_billion.json; the tables of docs/scale/ten_billion.md
are made of all:

    plan    what follows from the steps in benchmarks/results/plan.json, which benchmarks/plan.py compiles for minutes
    store   one of 64 hosts' share of the events, with all songs: written, opened, its rows of batches made (8 GB)
    shard   one host's rows of the table on 4 devices of this CPU: made, saved, restored, written for serving (4 GB)

--quick: all, a thousand times smaller here, and nothing is written but the JSON line.

Prints one JSON line:

    plan    by slice: hosts, steps, and low and high of a step's milliseconds and of hours of an epoch; bytes by part
    store   events, items, gigabytes, seconds and peaks of writing and opening; seconds of one host's rows of a step
    shard   rows, seconds and gigabytes of a checkpoint and of what an export writes of them
"""

import argparse
import dataclasses
import json
import math
import os
import pathlib
import re
import resource
import subprocess
import sys
import tempfile
import time
from typing import Any

import numpy as np
import pyarrow as pa

from jaxneg import config as configs
from jaxneg.batch import CODE
from jaxneg.data import pipeline, stores, writer
from jaxneg.data.metadata import Metadata, Sign
from jaxneg.data.prepare_config import PrepareConfig

ROOT = pathlib.Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "ten_billion.json"
PAGE = ROOT / "docs" / "scale" / "ten_billion.md"
EXPERIMENT = ROOT / "configs" / "plan_100m.py"
EVENTS, ITEMS, HOSTS, STATIONS = 10_000_000_000, 99_999_999, 64, 1000
LENGTH = 200  # events of a sequence; each listener has one
PER_CHIP, CHIPS = 64, 4  # sequences of a chip, chips of a host
SLICES = ("v5e:16x16", "v5p:4x4x4", "v6e:16x16")
TITLE = "256 negatives shared by the batch"  # of plan.json
EPOCHS = 10
WIDTH, RANKED = 128, 1024  # of a row; contexts that are ranked together
PARTS = ("plan", "store", "shard")
RUN = 25_000  # listeners that are written at a time
GB = 1e9


def planned() -> dict[str, Any]:
    """What follows from the plans of a step, by slice; of slices that are planned."""
    from jaxneg.plan import machines, tpu

    plans = json.loads((RESULTS.parent / "plan.json").read_text())[TITLE]
    found = {}
    for name in (name for name in SLICES if name in plans):
        plan, at = plans[name], machines.topology(name)
        chips, chip = at.hosts * at.chips, tpu.CHIPS[at.kind]
        step: dict[str, Any] = plan.get("step") or dict.fromkeys(("low", "high"), plan["step_seconds"])
        steps = math.ceil(EVENTS / LENGTH / (PER_CHIP * chips))
        hours = [steps * step[end] / 3600 for end in ("low", "high")]
        state = {part: plan["memory"][part] * chips for part in ("item tables", "optimiser state")}
        found[name] = {
            "hosts": at.hosts,
            "chips": chips,
            "fits": plan["fits"],
            "device_gigabytes": plan["used_bytes"] / GB,
            "sent_megabytes": plan["collective_bytes_per_chip"] / 1e6,
            "step_ms": [1e3 * step[end] for end in ("low", "high")],
            "bound": step.get("bound", ""),
            "steps": steps,
            "hours": hours,
            "chip_hours": [chips * each for each in hours],
            "checkpoint_gigabytes": sum(state.values()) / GB,
            "host_gigabytes": sum(state.values()) / at.hosts / GB,
            "sequences_per_s_of_a_host": [PER_CHIP * at.chips / step[end] for end in ("high", "low")],
            # Of a batch of contexts, a product with each row and each row read once: the least that ranking takes.
            "rank_ms": 1e3
            * max(
                2.0 * RANKED * ITEMS * WIDTH / (chips * 1e12 * chip.peak),
                4.0 * ITEMS * WIDTH / (chips * 1e9 * chip.memory_rate),
            ),
        }
    return found


def write_store(path: pathlib.Path, events: int, items: int) -> None:
    """A store of made-up listeners of LENGTH events each, of which a tenth is held out; songs fall off as 1 / rank."""
    users, rng = events // LENGTH, np.random.default_rng(0)
    valid, test = LENGTH * 18 // 20, LENGTH * 19 // 20
    totals = {"negatives": 0, "positives": 0, "skip": 0}
    with writer.StoreWriter(path) as out:
        columns = {
            name: out.column(name) for name in ("item_T", "feedback_T", "station_T", "time_T", "group_T")
        }
        lists = {
            name: (out.column(f"{name}_indptr"), out.column(f"{name}_item"))
            for name in ("negative", "positive")
        }
        for indptr, _ in lists.values():
            indptr.append(np.zeros(1))
        for first in range(0, users, RUN):
            shape = (min(RUN, users - first), LENGTH)
            item_UL = np.exp(rng.random(shape, np.float32) * np.log(items)).astype(np.int32).clip(1, items)
            skip_UL = rng.random(shape, np.float32) < 0.4
            user_UL = np.broadcast_to(np.arange(first, first + shape[0])[:, None], shape)
            columns["item_T"].append(item_UL.ravel())
            columns["feedback_T"].append(np.where(skip_UL, CODE["skip"], CODE["play"]).ravel())
            columns["station_T"].append(rng.integers(1, STATIONS + 1, shape).ravel())
            columns["time_T"].append((1_700_000_000_000 + 180_000 * np.arange(LENGTH) + user_UL).ravel())
            columns["group_T"].append(user_UL.ravel())
            trained, skipped = item_UL[:, :valid], skip_UL[:, :valid]
            liked = np.sort(np.where(skipped, items + 1, trained), axis=1)
            once = (liked <= items) & (np.diff(liked, axis=1, prepend=0) > 0)
            for name, values, there in (("negative", trained, skipped), ("positive", liked, once)):
                indptr, column = lists[name]
                indptr.append(totals[f"{name}s"] + np.cumsum(there.sum(1)))
                column.append(values[there])
                totals[f"{name}s"] += int(there.sum())
            totals["skip"] += int(skip_UL.sum())
        ends = np.arange(users + 1, dtype=np.int64)
        out.column("session_indptr").append(ends * LENGTH)
        out.column("session_user").append(ends[:-1])
        out.column("session_train_end").append(ends[:-1] * LENGTH + valid)
        out.column("session_valid_end").append(ends[:-1] * LENGTH + test)
        out.column("user_indptr").append(ends)
        out.column("user_group_indptr").append(ends)
        out.column("attribute_VA", width=0).append(np.zeros((items + 1, 0)))
        names(out, "items", "item", items, {"count": 1})
        names(out, "stations", "id", STATIONS)
        names(out, "users", "id", users, first=0)
        counts = {
            "events": users * LENGTH,
            "items": items,
            "users": users,
            "stations": STATIONS,
            "sessions": users,
        }
        counts |= {
            "groups": users,
            "out_of_order": 0,
            **{name: totals[name] for name in ("negatives", "positives")},
        }
        feedback = dict.fromkeys(CODE, 0) | {"skip": totals["skip"], "play": users * LENGTH - totals["skip"]}
        feedback.pop("pad")
        polarity: dict[str, Sign] = {"unknown": 0, "thumb_down": -1, "skip": -1, "play": 1, "thumb_up": 1}
        settings = dataclasses.asdict(PrepareConfig())
        splits = {name: feedback for name in stores.SPLITS}
        out.finish(
            Metadata("table", "made up", settings, polarity, {"rule": "tail"}, counts, splits, {}, [], False)
        )


def names(
    out: writer.StoreWriter,
    table: str,
    column: str,
    rows: int,
    more: dict[str, int] | None = None,
    first: int = 1,
):
    """A table of raw ids."""
    kinds = [("row", pa.int32()), (column, pa.string()), *((name, pa.int64()) for name in more or {})]
    schema = pa.schema(kinds)

    def batches():
        for begin in range(first, first + rows, 1 << 20):
            row = np.arange(begin, min(begin + (1 << 20), first + rows), dtype=np.int32)
            rest = [pa.array(np.full(len(row), value)) for value in (more or {}).values()]
            yield pa.record_batch([pa.array(row), pa.array(row).cast(pa.string()), *rest], schema=schema)

    out.table(table, schema, batches())


def written(directory: pathlib.Path, events: int, items: int) -> dict[str, Any]:
    """One host's share of the store: made up and written."""
    began = time.perf_counter()
    write_store(directory / "store", events, items)
    return {"write_seconds": round(time.perf_counter() - began, 1), "write_peak_gigabytes": peak()}


def stored(directory: pathlib.Path, seconds: float) -> dict[str, Any]:
    """The same opened, and one host's rows of the batches of all hosts made."""
    path = directory / "store"
    before, began = anonymous(), time.perf_counter()
    store = stores.Store.open(path)
    opened = time.perf_counter() - began
    config = configs.override(configs.load(EXPERIMENT), ["--data.blocks", str(HOSTS)])
    began = time.perf_counter()
    batches = pipeline.of_config(config, store, pipeline.Part(0, HOSTS), devices=HOSTS * CHIPS)
    planned_seconds, between = time.perf_counter() - began, anonymous()
    made = step = 0
    began, spent = time.perf_counter(), 0.0
    while spent < seconds:
        made, step = made + len(batches[step].item_BL), step + 1
        spent = time.perf_counter() - began
    sizes = store.metadata.files
    return {
        "events": store.events,
        "items": store.items,
        "gigabytes": sum(sizes.values()) / GB,
        "gigabytes_by_events": sum(
            sizes[name] for name in sizes if not name.startswith(("items", "stations"))
        )
        / GB,
        "files": dict(sorted(sizes.items(), key=lambda one: -one[1])[:6]),
        "open_seconds": round(opened, 1),
        "batches_seconds": round(planned_seconds, 1),
        "sequences": batches.spans,
        "bytes_a_sequence": sum(leaf.nbytes for leaf in batches._found.spans) / batches.spans,
        "bytes_held": between - before,
        "rows_a_step": made // step,
        "seconds_a_step": spent / step,
        "peak_gigabytes": peak(),
        "anonymous_gigabytes": anonymous() / GB,
    }


def anonymous() -> int:
    """Bytes of this process that are no file's."""
    told = pathlib.Path("/proc/self/status").read_text()
    return int(re.findall(r"RssAnon:\s+(\d+)", told)[0]) * 1024


def sharded(directory: pathlib.Path, items: int) -> dict[str, Any]:
    """One host's rows on as many devices as it has chips: made, saved, restored, and written as an export does."""
    import jax

    from jaxneg.embeddings import sharding
    from jaxneg.serve import parted
    from jaxneg.training import checkpoint, program, steps

    options = ["--train.shards", str(CHIPS), "--data.batch-size", str(CHIPS * PER_CHIP)]
    config = configs.override(configs.load(EXPERIMENT), options)
    mesh = sharding.make_mesh(CHIPS, CHIPS)
    built = program.build(config, program.Catalogue(items, STATIONS, ()), mesh)
    found: dict[str, Any] = {"rows": built.layout.rows, "devices": CHIPS}
    began = time.perf_counter()
    state = jax.block_until_ready(built.init())
    found["init_seconds"] = round(time.perf_counter() - began, 1)
    place = directory / "checkpoints"
    began = time.perf_counter()
    checkpoints = checkpoint.Checkpointer(place)
    checkpoints.save(1, state, {"step": 1}, 0.0)
    found["save_blocks_seconds"] = round(time.perf_counter() - began, 1)
    checkpoints.wait()
    found["save_seconds"] = round(time.perf_counter() - began, 1)
    found["checkpoint_gigabytes"] = size(place) / GB
    began = time.perf_counter()
    assert checkpoints.restore(built.state) is not None
    found["restore_seconds"] = round(time.perf_counter() - began, 1)
    checkpoints.close()

    def rows(item_C: np.ndarray, weights: Any) -> dict[str, np.ndarray]:
        """What an export searches in: a row and its bias."""
        return {"item_VE": np.pad(np.asarray(weights.tables["item_VD"]), ((0, 0), (0, 1)))}

    began = time.perf_counter()
    weights = steps.evaluated(state, sharding.put(np.zeros((built.layout.rows, 0), np.int32), mesh, "VA"))
    arrays = parted.arrays(directory, parted.Held(built.layout, weights, rows))
    found["export_seconds"] = round(time.perf_counter() - began, 1)
    found["export_gigabytes"] = sum(array.nbytes for array in arrays.values()) / GB
    return found | {"peak_gigabytes": peak()}


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GB


def size(directory: pathlib.Path) -> int:
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())


def by_itself(part: str, directory: pathlib.Path, quick: bool) -> dict[str, Any]:
    """A part in a process of its own, so that its peak is its own."""
    words = [
        sys.executable,
        __file__,
        "--part",
        part,
        "--directory",
        str(directory),
        *(["--quick"] if quick else []),
    ]
    env = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": f"--xla_force_host_platform_device_count={CHIPS}"}
    done = subprocess.run(words, env=os.environ | env, stdout=subprocess.PIPE, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    return found | {"cores": os.cpu_count(), "load_average": round(os.getloadavg()[0], 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description="What ten billion events of a hundred million songs take.")
    parser.add_argument(
        "--only", nargs="*", choices=PARTS, default=PARTS, help="parts; without a name only the page"
    )
    parser.add_argument("--directory", type=pathlib.Path, help="to keep, instead of a temporary one")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument(
        "--part", choices=("written", "stored", "sharded"), help=argparse.SUPPRESS
    )  # in this process
    asked = parser.parse_args()
    less = 1000 if asked.quick else 1
    if asked.part:
        own = {
            "written": lambda: written(asked.directory, EVENTS // HOSTS // less, ITEMS // less),
            "stored": lambda: stored(asked.directory, 2.0 if asked.quick else 20.0),
            "sharded": lambda: sharded(asked.directory, ITEMS // HOSTS // less),
        }
        print(json.dumps(own[asked.part]()))
        return
    found: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.is_file() and not asked.quick else {}
    with tempfile.TemporaryDirectory() as temporary:
        directory = asked.directory or pathlib.Path(temporary)
        for part in asked.only:
            if part == "plan":
                found[part] = found.get(part, {}) | planned()
            elif part == "store":
                found[part] = by_itself("written", directory, asked.quick) | by_itself(
                    "stored", directory, asked.quick
                )
            else:
                found[part] = by_itself("sharded", directory, asked.quick)
    if not asked.quick:
        RESULTS.write_text(json.dumps(found, indent=1) + "\n")
        PAGE.write_text(page(PAGE.read_text(encoding="utf-8"), found), encoding="utf-8")
    print(json.dumps({"benchmark": "ten_billion", **found}))


def page(text: str, found: dict[str, Any]) -> str:
    """The text of the page with its tables made anew; each stands between two comments of its name."""
    for name, table in TABLES.items():
        pattern = rf"(<!-- ten_billion: {name} -->\n).*?(<!-- /ten_billion -->)"
        lines = "\n".join(table(found))
        text, count = re.subn(
            pattern, lambda m, lines=lines: f"{m[1]}{lines}\n{m[2]}", text, count=1, flags=re.DOTALL
        )
        assert count == 1, name
    return text


def between(low: float, high: float, digits: int = 3) -> str:
    """Both ends of a range, or the one that they are."""
    ends = [f"{each:,.0f}" if each >= 1000 else f"{each:.{digits}g}" for each in (low, high)]
    return ends[0] if ends[0] == ends[1] else " to ".join(ends)


def rows(found: dict[str, Any], lines: dict[str, Any]) -> list[str]:
    """A table with a column for each slice."""
    plans = found["plan"]
    head = ["| | " + " | ".join(plans) + " |", "|---" + "|---:" * len(plans) + "|"]
    return head + [
        f"| {name} | " + " | ".join(of(plan) for plan in plans.values()) + " |" for name, of in lines.items()
    ]


def training(found: dict[str, Any]) -> list[str]:
    return rows(
        found,
        {
            "hosts, chips": lambda plan: f"{plan['hosts']}, {plan['chips']}",
            "sequences a step": lambda plan: f"{PER_CHIP * plan['chips']:,}",
            "memory of a device, GB": lambda plan: f"{plan['device_gigabytes']:.2f}",
            "a chip sends in a step, MB": lambda plan: f"{plan['sent_megabytes']:,.0f}",
            "a step, ms": lambda plan: between(*plan["step_ms"]),
            "what bounds it": lambda plan: plan["bound"] or "not told",
            "steps of an epoch": lambda plan: f"{plan['steps']:,}",
            "seconds of an epoch's steps": lambda plan: between(
                3600 * plan["hours"][0], 3600 * plan["hours"][1]
            ),
            "chip-hours of an epoch's steps": lambda plan: between(*plan["chip_hours"]),
            f"hours of {EPOCHS} epochs' steps": lambda plan: between(
                EPOCHS * plan["hours"][0], EPOCHS * plan["hours"][1], 2
            ),
            f"chip-hours of {EPOCHS} epochs' steps": lambda plan: between(
                EPOCHS * plan["chip_hours"][0], EPOCHS * plan["chip_hours"][1]
            ),
            "sequences/s that a host must make": lambda plan: between(*plan["sequences_per_s_of_a_host"]),
        },
    )


def keeping(found: dict[str, Any]) -> list[str]:
    store, shard = found["store"], found["shard"]
    whole = store["gigabytes"] + (HOSTS - 1) * store["gigabytes_by_events"]
    held, matrix = store["bytes_a_sequence"] * EVENTS / LENGTH / GB, 4 * ITEMS * (WIDTH + 1) / GB
    return rows(
        found,
        {
            "store, GB": lambda plan: f"{whole:,.0f}",
            "read from a bucket where each host fetches it, TB": lambda plan: f"{whole * plan['hosts'] / 1e3:,.1f}",
            "memory of a host for where sequences lie, GB": lambda plan: f"{held:.1f}",
            "a checkpoint, GB": lambda plan: f"{plan['checkpoint_gigabytes']:.1f}",
            "a host writes of it, and reads after a restart, GB": lambda plan: f"{plan['host_gigabytes']:.2f}",
            "training waits for a save, s, as here": lambda plan: (
                f"{shard['save_blocks_seconds'] * HOSTS / plan['hosts']:.1f}"
            ),
            f"{EPOCHS} saves, one an epoch, write, TB": lambda plan: (
                f"{EPOCHS * plan['checkpoint_gigabytes'] / 1e3:.2f}"
            ),
            "the two latest and the best, GB": lambda plan: f"{3 * plan['checkpoint_gigabytes']:.0f}",
            f"ranking {RANKED:,} contexts, ms, at least": lambda plan: f"{plan['rank_ms']:.2f}",
            "a million contexts, s, at least": lambda plan: f"{plan['rank_ms'] * 1e3 / RANKED:.1f}",
            "export: item_embeddings.npy, GB": lambda plan: f"{matrix:.1f}",
            "export: disk while it is written, GB, at least": lambda plan: (
                f"{2 * (matrix + 4 * ITEMS * WIDTH / GB):.0f}"
            ),
        },
    )


def rehearsed(found: dict[str, Any]) -> list[str]:
    store, shard = found["store"], found["shard"]
    step, waits = store["seconds_a_step"], shard["save_blocks_seconds"]
    lines = {
        f"store of {store['events']:,} events and {store['items']:,} songs": f"{store['gigabytes']:.2f} GB",
        "written": f"{store['write_seconds']:.0f} s, peak {store['write_peak_gigabytes']:.1f} GB",
        "opened for the first time": f"{store['open_seconds']:.1f} s",
        "sequences found, draws prepared": f"{store['batches_seconds']:.1f} s",
        f"{store['rows_a_step']} rows, those of a host in a step": (
            f"{1e3 * step:.1f} ms, {store['rows_a_step'] / step:,.0f} sequences/s"
        ),
        "memory that is no file's": f"{store['anonymous_gigabytes']:.1f} GB",
        "peak of memory, mapped files included": f"{store['peak_gigabytes']:.1f} GB",
        f"first state of {shard['rows']:,} rows on {shard['devices']} devices": f"{shard['init_seconds']:.1f} s",
        f"checkpoint of {shard['checkpoint_gigabytes']:.2f} GB": (
            f"{waits:.1f} s until training goes on, {shard['save_seconds']:.1f} s until it is whole"
        ),
        "restored": f"{shard['restore_seconds']:.1f} s",
        f"rows and matrix written for serving, {shard['export_gigabytes']:.2f} GB": f"{shard['export_seconds']:.1f} s",
        "peak of memory": f"{shard['peak_gigabytes']:.1f} GB",
        "cores, load when they ended": f"{store['cores']}, {store['load_average']:.0f} and {shard['load_average']:.0f}",
    }
    return ["| | |", "|---|---:|", *(f"| {name} | {value} |" for name, value in lines.items())]


TABLES = {"training": training, "keeping": keeping, "rehearsed": rehearsed}


if __name__ == "__main__":
    main()
