"""Tomorrow's log: a run that starts from yesterday's against one that is trained anew, on three logs over seeds.

    .venv/bin/python benchmarks/warm_start.py            # some half hour on 2 cores; goes on where it stopped
    .venv/bin/python benchmarks/warm_start.py --only simulated
    .venv/bin/python benchmarks/warm_start.py --quick    # a small simulated log, one seed: a test of the script

Sets: simulated listeners, of whose songs a tenth are released after yesterday, and ml_latest_small_2016 (films) and
kuairand_history (short videos) under JAXNEG_DATA (default ../shared/data). Yesterday is the first 75% of the events of
a log, prepared by itself: its last tenth is its validation. Tomorrow is the whole log: training up to 85% of the
events, validation up to 92.5%, and then the test, so that yesterday's model has seen none of these.

With each seed yesterday's run is trained, and then tomorrow's in ARMS. One figure decides and stops them all, by
validation. The target is the best validation figure of the run that was trained anew; the test is looked at with what
validation chose. Known items are those of yesterday's catalogue, new ones all others: ranks are among all items, means
over the liked targets of each kind. "As it was" is yesterday's model over tomorrow's catalogue, without a step.

Writes warm_start.json, warm_start.md and a plot to --out and prints one JSON line.
"""

import argparse
import json
import os
import pathlib
import shutil
import tempfile
from typing import Any

import numpy as np
import peers  # beside this script
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import real_data  # beside this script

import jaxneg
from jaxneg import config as configs, figures, files, metrics, pages, progress
from jaxneg.data import stores
from jaxneg.evaluation import eval_sets
from jaxneg.metrics import measures
from jaxneg.simulation import simulator
from jaxneg.training import loop, runs, target_words, targets

ROOT, DATA = real_data.ROOT, real_data.DATA
TITLES = {
    "simulated": "simulated listeners",
    "ml_latest_small_2016": "MovieLens small, films rated",
    "kuairand_history": "KuaiRand, short videos",
}
SIMULATED = simulator.SimulateConfig(users=1000, items=2000, sessions=8000, artists=200)
FEW = simulator.SimulateConfig(users=100, items=200, sessions=800, stations=4, artists=20)
RELEASED = 0.1  # share of the simulated songs that are new tomorrow
DAY, VALID, TEST = (
    0.75,
    0.85,
    0.925,
)  # shares of the events at which yesterday ends, and validation and test begin
HELD = 0.1  # share of yesterday's events that are its validation
NOBODY = 0.999  # of yesterday's events; a store has a test, and here nobody looks at it
FEEDBACK = "like=thumb_up,long=play,short=skip,hate=thumb_down"
READ: dict[str, dict[str, Any]] = {
    "simulated": {"session": "given", "attributes": ("artist",)},
    "ml_latest_small_2016": {"session": "user", "attributes": ("genre",)},
    "kuairand_history": {"session": "user", "attributes": ("author_id", "tag", "music_id")}
    | {"item": "video", "time": "time_ms", "values": FEEDBACK},
}
OPTIONS = (
    *("--data.length", "50", "--data.batch-size", "64", "--data.negatives", "0", "--data.p-hard", "0"),
    *("--model.layers", "1", "--model.dropout", "0.3", "--model.output-attributes"),
    *("--loss.name", "softmax", "--optim.learning-rate", "1e-3", "--optim.warmup-steps", "30"),
    *("--optim.average", "0.99", "--eval.bootstrap", "10"),
    *("--train.monitor", "ndcg@10", "--train.patience", "5", "--train.epochs", "8"),
)
# Some three validations an epoch of simulated listeners, and one of the others, whose epochs are short.
SETS = {
    "simulated": ("--train.evaluate-every", "40"),
    "ml_latest_small_2016": ("--train.evaluate-every", "30", "--eval.exclude-seen"),
    "kuairand_history": ("--train.evaluate-every", "40"),
}
NEARLY = 0.95  # share of anew's gain over its first validation
YESTERDAY, ANEW, AS_IT_WAS = "yesterday", "anew", "as it was"
WARM = "warm start"
# Options of tomorrow's runs, beside the run to start from.
ARMS: dict[str, tuple[str, ...]] = {WARM: (), "warm, weights alone": ("--train.no-warm-optimizer",)}
KINDS = ("all", "known", "new")
FIGURES = ("ndcg@10", "hit_rate@100")


