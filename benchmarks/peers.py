"""jaxneg beside the libraries that its users would take instead: training, evaluation, latency, on one log.

    .venv/bin/python benchmarks/peers.py                 # a quarter of an hour on 2 cores; environments once more 2
    .venv/bin/python benchmarks/peers.py --only ours,torch --lengths 50
    .venv/bin/python benchmarks/peers.py --quick         # ours alone on a small log: a test of the script

Each library runs in a process of its own, those of others in environments that this script makes from the locks in
``rivals/``. All get the same log: that of MovieLens-1M where JAXNEG_ML1M names its directory, else one made up with
its number of users and films, lengths of histories and flatness. Of each user the last two films are held out.

    width 64, 2 blocks, 1 head, feed-forward width 64, dropout 0.2, batches of 128 sequences, Adam at 1e-3, float32,
    binary cross-entropy with one uniform negative a position (what differs is said in each script of ``rivals/``)

All processes are alive at once and take turns, a window of steps each, so that a machine that grows slower does so for
all. A window in which others used more than a fifth of a core is dropped, and taken again up to three times. Libraries
on JAX run with huge pages and keep what they free (train_step.KEPT), those on PyTorch as they come. A process in its
turn has all cores.

Prints one JSON line: under L50 and L200, by library, with medians over windows and the 10% and 90% quantiles

    positions_per_s      targets trained a second, loader included; of RecBole sequences, as each has one target
    train_peak_gb        most memory that the process has held up to the end of training
    evaluate_s           all users' test items ranked over the catalogue (the least of three)
    latency_ms           one user, a history in and 100 ids out: median and 99% quantile of 200

and ratio_50, ratio_200 (positions_per_s), ratio_evaluation and ratio_latency (both at 200): ours over the best of the
others, above 1 where ours is faster. --out DIR writes the line, a table and a plot.
"""

import argparse
import hashlib
import json
import os
import pathlib
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import train_step  # beside this script

ROOT = pathlib.Path(__file__).resolve().parent.parent
SCRIPTS = ROOT / "benchmarks" / "rivals"
LONGEST = 2000  # items of a history that is made up
FOREIGN = 0.2  # cores that others may use in a window
TRIES = 3  # times the windows that are asked for
TICK = os.sysconf("SC_CLK_TCK")


class Peer(NamedTuple):
    """A library and how its process is started."""

    title: str
    script: str
    lock: str | None  # of its environment; None for this one
    jax: bool  # whether XLA allocates its buffers


PEERS = {
    "ours": Peer("jaxneg", "ours.py", None, True),
    "keras": Peer("Keras-RS example, JAX", "keras_sasrec.py", "keras.lock", True),
    "rectools": Peer("RecTools", "rectools_sasrec.py", "rectools.lock", False),
    "replay": Peer("RePlay", "replay_sasrec.py", "replay.lock", False),
    "recbole": Peer("RecBole", "recbole_sasrec.py", "recbole.lock", False),
    "torch": Peer("plain PyTorch, compiled", "torch_sasrec.py", "rectools.lock", False),
}


class Plan(NamedTuple):
    """How much is measured."""

    warmup: int
    lead: int  # steps before each window: what a loader had ready is used up
    steps: dict[int, int]  # of a window, by length
    windows: int
    evaluations: int
    requests: int


FULL = Plan(8, 4, {50: 32, 200: 12}, 6, 3, 200)
QUICK = Plan(2, 1, {50: 2, 200: 2}, 2, 1, 5)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", help="libraries, with commas: all, or ours alone with --quick")
    parser.add_argument("--lengths", default="50,200", help="inputs of a model, with commas")
    parser.add_argument("--quick", action="store_true", help="a small log, few steps")
    parser.add_argument(
        "--devices", type=int, default=1, help="of a CPU, that ours trains on: one for all cores, or one each"
    )
    parser.add_argument("--environments", type=pathlib.Path, default=ROOT / "runs" / "peers")
    parser.add_argument("--out", type=pathlib.Path, help="directory for peers.json, peers.md and peers.png")
    args = parser.parse_args()
    end_processes_when_told()
    names = args.only.split(",") if args.only else ["ours"] if args.quick else list(PEERS)
    if unknown := [name for name in names if name not in PEERS]:
        parser.error(f"no such library: {', '.join(unknown)}; there are {', '.join(PEERS)}")
    lengths = [int(length) for length in args.lengths.split(",")]
    pythons = {name: environment(PEERS[name].lock, args.environments) for name in names}
    plan = QUICK if args.quick else FULL
    result: dict[str, Any] = {"benchmark": "peers", "quick": args.quick}
    with tempfile.TemporaryDirectory() as directory:
        log = pathlib.Path(directory) / "log.npz"
        source = os.environ.get("JAXNEG_ML1M")
        items = write_log(log, *(read(pathlib.Path(source)) if source else made_up(args.quick)))
        for length in lengths:
            place = pathlib.Path(directory) / str(length)
            found = measure(pythons, log, length, plan, place, args.devices)
            result[f"L{length}"] = found
    result |= ratios(result)
    result |= {
        "log": "MovieLens-1M" if source else "made up",
        "items": items,
        "devices": args.devices,
        "windows": plan.windows,
        "steps_per_window": plan.steps,
        "cores": os.cpu_count(),
        "machine": machine(),
    }
    print(json.dumps(result))
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        (args.out / "peers.json").write_text(json.dumps(result) + "\n")
        (args.out / "peers.md").write_text(table(result))
        plot(result, args.out / "peers.png")


