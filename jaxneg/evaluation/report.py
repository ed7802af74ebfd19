"""A run beside the baselines on held-out events: report.json, report.md and plots in the run's directory."""

import dataclasses
import math
import pathlib
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxneg import config as configs, figures, files, metrics, progress
from jaxneg.baselines import counting, factorisations
from jaxneg.batch import CODE, EvalBatch
from jaxneg.config import KINDS, Config
from jaxneg.data import held_out, histories, stores
from jaxneg.errors import UserError
from jaxneg.evaluation import page, plots, probes
from jaxneg.files import locks
from jaxneg.metrics import measures
from jaxneg.training import convergence, runs, steps

SHARES = 20  # bins of the histogram of positive shares
TUNING = 16  # validation batches that baselines are tuned on, at most
SEEDS = 3  # random starts of a baseline that has one
COMPARED = ("pair_accuracy", "auc")  # figures that have a paired difference
MEASURING = ("data.inputs", "data.reach", "data.length", "eval.")  # what figures hang on
NO_PLOTS = page.NO_PLOTS  # said wherever plots are missing

BASELINES = {"usual": counting.BASELINES, "all": counting.BASELINES | factorisations.FACTORISATIONS}

OnProgress = Callable[..., None]  # (done, total, figures, stage)


class Measured(NamedTuple):
    """A baseline's report, a mean over its seeds, with the settings that validation chose for it."""

    report: measures.Report
    settings: dict[str, Any]
    sees: str = "nothing"  # of a listener, as ``baselines.Fitted``
    validation_auc: float = float("nan")  # by which the best baseline is chosen, so not on what is reported
    seeds: int = 1
    sd: Mapping[str, float] = types.MappingProxyType({})  # of each figure over the seeds; none of one


class Compared(NamedTuple):
    """Another run's report, on examples with contexts of its own."""

    report: measures.Report
    config: Config
    result: Mapping[str, Any]  # contents of its result.json
    probed: Mapping[str, Any] = types.MappingProxyType({})  # what ``probe`` found
    session_X: np.ndarray | None = None  # its examples; None where they are those of the run


def evaluate_run(
    trained: runs.Trained,
    directory: pathlib.Path,
    split: str = "test",
    on_progress: OnProgress = lambda *_, **__: None,
    *,
    compare: Sequence[pathlib.Path] = (),
    measured: Mapping[str, Measured] | None = None,
    which: str = "usual",
) -> dict[str, Any]:
    """Measures a run's best checkpoint and the baselines, writes the report, returns what report.json holds.

    The last checkpoint is measured beside the best, where it is there and another one.

    Args:
      trained: the run.
      directory: of the run; the report is written there.
      split: "test" or "validation".
      on_progress: told (done, total, stage=...) in batches.
      compare: directories of further runs on the same store, each measured as it would be alone: with the contexts
        that it was trained for. Where ``trained.config`` has another ``eval`` than the run's own, so have they.
      measured: what ``measure_baselines`` gave for the same store, config and split, to spare a repetition.
      which: baselines to measure, "usual" or "all".

    Raises UserError where a run to compare with is of another store.
    """
    with locks.held(locks.inside(directory, "report"), f"the report of {directory}"):
        files.clean_inside(directory)
        return _evaluate_run(trained, directory, split, on_progress, compare, measured, which)


def _evaluate_run(
    trained: runs.Trained,
    directory: pathlib.Path,
    split: str,
    on_progress: OnProgress,
    compare: Sequence[pathlib.Path],
    measured: Mapping[str, Measured] | None,
    which: str,
) -> dict[str, Any]:
    """What ``evaluate_run`` does, for the holder of the lock."""
    names = [path.absolute().name for path in compare]
    others = {
        name if names.count(name) == 1 else str(path): _load_other(path, trained, directory)
        for name, path in zip(names, compare, strict=True)
    }
    examples = held_out.EvalBatches(trained.store, trained.config.data, trained.config.eval, split)
    score = runs.catalogue_score(trained)
    found = measure(score, examples, trained.store, trained.config, "model", on_progress)
    probed = probe(trained, score, examples)
    last = measure_last(trained, directory, examples, on_progress)
    if measured is None:
        measured = measure_baselines(trained.store, trained.config, split, on_progress, which)
    compared = {}
    for name, other in others.items():
        score = runs.catalogue_score(other)
        own = held_out.EvalBatches(other.store, other.config.data, other.config.eval, split)
        its = measure(score, own, other.store, other.config, f"run {name}", on_progress)
        compared[name] = Compared(its, other.config, other.result, probe(other, score, own), own.session_X)
    return write_report(
        directory,
        found,
        measured,
        compared,
        config=trained.config,
        result=trained.result,
        split=split,
        probed=probed,
        coverage=input_coverage(trained.store, examples),
        last=last,
        later=held_out.later_share(trained.store),
        session_X=examples.session_X,
        notes=_notes(directory, trained),
    )


