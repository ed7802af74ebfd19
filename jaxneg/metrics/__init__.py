"""Metrics on the host, in numpy. Each states its definition, ties included, and imports nothing of ours.

Row 0 of a catalogue only pads: it is never ranked, and an id of 0 means that there is no item. Pads are told
apart by masks where scores come in, by 0 where ids do.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

Scores = Float[np.ndarray, "B V"]
NAN = "a score is NaN: scores must order all items"


@dataclass(frozen=True)
class Mean:
    """A mean as sum and count, added across batches and hosts and divided once."""

    sum: float = 0.0
    count: int = 0

    def __add__(self, other: "Mean") -> "Mean":
        return Mean(self.sum + other.sum, self.count + other.count)

    @property
    def value(self) -> float:
        """The mean; NaN of nothing."""
        return self.sum / self.count if self.count else float("nan")


def mean(value: Float[np.ndarray, "*S"]) -> Mean:
    """Mean of the values that are not NaN.

    Examples:
      >>> mean(np.array([1.0, 0.0, np.nan]))
      Mean(sum=1.0, count=2)
    """
    known = ~np.isnan(value)
    return Mean(float(value[known].sum(dtype=np.float64)), int(known.sum()))


def pair_correct(score_B2: Float[np.ndarray, "B 2"], real_B: Bool[np.ndarray, "B"]) -> Float[np.ndarray, "B"]:
    """Per pair 1 where the first score is above the second, 0.5 if they tie, 0 below, NaN without a pair.

    Examples:
      >>> pair_correct(np.array([[2.0, 1.0], [1.0, 1.0], [0.0, 1.0]]), np.array([True, True, False])).tolist()
      [1.0, 0.5, nan]
    """
    correct_B = (score_B2[:, 0] > score_B2[:, 1]) + 0.5 * (score_B2[:, 0] == score_B2[:, 1])
    return np.where(real_B, correct_B, np.nan)


def pair_accuracy(score_B2: Float[np.ndarray, "B 2"], real_B: Bool[np.ndarray, "B"]) -> Mean:
    """Share of pairs whose liked item, the first, scores above the disliked one. A tie counts half.

    Reference: Mei, Bembom and Ehmann, Negative Feedback for Music Personalization, 2024, arXiv:2406.04488.

    Examples:
      A pair in the right order and a tie: (1 + 0.5) / 2.

      >>> pair_accuracy(np.array([[2.0, 1.0], [1.0, 1.0]]), np.array([True, True])).value
      0.75
    """
    return mean(pair_correct(score_B2, real_B))


class Pairs(NamedTuple):
    """Pairs of a liked and a disliked item per example."""

    auc_B: np.ndarray  # float64, share of pairs whose liked item scores higher; NaN without a pair
    pairs_B: np.ndarray  # int64, pairs compared
    same_B: np.ndarray  # int64, pairs of an item with itself, which are left out


def pairs(
    liked_score_BC: Float[np.ndarray, "B C"],
    liked_BC: Int[np.ndarray, "B C"],
    disliked_score_BM: Float[np.ndarray, "B M"],
    disliked_BM: Int[np.ndarray, "B M"],
) -> Pairs:
    """AUC of each example over its pairs of a liked and a disliked item that are not the same.

    A tie counts half. An item that was liked and disliked makes no pair with itself, of which any score would get
    one half right; its pairs with other items count.

    Args:
      liked_score_BC: scores of the liked items.
      liked_BC: these items, 0 where there is none.
      disliked_score_BM: scores of the disliked items.
      disliked_BM: these items, 0 where there is none.

    Examples:
      Liked 0.9 and 0.4 against disliked 0.4: (1 + 0.5) / 2.

      >>> found = pairs(np.array([[0.9, 0.4]]), np.array([[1, 2]]), np.array([[0.4]]), np.array([[3]]))
      >>> found.auc_B.tolist(), found.pairs_B.tolist()
      ([0.75], [2])
    """
    size = len(liked_BC)
    auc_B = np.full(size, np.nan)
    pairs_B, same_B = np.zeros(size, np.int64), np.zeros(size, np.int64)
    for b in np.flatnonzero((liked_BC > 0).any(-1) & (disliked_BM > 0).any(-1)):
        liked, disliked = liked_BC[b] > 0, disliked_BM[b] > 0
        item, other = liked_BC[b, liked], disliked_BM[b, disliked]
        score, unsorted = liked_score_BC[b, liked], disliked_score_BM[b, disliked]
        against = np.sort(unsorted)
        below, not_above = np.searchsorted(against, score, "left"), np.searchsorted(against, score, "right")
        right = (below.sum() + not_above.sum()) / 2
        both = np.isin(item, other)
        if both.any():
            i, j = np.nonzero(item[both][:, None] == other[None])
            a, c = score[both][i], unsorted[j]
            right -= (a > c).sum() + 0.5 * (a == c).sum()
            same_B[b] = len(i)
        pairs_B[b] = len(item) * len(other) - same_B[b]
        if pairs_B[b]:
            auc_B[b] = right / pairs_B[b]
    return Pairs(auc_B, pairs_B, same_B)


class Ranking(NamedTuple):
    """Where targets stand in the whole catalogue, and which items lead it."""

    targets: tuple[
        np.ndarray, ...
    ]  # ranks of each block of targets, float64 [B, C], NaN where there is no target
    top_Bk: np.ndarray  # int64, rows of the highest scores, best first; 0 where the catalogue ends


def rank(
    score_BV: Scores,
    targets: tuple[Int[np.ndarray, "B _"], ...],
    *,
    k: int = 0,
    seen_BL: Int[np.ndarray, "B L"] | None = None,
) -> Ranking:
    """Ranks of targets among all items, 1 for the highest score, and the top k.

        rank = 1 + #(items scored above) + 0.5 * #(other items scored the same)

    so that a constant score puts every item in the middle. In the top k a tie goes to the lower row, which is
    the more frequent item. One sort per example serves all its targets. Raises ValueError on scores that are
    NaN.

    Args:
      score_BV: scores of the catalogue; column 0 is ignored.
      targets: blocks of rows to rank, 0 where there is none.
      k: how many leading items to list.
      seen_BL: rows left out of the ranking, except that a target is always ranked; 0 where there is none.

    Examples:
      Two items tie for the second place, so each has rank 2.5; of the top two the lower row comes first.

      >>> ranking = rank(np.array([[0.0, 0.5, 0.9, 0.5]]), (np.array([[2, 1, 3, 0]]),), k=2)
      >>> ranking.targets[0].tolist(), ranking.top_Bk.tolist()
      ([[1.0, 2.5, 2.5, nan]], [[2, 1]])
    """
    if np.isnan(score_BV[:, 1:]).any():
        raise ValueError(NAN)
    ranks = tuple(np.full(target.shape, np.nan) for target in targets)
    top_Bk = np.zeros((len(score_BV), k), np.int64)
    for b, score_V in enumerate(score_BV):
        row_C = None if seen_BL is None else _left(seen_BL[b], len(score_V))
        kept_C = score_V[1:] if row_C is None else score_V[row_C]
        sorted_C = np.sort(kept_C)
        for rank_BC, target_BC in zip(ranks, targets, strict=True):
            real = np.flatnonzero(target_BC[b])
            target = target_BC[b, real]
            score = score_V[target]
            below = np.searchsorted(sorted_C, score, "left")
            not_above = np.searchsorted(sorted_C, score, "right")
            itself = 1 if seen_BL is None else ~np.isin(target, seen_BL[b])
            rank_BC[b, real] = 1 + len(sorted_C) - not_above + 0.5 * (not_above - below - itself)
        size = min(k, len(sorted_C))
        if size:
            best = _top(kept_C, size, sorted_C[-size])
            top_Bk[b, :size] = best + 1 if row_C is None else row_C[best]
    return Ranking(ranks, top_Bk)


def top(
    score_BV: Scores, *, k: int, seen_BL: Int[np.ndarray, "B L"] | None = None
) -> Int[np.ndarray, "B {k}"]:
    """The top k of ``rank`` alone, which needs no sort of the catalogue. Raises ValueError on scores that are NaN.

    Examples:
      >>> top(np.array([[0.0, 0.5, 0.9, 0.5]]), k=2, seen_BL=np.array([[2]])).tolist()
      [[1, 3]]
    """
    if np.isnan(score_BV[:, 1:]).any():
        raise ValueError(NAN)
    top_Bk = np.zeros((len(score_BV), k), np.int64)
    for b, score_V in enumerate(score_BV):
        row_C = None if seen_BL is None else _left(seen_BL[b], len(score_V))
        kept_C = score_V[1:] if row_C is None else score_V[row_C]
        size = min(k, len(kept_C))
        if size:
            best = _top(kept_C, size, np.partition(kept_C, -size)[-size])
            top_Bk[b, :size] = best + 1 if row_C is None else row_C[best]
    return top_Bk


def _left(seen_L: np.ndarray, rows: int) -> np.ndarray:
    """Rows of the catalogue that are not among the seen ones."""
    left_V = np.ones(rows, bool)
    left_V[seen_L] = False
    left_V[0] = False
    return np.flatnonzero(left_V)


def _top(score_C: np.ndarray, size: int, threshold: np.floating) -> np.ndarray:
    """Indices of the ``size`` highest scores, best first, ties by index; ``threshold`` is the last score."""
    above = np.flatnonzero(score_C > threshold)
    level = np.flatnonzero(score_C == threshold)[: size - len(above)]
    best = np.concatenate([above, level])
    return best[np.lexsort((best, -score_C[best]))]


def hit_rate(rank_: Float[np.ndarray, "*S"], k: int) -> Float[np.ndarray, "*S"]:
    """1 where the target is in the top k, rank <= k, else 0; NaN where there is no target.

    Examples:
      >>> hit_rate(np.array([1.0, 10.5, np.nan]), 10).tolist()
      [1.0, 0.0, nan]
    """
    return np.where(np.isnan(rank_), np.nan, rank_ <= k)


def ndcg(rank_: Float[np.ndarray, "*S"], k: int) -> Float[np.ndarray, "*S"]:
    """1 / log2(1 + rank) of a single target where rank <= k, else 0; NaN where there is no target.

    Examples:
      >>> ndcg(np.array([1.0, 3.0, 11.0]), 10).tolist()
      [1.0, 0.5, 0.0]
    """
    return np.where(np.isnan(rank_), np.nan, (rank_ <= k) / np.log2(1 + rank_))


def mrr(rank_: Float[np.ndarray, "*S"]) -> Float[np.ndarray, "*S"]:
    """Reciprocal rank of the target; NaN where there is no target. Its mean is the MRR.

    Examples:
      >>> mrr(np.array([1.0, 4.0])).tolist()
      [1.0, 0.25]
    """
    return 1 / rank_


def average_precision(rank_: Float[np.ndarray, "*S"], k: int) -> Float[np.ndarray, "*S"]:
    """1 / rank of a single target where rank <= k, else 0; NaN where there is no target.

    With one target per query the mean of it is MAP@k and MRR@k alike.

    Examples:
      >>> average_precision(np.array([2.0, 20.0]), 10).tolist()
      [0.5, 0.0]
    """
    return np.where(np.isnan(rank_), np.nan, (rank_ <= k) / rank_)


def average_precision_bounds(hr1: float, hr5: float, hr10: float) -> tuple[float, float]:
    """The least and the most that MAP@10 of single targets can be, given their hit rates at 1, 5 and 10.

        low  = hr1 + (hr5 - hr1) / 5 + (hr10 - hr5) / 10     every target at the far end of its span of ranks
        high = hr1 + (hr5 - hr1) / 2 + (hr10 - hr5) / 6      every target at the near end

    ``low`` always holds. ``high`` takes whole ranks: a tie for the first place has rank 1.5, and 1 / 1.5 > 1 / 2.

    Examples:
      A target in ten is at rank 1, none in between, and another in ten at ranks 6 to 10.

      >>> [round(bound, 4) for bound in average_precision_bounds(0.1, 0.1, 0.2)]
      [0.11, 0.1167]
    """
    low = hr1 + (hr5 - hr1) / 5 + (hr10 - hr5) / 10
    high = hr1 + (hr5 - hr1) / 2 + (hr10 - hr5) / 6
    return low, high


def log_rank(rank_: Float[np.ndarray, "*S"]) -> Float[np.ndarray, "*S"]:
    """Natural logarithm of the rank; NaN where there is no target. Far down the list it still tells ranks apart.

    Examples:
      >>> log_rank(np.array([1.0])).tolist()
      [0.0]
    """
    return np.log(rank_)


def over_targets(value_BC: Float[np.ndarray, "B C"]) -> Float[np.ndarray, "B"]:
    """Per example the mean over its targets, those that are not NaN; NaN where there are none.

    Examples:
      >>> over_targets(np.array([[1.0, 0.5, np.nan], [np.nan, np.nan, np.nan]])).tolist()
      [0.75, nan]
    """
    known_BC = ~np.isnan(value_BC)
    count_B = known_BC.sum(-1)
    return np.where(count_B > 0, np.where(known_BC, value_BC, 0.0).sum(-1) / np.maximum(count_B, 1), np.nan)


def gini(count_V: Shaped[np.ndarray, "V"]) -> float:
    """Gini coefficient of exposure over all n items, never shown ones included: 0 is even, near 1 one item.

        G = sum_i (2i - n - 1) x_(i) / (n * sum x),   x_(1) <= ... <= x_(n)

    NaN where nothing was shown.

    Examples:
      Of four items one is shown four times: (2 * 4 - 4 - 1) * 4 / (4 * 4).

      >>> gini(np.array([0, 4, 0, 0])), gini(np.array([1, 1]))
      (0.75, 0.0)
    """
    x = np.sort(count_V.astype(np.float64))
    n, total = len(x), x.sum()
    if total == 0:
        return float("nan")
    return float(((2 * np.arange(1, n + 1) - n - 1) * x).sum() / (n * total))


def item_coverage(count_V: Shaped[np.ndarray, "V"]) -> float:
    """Share of all items that were shown at least once; NaN of no items.

    Examples:
      >>> item_coverage(np.array([0, 4, 0, 0]))
      0.25
    """
    return float((count_V > 0).mean()) if len(count_V) else float("nan")


def lorenz(count_V: Shaped[np.ndarray, "V"]) -> Float[np.ndarray, "W"]:
    """Share of exposure that the i least shown items hold together, for i from 0 to n.

    Examples:
      >>> lorenz(np.array([3, 1])).tolist()
      [0.0, 0.25, 1.0]
    """
    x = np.sort(count_V.astype(np.float64))
    return np.concatenate([[0.0], np.cumsum(x)]) / max(x.sum(), 1.0)


def by_unit(
    value_X: Float[np.ndarray, "X"], unit_X: Int[np.ndarray, "X"]
) -> tuple[Float[np.ndarray, "G"], Float[np.ndarray, "G"]]:
    """Sum and number of the values that are not NaN by unit, of the units that have some."""
    known = ~np.isnan(value_X)
    _, place = np.unique(unit_X[known], return_inverse=True)
    count_G = np.bincount(place).astype(np.float64)
    return np.bincount(place, value_X[known], len(count_G)).astype(np.float64), count_G


def bootstrap(
    value_X: Float[np.ndarray, "X"],
    unit_X: Int[np.ndarray, "X"],
    *,
    resamples: int,
    seed: int,
    level: float = 0.95,
) -> tuple[float, float]:
    """Percentile interval of the mean of the values that are not NaN, by resampling units with replacement.

    A unit, such as a user, is drawn with all its values, as values of one unit are alike. Ends are the
    (1 - level) / 2 and (1 + level) / 2 quantiles of the resampled means. NaN, NaN of fewer than two units, which say
    nothing of how units differ.

    Args:
      value_X: values, NaN where there is none.
      unit_X: whose value each is.
      resamples: how many.
      seed: of the draws.
      level: of the interval.

    Examples:
      >>> bootstrap(np.array([0.5, 0.5, np.nan]), np.array([1, 2, 2]), resamples=10, seed=0)
      (0.5, 0.5)

    Reference: Field and Welsh, Bootstrapping clustered data, JRSS B 2007 (the randomised cluster bootstrap).
    """
    return _resampled(*by_unit(value_X, unit_X), resamples=resamples, seed=seed, level=level)


def bootstrap_ratio(
    above_X: Float[np.ndarray, "X"],
    below_X: Float[np.ndarray, "X"],
    unit_X: Int[np.ndarray, "X"],
    *,
    resamples: int,
    seed: int,
    level: float = 0.95,
) -> tuple[float, float]:
    """Percentile interval of sum(above) / sum(below), by resampling units with all their values.

    Resamples whose ``below`` sums to 0 are left out. NaN, NaN where all are, and of fewer than two units.

    Examples:
      >>> values = np.array([1.0, 2.0]), np.array([2.0, 4.0])
      >>> bootstrap_ratio(*values, np.array([1, 2]), resamples=10, seed=0)
      (0.5, 0.5)
    """
    _, place = np.unique(unit_X, return_inverse=True)
    sums = (np.bincount(place, value_X).astype(np.float64) for value_X in (above_X, below_X))
    return _resampled(*sums, resamples=resamples, seed=seed, level=level)


def _resampled(
    above_G: np.ndarray, below_G: np.ndarray, *, resamples: int, seed: int, level: float
) -> tuple[float, float]:
    """Quantiles of sum(above) / sum(below) over draws of the units with replacement."""
    rng, units = np.random.default_rng(seed), len(below_G)
    ratios = []
    for _ in range(resamples if units > 1 else 0):
        drawn = rng.integers(units, size=units, dtype=np.int32)
        total = below_G[drawn].sum()
        if total != 0:
            ratios.append(above_G[drawn].sum() / total)
    if not ratios:
        return float("nan"), float("nan")
    low, high = np.quantile(ratios, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
