"""Lists out of a catalogue: of all of it, or of what an index finds, which is scored exactly."""

import collections
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float

from jaxneg.batch import PAD, forms
from jaxneg.serve import demotion, matrices
from jaxneg.serve.choice import Attributes
from jaxneg.serve.lists import Best, Ready
from jaxneg.serve.matrices import Matrices

# queries, their serving form, n -> rows of the n items that an index finds for each, PAD where there are fewer
Search = Callable[[np.ndarray, forms.Form, int], np.ndarray]
MOST = 2048  # items that an index is asked for; a list that needs more is made of the whole catalogue
TIMES = 4  # as many as are wanted, where some may be passed over or fall


class Whole:
    """Lists out of the scores of the whole catalogue."""

    def __init__(self, scores: Matrices, attributes: Attributes, items: int):
        self._scores, self._attributes, self._items = scores, attributes, items

    def best(self, query_BE: Float[np.ndarray, "B E"], wanted: Sequence[Ready]) -> list[Best]:
        """The list of each; all scores are in memory together."""
        # What form demote moves down is looked for among what ranks highest.
        of = [forms.Form() if one.form.name == forms.DEMOTE else one.form for one in wanted]
        score_BV = self._scores.each(query_BE, of)
        return [self._one(query_BE[b : b + 1], score_BV[b], one) for b, one in enumerate(wanted)]

    def _one(self, query_1E: np.ndarray, score_V: np.ndarray, wanted: Ready) -> Best:
        form = wanted.form
        score_V[PAD] = -np.inf
        if len(wanted.out_N):
            score_V[wanted.out_N] = -np.inf

        def top(n: int) -> tuple[np.ndarray, np.ndarray]:
            if form.name == forms.DEMOTE:
                found = demotion.best(
                    score_V, lambda row_N: self._scores.relative(query_1E, row_N)[0], form, n
                )
                return found.at_k, found.score_k
            best = matrices.highest(score_V, min(n, self._items))
            return best, score_V[best]

        return Best(*self._attributes.capped(top, wanted.k, wanted.choice, self._items))


class Nearest:
    """Lists by an index."""

    def __init__(self, search: Search, scores: Matrices, attributes: Attributes):
        self._search, self._scores, self._attributes = search, scores, attributes

    def best(self, query_BE: Float[np.ndarray, "B E"], wanted: Sequence[Ready]) -> list[Best | None]:
        """The list of each; None where it needs the whole catalogue: where filters leave little of what was found,
        and in form demote where what was not found may be above it."""
        found: list[Best | None] = [None] * len(wanted)
        alike = collections.defaultdict[tuple[forms.Form, int], list[int]](list)
        for b, one in enumerate(wanted):
            alike[one.form, _some(one)].append(b)
        for (form, some), at in alike.items():
            if some > MOST:
                continue
            # What is alike is searched for together: an index takes one query in a call as long as another to begin.
            row_BN = self._search(query_BE if len(at) == len(query_BE) else query_BE[at], form, some)
            for b, row_N in zip(at, row_BN, strict=True):
                found[b] = self._one(query_BE[b : b + 1], row_N, wanted[b])
        return found

    def _one(self, query_1E: np.ndarray, row_N: np.ndarray, wanted: Ready) -> Best | None:
        k, form = wanted.k, wanted.form
        row_N = row_N[row_N != PAD]
        # All that was found, also what is left out: by it is known how high the rest can be in form demote.
        rank_N = self._scores.of(query_1E, forms.Form(), row_N)[0] if form.name == forms.DEMOTE else None
        if len(wanted.out_N):
            row_N = row_N[~np.isin(row_N, wanted.out_N)]
        if len(row_N) < k:
            return None
        score_N = self._scores.of(query_1E, form, row_N)[0]
        order_N = np.argsort(-score_N, kind="stable")
        row_N, score_N = row_N[order_N], score_N[order_N]
        found = self._attributes.capped(lambda n: (row_N[:n], score_N[:n]), k, wanted.choice, len(row_N))
        if len(found[0]) < k or (rank_N is not None and found[1][-1] < rank_N.min()):
            return None
        return Best(*found)


def _some(wanted: Ready) -> int:
    """How many items an index is asked for."""
    capped = wanted.choice.at_most or wanted.form.name == forms.DEMOTE
    # A filter by attributes leaves out a part of the catalogue, mostly more than can be asked for beside.
    return (TIMES if capped else 1) * wanted.k + len(wanted.out_N)
