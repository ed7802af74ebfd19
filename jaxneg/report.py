"""A run beside the baselines on held-out events: report.json, report.md and plots in the run's directory."""

import pathlib
import sys
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxneg import evaluate, metrics, plots, run
from jaxneg.batch import EvalBatch
from jaxneg.config import Config, UserError
from jaxneg.data import pipeline, store as stores
from jaxneg.models import baselines

TUNING = 16  # validation batches that baselines are tuned on, at most
COMPARED = ("pair_accuracy", "auc")  # figures that have a paired difference
NO_PLOTS = "no plots: matplotlib is not installed (pip install 'jaxneg[plots]')"

OnProgress = Callable[..., None]  # (done, total, figures, stage)


class Measured(NamedTuple):
    """A baseline's report, with the settings that validation chose for it."""

    report: evaluate.Report
    settings: dict[str, Any]


class Compared(NamedTuple):
    """Another run's report on the same examples."""

    report: evaluate.Report
    config: Config
    result: Mapping[str, Any]  # contents of its result.json


def evaluate_run(
    trained: run.Trained,
    directory: pathlib.Path,
    split: str = "test",
    on_progress: OnProgress = lambda *_, **__: None,
    *,
    compare: Sequence[pathlib.Path] = (),
    measured: Mapping[str, Measured] | None = None,
) -> dict[str, Any]:
    """Measures a run's best checkpoint and the baselines, writes the report, returns what report.json holds.

    Args:
      trained: the run.
      directory: of the run; the report is written there.
      split: "test" or "validation".
      on_progress: told (done, total, stage=...) in batches.
      compare: directories of further runs on the same catalogue, measured on this run's examples.
      measured: what ``measure_baselines`` gave for the same store, config and split, to spare a repetition.

    Raises UserError where a run to compare with is of another catalogue or length.
    """
    names = [path.absolute().name for path in compare]
    runs = {
        name if names.count(name) == 1 else str(path): _load_other(path, trained)
        for name, path in zip(names, compare, strict=True)
    }
    examples = pipeline.EvalBatches(trained.store, trained.config.data, trained.config.eval, split)
    found = _measure(
        run.catalogue_score(trained), examples, trained.store, trained.config, "model", on_progress
    )
    if measured is None:
        measured = measure_baselines(trained.store, trained.config, split, on_progress)
    compared = {}
    for name, other in runs.items():
        score = run.catalogue_score(other)
        its = _measure(score, examples, trained.store, trained.config, f"run {name}", on_progress)
        compared[name] = Compared(its, other.config, other.result)
    return write_report(
        directory, found, measured, compared, config=trained.config, result=trained.result, split=split
    )


def _load_other(directory: pathlib.Path, trained: run.Trained) -> run.Trained:
    other = run.load(directory)
    if run.catalogue_id(other.store) != run.catalogue_id(trained.store):
        raise UserError(f"run {directory} is of another catalogue: compare runs of one store")
    if other.config.data.length != trained.config.data.length:
        lengths = f"{other.config.data.length} events and this one {trained.config.data.length}"
        raise UserError(f"run {directory} sees {lengths}: compare runs of one --data.length")
    return other


