"""Whether damaged files are refused in one line: never a traceback, a crash, a hang, or another answer in silence.

    .venv/bin/python benchmarks/fuzz.py [--mutants 5000] [--seed 0] [--quick] [--only N ...] [--jobs 1] [--out DIR]

Makes small stores, runs, exports, logs and configs of simulated listeners and notes what each verb makes of them. Then,
for each mutant, damages one file of one of them and calls a verb that reads it, as the command line does:

    bytes       turned, overwritten, cut, inserted, appended, moved; files empty, gone, swapped, of another kind
    documents   values of JSON of another type, beyond bounds, deep, missing, unknown, twice
    arrays      headers of npy (shape, type, order, vast claims), other numbers, other lengths
    tables      columns, types, rows and nulls of parquet
    logs        fields, rows, line ends, quotes, encodings; gzip and zip streams
    configs     values of other types and sizes, exceptions, what is no Python

A part of them also has its checksums made anew, as another program would: what is read must then still be checked
against what it indexes. Held: the verb ends with 2, one line and nothing half-written, or with 0 and the output of
the undamaged. Others are right only where the format cannot know of the edit, by rules counted in the result:

    mended     the checksums of what was changed were made anew
    log        a log in which Python's own readers find as many rows as the verb says it kept and left out
    config     a config that says, run by Python alone, what the run says it was trained with

Each mutant is a function of (seed, number): --only N runs some again and keeps them in DIR. --quick: 60 of them.
Prints one JSON line; ``wrong`` lists what did not hold.
"""

import argparse
import collections
import importlib
import json
import os
import pathlib
import pickle
import pkgutil
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # a process is forked safely only while it has one thread
os.environ.setdefault("JAX_PLATFORMS", "cpu")

from fuzzing import configs, logs, places  # noqa: E402

T = TypeVar("T")
# What training says before it goes wrong.
TOLD = ("train ", "jaxneg: compiled programs are kept in ")
LONGEST = 60.0  # seconds after which a call hangs
LARGEST = 2 << 30  # bytes of memory that a call may take
QUICK = 60
HARMLESS, REFUSED, UNKNOWABLE, WRONG = "harmless", "refused", "cannot_know", "wrong"


class Ended(NamedTuple):
    code: int
    out: str
    err: str
    seconds: float
    peak: int  # bytes


class Call:
    """A verb in a child of this process, which has imported all that verbs need."""

    def __init__(self, place: pathlib.Path, call: str):
        self.place, self.call, self._began = place, call, time.monotonic()
        self._files = [place.with_name(f"{place.name}.{kind}") for kind in ("out", "err")]
        self._killed = ""
        self._pid = _forked()
        if self._pid == 0:
            self._child()

    def _child(self) -> None:
        code = 1
        try:
            for number, path in enumerate(self._files, start=1):
                os.dup2(os.open(path, os.O_CREAT | os.O_TRUNC | os.O_WRONLY), number)
            os.chdir(self.place)
            sys.argv = ["jaxneg", *self.call.split()]
            from jaxneg import __main__ as program

            program.main()
            code = 0
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else int(error.code is not None)
        except BaseException:
            traceback.print_exc()
        finally:
            for stream in (sys.stdout, sys.stderr):
                try:
                    stream.flush()
                except (OSError, ValueError):
                    pass
            os._exit(code)

    def ended(self) -> Ended | None:
        """What came of it; None while it runs."""
        pid, status, used = os.wait4(self._pid, os.WNOHANG)
        seconds = time.monotonic() - self._began
        if pid == 0:
            if seconds > LONGEST and not self._killed:
                self._killed = "hangs"
                os.kill(self._pid, signal.SIGKILL)
            elif not self._killed and self._resident() > LARGEST:
                self._killed = "takes more memory than allowed"
                os.kill(self._pid, signal.SIGKILL)
            return None
        out, err = (path.read_text(errors="replace") for path in self._files)
        for path in self._files:
            path.unlink()
        err += f"\nKILLED: {self._killed}" if self._killed else ""
        return Ended(os.waitstatus_to_exitcode(status), out, err, seconds, used.ru_maxrss << 10)

    def _resident(self) -> int:
        try:
            return int(pathlib.Path(f"/proc/{self._pid}/statm").read_text().split()[1]) * os.sysconf(
                "SC_PAGESIZE"
            )
        except (OSError, IndexError):
            return 0


class Mutant(NamedTuple):
    number: int
    target: places.Target
    verb: str
    done: str
    mended: bool
    place: pathlib.Path