def log(name: str, quick: bool, work: pathlib.Path) -> pa.Table:
    """The events of a set in order of time."""
    if name == "simulated":
        path = work / "log.parquet"
        simulator.write(simulator.simulate(FEW if quick else SIMULATED), path)
        table = pq.read_table(path)
    elif name == "ml_latest_small_2016":
        rated, films = (
            pa_csv.read_csv(pa.input_stream(str(DATA / name / file)))
            for file in ("ratings.csv.gz", "movies.csv")
        )
        genre = pc.list_element(pc.split_pattern(films["genres"], "|"), 0)
        genre = pc.if_else(pc.equal(genre, "(no genres listed)"), pa.scalar(None, pa.string()), genre)
        table = rated.join(pa.table({"movieId": films["movieId"], "genre": genre}), "movieId")
        stars = table["rating"]
        kind = pc.if_else(pc.less_equal(stars, 2.5), "thumb_down", "unknown")
        columns = {"user": table["userId"], "item": table["movieId"], "genre": table["genre"]}
        kind = pc.if_else(pc.greater_equal(stars, 4.0), "thumb_up", kind)
        table = pa.table(columns | {"time": pc.multiply(table["timestamp"], 1000), "feedback": kind})
    else:
        table = pq.read_table(DATA / name / "events.parquet")
    return table.sort_by(READ[name].get("time", "time"))


def prepared(name: str, quick: bool, work: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path]:
    """The stores of yesterday and tomorrow."""
    places = work / "stores" / name / "yesterday", work / "stores" / name / "tomorrow"
    if (places[1] / "metadata.json").is_file():
        return places
    work.mkdir(parents=True, exist_ok=True)
    events = log(name, quick, work)
    clock = READ[name].get("time", "time")
    time = events[clock].to_numpy()
    day = time[int(DAY * len(time))]
    if name == "simulated":  # what is released later is not heard before
        songs = np.sort(events["item"].unique().to_numpy(zero_copy_only=False))
        late = np.random.default_rng(0).choice(songs, int(RELEASED * len(songs)), replace=False)
        early = pc.and_(pc.is_in(events["item"], pa.array(late)), pa.array(time < day))
        events = events.filter(pc.invert(early))
        time = events[clock].to_numpy()
    before = events.filter(pa.array(time < day))
    options = READ[name] | {"split": "time", "progress": False}
    for table, shares, place in ((before, (1 - HELD, NOBODY), places[0]), (events, (VALID, TEST), places[1])):
        moments = [str(table[clock][int(share * len(table))].as_py()) for share in shares]
        jaxneg.prepare(table, place, valid_from=moments[0], test_from=moments[1], **options)
    return places


def config_of(name: str, store: pathlib.Path, seed: int, options: tuple[str, ...]) -> configs.Config:
    seeds = [f"--{part}.seed={seed}" for part in ("data", "train")]
    return configs.override(
        configs.Config(), [*OPTIONS, *SETS[name], "--data.store", str(store), *seeds, *options]
    )


def known_rows(yesterday: pathlib.Path, tomorrow: pathlib.Path) -> np.ndarray:
    """bool [V], of tomorrow's items, which ones were in yesterday's catalogue."""
    old, new = (stores.Store.open(path).vocabulary() for path in (yesterday, tomorrow))
    return np.concatenate([[False], old.rows(new.ids.to_pylist()) > 0])


