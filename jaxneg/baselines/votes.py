"""Votes of the sessions, or users, that agree with a context, for ``counting.item_item``.

In the shapes, S counts the sessions or users.
"""

from collections.abc import Callable

import numpy as np
import scipy.sparse as sp

SQUARE = 2500  # rows of the largest catalogue with tables of items by items, of 25 MB each


class Votes:
    """The profiles of items, from which a setting makes votes.

    Of a catalogue of up to SQUARE rows the products of the profiles are made once, and a setting weighs them. Of a
    larger one nothing of size items by items is made: votes are collected per session.
    """

    def __init__(self, table: dict[int, sp.csr_array]):
        """Of tables of ones, [S, V]: the items that each session liked, by sign 1, and disliked, by -1."""
        self._table = table
        size = {s: np.asarray(of_SV.sum(axis=0)).ravel() for s, of_SV in table.items()}
        self._size = {s: np.maximum(size_V, 1.0) for s, size_V in size.items()}
        self._met: dict[
            tuple[int, int], np.ndarray
        ] = {}  # sessions that hold both items, by the signs of each
        if len(self._size[1]) <= SQUARE:
            self._met = {(s, r): (table[s].T @ table[r]).toarray() for s in table for r in table}

    def weighed(self, damping: float, against: float) -> Callable[[sp.csr_array], np.ndarray]:
        """Votes for each item [B, V] from contexts [B, 2V]: the liked items, then the disliked ones."""
        factor = {s: 1.0 / size_V**damping for s, size_V in self._size.items()}
        if self._met:
            vote, weight = {1: 1.0, -1: -against}, {1: 1.0, -1: against}
            of_VV = np.concatenate(
                [
                    weight[s]
                    * sum(vote[r] * factor[s][:, None] * self._met[s, r] * factor[r] for r in (1, -1))
                    for s in (1, -1)
                ]
            )
            return lambda context_BV: context_BV @ of_VV
        scaled = {s: sp.csr_array(of_SV @ sp.diags_array(factor[s])) for s, of_SV in self._table.items()}
        turned_VS = sp.csr_array(sp.vstack([scaled[1].T, against * scaled[-1].T]))

        def votes(context_BV: sp.csr_array) -> np.ndarray:
            votes_BS = context_BV @ turned_VS
            return (votes_BS @ scaled[1]).toarray() - against * (votes_BS @ scaled[-1]).toarray()

        return votes
