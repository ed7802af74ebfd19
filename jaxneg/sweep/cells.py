"""What a worker of a sweep does: a cell trained and measured, or the baselines measured."""

import dataclasses
import itertools
import math
import pathlib
import shutil
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from jaxneg import files, progress
from jaxneg.config import Config, saved
from jaxneg.data import stores
from jaxneg.evaluation import eval_sets, measuring, tuning
from jaxneg.files import documents
from jaxneg.sweep import standing, tables
from jaxneg.training import loop, records, runs

# of a result, which become others of these
RAW = ("best_score", "best_step", "last_score", "steps_per_epoch")


def work(kind: str, config: str, directory: str, split: str, on_progress: progress.OnProgress) -> None:
    """What a worker does for one task; see ``measure_cell`` and ``measure_baselines``."""
    act = measure_cell if kind == "cell" else measure_baselines
    act(saved.from_json(config), pathlib.Path(directory), split, on_progress)


def measure_cell(
    config: Config, directory: pathlib.Path, split: str, on_progress: progress.OnProgress
) -> None:
    """Trains a cell, or continues it, and writes its figures, and its values per example, for a split."""
    if not (directory / "config.json").is_file():
        shutil.rmtree(directory, ignore_errors=True)  # killed before it had claimed its directory
    name = directory.name

    def training(
        done: int, total: int, figures: progress.Figures = progress.NONE, /, *, stage: str = ""
    ) -> None:
        on_progress(done, total, figures, stage=name)

    if runs.ended(directory) is None:
        loop.train(config, directory, training)
    trained = runs.load(directory, config)

    def watched(
        done: int, total: int, figures: progress.Figures = progress.NONE, /, *, stage: str = ""
    ) -> None:
        on_progress(done, total, figures, stage=f"{stage} measured")

    eval_set = eval_sets.EvalSet(trained.store, config, split, watched)
    run = measuring.measure_run(trained, eval_set, name)
    last = measuring.measure_last(trained, directory, eval_set) or run.report
    found = run.report
    path = standing.figures_path(directory, split)
    values = tables.kept(found) | {f"last_{of}": value_X for of, value_X in tables.kept(last).items()}
    tables.save_values(
        path.with_suffix(".npz"), {"model": tables.Values(found.pair_X2, found.user_X, values)}
    )
    written = {
        "split": split,
        **found.to_dict(),
        **{f"last_{name}": value for name, value in tables.scalars(last.to_dict()).items()},
        **_training(trained.result),
        **_probed(run.probed),
    }
    files.write_json(path, documents.sealed(written))
    for step in files.numbered(directory / "checkpoints"):
        if step != trained.result["best_step"]:
            shutil.rmtree(directory / "checkpoints" / str(step))


def _training(result: documents.Object) -> dict[str, Any]:
    derived = records.outcome(result) | {"seconds_per_epoch": _seconds_per_epoch(result["history"])}
    other = {name: value for name, value in tables.scalars(result).items() if name not in RAW}
    return other | derived


def _seconds_per_epoch(history: Sequence[Mapping[str, float | int]]) -> float | None:
    """Median over validations after the first, so that neither compiling nor a restart counts; None without two."""
    pairs = itertools.pairwise(history)
    rates = [(b["seconds"] - a["seconds"]) / (b["epoch"] - a["epoch"]) for a, b in pairs]
    return statistics.median(rates) if rates else None


def _probed(found: Mapping[str, Any]) -> dict[str, float | None]:
    """Figures out of what ``measuring.probe`` found: cosines of feedback kinds, and how much lists change."""
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
    config: Config, workdir: pathlib.Path, split: str, on_progress: progress.OnProgress
) -> None:
    """Measures the baselines of ``tuning`` and writes their figures, and their values per example."""
    path = standing.baselines_path(workdir, split)
    store = stores.Store.open(config.data.store)

    def watched(
        done: int, total: int, figures: progress.Figures = progress.NONE, /, *, stage: str = ""
    ) -> None:
        on_progress(done, total, figures, stage=f"baseline {stage}")

    measured = tuning.measure_baselines(eval_sets.EvalSet(store, config, split, watched))
    values = {
        name: tables.Values(one.report.pair_X2, one.report.user_X, tables.kept(one.report))
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
