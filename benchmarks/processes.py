"""Whether a job of many processes ends where one would: killed, resumed by fewer, measured and exported by many.

    .venv/bin/python benchmarks/processes.py [--quick] [--shared] [--out DIR] [--write]

Trains a tiny model on simulated listeners, once with one process, undisturbed, and once with 8 that are killed (-9), 4
that get SIGTERM, and 2 that end it. Then ``evaluate`` and ``export`` by 4 processes beside those by one; with --shared
of a run whose tables lie over 4 devices too. Then a bit of one process of 4 is flipped in training. All on loopback,
one CPU device each. --quick: 4, 2 and 1 processes. --write: also benchmarks/results/processes.json.

What happens in a training process is noted, and the bit flipped, by this script, which starts the command line with
functions of its own around the step: the package has no switch for it.

Prints one JSON line:

    batches       steps whose batch, rows and negatives alike, was that of one process, of those that were taken, those
                  done again after the kill among them
    apart         largest difference of a parameter at the end from that of one process, and of the losses, relative
    near          whether all parameters are within rtol 1e-3, atol 1e-4, as the tests hold it, but for key biases of
                  attention, which the softmax cancels; and whether validations and counts of negatives are the same
    codes         exit codes of the launcher after the kill, after SIGTERM, and at the end
    evaluate      figures of report.json, and how many differ between 4 processes and one by more than 1e-6; and ranks
    export        files, and how many differ at all, but for the manifest
    flipped       exit code, the line that names the process, steps of the flip and of the latest checkpoint, and
                  whether the run, started again, ended where one process did
    goodput       as result.json tells it, and by a stopwatch outside of the loop; ``apart`` are their difference and
                  that of the wall clocks, relative
"""

import argparse
import hashlib
import json
import os
import pathlib
import random
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from typing import Any

import faults
import jax
import numpy as np

from jaxneg.simulation import simulator
from jaxneg.training import logs

ROOT = pathlib.Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "processes.json"
CLOSE = 1e-6  # of figures that are means of the same values in another order
FEW = simulator.SimulateConfig(users=120, items=150, sessions=900, stations=4, artists=10)
SHARED = "--optim.rows adagrad --train.shards 4 --optim.row-learning-rate 0.1".split()


def digest(leaf: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(leaf).tobytes()).hexdigest()[:16]