def environment(lock: str | None, directory: pathlib.Path) -> str:
    """The interpreter of an environment that holds what the lock says; made where it is not there."""
    if lock is None:
        return sys.executable
    wanted = (SCRIPTS / lock).read_text()
    place = (
        directory.resolve()
        / f"{lock.removesuffix('.lock')}-{hashlib.sha256(wanted.encode()).hexdigest()[:12]}"
    )
    python, made = place / "bin" / "python", place / "made"
    if not made.exists():
        tell(f"making an environment from {lock}")
        subprocess.run([sys.executable, "-m", "venv", "--clear", place], check=True)
        install = [python, "-m", "pip", "install", "--quiet", "--no-deps", "--requirement", SCRIPTS / lock]
        subprocess.run(install, check=True)
        made.touch()
    return str(python)


def made_up(quick: bool) -> tuple[np.ndarray, np.ndarray]:
    """Items of users, one after the other, no item twice in a user, and where each user begins."""
    users, items = (400, 300) if quick else (train_step.USERS, train_step.ITEMS)
    rng = np.random.default_rng(0)
    # Of the lengths of train_step.py, with one input more and two items that are held out.
    size_U = np.minimum(train_step.lengths(users, rng) + 3, min(LONGEST, items // 2))
    weight_V = np.log(1.0 / (np.arange(1, items + 1) + 50))  # flatter than Zipf, as films are
    chosen = []
    for size in size_U:
        # The largest of perturbed weights: a draw without replacement, in its order.
        gumbel_V = weight_V + rng.gumbel(size=items)
        chosen.append(np.argsort(-gumbel_V)[:size] + 1)
    # An item may have been drawn by nobody, and rows go from 1 to the last one.
    item_T = np.unique(np.concatenate(chosen), return_inverse=True)[1] + 1
    return item_T.astype(np.int32), np.concatenate([[0], np.cumsum(size_U)])


def read(directory: pathlib.Path) -> tuple[np.ndarray, np.ndarray]:
    """The ratings of MovieLens-1M by user and time, films of fewer than five ratings left out."""
    lines = (directory / "ratings.dat").read_text().splitlines()
    user_T, item_T, _, time_T = np.array([line.split("::") for line in lines], np.int64).T
    _, row_T, count_V = np.unique(item_T, return_inverse=True, return_counts=True)
    kept_T = count_V[row_T] >= 5
    user_T, item_T, time_T = user_T[kept_T], item_T[kept_T], time_T[kept_T]
    order_T = np.lexsort((np.arange(len(time_T)), time_T, user_T))
    row_T = np.unique(item_T[order_T], return_inverse=True)[1] + 1
    size_U = np.unique(user_T, return_counts=True)[1]
    return row_T.astype(np.int32), np.concatenate([[0], np.cumsum(size_U)])


def write_log(path: pathlib.Path, item_T: np.ndarray, indptr: np.ndarray) -> int:
    np.savez(path, item_T=item_T, indptr=indptr)
    return int(item_T.max())


def end_processes_when_told() -> None:
    """Has SIGTERM end this process as an exception does, so that it ends those that it started."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


class Process:
    """A library at work."""

    def __init__(
        self,
        name: str,
        python: str,
        log: pathlib.Path,
        length: int,
        directory: pathlib.Path,
        settings: dict[str, Any] | None = None,
        environment: dict[str, str] | None = None,
    ):
        directory.mkdir(parents=True)
        variables = {key: value for key, value in os.environ.items() if key != "GLIBC_TUNABLES"}
        variables |= environment or {}
        if PEERS[name].jax:
            variables = train_step.added(variables, train_step.KEPT)
        self.name = name
        self._errors = (directory / "stderr").open("w+")
        self._process = subprocess.Popen(
            [python, SCRIPTS / PEERS[name].script, log, str(length), directory, json.dumps(settings or {})],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env=variables,
            cwd=directory,  # some write where they are
        )
        self.versions: dict[str, str] = self._answer()["versions"]

    def ask(self, do: str, **command: Any) -> dict[str, Any]:
        """The answer to a command, and under "foreign" the cores that others used meanwhile."""
        assert self._process.stdin is not None
        before = time.perf_counter(), busy(), used(self._process.pid)
        print(json.dumps({"do": do, **command}), file=self._process.stdin, flush=True)
        found = self._answer()
        after = time.perf_counter(), busy(), used(self._process.pid)
        wall, machine_s, own_s = (b - a for a, b in zip(before, after, strict=True))
        return found | {"foreign": max(0.0, machine_s - own_s) / wall}

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            self._errors.seek(0)
            sys.exit(f"{self.name} ended with {self._process.returncode}:\n{self._errors.read()[-3000:]}")
        return json.loads(line)

    def end(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def busy() -> float:
    """CPU seconds of the whole machine since it started."""
    with open("/proc/stat") as file:
        user, nice, system, _, _, irq, soft, *_ = map(int, file.readline().split()[1:])
    return (user + nice + system + irq + soft) / TICK


def used(pid: int) -> float:
    """CPU seconds of a process and of the processes that it has started."""
    total = 0.0
    for one in (pid, *children(pid)):
        try:
            fields = pathlib.Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        total += sum(map(int, fields[11:15])) / TICK
    return total


def children(pid: int) -> Iterator[int]:
    for task in pathlib.Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found = task.read_text().split()
        except OSError:
            continue
        for child in map(int, found):
            yield child
            yield from children(child)


def measure(
    pythons: dict[str, str], log: pathlib.Path, length: int, plan: Plan, directory: pathlib.Path, devices: int
) -> dict[str, Any]:
    """What is found of each library at one length."""
    processes = []
    try:
        for name, python in pythons.items():
            tell(f"length {length}: starting {name}")
            settings = {"options": [f"--train.devices={devices}"]} if name == "ours" and devices > 1 else None
            processes.append(Process(name, python, log, length, directory / name, settings))
        return _measure(processes, length, plan, log)
    finally:
        for process in processes:
            process.end()


def _measure(processes: list[Process], length: int, plan: Plan, log: pathlib.Path) -> dict[str, Any]:
    steps = plan.steps[length] if length in plan.steps else plan.steps[200]
    rates: dict[str, list[float]] = {process.name: [] for process in processes}
    foreign: dict[str, list[float]] = {process.name: [] for process in processes}
    for process in processes:
        tell(f"length {length}: warming {process.name}")
        process.ask("train", lead=plan.warmup, steps=1)
    for attempt in range(TRIES * plan.windows):
        waiting = [process for process in processes if len(rates[process.name]) < plan.windows]
        if not waiting:
            break
        tell(f"length {length}: training, round {attempt + 1}, {len(waiting)} libraries")
        for process in waiting:
            window = process.ask("train", lead=plan.lead, steps=steps)
            foreign[process.name].append(window["foreign"])
            # The last chance takes what it gets: a machine may never be quiet.
            last = attempt >= (TRIES - 1) * plan.windows
            if window["foreign"] <= FOREIGN or last:
                rates[process.name].append(window["positions"] / window["seconds"])
    found: dict[str, Any] = {}
    for process in processes:
        rate, name = rates[process.name], process.name
        found[name] = {
            "positions_per_s": round(statistics.median(rate)),
            "positions_per_s_10": round(float(np.quantile(rate, 0.1))),
            "positions_per_s_90": round(float(np.quantile(rate, 0.9))),
            "windows": len(rate),
            "windows_dropped": len(foreign[name]) - len(rate),
            "foreign_cores": round(statistics.median(foreign[name]), 2),
            "train_peak_gb": round(process.ask("memory")["peak_gb"], 2),
            "versions": process.versions,
        }
    seconds: dict[str, list[float]] = {process.name: [] for process in processes}
    for attempt in range(1 + plan.evaluations):
        for process in processes:
            tell(f"length {length}: evaluation, round {attempt + 1}: {process.name}")
            answer = process.ask("evaluate")
            found[process.name]["hit_rate@10"] = round(answer["hit_rate"], 4)
            if attempt:  # the first compiles and builds
                seconds[process.name].append(answer["seconds"])
    with np.load(log) as arrays:
        users = np.random.default_rng(1).permutation(len(arrays["indptr"]) - 1)[: plan.requests].tolist()
    for process in processes:
        process.ask("recommend", users=users[:5], k=100)  # the first compiles
    answers: dict[str, list[dict[str, Any]]] = {process.name: [] for process in processes}
    for attempt in range(3):
        tell(f"length {length}: latency, round {attempt + 1}")
        for process in processes:
            answers[process.name].append(process.ask("recommend", users=users, k=100))
    for process in processes:
        best = min(answers[process.name], key=lambda answer: answer["median_ms"])
        found[process.name] |= {
            "evaluate_s": round(min(seconds[process.name]), 3),
            "evaluate_s_each": [round(one, 3) for one in seconds[process.name]],
            "latency_ms": round(best["median_ms"], 3),
            "latency_ms_p99": round(best["p99_ms"], 3),
        }
    return found


def ratios(result: dict[str, Any]) -> dict[str, float | None]:
    """Ours over the best of the others, above 1 where ours is faster; None where nothing was compared."""

    def ratio(length: int, name: str) -> float | None:
        found = result.get(f"L{length}", {})
        others = [one[name] for other, one in found.items() if other != "ours"]
        if "ours" not in found or not others:
            return None
        ours = found["ours"][name]
        return round(ours / max(others) if name == "positions_per_s" else min(others) / ours, 2)

    return {
        "ratio_50": ratio(50, "positions_per_s"),
        "ratio_200": ratio(200, "positions_per_s"),
        "ratio_evaluation": ratio(200, "evaluate_s"),
        "ratio_latency": ratio(200, "latency_ms"),
    }


def machine() -> str:
    """What stands on the processor."""
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return "unknown"


def table(result: dict[str, Any]) -> str:
    """The figures as Markdown."""
    lines = [
        "# jaxneg beside other libraries",
        "",
        f"`.venv/bin/python benchmarks/peers.py --devices {result['devices']} --out benchmarks/results`; what is",
        f"measured stands at the head of the script. Log: {result['log']}, {result['items']} items. "
        f"{result['cores']} cores, {result['machine']}.",
        "",
    ]
    for key, found in result.items():
        if not key.startswith("L"):
            continue
        lines += [
            f"## {key[1:]} inputs",
            "",
            "| library | positions/s [10%, 90%] | ours over it | train peak GB | evaluation s | latency ms (99%) |",
            "| --- | ---: | ---: | ---: | ---: | ---: |",
        ]
        ours = found["ours"]["positions_per_s"] if "ours" in found else float("nan")
        for name, one in sorted(found.items(), key=lambda pair: -pair[1]["positions_per_s"]):
            rate = one["positions_per_s"]
            lines.append(
                f"| {PEERS[name].title} | {rate:,} [{one['positions_per_s_10']:,}, {one['positions_per_s_90']:,}]"
                f" | {ours / rate:.2f} | {one['train_peak_gb']} | {one['evaluate_s']}"
                f" | {one['latency_ms']} ({one['latency_ms_p99']}) |"
            )
        # By library: two may run on different versions of a third.
        versions = [
            f"{PEERS[name].title}: {', '.join(f'{of} {version}' for of, version in one['versions'].items())}"
            for name, one in found.items()
        ]
        lines += ["", "Versions. " + "; ".join(versions) + ".", ""]
    return "\n".join(lines)


def plot(result: dict[str, Any], path: pathlib.Path) -> None:
    """Positions/s by library, a panel for each length, medians as bars and the quantiles as lines."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    lengths = [key for key in result if key.startswith("L")]
    figure, panels = pyplot.subplots(1, len(lengths), figsize=(5.5 * len(lengths), 3.2), squeeze=False)
    for panel, key in zip(panels[0], lengths, strict=True):
        found = sorted(result[key].items(), key=lambda pair: pair[1]["positions_per_s"])
        middle = np.array([one["positions_per_s"] for _, one in found]) / 1000
        low = middle - np.array([one["positions_per_s_10"] for _, one in found]) / 1000
        high = np.array([one["positions_per_s_90"] for _, one in found]) / 1000 - middle
        color = ["tab:blue" if name == "ours" else "tab:gray" for name, _ in found]
        names = [PEERS[name].title for name, _ in found]
        panel.barh(names, middle, xerr=[low.clip(0), high.clip(0)], color=color, capsize=2)
        panel.set(title=f"{key[1:]} inputs", xlabel="thousand positions trained a second", xlim=(0, None))
        panel.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
