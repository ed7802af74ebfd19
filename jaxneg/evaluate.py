"""Batches of held-out examples and a score function -> Report, as a whole and by bands of positive share.

A baseline, a checkpoint and an exported model are measured by the same lines. An example is one context with
the liked and disliked items that follow it. Averages go over an example's targets first, then over examples.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from jaxneg import metrics
from jaxneg.batch import EvalBatch
from jaxneg.config import EvalConfig


@runtime_checkable
class Scored(Protocol):
    """Scores of the whole catalogue for the examples of a batch, wherever they are."""

    def of(self, item_BC: np.ndarray) -> np.ndarray:
        """Scores of these items, score_BC; of item 0 anything."""
        ...

    def rank(self, targets: tuple[np.ndarray, ...], *, k: int, seen_BL: np.ndarray | None) -> metrics.Ranking:
        """As ``metrics.rank``."""
        ...


class Matrix:
    """Scores that are at hand, score_BV; column 0 is ignored."""

    def __init__(self, score_BV: np.ndarray):
        self.score_BV = score_BV

    def of(self, item_BC: np.ndarray) -> np.ndarray:
        return np.take_along_axis(self.score_BV, np.asarray(item_BC), axis=1)

    def rank(self, targets: tuple[np.ndarray, ...], *, k: int, seen_BL: np.ndarray | None) -> metrics.Ranking:
        return metrics.rank(self.score_BV, targets, k=k, seen_BL=seen_BL)


class _Rows:
    """Some rows of a batch's scores."""

    def __init__(self, scored: Scored, real: np.ndarray, size: int):
        self.scored, self.real, self.size = scored, real, size

    def of(self, item_BC: np.ndarray) -> np.ndarray:
        return self.scored.of(self._filled(item_BC))[self.real]

    def rank(self, targets: tuple[np.ndarray, ...], *, k: int, seen_BL: np.ndarray | None) -> metrics.Ranking:
        seen_BL = seen_BL if seen_BL is None else self._filled(seen_BL)
        found = self.scored.rank(tuple(map(self._filled, targets)), k=k, seen_BL=seen_BL)
        return metrics.Ranking(
            tuple(rank_BC[self.real] for rank_BC in found.targets), found.top_Bk[self.real]
        )

    def _filled(self, item_BC: np.ndarray) -> np.ndarray:
        whole_BC = np.zeros((self.size, item_BC.shape[1]), np.int32)
        whole_BC[self.real] = item_BC
        return whole_BC


# To scores_BV of the whole catalogue, numpy or jax, or to Scored where no one place holds them.
Score = Callable[[EvalBatch], Any]

ENOUGH = 5  # events of context that count as a usable history
CUT = 10  # cut-off of MAP and of the disliked items' MRR
DRAWS = 100  # tries for a random item that an example does not hold


@dataclass(frozen=True)
class Report:
    """What was measured. Arrays keep one value per example X, so that models can be compared pair by pair."""

    figures: dict[str, float]  # by name, as to_dict gives them
    bands: tuple[dict[str, float], ...]  # the same by share of positives, with the band's ends low and high
    pair_X2: np.ndarray  # int32, the pairs compared
    value_X: dict[str, np.ndarray]  # float64 by name; NaN where an example has no such value
    shown_V: dict[int, np.ndarray]  # int64 by k, how often each item is in a top k, padding row excluded
    liked_rank: np.ndarray  # float64, ranks of all liked targets
    disliked_rank: np.ndarray  # float64, ranks of all disliked targets

    def to_dict(self) -> dict[str, Any]:
        """Figures and bands as JSON can hold them: None where there was nothing to measure."""
        return _json(self.figures) | {"bands": [_json(band) for band in self.bands]}


def _json(figures: dict[str, float]) -> dict[str, float | None]:
    return {name: value if math.isfinite(value) else None for name, value in figures.items()}


