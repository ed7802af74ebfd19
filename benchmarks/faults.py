"""Whether training survives what happens to machines: kill -9 and SIGTERM at random moments, then a restart.

    .venv/bin/python benchmarks/faults.py [--quick] [--processes 2] [--out DIR]

Trains a tiny model on simulated listeners with launch/local.py, N processes of one CPU device each that save every 7
steps: once undisturbed, and once through 20 kills and 5 SIGTERMs, each followed by the same command. Of the kills every
other one takes one process, chosen at random, and leaves it to the others to notice; every other one takes all at once.
A quarter of the faults strike at any moment of the start, the rest once training moves again. --quick: 2 kills and 1
SIGTERM.

Prints one JSON line:

    kills, sigterms   that struck while all processes ran
    equal             whether the last states agree bit for bit, and the validations and counts of negatives too
    restarts          starts beyond the first
    saved_on_sigterm  SIGTERMs in training that lost no step: exit code 143, and a checkpoint of the last step
    codes             exit codes of the launcher, by fault
    survivors         exit codes of the processes that a kill of one had left: 75 or 134 as they noticed, 137 where they
                      had not joined yet, and the launcher ended them after 45 s
    seconds_to_end    median seconds from a fault to the end of the last process, by fault
"""

import argparse
import collections
import json
import os
import pathlib
import random
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

import jax
import numpy as np

from jaxneg.data import engine, prepare, readers, stores
from jaxneg.data.prepare_config import PrepareConfig
from jaxneg.embeddings import sharding
from jaxneg.simulation import simulator
from jaxneg.training import checkpoint, logs, program, runs

ROOT = pathlib.Path(__file__).parents[1]
EVERY = 7  # steps between checkpoints
STEPS_PER_FAULT = 45  # so that a run outlasts its faults
LONGEST = 300.0  # seconds to wait for anything
FEW = simulator.SimulateConfig(users=60, items=80, sessions=300, stations=4, artists=10)
CONFIG = f"""
from jaxneg.config import Config, DataConfig, EvalConfig, ModelConfig, OptimConfig, TrainConfig


def get_config():
    return Config(
        data=DataConfig(store="store", length=8, batch_size=32, p_hard=0.5),
        model=ModelConfig(width=8, layers=1),
        optim=OptimConfig(learning_rate=0.01, warmup_steps=5),
        train=TrainConfig(patience=0, log_every=1, checkpoint_every={EVERY}),
        eval=EvalConfig(batch_size=64),
    )
"""


