"""A run beside the baselines on held-out events: report.json, report.md, report.html and plots in its directory."""

import contextlib
import dataclasses
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

import numpy as np

from jaxneg import figures, files, progress
from jaxneg.config import Config, saved
from jaxneg.data import held_out
from jaxneg.errors import UserError
from jaxneg.evaluation import eval_sets, measuring, page, plots, publishing, serving, tuning
from jaxneg.files import documents, locks
from jaxneg.metrics import examples, measures
from jaxneg.training import convergence, origin, parting, processes, records, runs, target_words, targets

SHARES = 20  # bins of the histogram of positive shares
COMPARED = ("pair_accuracy", "auc")  # figures that have a paired difference
MEASURING = ("data.inputs", "data.reach", "data.length", "eval.")  # what figures hang on


class Asked(NamedTuple):
    """What a report is to show."""

    split: str = "test"  # or "validation"
    # Directories of further runs on the same store, each measured as it would be alone: with the contexts that it was
    # trained for. Where the run's config has another ``eval`` than its own, so have they.
    compare: Sequence[pathlib.Path] = ()
    baselines: str = "usual"  # or "all"


def evaluate_run(
    trained: runs.Trained,
    directory: pathlib.Path,
    asked: Asked = Asked(),  # noqa: B008, which is immutable
    on_progress: progress.OnProgress = progress.silent,
    *,
    measured: Mapping[str, tuning.Measured] | None = None,
) -> documents.Object:
    """Measures a run's best checkpoint and the baselines, writes the report, returns what report.json holds.

    The last checkpoint is measured beside the best, where it is there and another one.

    Args:
      trained: the run.
      directory: of the run; the report is written there.
      asked: what to show.
      on_progress: told (done, total, stage=...) in batches.
      measured: what ``tuning.measure_baselines`` gave for the same store, config and split, to spare a repetition.

    Of many processes each calls it alike, with the run as ``runs.load`` gives it; the first one writes.

    Raises UserError where a run to compare with is of another store.
    """
    with contextlib.ExitStack() as hold:
        with processes.together("report"):
            if processes.first():
                hold.enter_context(
                    locks.held(locks.inside(directory, "report"), f"the report of {directory}")
                )
                files.clean_inside(directory)
                files.check_free(directory, ("report.md", "report.json", "report.html"), ("plots",))
        named = _named(asked.compare)
        others = {name: _load_other(path, trained, directory) for name, path in named.items()}
        eval_set = eval_sets.EvalSet(trained.store, trained.config, asked.split, on_progress)
        run = measuring.measure_run(trained, eval_set, "model")
        run = run._replace(last=measuring.measure_last(trained, directory, eval_set))
        if measured is None:
            measured = tuning.measure_baselines(eval_set, asked.baselines)
        compared = {}
        for name, other in others.items():
            own = eval_sets.EvalSet(other.store, other.config, asked.split, on_progress)
            compared[name] = measuring.measure_run(other, own, f"run {name}")
        coverage = measuring.input_coverage(trained.store, eval_set.examples)
        later, notes = held_out.later_share(trained.store), _notes(directory, trained)
        sides = _sides(directory, named)
        reached = [targets.compare(sides[0], side) for side in sides[1:]]
        found = measuring.Findings(
            asked.split, run, measured, compared, coverage, later, notes, reached, sides
        )
        found = found._replace(forms=_forms(trained, eval_set, run.report))
        values: documents.Object = {}
        with processes.together("written", seconds=parting.LONGEST):
            values = write_report(directory, found) if processes.first() else contents(found)
        return values


def _forms(trained: runs.Trained, eval_set: eval_sets.EvalSet, report: measures.Report) -> documents.Object:
    """What report.json holds of serving forms: numbers, the curve, and figures of each form but the one that ranks."""
    served = serving.served(trained, eval_set)
    if served is None:
        return {}
    of_forms = {
        name: one.to_dict() | _differences(report, one, trained.config)
        for name, one in served.reports.items()
    }
    return {**serving.contents(served), **of_forms}


def _sides(directory: pathlib.Path, others: Mapping[str, pathlib.Path]) -> list[targets.Side]:
    """The run with its twins of other seeds, then the others; none without others."""
    if not others:
        return []
    traces = {name: targets.trace(path) for name, path in others.items()}
    own, rest = targets.sides(("the model", targets.trace(directory)), traces)
    return [own, *rest]


def _notes(directory: pathlib.Path, trained: runs.Trained) -> list[str]:
    """What a reader must know of how a run was trained and measured."""
    start = records.started_from(directory)
    begun = [] if start is None else [f"The run started from {origin.spoken(start)}."]
    if runs.preparation_of(directory) in (None, runs.preparation_id(trained.store)):
        return begun
    note = (
        f"The store {trained.config.data.store} is another preparation of the log than the run was trained on: "
        "held-out events may have been trained on, and the best validation is of other events."
    )
    if processes.first():
        progress.say(f"jaxneg: {note[0].lower()}{note[1:]}")
    return [*begun, note]


def _named(directories: Sequence[pathlib.Path]) -> dict[str, pathlib.Path]:
    """Runs to compare with, by the last part of their path or, where two end alike, the whole."""
    names = [path.absolute().name for path in directories]
    return {
        name if names.count(name) == 1 else str(path): path
        for name, path in zip(names, directories, strict=True)
    }