def _notes(directory: pathlib.Path, trained: runs.Trained) -> list[str]:
    """What a reader must know of how a run was measured."""
    if runs.preparation_of(directory) in (None, runs.preparation_id(trained.store)):
        return []
    note = (
        f"The store {trained.config.data.store} is another preparation of the log than the run was trained on: "
        "held-out events may have been trained on, and the best validation is of other events."
    )
    progress.say(f"jaxneg: {note[0].lower()}{note[1:]}")
    return [note]


def measure_last(
    trained: runs.Trained, directory: pathlib.Path, examples: held_out.EvalBatches, on_progress: OnProgress
) -> measures.Report | None:
    """What the last checkpoint of a run does on the same examples; None where it is the best one or gone."""
    step = trained.result["steps"]
    if step == trained.result["best_step"] or not (directory / "checkpoints" / str(step)).is_dir():
        return None
    other = runs.load(directory, trained.config, shared=trained.shared, step=step)
    score = runs.catalogue_score(other)
    return measure(score, examples, trained.store, trained.config, "last epoch", on_progress)


def probe(trained: runs.Trained, score: measures.Score, examples: held_out.EvalBatches) -> dict[str, Any]:
    """What feedback means to a model: "feedback_cosines" and "responsiveness" of ``probes``, where it has them.

    Cosines come by table with the names of their rows as "kinds": those that the model took as inputs in training.
    Responsiveness takes up to ``probes.EXAMPLES`` examples out of batches in a random order.
    """
    shown = histories.shown_kinds(trained.config.data)
    counts = trained.store.metadata.feedback["train"]
    kinds = tuple(kind for kind in KINDS if shown[CODE[kind]] and counts.get(kind, 0) > 0)
    weights = steps.evaluated(trained.state, jnp.asarray(trained.store.attribute_VA))
    found = {}
    if cosines := probes.feedback_cosines(weights.params, kinds):
        found["feedback_cosines"] = {"kinds": list(kinds)} | {
            name: matrix_FF.tolist() for name, matrix_FF in cosines.items()
        }
    flip = probes.flips(trained.store, kinds)
    rows = runs.catalogue_rows(trained) if flip and cosines else None
    if rows is not None:  # it compares rows of any two items
        config = trained.config.eval
        order = np.random.default_rng(config.pair_seed).permutation(len(examples))
        found["responsiveness"] = probes.responsiveness(
            score,
            (examples[int(k)] for k in order),
            flip=flip,
            attribute_VA=np.asarray(trained.store.attribute_VA),
            row_VD=np.asarray(rows[0], np.float32),
            exclude_seen=config.exclude_seen,
            resamples=config.bootstrap,
            seed=config.pair_seed,
        )
    return found


