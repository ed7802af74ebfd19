"""Many runs over a grid of options and seeds -> one table, with plots. Stopped, it continues where it was."""

import contextlib
import dataclasses
import json
import os
import pathlib
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from jaxneg import files, progress, signals
from jaxneg.config import Config, saved
from jaxneg.data import held_out, stores
from jaxneg.errors import UserError
from jaxneg.evaluation import publishing
from jaxneg.files import documents, locks
from jaxneg.metrics import measures
from jaxneg.sweep import grids, leads, plots, standing, tables, workers
from jaxneg.training import records, runs

TRAINING = (
    "epochs_to_convergence",
    "steps_to_convergence",
    "sequences_to_convergence",
    "seconds_to_convergence",
    "hard_share",
    "epochs",
    "best_epoch",
    "best_validation",
    "last_validation",
    "steps",
    "seconds",
    "device_seconds",
    "compile_seconds",
    "seconds_per_epoch",
    "false_negatives",
    "hard_also_liked",
    "validation_pairs",
    "validation_examples",
    "validation_users",
)
PROBED = ("cosine_", "responsiveness_")  # figures that depend on the feedback kinds of a store
NOTHING: Mapping[str, str] = types.MappingProxyType({})


def sweep(
    config: Config,
    spec: grids.Sweep,
    workdir: pathlib.Path,
    *,
    jobs: int = 0,
    split: str = "test",
    baselines: bool = False,
    on_progress: progress.OnProgress = progress.silent,
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
      on_progress: told of each stage, in cells.
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
        files.check_free(
            workdir, ("sweep.json", *(f"table.{kind}" for kind in ("json", "csv", "md"))), ("plots", "cells")
        )
        for cell in cells:
            _check_standing(workdir / "cells" / cell.name, cell.config, catalogues[cell.config.data.store])
        files.write_json(workdir / "sweep.json", _asked(config, spec, split))
        tasks = _tasks(cells, workdir, split, say)
        if baselines:
            _check_baselines(workdir, config, split)
            if not standing.stands(standing.baselines_path(workdir, split)):
                tasks["baselines"] = _task("baselines", config, workdir, split)
        total, done = len(cells), sum(cell.name not in tasks for cell in cells)
        places = _places(workdir, jobs) if tasks else []
        call, logs = "jaxneg.sweep.cells:work", workdir / "logs"
        with (
            signals.deferred(),
            contextlib.closing(
                workers.calls(call, tasks, places, logs, keep=(lock.fd,), stop=signals.came)
            ) as events,
        ):
            for event in events:
                if event.progress is not None:
                    its = event.progress
                    share = {"share": its["done"] / max(its["total"], 1)}
                    on_progress(done, total, share | its["figures"], stage=its["stage"])
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
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1",
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
    if changed := [str(one) for one in saved.changes(old, config) if one.field not in saved.FREE]:
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
        "axes": {
            name: {label: list(words) for label, words in axis.items()} for name, axis in spec.axes.items()
        },
        "seeds": spec.seeds,
        "figures": list(spec.figures),
        "reference": dict(spec.reference),
        "split": split,
    }


def _tasks(
    cells: Sequence[grids.Cell], workdir: pathlib.Path, split: str, say: Callable[[str], None]
) -> dict[str, dict[str, str]]:
    """What is left to do. A cell that cannot be has failed at once."""
    tasks, done = {}, 0
    for cell in cells:
        directory = workdir / "cells" / cell.name
        if cell.trouble is not None:
            standing.write_failure(workdir, cell.name, cell.trouble)
            say(f"{cell.name} failed: {cell.trouble}")
        elif standing.stands(standing.figures_path(directory, split)):
            done += 1
        else:
            tasks[cell.name] = _task("cell", cell.config, directory, split)
    if done:
        say(f"{done} of {len(cells)} cells are done already")
    return tasks


def _task(kind: str, config: Config, directory: pathlib.Path, split: str) -> dict[str, str]:
    return {"kind": kind, "config": saved.to_json(config), "directory": str(directory), "split": split}