def evaluate(
    score: Score,
    batches: Iterable[EvalBatch],
    *,
    items: int,
    config: EvalConfig,
    cold: int = 0,
) -> Report:
    """Measures a score function on held-out examples. Definitions are those of ``metrics``, and:

    - pair_accuracy: over each example's pair, with a bootstrap interval over examples; pairs counts them.
    - auc: all liked against all disliked items of an example.
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
    - released_hit_rate@k: of the same targets among fewer candidates, the different first liked targets of the
      batch and ``config.released`` random items; released_candidates is their mean number. It is how Seshadri
      and Knees measured. It grows as ``config.batch_size`` falls, and keeps seen items.
    - gini@k, item_coverage@k: over the top k of all examples.
    - user_coverage: share of examples with an event of context; user_coverage_5: with at least five.

    Args:
      score: from a batch to scores_BV, or to Scored.
      batches: of held-out examples.
      items: rows of the catalogue without the padding row, V - 1.
      config: cut-offs, bands, seeds, whether seen items are ranked, and how many random items stand for the
        catalogue in released_hit_rate@k; 0 leaves it out.
      cold: examples that have no context and so are not among the batches; they count in the coverage of
        users.

    Reference: Seshadri and Knees, Leveraging Negative Signals with Self-Attention for Sequential Music
    Recommendation, 2023, arXiv:2309.11623.
    """
    k_max = min(max(config.ks), items)
    rng = np.random.default_rng(config.pair_seed)
    released_rng = np.random.default_rng((config.pair_seed, 1))  # its own, so that it moves no other draw
    bands = np.linspace(0.0, 1.0, config.bands + 1)
    shown_WV = {k: np.zeros((config.bands, items + 1), np.int64) for k in config.ks}
    columns: dict[str, list[np.ndarray]] = {}
    pairs, liked_ranks, disliked_ranks = [], [], []
    for batch in batches:
        # Draws come before the rows that fill up are dropped, so they do not depend on the score.
        random_B = _random_items(rng, batch, items)
        real = np.flatnonzero(batch.real_B)
        scored = _scored(score(batch))
        if isinstance(scored, Matrix):  # whose rows that only fill up are anything, also NaN
            shape, expected = scored.score_BV.shape, (len(batch.real_B), items + 1)
            if shape != expected:
                raise ValueError(f"scores have shape {shape}: expected {expected}, padding row first")
            scored = Matrix(scored.score_BV[real])
        else:
            scored = _Rows(scored, real, len(batch.real_B))
        batch = EvalBatch(*(np.asarray(leaf)[real] for leaf in batch))
        ranking = scored.rank(
            (batch.liked_BC, batch.disliked_BC),
            k=k_max,
            seen_BL=batch.item_BL if config.exclude_seen else None,
        )
        band_B = band(batch.share_B, config.bands)
        for k, count_WV in shown_WV.items():
            top_Bk = ranking.top_Bk[:, :k]
            np.add.at(count_WV, (np.broadcast_to(band_B[:, None], top_Bk.shape), top_Bk), 1)
        values = _values(batch, scored, random_B[real], ranking, config)
        if config.released:
            values |= _released(released_rng, batch.liked_BC[:, 0], scored, items, config)
        for name, value_B in values.items():
            columns.setdefault(name, []).append(value_B)
        pairs.append(batch.pair_B2)
        for kept, rank_BC in zip((liked_ranks, disliked_ranks), ranking.targets, strict=True):
            kept.append(rank_BC[~np.isnan(rank_BC)])
    if not pairs:
        raise ValueError("no batch to evaluate")
    value_X = {name: np.concatenate(column) for name, column in columns.items()}
    band_X = band(value_X["share"], config.bands)
    return Report(
        figures=_figures(value_X, {k: count_WV.sum(0)[1:] for k, count_WV in shown_WV.items()}, config, cold),
        bands=tuple(
            {"low": float(bands[w]), "high": float(bands[w + 1])}
            | _figures(
                {name: column[band_X == w] for name, column in value_X.items()},
                {k: count_WV[w, 1:] for k, count_WV in shown_WV.items()},
                config,
            )
            for w in range(config.bands)
        ),
        pair_X2=np.concatenate(pairs),
        value_X=value_X,
        shown_V={k: count_WV.sum(0)[1:] for k, count_WV in shown_WV.items()},
        liked_rank=np.concatenate(liked_ranks),
        disliked_rank=np.concatenate(disliked_ranks),
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


def _scored(found: Any) -> Scored:
    return found if isinstance(found, Scored) else Matrix(np.asarray(found))


def separation(score: Score, batches: Iterable[EvalBatch]) -> dict[str, float]:
    """Pair accuracy and AUC alone, without ranking the catalogue: what baselines are tuned by."""
    correct, auc = metrics.Mean(), metrics.Mean()
    for batch in batches:
        scored = _scored(score(batch))
        pair_B2, liked_BC, disliked_BC = map(scored.of, (batch.pair_B2, batch.liked_BC, batch.disliked_BC))
        correct += metrics.pair_accuracy(pair_B2, batch.real_B & (batch.pair_B2[:, 0] > 0))
        auc += metrics.pairwise_auc(
            liked_BC, batch.real_B[:, None] & (batch.liked_BC > 0), disliked_BC, batch.disliked_BC > 0
        )
    return {"pair_accuracy": correct.value, "auc": auc.value}


def paired_difference(
    a: Report, b: Report, of: str = "pair_accuracy", *, resamples: int = 1000, seed: int = 0
) -> tuple[float, float, float]:
    """Mean of a's value less b's over the examples where both have one, and its 95% bootstrap interval.

    ``of`` names a per-example value: pair_accuracy, auc, random_accuracy, mrr_positive, hit_rate@10, ...
    Raises ValueError if the reports are of different examples.
    """
    if not np.array_equal(a.pair_X2, b.pair_X2):
        raise ValueError("the reports are of different examples: evaluate both on the same batches")
    difference_X = a.value_X[of] - b.value_X[of]
    return metrics.mean(difference_X).value, *metrics.bootstrap(difference_X, resamples=resamples, seed=seed)


def _values(
    batch: EvalBatch, scored: Scored, random_B, ranking: metrics.Ranking, config: EvalConfig
) -> dict[str, np.ndarray]:
    """Values of each example by name, NaN where it has none."""
    liked, disliked = batch.liked_BC > 0, batch.disliked_BC > 0
    liked_B = np.where(batch.pair_B2[:, 0] > 0, batch.pair_B2[:, 0], batch.liked_BC[:, 0])
    against_random_B2 = np.stack([liked_B, random_B], axis=1)
    liked_rank_BC, disliked_rank_BC = ranking.targets
    new_BC, new_disliked_BC = (
        np.where(_held(item_BC, batch.item_BL), np.nan, rank_BC)
        for item_BC, rank_BC in zip((batch.liked_BC, batch.disliked_BC), ranking.targets, strict=True)
    )
    values = {
        "share": np.asarray(batch.share_B, np.float64),
        "context": (batch.item_BL > 0).sum(-1).astype(np.float64),
        "pair_accuracy": metrics.pair_correct(scored.of(batch.pair_B2), batch.pair_B2[:, 0] > 0),
        "auc": metrics.auc(scored.of(batch.liked_BC), liked, scored.of(batch.disliked_BC), disliked),
        "random_accuracy": metrics.pair_correct(
            scored.of(against_random_B2), np.logical_and(liked_B > 0, random_B > 0)
        ),
        "mrr_positive": metrics.over_targets(metrics.mrr(liked_rank_BC)),
        "mrr_negative": metrics.over_targets(metrics.mrr(disliked_rank_BC)),
        f"map@{CUT}": metrics.over_targets(metrics.average_precision(liked_rank_BC, CUT)),
        f"unseen_liked_mrr@{CUT}": metrics.over_targets(metrics.average_precision(new_BC, CUT)),
        f"unseen_disliked_mrr@{CUT}": metrics.over_targets(metrics.average_precision(new_disliked_BC, CUT)),
        "unseen_liked_log_rank": metrics.over_targets(metrics.log_rank(new_BC)),
        "unseen_disliked_log_rank": metrics.over_targets(metrics.log_rank(new_disliked_BC)),
    }
    for k in config.ks:
        for name, metric in (("hit_rate", metrics.hit_rate), ("ndcg", metrics.ndcg)):
            values[f"{name}@{k}"] = metrics.over_targets(metric(liked_rank_BC, k))
            values[f"disliked_{name}@{k}"] = metrics.over_targets(metric(disliked_rank_BC, k))
        values[f"next_hit_rate@{k}"] = metrics.hit_rate(liked_rank_BC[:, 0], k)
    return values


def _held(item_BC: np.ndarray, context_BL: np.ndarray) -> np.ndarray:
    """bool_BC, where an item is among its row's context."""
    return np.stack([np.isin(item_C, seen_L) for item_C, seen_L in zip(item_BC, context_BL, strict=True)])


def _released(
    rng: np.random.Generator, target_B: np.ndarray, scored: Scored, items: int, config: EvalConfig
) -> dict[str, np.ndarray]:
    """Hit rates of the targets among the batch's different targets and random other items, and how many they are."""
    target = np.unique(target_B[target_B > 0])
    others = np.setdiff1d(np.arange(1, items + 1), target)
    drawn = rng.choice(others, size=min(config.released, len(others)), replace=False)
    # Column 0 pads, as in a catalogue; the target's column is its place among the candidates.
    candidates = np.concatenate([[0], target, drawn])
    place_B = np.where(target_B > 0, np.searchsorted(target, target_B) + 1, 0)
    score_BC = scored.of(np.broadcast_to(candidates, (len(target_B), len(candidates))))
    rank_B = metrics.rank(score_BC, (place_B[:, None],)).targets[0][:, 0]
    return {
        "released_candidates": np.where(target_B > 0, len(candidates) - 1.0, np.nan),
        **{f"released_hit_rate@{k}": metrics.hit_rate(rank_B, k) for k in config.ks},
    }


def _figures(
    value_X: dict[str, np.ndarray], shown_V: dict[int, np.ndarray], config: EvalConfig, cold: int = 0
) -> dict[str, float]:
    """Averages over examples, and exposure over items."""
    mean = {name: metrics.mean(column) for name, column in value_X.items()}
    low, high = metrics.bootstrap(value_X["pair_accuracy"], resamples=config.bootstrap, seed=config.pair_seed)
    examples = len(value_X["context"])
    covered = {
        n: metrics.Mean(float((value_X["context"] >= n).sum()), examples + cold).value for n in (1, ENOUGH)
    }
    return {
        "pair_accuracy": mean["pair_accuracy"].value,
        "pair_accuracy_low": low,
        "pair_accuracy_high": high,
        "pairs": mean["pair_accuracy"].count,
        "auc": mean["auc"].value,
        "examples": examples,
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


def band(share_B: np.ndarray, bands: int) -> np.ndarray:
    """Which of ``bands`` equal parts of [0, 1] a share is in: a part holds its lower end, the last both."""
    # A float32 share such as 0.6 is meant to sit on an end.
    place_B = np.nan_to_num(np.asarray(share_B, np.float64)) * bands + 1e-6
    return np.minimum(place_B.astype(np.int64), bands - 1)


def _random_items(rng: np.random.Generator, batch: EvalBatch, items: int) -> np.ndarray:
    """Per example a uniform item that is neither liked nor in its context; 0 where none was found."""
    held_BC = np.concatenate([batch.liked_BC, batch.item_BL], axis=1)
    random_B = rng.integers(1, items + 1, size=len(held_BC))
    for _ in range(DRAWS):
        wrong = np.flatnonzero((held_BC == random_B[:, None]).any(-1))
        if len(wrong) == 0:
            return random_B
        random_B[wrong] = rng.integers(1, items + 1, size=len(wrong))
    return np.where((held_BC == random_B[:, None]).any(-1), 0, random_B)