def _load_other(directory: pathlib.Path, trained: runs.Trained, beside: pathlib.Path) -> runs.Trained:
    """A run to compare with, on the store that is measured, with the options of ``eval`` that were asked for."""
    config = runs.read_config(directory)
    if runs.catalogue_of(directory) != runs.catalogue_id(trained.store):
        raise UserError(f"run {directory} is of another catalogue: compare runs of one store")
    prepared = {runs.preparation_of(one) for one in (directory, beside)} - {None}
    if len(prepared) > 1:
        raise UserError(f"run {directory} is of another preparation of the log: compare runs of one store")
    own = runs.read_config(beside).eval if (beside / "config.json").is_file() else trained.config.eval
    asked = {
        one.name: getattr(trained.config.eval, one.name)
        for one in dataclasses.fields(own)
        if getattr(trained.config.eval, one.name) != getattr(own, one.name)
    }
    config = dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, store=trained.config.data.store),
        eval=dataclasses.replace(config.eval, **asked),
    )
    return runs.load(directory, config)


def write_report(directory: pathlib.Path, findings: measuring.Findings) -> documents.Object:
    """Writes report.json, report.md, report.html and plots/ and returns what report.json holds."""
    values = contents(findings)

    def draw(drawn: pathlib.Path) -> publishing.Titles:
        return plots.draw(drawn, findings)

    def text(titles: publishing.Titles) -> str:
        return page.page(values, titles, findings.run.config)

    title = f"Report of {directory.absolute().name}"
    publishing.write(directory, publishing.Page("report", title, values, draw, text))
    return values


def contents(findings: measuring.Findings) -> documents.Object:
    """What report.json holds."""
    run = findings.run
    report, config = run.report, run.config
    last = {} if run.last is None else run.last.to_dict() | _differences(report, run.last, config)
    return {
        "split": findings.split,
        "time_to_target": [_json(one) | {"spoken": target_words.spoken(one)} for one in findings.reached],
        "notes": list(findings.notes),
        **report.to_dict(),
        **_training(config, run.result),
        "share_histogram": _histogram(report.value_X["share"]),
        "input_coverage": _json(findings.coverage),
        "probes": _json(run.probed),
        "later_training_share": _json(findings.later),
        "last": _last_validation(run.result) | last,
        **({"forms": dict(findings.forms)} if findings.forms else {}),
        "best_baseline": tuning.best_of(findings.baselines),
        "runs": {
            name: other.report.to_dict()
            | _training(other.config, other.result)
            | _differences(*_shared(run, other), config)
            | {"measured_otherwise": _otherwise(config, other.config), "probes": _json(other.probed)}
            for name, other in findings.runs.items()
        },
        "baselines": {
            name: one.report.to_dict()
            | {"epochs_to_convergence": None, "settings": one.settings, "sees": one.sees, "seeds": one.seeds}
            | _json({"validation_auc": one.validation_auc, "sd": one.sd})
            | _differences(report, one.report, config)
            for name, one in findings.baselines.items()
        },
    }


def _histogram(share_X: np.ndarray) -> list[int]:
    """Examples by share of positives, in SHARES equal parts of [0, 1]; examples without a share are left out."""
    return np.bincount(examples.band(share_X[~np.isnan(share_X)], SHARES), minlength=SHARES).tolist()


def _json(value: object) -> Any:
    """The same with None for numbers that JSON does not have."""
    if isinstance(value, Mapping):
        return {name: _json(one) for name, one in cast(documents.Object, value).items()}
    if isinstance(value, list):
        return [_json(one) for one in cast(list[Any], value)]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _training(config: Config, result: documents.Object) -> dict[str, Any]:
    """How a run was trained."""
    names = ("hard_share", "stopped", "monitor")
    optional = (
        *(f"{unit}_to_convergence" for unit in convergence.UNITS),
        "not_converged",
        "compile_seconds",
        "device_seconds",
        "false_negatives",
        "hard_also_liked",
        *(f"{figures.VALIDATION}{name}" for name in ("pairs", "examples", "users")),
    )
    return (
        {name: result[name] for name in names}
        | {name: result.get(name) for name in optional}
        | records.outcome(result)
        | {"p_hard": config.data.p_hard}
    )


def _last_validation(result: documents.Object) -> dict[str, Any]:
    """The last epoch, whether it is the best, and its validation."""
    line = result["history"][-1]
    return {
        "epoch": records.outcome(result)["epochs"],
        "is_best": result["steps"] == result["best_step"],
        "validation": {name: line[name] for name in (*COMPARED, result["monitor"]) if name in line},
    }


def _shared(
    run: measuring.MeasuredRun, other: measuring.MeasuredRun
) -> tuple[measures.Report, measures.Report]:
    """Both reports over the examples that both have."""
    if run.session_X is None or other.session_X is None:
        return run.report, other.report
    _, at, its = np.intersect1d(run.session_X, other.session_X, assume_unique=True, return_indices=True)
    return measures.narrowed(run.report, at), measures.narrowed(other.report, its)


def _otherwise(config: Config, other: Config) -> list[str]:
    """Settings by which another run's examples or figures differ from the run's, as "data.length: 8 -> 5"."""
    return [str(change) for change in saved.changes(config, other) if change.field.startswith(MEASURING)]


def _differences(report: measures.Report, other: measures.Report, config: Config) -> dict[str, float | None]:
    """The model's figures less a baseline's on the same examples, as difference_<figure>, _low and _high."""
    found: dict[str, float | None] = {}
    same = (report.pair_X2 == other.pair_X2).all(axis=1)
    for of in COMPARED:
        # With other seeds an example has other pairs, but one AUC.
        at = same if of == "pair_accuracy" else np.ones(len(same), bool)
        theirs = dataclasses.replace(other, pair_X2=report.pair_X2)
        ends = measures.paired_difference(
            measures.narrowed(report, at),
            measures.narrowed(theirs, at),
            of,
            resamples=config.eval.bootstrap,
            seed=config.eval.pair_seed,
        )
        for suffix, value in zip(("", "_low", "_high"), ends, strict=True):
            found[f"difference_{of}{suffix}"] = value if np.isfinite(value) else None
    return found
