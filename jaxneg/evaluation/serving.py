"""The serving forms of a trained model on an evaluation set: their curve, and figures by numbers of validation."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from jaxneg.batch import forms
from jaxneg.evaluation import eval_sets, measuring
from jaxneg.files import documents
from jaxneg.metrics import measures
from jaxneg.training import curves, runs


class Served(NamedTuple):
    """What was found of the serving forms of a model with a like head."""

    numbers: Mapping[str, curves.Point]  # by form, as validation chose them
    curve: Sequence[curves.Point]  # on the evaluation set
    examples: int  # that the curve is of
    reports: Mapping[str, measures.Report]  # of each form but the one that ranks, over all of the set


def served(trained: runs.Trained, eval_set: eval_sets.EvalSet) -> Served | None:
    """The serving forms of a trained model on an evaluation set; None without a like head."""
    if not curves.has_likes(trained):
        return None
    score = runs.catalogue_score(trained)
    eval_set.on_progress(0, len(eval_set.examples), stage="tuning forms")
    found = curves.tuned(trained, score)
    assert found is not None
    batches = curves.sample(eval_set.examples)
    return Served(
        found.points,
        curves.curve(score, batches, eval_set.config.eval, found.thresholds),
        sum(int(batch.real_B.sum()) for batch in batches),
        {
            name: measuring.measured(trained, score.in_form(point.form), eval_set, f"form {name}")
            for name, point in found.points.items()
            if name != forms.RANK
        },
    )


def contents(served: Served) -> documents.Object:
    """What report.json holds of forms, but for the figures of each."""
    names = {name for name, numbers in forms.NUMBERS.items() if numbers}
    return {
        "numbers": {name: _plain(point) for name, point in served.numbers.items() if name in names},
        "curve": [_plain(point) for point in served.curve],
        "examples": served.examples,
        "cut": curves.CUT,
    }


def _plain(point: curves.Point) -> documents.Object:
    """A point as JSON can hold it."""
    form, *rest = point
    found = {"form": form.name, **form._asdict(), **dict(zip(curves.Point._fields[1:], rest, strict=True))}
    del found["name"]
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in found.items()
    }