def measured(trained: runs.Trained, known_V: np.ndarray) -> dict[str, float]:
    """Figures on the test: of all liked targets, and of known and of new ones alone."""
    score, eval_set = runs.catalogue_score(trained), eval_sets.EvalSet(trained.store, trained.config)
    report = eval_set.measure(score)
    found = {"auc": report.figures["auc"]} | {f"all {name}": report.figures[name] for name in FIGURES}
    for kind, of_V in (("known", known_V), ("new", ~known_V)):
        some = [_of_kind(batch, of_V) for batch in eval_set.examples]
        some = [batch for batch in some if batch.real_B.any()]
        if some:
            part = measures.evaluate(score, some, items=trained.store.items, config=trained.config.eval)
            found |= {f"{kind} {name}": part.figures[name] for name in FIGURES}
            found |= {f"{kind} targets": int(sum((batch.liked_BC > 0).sum() for batch in some))}
    return found


def _of_kind(batch: Any, of_V: np.ndarray) -> Any:
    """A batch with liked targets of some items alone, the first ones first."""
    keep_BC = (batch.liked_BC > 0) & of_V[batch.liked_BC]
    order_BC = np.argsort(~keep_BC, axis=1, kind="stable")
    liked_BC = np.take_along_axis(np.where(keep_BC, batch.liked_BC, 0), order_BC, axis=1)
    return batch._replace(liked_BC=liked_BC, real_B=batch.real_B & keep_BC.any(1))


def one(name: str, places: tuple[pathlib.Path, pathlib.Path], seed: int, arm: str, work: pathlib.Path, short):
    """Result and test figures of a run; read where it is there."""
    directory = work / "runs" / name / real_data.cell(arm, seed)
    path = directory / "test.json"
    if path.is_file():
        return json.loads(path.read_text())
    start = ("--from", str(work / "runs" / name / f"{YESTERDAY}-{seed}"))
    options = {YESTERDAY: (), ANEW: ()}.get(arm, (*start, *ARMS.get(arm, ())))
    config = config_of(name, places[arm != YESTERDAY], seed, (*short, *options))
    result = loop.train(config, directory)
    found: dict[str, Any] = {"result": {k: v for k, v in result.items() if k != "history"}}
    monitor = config.train.monitor
    found["curve"] = [
        [round(line["epoch"], 3), round(line["device_seconds"], 3), line[monitor]]
        for line in result["history"]
    ]
    if arm != YESTERDAY:
        found["test"] = measured(runs.load(directory), known_rows(*places))
    files.write_json(path, found)
    return found


def as_it_was(name: str, places: tuple[pathlib.Path, pathlib.Path], seed: int, work: pathlib.Path) -> dict:
    """Test figures of yesterday's model over tomorrow's catalogue, without a step."""
    path = work / "runs" / name / f"as_it_was-{seed}.json"
    if not path.is_file():
        start = work / "runs" / name / f"{YESTERDAY}-{seed}"
        # A rate at which nothing moves, and no average that could: the first validation stays the best.
        still = ("--optim.learning-rate", "1e-30", "--optim.average", "0", "--train.epochs", "1")
        still = (*still, "--from", str(start))
        directory = work / "runs" / name / f"still-{seed}"
        loop.train(config_of(name, places[1], seed, still), directory)
        files.write_json(path, measured(runs.load(directory, step=0), known_rows(*places)))
        shutil.rmtree(directory)
    return json.loads(path.read_text())


