"""Seconds until a model is as good as another library's ever gets, on the same log: what a user of a fast step buys.

    .venv/bin/python benchmarks/time_to_quality.py                  # about two hours on 2 cores
    .venv/bin/python benchmarks/time_to_quality.py --sets simulated --only ours,torch --seeds 1
    .venv/bin/python benchmarks/time_to_quality.py --quick          # ours alone for a minute: a test of the script

Sets: films of ml_latest_small_2016 (4 stars and more are liked, 2.5 and fewer rejected) and short videos of
kuairand_history, both under JAXNEG_DATA (default ../shared/data), and a log of simulated listeners. Of each user
the last two liked items are held out: the first for validation, which is all that is looked at here. Users and items
with fewer than five likes are left out, and likes but the first of an item by a user. Of a user all get the last
events: as many as a model has inputs, and three.

Other libraries are trained on the likes, as in peers.py: binary cross-entropy, one uniform negative, batches of 128,
Adam at 1e-3. Ours is trained

    same      on the same with the same settings
    recipe    on the likes with what is fastest: all items as negatives, smaller batches and a higher rate (RECIPE)
    p_hard    on likes and rejections, as inputs and as half of the negatives, with such batches and rate

A process validates after as many steps as an epoch has in batches of 128 (at least 20), and ends after 15 validations
without a better figure, or after --limit seconds. Seconds are those of one process on all cores, from its start, with
imports, the log read, compilation and steps; without validation. Compiled programs that earlier processes left are
not used.

Prints one JSON line: by set and library the best NDCG@10 by seed and the seconds to it, and for each way of ours and
each other library ``ratio``: the other's seconds to its best figure over ours to the same figure, both the medians
over seeds; null where fewer than half of the seeds reach it. --out DIR writes a plot of the curves of each set, and the
line: of sets that were not run it keeps what the directory has.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any, NamedTuple

import numpy as np
import peers  # beside this script
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import train_step

ROOT = pathlib.Path(__file__).parent.parent
DATA = pathlib.Path(os.environ.get("JAXNEG_DATA", ROOT / ".." / "shared" / "data"))
LENGTHS = {"ml_latest_small_2016": 100, "kuairand_history": 50, "simulated": 50}
LEAST = 5  # likes of a user, and of an item
PATIENCE = 15  # validations without a better figure
OTHERS = ("torch", "rectools", "replay", "keras")
SMALL = 32  # sequences of a batch: four steps for one of the others'
FAST = ["--data.batch-size", str(SMALL), "--optim.learning-rate", "3e-3"]
RECIPE = ["--loss.name", "softmax", "--data.negatives", "0", *FAST]
OURS = {"same": [], "p_hard": ["--data.p-hard", "0.5", "--model.feedback", "gate", *FAST], "recipe": RECIPE}


class Signed(NamedTuple):
    """Events with an opinion, by user and time."""

    user_T: np.ndarray
    item_T: np.ndarray
    liked_T: np.ndarray


class Curve(NamedTuple):
    """Validation of one training."""

    second_N: list[float]
    ndcg_N: list[float]

    @property
    def best(self) -> float:
        return max(self.ndcg_N)

    def seconds_to(self, figure: float) -> float:
        """When it is reached first; infinite where it never is."""
        reached = (second for second, ndcg in zip(*self, strict=True) if ndcg >= figure)
        return next(reached, float("inf"))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sets", default=",".join(LENGTHS))
    parser.add_argument("--only", default=",".join((*OTHERS, *OURS)), help="libraries and ways of ours")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--limit", type=float, default=240, help="seconds of training at most")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--environments", type=pathlib.Path, default=ROOT / "runs" / "peers")
    parser.add_argument("--out", type=pathlib.Path, help="directory for time_to_quality.json and its plot")
    args = parser.parse_args()
    peers.end_processes_when_told()
    sets, names, limit = args.sets.split(","), args.only.split(","), args.limit
    if args.quick:
        sets, names, limit, args.seeds = ["simulated"], ["same", "p_hard"], 3.0, 1
    if unknown := [name for name in names if name not in (*OTHERS, *OURS)]:
        parser.error(f"no such library: {', '.join(unknown)}; there are {', '.join((*OTHERS, *OURS))}")
    pythons = {name: peers.environment(peers.PEERS[_peer(name)].lock, args.environments) for name in names}
    found: dict[str, dict[str, list[Curve]]] = {}
    with tempfile.TemporaryDirectory() as directory:
        work = pathlib.Path(directory)
        for name in sets:
            events = kept(events_of(name, work, quick=args.quick))
            write_logs(work / name, events)
            # Seeds outermost: what the machine does in an hour befalls all.
            runs = [(way, seed) for seed in range(args.seeds) for way in names]
            curves = {way: [] for way in names}
            for way, seed in runs:
                curves[way].append(trained(way, pythons[way], work / name, LENGTHS[name], seed, limit))
                last = curves[way][-1]
                peers.tell(f"{name} {way} {seed}: {last.best:.4f} after {last.seconds_to(last.best):.1f} s")
            found[name] = curves
    result: dict[str, Any] = {"benchmark": "time_to_quality", "quick": args.quick, "patience": PATIENCE}
    result |= {"sets": {name: {"limit_s": limit} | summary(curves) for name, curves in found.items()}}
    result |= {"recipe": RECIPE, "cores": os.cpu_count(), "machine": peers.machine()}
    print(json.dumps(result))
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        for name, curves in found.items():
            plot(name, curves, args.out / f"time_to_quality_{name}.png")
        path = args.out / "time_to_quality.json"
        if path.exists():
            result["sets"] = json.loads(path.read_text())["sets"] | result["sets"]
        path.write_text(json.dumps(result) + "\n")


def _peer(way: str) -> str:
    return "ours" if way in OURS else way


def events_of(name: str, work: pathlib.Path, *, quick: bool) -> Signed:
    """What a set holds of likes and rejections, by user, the oldest first."""
    if name == "ml_latest_small_2016":
        table = pacsv.read_csv(next((DATA / name).glob("ratings.csv*")))
        rating = table["rating"].to_numpy()
        columns, liked, kept_T = (
            ("userId", "movieId", "timestamp"),
            rating >= 4,
            (rating >= 4) | (rating <= 2.5),
        )
    elif name == "kuairand_history":
        table = pq.read_table(DATA / name / "events.parquet")
        columns = ("user", "video", "time_ms")
        liked = pc.is_in(table["feedback"], pa.array(["like", "long"])).to_numpy()
        kept_T = np.ones(len(table), bool)
    else:
        log, size = work / "simulated.parquet", ("100", "600") if quick else ("3000", "20000")
        command = ["simulate", "--out", log, "--users", size[0], "--sessions", size[1]]
        subprocess.run([sys.executable, "-m", "jaxneg", *command], check=True, stdout=sys.stderr)
        table = pq.read_table(log)
        columns = ("user", "item", "time")
        liked = pc.is_in(table["feedback"], pa.array(["play", "thumb_up"])).to_numpy()
        kept_T = np.ones(len(table), bool)
    user_T, item_T = (
        table[column].combine_chunks().dictionary_encode().indices.to_numpy() for column in columns[:2]
    )
    time_T = table[columns[2]].cast(pa.int64()).to_numpy()
    order_T = np.lexsort((np.arange(len(time_T)), time_T, user_T))
    order_T = order_T[kept_T[order_T]]
    return Signed(user_T[order_T], item_T[order_T], liked[order_T])


def kept(events: Signed) -> Signed:
    """The first like of each item by a user, rejections of such items, users and items of LEAST likes or more."""
    user_T, item_T, liked_T = events
    pair_T = user_T.astype(np.int64) * (int(item_T.max()) + 1) + item_T
    first_T = np.zeros(len(pair_T), bool)
    liked_at = np.flatnonzero(liked_T)
    first_T[liked_at[np.unique(pair_T[liked_at], return_index=True)[1]]] = True
    use_T = first_T | ~liked_T
    while True:
        likes_T = use_T & liked_T
        of_user = np.bincount(user_T[likes_T], minlength=user_T.max() + 1)
        of_item = np.bincount(item_T[likes_T], minlength=item_T.max() + 1)
        now_T = use_T & (of_user[user_T] >= LEAST) & (of_item[item_T] >= LEAST)
        if (now_T == use_T).all():
            break
        use_T = now_T
    user_T, item_T, liked_T, pair_T = user_T[use_T], item_T[use_T], liked_T[use_T], pair_T[use_T]
    # Rejections up to the like before the last, and none of what is held out.
    likes_after_T = np.cumsum(liked_T[::-1])[::-1]
    ends = np.append(np.flatnonzero(np.diff(user_T)) + 1, len(user_T))
    after_T = likes_after_T - np.repeat(np.append(likes_after_T[ends[:-1]], 0), np.diff(np.append(0, ends)))
    held_out = pair_T[liked_T & (after_T <= 2)]
    use_T = liked_T | ((after_T >= 2) & ~np.isin(pair_T, held_out))
    number = lambda column: np.unique(column, return_inverse=True)[1]  # noqa: E731
    return Signed(number(user_T[use_T]), number(item_T[use_T]) + 1, liked_T[use_T])


def write_logs(directory: pathlib.Path, events: Signed) -> None:
    """Likes alone, and all events, as the workers read them."""
    directory.mkdir()
    for name, use_T in (("likes", events.liked_T), ("all", np.ones(len(events.liked_T), bool))):
        size_U = np.bincount(events.user_T[use_T])
        np.savez(
            directory / f"{name}.npz",
            item_T=events.item_T[use_T].astype(np.int32),
            indptr=np.concatenate([[0], np.cumsum(size_U)]),
            rejected_T=~events.liked_T[use_T],
        )


def trained(way: str, python: str, logs: pathlib.Path, length: int, seed: int, limit: float) -> Curve:
    """One training to its end."""
    settings: dict[str, Any] = {"seed": seed}
    if way in OURS:
        settings["options"] = OURS[way]
    if way == "torch":
        # Compilation takes longer than it saves here.
        settings["compiled"] = False
    log = logs / ("all.npz" if way == "p_hard" else "likes.npz")
    with np.load(log) as arrays:
        users = len(arrays["indptr"]) - 1
    steps = max(20, -(-users // train_step.BATCH_SIZE))
    curve = Curve([], [])
    with tempfile.TemporaryDirectory() as directory:
        variables = {"JAX_COMPILATION_CACHE_DIR": f"{directory}/cache"}
        began = time.perf_counter()
        place = pathlib.Path(directory) / "work"
        process = peers.Process(_peer(way), python, log, length, place, settings, variables)
        try:
            seconds = time.perf_counter() - began
            while not curve.ndcg_N or (
                seconds < limit and len(curve.ndcg_N) - np.argmax(curve.ndcg_N) <= PATIENCE
            ):
                began = time.perf_counter()
                process.ask("train", lead=0, steps=steps)
                seconds += time.perf_counter() - began
                curve.second_N.append(round(seconds, 2))
                curve.ndcg_N.append(round(process.ask("validate")["ndcg"], 5))
        finally:
            process.end()
    return curve


def summary(curves: dict[str, list[Curve]]) -> dict[str, Any]:
    """Best figures and times, and ours beside the others."""
    found: dict[str, Any] = {}
    for way, each in curves.items():
        found[way] = {
            "ndcg@10": round(statistics.mean(curve.best for curve in each), 4),
            "ndcg@10_each": [curve.best for curve in each],
            "seconds_to_best": round(statistics.median(curve.seconds_to(curve.best) for curve in each), 1),
        }
    for way in OURS:
        if way not in curves:
            continue
        ratios = {}
        for other in OTHERS:
            if other in curves:
                bar = round(statistics.mean(curve.best for curve in curves[other]), 5)
                ours = statistics.median(curve.seconds_to(bar) for curve in curves[way])
                its = found[other]["seconds_to_best"]
                ratios[other] = {
                    "seconds": round(ours, 1) if np.isfinite(ours) else None,
                    "ratio": round(its / ours, 2) if np.isfinite(ours) else None,
                }
        found[way]["to_figure_of"] = ratios
    return found


def plot(name: str, curves: dict[str, list[Curve]], path: pathlib.Path) -> None:
    """NDCG@10 by seconds, a line for each seed."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, panel = pyplot.subplots(figsize=(8, 3.6))
    for n, (way, each) in enumerate(curves.items()):
        title = f"jaxneg, {way}" if way in OURS else peers.PEERS[way].title
        for curve in each:
            panel.plot(*curve, color=f"C{n}", alpha=0.8, lw=1.2, ls="-" if way in OURS else ":", label=title)
            title = None
    panel.set(title=name, xlabel="seconds (start, compilation, steps)", xscale="log", ylim=(0, None))
    panel.spines[["top", "right"]].set_visible(False)
    panel.set_ylabel("validation NDCG@10")
    panel.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    figure.tight_layout()
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
