"""Liked against disliked items: pair accuracy and AUC. Means that add up across batches and hosts."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int


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
