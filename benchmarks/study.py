"""The study of the four papers' claims on simulated listeners: six sweeps, a week of radio, a verdict per claim.

    .venv/bin/python benchmarks/study.py                    # hours on two cores; goes on where it stopped
    .venv/bin/python benchmarks/study.py --only p_hard term
    .venv/bin/python benchmarks/study.py --claims           # tables and verdicts of what stands, nothing trained
    .venv/bin/python benchmarks/study.py --quick            # a small log, two values of p_hard, one epoch

Simulates 60,000 sessions of 9,000 listeners on 20,000 songs, prepares a store and runs configs/study_*.py on it, each
in --work/NAME. Writes NAME.md, NAME.json and plots of each sweep to --out and prints one JSON object as its last line.
Then benchmarks/claims.py turns the JSON files into claims.md.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import platform
import shutil
import tempfile

import claims

from jaxneg import config as configs, files, progress
from jaxneg.data import engine, prepare, prepare_config, readers
from jaxneg.data.prepare_config import PrepareConfig
from jaxneg.serve import export
from jaxneg.simulation import ab_test, simulator
from jaxneg.sweep import grids, runner
from jaxneg.training import runs

ROOT = pathlib.Path(__file__).parent.parent
SWEEPS = ("p_hard", "negatives", "contrastive", "hardest", "objectives", "term")
AB = "ab"  # needs the sweep over p_hard
# Independent, as the claims were measured; on listeners like people they are still to be.
LISTENERS = simulator.SimulateConfig(
    listening="independent",
    habit=1.6,
    users=9000,
    items=20_000,
    sessions=60_000,
    stations=60,
    artists=2000,
    days=90,
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


def swept(name: str, store: pathlib.Path, work: pathlib.Path, jobs: int, quick: bool) -> None:
    path = ROOT / "configs" / f"study_{name}.py"
    config, spec = configs.load(path), grids.load(path)
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, store=str(store)))
    if quick:
        config = configs.override(config, ["--train.epochs", "1", "--data.batch-size", "64"])
        spec = grids.with_axes(dataclasses.replace(spec, seeds=1), ["p_hard=0,1"])
    with progress.Steps(f"study {name}") as steps:
        runner.sweep(config, spec, work / name, jobs=jobs, on_progress=steps, say=progress.say)


def validated(name: str, work: pathlib.Path) -> dict[tuple[str, ...], dict[str, list[list[float]]]]:
    """Epoch and monitored figure of each validation, by labels of a cell and seed."""
    asked = json.loads((work / name / "sweep.json").read_text())
    axes = {axis: {label: tuple(words) for label, words in of.items()} for axis, of in asked["axes"].items()}
    spec = grids.Sweep(axes, seeds=asked["seeds"])
    found: dict[tuple[str, ...], dict[str, list[list[float]]]] = {}
    for cell in grids.expand(configs.from_json(json.dumps(asked["config"])), spec):
        path = work / name / "cells" / cell.name / "result.json"
        if path.is_file():
            result = json.loads(path.read_text())
            points = [[line["epoch"], round(line[result["monitor"]], 5)] for line in result["history"]]
            found.setdefault(cell.labels, {})[str(cell.seed)] = points
    return found


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
    table["ordered"] = False  # songs of a simulated session are drawn each by itself from its station
    table["figures"] = claims.FIGURES
    table["made_with"] = {
        "command": f"jaxneg sweep configs/study_{name}.py --workdir runs/study/{name}",
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
    if (plots := work / name / "plots").is_dir():
        shutil.copytree(plots, out / name)
    made = table["made_with"]
    text = (work / name / "table.md").read_text().replace("](plots/", f"]({name}/")
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
                swept(name, store, args.work, args.jobs, args.quick)
    done = [name for name in SWEEPS if publish(name, args.work, args.out)]
    if (args.work / AB / "ab.json").is_file():
        for path in (args.work / AB).iterdir():
            shutil.copyfile(path, args.out / path.name)
        files.write_json(
            args.out / "ab.json", {"figures": claims.FIGURES} | json.loads((args.out / "ab.json").read_text())
        )
    verdicts = claims.write(args.out.parent, args.out.parent / "claims.md")
    print(json.dumps({"benchmark": "study", "sweeps": done, "claims": verdicts}))


if __name__ == "__main__":
    main()
