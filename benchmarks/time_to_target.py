"""How much training time do negatives save: until a run with p_hard is as good as one without ever is, on several logs.

    .venv/bin/python benchmarks/time_to_target.py            # half an hour on 2 cores; goes on where it stopped
    .venv/bin/python benchmarks/time_to_target.py --only cm100k
    .venv/bin/python benchmarks/time_to_target.py --quick    # a small simulated log, one seed: a test of the script

Sets: simulated listeners, and CM100k (ratings of songs), ml_latest_small_2016 (films) and kuairand_history (short
videos) under JAXNEG_DATA (default ../shared/data). Each is a sweep of p_hard over seeds in --work: a small SASRec with
binary cross-entropy and one negative, the same settings on all sets but the length, until no validation in patience is
better. Validation alone is looked at, at least four times an epoch, by AUC and, as a sweep of its own, by NDCG@10.

The target is the best validation figure of p_hard 0 with the same seed. Writes time_to_target.json and its plot to
--out and prints one JSON line: by set and figure the comparison of each p_hard, with ratios of epochs, steps, sequences
and seconds of steps and their 95% intervals over seeds; null where a run never reaches its target.
"""

import argparse
import json
import os
import pathlib
import tempfile
from typing import Any

import peers  # beside this script

import jaxneg
from jaxneg import config as configs, figures, files, progress
from jaxneg.data import stores
from jaxneg.simulation import simulator
from jaxneg.sweep import grids, leads, runner
from jaxneg.training import target_words, targets

ROOT = pathlib.Path(__file__).parent.parent
DATA = pathlib.Path(os.environ.get("JAXNEG_DATA", ROOT / ".." / "shared" / "data"))
TITLES = {
    "simulated": "simulated listeners",
    "cm100k": "CM100k, songs rated",
    "ml_latest_small_2016": "MovieLens small, films rated",
    "kuairand_history": "KuaiRand, short videos",
}
SIMULATED = simulator.SimulateConfig(users=3000, items=2000, sessions=20_000)
FEW = simulator.SimulateConfig(users=100, items=200, sessions=600, stations=4, artists=20)
# How each is read, and the options of a run.
RATED = ("--data.length", "50", "--data.shuffle-events", "--model.no-position", "--data.batch-size", "64")
SETS: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "simulated": ({"session": "given"}, ("--data.length", "20")),
    "cm100k": ({"reader": "cm100k"}, RATED),
    "ml_latest_small_2016": ({"reader": "movielens"}, RATED),
    "kuairand_history": (
        {"user": "user", "item": "video", "time": "time_ms", "feedback": "feedback", "session": "user"}
        | {"values": "like=thumb_up,long=play,short=skip,hate=thumb_down", "split": "time"}
        | {"valid_from": "2022-04-25", "test_from": "2022-05-01"},
        ("--data.length", "50"),
    ),
}
OPTIONS = (
    *("--model.width", "32", "--model.layers", "1", "--optim.learning-rate", "1e-3", "--eval.bootstrap", "1"),
    *("--train.patience", "8", "--train.epochs", "200"),
)
AXIS = "p_hard"
VALUES = ("0", "0.5", "1")
MONITORS = ("auc", "ndcg@10")
# Steps between validations, at least four an epoch.
EVERY = {"simulated": 25, "cm100k": 6, "ml_latest_small_2016": 24, "kuairand_history": 30}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--monitors", nargs="+", choices=MONITORS, default=list(MONITORS))
    parser.add_argument("--values", nargs="+", default=list(VALUES), help="of p_hard, the first 0")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=0, help="runs at the same time; 0 takes one per core")
    parser.add_argument("--work", type=pathlib.Path, default=ROOT / "runs" / "time_to_target")
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "benchmarks" / "results")
    args = parser.parse_args()
    if args.quick:
        args.only, args.monitors, args.values, args.seeds = ["simulated"], ["auc"], ["0", "1"], 1
        args.work = pathlib.Path(tempfile.mkdtemp(prefix="jaxneg-"))
        args.out = args.work
    found: dict[str, Any] = {}
    for name in args.only:
        store = prepared(name, args.work, quick=args.quick)
        found[name] = {"events": stores.Store.open(store).events} | {
            monitor: swept(name, monitor, store, args) for monitor in args.monitors
        }
    result = {"benchmark": "time_to_target", "quick": args.quick, "seeds": args.seeds, "options": OPTIONS}
    result |= {"sets": found, "cores": os.cpu_count(), "machine": peers.machine()}
    print(json.dumps(result))
    path = args.out / "time_to_target.json"
    if path.exists() and not args.quick:  # sets that were not asked for now stay
        result["sets"] = json.loads(path.read_text())["sets"] | found
    files.write_json(path, result)
    plot(result["sets"], args.out / "time_to_target.png")


