"""The study of the four papers' claims on simulated listeners: sweeps, a week of radio, a verdict per claim.

    .venv/bin/python benchmarks/study.py                    # hours on two cores; goes on where it stopped
    .venv/bin/python benchmarks/study.py --only p_hard term
    .venv/bin/python benchmarks/study.py --only contrastive --set target=next_positive term=off    # is there room
    .venv/bin/python benchmarks/study.py --claims           # tables and verdicts of what stands, nothing trained
    .venv/bin/python benchmarks/study.py --quick            # a small log, two values of p_hard, one epoch

Simulates 30,000 sessions of 4,500 listeners on 20,000 songs, prepares a store and runs configs/study_*.py on it, each
in --work/NAME; study_spotify.py on the account exports under JAXNEG_DATA (default ../shared/data). Writes NAME.md,
NAME.json and plots of each sweep to --out, and to pairs.json the differences over listeners that verdicts go by and
what the order of songs tells. Then benchmarks/claims.py turns the JSON files into claims.md. Prints one JSON object as
its last line.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import platform
import shutil
import tempfile
from collections.abc import Callable

import claims  # beside this script
import fidelity
import numpy as np
import real_data
from judging.cells import ORDERED, Cell, pairs
from judging.figures import key

from jaxneg import config as configs, files, progress
from jaxneg.batch import EvalBatch
from jaxneg.data import engine, prepare, prepare_config, readers, stores
from jaxneg.data.prepare_config import PrepareConfig
from jaxneg.evaluation import eval_sets
from jaxneg.metrics import measures
from jaxneg.serve import export
from jaxneg.simulation import ab_test, simulator
from jaxneg.sweep import grids, runner, tables
from jaxneg.training import runs

ROOT = pathlib.Path(__file__).parent.parent
SWEEPS = ("p_hard", "contrastive", "spotify", "encoders", "negatives", "hardest", "term", "objectives")
REAL = {"spotify": "spotify_history"}  # sweeps of a real log under JAXNEG_DATA, and which
AB = "ab"  # needs the sweep over p_hard
LISTENERS = simulator.SimulateConfig(
    users=4500, items=20_000, sessions=30_000, stations=60, artists=2000, days=90
)
FEW = simulator.SimulateConfig(users=100, items=200, sessions=600, stations=4, artists=20)


def prepared(work: pathlib.Path, listeners: simulator.SimulateConfig) -> pathlib.Path:
    """The store of the study's listeners."""
    log, store = work / "log.parquet", work / "store"
    if not (store / "metadata.json").exists():
        work.mkdir(parents=True, exist_ok=True)
        simulator.write(simulator.simulate(listeners), log)
        reader, con = readers.READERS["table"], engine.connect()
        settings = prepare_config.with_defaults(PrepareConfig(session="given"), **reader.settings)
        events = reader.read(con, log, reader.Options(attributes=("artist",)))
        prepare.prepare(events, store, settings, con, reader="table", source=str(log))
    return store


def served(store: pathlib.Path, work: pathlib.Path) -> None:
    """The week of simulated radio: models of the sweep over p_hard, exported, against their control."""
    exports = []
    for p_hard, seed in (("0.4", 0), ("0.4", 1), ("0.4", 2), ("0", 0), ("1", 0)):
        export_to = work / "exports" / f"p_hard_{p_hard}_seed_{seed}"
        exports.append(export_to)
        if not export_to.exists():
            export.export(runs.load(work / "p_hard" / "cells" / f"p_hard={p_hard},seed={seed}"), export_to)
    if not (work / "ab" / "ab.json").exists():
        with progress.Steps("study ab") as steps:
            ab_test.ab(exports, work / "log.parquet.truth.npz", store, work / "ab", ab_test.ABConfig(), steps)


def swept(
    name: str, store: pathlib.Path, work: pathlib.Path, *, jobs: int, part: list[str], quick: bool
) -> None:
    path = ROOT / "configs" / f"study_{name}.py"
    config, spec = configs.load(path), grids.with_axes(grids.load(path), part)
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, store=str(store)))
    if quick:
        config = configs.override(config, ["--train.epochs", "1", "--data.batch-size", "64"])
        spec = grids.with_axes(dataclasses.replace(spec, seeds=1), ["p_hard=0,1"])
    with progress.Steps(f"study {name}") as steps:
        runner.sweep(config, spec, work / name, jobs=jobs, on_progress=steps, say=progress.say)


def cells(name: str, work: pathlib.Path) -> list[grids.Cell]:
    """What a sweep was asked to run."""
    asked = json.loads((work / name / "sweep.json").read_text())
    axes = {axis: {label: tuple(words) for label, words in of.items()} for axis, of in asked["axes"].items()}
    return grids.expand(
        configs.from_json(json.dumps(asked["config"])), grids.Sweep(axes, seeds=asked["seeds"])
    )


