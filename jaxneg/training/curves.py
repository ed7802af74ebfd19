"""What each serving form gives: the curve from the form that ranks to the one that judges, and the numbers to take.

Numbers are chosen on validation examples: beta out of BETAS, the threshold of demotion out of QUANTILES of the like
logits of the catalogue there, less each listener's mean. Of a form's points that one is chosen which keeps most of
both heads: whose lesser share is the largest, of the AUC of judge and of the NDCG of rank. These are two points, not
the best of many, which noise would lift; AUC is what pair accuracy estimates from one pair an example, with less noise.
A curve is of some batches, spread evenly, and of their top CUT.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from jaxneg import metrics
from jaxneg.batch import EvalBatch, forms
from jaxneg.batch.forms import Form
from jaxneg.config import EvalConfig
from jaxneg.data import held_out
from jaxneg.metrics import examples, measures, scores
from jaxneg.training import catalogue, likes, runs

BATCHES = 16  # that a curve is of, at most
BETAS = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
DEMOTED = (1.0, 2.0, 3.0, 5.0, 7.0, 10.0, 20.0, 50.0)  # betas of demotion
QUANTILES = (0.5, 0.6, 0.75, 0.9)
ITEMS = 1000  # of the catalogue whose like logits a quantile is of, per example
CUT = measures.CUT


class Point(NamedTuple):
    """A form on a curve."""

    form: Form
    quantile: float | None  # which its threshold is
    pair_accuracy: float
    ndcg: float  # of liked items, at CUT
    disliked_hit_rate: float  # share of disliked items in the top CUT
    auc: float  # of liked over disliked items of an example: pair accuracy over all its pairs, where that has one


class Tuned(NamedTuple):
    """What validation chose."""

    points: Mapping[str, Point]  # by form
    thresholds: Sequence[tuple[float, float]]  # of demotion that were tried: quantiles and their values


def sample(examples: held_out.EvalBatches) -> list[EvalBatch]:
    """BATCHES of the batches of held-out examples at most, spread evenly."""
    every = max(-(-len(examples) // BATCHES), 1)
    return [examples[k] for k in range(0, len(examples), every)]


def curve(
    score: catalogue.CatalogueScore,
    batches: Sequence[EvalBatch],
    config: EvalConfig,
    thresholds: Sequence[tuple[float, float]],
) -> list[Point]:
    """Points from the form that ranks to the one that judges: sums by beta, then demotions by threshold and beta.

    Args:
      score: of a model with a like head.
      batches: of held-out examples.
      config: whether seen items are ranked.
      thresholds: of demotion: each with the quantile that it is.
    """
    h_BDs = score.encoded(batches)

    def point(form: Form, quantile: float | None = None) -> Point:
        in_form = score.in_form(form)
        found = [
            _figures(batch, in_form.scored(h_BD), config) for batch, h_BD in zip(batches, h_BDs, strict=True)
        ]
        return Point(form, quantile, *(sum(part, metrics.Mean()).value for part in zip(*found, strict=True)))

    return [
        point(Form(forms.RANK)),
        *(point(Form(forms.SUM, beta)) for beta in BETAS),
        *(
            point(Form(forms.DEMOTE, beta, threshold), quantile)
            for quantile, threshold in thresholds
            for beta in DEMOTED
        ),
        point(Form(forms.JUDGE)),
    ]


def _figures(batch: EvalBatch, scored: scores.Scored, config: EvalConfig) -> tuple[metrics.Mean, ...]:
    """Figures of a ``Point``, of the real examples of a batch."""
    real = np.flatnonzero(batch.real_B)
    scored = scores.of_rows(scored, real, len(batch.real_B))
    batch = EvalBatch(*(np.asarray(leaf)[real] for leaf in batch))
    correct = metrics.pair_accuracy(scored.of(batch.pair_B2), examples.paired(batch))
    top_Bk = scored.rank((), k=CUT, seen_BL=batch.item_BL if config.exclude_seen else None).top_Bk

    def ranks(item_BC: np.ndarray) -> np.ndarray:
        """Places in the top, past it a place that counts for nothing; NaN where there is no item."""
        at_BCk = item_BC[:, :, None] == top_Bk[:, None]
        rank_BC = np.where(at_BCk.any(-1), at_BCk.argmax(-1) + 1.0, CUT + 1.0)
        return np.where(item_BC > 0, rank_BC, np.nan)

    ndcg_B = metrics.over_targets(metrics.ndcg(ranks(batch.liked_BC), CUT))
    hit_B = metrics.over_targets(metrics.hit_rate(ranks(batch.disliked_BC), CUT))
    liked, disliked = scored.of(batch.liked_BC), scored.of(batch.disliked_BC)
    auc_B = metrics.pairs(liked, batch.liked_BC, disliked, batch.disliked_BC).auc_B
    return correct, metrics.mean(ndcg_B), metrics.mean(hit_B), metrics.mean(auc_B)


def thresholds(
    score: catalogue.CatalogueScore, batches: Sequence[EvalBatch], items: int, seed: int = 0
) -> list[tuple[float, float]]:
    """QUANTILES of the like logits of the catalogue, less each example's mean, and their values.

    Args:
      score: of a model with a like head.
      batches: of held-out examples.
      items: of the catalogue; of more than ITEMS as many are drawn at random for each example.
      seed: of the draw.
    """
    rng, judge, found = np.random.default_rng(seed), score.in_form(Form(forms.JUDGE)), list[np.ndarray]()
    for batch, h_BD in zip(batches, score.encoded(batches), strict=True):
        item_BC = rng.integers(1, items + 1, (len(h_BD), ITEMS), dtype=np.int32)
        if items <= ITEMS:
            item_BC = np.tile(np.arange(1, items + 1, dtype=np.int32), (len(h_BD), 1))
        like_BC = judge.scored(h_BD).of(item_BC)[batch.real_B]
        found.append((like_BC - like_BC.mean(1, keepdims=True)).ravel())
    values = np.quantile(np.concatenate(found), QUANTILES)
    return [(quantile, float(value)) for quantile, value in zip(QUANTILES, values, strict=True)]


def chosen(points: Sequence[Point]) -> dict[str, Point]:
    """The point of each form, by name, that keeps most of both heads: of the AUC of judge and of the NDCG of rank.

    That is the one whose lesser share is the largest, of equal ones the first. A figure that the head itself has not,
    or that is 0 there, does not count.

    Args:
      points: of a curve, with its two ends.
    """
    ends = {one.form.name: one for one in points if one.form.name in (forms.RANK, forms.JUDGE)}
    wholes = _number(ends[forms.JUDGE].auc), _number(ends[forms.RANK].ndcg)

    def kept(point: Point) -> float:
        figures = _number(point.auc), _number(point.ndcg)
        return min(
            (own / whole for own, whole in zip(figures, wholes, strict=True) if whole > 0), default=0.0
        )

    return {name: max((one for one in points if one.form.name == name), key=kept) for name in forms.NAMES}


def _number(value: float) -> float:
    return value if math.isfinite(value) else 0.0


def tuned(trained: runs.Trained, score: catalogue.CatalogueScore | None = None) -> Tuned | None:
    """What validation chooses for a trained model; None without a like head.

    Args:
      trained: the model.
      score: its scores, where they are there already.
    """
    if not has_likes(trained):
        return None
    score = score or runs.catalogue_score(trained)
    config = trained.config
    batches = sample(held_out.EvalBatches(trained.store, config.data, config.eval, "validation"))
    found = thresholds(score, batches, trained.store.items, config.eval.pair_seed)
    return Tuned(chosen(curve(score, batches, config.eval, found)), found)


def has_likes(trained: runs.Trained) -> bool:
    """Whether a trained model has a like head."""
    return likes.BIAS in trained.state.tables
