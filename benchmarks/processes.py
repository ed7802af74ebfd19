"""Whether a job of many processes ends where one would: killed, resumed by fewer, measured and exported by many.

    .venv/bin/python benchmarks/processes.py [--quick] [--shared] [--out DIR] [--write]

Trains a small model on simulated listeners, once with one process, undisturbed, and once with 8 that are killed (-9), 4
that get SIGTERM, and 2 that end it. Then ``evaluate`` and ``export`` by 4 processes beside those by one; with --shared
of a run whose tables lie over 4 devices too. Then a bit of one process of 4 is flipped in training. All on loopback,
one CPU device each. --quick: 4, 2 and 1 processes, a tiny model. --write: also benchmarks/results/processes.json.

More devices sum float32 in another order. Whether that is all that differs is asked again at ten times the learning
rate, where training is so hot that any rounding grows to a tenth of a parameter: there the same job is done in float64,
which leaves rounding nine digits smaller and every mistake as large as it was; and beside it stand undisturbed runs in
float32, by 1, 2 and 8 devices of one process, and by one whose first state is off by the last bit.

What happens in a training process is noted, a bit flipped, and float64 put in float32's place by this script, which
starts the command line with functions of its own around the step: the package has no switch for it.

Prints one JSON line, and ends with 1 where something does not hold:

    batches       steps whose batch, rows and negatives alike, was that of one process, of those that were taken, those
                  done again after the kill among them
    apart         largest difference of a parameter at the end from that of one process, and of the losses, relative
    near          whether all parameters are within rtol 1e-3, atol 1e-4, as the tests hold it, but for key biases of
                  attention, which the softmax cancels; and whether validations and counts of negatives are the same
    hot           the same in float64, where near is 1e-9 of both; and in float32 how far undisturbed runs end from that
                  of one device
    codes         exit codes of the launcher after the kill, after SIGTERM, and at the end
    evaluate      figures of report.json, and how many differ between 4 processes and one by more than 1e-6; and ranks
    export        files, and how many differ at all, but for the manifest
    flipped       exit code, the line that names the process, steps of the flip and of the latest checkpoint, and
                  whether the run, started again, ended where one process did
    goodput       as result.json tells it, and by the stopwatch of whoever started the processes, from the launch of
                  the first to the end of the last; ``apart`` are their difference and that of the wall clocks, relative
"""

import argparse
import dataclasses
import hashlib
import json
import os
import pathlib
import random
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from typing import Any

import faults
import jax
import numpy as np

from jaxneg.simulation import simulator
from jaxneg.training import logs