class Rehearsal:
    """Runs of one experiment in a directory, each by a launcher of ``processes`` processes."""

    def __init__(self, directory: pathlib.Path, processes: int, epochs: int):
        self.directory, self.processes, self.epochs = directory, processes, epochs
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "config.py").write_text(CONFIG)

    def start(self, name: str, processes: int = 0, options: tuple[str, ...] = ()) -> subprocess.Popen[str]:
        train = [sys.executable, "-m", "jaxneg", "train", "config.py", "--workdir", name, *options]
        launch = [
            sys.executable,
            str(ROOT / "launch" / "local.py"),
            "--processes",
            str(processes or self.processes),
        ]
        # Programs are compiled once for all starts.
        cache = {
            "JAX_COMPILATION_CACHE_DIR": str(self.directory / "cache"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "PYTHONPATH": str(ROOT),
        }
        return subprocess.Popen(
            [*launch, "--", *train, "--train.epochs", str(self.epochs)],
            cwd=self.directory,
            env=os.environ | cache,
            stderr=subprocess.PIPE,
            text=True,
        )

    def finish(self, name: str, processes: int = 0) -> dict[str, Any]:
        """Trains to the end; returns result.json."""
        launcher = self.start(name, processes)
        _, said = launcher.communicate(timeout=4 * LONGEST)
        if launcher.returncode:
            raise RuntimeError(f"launch/local.py ended with {launcher.returncode}:\n{said}")
        return json.loads((self.directory / name / "result.json").read_text())

    def step(self, name: str) -> int:
        """The last step that was logged."""
        lines = logs.read(self.directory / name)
        return lines[-1]["step"] if lines else 0

    def moved(self, name: str, launcher: subprocess.Popen[str], began: float) -> bool:
        """Waits until a step is logged since a moment; False if the launcher ended before."""
        path, deadline = self.directory / name / "metrics.jsonl", time.monotonic() + LONGEST
        start = None
        while launcher.poll() is None:
            if time.monotonic() > deadline:
                raise TimeoutError(f"no step in {LONGEST:.0f} s")
            if path.exists() and path.stat().st_mtime > began:
                step = self.step(name)  # rewinding the file at the start logs none
                start = step if start is None else start
                if step > start:
                    return True
            time.sleep(0.02)
        return False

    def last(self, name: str) -> tuple[Any, dict[str, Any], int]:
        """State and progress of the latest checkpoint, and its step."""
        directory = self.directory / name
        config = runs.read_config(directory)
        store = stores.Store.open(self.directory / config.data.store)
        built = program.build(config, program.catalogue_of(store), sharding.make_mesh(1))
        checkpoints = checkpoint.Checkpointer(directory / "checkpoints", read_only=True)
        try:
            found = checkpoints.restore(built.state)
            assert found is not None, f"{directory} has no checkpoint"
            return jax.tree.map(np.asarray, found[0]), found[1], checkpoints.steps()[-1]
        finally:
            checkpoints.close()


def processes_of(launcher: subprocess.Popen[str], count: int) -> list[int]:
    """Ids of the processes of a launcher, once it has started all; fewer if it ended before."""
    path = pathlib.Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children")
    found: list[int] = []
    while launcher.poll() is None and len(found) < count:
        found = [int(pid) for pid in path.read_text().split()]
        time.sleep(0.01)
    return found


def strike(
    fault: str, launcher: subprocess.Popen[str], pids: list[int], rng: random.Random
) -> tuple[float, list[int]]:
    """Lets a fault happen; the seconds until the launcher saw the end of all processes, and their exit codes."""
    began = time.monotonic()
    if fault == "sigterm":
        launcher.send_signal(signal.SIGTERM)
    else:
        for pid in pids if fault == "kill_all" else [rng.choice(pids)]:
            os.kill(pid, signal.SIGKILL)
    _, said = launcher.communicate(timeout=LONGEST)
    told = re.search(r"exit codes (.*)", said)
    codes = [int(code) for code in re.findall(r": (\d+)", told[1])] if told else []
    return time.monotonic() - began, codes


def store(directory: pathlib.Path, config: simulator.SimulateConfig = FEW) -> pathlib.Path:
    """Writes a log of simulated listeners and its store, whose path it returns."""
    simulator.write(simulator.simulate(config), directory / "log.parquet")
    reader, con = readers.READERS["table"], engine.connect()
    events = reader.read(con, directory / "log.parquet", reader.Options(attributes=("artist",)))
    settings = PrepareConfig(session="given", split="time")
    prepare.prepare(events, directory / "store", settings, con, reader="table", source="simulated")
    return directory / "store"


def same(a: Any, b: Any) -> bool:
    leaves = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(x.dtype == y.dtype and np.array_equal(x, y) for x, y in leaves)


def timeless(progress: dict[str, Any]) -> dict[str, Any]:
    history = [{k: v for k, v in line.items() if "seconds" not in k} for line in progress["history"]]
    return {k: v for k, v in progress.items() if "seconds" not in k} | {"history": history}


def measure(directory: pathlib.Path, processes: int, faults: list[str], seed: int = 0) -> dict[str, Any]:
    rehearsal = Rehearsal(directory, processes, max(1, STEPS_PER_FAULT * len(faults) // 20))
    store(directory)
    undisturbed = time.monotonic()
    rehearsal.finish("whole")
    undisturbed = time.monotonic() - undisturbed
    rng = random.Random(seed)
    codes: dict[str, collections.Counter[int]] = collections.defaultdict(collections.Counter)
    seconds: dict[str, list[float]] = collections.defaultdict(list)
    survivors: collections.Counter[int] = collections.Counter()
    saved = in_training = starts = 0
    for number, fault in enumerate(faults):
        began = time.time()
        launcher = rehearsal.start("faults")
        pids = processes_of(launcher, processes)
        starts += 1
        early = number % 4 == 3
        if early:
            time.sleep(rng.uniform(0.0, 8.0))
        elif rehearsal.moved("faults", launcher, began):
            time.sleep(rng.uniform(0.0, 1.5))
        if launcher.poll() is not None:
            raise RuntimeError(f"it ended before fault {number}: train for more epochs")
        taken, ended = strike(fault, launcher, pids, rng)
        seconds[fault].append(taken)
        codes[fault][launcher.returncode] += 1
        if fault == "kill_one":
            ended.remove(137)  # the killed one
            survivors.update(ended)
        step = rehearsal.step("faults")
        if fault == "sigterm" and not early:
            in_training += 1
            saved += launcher.returncode == 143 and rehearsal.last("faults")[2] == step
        print(
            f"fault {number + 1} of {len(faults)}: {fault}{' at the start' if early else ''} at step {step}, "
            f"exit code {launcher.returncode} after {seconds[fault][-1]:.1f} s",
            file=sys.stderr,
            flush=True,
        )
    rehearsal.finish("faults")
    whole, again = rehearsal.last("whole"), rehearsal.last("faults")
    return {
        "benchmark": "faults",
        "processes": processes,
        "kills": sum(fault != "sigterm" for fault in faults),
        "sigterms": faults.count("sigterm"),
        "equal": same(whole[0], again[0]) and timeless(whole[1]) == timeless(again[1]),
        "steps": whole[2],
        "restarts": starts,
        "saved_on_sigterm": f"{saved} of {in_training}",
        "codes": {fault: dict(sorted(count.items())) for fault, count in codes.items()},
        "survivors": dict(sorted(survivors.items())),
        "seconds_to_end": {fault: round(statistics.median(taken), 1) for fault, taken in seconds.items()},
        "seconds_undisturbed": round(undisturbed, 1),
        "cores": os.cpu_count(),
        "load_average": round(os.getloadavg()[0], 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Kills training at random moments and compares where it ends."
    )
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--out", type=pathlib.Path, help="directory to keep, instead of a temporary one")
    asked = parser.parse_args()
    one, other, term = "kill_one", "kill_all", "sigterm"
    # 20 kills and 5 SIGTERMs; every fourth fault strikes the start, which is a different kind each time.
    faults = [one, other, term] if asked.quick else [one, other, term, one, other] * 5
    with tempfile.TemporaryDirectory() as temporary:
        print(json.dumps(measure(asked.out or pathlib.Path(temporary), asked.processes, faults)))


if __name__ == "__main__":
    main()