def apart(function: Callable[..., T], *args: Any) -> T:
    """What a function returns in a child: neither its threads nor what it does to this process stay."""
    with tempfile.TemporaryFile() as file:
        pid = _forked()
        if pid == 0:
            code = 1
            try:
                pickle.dump(function(*args), file)
                file.flush()
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        _, status = os.waitpid(pid, 0)
        if status:
            raise RuntimeError(f"{function.__name__} failed, see above")
        file.seek(0)
        return pickle.load(file)


def _forked() -> int:
    names = [(task / "comm").read_text().strip() for task in pathlib.Path("/proc/self/task").iterdir()]
    if len(names) - names.count("jemalloc_bg_thd") > 1:  # of pyarrow's, which provides for forks
        raise RuntimeError("this process has threads, which a fork would lose")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # JAX warns of forks, and has no threads yet
        return os.fork()


def preload() -> None:
    """Imports whatever verbs import, so that their children need not."""
    import jaxneg

    for module in pkgutil.walk_packages(jaxneg.__path__, "jaxneg."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    for name in ("ibis.backends.duckdb", "sqlglot.dialects", "tensorboardX", "matplotlib.pyplot"):
        importlib.import_module(name)


def called(place: pathlib.Path, call: str) -> Ended:
    running = Call(place, call)
    while (found := running.ended()) is None:
        time.sleep(0.005)
    return found


def _must(place: pathlib.Path, call: str) -> None:
    ended = called(place, call)
    if ended.code:
        raise RuntimeError(f"{call} ended with {ended.code}:\n{ended.err}")


def undamaged(base: pathlib.Path, verb: places.Verb) -> Any:
    place = base.with_name("undamaged")
    places.lay(base, place, verb, "")
    ended = called(place, verb.call)
    if ended.code:
        raise RuntimeError(f"{verb.call} ended with {ended.code}:\n{ended.err}")
    found = verb.outcome(place, ended.out)
    shutil.rmtree(place)
    return found


def damaged(base: pathlib.Path, seed: int, number: int) -> Mutant:
    rng = random.Random(f"{seed}/{number}")
    [target] = rng.choices(places.TARGETS, [one.share for one in places.TARGETS])
    verb = rng.choice(target.verbs)
    place = base.with_name(f"mutant-{number}")
    shutil.rmtree(place, ignore_errors=True)
    places.lay(base, place, places.VERBS[verb], target.name)
    for other in ("other", "another"):  # whose files may come in place of those of the target
        (place / other).symlink_to(base / other)
    done, mended = apart(target.damage, rng, place / target.name)
    for other in ("other", "another"):
        (place / other).unlink()
    return Mutant(number, target, verb, done, mended, place)


def judged(mutant: Mutant, ended: Ended, usual: dict[str, Any]) -> tuple[str, str]:
    """(verdict, its reason)."""
    verb = places.VERBS[mutant.verb]
    if "KILLED" in ended.err:
        return WRONG, ended.err.split("KILLED: ")[-1]
    if ended.peak > LARGEST:
        return WRONG, f"takes {ended.peak:,} bytes of memory"
    if (
        "Traceback" in ended.err
        or "Error:" in ended.err.replace("ValueError: ", "", 0)
        and ended.code not in (0, 2)
    ):
        return WRONG, f"traceback: {ended.err[-400:]}"
    # A config that raises what Ctrl-C does ends a verb as Ctrl-C does.
    if ended.code == (130 if "raise KeyboardInterrupt" in mutant.done else 2):
        lines = [line for line in ended.err.splitlines() if line.strip() and not line.startswith(TOLD)]
        if len(lines) != 1 or not lines[0].startswith("jaxneg: "):
            return WRONG, f"{len(lines)} lines: {ended.err[:400]}"
        if verb.makes and os.path.lexists(mutant.place / verb.makes):
            return WRONG, f"leaves {verb.makes}"
        left = [path.name for path in mutant.place.rglob("*") if "jaxneg-tmp" in path.name]
        return (WRONG, f"leaves {left[0]}") if left else (REFUSED, lines[0])
    if ended.code != 0:
        return WRONG, f"exit code {ended.code}: {ended.err[-300:]}"
    try:
        found = verb.outcome(mutant.place, ended.out)
    except Exception as error:
        return WRONG, f"exit code 0 and no outcome: {error!r}: {ended.err[-200:]}"
    if found == usual[mutant.verb]:
        return HARMLESS, ""
    return apart(_another, mutant, found)


def _another(mutant: Mutant, found: Any) -> tuple[str, str]:
    """Exit code 0 and another output: could the format know?"""
    path = mutant.place / mutant.target.name
    if mutant.mended:
        return UNKNOWABLE, f"mended: {mutant.target.name}"
    if mutant.target.name in places.LOGS:
        left_out = sum(
            n for name, n in found["dropped"].items() if name.startswith(("events_of", "left out"))
        )
        rows, kept = logs.rows(path), found["counts"]["events"] + left_out
        if rows == kept:
            return UNKNOWABLE, "log: as many rows as Python's own readers find"
        return WRONG, f"{kept} rows told of {rows}"
    if mutant.target.name in places.CONFIGS:
        trained = json.loads((mutant.place / "new/config.json").read_text())
        trained.pop("sha256")
        if configs.says(path) == configs.plain(trained):
            return UNKNOWABLE, "config: trained with what the file says"
        return WRONG, "trained with other values than the file says"
    return WRONG, f"exit code 0 with another output: {_first_difference(found)}"


def _first_difference(found: Any) -> str:
    return json.dumps(found)[:100]


def measure(
    directory: pathlib.Path, mutants: list[int], seed: int, jobs: int = 1, keep: bool = False
) -> dict[str, Any]:
    began = time.monotonic()
    preload()
    base = directory / "base"
    base.mkdir(parents=True)
    places.setup(base, _must)
    apart(places.write_logs, base)
    usual: dict[str, Any] = {}
    verdicts, rules = collections.Counter(), collections.Counter()
    by_target: dict[str, collections.Counter] = collections.defaultdict(collections.Counter)
    wrong, slowest, peak = [], 0.0, 0
    by_verb: dict[str, list[float]] = collections.defaultdict(list)
    waiting, running = mutants[::-1], {}
    while waiting or running:
        while waiting and len(running) < jobs:
            mutant = damaged(base, seed, waiting.pop())
            if mutant.verb not in usual:
                usual[mutant.verb] = undamaged(base, places.VERBS[mutant.verb])
            running[mutant.number] = (mutant, Call(mutant.place, places.VERBS[mutant.verb].call))
        for number, (mutant, call) in list(running.items()):
            if (ended := call.ended()) is None:
                continue
            del running[number]
            verdict, reason = judged(mutant, ended, usual)
            verdicts[verdict] += 1
            by_target[mutant.target.name][verdict] += 1
            by_verb[mutant.verb].append(ended.seconds)
            slowest, peak = max(slowest, ended.seconds), max(peak, ended.peak)
            line = f"{number} {mutant.verb}: {mutant.done}: {verdict} {reason}"
            if verdict == UNKNOWABLE:
                rules[reason] += 1
            if verdict == WRONG:
                wrong.append(line[:600])
            if verdict == WRONG or keep:
                print(f"{line}\n{ended.err if keep else ''}", file=sys.stderr, flush=True)
            if not keep:
                shutil.rmtree(mutant.place)
        time.sleep(0.002)
    return {
        "benchmark": "fuzz",
        "seed": seed,
        "mutants": len(mutants),
        **{verdict: verdicts[verdict] for verdict in (HARMLESS, REFUSED, UNKNOWABLE)},
        "wrong": wrong,
        "tracebacks": sum("traceback" in line for line in wrong),
        "other_outputs": sum("another output" in line for line in wrong),
        "hangs": sum("hangs" in line for line in wrong),
        "rules": dict(sorted(rules.items())),
        "by_target": {name: dict(counts) for name, counts in sorted(by_target.items())},
        "seconds_by_verb": {verb: round(sum(each)) for verb, each in sorted(by_verb.items())},
        "peak_gb": round(peak / 2**30, 2),
        "slowest_seconds": round(slowest, 1),
        "seconds": round(time.monotonic() - began),
        "jobs": jobs,
        "cores": os.cpu_count(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Damages stores, runs, exports, logs and configs; calls the verbs."
    )
    parser.add_argument("--mutants", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", type=int, nargs="+", help="numbers of mutants to run again and to keep")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--out", type=pathlib.Path, help="directory to keep, instead of a temporary one")
    asked = parser.parse_args()
    numbers = asked.only or list(range(QUICK if asked.quick else asked.mutants))
    with tempfile.TemporaryDirectory() as temporary:
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", f"{temporary}/compiled")
        os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
        os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
        directory = (asked.out or pathlib.Path(temporary)).absolute() / "fuzz"
        shutil.rmtree(directory, ignore_errors=True)
        found = measure(directory, numbers, asked.seed, asked.jobs, keep=bool(asked.only))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
