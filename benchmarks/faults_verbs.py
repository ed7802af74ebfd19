"""Whether each verb survives what happens to machines: kills, signals, full disks, a second one on its directory.

    .venv/bin/python benchmarks/faults_verbs.py [--quick] [--kills 20] [--signals 20] [--verbs VERB ...] [--out DIR]

For prepare, train, sweep, evaluate and export, on a log of simulated listeners:

    kills    SIGKILL to the verb and its workers at a random moment of the time that it takes, up to five times in one
             directory, then the same command to its end: what it leaves is compared with that of an undisturbed one
    disk     no file may grow beyond some kB (RLIMIT_FSIZE): exit code 2 and one line; then the same command without
             the limit is compared as above
    signals  SIGINT and SIGTERM, to these and to the other verbs by turns, within 3 s of the moment that signals are
             caught (what comes before, as Python itself begins, ends the process by the system's own rules): exit codes
             130 and 143, one line, no leftovers
    twice    two of the same command at once: one is done, the other refused in one line that names the first
    differ   every field of the config, the package versions and the store's files, changed one at a time: the function
             that the processes of one job compare them with names that one (two real processes: test_faults.py)

Training's random moments are of an epoch budget that takes longer than its start. --quick: one kill and one signal of
each, of export unless --verbs says otherwise. Prints one JSON line: for each part how many held of how
many, and ``wrong``, what did not.
"""

import argparse
import csv
import dataclasses
import hashlib
import json
import os
import pathlib
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

from jaxneg.config import Config
from jaxneg.data import stores
from jaxneg.training import agreement, processes

ROOT = pathlib.Path(__file__).parents[1]
CONFIG = """
from jaxneg.config import Config, DataConfig, EvalConfig, ModelConfig, TrainConfig


def get_config():
    return Config(
        data=DataConfig(store="store", length=8, batch_size=32, p_hard=0.5),
        model=ModelConfig(width=8, layers=1),
        train=TrainConfig(epochs=6, patience=0, devices=1, log_every=1, checkpoint_every=7),
        eval=EvalConfig(batch_size=64, bootstrap=50),
    )
"""
LISTENERS = "--users 60 --items 80 --sessions 300 --stations 4 --artists 10"
VERBS = {
    "prepare": "prepare table log.csv --out new --attributes artist",
    "train": "train config.py --workdir new",
    "sweep": "sweep config.py --workdir new --jobs 1 --train.epochs 1 --set data.p-hard=0,0.5 --seeds 1",
    "evaluate": "evaluate run",
    "export": "export run --out new",
}
# What signals are sent to as well.
OTHERS = {
    "simulate": f"simulate --out new.csv {LISTENERS}",
    "simulate --ab": "simulate --ab export --truth log.csv.truth.npz --store store --out new --listeners 50",
    "inspect": "inspect store --verify",
    "plan": "plan config.py --topology v5e:2x2",
    "recommend": "recommend export --items song_10",
    "demo": "demo --out new",
}
# kB that a file may have in each, so that it stops amid writing.
LIMITS = {"prepare": 8, "train": 2, "sweep": 2, "evaluate": 4, "export": 8}
TIMES = re.compile(
    r"seconds|_s$|per_s|second$|prepared|created|written|time$|device|host|seal|sum$|metadata|^sha256$"
)
SKIPPED = re.compile(
    r"checkpoints|tensorboard|plots|\.png$|\.md$|\.log$|environment\.json|lock$|logs?/|html$"
)
LONGEST = 240.0  # seconds to wait for anything