def of_set(name: str, places: tuple[pathlib.Path, pathlib.Path], args: argparse.Namespace) -> dict[str, Any]:
    """All that is said of a set."""
    short = ("--train.epochs", "2", "--optim.warmup-steps", "5") if args.quick else ()
    found: dict[str, list[dict]] = {arm: [] for arm in (YESTERDAY, ANEW, *ARMS)}
    still: list[dict] = []
    for seed in range(args.seeds):
        for arm, cells in found.items():
            cells.append(one(name, places, seed, arm, args.work, short))
            progress.say(f"warm_start: {name}, seed {seed}, {arm}")
        still.append(as_it_was(name, places, seed, args.work))
    tests = {AS_IT_WAS: still} | {arm: [cell["test"] for cell in found[arm]] for arm in (ANEW, *ARMS)}
    start = found[WARM][0]["result"]["started_from"]
    return {
        "events": [stores.Store.open(place).events for place in places],
        "items": start["items"],
        "items_carried": start["items_carried"],
        "events_carried": start["events_carried"],
        "targets": {kind: still[0].get(f"{kind} targets", 0) for kind in KINDS[1:]},
        "time_to_target": {arm: _time(name, arm, args) for arm in ARMS},
        "nearly": {
            arm: [
                _nearly(cell["curve"], its["curve"])
                for cell, its in zip(found[arm], found[ANEW], strict=True)
            ]
            for arm in (ANEW, *ARMS)
        },
        "validation": {
            arm: metrics.spread([cell["result"]["best_score"] for cell in found[arm]])
            for arm in (ANEW, *ARMS)
        }
        | {AS_IT_WAS: metrics.spread([cell["curve"][0][2] for cell in found[WARM]])},
        "test": {
            arm: {of: metrics.spread([cell[of] for cell in cells if of in cell]) for of in cells[0]}
            for arm, cells in tests.items()
        },
        "less_anew": {
            arm: {
                of: metrics.spread([cell[of] - its[of] for cell, its in zip(cells, tests[ANEW], strict=True)])
                for of in cells[0]
                if "targets" not in of
            }
            for arm, cells in tests.items()
            if arm != ANEW
        },
        "curves": {arm: [cell["curve"] for cell in found[arm]] for arm in (ANEW, *ARMS)},
    }


def _nearly(curve: list, anew: list) -> list[float] | None:
    """Epochs and seconds of steps until a run has NEARLY all that training anew gains; None if it never has."""
    first, best = anew[0][2], max(point[2] for point in anew)
    reached = [point for point in curve if point[2] >= first + NEARLY * (best - first)]
    return reached[0][:2] if reached else None


def _time(name: str, arm: str, args: argparse.Namespace) -> dict[str, Any]:
    """Time to target of an arm against training anew, over seeds."""
    sides = [
        targets.Side(
            of,
            [
                targets.trace(args.work / "runs" / name / real_data.cell(of, seed))
                for seed in range(args.seeds)
            ],
        )
        for of in (arm, ANEW)
    ]
    found = dict(targets.compare(*sides))
    del found["differs"]  # it names the directories of runs
    return found


def page(sets: dict[str, dict]) -> str:
    parts = [
        "# Tomorrow's log: started from yesterday's run, or trained anew",
        "Made by `benchmarks/warm_start.py`: small SASRec, full softmax, decided by validation NDCG@10. Yesterday is "
        "the first 75% of a log's events; tomorrow's run trains on 85%. The target is the best validation of the run "
        "that was trained anew, of the same seed. Test figures are means over seeds; brackets hold 95% t-intervals "
        "over seeds of the difference to training anew. Known items are those of yesterday's catalogue.",
        "![Validation by epoch](warm_start.png)",
    ]
    for name, one in sets.items():
        known, new = (one["targets"].get(kind, 0) for kind in KINDS[1:])
        parts += [
            f"## {TITLES[name]}",
            f"{one['events'][0]:,} events yesterday, {one['events'][1]:,} tomorrow. {one['items_carried']:,} of "
            f"{one['items']:,} items were there, with {one['events_carried']:.1%} of tomorrow's training events; the "
            f"test has {known:,} liked targets of known items and {new:,} of new ones.",
            pages.table(
                [
                    "",
                    "validation NDCG@10",
                    f"epochs to {NEARLY:.0%} of anew's gain",
                    "to anew's best: epochs",
                    "seconds of steps",
                ],
                [
                    [
                        arm,
                        _number(one["validation"][arm]),
                        _each(one["nearly"].get(arm, [])),
                        *(_ratio(one["time_to_target"].get(arm), unit) for unit in ("epochs", "seconds")),
                    ]
                    for arm in (ANEW, AS_IT_WAS, *ARMS)
                ],
            ),
            pages.table(
                ["test", *(f"{figures.title(of)}, {kind}" for of in FIGURES for kind in KINDS), "AUC"],
                [
                    [
                        arm,
                        *(_beside(one, arm, f"{kind} {of}") for of in FIGURES for kind in KINDS),
                        _beside(one, arm, "auc"),
                    ]
                    for arm in (ANEW, AS_IT_WAS, *ARMS)
                ],
            ),
        ]
    return "\n\n".join(parts) + "\n"


