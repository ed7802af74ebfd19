"""Batches of held-out examples and a score function -> Report, as a whole and by bands of positive share.

A baseline, a checkpoint and an exported model are measured by the same lines. An example is one context with
the liked and disliked items that follow it. Averages go over an example's targets first, then over examples.
"""

import dataclasses
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxneg import metrics
from jaxneg.batch import EvalBatch
from jaxneg.config import EvalConfig
from jaxneg.metrics import examples, scores

ENOUGH = 5  # events of context that count as a usable history
CUT = examples.CUT
ENDS = ("pair_accuracy", "auc")  # figures that have an interval, as do the two of pairs by user


@dataclass(frozen=True)
class Report:
    """What was measured. Arrays keep one value per example X, so that models can be compared pair by pair."""

    figures: dict[str, float]  # by name, as to_dict gives them
    counts: dict[str, dict[str, int]]  # by name, what a figure is a mean over: users, examples, pairs
    bands: tuple[dict[str, float], ...]  # the same by share of positives, with the band's ends low and high
    pair_X2: np.ndarray  # int32, the pairs compared
    user_X: np.ndarray  # int32, whose example each is
    value_X: dict[str, np.ndarray]  # float64 by name; NaN where an example has no such value
    shown_V: dict[int, np.ndarray]  # int64 by k, how often each item is in a top k, padding row excluded
    liked_rank: np.ndarray  # float64, ranks of all liked targets
    disliked_rank: np.ndarray  # float64, ranks of all disliked targets

    def to_dict(self) -> dict[str, Any]:
        """Figures, bands and counts as JSON can hold them: None where there was nothing to measure."""
        return _json(self.figures) | {"bands": [_json(band) for band in self.bands], "counts": self.counts}


def _json(figures: dict[str, float]) -> dict[str, float | None]:
    return {name: value if math.isfinite(value) else None for name, value in figures.items()}


def evaluate(
    score: scores.Score, batches: Iterable[EvalBatch], *, items: int, config: EvalConfig, cold: int = 0
) -> Report:
    """Measures a score function on held-out examples. Definitions are those of ``metrics``, and:

    - pair_accuracy: over each example's pair; pairs counts them, and users those who have an example. Here as
      everywhere an interval comes of a bootstrap that resamples users with all their examples.
    - user_pair_accuracy: the mean of a user's pairs first, then over users. drawn_pair_accuracy: one pair of each
      user, drawn at random, as Mei et al. have it.
    - auc: all liked against all disliked items of an example; auc_pairs counts them. An item that was both liked and
      disliked makes no pair with itself; same_pairs counts those that are left out.
    - random_accuracy: the pair's liked item, or the first liked one, against a uniform random item that is
      neither in the example's context nor among its liked items. Every score function meets the same draws.
    - hit_rate@k, ndcg@k: liked targets in the whole catalogue; delta_ forms subtract those of disliked
      targets.
    - mrr_positive, mrr_negative: of liked and of disliked targets in the whole catalogue.
    - map@10: 1 / rank where rank <= 10 else 0, each liked target being a query of its own.
    - unseen_liked_mrr@10, unseen_disliked_mrr@10: the same of targets that are not in the example's context;
      unseen_liked_log_rank, unseen_disliked_log_rank: the natural logarithm of their ranks. Of disliked
      targets, a low MRR and a high log rank are good.
    - next_hit_rate@k: of the first liked target of each example alone, in the whole catalogue.
    - released_hit_rate@k: of the same targets among fewer candidates, the different first liked targets of
      ``config.released_batch`` examples in order and ``config.released`` random items; released_candidates is their
      mean number. It is how Seshadri and Knees measured, in the batches of their code. It keeps seen items.
    - gini@k, item_coverage@k: over the top k of all examples.
    - user_coverage: share of examples with an event of context; user_coverage_5: with at least five.

    No figure depends on the size of the batches.

    Args:
      score: from a batch to scores_BV, or to Scored.
      batches: of held-out examples.
      items: rows of the catalogue without the padding row, V - 1.
      config: cut-offs, bands, seeds, whether seen items are ranked, and how many random items stand for the
        catalogue in released_hit_rate@k; 0 leaves it out.
      cold: examples that have no context and so are not among the batches; they count in the coverage of
        users.

    Reference: Seshadri and Knees, Leveraging Negative Signals with Self-Attention for Sequential Music
    Recommendation, 2023, arXiv:2309.11623. Mei, Bembom and Ehmann, Negative Feedback for Music Personalization, 2024,
    arXiv:2406.04488.
    """
    return report(examples.measured(score, batches, items=items, config=config), config, cold)


