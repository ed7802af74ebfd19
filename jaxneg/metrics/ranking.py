"""Where targets stand in the whole catalogue, and the figures of a rank: HR, NDCG, MRR, MAP, log rank."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

Scores = Float[np.ndarray, "B V"]
NAN = "a score is NaN: scores must order all items"


class Ranking(NamedTuple):
    """Where targets stand in the whole catalogue, and which items lead it."""

    # ranks of each block of targets, float64 [B, C], NaN where there is no target
    targets: tuple[np.ndarray, ...]
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
        kept_V, count = _kept(score_V, None if seen_BL is None else seen_BL[b])
        sorted_C = np.sort(kept_V)[:count]
        for rank_BC, target_BC in zip(ranks, targets, strict=True):
            real = np.flatnonzero(target_BC[b])
            target = target_BC[b, real]
            score = score_V[target]
            below = np.searchsorted(sorted_C, score, "left")
            not_above = np.searchsorted(sorted_C, score, "right")
            itself = ~np.isnan(kept_V[target])
            rank_BC[b, real] = 1 + count - not_above + 0.5 * (not_above - below - itself)
        size = min(k, count)
        if size:
            top_Bk[b, :size] = _top(kept_V, size, sorted_C[-size])
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
        kept_V, count = _kept(score_V, None if seen_BL is None else seen_BL[b])
        size = min(k, count)
        if size:
            top_Bk[b, :size] = _top(kept_V, size, np.partition(kept_V, count - size)[count - size])
    return top_Bk


def _kept(score_V: np.ndarray, seen_L: np.ndarray | None) -> tuple[np.ndarray, int]:
    """The scores with NaN, which sorts last, for padding and what was seen; and how many are left."""
    kept_V = score_V.astype(score_V.dtype if score_V.dtype.kind == "f" else np.float64)
    kept_V[0] = np.nan
    if seen_L is None:
        return kept_V, len(kept_V) - 1
    kept_V[seen_L] = np.nan
    return kept_V, len(kept_V) - int(np.isnan(kept_V).sum())


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
