"""Factorisations of the signs as the host fits them and the devices fold listeners into."""

from typing import NamedTuple

import numpy as np

RANKS = (2, 3, 4, 6, 8, 16)  # numbers of factors
WIDTH = sum(RANKS) + len(RANKS)  # G: factors of all ranks, then a bias of each


class Folded(NamedTuple):
    """Rows of items, and the numbers that listeners are solved with."""

    row_VG: np.ndarray  # float32: factors of each rank one after the other, then the biases of the ranks
    center: float  # mean sign
    l2: float
    l2_bias: float
    scale: float  # of predictions, and
    offset: float  # on top of them, as the log odds of a like

    def factors(self, number: int) -> np.ndarray:
        """Factors and the bias, the last column, of the rank with this number, [V, F + 1]."""
        first = sum(RANKS[:number])
        here = [*range(first, first + RANKS[number]), sum(RANKS) + number]
        return self.row_VG[:, here]