def prepared(name: str, work: pathlib.Path, *, quick: bool) -> pathlib.Path:
    """The store of a set."""
    store, log = work / "stores" / name, DATA / name
    if (store / "metadata.json").is_file():
        return store
    work.mkdir(parents=True, exist_ok=True)
    if name == "simulated":
        log = work / "log.parquet"
        simulator.write(simulator.simulate(FEW if quick else SIMULATED), log)
    elif name == "kuairand_history":
        log /= "events.parquet"
    jaxneg.prepare(log, store, progress=False, **SETS[name][0])
    return store


def swept(name: str, monitor: str, store: pathlib.Path, args: argparse.Namespace) -> dict[str, Any]:
    """Comparisons and curves of a set, whose runs decide and stop by a figure."""
    options = [*OPTIONS, *SETS[name][1], "--data.store", str(store), "--train.monitor", monitor]
    options += ["--eval.exclude-seen"] if name == "ml_latest_small_2016" else []
    options += ["--train.evaluate-every", str(EVERY[name])]
    options += ["--train.epochs", "2"] if args.quick else []
    config = configs.override(configs.Config(), options)
    spec = grids.Sweep(
        {AXIS: grids.over("--data.p-hard", *args.values)}, seeds=args.seeds, figures=("auc", "best_epoch")
    )
    workdir = args.work / "sweeps" / f"{name}_{monitor}"
    with progress.Steps(f"{name} {monitor}") as steps:
        table = runner.sweep(
            config, spec, workdir, jobs=args.jobs, split="validation", on_progress=steps, say=progress.say
        )
    for failed in runner.failures(table):
        progress.say(failed)
    curves: dict[str, dict[str, list[list[float]]]] = {}
    for cell in grids.expand(config, spec):
        if (workdir / "cells" / cell.name / "result.json").is_file():
            lines = targets.known(targets.trace(workdir / "cells" / cell.name).history, monitor)
            points = [
                [round(line["epoch"], 3), round(line["device_seconds"], 2), round(line[monitor], 5)]
                for line in lines
            ]
            curves.setdefault(cell.labels[0], {})[str(cell.seed)] = points
    validated = {of: lines[-1].get(of) for of in ("pairs", "examples", "users")}
    return {"validation": validated, leads.NAME: table[leads.NAME], "curves": curves}


def plot(sets: dict[str, Any], path: pathlib.Path) -> None:
    """A panel a set: validation by epochs, a line a seed, the target of each seed, and what is saved."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    monitors = [monitor for monitor in MONITORS if any(monitor in one for one in sets.values())]
    shown = [(name, monitor) for monitor in monitors for name in TITLES if monitor in sets.get(name, ())]
    rows = -(-len(shown) // 2)
    figure, panels = pyplot.subplots(rows, 2, figsize=(9, 3.3 * rows), squeeze=False)
    for panel in panels.flat[len(shown) :]:
        panel.set_axis_off()
    for panel, (name, monitor) in zip(panels.flat, shown, strict=False):
        one = sets[name][monitor]
        _panel(panel, one, f"{TITLES[name]}\n{answer(one)}", monitor)
    panels[0, 0].legend(frameon=False, fontsize=8, loc="lower right")
    figure.suptitle("Epochs until validation is as good as that of p_hard 0 ever is", fontsize=10)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def answer(found: dict[str, Any]) -> str:
    """What each p_hard saves, in few words."""
    said = []
    for one in found[leads.NAME]:
        if one["ratio"] is None:
            n = len(one["passages"])
            share = "never" if not one["reached"] else f"in {one['reached']} of {n} seeds"
            said.append(f"{one['name']}: {share if one['why_not'] is None else 'not compared'}")
            continue
        said.append(f"{one['name']}: {target_words.share(one['ratio']['epochs'])} epochs")
    return "\n".join(said)


def _panel(panel: Any, found: dict[str, Any], title: str, monitor: str) -> None:
    for n, (label, seeds) in enumerate(found["curves"].items()):
        for k, points in enumerate(seeds.values()):
            epochs, _, values = zip(*points, strict=True)
            panel.plot(
                epochs, values, color=f"C{n}", lw=1.1, alpha=0.8, label=None if k else f"{AXIS} {label}"
            )
    for one in found[leads.NAME][:1]:
        for passage in one["passages"]:
            panel.axhline(passage["target"], color="C0", ls=":", lw=1)
    panel.set_title(title, fontsize=9)
    panel.set(xlabel="epoch", ylabel=f"validation {figures.title(monitor)}", xscale="symlog")
    panel.set_xlim(left=0)
    panel.spines[["top", "right"]].set_visible(False)


if __name__ == "__main__":
    main()