class Place:
    """A directory with all that the verbs need; each trial has a copy."""

    def __init__(self, directory: pathlib.Path):
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "config.py").write_text(CONFIG)

    def copy(self, name: str) -> "Place":
        target = self.directory.parent / name
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(self.directory, target)
        return Place(target)

    def start(self, command: str, limit_kb: int = 0) -> subprocess.Popen[bytes]:
        environment = {key: value for key, value in os.environ.items() if key != "XLA_FLAGS"} | {
            "JAX_COMPILATION_CACHE_DIR": str(self.directory.parent / "cache"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
            "PYTHONPATH": str(ROOT),
        }
        if limit_kb:
            environment["JAX_COMPILATION_CACHE_DIR"] = ""
        process = subprocess.Popen(
            [sys.executable, "-m", "jaxneg", *command.split()],
            cwd=self.directory,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        if limit_kb:
            resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (limit_kb << 10, limit_kb << 10))
        return process

    def end(self, command: str, limit_kb: int = 0) -> tuple[int, str, float]:
        """Exit code, standard error and seconds of a command."""
        began = time.monotonic()
        process = self.start(command, limit_kb)
        said = process.communicate(timeout=LONGEST)[1].decode()
        return process.returncode, said, time.monotonic() - began

    def outcome(self, verb: str) -> dict[str, str]:
        """Checksums of what a verb left, by file; JSON without its times."""
        directory = self.directory / ("run" if verb == "evaluate" else "new")
        found = {}
        for path in sorted(directory.rglob("*")):
            name = str(path.relative_to(directory))
            if path.is_file() and not SKIPPED.search(name):
                found[name] = hashlib.sha256(_timeless(path)).hexdigest()
        return found

    def leftovers(self) -> list[str]:
        return [
            str(p) for p in self.directory.rglob("*") if "jaxneg-tmp" in p.name or p.name.endswith(".lock")
        ]


def _timeless(path: pathlib.Path) -> bytes:
    if path.suffix == ".csv":
        with open(path, newline="", encoding="utf-8") as file:
            return json.dumps([_without_times(row) for row in csv.DictReader(file)]).encode()
    if path.suffix not in (".json", ".jsonl"):
        return path.read_bytes()
    lines = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
    return json.dumps([_without_times(json.loads(line)) for line in lines]).encode()


def _without_times(values: Any) -> Any:
    if isinstance(values, dict):
        return {k: _without_times(v) for k, v in values.items() if not TIMES.search(k)}
    return [_without_times(v) for v in values] if isinstance(values, list) else values


def differing(one: dict[str, str], other: dict[str, str]) -> list[str]:
    return sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))


def kill(process: subprocess.Popen[bytes]) -> None:
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.communicate()


def caught(process: subprocess.Popen[bytes]) -> bool:
    """Waits until a process catches SIGTERM; False if it ended before."""
    while process.poll() is None:
        found = re.findall(r"SigCgt:\s*(\w+)", pathlib.Path(f"/proc/{process.pid}/status").read_text())
        if found and int(found[0], 16) >> (signal.SIGTERM - 1) & 1:
            return True
        time.sleep(0.001)
    return False


class Trials:
    """What was tried, what held and what did not."""

    def __init__(self) -> None:
        self.held: dict[str, list[int]] = {}
        self.wrong: list[str] = []

    def note(self, part: str, wrong: str | None, count: int = 1) -> None:
        held = self.held.setdefault(part, [0, 0])
        held[0] += 0 if wrong else count
        held[1] += count
        if wrong:
            self.wrong.append(f"{part}: {wrong}")
        if wrong or part != "differ":
            print(f"{part}: {wrong or 'held'}", file=sys.stderr, flush=True)


def compared(place: Place, verb: str, whole: dict[str, str]) -> str | None:
    """Runs a verb to its end; what is wrong with what it leaves."""
    code, said, _ = place.end(VERBS[verb])
    if code:
        return f"the same command ended with {code}: {said[-300:]}"
    if names := differing(whole, place.outcome(verb)):
        return f"differs from the undisturbed one in {', '.join(names[:5])}"
    return f"leftovers {left[:3]}" if (left := place.leftovers()) else None


def kills(base: Place, verb: str, count: int, whole: dict[str, str], taken: float, rng: random.Random) -> str:
    wrong = None
    place = base.copy("trial")
    for _ in range(count):
        process = place.start(VERBS[verb])
        time.sleep(rng.uniform(0.05, 1.0) * taken)
        if process.poll() is not None and verb == "export":
            shutil.rmtree(place.directory / "new", ignore_errors=True)
        kill(process)
    if verb == "export":  # where the last one was done before its kill
        shutil.rmtree(place.directory / "new", ignore_errors=True)
    wrong = compared(place, verb, whole)
    return wrong or ""


def disk(base: Place, verb: str, whole: dict[str, str]) -> str | None:
    place = base.copy("trial")
    code, said, _ = place.end(VERBS[verb], LIMITS[verb])
    lines = [line for line in said.splitlines() if line.startswith("jaxneg:")]
    if code != 2 or "Traceback" in said or not lines:
        return f"exit code {code}: {said[:800]}"
    return compared(place, verb, whole)


def signalled(base: Place, verb: str, number: signal.Signals, rng: random.Random) -> str | None:
    place = base.copy("trial")
    process = place.start((VERBS | OTHERS)[verb])
    if not caught(process):
        return "it ended at once"
    time.sleep(rng.uniform(0.0, 3.0))
    if process.poll() is None:
        process.send_signal(number)
    said = process.communicate(timeout=LONGEST)[1].decode()
    # here it has none for TPUs, and says so at once
    refused = verb == "plan" and "needs its compiler" in said
    if process.returncode == 0 or refused:
        return None
    if process.returncode != 128 + number or "Traceback" in said:
        return f"{number.name}: exit code {process.returncode}: {said[-300:]}"
    if len([line for line in said.splitlines() if line.startswith("jaxneg: ")]) != 1:
        return f"{number.name}: not one line: {said[-300:]}"
    return f"{number.name}: leftovers {left[:3]}" if (left := place.leftovers()) else None


