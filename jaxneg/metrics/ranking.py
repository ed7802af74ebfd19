"""Where targets stand in the whole catalogue, and the figures of a rank: HR, NDCG, MRR, MAP, log rank."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

Scores = Float[np.ndarray, "B V"]
BLOCK = 1 << 18  # scores that are ranked at a time
FEW = 8  # targets of an example that are counted one by one
GROUPS = 4  # groups of columns for each item that is to lead
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
    the more frequent item. Raises ValueError on scores that are NaN.

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
    _check(score_BV)
    target_BC = np.concatenate([np.zeros((len(score_BV), 0), np.int64), *targets], axis=1)
    rank_BC = np.full(target_BC.shape, np.nan)
    top_Bk = np.zeros((len(score_BV), k), np.int64)
    for some in _blocks(score_BV):
        kept_BV = _kept(score_BV[some], None if seen_BL is None else seen_BL[some])
        rank_BC[some] = _ranks(kept_BV, score_BV[some], target_BC[some])
        top_Bk[some] = _leading(kept_BV, k)
    ends = np.cumsum([target.shape[1] for target in targets])[:-1]
    return Ranking(tuple(np.split(rank_BC, ends, axis=1)) if targets else (), top_Bk)


def top(
    score_BV: Scores, *, k: int, seen_BL: Int[np.ndarray, "B L"] | None = None
) -> Int[np.ndarray, "B {k}"]:
    """The top k of ``rank`` alone. Raises ValueError on scores that are NaN.

    Examples:
      >>> top(np.array([[0.0, 0.5, 0.9, 0.5]]), k=2, seen_BL=np.array([[2]])).tolist()
      [[1, 3]]
    """
    _check(score_BV)
    top_Bk = np.zeros((len(score_BV), k), np.int64)
    for some in _blocks(score_BV):
        top_Bk[some] = _leading(_kept(score_BV[some], None if seen_BL is None else seen_BL[some]), k)
    return top_Bk


def _check(score_BV: np.ndarray) -> None:
    # The lowest is NaN where any is; looking for it makes no array as large as the scores.
    if np.isnan(score_BV[:, 1:].min(initial=0)):
        raise ValueError(NAN)


def _blocks(score_BV: np.ndarray) -> Iterator[slice]:
    """Some examples at a time, whose scores stay in a core's cache."""
    rows = max(BLOCK // score_BV.shape[1], 1)
    return (slice(first, first + rows) for first in range(0, len(score_BV), rows))


def _kept(score_BV: np.ndarray, seen_BL: np.ndarray | None) -> np.ndarray:
    """The scores with NaN, which is neither above anything nor leads, for padding and what was seen."""
    kept_BV = score_BV.astype(score_BV.dtype if score_BV.dtype.kind == "f" else np.float64)
    kept_BV[:, 0] = np.nan
    if seen_BL is not None:
        kept_BV[np.arange(len(seen_BL))[:, None], seen_BL] = np.nan
    return kept_BV


def _ranks(kept_BV: np.ndarray, score_BV: np.ndarray, target_BC: np.ndarray) -> np.ndarray:
    """Ranks of targets among what is kept, NaN where there is none; many of an example are found by a sort."""
    rank_BC = np.full(target_BC.shape, np.nan)
    few_B = np.count_nonzero(target_BC, axis=1) <= FEW
    for c in range(target_BC.shape[1]):
        at = np.flatnonzero((target_BC[:, c] != 0) & few_B)
        if not len(at):
            continue
        some_BV, target_B1 = kept_BV if len(at) == len(kept_BV) else kept_BV[at], target_BC[at, c, None]
        score_B1 = np.take_along_axis(score_BV[at], target_B1, axis=1)
        above_B, not_below_B = _count(some_BV > score_B1), _count(some_BV >= score_B1)
        itself_B = ~np.isnan(np.take_along_axis(some_BV, target_B1, axis=1))[:, 0]
        rank_BC[at, c] = 1 + above_B + 0.5 * (not_below_B - above_B - itself_B)
    for b in np.flatnonzero(~few_B):
        sorted_C = np.sort(kept_BV[b])
        sorted_C = sorted_C[: np.searchsorted(sorted_C, np.nan)]
        real = np.flatnonzero(target_BC[b])
        target = target_BC[b, real]
        below, not_above = (
            np.searchsorted(sorted_C, score_BV[b, target], side) for side in ("left", "right")
        )
        itself = ~np.isnan(kept_BV[b, target])
        rank_BC[b, real] = 1 + len(sorted_C) - not_above + 0.5 * (not_above - below - itself)
    return rank_BC


def _count(true_BV: np.ndarray) -> np.ndarray:
    """How many of each row are true; half the time of ``np.count_nonzero`` along an axis."""
    return true_BV.view(np.uint8).sum(axis=1, dtype=np.uint32).astype(np.int64)


def _leading(kept_BV: np.ndarray, k: int) -> np.ndarray:
    """Columns of the k highest scores, best first, ties by column; 0 where there are no more.

    The k-th of the maxima of groups of columns is no higher than the k-th score: few others reach it. A group's
    columns lie far apart, as neighbours are alike.
    """
    B, V = kept_BV.shape
    top_Bk = np.zeros((B, k), np.int64)
    if not k:
        return top_Bk
    together = max(V // (GROUPS * k), 1)
    groups = V // together
    best_BG = np.fmax.reduce(kept_BV[:, : groups * together].reshape(B, together, groups), axis=1)
    best_BG = np.concatenate([best_BG, kept_BV[:, groups * together :]], axis=1)
    best_BG[np.isnan(best_BG)] = -np.inf
    place = max(best_BG.shape[1] - k, 0)
    least_B1 = np.partition(best_BG, place, axis=1)[:, place, None]
    at = np.flatnonzero(kept_BV >= least_B1)
    example, column = np.divmod(at, V)
    count_B = np.bincount(example, minlength=B)
    nth = np.arange(len(at)) - np.repeat(np.cumsum(count_B) - count_B, count_B)
    # Behind the highest of an example come the places that it leaves free.
    score_BC = np.full((B, max(int(count_B.max()), k)), np.nan, kept_BV.dtype)
    column_BC = np.zeros(score_BC.shape, np.int64)
    score_BC[example, nth], column_BC[example, nth] = -kept_BV.reshape(-1)[at], column
    order_BC = np.argsort(score_BC, axis=1)
    sorted_BC = np.take_along_axis(score_BC, order_BC, axis=1)
    # A sort that keeps the order of ties takes four times as long.
    if (sorted_BC[:, 1:] == sorted_BC[:, :-1]).any():
        order_BC = np.argsort(score_BC, axis=1, kind="stable")
    return np.take_along_axis(column_BC, order_BC[:, :k], axis=1)


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