def _number(found: dict | None) -> str:
    return "" if found is None or found["mean"] is None else f"{found['mean']:.4f}"


def _each(reached: list) -> str:
    """Epochs by seed."""
    return ", ".join("never" if one is None else f"{one[0]:.2g}" for one in reached)


def _ratio(found: dict | None, unit: str) -> str:
    """The share of anew's cost, with its interval; or in how many seeds it was reached at all."""
    if found is None:
        return ""
    if found["ratio"] is None:
        return f"reached in {found['reached']} of {len(found['passages'])} seeds"
    return target_words.change(found["ratio"][unit], unit)


def _beside(one: dict, arm: str, of: str) -> str:
    found = one["test"][arm].get(of)
    if found is None or found["mean"] is None:
        return ""
    text, apart = f"{found['mean']:.4f}", one["less_anew"].get(arm, {}).get(of)
    if apart is None or apart["low"] is None:
        return text
    return f"{text} ({apart['mean']:+.4f} [{apart['low']:+.4f}, {apart['high']:+.4f}])"


def plot(sets: dict[str, dict], path: pathlib.Path) -> None:
    """A panel a set: validation by epoch, a line a seed."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, len(sets), figsize=(4.2 * len(sets), 3.6), squeeze=False)
    for panel, (name, one) in zip(panels.flat, sets.items(), strict=True):
        for n, (arm, seeds) in enumerate(one["curves"].items()):
            for k, points in enumerate(seeds):
                epochs, _, values = zip(*points, strict=True)
                panel.plot(epochs, values, color=f"C{n}", lw=1.1, alpha=0.8, label=None if k else arm)
        panel.set_title(TITLES[name], fontsize=10)
        panel.set(xlabel="epoch", ylabel="validation NDCG@10")
        panel.grid(alpha=0.3)
    panels[0, 0].legend(fontsize=8, frameon=False)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--work", type=pathlib.Path, default=ROOT / "runs" / "warm_start")
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "benchmarks" / "results")
    args = parser.parse_args()
    if args.quick:
        args.only, args.seeds = ["simulated"], 1
        args.work = args.out = pathlib.Path(tempfile.mkdtemp(prefix="jaxneg-"))
    sets = {}
    for name in args.only:
        sets[name] = of_set(name, prepared(name, args.quick, args.work), args)
    result = {
        "benchmark": "warm_start",
        "quick": args.quick,
        "seeds": args.seeds,
        "options": OPTIONS,
        "sets": sets,
    }
    result |= {"cores": os.cpu_count(), "machine": peers.machine()}
    args.out.mkdir(parents=True, exist_ok=True)
    print(json.dumps(result))
    path = args.out / "warm_start.json"
    if path.exists() and not args.quick:  # sets that were not asked for now stay
        result["sets"] = json.loads(path.read_text())["sets"] | sets
    files.write_json(path, result)
    files.write_text(args.out / "warm_start.md", page(result["sets"]))
    plot(result["sets"], args.out / "warm_start.png")


if __name__ == "__main__":
    main()