def _settle(
    workdir: pathlib.Path, event: workers.Event, split: str, spec: grids.Sweep, say: Callable[[str], None]
) -> None:
    """Notes that a task is done or has failed, and says so."""
    if event.failed is not None:
        standing.write_failure(workdir, event.task, event.failed, event.trace)
        say(f"{event.task} failed: {event.failed}")
        return
    records.failure_path(workdir, event.task).unlink(missing_ok=True)
    if event.task == "baselines":
        say("baselines: done")
        return
    figures = standing.figures(standing.figures_path(workdir / "cells" / event.task, split))
    shown = [(name, figures[name]) for name in spec.figures if figures.get(name) is not None]
    say(f"{event.task}: " + "  ".join(f"{tables.title(name)} {value:.4g}" for name, value in shown))


def _check_baselines(workdir: pathlib.Path, config: Config, split: str) -> None:
    path = standing.baselines_path(workdir, split)
    if not path.is_file():
        return
    old = documents.read(path, standing.Baselines, f"remove {path} to measure again")
    changed = [
        str(one)
        for one in saved.changes(saved.from_json(json.dumps(old["config"])), config)
        if one.field.startswith(("data.", "eval.")) and one.field not in saved.FREE
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
    """Writes table.json, .csv, .md, .html and the plots of what stands; returns what table.json holds."""
    found: dict[tuple[str, ...], tables.Found] = {}
    for cell in cells:
        one = found.setdefault(cell.labels, tables.Found({}, {}, {}))
        path = standing.figures_path(workdir / "cells" / cell.name, split)
        if path.is_file() and cell.trouble is None:
            one.figures[cell.seed] = tables.scalars(standing.figures(path))
            one.values[cell.seed] = tables.load_values(path.with_suffix(".npz"))["model"]
        else:
            one.failed[cell.seed] = standing.reason(records.failure_path(workdir, cell.name))
    measured = {}
    path = standing.baselines_path(workdir, split)
    if baselines and path.is_file():
        values = tables.load_values(path.with_suffix(".npz"))
        measured = {
            name: (
                tables.scalars({key: value for key, value in one.items() if key != "settings"})
                | {"settings": one["settings"]},
                values[name],
            )
            for name, one in documents.read(path, standing.Baselines, f"remove {path} to measure again")[
                "baselines"
            ].items()
        }
    lead = leads.leads(cells, spec.axes, spec.reference, workdir)
    table = {"split": split, leads.NAME: lead} | tables.summary(
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
        table["baselines_failed"] = standing.reason(records.failure_path(workdir, "baselines"))
    publishing.write(
        workdir,
        publishing.Page(
            "table",
            f"Sweep {workdir.absolute().name}",
            table,
            lambda drawn: plots.draw(drawn, _plots(table)),
            lambda titles: tables.markdown(table, {f"plots/{name}": title for name, title in titles.items()}),
            {"table.csv": tables.csv_text(table)},
        ),
    )
    return table


def _plots(table: Mapping[str, Any]) -> dict[str, plots.Plot]:
    """What is drawn of a table, by figure."""
    best, counted = table["best_baseline"], tables.how_many(table["cells"])
    first = leads.plot(table.get(leads.NAME, ()), table["axes"])
    drawn = {} if first is None else {leads.NAME: first}
    for name in table["shown"]:
        points = [
            plots.Point(
                tuple(cell["labels"].values()),
                tuple(line[name] for line in cell["seeds"].values() if line.get(name) is not None),
                one["mean"],
                one["low"],
                one["high"],
            )
            for cell in table["cells"]
            if (one := cell["figures"].get(name)) is not None and one["mean"] is not None
        ]
        if points:
            value = None if best is None else table["baselines"][best].get(name)
            baseline = None if best is None or value is None else (best.replace("_", " "), value)
            drawn[name] = plots.Plot(tables.title(name), table["axes"], points, counted, baseline)
    return drawn


def failures(table: Mapping[str, Any]) -> list[str]:
    """A line for each cell of a table that failed, and for the baselines."""
    lines = [
        f"{tables.name_of(cell['labels'], int(s))}: {reason}"
        for cell in table["cells"]
        for s, reason in cell["failed"].items()
    ]
    return lines + ([f"baselines: {table['baselines_failed']}"] if "baselines_failed" in table else [])