def report(found: examples.Examples, config: EvalConfig, cold: int = 0) -> Report:
    """Figures of what was measured of all examples; raises ValueError where there is none."""
    value_X, user_X = found.value_X, found.user_X
    if not len(user_X):
        raise ValueError("no batch to evaluate")
    bands, band_X = np.linspace(0.0, 1.0, config.bands + 1), examples.band(value_X["share"], config.bands)
    figures = _figures(
        value_X, user_X, {k: count_WV.sum(0)[1:] for k, count_WV in found.shown_WV.items()}, config, cold
    )
    return Report(
        figures=figures | by_user(value_X["pair_accuracy"], user_X, config),
        counts=_counts(value_X, user_X),
        bands=tuple(
            {"low": float(bands[w]), "high": float(bands[w + 1])}
            | _figures(
                {name: column[band_X == w] for name, column in value_X.items()},
                user_X[band_X == w],
                {k: count_WV[w, 1:] for k, count_WV in found.shown_WV.items()},
                config,
            )
            for w in range(config.bands)
        ),
        pair_X2=found.pair_X2,
        user_X=user_X,
        value_X=value_X,
        shown_V={k: count_WV.sum(0)[1:] for k, count_WV in found.shown_WV.items()},
        liked_rank=found.liked_rank,
        disliked_rank=found.disliked_rank,
    )


def narrowed(report: Report, at: np.ndarray) -> Report:
    """The report with the values of some of its examples alone, to be compared with those of another; figures stay."""
    fields = {one.name: getattr(report, one.name) for one in dataclasses.fields(Report)}
    return dataclasses.replace(
        report,
        **{
            name: value[at]
            for name, value in fields.items()
            if name.endswith(("_X", "_X2")) and name != "value_X"
        },
        value_X={name: column[at] for name, column in report.value_X.items()},
    )


def separation(score: scores.Score, batches: Iterable[EvalBatch]) -> dict[str, float]:
    """Pair accuracy and AUC alone, without ranking the catalogue: what baselines are tuned by."""
    correct, auc = metrics.Mean(), metrics.Mean()
    for batch, scored in scores.each(score, batches):
        pair_B2, liked_BC, disliked_BC = map(scored.of, (batch.pair_B2, batch.liked_BC, batch.disliked_BC))
        correct += metrics.pair_accuracy(pair_B2, batch.real_B & examples.paired(batch))
        liked = batch.liked_BC * batch.real_B[:, None]
        auc += metrics.mean(metrics.pairs(liked_BC, liked, disliked_BC, batch.disliked_BC).auc_B)
    return {"pair_accuracy": correct.value, "auc": auc.value}


def paired_difference(
    a: Report, b: Report, of: str = "pair_accuracy", *, resamples: int = 1000, seed: int = 0
) -> tuple[float, float, float]:
    """Mean of a's value less b's over the examples where both have one, and its 95% interval over users.

    The ends are NaN where only one user is left.

    ``of`` names a per-example value: pair_accuracy, auc, random_accuracy, mrr_positive, hit_rate@10, ...
    Raises ValueError if the reports are of different examples.
    """
    if not np.array_equal(a.pair_X2, b.pair_X2):
        raise ValueError("the reports are of different examples: evaluate both on the same batches")
    difference_X = a.value_X[of] - b.value_X[of]
    ends = metrics.bootstrap(difference_X, a.user_X, resamples=resamples, seed=seed)
    return metrics.mean(difference_X).value, *ends


def average(reports: Sequence[Report], config: EvalConfig) -> Report:
    """The report of several runs on the same examples: values and figures are means over runs.

    Intervals are over users, of each example's value averaged over runs. Ranks are those of the first run.
    """
    first = reports[0]
    if len(reports) == 1:
        return first
    value_X = {name: np.mean([one.value_X[name] for one in reports], axis=0) for name in first.value_X}
    band_X = examples.band(value_X["share"], config.bands)

    def mean(each: Sequence[dict[str, float]], at: np.ndarray) -> dict[str, float]:
        figures = {name: float(np.mean([one[name] for one in each])) for name in each[0]}
        counted = {name: value for name, value in each[0].items() if isinstance(value, int)}
        return figures | counted | _ends(value_X, first.user_X, at, config)

    everywhere = np.ones(len(band_X), bool)
    return Report(
        figures=mean([one.figures for one in reports], everywhere)
        | by_user(value_X["pair_accuracy"], first.user_X, config),
        counts=first.counts,
        bands=tuple(mean([one.bands[w] for one in reports], band_X == w) for w in range(config.bands)),
        pair_X2=first.pair_X2,
        user_X=first.user_X,
        value_X=value_X,
        shown_V={k: np.sum([one.shown_V[k] for one in reports], axis=0) for k in first.shown_V},
        liked_rank=first.liked_rank,
        disliked_rank=first.disliked_rank,
    )