def worker(words: list[str]) -> None:
    """One process: notes what it trains on, perhaps flips a bit, and else is the command line.

    Args:
      words: FILE, where steps are noted; PROCESS:STEP, where a bit is flipped, or "-"; then those of the command line.
    """
    from jaxneg import cli
    from jaxneg.training import digests, loop

    place, flip, *command = words
    victim, _, at = flip.partition(":")
    update, notes, ended = loop.Loop._update, list[Any](), list[float]()

    def noted(self: Any, state: Any, made: list[Any]) -> tuple[Any, Any]:
        if not notes:
            notes.append(open(f"{place}.{jax.process_index():03}", "a", encoding="utf-8"))  # noqa: SIM115
        step, compiles = int(state.step), len(made) not in self.compiled
        rows, rest = noted_of(made[0])
        state, found = update(self, state, made)
        jax.block_until_ready(found)
        ended.append(time.perf_counter())
        # From the end of a step to that of the next one, without what is no step: validating, saving, comparing.
        taken = 0.0 if compiles else ended[-1] - ended[-2] - sum(beside)
        beside.clear()
        line = {"step": step, "of": jax.process_count(), "rows": rows, "rest": rest, "seconds": taken}
        notes[0].write(json.dumps(line) + "\n")
        notes[0].flush()
        if victim.isdigit() and jax.process_index() == int(victim) and step == int(at):
            state = state._replace(tables={**state.tables, "item_VD": flipped(state.tables["item_VD"])})
        return state, found

    beside: list[float] = []

    def timed(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            began = time.perf_counter()
            try:
                return function(*args, **options)
            finally:
                beside.append(time.perf_counter() - began)

        return call

    loop.Loop._update = noted  # type: ignore[method-assign]
    for kind, name in ((loop.Loop, "_validate"), (loop.Loop, "_save"), (digests.Digests, "__call__")):
        setattr(kind, name, timed(getattr(kind, name)))
    cli.main(command)


def noted_of(batch: Any) -> tuple[list[str], list[str]]:
    """Checksums of the rows of a batch, empty ones left out, which make rows even for the devices; and of the rest."""
    by_row, rest = [], []
    for name, leaf in batch._asdict().items():
        (by_row if name.rpartition("_")[2].startswith("B") and leaf.size else rest).append(np.asarray(leaf))
    real = [b for b in range(len(batch.item_BL)) if batch.item_BL[b].any() or batch.target_BL[b].any()]
    rows = [digest(np.concatenate([leaf[b].ravel().astype(np.int64) for leaf in by_row])) for b in real]
    return rows, [digest(leaf) for leaf in rest if leaf.size]


def flipped(leaf: jax.Array) -> jax.Array:
    """An array with one bit of this process's copy changed."""
    parts = []
    for shard in leaf.addressable_shards:
        data = np.array(shard.data)
        data.reshape(-1).view(np.uint32)[-1] ^= np.uint32(1 << 12)
        parts.append(jax.device_put(data, shard.device))
    return jax.make_array_from_single_device_arrays(leaf.shape, leaf.sharding, parts)


class Rehearsal(faults.Rehearsal):
    """Runs whose processes note their steps."""

    starts = 0

    def __init__(self, directory: pathlib.Path, epochs: int, quick: bool):
        super().__init__(directory, 1, epochs)
        if not quick:  # steps that last, as a log line for each takes time as well
            config = faults.CONFIG.replace("width=8, layers=1", "width=64, layers=2").replace(
                "length=8", "length=50"
            )
            (directory / "config.py").write_text(config)

    def begin(self, name: str, processes: int, flip: str = "-") -> subprocess.Popen[str]:
        self.starts += 1
        note = f"{self.directory / name}.notes.{self.starts:02}"
        asked = ["train", "config.py", "--workdir", name, "--train.epochs", str(self.epochs)]
        return self.launch(
            processes, [str(ROOT / "benchmarks" / "processes.py"), "worker", note, flip, *asked]
        )

    def launch(self, processes: int, words: list[str], devices: int = 1) -> subprocess.Popen[str]:
        launch = [sys.executable, str(ROOT / "launch" / "local.py"), "--processes", str(processes), "--"]
        if processes == 1:
            launch = []
        environment = {
            "JAX_COMPILATION_CACHE_DIR": str(self.directory / "cache"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "PYTHONPATH": str(ROOT),
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        }
        return subprocess.Popen(
            [*launch, sys.executable, *words],
            cwd=self.directory,
            env=os.environ | environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, processes: int, words: list[str], devices: int = 1) -> None:
        """A command of the library to its end."""
        self.end(self.launch(processes, ["-m", "jaxneg", *words], devices))

    def end(self, launcher: subprocess.Popen[str], expected: int = 0) -> str:
        _, said = launcher.communicate(timeout=4 * faults.LONGEST)
        if launcher.returncode != expected:
            raise RuntimeError(f"it ended with {launcher.returncode} and not {expected}:\n{said}")
        return said

    def notes(self, name: str) -> list[dict[int, dict[str, Any]]]:
        """Of each start, what was noted of each step: the rows of all processes, and the seconds of the first."""
        found: list[dict[int, dict[str, Any]]] = []
        firsts = sorted(self.directory.glob(f"{name}.notes.*.000"))
        for first in firsts:
            ranks = [lines(path) for path in sorted(self.directory.glob(f"{first.stem}.*"))]
            start = {}
            for step, line in ranks[0].items():
                if all(step in rank for rank in ranks) and len(ranks) == line["of"]:
                    rows = [row for rank in ranks for row in rank[step]["rows"]]
                    alike = all(rank[step]["rest"] == line["rest"] for rank in ranks)
                    start[step] = {"batch": [rows, line["rest"], alike], "seconds": line["seconds"]}
            found.append(start)
        return found


def lines(path: pathlib.Path) -> dict[int, dict[str, Any]]:
    """What a process noted by step; a line that a kill cut short is left out."""
    found = {}
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            continue
        found[line["step"]] = line
    return found


class Stopwatch:
    """Seconds from the first sign of life of a run until its result is there, as seen from outside."""

    def __init__(self, directory: pathlib.Path):
        self._directory, self.seconds = directory, 0.0
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not (self._directory / "heartbeat.json").exists():
            time.sleep(0.005)
        began = time.monotonic()
        while not (self._directory / "result.json").exists():
            time.sleep(0.005)
        self.seconds = time.monotonic() - began

    def stopped(self) -> float:
        self._thread.join(30)
        return self.seconds


def interrupted(rehearsal: Rehearsal, among: tuple[int, int, int]) -> dict[str, Any]:
    """Trains with processes that are killed, then stopped, then fewer ones that end it; codes and goodput."""
    watch, codes = Stopwatch(rehearsal.directory / "many"), []
    for processes, fault in zip(among[:2], ("kill_all", "sigterm"), strict=True):
        began = time.time()
        launcher = rehearsal.begin("many", processes)
        pids = faults.processes_of(launcher, processes)
        steps = rehearsal.step("many") + 2 * faults.EVERY
        while rehearsal.moved("many", launcher, began) and rehearsal.step("many") < steps:
            began = time.time() - 1.0
        faults.strike(fault, launcher, pids, random.Random(0))
        codes.append(launcher.returncode)
        say(f"{processes} processes: {fault}, exit code {launcher.returncode}")
    rehearsal.end(rehearsal.begin("many", among[2]))
    wall, notes = watch.stopped(), rehearsal.notes("many")
    kept: dict[int, float] = {}
    for start in notes:
        kept |= {step: one["seconds"] for step, one in start.items()}
    told = json.loads((rehearsal.directory / "many" / "result.json").read_text())
    by_watch = sum(kept.values()) / wall
    return {
        "codes": [*codes, 0],
        "goodput": {
            "told": round(told["goodput"], 4),
            "stopwatch": round(by_watch, 4),
            "wall_seconds": round(told["wall_seconds"], 2),
            "stopwatch_seconds": round(wall, 2),
            "apart": round(abs(told["goodput"] / by_watch - 1), 4),
            "wall_apart": round(abs(told["wall_seconds"] / wall - 1), 4),
            "time_spent": {name: round(seconds, 2) for name, seconds in told["time_spent"].items()},
        },
    }


def compared(rehearsal: Rehearsal, name: str) -> dict[str, Any]:
    """A run beside that of one process: batches, parameters, figures."""
    one, starts = rehearsal.notes("one")[0], rehearsal.notes(name)
    taken = [(step, line["batch"]) for start in starts for step, line in start.items()]
    (state, progress, _), (other, again, _) = rehearsal.last("one"), rehearsal.last(name)
    leaves = zip(jax.tree_util.tree_leaves_with_path(state), jax.tree.leaves(other), strict=True)
    pairs = [(x, y) for (path, x), y in leaves if "key.bias" not in jax.tree_util.keystr(path)]
    floats = [(x, y) for x, y in pairs if x.dtype == np.float32]
    losses = [
        {line["step"]: line["loss"] for line in logs.read(rehearsal.directory / run) if "loss" in line}
        for run in ("one", name)
    ]
    return {
        "batches": f"{sum(one[step]['batch'] == batch for step, batch in taken)} of {len(taken)}",
        "steps": len(one),
        "apart": {
            "parameter": max(float(np.abs(x - y).max(initial=0.0)) for x, y in floats),
            "loss": max(abs(losses[1][step] / loss - 1) for step, loss in losses[0].items()),
        },
        "near": all(np.allclose(x, y, rtol=1e-3, atol=1e-4) for x, y in pairs)
        and faults.timeless(progress)["history"] == faults.timeless(again)["history"]
        and (progress["hard"], progress["negatives"]) == (again["hard"], again["negatives"]),
    }


def measured(rehearsal: Rehearsal, run: str, by: int) -> dict[str, Any]:
    """Report and export of a run by many processes beside those by one."""
    found = {}
    for processes in (1, by):
        rehearsal.run(processes, ["evaluate", run])
        found[processes] = json.loads((rehearsal.directory / run / "report.json").read_text())
        rehearsal.run(processes, ["export", run, "--out", f"{run}-{processes}"])
    figures = [dict(leaves(report)) for report in found.values()]
    own = {name for name in figures[0] if "responsiveness" not in name or name in figures[1]}
    differ = [name for name in own if not close(figures[0][name], figures[1].get(name))]
    ranks = [name for name in own if re.search(r"hit_rate|ndcg|mrr|map@|log_rank|gini|coverage", name)]
    files = [
        {path.name: digest(np.frombuffer(path.read_bytes(), np.uint8)) for path in sorted(place.iterdir())}
        for place in (rehearsal.directory / f"{run}-{n}" for n in (1, by))
    ]
    of = [name for name in files[0] if name not in ("manifest.json", "README.md")]
    rehearsal.run(1, ["export", "--check", f"{run}-{by}"])
    return {
        "evaluate": {
            "figures": len(own),
            "differ": len(differ),
            "ranked": len(ranks),
            "ranked_differ": sum(figures[0][name] != figures[1].get(name) for name in ranks),
        },
        "export": {
            "files": len(of),
            "differ": sum(files[0][name] != files[1].get(name) for name in of),
            "check": 0,
        },
    }


def leaves(value: Any, name: str = "") -> list[tuple[str, Any]]:
    if isinstance(value, dict):
        return [leaf for key, one in value.items() for leaf in leaves(one, f"{name}/{key}")]
    if isinstance(value, list):
        return [leaf for k, one in enumerate(value) for leaf in leaves(one, f"{name}/{k}")]
    return [(name, value)]


def close(a: Any, b: Any) -> bool:
    if isinstance(a, float) and isinstance(b, float | int):
        return bool(np.isclose(a, b, rtol=CLOSE, atol=CLOSE))
    return a == b


def flip(rehearsal: Rehearsal, processes: int, victim: int) -> dict[str, Any]:
    """A run one of whose processes has a bit flipped, and the same started again without it."""
    at = 2 * faults.EVERY + 3
    said = rehearsal.end(rehearsal.begin("flipped", processes, f"{victim}:{at}"), 75)
    named = re.findall(r"\[0\] jaxneg: (process \d+ \(.*?\) holds .*)", said)
    saved = sorted(int(path.name) for path in (rehearsal.directory / "flipped" / "checkpoints").iterdir())
    say(f"flipped: {named}")
    rehearsal.end(rehearsal.begin("flipped", 1))
    line = named[0].replace(socket.gethostname(), "HOST") if named else ""
    return {
        "exit_code": 75,
        "process": victim,
        "named": line.startswith(f"process {victim} ("),
        "line": line,
        "step": at,
        "saved": saved[-1],
        "near_after": compared(rehearsal, "flipped")["near"],
    }


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def measure(directory: pathlib.Path, quick: bool, shared: bool) -> dict[str, Any]:
    rehearsal = Rehearsal(directory, 2 if quick else 5, quick)
    faults.store(directory, FEW)
    rehearsal.end(rehearsal.begin("one", 1))
    say("one process: done")
    among = (4, 2, 1) if quick else (8, 4, 2)
    found = {
        "benchmark": "processes",
        "among": among,
        **interrupted(rehearsal, among),
        **compared(rehearsal, "many"),
    }
    found |= measured(rehearsal, "one", 2 if quick else 4)
    say(f"evaluate and export: {found['evaluate']} {found['export']}")
    found["flipped"] = flip(rehearsal, 4, 2)
    if shared:
        rehearsal.run(
            1, ["train", "config.py", "--workdir", "shared", "--train.epochs", "1", *SHARED], devices=4
        )
        found["shared"] = measured(rehearsal, "shared", 4)
    return found | {"cores": os.cpu_count(), "load_average": round(os.getloadavg()[0], 2)}


def main() -> None:
    if sys.argv[1:2] == ["worker"]:
        return worker(sys.argv[2:])
    parser = argparse.ArgumentParser(
        description="Rehearses a job of many processes, and compares it with one."
    )
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--shared", action="store_true", help="also of a run whose tables lie over 4 devices")
    parser.add_argument("--out", type=pathlib.Path, help="directory to keep, instead of a temporary one")
    parser.add_argument("--write", action="store_true", help="write benchmarks/results/processes.json")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        found = measure(asked.out or pathlib.Path(temporary), asked.quick, asked.shared)
    if asked.write:
        RESULTS.write_text(json.dumps(found, indent=2) + "\n")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