ROOT = pathlib.Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "processes.json"
CLOSE = 1e-6  # of figures that are means of the same values in another order
NEAR = 1e-3, 1e-4  # rtol and atol of parameters in float32, as tests/training/test_processes.py holds it
# In float64 an error of 1e-16 grows as float32's of 6e-8 does: to 1e-9, where that one comes to 0.3.
DOUBLE = 1e-9, 1e-9
AGREED = 0.02  # of goodput by two clocks
EPOCHS = 5
# Runs a script in which whatever the package means to be float32 is float64; before it is imported, defaults are bound.
FINER = """
import runpy, sys, jax
jax.numpy.float32 = jax.numpy.float64
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
RATE, HOT = 0.001, 0.01  # learning rates: the library's default, and one at which rounding grows
FEW = simulator.SimulateConfig(users=120, items=150, sessions=900, stations=4, artists=10)
SHARED = "--optim.rows adagrad --train.shards 4 --optim.row-learning-rate 0.1".split()


def digest(leaf: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(leaf).tobytes()).hexdigest()[:16]


def worker(words: list[str]) -> None:
    """One process: notes what it trains on, perhaps flips a bit or counts finer, and else is the command line.

    Args:
      words: FILE, where steps are noted; PROCESS:STEP, where a bit is flipped, "double", "ulp" or "-"; then those of
        the command line.
    """
    from jaxneg import cli
    from jaxneg.training import loop

    place, change, *command = words
    if change == "double":
        count_in_float64()
    victim, _, at = change.partition(":")
    update, notes = loop.Loop._update, list[Any]()

    def noted(self: Any, state: Any, made: list[Any]) -> tuple[Any, Any]:
        if not notes:
            notes.append(open(f"{place}.{jax.process_index():03}", "a", encoding="utf-8"))  # noqa: SIM115
        step = int(state.step)
        notes[0].write(json.dumps({"step": step}) + "\n")
        notes[0].flush()
        if change == "ulp" and step == 0:
            state = state._replace(params=jax.tree.map(beside, state.params))
        floats = {leaf.dtype.name for leaf in jax.tree.leaves(state) if leaf.dtype.kind == "f"}
        assert floats == {"float64" if change == "double" else "float32"}, floats
        rows, rest = noted_of(made[0])
        state, found = update(self, state, made)
        jax.block_until_ready(found)
        line = {"step": step, "of": jax.process_count(), "rows": rows, "rest": rest}
        notes[0].write(json.dumps(line) + "\n")
        notes[0].flush()
        if victim.isdigit() and jax.process_index() == int(victim) and step == int(at):
            state = state._replace(tables={**state.tables, "item_VD": flipped(state.tables["item_VD"])})
        return state, found

    loop.Loop._update = noted  # type: ignore[method-assign]
    cli.main(command)


def count_in_float64() -> None:
    """Has layers of this process, which ``FINER`` began, compute in float64 too."""
    from jaxneg.training import program

    build_model = program.build_model

    def built(config: Any, *rest: Any) -> Any:
        model = dataclasses.replace(config.model, dtype="float64", residual="float64")
        return build_model(dataclasses.replace(config, model=model), *rest)

    program.build_model = built


def beside(leaf: jax.Array) -> jax.Array:
    """An array whose values are the next larger ones, but for zeros."""
    values = np.asarray(leaf)
    return jax.device_put(
        np.where(values == 0, values, np.nextafter(values, np.float32(np.inf))), leaf.sharding
    )


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
            config = faults.CONFIG.replace("width=8, layers=1", "width=64, layers=2")
            config = config.replace("length=8", "length=50").replace(f"rate={HOT}", f"rate={RATE}")
            (directory / "config.py").write_text(config)

    def begin(
        self, name: str, processes: int, change: str = "-", devices: int = 1, options: tuple[str, ...] = ()
    ) -> subprocess.Popen[str]:
        self.starts += 1
        note = f"{self.directory / name}.notes.{self.starts:02}"
        script = [str(ROOT / "benchmarks" / "processes.py"), "worker", note, change]
        asked = ["train", "config.py", "--workdir", name, "--train.epochs", str(self.epochs), *options]
        finer = ["-c", FINER] if change == "double" else []
        return self.launch(processes, [*finer, *script, *asked], devices, finer=bool(finer))

    def launch(
        self, processes: int, words: list[str], devices: int = 1, finer: bool = False
    ) -> subprocess.Popen[str]:
        launch = [sys.executable, str(ROOT / "launch" / "local.py"), "--processes", str(processes), "--"]
        if processes == 1:
            launch = []
        environment = {
            "JAX_COMPILATION_CACHE_DIR": str(self.directory / "cache"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "benchmarks"))),
            "JAX_ENABLE_X64": str(int(finer)),
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

    def notes(self, name: str) -> list[dict[int, Any]]:
        """Of each start, what was noted of the batch of each step: the rows of all processes."""
        found: list[dict[int, Any]] = []
        for first in sorted(self.directory.glob(f"{name}.notes.*.000")):
            ranks = [lines(path) for path in sorted(self.directory.glob(f"{first.stem}.*"))]
            start = {}
            for step, line in ranks[0].items():
                if all(step in rank for rank in ranks) and len(ranks) == line["of"]:
                    rows = [row for rank in ranks for row in rank[step]["rows"]]
                    start[step] = [
                        rows,
                        line["rest"],
                        all(rank[step]["rest"] == line["rest"] for rank in ranks),
                    ]
            found.append(start)
        return found

    def end_of(self, name: str, double: bool) -> tuple[Any, dict[str, Any]]:
        """State and progress at the end of a run."""
        if not double:
            return self.last(name)[:2]
        from jaxneg.training import program

        build = program.build

        def built(*given: Any) -> Any:
            found = build(*given)
            finer = jax.tree.map(
                lambda leaf: leaf.update(dtype=np.float64) if leaf.dtype == np.float32 else leaf, found.state
            )
            return found._replace(state=finer)

        program.build = built
        try:
            with jax.enable_x64(True):
                return self.last(name)[:2]
        finally:
            program.build = build


def lines(path: pathlib.Path) -> dict[int, dict[str, Any]]:
    """What a process noted of the end of each step; a line that a kill cut short is left out."""
    found = {}
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if "of" in line:
            found[line["step"]] = line
    return found


class Stopwatch:
    """What whoever starts processes sees of a run: when it starts and ends them, and what the first of them notes.

    That one notes where a step begins, which is once its batch is there, and where its result is.
    """

    def __init__(self, directory: pathlib.Path, name: str):
        self._directory, self._name, self._done = directory, name, threading.Event()
        self.seen: list[
            dict[int, list[float]]
        ] = []  # of each start, by step: when it began, and when it was done
        self.began = time.monotonic()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        offset, last = 0, ""
        while not self._done.wait(0.001):
            for path in sorted(self._directory.glob(f"{self._name}.notes.*.000"))[-1:]:
                if path.name != last:
                    offset, last = 0, path.name
                    self.seen.append({})
                if path.stat().st_size == offset:
                    continue
                with path.open("rb") as file:
                    file.seek(offset)
                    text, at = file.read(), time.monotonic()
                whole = text[: text.rfind(b"\n") + 1]
                offset += len(whole)
                for line in map(json.loads, whole.splitlines()):
                    self.seen[-1].setdefault(line["step"], []).append(at)

    def stopped(self) -> tuple[float, float]:
        """Seconds from the launch of the first process to the end of the last, and those of them that steps took.

        A step takes from its beginning to its end, and what lies between it and the one before where nothing is saved
        or validated: where something is, as much as elsewhere in that start. The first of a start compiles, and is none
        of them; nor is one that was done again later.
        """
        wall = time.monotonic() - self.began
        self._done.set()
        self._thread.join()
        useful, kept = 0.0, set[int]()
        for start in reversed(self.seen):
            done = {step: times for step, times in start.items() if len(times) == 2}
            gaps = [times[0] - done[step - 1][1] for step, times in done.items() if step - 1 in done]
            between = statistics.median(gaps) if gaps else 0.0
            own = done.keys() - kept - {min(start, default=0)}
            useful += sum(done[step][1] - done[step][0] + between for step in own)
            kept |= done.keys()
        return wall, useful


def interrupted(
    rehearsal: Rehearsal,
    name: str,
    among: tuple[int, int, int],
    change: str = "-",
    options: tuple[str, ...] = (),
) -> dict[str, Any]:
    """Trains with processes that are killed, then stopped, then fewer ones that end it; codes and goodput."""
    watch, codes = Stopwatch(rehearsal.directory, name), []
    for processes, fault in zip(among[:2], ("kill_all", "sigterm"), strict=True):
        began = time.time()
        launcher = rehearsal.begin(name, processes, change, options=options)
        pids = faults.processes_of(launcher, processes)
        steps = rehearsal.step(name) + 2 * faults.EVERY
        while rehearsal.moved(name, launcher, began) and rehearsal.step(name) < steps:
            began = time.time() - 1.0
        faults.strike(fault, launcher, pids, random.Random(0))
        codes.append(launcher.returncode)
        say(f"{name}: {processes} processes: {fault}, exit code {launcher.returncode}")
    rehearsal.end(rehearsal.begin(name, among[2], change, options=options))
    wall, useful = watch.stopped()
    told = json.loads((rehearsal.directory / name / "result.json").read_text())
    apart = {"apart": told["goodput"] * wall / useful - 1, "wall_apart": told["wall_seconds"] / wall - 1}
    return {
        "codes": [*codes, 0],
        "goodput": {
            "told": round(told["goodput"], 4),
            "stopwatch": round(useful / wall, 4),
            "wall_seconds": round(told["wall_seconds"], 2),
            "stopwatch_seconds": round(wall, 2),
            **{key: round(abs(value), 4) for key, value in apart.items()},
            "agreed": max(map(abs, apart.values())) <= AGREED,
            "time_spent": {what: round(seconds, 2) for what, seconds in told["time_spent"].items()},
        },
    }


def compared(rehearsal: Rehearsal, name: str, one: str = "one", double: bool = False) -> dict[str, Any]:
    """A run beside that of one process: batches, parameters, figures."""
    batches = rehearsal.notes(one)[0]
    taken = [(step, batch) for start in rehearsal.notes(name) for step, batch in start.items()]
    (state, progress), (other, again) = (rehearsal.end_of(run, double) for run in (one, name))
    leaves = zip(jax.tree_util.tree_leaves_with_path(state), jax.tree.leaves(other), strict=True)
    pairs = [(x, y) for (path, x), y in leaves if "key.bias" not in jax.tree_util.keystr(path)]
    floats = [(x, y) for x, y in pairs if x.dtype.kind == "f"]
    losses = [
        {line["step"]: line["loss"] for line in logs.read(rehearsal.directory / run) if "loss" in line}
        for run in (one, name)
    ]
    return {
        "batches": f"{sum(batches[step] == batch for step, batch in taken)} of {len(taken)}",
        "steps": len(batches),
        "apart": {
            "parameter": max(float(np.abs(x - y).max(initial=0.0)) for x, y in floats),
            "loss": max(abs(losses[1][step] / loss - 1) for step, loss in losses[0].items()),
        },
        "near": all(np.allclose(x, y, *(DOUBLE if double else NEAR)) for x, y in pairs)
        and faults.timeless(progress)["history"] == faults.timeless(again)["history"]
        and (progress["hard"], progress["negatives"]) == (again["hard"], again["negatives"]),
    }


def hot(rehearsal: Rehearsal, among: tuple[int, int, int]) -> dict[str, Any]:
    """The same job at a rate at which rounding grows: in float64; and how far runs in float32 end from each other."""
    options = ("--optim.learning-rate", str(HOT))
    rehearsal.end(rehearsal.begin("hot-double", 1, "double", options=options))
    interrupted(rehearsal, "hot-many", among, "double", options)
    found: dict[str, Any] = {"float64": compared(rehearsal, "hot-many", "hot-double", double=True)}
    say(f"hot, in float64: {found['float64']}")
    runs = {
        "hot-1": ("-", 1),
        "2 devices": ("-", among[2]),
        "8 devices": ("-", among[0]),
        "last bit": ("ulp", 1),
    }
    for name, (change, devices) in runs.items():
        rehearsal.end(rehearsal.begin(name, 1, change, devices, options))
        if name != "hot-1":
            found.setdefault("float32", {})[name] = compared(rehearsal, name, "hot-1")["apart"]
            say(f"hot, {name}: {found['float32'][name]}")
    return {"learning_rate": HOT, **found}


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
    rehearsal = Rehearsal(directory, 2 if quick else EPOCHS, quick)
    faults.store(directory, FEW)
    rehearsal.end(rehearsal.begin("one", 1))
    say("one process: done")
    among = (4, 2, 1) if quick else (8, 4, 2)
    found = {
        "benchmark": "processes",
        "among": among,
        **interrupted(rehearsal, "many", among),
        **compared(rehearsal, "many"),
    }
    say(f"many: {found['apart']}, {found['goodput']}")
    if not quick:
        found["hot"] = hot(rehearsal, among)
    found |= measured(rehearsal, "one", 2 if quick else 4)
    say(f"evaluate and export: {found['evaluate']} {found['export']}")
    found["flipped"] = flip(rehearsal, 4, 2)
    if shared:
        rehearsal.run(
            1, ["train", "config.py", "--workdir", "shared", "--train.epochs", "1", *SHARED], devices=4
        )
        found["shared"] = measured(rehearsal, "shared", 4)
    return found | {"cores": os.cpu_count(), "load_average": round(os.getloadavg()[0], 2)}


def held(found: dict[str, Any]) -> bool:
    """Whether all is as it is promised; goodput by two clocks only where steps last."""
    count, _, of = found["batches"].partition(" of ")
    holds = found["near"] and count == of and found["flipped"]["named"] and found["flipped"]["near_after"]
    holds = holds and not found["evaluate"]["differ"] and not found["export"]["differ"]
    return holds and ("hot" not in found or (found["hot"]["float64"]["near"] and found["goodput"]["agreed"]))


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
    sys.exit(not held(found))


if __name__ == "__main__":
    main()
