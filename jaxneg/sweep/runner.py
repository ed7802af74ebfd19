"""Many runs over a grid of options and seeds -> one table, with plots. Stopped, it continues where it was.

SWEEP/sweep.json                 what was asked for last
SWEEP/cells/<labels,seed>/       a run directory each, with figures_<split>.json once measured
SWEEP/failed/<labels,seed>.json  why a cell failed; the next call tries it again
SWEEP/baselines_<split>.json     with --baselines
SWEEP/table.json, .csv, .md, plots/
"""

import contextlib
import dataclasses
import itertools
import json
import math
import os
import pathlib
import shutil
import statistics
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NotRequired, TypedDict

import numpy as np

from jaxneg import config as configs, files, progress, signals
from jaxneg.config import Config
from jaxneg.data import held_out, stores
from jaxneg.errors import UserError
from jaxneg.evaluation import report
from jaxneg.files import documents, locks
from jaxneg.metrics import measures
from jaxneg.sweep import grids, plots, tables, workers
from jaxneg.training import loop, runs

TRAINING = (
    "epochs_to_convergence", "steps_to_convergence", "sequences_to_convergence", "seconds_to_convergence",
    "hard_share", "epochs", "best_epoch", "best_validation", "last_validation", "steps", "seconds", "device_seconds",
    "compile_seconds", "seconds_per_epoch", "false_negatives", "hard_also_liked", "validation_pairs",
    "validation_examples", "validation_users",
)  # fmt: skip
RAW = (
    "best_score",
    "best_step",
    "last_score",
    "steps_per_epoch",
)  # of a result, which become others of these
PROBED = ("cosine_", "responsiveness_")  # figures that depend on the feedback kinds of a store
# What may differ between the runs of a cell without changing what is measured.
FREE = ("data.store", "data.prefetch", "train.log_every", "train.devices")
NOTHING: Mapping[str, str] = types.MappingProxyType({})
OnProgress = Callable[..., None]  # (done, total, figures, stage)


