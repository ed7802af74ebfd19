"""Metrics on the host, in numpy. Each states its definition, ties included, and imports nothing of ours.

Row 0 of a catalogue only pads: it is never ranked, and an id of 0 means that there is no item. Pads are told
apart by masks where scores come in, by 0 where ids do.
"""

from jaxneg.metrics.exposure import gini, item_coverage, lorenz
from jaxneg.metrics.intervals import Spread, bootstrap, bootstrap_ratio, by_unit, spread
from jaxneg.metrics.ranking import (
    NAN,
    Ranking,
    Scores,
    average_precision,
    average_precision_bounds,
    hit_rate,
    log_rank,
    mrr,
    ndcg,
    over_targets,
    rank,
    top,
)
from jaxneg.metrics.separation import Mean, Pairs, mean, pair_accuracy, pair_correct, pairs

__all__ = [
    "Mean",
    "NAN",
    "Pairs",
    "Ranking",
    "Scores",
    "Spread",
    "average_precision",
    "average_precision_bounds",
    "bootstrap",
    "bootstrap_ratio",
    "by_unit",
    "gini",
    "hit_rate",
    "item_coverage",
    "log_rank",
    "lorenz",
    "mean",
    "mrr",
    "ndcg",
    "over_targets",
    "pair_accuracy",
    "pair_correct",
    "pairs",
    "rank",
    "spread",
    "top",
]
