"""Scores of a catalogue, from queries and the rows of its items."""

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from jaxneg.batch import forms
from jaxneg.batch.forms import Form
from jaxneg.errors import UserError

PARTS = 64  # scores of which only the highest is looked at first
LOWEST = float(np.finfo(np.float32).min)  # of finite scores


class Matrices:
    """Rows of the items as they rank, and as they are judged where the model has a like head."""

    def __init__(self, item_VE: Any, like_VE: Any, items: int):
        self.item_VE = np.asarray(item_VE)  # a memory map is slower to look at
        self.like_VE = None if like_VE is None else np.asarray(like_VE)
        self._items = items

    def of(
        self, query_BE: Float[np.ndarray, "B E"], form: Form, row_N: Int[np.ndarray, "N"] | None = None
    ) -> Float[np.ndarray, "B N"]:
        """Scores in a form, of the whole catalogue or of some rows."""
        if form.name == forms.JUDGE:
            return self.likes(query_BE, row_N)
        score_BN = query_BE @ (self.item_VE if row_N is None else self.item_VE[row_N]).T
        if form.name == forms.SUM:
            return score_BN + form.beta * self.likes(query_BE, row_N)
        if form.name == forms.DEMOTE:
            return score_BN + form.beta * np.minimum(self.relative(query_BE, row_N) - form.threshold, 0.0)
        return score_BN

    def each(self, query_BE: Float[np.ndarray, "B E"], of: Sequence[Form]) -> Float[np.ndarray, "B V"]:
        """Scores of the whole catalogue, of each query in a form of its own."""
        if len(of) == 1 or len({*of}) == 1:
            return self.of(query_BE, of[0])
        score_BV = np.empty((len(of), len(self.item_VE)), np.float32)
        for form in {*of}:
            at = [b for b, other in enumerate(of) if other == form]
            score_BV[at] = self.of(query_BE[at], form)
        return score_BV

    def likes(
        self, query_BE: Float[np.ndarray, "B E"], row_N: Int[np.ndarray, "N"] | None = None
    ) -> Float[np.ndarray, "B N"]:
        """Log odds of a like of all items, or of some."""
        if self.like_VE is None:
            raise UserError("this export has no like head: train with --like.weight 1")
        return query_BE @ (self.like_VE if row_N is None else self.like_VE[row_N]).T

    def relative(
        self, query_BE: Float[np.ndarray, "B E"], row_N: Int[np.ndarray, "N"] | None = None
    ) -> Float[np.ndarray, "B N"]:
        """The same less each context's mean over the catalogue."""
        return self.likes(query_BE, row_N) - query_BE @ self._mean_1E.T

    @functools.cached_property
    def _mean_1E(self) -> np.ndarray:
        """The mean row of the like head."""
        assert self.like_VE is not None
        of_items = self.like_VE[1 : 1 + self._items]
        return of_items.mean(0, keepdims=True, dtype=np.float64).astype(np.float32)


def highest(score_V: Float[np.ndarray, "V"], n: int) -> Int[np.ndarray, "N"]:
    """Places of the n highest that are finite, best first, of equal ones the first.

    Of as many parts of the scores as one likes, n have their highest score at or above the n-th highest of these: what
    is lower cannot be among the n. So most scores are looked at twice, and few are put in order.
    """
    of_parts = score_V
    if len(score_V) > 2 * PARTS * n:
        whole = len(score_V) - len(score_V) % PARTS
        of_parts = score_V[:whole].reshape(PARTS, -1).max(axis=0)
    least = np.partition(of_parts, len(of_parts) - n)[len(of_parts) - n]
    at = (score_V >= max(least, LOWEST)).nonzero()[0]
    return at[(-score_V[at]).argsort(kind="stable")[:n]]