def sweep(
    config: Config,
    spec: grids.Sweep,
    workdir: pathlib.Path,
    *,
    jobs: int = 0,
    split: str = "test",
    baselines: bool = False,
    on_progress: OnProgress = lambda *_, **__: None,
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Trains and measures every cell that does not stand yet; returns what table.json then holds.

    A cell that fails does not stop the others: the table says why. Raises UserError on a directory of other
    experiments and on one that is being swept already.

    Args:
      config: of which each cell changes some options.
      spec: the grid.
      workdir: of the sweep; made if new, continued if not.
      jobs: cells at the same time; 0 takes one per core, or per GPU.
      split: held-out events that are measured, "test" or "validation".
      baselines: measure baselines on the same events too.
      on_progress: told (done, total, figures, stage=...) in cells.
      say: told a line of each cell that is done.
    """
    if jobs < 0:
        raise UserError(f"--jobs must be 0 or more, got {jobs}")
    workdir = files.local(workdir, "--workdir")
    cells = grids.expand(config, spec)
    _check_figures(cells[0].config, spec, split)
    catalogues = {
        one: runs.catalogue_id(stores.Store.open(one)) for one in {c.config.data.store for c in cells}
    }
    _check_vacant(workdir)
    with locks.held(locks.inside(workdir), f"--workdir {workdir}") as lock:
        _check_vacant(workdir)
        for directory in (workdir, workdir / "failed"):
            files.clean_inside(directory)
        for cell in cells:
            _check_standing(workdir / "cells" / cell.name, cell.config, catalogues[cell.config.data.store])
        files.write_json(workdir / "sweep.json", _asked(config, spec, split))
        tasks = _tasks(cells, workdir, split, say)
        if baselines:
            _check_baselines(workdir, config, split)
            if not _stands(_baselines_path(workdir, split)):
                tasks["baselines"] = _task("baselines", config, workdir, split)
        total, done = len(cells), sum(cell.name not in tasks for cell in cells)
        places = _places(workdir, jobs) if tasks else []
        call, logs = "jaxneg.sweep.runner:work", workdir / "logs"
        with (
            signals.deferred(),
            contextlib.closing(
                workers.calls(call, tasks, places, logs, keep=(lock.fd,), stop=signals.came)
            ) as events,
        ):
            for event in events:
                if event.progress is not None:
                    on_progress(done, total, event.progress["figures"], stage=event.progress["stage"])
                    continue
                done += event.task != "baselines"
                _settle(workdir, event, split, spec, say)
                on_progress(done, total, {}, stage=event.task)
        if signals.came():
            raise signals.Stopped(
                f"stopped after {done} of {total} runs: the same command continues {workdir}"
            )
        return _write(workdir, cells, spec, config, split, baselines)


def _places(workdir: pathlib.Path, jobs: int) -> list[workers.Place]:
    """Where workers run. Each cell compiles anew, and most alike, so that they share what one has compiled."""
    compiled = {
        "JAX_COMPILATION_CACHE_DIR": str(workdir.absolute() / "compiled"),
        "JAX_PERSISTENT_COMPILATION_CACHE_MIN_COMPILE_TIME_SECS": "0.1",
    }
    chosen = {name: value for name, value in compiled.items() if name not in os.environ}
    return [one._replace(environment={**chosen, **one.environment}) for one in workers.places(jobs)]


def _check_figures(config: Config, spec: grids.Sweep, split: str) -> None:
    """Raises UserError on a figure to show that measuring does not give."""
    store = stores.Store.open(config.data.store)
    examples = held_out.EvalBatches(store, config.data, config.eval, split)

    def none(batch) -> np.ndarray:
        return np.zeros((len(batch.user_B), store.items + 1), np.float32)

    measured = measures.evaluate(none, [examples[0]], items=store.items, config=config.eval).figures
    known = [*measured, *(f"last_{name}" for name in measured), *TRAINING]
    for name in spec.figures:
        if name not in known and not name.startswith(PROBED):
            raise UserError(f"no figure {name}: choose among {', '.join(known)}, {'*, '.join(PROBED)}*")


def _check_vacant(workdir: pathlib.Path) -> None:
    """Raises UserError where something else than a sweep stands."""
    if not any((workdir / name).is_file() for name in ("sweep.json", "lock")) and not files.vacant(workdir):
        raise UserError(f"--workdir {workdir} exists and is no sweep: choose a new one")


def _check_standing(directory: pathlib.Path, config: Config, catalogue: str) -> None:
    """Raises UserError where another experiment stands in the directory of a cell."""
    if not (directory / "config.json").is_file():
        return
    old = runs.read_config(directory)
    if changed := [line for line in configs.differences(old, config) if not line.startswith(FREE)]:
        raise UserError(
            f"{directory} holds another experiment ({'; '.join(changed)}): choose a new --workdir"
        )
    preparation = runs.preparation_id(stores.Store.open(config.data.store))
    if runs.preparation_of(directory) not in (None, preparation):
        raise UserError(
            f"{directory} was trained on another preparation of the log than {config.data.store} now is: give "
            "--data.store the one of before, or choose a new --workdir"
        )
    if runs.catalogue_of(directory) not in (None, catalogue):
        raise UserError(
            f"{directory} was trained on another catalogue than {config.data.store}: choose a new --workdir"
        )


def _asked(config: Config, spec: grids.Sweep, split: str) -> dict[str, Any]:
    return {
        "config": dataclasses.asdict(config),
        "axes": {name: {label: list(words) for label, words in axis.items()} for name, axis in spec.axes.items()},
        "seeds": spec.seeds,
        "figures": list(spec.figures),
        "reference": dict(spec.reference),
        "split": split,
    }  # fmt: skip


def _tasks(
    cells: Sequence[grids.Cell], workdir: pathlib.Path, split: str, say: Callable[[str], None]
) -> dict[str, dict[str, str]]:
    """What is left to do. A cell that cannot be has failed at once."""
    tasks, standing = {}, 0
    for cell in cells:
        directory = workdir / "cells" / cell.name
        if cell.trouble is not None:
            _write_failure(workdir, cell.name, cell.trouble)
            say(f"{cell.name} failed: {cell.trouble}")
        elif _stands(_figures_path(directory, split)):
            standing += 1
        else:
            tasks[cell.name] = _task("cell", cell.config, directory, split)
    if standing:
        say(f"{standing} of {len(cells)} cells are done already")
    return tasks


def _task(kind: str, config: Config, directory: pathlib.Path, split: str) -> dict[str, str]:
    return {"kind": kind, "config": configs.to_json(config), "directory": str(directory), "split": split}


def _stands(path: pathlib.Path) -> bool:
    """Whether something was measured, by a version that kept whose example each is, and is as it was written."""
    try:
        return path.is_file() and bool(tables.load_values(path.with_suffix(".npz")))
    except UserError:
        return False


def _figures_path(directory: pathlib.Path, split: str) -> pathlib.Path:
    return directory / f"figures_{split}.json"


def _baselines_path(workdir: pathlib.Path, split: str) -> pathlib.Path:
    return workdir / f"baselines_{split}.json"


def _failure_path(workdir: pathlib.Path, name: str) -> pathlib.Path:
    return workdir / "failed" / f"{name}.json"


class Failure(TypedDict):
    """What a file of ``failed`` holds."""

    reason: str
    trace: NotRequired[list[str]]


class Baselines(TypedDict):
    """What baselines_<split>.json holds."""

    catalogue: str
    config: dict[str, Any]
    baselines: dict[str, dict[str, Any]]


def _figures(path: pathlib.Path) -> dict[str, Any]:
    return documents.read(path, dict[str, Any], f"remove {path} to measure again")


def _reason(path: pathlib.Path) -> str:
    return documents.read(path, Failure, "start the sweep again")["reason"]


def _write_failure(workdir: pathlib.Path, name: str, reason: str, trace: str = "") -> None:
    path = _failure_path(workdir, name)
    path.parent.mkdir(exist_ok=True)
    files.write_json(path, {"reason": reason, **({"trace": trace.splitlines()} if trace else {})})


def _settle(
    workdir: pathlib.Path, event: workers.Event, split: str, spec: grids.Sweep, say: Callable[[str], None]
) -> None:
    """Notes that a task is done or has failed, and says so."""
    if event.failed is not None:
        _write_failure(workdir, event.task, event.failed, event.trace)
        say(f"{event.task} failed: {event.failed}")
        return
    _failure_path(workdir, event.task).unlink(missing_ok=True)
    if event.task == "baselines":
        say("baselines: done")
        return
    figures = _figures(_figures_path(workdir / "cells" / event.task, split))
    shown = [(name, figures[name]) for name in spec.figures if figures.get(name) is not None]
    say(f"{event.task}: " + "  ".join(f"{tables.title(name)} {value:.4g}" for name, value in shown))


def work(kind: str, config: str, directory: str, split: str, on_progress: Callable[..., None]) -> None:
    """What a worker does for one task; see ``measure_cell`` and ``measure_baselines``."""
    act = measure_cell if kind == "cell" else measure_baselines
    act(configs.from_json(config), pathlib.Path(directory), split, on_progress)


def measure_cell(
    config: Config, directory: pathlib.Path, split: str, on_progress: Callable[..., None]
) -> None:
    """Trains a cell, or continues it, and writes its figures, and its values per example, for a split."""
    if not (directory / "config.json").is_file():
        shutil.rmtree(directory, ignore_errors=True)  # killed before it had claimed its directory
    name = directory.name

    def training(
        done: int, total: int, figures: progress.Figures = progress.NONE, /, *, stage: str = ""
    ) -> None:
        on_progress(figures={"share": done / total, **figures}, stage=name)

    if runs.ended(directory) is None:
        loop.train(config, directory, training)
    trained = runs.load(directory, config)
    examples = held_out.EvalBatches(trained.store, config.data, config.eval, split)

    def measuring(done: int, total: int, stage: str) -> None:
        on_progress(figures={"share": done / total}, stage=f"{stage} measured")

    score = runs.catalogue_score(trained)
    found = report.measure(score, examples, trained.store, config, name, measuring)
    path = _figures_path(directory, split)
    tables.save_values(
        path.with_suffix(".npz"), {"model": tables.Values(found.pair_X2, found.user_X, found.value_X)}
    )
    written = {
        "split": split,
        **found.to_dict(),
        **_last(trained, directory, found, examples, measuring),
        **_training(trained.result),
        **_probed(report.probe(trained, score, examples)),
    }
    files.write_json(path, documents.sealed(written))
    for old in (directory / "checkpoints").iterdir():
        if old.name.isdigit() and int(old.name) != trained.result["best_step"]:
            shutil.rmtree(old)


def _last(
    trained: runs.Trained,
    directory: pathlib.Path,
    best: measures.Report,
    examples: held_out.EvalBatches,
    on_progress: Callable[..., None],
) -> dict[str, Any]:
    """Figures of the last epoch, as last_<figure>; those of the best where it is the last, or the only one left."""
    found = report.measure_last(trained, directory, examples, on_progress) or best
    return {f"last_{name}": value for name, value in tables.scalars(found.to_dict()).items()}


def _training(result: Mapping[str, Any]) -> dict[str, Any]:
    derived = {
        "epochs": result["steps"] / result["steps_per_epoch"],
        "best_epoch": result["best_step"] / result["steps_per_epoch"],
        "best_validation": result["best_score"],
        "last_validation": result["history"][-1][result["monitor"]],
        "seconds_per_epoch": _seconds_per_epoch(result["history"]),
    }
    other = {name: value for name, value in tables.scalars(result).items() if name not in RAW}
    return other | derived


def _seconds_per_epoch(history: Sequence[Mapping[str, float | int]]) -> float | None:
    """Median over validations after the first, so that neither compiling nor a restart counts; None without two."""
    pairs = itertools.pairwise(history)
    rates = [(b["seconds"] - a["seconds"]) / (b["epoch"] - a["epoch"]) for a, b in pairs]
    return statistics.median(rates) if rates else None


def _probed(found: Mapping[str, Any]) -> dict[str, float | None]:
    """Figures out of what ``report.probe`` found: cosines of feedback kinds, and how much lists change."""
    figures = {}
    cosines = dict(found.get("feedback_cosines", {}))
    kinds = cosines.pop("kinds", [])
    for (m, a), (n, b) in itertools.combinations(enumerate(kinds), 2):
        figures |= {f"cosine_{name}_{a}_{b}": matrix[m][n] for name, matrix in cosines.items()}
    for name, one in found.get("responsiveness", {}).items():
        if isinstance(one, Mapping) and "change" in one:
            figures[f"responsiveness_{name}"] = one["change"]
    return {name: value if math.isfinite(value) else None for name, value in figures.items()}


def measure_baselines(
    config: Config, workdir: pathlib.Path, split: str, on_progress: Callable[..., None]
) -> None:
    """Measures the baselines of ``report`` and writes their figures, and their values per example."""
    path = _baselines_path(workdir, split)
    store = stores.Store.open(config.data.store)

    def watched(done: int, total: int, stage: str) -> None:
        on_progress(figures={"share": done / total}, stage=f"baseline {stage}")

    measured = report.measure_baselines(store, config, split, watched)
    values = {
        name: tables.Values(one.report.pair_X2, one.report.user_X, one.report.value_X)
        for name, one in measured.items()
    }
    tables.save_values(path.with_suffix(".npz"), values)
    figures = {
        name: one.report.to_dict()
        | {
            "settings": one.settings,
            "sees": one.sees,
            "seeds": one.seeds,
            "validation_auc": one.validation_auc if math.isfinite(one.validation_auc) else None,
        }
        | {f"{of}_sd": one.sd[of] for of in tables.COMPARED if of in one.sd}
        for name, one in measured.items()
    }
    written = {
        "catalogue": runs.catalogue_id(store),
        "config": dataclasses.asdict(config),
        "baselines": figures,
    }
    files.write_json(path, documents.sealed(written))


def _check_baselines(workdir: pathlib.Path, config: Config, split: str) -> None:
    path = _baselines_path(workdir, split)
    if not path.is_file():
        return
    old = documents.read(path, Baselines, f"remove {path} to measure again")
    changed = [
        line
        for line in configs.differences(configs.from_json(json.dumps(old["config"])), config)
        if line.startswith(("data.", "eval.")) and not line.startswith(FREE)
    ]
    if old["catalogue"] != runs.catalogue_id(stores.Store.open(config.data.store)):
        changed.append("another catalogue")
    if changed:
        raise UserError(f"{path} is of another experiment ({'; '.join(changed)}): choose a new --workdir")


def _write(
    workdir: pathlib.Path,
    cells: Sequence[grids.Cell],
    spec: grids.Sweep,
    config: Config,
    split: str,
    baselines: bool,
) -> dict[str, Any]:
    """Writes table.json, table.csv, table.md and the plots of what stands; returns what table.json holds."""
    found: dict[tuple[str, ...], tables.Found] = {}
    for cell in cells:
        one = found.setdefault(cell.labels, tables.Found({}, {}, {}))
        path = _figures_path(workdir / "cells" / cell.name, split)
        if path.is_file() and cell.trouble is None:
            one.figures[cell.seed] = tables.scalars(_figures(path))
            one.values[cell.seed] = tables.load_values(path.with_suffix(".npz"))["model"]
        else:
            one.failed[cell.seed] = _reason(_failure_path(workdir, cell.name))
    measured = {}
    path = _baselines_path(workdir, split)
    if baselines and path.is_file():
        values = tables.load_values(path.with_suffix(".npz"))
        measured = {
            name: (
                tables.scalars({key: value for key, value in one.items() if key != "settings"})
                | {"settings": one["settings"]},
                values[name],
            )
            for name, one in documents.read(path, Baselines, f"remove {path} to measure again")[
                "baselines"
            ].items()
        }
    table = {"split": split} | tables.summary(
        {name: list(axis) for name, axis in spec.axes.items()},
        found,
        seeds=spec.seeds,
        figures=spec.figures,
        reference=spec.reference,
        baselines=measured,
        resamples=config.eval.bootstrap,
        seed=config.eval.pair_seed,
    )
    if baselines and not measured:
        table["baselines_failed"] = _reason(_failure_path(workdir, "baselines"))
    drawn = files.scratch(files.real(workdir) / "plots")
    with files.unfinished(drawn):
        images = {f"plots/{name}": title for name, title in _draw(drawn, table).items()}
        with files.COMMIT:
            files.move_into(workdir / "plots", drawn)
            files.write_json(workdir / "table.json", table)
            files.write_text(workdir / "table.csv", tables.csv_text(table))
            files.write_text(workdir / "table.md", tables.markdown(table, images))
    return table


def _draw(directory: pathlib.Path, table: Mapping[str, Any]) -> dict[str, str]:
    """Titles of the plots by file name; none without matplotlib."""
    points = {}
    for name in table["shown"]:
        ends = ((tuple(cell["labels"].values()), cell["figures"].get(name)) for cell in table["cells"])
        points[name] = [
            plots.Point(labels, one["mean"], one["low"], one["high"])
            for labels, one in ends
            if one is not None and one["mean"] is not None
        ]
    best = table["best_baseline"]
    try:
        drawn = plots.draw(
            directory,
            axes=table["axes"],
            points={name: some for name, some in points.items() if some},
            titles={name: tables.title(name) for name in points},
            counted=tables.how_many(table["cells"]),
            baseline=None if best is None else (best.replace("_", " "), table["baselines"][best]),
        )
    except ImportError:
        progress.say(f"jaxneg: {report.NO_PLOTS}")
        return {}
    return drawn


def failures(table: Mapping[str, Any]) -> list[str]:
    """A line for each cell of a table that failed, and for the baselines."""
    lines = [
        f"{tables.name_of(cell['labels'], int(s))}: {reason}"
        for cell in table["cells"]
        for s, reason in cell["failed"].items()
    ]
    return lines + ([f"baselines: {table['baselines_failed']}"] if "baselines_failed" in table else [])
