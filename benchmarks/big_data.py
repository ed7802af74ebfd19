"""A log larger than memory: simulated, prepared and trained from, with the memory and the time that each takes.

    .venv/bin/python benchmarks/big_data.py --directory DIR [--sessions 6000000] [--cgroup PATH] [--quick]

Each part is a process of its own, whose peak memory is told: ``jaxneg simulate``, ``jaxneg prepare table`` with an
engine of 2 GB, then the pipeline alone and ``jaxneg train`` on a small model. Before each of these last two the store's
files are dropped from the system's cache (posix_fadvise), once with rows shuffled over the whole store, once in blocks.
What is in DIR already is taken as it is, its figures too. 6 million sessions are 100 million events.

--cgroup names a memory cgroup, made beforehand with a limit, in which the last two run, so that the store does not fit
the cache either:

    mkdir /sys/fs/cgroup/memory/small && echo 1500M > /sys/fs/cgroup/memory/small/memory.limit_in_bytes     (version 1)
    mkdir /sys/fs/cgroup/small && echo 1500M > /sys/fs/cgroup/small/memory.max                              (version 2)

Prints one JSON line:

    events, simulate_seconds, prepare_seconds, prepare_peak_gb, prepare_events_per_s
    pipeline_rows, pipeline_blocks, train_rows, train_blocks     of each: sequences_per_s once started (training: from
                                                                 its first line on), start_seconds, peak_gb
"""

import argparse
import dataclasses
import json
import os
import pathlib
import resource
import subprocess
import sys
import time

from jaxneg.config import Config, DataConfig, ModelConfig, TrainConfig
from jaxneg.data import pipeline, stores

MEMORY = "2GB"  # of the engine
BLOCK, POOL = 4096, 64  # sequences of a block, blocks of a pool
SMALL = Config(
    data=DataConfig(length=20, batch_size=1024, negatives=1, p_hard=0.5),
    model=ModelConfig(width=8, layers=1, attributes=False),
    train=TrainConfig(epochs=100, patience=0, log_every=5),
)


def get_config() -> Config:
    """What ``jaxneg train`` runs."""
    return SMALL


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--directory", type=pathlib.Path, help="where log and stores go; kept")
    parser.add_argument("--sessions", type=int, default=6_000_000, help="of 17 events each")
    parser.add_argument("--seconds", type=float, default=40.0, help="that each measurement runs")
    parser.add_argument("--cgroup", type=pathlib.Path, help="memory cgroup of the measurements")
    parser.add_argument("--quick", action="store_true", help="12 thousand sessions, in a temporary directory")
    parser.add_argument("--pipeline", type=int, help=argparse.SUPPRESS)  # one measurement, with this block
    asked = parser.parse_args()
    if asked.pipeline is not None:
        print(json.dumps(measure(asked.directory, asked.pipeline, asked.seconds)))
        return
    if asked.quick:
        import tempfile

        with tempfile.TemporaryDirectory() as directory:
            print(json.dumps(run(pathlib.Path(directory), 12_000, 2.0, asked.cgroup)))
    elif asked.directory is None:
        parser.error("--directory is needed")
    else:
        asked.directory.mkdir(parents=True, exist_ok=True)
        print(json.dumps(run(asked.directory, asked.sessions, asked.seconds, asked.cgroup)))