def validated(name: str, work: pathlib.Path) -> dict[tuple[str, ...], dict[str, list[list[float]]]]:
    """Epoch and monitored figure of each validation, by labels of a cell and seed."""
    found: dict[tuple[str, ...], dict[str, list[list[float]]]] = {}
    for cell in cells(name, work):
        path = work / name / "cells" / cell.name / "result.json"
        if path.is_file():
            result = json.loads(path.read_text())
            points = [[line["epoch"], round(line[result["monitor"]], 5)] for line in result["history"]]
            found.setdefault(cell.labels, {})[str(cell.seed)] = points
    return found


def opened(name: str, work: pathlib.Path) -> stores.Store:
    """The store of a sweep that has been run."""
    [path] = {cell.config.data.store for cell in cells(name, work)}
    return stores.Store.open(path)


def station_popularity(store: stores.Store) -> Callable[[EvalBatch], np.ndarray]:
    """Scores by how often a station's songs were played to the end or liked in training; others by all stations'."""
    length_S = np.diff(store.session_indptr)
    event = np.flatnonzero(
        np.arange(length_S.sum()) < np.repeat(np.asarray(store.session_train_end), length_S)
    )
    event = event[np.asarray(store.sign)[store.feedback_T[event]] > 0]
    count_ZV = np.zeros((int(np.asarray(store.station_T).max()) + 1, store.items + 1), np.float32)
    np.add.at(count_ZV, (store.station_T[event], store.item_T[event]), 1.0)
    everywhere_V = count_ZV.sum(0) / (1.0 + count_ZV.sum())

    def score(batch: EvalBatch) -> np.ndarray:
        seen_BL = np.asarray(batch.item_BL) > 0
        last_B = np.where(seen_BL, np.arange(seen_BL.shape[1]), 0).max(1)
        return count_ZV[np.asarray(batch.station_BL)[np.arange(len(last_B)), last_B]] + everywhere_V

    return score


def baseline(name: str, work: pathlib.Path) -> measures.Report:
    """Popularity in the station of a context's last event, on the examples of a sweep."""
    config, store = configs.load(ROOT / "configs" / f"study_{name}.py"), opened(name, work)
    return eval_sets.EvalSet(store, config, "test").measure(station_popularity(store))


def order(store: stores.Store) -> dict[str, float]:
    """What the order of songs tells of the next one: shares of all steps, and in sessions that are shuffled.

    successor: the next song is the one that most often followed the last when this listener heard it before. artist:
    it is of the last one's artist.
    """
    session_T = np.repeat(np.arange(store.sessions), np.diff(store.session_indptr))
    shuffled = np.lexsort((np.random.default_rng(0).random(len(session_T)), session_T))
    user_T = np.asarray(store.session_user)[session_T]
    next_ = session_T[1:] == session_T[:-1]
    found = {}
    for name, item_T in (("", np.asarray(store.item_T)), (" shuffled", np.asarray(store.item_T)[shuffled])):
        artist_T = np.asarray(store.attribute_VA)[item_T, 0]
        found[f"successor{name}"] = fidelity.successor(
            user_T.astype(np.int64) * (store.items + 1) + item_T, next_
        )
        found[f"artist{name}"] = float((artist_T[1:] == artist_T[:-1])[next_].mean())
    return {name: float(f"{share:.6g}") for name, share in found.items()}


def values(work: pathlib.Path, cell: Cell, stations: dict[str, measures.Report]) -> list[tables.Values]:
    """What a cell has per example, by seed; empty where it has not been run whole."""
    if cell.sweep == "baselines":
        found = [stations[name] for name in cell.labels if name in stations]
        return [tables.Values(one.pair_X2, one.user_X, tables.kept(one)) for one in found]
    if not (work / cell.sweep / "table.json").is_file():
        return []
    asked = [one for one in cells(cell.sweep, work) if one.labels == cell.labels]
    paths = [work / cell.sweep / "cells" / one.name / "figures_test.npz" for one in asked]
    return [tables.load_values(path)["model"] for path in paths if path.is_file()]


def compare(work: pathlib.Path, out: pathlib.Path) -> None:
    """Writes pairs.json: what rules of claims compare, over listeners, of the sweeps that stand."""
    stations = {name: baseline(name, work) for name in ORDERED if (work / name / "table.json").is_file()}
    measured: dict[Cell, list[tables.Values]] = {}
    lines = []
    for pair in pairs():
        for cell in (pair.one, pair.other):
            if cell not in measured:
                measured[cell] = values(work, cell, stations)
        sides = measured[pair.one], measured[pair.other]
        if not all(sides):
            continue
        found = tables.over_examples(*sides, pair.figure, resamples=1000, seed=0)
        if found is None:
            raise SystemExit(f"{pair} were measured on different examples: sweep again")
        ends = {name: float(f"{found[name]:.6g}") for name in ("mean", "low", "high")}
        lines.append(
            {"figure": pair.figure, "one": key(pair.one), "other": key(pair.other)}
            | ends
            | {"users": found["users"], "examples": found["examples"]}
        )
    known = {
        name: {of: value for of, value in one.figures.items() if of.startswith("released_hit_rate")}
        for name, one in stations.items()
    }
    found = {
        "order": {name: order(opened(name, work)) for name in stations},
        "baselines": known,
        "pairs": lines,
    }
    out.mkdir(parents=True, exist_ok=True)
    files.write_json(out / "pairs.json", found)