def _ends(
    value_X: dict[str, np.ndarray], user_X: np.ndarray, at: np.ndarray, config: EvalConfig
) -> dict[str, float]:
    """Ends of the intervals over users of the examples where ``at`` is True."""
    ends = {}
    for name in ENDS:
        interval = metrics.bootstrap(
            value_X[name][at], user_X[at], resamples=config.bootstrap, seed=config.pair_seed
        )
        ends |= {f"{name}_{end}": value for end, value in zip(("low", "high"), interval, strict=True)}
    return ends


def by_user(value_X: np.ndarray, user_X: np.ndarray, config: EvalConfig) -> dict[str, float]:
    """Pair accuracy by user: the mean of each one's pairs, and one drawn pair of each, with intervals over users."""
    known = np.flatnonzero(~np.isnan(value_X))
    # In a random order the first pair of each user is a draw, whatever the size of a batch.
    order = known[np.random.default_rng((config.pair_seed, 2)).permutation(len(known))]
    user, first = np.unique(user_X[order], return_index=True)
    sums, count = metrics.by_unit(value_X, user_X)
    figures = {}
    for name, value in (("user", sums / count), ("drawn", value_X[order[first]])):
        low, high = metrics.bootstrap(value, user, resamples=config.bootstrap, seed=config.pair_seed)
        name = f"{name}_pair_accuracy"
        figures |= {name: metrics.mean(value).value, f"{name}_low": low, f"{name}_high": high}
    return figures


def _figures(
    value_X: dict[str, np.ndarray],
    user_X: np.ndarray,
    shown_V: dict[int, np.ndarray],
    config: EvalConfig,
    cold: int = 0,
) -> dict[str, float]:
    """Averages over examples, and exposure over items."""
    mean = {name: metrics.mean(column) for name, column in value_X.items()}
    ends = _ends(value_X, user_X, np.ones(len(user_X), bool), config)
    count = len(value_X["context"])
    covered = {
        n: metrics.Mean(float((value_X["context"] >= n).sum()), count + cold).value for n in (1, ENOUGH)
    }
    return {
        **{name: mean[name].value for name in ENDS},
        **ends,
        "users": len(np.unique(user_X)),
        "examples": count,
        "pairs": mean["pair_accuracy"].count,
        **{name: int(mean[name].sum) for name in ("auc_pairs", "same_pairs")},
        "random_accuracy": mean["random_accuracy"].value,
        **{f"{name}@{k}": mean[f"{name}@{k}"].value for k in config.ks for name in ("hit_rate", "ndcg")},
        **{
            f"delta_{name}@{k}": mean[f"{name}@{k}"].value - mean[f"disliked_{name}@{k}"].value
            for k in config.ks
            for name in ("hit_rate", "ndcg")
        },
        "mrr_positive": mean["mrr_positive"].value,
        "mrr_negative": mean["mrr_negative"].value,
        f"map@{CUT}": mean[f"map@{CUT}"].value,
        **{name: figure.value for name, figure in mean.items() if name.startswith("unseen_")},
        **{f"next_hit_rate@{k}": mean[f"next_hit_rate@{k}"].value for k in config.ks},
        **{name: figure.value for name, figure in mean.items() if name.startswith("released_")},
        **{f"gini@{k}": metrics.gini(count_V) for k, count_V in shown_V.items()},
        **{f"item_coverage@{k}": metrics.item_coverage(count_V) for k, count_V in shown_V.items()},
        "user_coverage": covered[1],
        f"user_coverage_{ENOUGH}": covered[ENOUGH],
    }


def _counts(value_X: dict[str, np.ndarray], user_X: np.ndarray) -> dict[str, dict[str, int]]:
    """Users and examples that have each value, and the pairs of those that are of pairs."""
    found = {}
    for name, column in value_X.items():
        known = ~np.isnan(column)
        found[name] = {"users": len(np.unique(user_X[known])), "examples": int(known.sum())}
    found["pair_accuracy"]["pairs"] = found["pair_accuracy"]["examples"]
    found["auc"]["pairs"] = int(value_X["auc_pairs"].sum())
    users = found["pair_accuracy"]["users"]
    found["user_pair_accuracy"] = found["pair_accuracy"]
    found["drawn_pair_accuracy"] = dict.fromkeys(("users", "examples", "pairs"), users)
    return found