def input_coverage(store: stores.Store, examples: held_out.EvalBatches) -> dict[str, dict[str, float]]:
    """Shares of users and of held-out examples with 1 and with ENOUGH usable events, by set of inputs."""
    users = probes.user_coverage(store)
    of_examples = probes.example_coverage(store, examples.begin_X, examples.cut_X, examples.cold)
    return {
        name: {
            f"{of}_{n}": share
            for of, shares in (("users", users[name]), ("examples", of_examples[name]))
            for n, share in shares.items()
        }
        for name in users
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


def measure_baselines(
    store: stores.Store,
    config: Config,
    split: str = "test",
    on_progress: OnProgress = lambda *_, **__: None,
    which: str = "usual",
) -> dict[str, Measured]:
    """Baselines, the usual ones or all: fitted to training events, tuned for AUC on validation, measured on a split."""
    examples = held_out.EvalBatches(store, config.data, config.eval, split)
    validation = held_out.EvalBatches(store, config.data, config.eval, "validation")
    every = -(-len(validation) // TUNING)
    tuning = [validation[k] for k in range(0, len(validation), every)]
    log = counting.training_log(store)
    measured = {}
    for name, fit in BASELINES[which].items():
        on_progress(0, len(examples), stage=f"tuning {name}")
        measured[name] = measure_baseline(fit, log, tuning, examples, store, config, name, on_progress)
    return measured


def measure_baseline(
    fit: counting.Fit,
    log: counting.Log,
    tuning: Sequence[EvalBatch],
    examples: held_out.EvalBatches,
    store: stores.Store,
    config: Config,
    name: str,
    on_progress: OnProgress = lambda *_, **__: None,
) -> Measured:
    """One baseline: fitted to a log, tuned for AUC on batches, measured on examples; from SEEDS random starts."""

    def quality(score: measures.Score) -> float:
        return measures.separation(score, tuning)["auc"]

    fitted = fit(log, np.asarray(store.sign), quality)
    found, validation = [], []
    for seed in range(SEEDS if fitted.again else 1):
        score = fitted.again(seed) if seed and fitted.again else fitted.score
        found.append(measure(score, examples, store, config, name, on_progress))
        validation.append(quality(score))
    scalars = found[0].figures
    sd = (
        {of: float(np.std([one.figures[of] for one in found], ddof=1)) for of in scalars} if found[1:] else {}
    )
    return Measured(
        measures.average(found, config.eval),
        fitted.settings,
        fitted.sees,
        float(np.mean(validation)),
        len(found),
        sd,
    )


def best_baseline(validation_auc: Mapping[str, float | None]) -> str | None:
    """The baseline with the highest AUC on validation, the first of those that tie; None of none."""
    known = {name: auc for name, auc in validation_auc.items() if auc is not None and math.isfinite(auc)}
    return max(known, key=known.__getitem__) if known else next(iter(validation_auc), None)


def measure(
    score: measures.Score,
    examples: held_out.EvalBatches,
    store: stores.Store,
    config: Config,
    stage: str,
    on_progress: OnProgress,
) -> measures.Report:
    """What ``evaluate`` finds of a score function; progress is told in batches, as ``stage``."""

    def watched() -> Iterator[EvalBatch]:
        for done, batch in enumerate(examples, start=1):
            yield batch
            on_progress(done, len(examples), stage=stage)

    return measures.evaluate(score, watched(), items=store.items, config=config.eval, cold=examples.cold)


def write_report(
    directory: pathlib.Path,
    report: measures.Report,
    measured: Mapping[str, Measured],
    compared: Mapping[str, Compared] = types.MappingProxyType({}),
    *,
    config: Config,
    result: Mapping[str, Any],
    split: str,
    probed: Mapping[str, Any] = types.MappingProxyType({}),
    coverage: Mapping[str, Any] = types.MappingProxyType({}),
    session_X: np.ndarray | None = None,
    notes: Sequence[str] = (),
    last: measures.Report | None = None,
    later: float = float("nan"),
) -> dict[str, Any]:
    """Writes report.json, report.md and plots/ and returns what report.json holds.

    Args:
      directory: of the run.
      report: of the model.
      measured: baselines by name, on the same examples.
      compared: other runs by name; differences are over the examples that both have.
      config: of the run.
      result: contents of the run's result.json.
      split: what was measured, "test" or "validation".
      probed: what ``probe`` found.
      coverage: what ``input_coverage`` found.
      session_X: what the run's examples are known by.
      notes: sentences for the head of the report.
      last: of the model's last checkpoint, where it was measured.
      later: what ``evaluation.later_share`` found.
    """
    values = {
        "split": split,
        "notes": list(notes),
        **report.to_dict(),
        **_training(config, result),
        "share_histogram": _histogram(report.value_X["share"]),
        "input_coverage": _json(coverage),
        "probes": _json(probed),
        "later_training_share": _json(later),
        "last": _last_validation(config, result)
        | ({} if last is None else last.to_dict() | _differences(report, last, config)),
        "best_baseline": best_baseline({name: one.validation_auc for name, one in measured.items()}),
        "runs": {
            name: one.report.to_dict()
            | _training(one.config, one.result)
            | _differences(*_shared(report, session_X, one), config)
            | {"measured_otherwise": _otherwise(config, one.config), "probes": _json(one.probed)}
            for name, one in compared.items()
        },
        "baselines": {
            name: one.report.to_dict()
            | {"epochs_to_convergence": None, "settings": one.settings, "sees": one.sees, "seeds": one.seeds}
            | _json({"validation_auc": one.validation_auc, "sd": one.sd})
            | _differences(report, one.report, config)
            for name, one in measured.items()
        },
    }
    # Plots take long to draw, and are not to stand beside figures of another time.
    drawn = files.scratch(files.real(directory) / "plots")
    with files.unfinished(drawn):
        titles = _draw(drawn, report, measured, compared, config=config, result=result, probed=probed)
        with files.COMMIT:
            files.move_into(directory / "plots", drawn)
            files.write_json(directory / "report.json", values)
            files.write_text(directory / "report.md", page.page(values, titles, config))
    return values


def _histogram(share_X: np.ndarray) -> list[int]:
    """Examples by share of positives, in SHARES equal parts of [0, 1]; examples without a share are left out."""
    return np.bincount(measures.band(share_X[~np.isnan(share_X)], SHARES), minlength=SHARES).tolist()


def _json(value: Any) -> Any:
    """The same with None for numbers that JSON does not have."""
    if isinstance(value, Mapping):
        return {name: _json(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_json(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _training(config: Config, result: Mapping[str, Any]) -> dict[str, Any]:
    """How a run was trained."""
    names = ("hard_share", "stopped", "monitor")
    optional = (
        *(f"{unit}_to_convergence" for unit in convergence.UNITS),
        "not_converged", "compile_seconds", "device_seconds", "false_negatives", "hard_also_liked",
        *(f"validation_{name}" for name in ("pairs", "examples", "users")),
    )  # fmt: skip
    return (
        {name: result[name] for name in names}
        | {name: result.get(name) for name in optional}
        | {
            "epochs": result["steps"] / result["steps_per_epoch"],
            "best_epoch": result["best_step"] / result["steps_per_epoch"],
            "best_validation": result["best_score"],
            "last_validation": result["history"][-1][result["monitor"]],
            "p_hard": config.data.p_hard,
        }
    )


def _last_validation(config: Config, result: Mapping[str, Any]) -> dict[str, Any]:
    """The last epoch, whether it is the best, and its validation."""
    line = result["history"][-1]
    return {
        "epoch": result["steps"] / result["steps_per_epoch"],
        "is_best": result["steps"] == result["best_step"],
        "validation": {name: line[name] for name in (*COMPARED, result["monitor"]) if name in line},
    }


def _shared(
    report: measures.Report, session_X: np.ndarray | None, other: Compared
) -> tuple[measures.Report, measures.Report]:
    """Both reports over the examples that both have."""
    if session_X is None or other.session_X is None:
        return report, other.report
    _, at, its = np.intersect1d(session_X, other.session_X, assume_unique=True, return_indices=True)
    return measures.narrowed(report, at), measures.narrowed(other.report, its)


def _otherwise(config: Config, other: Config) -> list[str]:
    """Settings by which another run's examples or figures differ from the run's, as "data.length: 8 -> 5"."""
    return [line for line in configs.differences(config, other) if line.startswith(MEASURING)]


def _differences(report: measures.Report, other: measures.Report, config: Config) -> dict[str, float | None]:
    """The model's figures less a baseline's on the same examples, as difference_<figure>, _low and _high."""
    found = {}
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


def _draw(
    directory: pathlib.Path, report, measured, compared, *, config: Config, result, probed
) -> dict[str, str]:
    """Titles of the plots by file name; none without matplotlib."""
    others = {f"run {name}": one.report for name, one in compared.items()}
    reports = {"model": report} | others | {name: one.report for name, one in measured.items()}
    ends = ("pair_accuracy", "pair_accuracy_low", "pair_accuracy_high")
    accuracies = {name: tuple(one.figures[end] for end in ends) for name, one in reports.items()}
    best = best_baseline({name: one.validation_auc for name, one in measured.items()})
    shown = {name: reports[name] for name in ["model", *([] if best is None else [best])]}
    cosines = dict(probed.get("feedback_cosines", {}))
    kinds = cosines.pop("kinds", [])
    try:
        return plots.draw(
            directory,
            histories={
                name: (one["history"], one.get("epochs_to_convergence"))
                for name, one in {
                    "model": result,
                    **{f"run {n}": c.result for n, c in compared.items()},
                }.items()
            },
            monitor=result["monitor"],
            title=figures.title(result["monitor"]),
            counted=figures.counted(report.counts["pair_accuracy"]["users"], report.figures["pairs"]),
            examples=figures.counted(report.figures["users"], examples=report.figures["examples"]),
            validated=figures.validated(result),
            accuracies=accuracies,
            bands={name: one.bands for name, one in shown.items()},
            share=report.value_X["share"],
            ranks={
                "liked": (report.liked_rank, report.figures["mrr_positive"]),
                "disliked": (report.disliked_rank, report.figures["mrr_negative"]),
            },
            items=len(next(iter(report.shown_V.values()))),
            exposure={
                f"{name.replace('_', ' ')}, top {k}": (metrics.lorenz(count_V), one.figures[f"gini@{k}"])
                for name, one in shown.items()
                for k, count_V in sorted(one.shown_V.items())[:2]
            },
            kinds=kinds,
            cosines={name: np.array(matrix) for name, matrix in cosines.items()},
        )
    except ImportError:
        progress.say(f"jaxneg: {NO_PLOTS}")
        return {}