def part_of(name: str, axes: dict[str, list[str]]) -> str:
    """The words that ask for a table's part of a sweep, none where it is whole."""
    whole = grids.load(ROOT / "configs" / f"study_{name}.py").axes
    parts = [f"{axis}={','.join(axes[axis])}" for axis in whole if list(whole[axis]) != axes[axis]]
    return "".join(f" --set {one!r}" if " " in one else f" --set {one}" for one in parts)


def publish(name: str, work: pathlib.Path, out: pathlib.Path) -> bool:
    """Copies a sweep's table and plots to the results, if the sweep is done whole."""
    if not (work / name / "table.json").is_file():
        return False
    table = json.loads((work / name / "table.json").read_text())
    if failed := runner.failures(table):
        progress.say(
            f"study {name} is not published: {len(failed)} of its runs failed, the first {failed[0]}"
        )
        return False
    histories = validated(name, work)
    if any(len(histories.get(tuple(cell["labels"].values()), ())) < cell["n"] for cell in table["cells"]):
        progress.say(f"study {name} is not published: its runs have changed since its table, sweep it again")
        return False
    out.mkdir(parents=True, exist_ok=True)
    environment = json.loads(next((work / name / "cells").glob("*/environment.json")).read_text())
    asked = json.loads((work / name / "sweep.json").read_text())["config"]
    table["limit"] = asked["train"]["epochs"]
    for lead in table["time_to_target"]:
        del lead["passages"], lead["differs"]
    table["made_with"] = {
        "command": f"jaxneg sweep configs/study_{name}.py{part_of(name, table['axes'])} --workdir runs/study/{name}",
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, {', '.join(environment['devices'])}",
        "jax": environment["jax"],
        "seconds": round(sum(one["seconds"] for cell in table["cells"] for one in cell["seeds"].values())),
    }
    for cell in table["cells"]:
        cell["history"] = histories[tuple(cell["labels"].values())]
        del cell["figures"]  # means of what stands by seed
        cell.get("less_reference", {}).pop("over_seeds", None)
        for line in cell["seeds"].values():
            line.update({key: float(f"{value:.6g}") for key, value in line.items() if value is not None})
    files.write_json(out / f"{name}.json", table)
    shutil.rmtree(out / name, ignore_errors=True)
    text = (work / name / "table.md").read_text().replace("](plots/", f"]({name}/")
    if len(table["cells"]) == 1:  # a plot of one cell shows nothing
        text = "\n\n".join(part for part in text.strip().split("\n\n") if not part.startswith("![")) + "\n"
    elif (plots := work / name / "plots").is_dir():
        shutil.copytree(plots, out / name)
    made = table["made_with"]
    head, _, rest = text.partition("\n\n")
    (out / f"{name}.md").write_text(
        f"{head.replace('Sweep', f'Study {name}: sweep')}\n\n`{made['command']}` on {made['machine']}, "
        f"jax {made['jax']}: {made['seconds'] / 3600:.1f} hours of training on one core each, other work going on "
        f"beside it.\n\n{rest}"
    )
    return True


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a small log, one sweep, one seed, one epoch")
    parser.add_argument("--only", nargs="+", choices=(*SWEEPS, AB), default=[*SWEEPS, AB])
    parser.add_argument(
        "--set", nargs="+", default=[], metavar="AXIS=LABELS", help="a part of a sweep, the rest another time"
    )
    parser.add_argument("--claims", action="store_true", help="train nothing: publish and judge what stands")
    parser.add_argument("--jobs", type=int, default=0, help="runs at the same time; 0 takes one per core")
    parser.add_argument("--work", type=pathlib.Path, default=ROOT / "runs" / "study", help="store and runs")
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "benchmarks" / "results" / "study")
    args = parser.parse_args()
    if args.quick:
        args.only = ["p_hard"]
        args.work = pathlib.Path(tempfile.mkdtemp(prefix="jaxneg-"))
        args.out = args.work / "results"
    if not args.claims:
        store = prepared(args.work, FEW if args.quick else LISTENERS)
        for name in args.only:
            if name == AB:
                served(store, args.work)
            else:
                of = real_data.prepared(REAL[name], args.work) if name in REAL else store
                swept(name, of, args.work, jobs=args.jobs, part=args.set, quick=args.quick)
    done = [name for name in SWEEPS if publish(name, args.work, args.out)]
    compare(args.work, args.out)
    if (args.work / AB / "ab.json").is_file():
        for path in (args.work / AB).iterdir():
            shutil.copyfile(path, args.out / path.name)
    verdicts = claims.write(args.out.parent, args.out.parent / "claims.md")
    print(json.dumps({"benchmark": "study", "sweeps": done, "claims": verdicts}))


if __name__ == "__main__":
    main()