def measure_baselines(
    store: stores.Store, config: Config, split: str = "test", on_progress: OnProgress = lambda *_, **__: None
) -> dict[str, Measured]:
    """Every baseline: fitted to the training events, tuned for AUC on validation and measured on a split."""
    examples = pipeline.EvalBatches(store, config.data, config.eval, split)
    held_out = pipeline.EvalBatches(store, config.data, config.eval, "validation")
    every = -(-len(held_out) // TUNING)
    tuning = [held_out[k] for k in range(0, len(held_out), every)]
    log = training_log(store)
    measured = {}
    for name, fit in baselines.BASELINES.items():
        on_progress(0, len(examples), stage=f"tuning {name}")
        fitted = fit(log, np.asarray(store.sign), lambda score: evaluate.separation(score, tuning)["auc"])
        found = _measure(fitted.score, examples, store, config, name, on_progress)
        measured[name] = Measured(found, fitted.settings)
    return measured


def training_log(store: stores.Store) -> baselines.Log:
    """Training events of a store as the baselines take them."""
    session_T = np.repeat(np.arange(len(store.session_user)), np.diff(store.session_indptr))
    event = np.flatnonzero(np.arange(len(session_T)) < np.asarray(store.session_train_end)[session_T])
    session_T = session_T[event]
    return baselines.Log(
        user_T=np.asarray(store.session_user)[session_T],
        item_T=np.asarray(store.item_T)[event],
        sign_T=np.asarray(store.sign)[np.asarray(store.feedback_T)[event]],
        session_T=session_T,
        items=store.items,
        users=len(store.user_indptr) - 1,
    )


def _measure(
    score: evaluate.Score,
    examples: pipeline.EvalBatches,
    store: stores.Store,
    config: Config,
    stage: str,
    on_progress: OnProgress,
) -> evaluate.Report:
    def watched() -> Iterator[EvalBatch]:
        for done, batch in enumerate(examples, start=1):
            yield batch
            on_progress(done, len(examples), stage=stage)

    return evaluate.evaluate(score, watched(), items=store.items, config=config.eval, cold=examples.cold)


def write_report(
    directory: pathlib.Path,
    report: evaluate.Report,
    measured: Mapping[str, Measured],
    compared: Mapping[str, Compared] = types.MappingProxyType({}),
    *,
    config: Config,
    result: Mapping[str, Any],
    split: str,
) -> dict[str, Any]:
    """Writes report.json, report.md and plots/ and returns what report.json holds.

    Args:
      directory: of the run.
      report: of the model.
      measured: baselines by name, on the same examples.
      compared: other runs by name, on the same examples.
      config: of the run.
      result: contents of the run's result.json.
      split: what was measured, "test" or "validation".
    """
    values = {
        "split": split,
        **report.to_dict(),
        **_training(config, result),
        "runs": {
            name: one.report.to_dict()
            | _training(one.config, one.result)
            | _differences(report, one.report, config)
            for name, one in compared.items()
        },
        "baselines": {
            name: one.report.to_dict()
            | {"epochs_to_convergence": None, "settings": one.settings}
            | _differences(report, one.report, config)
            for name, one in measured.items()
        },
    }
    run.write_json(directory / "report.json", values)
    titles = _draw(directory / "plots", report, measured, compared, config=config, result=result)
    partial = directory / "report.md.tmp"
    partial.write_text(_markdown(values, titles, config))
    partial.replace(directory / "report.md")
    return values


def _training(config: Config, result: Mapping[str, Any]) -> dict[str, Any]:
    """How a run was trained."""
    names = ("epochs_to_convergence", "seconds_to_convergence", "hard_share", "stopped")
    return {name: result[name] for name in names} | {
        "epochs": result["steps"] / result["steps_per_epoch"],
        "best_epoch": result["best_step"] / result["steps_per_epoch"],
        "best_validation": result["best_score"],
        "p_hard": config.data.p_hard,
    }


def _differences(report: evaluate.Report, other: evaluate.Report, config: Config) -> dict[str, float | None]:
    """The model's figures less a baseline's on the same examples, as difference_<figure>, _low and _high."""
    found = {}
    for of in COMPARED:
        ends = evaluate.paired_difference(
            report, other, of, resamples=config.eval.bootstrap, seed=config.eval.pair_seed
        )
        for suffix, value in zip(("", "_low", "_high"), ends, strict=True):
            found[f"difference_{of}{suffix}"] = value if np.isfinite(value) else None
    return found


def _best(values: Mapping[str, Any]) -> str | None:
    """Name of the baseline with the highest pair accuracy."""
    known = {
        name: one["pair_accuracy"]
        for name, one in values["baselines"].items()
        if one["pair_accuracy"] is not None
    }
    return max(known, key=known.__getitem__) if known else None


def _draw(directory: pathlib.Path, report, measured, compared, *, config: Config, result) -> dict[str, str]:
    """Titles of the plots by file name; none without matplotlib."""
    runs = {f"run {name}": one.report for name, one in compared.items()}
    reports = {"model": report} | runs | {name: one.report for name, one in measured.items()}
    ends = ("pair_accuracy", "pair_accuracy_low", "pair_accuracy_high")
    accuracies = {name: tuple(one.figures[end] for end in ends) for name, one in reports.items()}
    others = sorted(measured, key=lambda name: -np.nan_to_num(accuracies[name][0]))
    shown = {name: reports[name] for name in ["model", *others[:1]]}
    try:
        return plots.draw(
            directory,
            histories={
                name: (one["history"], one["epochs_to_convergence"])
                for name, one in {
                    "model": result,
                    **{f"run {n}": c.result for n, c in compared.items()},
                }.items()
            },
            monitor=config.train.monitor,
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
        )
    except ImportError:
        print(f"jaxneg: {NO_PLOTS}", file=sys.stderr)
        return {}


def _markdown(values: Mapping[str, Any], titles: Mapping[str, str], config: Config) -> str:
    ranked = sorted(values["baselines"].items(), key=lambda pair: -(pair[1]["pair_accuracy"] or 0))
    runs = {f"run {name}": one for name, one in values["runs"].items()}
    rows = {"**model**": values} | runs | {name.replace("_", " "): one for name, one in ranked}
    k = min(config.eval.ks)
    left_out = ", those of the context left out" if config.eval.exclude_seen else ""
    parts = [
        f"# Report on the {values['split']} split",
        f"{values['pairs']:,} pairs from {values['examples']:,} examples. {_verdict(values)}",
        "## Liked above disliked",
        "Pair accuracy takes one liked and one disliked item of the same station per example, AUC all pairs. "
        "Brackets hold 95% bootstrap intervals over examples. Differences are paired, the model less the "
        "baseline. Chance is 0.5.",
        _separation_table(rows),
        _image(titles, "accuracy.png"),
        "## Ranking and exposure",
        f"Held-out items among the whole catalogue{left_out}. Δ is the figure of liked less that of disliked "
        f"items. Gini and coverage are over the top {k} of all examples: a lower Gini is more diverse.",
        _ranking_table(rows, k),
        _image(titles, "ranks.png"),
        _image(titles, "exposure.png"),
        f"Share of examples with an event of context: {_number(values['user_coverage'])}; with "
        f"{evaluate.ENOUGH} or more: {_number(values[f'user_coverage_{evaluate.ENOUGH}'])}.",
        "## By share of positive feedback",
        _band_table(values["bands"], k),
        _image(titles, "share.png"),
        "## Training",
        _training_table({"model": values} | runs, config.train.monitor),
        _image(titles, "validation.png"),
        "" if titles else f"There are {NO_PLOTS}.",
        "## Settings of the baselines",
        "Fitted to the training events, chosen for AUC on validation examples.",
        _settings_table(values["baselines"]),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _separation_table(rows: Mapping[str, Mapping[str, Any]]) -> str:
    head = ["", "pair accuracy", "model less it", "AUC", "model less it", "against random items"]
    return _table(
        head,
        [
            [
                name,
                _interval(one, "pair_accuracy"),
                _interval(one, "difference_pair_accuracy", "+"),
                _number(one["auc"]),
                _interval(one, "difference_auc", "+"),
                _number(one["random_accuracy"]),
            ]
            for name, one in rows.items()
        ],
    )


def _ranking_table(rows: Mapping[str, Mapping[str, Any]], k: int) -> str:
    columns = {
        f"HR@{k}": f"hit_rate@{k}",
        f"ΔHR@{k}": f"delta_hit_rate@{k}",
        f"NDCG@{k}": f"ndcg@{k}",
        f"ΔNDCG@{k}": f"delta_ndcg@{k}",
        "MRR liked": "mrr_positive",
        "MRR disliked": "mrr_negative",
        f"Gini@{k}": f"gini@{k}",
        f"coverage@{k}": f"item_coverage@{k}",
    }
    return _table(
        ["", *columns],
        [[name, *(_number(one[figure]) for figure in columns.values())] for name, one in rows.items()],
    )


def _band_table(bands: list[Mapping[str, Any]], k: int) -> str:
    figures = ("auc", "mrr_positive", "mrr_negative", f"gini@{k}")
    return _table(
        ["share", "examples", "pairs", "pair accuracy", "AUC", "MRR liked", "MRR disliked", f"Gini@{k}"],
        [
            [
                f"{band['low']:.2f} to {band['high']:.2f}",
                f"{band['examples']:,}",
                f"{band['pairs']:,}",
                _interval(band, "pair_accuracy"),
                *(_number(band[figure]) for figure in figures),
            ]
            for band in bands
        ],
    )


def _training_table(runs: Mapping[str, Mapping[str, Any]], monitor: str) -> str:
    lines: dict[str, Callable[[Mapping[str, Any]], str]] = {
        "p_hard": lambda one: f"{one['p_hard']:.4g}",
        "share of negatives that were hard": lambda one: _number(one["hard_share"]),
        "epochs to convergence": lambda one: f"{one['epochs_to_convergence']:.4g}",
        "seconds to convergence": lambda one: f"{one['seconds_to_convergence']:.1f}",
        "epochs trained": lambda one: f"{one['epochs']:.4g} ({one['stopped']})",
        f"best validation {monitor.replace('_', ' ')}": lambda one: (
            f"{_number(one['best_validation'])}, epoch {one['best_epoch']:.4g}"
        ),
    }
    rows = [[name, *(text(one) for one in runs.values())] for name, text in lines.items()]
    return _table(["", *runs], rows, align="---")


def _settings_table(measured: Mapping[str, Mapping[str, Any]]) -> str:
    rows = []
    for name, one in measured.items():
        settings = ", ".join(f"{key} {value}" for key, value in one["settings"].items())
        rows.append([name.replace("_", " "), settings or "none"])
    return _table(["baseline", "settings"], rows, align="---")


def _verdict(values: Mapping[str, Any]) -> str:
    """Whether the model is above the best baseline and above each run it is compared with."""
    if values["pair_accuracy"] is None:
        return "No example has both a liked and a disliked item, so there is no pair accuracy."
    said = [f"The model puts the liked item first in {_interval(values, 'pair_accuracy')} of pairs."]
    best = _best(values)
    if best is not None:
        baseline = values["baselines"][best]
        said.append(
            f"The best baseline, {best.replace('_', ' ')}, does in {_number(baseline['pair_accuracy'])}: "
            f"the model is {_against(baseline)}."
        )
    for name, one in values["runs"].items():
        said.append(
            f"Run {name} does in {_number(one['pair_accuracy'])}: the model is {_against(one)}; "
            f"it converged after {values['epochs_to_convergence']:.4g} epochs, {name} after "
            f"{one['epochs_to_convergence']:.4g}."
        )
    return " ".join(said)


def _against(other: Mapping[str, Any]) -> str:
    low, high = other["difference_pair_accuracy_low"], other["difference_pair_accuracy_high"]
    is_ = "above" if low > 0 else "below" if high < 0 else "not told apart from"
    return f"**{is_}** it, by {_interval(other, 'difference_pair_accuracy', '+')}"


def _number(value: float | None, sign: str = "") -> str:
    return "" if value is None else f"{value:{sign}.4f}"


def _interval(values: Mapping[str, Any], name: str, sign: str = "") -> str:
    """A figure with its interval, "0.8123 [0.8001, 0.8240]"; empty where there is none."""
    if values.get(name) is None:
        return ""
    low, high = (_number(values[f"{name}_{end}"], sign) for end in ("low", "high"))
    return f"{_number(values[name], sign)} [{low}, {high}]"


def _table(head: list[str], rows: list[list[str]], align: str = "---:") -> str:
    lines = [head, ["---", *[align] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _image(titles: Mapping[str, str], name: str) -> str:
    return f"![{titles[name]}](plots/{name})" if name in titles else ""
