"""What is measured of each held-out example: the values of which figures are means, in parts that can be joined.

Of many processes each may measure some of the batches; joined in their order, the parts are what one would have found.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from jaxneg import metrics
from jaxneg.batch import EvalBatch
from jaxneg.config import EvalConfig
from jaxneg.metrics import released, scores

TOGETHER = 1 << 10  # items that are looked for in contexts together
CUT = 10  # cut-off of MAP and of the disliked items' MRR


class Examples(NamedTuple):
    """What was measured of X examples; W are bands of positive share."""

    pair_X2: np.ndarray  # int32, the pairs compared
    user_X: np.ndarray  # int32, whose example each is
    value_X: dict[str, np.ndarray]  # float64 by name; NaN where an example has no such value
    shown_WV: dict[int, np.ndarray]  # int64 by k, how often each item is in a top k, padding row included
    liked_rank: np.ndarray  # float64, ranks of all liked targets
    disliked_rank: np.ndarray  # float64, ranks of all disliked targets


def measured(
    score: scores.Score, batches: Iterable[EvalBatch], *, items: int, config: EvalConfig, before: int = 0
) -> Examples:
    """What a score function does on each example; see ``measures.evaluate``.

    Args:
      score: from a batch to scores_BV, or to Scored.
      batches: of held-out examples.
      items: rows of the catalogue without the padding row, V - 1.
      config: as for ``measures.evaluate``.
      before: examples before these, which another part has: a multiple of ``config.released_batch`` where candidates
        are drawn for groups of them.
    """
    k_max = min(max(config.ks), items)
    rng = np.random.default_rng(config.pair_seed)
    rng.random(before)  # of _random_items
    hits = released.Hits(items, config, before)
    shown_WV = {k: np.zeros((config.bands, items + 1), np.int64) for k in config.ks}
    columns: dict[str, list[np.ndarray]] = {}
    pairs, users = [np.zeros((0, 2), np.int32)], [np.zeros(0, np.int32)]
    liked_ranks, disliked_ranks = [np.zeros(0)], [np.zeros(0)]
    for batch, scored in scores.each(score, batches):
        real = np.flatnonzero(batch.real_B)
        if isinstance(scored, scores.Matrix):
            shape, expected = scored.score_BV.shape, (len(batch.real_B), items + 1)
            if shape != expected:
                raise ValueError(f"scores have shape {shape}: expected {expected}, padding row first")
        scored = scores.of_rows(scored, real, len(batch.real_B))
        batch = EvalBatch(*(np.asarray(leaf)[real] for leaf in batch))
        ranking = scored.rank(
            (batch.liked_BC, batch.disliked_BC),
            k=k_max,
            seen_BL=batch.item_BL if config.exclude_seen else None,
        )
        band_B = band(batch.share_B, config.bands)
        for k, count_WV in shown_WV.items():
            at_Bk = band_B[:, None] * (items + 1) + ranking.top_Bk[:, :k]
            np.add.at(count_WV.reshape(-1), at_Bk.reshape(-1), 1)  # by one index, which numpy does at once
        values = _values(batch, scored, _random_items(rng, batch, items), ranking, config)
        if config.released:
            hits.add(batch.liked_BC[:, 0], scored)
        for name, value_B in values.items():
            columns.setdefault(name, []).append(value_B)
        pairs.append(batch.pair_B2)
        users.append(batch.user_B)
        for kept, rank_BC in zip((liked_ranks, disliked_ranks), ranking.targets, strict=True):
            kept.append(rank_BC[~np.isnan(rank_BC)])
    value_X = {name: np.concatenate(column) for name, column in columns.items()}
    if config.released and value_X:
        value_X |= hits.values()
    ranks = np.concatenate(liked_ranks), np.concatenate(disliked_ranks)
    return Examples(np.concatenate(pairs), np.concatenate(users), value_X, shown_WV, *ranks)


def joined(parts: Sequence[Examples]) -> Examples:
    """The parts as one, in their order."""
    some = [part for part in parts if len(part.user_X)] or list(parts[:1])
    pair_X2, user_X, liked_rank, disliked_rank = (
        np.concatenate([getattr(part, name) for part in some])
        for name in ("pair_X2", "user_X", "liked_rank", "disliked_rank")
    )
    value_X = {name: np.concatenate([part.value_X[name] for part in some]) for name in some[0].value_X}
    shown_WV = {k: np.sum([part.shown_WV[k] for part in some], axis=0) for k in some[0].shown_WV}
    return Examples(pair_X2, user_X, value_X, shown_WV, liked_rank, disliked_rank)


def paired(batch: EvalBatch) -> np.ndarray:
    """bool_B, which examples have a pair of two items."""
    return (batch.pair_B2[:, 0] > 0) & (batch.pair_B2[:, 0] != batch.pair_B2[:, 1])


def band(share_B: np.ndarray, bands: int) -> np.ndarray:
    """Which of ``bands`` equal parts of [0, 1] a share is in: a part holds its lower end, the last both."""
    # A float32 share such as 0.6 is meant to sit on an end.
    place_B = np.nan_to_num(np.asarray(share_B, np.float64)) * bands + 1e-6
    return np.minimum(place_B.astype(np.int64), bands - 1)


def _values(
    batch: EvalBatch, scored: scores.Scored, random_B, ranking: metrics.Ranking, config: EvalConfig
) -> dict[str, np.ndarray]:
    """Values of each example by name, NaN where it has none."""
    liked_B = np.where(batch.pair_B2[:, 0] > 0, batch.pair_B2[:, 0], batch.liked_BC[:, 0])
    against_random_B2 = np.stack([liked_B, random_B], axis=1)
    liked_rank_BC, disliked_rank_BC = ranking.targets
    new_BC, new_disliked_BC = (
        np.where(_held(item_BC, batch.item_BL), np.nan, rank_BC)
        for item_BC, rank_BC in zip((batch.liked_BC, batch.disliked_BC), ranking.targets, strict=True)
    )
    # Asked for together: a model compiles for each number of items.
    asked = (batch.pair_B2, against_random_B2, batch.liked_BC, batch.disliked_BC)
    ends = np.cumsum([item_BC.shape[1] for item_BC in asked])[:-1]
    found = np.split(scored.of(np.concatenate(asked, axis=1)), ends, axis=1)
    pair_score_B2, against_score_B2, liked_score_BC, disliked_score_BC = found
    pairs = metrics.pairs(liked_score_BC, batch.liked_BC, disliked_score_BC, batch.disliked_BC)
    values = {
        "share": np.asarray(batch.share_B, np.float64),
        "context": (batch.item_BL > 0).sum(-1).astype(np.float64),
        "pair_accuracy": metrics.pair_correct(pair_score_B2, paired(batch)),
        "auc": pairs.auc_B,
        "auc_pairs": pairs.pairs_B.astype(np.float64),
        "same_pairs": pairs.same_B.astype(np.float64),
        "random_accuracy": metrics.pair_correct(against_score_B2, np.logical_and(liked_B > 0, random_B > 0)),
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
    held_BC = np.zeros(item_BC.shape, bool)
    row, column = np.nonzero(item_BC)
    for first in range(0, len(row), TOGETHER):
        r, c = row[first : first + TOGETHER], column[first : first + TOGETHER]
        held_BC[r, c] = (context_BL[r] == item_BC[r, c, None]).any(1)
    return held_BC


def _random_items(rng: np.random.Generator, batch: EvalBatch, items: int) -> np.ndarray:
    """Per example a uniform item that is neither liked nor in its context; 0 where it holds all of them.

    One number is drawn for each example in turn, so that the draws do not depend on the size of a batch.
    """
    held_BC = np.sort(np.concatenate([batch.liked_BC, batch.item_BL], axis=1), axis=1).astype(np.int64)
    again = np.zeros(held_BC.shape, bool)
    again[:, 1:] = held_BC[:, 1:] == held_BC[:, :-1]
    real = (held_BC > 0) & ~again
    # the others are beyond all
    held_BC = np.sort(np.where(real, held_BC, 2 * items + held_BC.shape[1] + 1), axis=1)
    free_B = items - real.sum(1)
    rank_B = (rng.random(len(held_BC)) * free_B).astype(np.int64)  # of the item among the free ones, from 0
    before_BC = held_BC - 1 - np.arange(held_BC.shape[1])  # free items below each held one
    item_B = rank_B + 1 + (before_BC <= rank_B[:, None]).sum(1)
    return np.where(free_B > 0, item_B, 0)
