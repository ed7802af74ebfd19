"""The top k in the serving form "demote" out of the items that an index finds by q.v alone, with a certificate.

    score = q.v + beta * min(like - threshold, 0)

``like`` is the log odds of a like less the listener's mean of it over the catalogue. What is added is never positive,
so an item scores at most its q.v. Of the N items with the highest q.v, all others score at most the lowest q.v among
these: once the k-th score of the N reaches that, no other item can be above it, and the top k of the N is that of the
whole catalogue.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from jaxneg.batch.forms import Form
from jaxneg.serve import matrices

START = 64  # items that are looked at first, at least
TIMES = 4  # as many as are wanted, or more


class Reranked(NamedTuple):
    """The best of some items."""

    at_k: np.ndarray  # int64, their places among those given, best first; of equal scores the first
    score_k: np.ndarray
    exact: bool  # whether no item that was not given can be above the last of them


class Best(NamedTuple):
    """The best of all items."""

    at_k: np.ndarray  # int64, their places, best first
    score_k: np.ndarray
    looked: int  # at how many items by q.v


def reranked(rank_N: Float[np.ndarray, "N"], like_N: Float[np.ndarray, "N"], form: Form, k: int) -> Reranked:
    """The k best of N items, and whether they are the best of all.

    Args:
      rank_N: q.v of the N items where it is highest, in any order.
      like_N: their log odds of a like, less the listener's mean.
      form: with beta and threshold.
      k: how many, 1 or more; fewer where there are not as many.

    Examples:
      The first item would be rejected, and falls below the second; a third one may have any score up to 1.

      >>> form = Form("demote", beta=2.0, threshold=0.0)
      >>> reranked(np.array([3.0, 2.0, 1.0]), np.array([-1.0, 0.5, 2.0]), form, 2)
      Reranked(at_k=array([1, 0]), score_k=array([2., 1.]), exact=True)
    """
    score_N = rank_N + form.beta * np.minimum(like_N - form.threshold, 0.0)
    at_k = np.argsort(-score_N, kind="stable")[:k]
    exact = len(at_k) == k and bool(score_N[at_k[-1]] >= rank_N.min())
    return Reranked(at_k, score_N[at_k], exact)


def best(
    rank_V: Float[np.ndarray, "V"],
    like_of: Callable[[Int[np.ndarray, "N"]], Float[np.ndarray, "N"]],
    form: Form,
    k: int,
) -> Best:
    """The k best of all items; more and more of them are looked at until the certificate holds.

    Args:
      rank_V: q.v of all items, -inf of those that are left out.
      like_of: the same of items by their places.
      form: with beta and threshold.
      k: how many; fewer where there are not as many that are not left out.
    """
    there = int((rank_V > -np.inf).sum())
    k, looked = min(k, there), max(START, TIMES * k)
    if not there:
        return Best(np.zeros(0, np.int64), np.zeros(0), 0)
    while True:
        looked = min(looked, there)
        at_N = np.sort(matrices.highest(rank_V, looked))
        found = reranked(rank_V[at_N], like_of(at_N), form, k)
        if found.exact or looked == there:
            return Best(at_N[found.at_k], found.score_k, looked)
        looked *= 4
