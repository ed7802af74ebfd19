"""Baselines: fitted to training events, tuned on validation, measured on an evaluation set."""

import json
import math
import types
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxneg.baselines import counting, factorisations, least_squares
from jaxneg.batch import EvalBatch
from jaxneg.data import held_out
from jaxneg.evaluation import eval_sets
from jaxneg.metrics import measures, scores
from jaxneg.training import parting, processes

BATCHES = 16  # validation batches that baselines are tuned on, at most
PLAIN = ("figures", "counts", "bands")  # of a report, what is no array
SEEDS = 3  # random starts of a baseline that has one

USUAL = counting.COUNTS | {"matrix_factorisation": least_squares.matrix_factorisation}
BASELINES = {"usual": USUAL, "all": USUAL | factorisations.FACTORISATIONS}


class Measured(NamedTuple):
    """A baseline's report, a mean over its seeds, with the settings that validation chose for it."""

    report: measures.Report
    settings: dict[str, object]
    sees: str = "nothing"  # of a listener, as ``baselines.Fitted``
    validation_auc: float = float("nan")  # by which the best baseline is chosen, so not on what is reported
    seeds: int = 1
    sd: Mapping[str, float] = types.MappingProxyType({})  # of each figure over the seeds; none of one


def measure_baselines(eval_set: eval_sets.EvalSet, which: str = "usual") -> dict[str, Measured]:
    """Baselines, the usual ones or all: fitted to training events, tuned for AUC on validation, measured.

    Many processes deal them out: each does some of them whole, and all get all.
    """
    store, config = eval_set.store, eval_set.config
    validation = held_out.EvalBatches(store, config.data, config.eval, "validation")
    every = -(-len(validation) // BATCHES)
    tuning = [validation[k] for k in range(0, len(validation), every)]
    log = counting.training_log(store)
    every_fit, measured = BASELINES[which], dict[str, Measured]()
    for name in parting.own(tuple(every_fit)):
        eval_set.on_progress(0, len(eval_set.examples), stage=f"tuning {name}")
        measured[name] = measure_baseline(every_fit[name], log, tuning, eval_set, name)
    if not processes.many():
        return measured
    arrays = parting.flat({name: _arrays(one) for name, one in measured.items()})
    found = {name: one for part in parting.gathered(arrays) for name, one in parting.nested(part).items()}
    return {name: _measured(found[name]) for name in every_fit}


def _arrays(one: Measured) -> dict[str, Any]:
    """What was measured of a baseline as arrays, what is no array as JSON in one of them."""
    rest = {name: value for name, value in one._asdict().items() if name != "report"}
    plain = {name: getattr(one.report, name) for name in PLAIN}
    text = json.dumps({"report": plain, "rest": rest | {"sd": dict(one.sd)}})
    return {"text": text} | {name: value for name, value in vars(one.report).items() if name not in PLAIN}


def _measured(found: dict[str, Any]) -> Measured:
    """The inverse."""
    told = json.loads(str(found.pop("text")))
    bands, shown_V = tuple(told["report"].pop("bands")), found.pop("shown_V")
    by_k = {int(k): count_V for k, count_V in shown_V.items()}
    return Measured(measures.Report(bands=bands, shown_V=by_k, **told["report"], **found), **told["rest"])


def measure_baseline(
    fit: counting.Fit, log: counting.Log, tuning: Sequence[EvalBatch], eval_set: eval_sets.EvalSet, name: str
) -> Measured:
    """One baseline: fitted to a log, tuned for AUC on batches, measured; from SEEDS random starts if it has one."""

    def quality(score: scores.Score) -> float:
        return measures.separation(score, tuning)["auc"]

    fitted = fit(log, np.asarray(eval_set.store.sign), quality)
    found: list[measures.Report] = []
    validation: list[float] = []
    for seed in range(SEEDS if fitted.again else 1):
        score = fitted.again(seed) if seed and fitted.again else fitted.score
        found.append(eval_set.measure(score, name))
        validation.append(quality(score))
    sd: dict[str, float] = {}
    if len(found) > 1:
        sd = {of: float(np.std([one.figures[of] for one in found], ddof=1)) for of in found[0].figures}
    return Measured(
        measures.average(found, eval_set.config.eval),
        fitted.settings,
        fitted.sees,
        float(np.mean(validation)),
        len(found),
        sd,
    )


def best_of(measured: Mapping[str, Measured]) -> str | None:
    """The baseline with the highest AUC on validation, the first of those that tie; None of none."""
    known = {name: one for name, one in measured.items() if math.isfinite(one.validation_auc)}
    return max(known, key=lambda name: known[name].validation_auc) if known else next(iter(measured), None)