def run(directory: pathlib.Path, sessions: int, seconds: float, cgroup: pathlib.Path | None) -> dict:
    log, store = directory / "log.parquet", directory / "store"
    users = max(sessions // 6, 100)
    jaxneg = [sys.executable, "-m", "jaxneg"]
    simulate = [
        *jaxneg,
        "simulate",
        "--sessions",
        sessions,
        "--users",
        users,
        "--items",
        users,
        "--stations",
        60,
        "--artists",
        max(users // 10, 10),
        "--days",
        90,
        "--out",
        log,
    ]
    prepare = [
        *jaxneg,
        "prepare",
        "table",
        log,
        "--attributes",
        "artist",
        "--memory-limit",
        MEMORY,
        "--out",
        store,
    ]
    made = {
        name: once(directory / f"{name}.json", command)
        for name, command in (("simulate", simulate), ("prepare", prepare))
    }
    events = stores.Store.open(store).events
    result = {
        "benchmark": "big_data",
        "events": events,
        "simulate_seconds": made["simulate"]["seconds"],
        "simulate_peak_gb": made["simulate"]["peak_gb"],
        "prepare_seconds": made["prepare"]["seconds"],
        "prepare_cpu_seconds": made["prepare"]["cpu_seconds"],
        "prepare_peak_gb": made["prepare"]["peak_gb"],
        "prepare_events_per_s": round(events / made["prepare"]["seconds"]),
        "store_gb": gigabytes(sum(stores.Store.open(store).metadata.files.values())),
        "cores": os.cpu_count(),
        "cgroup_limit_gb": limit(cgroup),
    }
    for name, block in (("rows", 0), ("blocks", BLOCK)):
        evict(store)
        here = [sys.executable, __file__, "--pipeline", block, "--directory", store, "--seconds", seconds]
        text, figures = child(here, cgroup)
        result[f"pipeline_{name}"] = json.loads(text.splitlines()[-1]) | {"peak_gb": figures["peak_gb"]}
    for name, block in (("rows", 0), ("blocks", BLOCK)):
        evict(store)
        workdir = directory / f"run-{os.getpid()}-{name}"
        train = [
            *jaxneg,
            "train",
            __file__,
            "--data.store",
            store,
            "--workdir",
            workdir,
            "--data.shuffle-block",
            block,
            "--data.shuffle-pool",
            POOL,
        ]
        result[f"train_{name}"] = trained(train, workdir, seconds, cgroup)
    return result | {"load_average": round(os.getloadavg()[0], 2)}


def measure(path: pathlib.Path, block: int, seconds: float) -> dict:
    """Batches of a store for some seconds."""
    began = time.perf_counter()
    store = stores.Store.open(path)
    data = dataclasses.replace(SMALL.data, shuffle_block=block, shuffle_pool=POOL)
    source = pipeline.TrainBatches(store, data).since(0)
    first, sequences = time.perf_counter(), 0
    while (spent := time.perf_counter() - first) < seconds:
        sequences += int((next(source).item_BL[:, 0] > 0).sum())
    return {"sequences_per_s": round(sequences / spent), "start_seconds": round(first - began, 1)}


def trained(command: list, workdir: pathlib.Path, seconds: float, cgroup: pathlib.Path | None) -> dict:
    """Sequences per second of ``jaxneg train``, from its first line of metrics until it is stopped."""
    began = time.perf_counter()
    process = start(command, cgroup)
    metrics = workdir / "metrics.jsonl"
    seen: list[tuple[float, int]] = []  # when a line was there, and its step
    while process.poll() is None and not (seen and seen[-1][0] - seen[0][0] > seconds):
        time.sleep(0.2)
        text = metrics.read_text() if metrics.exists() else ""
        lines = [json.loads(line) for line in text.splitlines(True) if line.endswith("\n")]
        steps = [line["step"] for line in lines if "sequences_per_s" in line]
        if steps and (not seen or steps[-1] > seen[-1][1]):
            seen.append((time.perf_counter(), steps[-1]))
    if process.poll() is None:
        process.terminate()
    _, error = process.communicate()
    if len(seen) < 2:
        raise SystemExit(f"jaxneg train ended early: {error[-2000:]}")
    (first, before), (last, step) = seen[0], seen[-1]
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return {
        "sequences_per_s": round((step - before) * SMALL.data.batch_size / (last - first)),
        "steps": step,
        "start_seconds": round(first - began, 1),
        "peak_gb_so_far": gigabytes(peak * 1024),
    }


def once(record: pathlib.Path, command: list) -> dict:
    """The figures of a command, run unless they are on record."""
    if not record.exists():
        _, figures = child(command, None)
        record.write_text(json.dumps(figures))
    return json.loads(record.read_text())


def child(command: list, cgroup: pathlib.Path | None) -> tuple[str, dict]:
    """What a command prints, and its seconds, processor seconds and peak memory."""
    began = time.perf_counter()
    process = start(command, cgroup)
    text, error = process.stdout.read(), process.stderr.read()
    _, status, used = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(map(str, command))} failed: {error[-2000:]}")
    return text, {
        "seconds": round(time.perf_counter() - began, 1),
        "cpu_seconds": round(used.ru_utime + used.ru_stime, 1),
        "peak_gb": gigabytes(used.ru_maxrss * 1024),
    }


def start(command: list, cgroup: pathlib.Path | None) -> subprocess.Popen:
    def enter() -> None:
        if cgroup is not None:
            (cgroup / "cgroup.procs").write_text(str(os.getpid()))

    text = list(map(str, command))
    pipe = subprocess.PIPE
    return subprocess.Popen(text, stdout=pipe, stderr=pipe, text=True, preexec_fn=enter)


def evict(store: pathlib.Path) -> None:
    """Drops a store's files from the system's cache."""
    for path in store.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())  # pages not yet on disk stay
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def limit(cgroup: pathlib.Path | None) -> float | None:
    if cgroup is None:
        return None
    names = ("memory.max", "memory.limit_in_bytes")
    [path] = [cgroup / name for name in names if (cgroup / name).exists()]
    return gigabytes(int(path.read_text()))


def gigabytes(size: float) -> float:
    return round(size / 1e9, 3)


if __name__ == "__main__":
    main()