def twice(base: Place, verb: str, whole: dict[str, str]) -> str | None:
    place = base.copy("trial")
    both = [place.start(VERBS[verb]) for _ in range(2)]
    said = [process.communicate(timeout=LONGEST)[1].decode() for process in both]
    codes = [process.returncode for process in both]
    if sorted(codes) == [0, 0]:  # one after the other, as with a slow start
        return None if not differing(whole, place.outcome(verb)) else "both ended with 0 and another outcome"
    refused = said[codes.index(2)] if 2 in codes else ""
    if sorted(codes) != [0, 2] or not re.search(r"in use by|exists|made in the meantime", refused):
        return f"exit codes {codes}: {said[0][-200:]} {said[1][-200:]}"
    if names := differing(whole, place.outcome(verb)):
        return f"differs from a single one in {', '.join(names[:5])}"
    return None


def differ(base: Place, note: Callable[[str, str | None], None]) -> None:
    """Changes what processes compare, one at a time."""
    first = agreement.of_config(Config())
    first |= agreement.of_store(stores.Store.open(base.directory / "store"))
    for name in first:
        line = processes.difference(first, first | {name: "another"})
        note("differ", None if line and line.startswith(f"{name} is another") else f"{name}: {line}")
    known = {f"--{part.name}.{one.name}" for part in dataclasses.fields(Config) for one in _fields(part.name)}
    own = {f"--{name}" for name in agreement.OWN}
    compared_to = {name for name in first if name.startswith("--")}
    lacking = {name.replace("_", "-") for name in known - own} - compared_to
    note("differ", f"not compared: {sorted(lacking)}" if lacking else None)


def _fields(part: str) -> tuple[dataclasses.Field[Any], ...]:
    return dataclasses.fields(getattr(Config(), part))


def measure(
    directory: pathlib.Path, kills_each: int, signals_each: int, verbs: list[str], seed: int = 0
) -> dict[str, Any]:
    began, rng, trials = time.monotonic(), random.Random(seed), Trials()
    base = Place(directory / "base")
    for command in (
        f"simulate --out log.csv {LISTENERS}",
        "prepare table log.csv --out store --attributes artist",
        "train config.py --workdir run --train.epochs 1",
        "export run --out export",
    ):
        code, said, _ = base.end(command)
        if code:
            raise RuntimeError(f"{command} ended with {code}:\n{said}")
    seconds = {}
    for verb, command in ((verb, VERBS[verb]) for verb in verbs):
        base.copy("whole").end(command)  # compiles
        place = base.copy("whole")
        code, said, seconds[verb] = place.end(command)
        if code:
            raise RuntimeError(f"{command} ended with {code}:\n{said}")
        whole = place.outcome(verb)
        left = kills_each
        while left > 0:
            some = min(5, left)
            trials.note(f"kills {verb}", kills(base, verb, some, whole, seconds[verb], rng) or None, some)
            left -= some
        trials.note(f"disk {verb}", disk(base, verb, whole))
        trials.note(f"twice {verb}", twice(base, verb, whole))
    stopped = [*verbs, *OTHERS]
    for number in (signal.SIGINT, signal.SIGTERM):
        for k in range(signals_each):
            verb = stopped[k % len(stopped)]
            trials.note(number.name.lower(), (w := signalled(base, verb, number, rng)) and f"{verb}: {w}")
    differ(base, trials.note)
    return {
        "benchmark": "faults_verbs",
        "held": {part: f"{held} of {count}" for part, (held, count) in trials.held.items()},
        "wrong": trials.wrong,
        "seconds_undisturbed": {verb: round(value, 1) for verb, value in seconds.items()},
        "seconds": round(time.monotonic() - began),
        "cores": os.cpu_count(),
        "load_average": round(os.getloadavg()[0], 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Kills, stops and starves each verb and compares what it leaves."
    )
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--kills", type=int, default=20, help="of each verb")
    parser.add_argument("--signals", type=int, default=20, help="of each signal, over the verbs by turns")
    parser.add_argument("--out", type=pathlib.Path, help="directory to keep, instead of a temporary one")
    parser.add_argument("--verbs", nargs="+", choices=VERBS)
    asked = parser.parse_args()
    # what a caller ignores, those started here would too
    signal.signal(signal.SIGINT, signal.default_int_handler)
    verbs = asked.verbs or (["export"] if asked.quick else list(VERBS))
    counts = (1, 1) if asked.quick else (asked.kills, asked.signals)
    with tempfile.TemporaryDirectory() as temporary:
        print(json.dumps(measure(asked.out or pathlib.Path(temporary), *counts, verbs)))


if __name__ == "__main__":
    main()
