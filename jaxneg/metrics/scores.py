"""Scores of the catalogue for the examples of a batch: a matrix at hand, or whatever can answer for one."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol, runtime_checkable

import numpy as np

from jaxneg import metrics
from jaxneg.batch import EvalBatch


@runtime_checkable
class Scored(Protocol):
    """Scores of the whole catalogue for the examples of a batch, wherever they are."""

    def of(self, item_BC: np.ndarray) -> np.ndarray:
        """Scores of these items, score_BC; of item 0 anything."""
        ...

    def rank(self, targets: tuple[np.ndarray, ...], *, k: int, seen_BL: np.ndarray | None) -> metrics.Ranking:
        """As ``metrics.rank``."""
        ...


class Matrix:
    """Scores that are at hand, score_BV; column 0 is ignored."""

    def __init__(self, score_BV: np.ndarray):
        self.score_BV = score_BV

    def of(self, item_BC: np.ndarray) -> np.ndarray:
        return np.take_along_axis(self.score_BV, np.asarray(item_BC), axis=1)

    def rank(self, targets: tuple[np.ndarray, ...], *, k: int, seen_BL: np.ndarray | None) -> metrics.Ranking:
        if not targets:  # which needs no sort
            return metrics.Ranking((), metrics.top(self.score_BV, k=k, seen_BL=seen_BL))
        return metrics.rank(self.score_BV, targets, k=k, seen_BL=seen_BL)


class _Rows:
    """Some rows of a batch's scores."""

    def __init__(self, scored: Scored, real: np.ndarray, size: int):
        self.scored, self.real, self.size = scored, real, size

    def of(self, item_BC: np.ndarray) -> np.ndarray:
        return self.scored.of(self._filled(item_BC))[self.real]

    def rank(self, targets: tuple[np.ndarray, ...], *, k: int, seen_BL: np.ndarray | None) -> metrics.Ranking:
        seen_BL = seen_BL if seen_BL is None else self._filled(seen_BL)
        found = self.scored.rank(tuple(map(self._filled, targets)), k=k, seen_BL=seen_BL)
        return metrics.Ranking(
            tuple(rank_BC[self.real] for rank_BC in found.targets), found.top_Bk[self.real]
        )

    def _filled(self, item_BC: np.ndarray) -> np.ndarray:
        whole_BC = np.zeros((self.size, item_BC.shape[1]), np.int32)
        whole_BC[self.real] = item_BC
        return whole_BC


def of_rows(scored: Scored, at: np.ndarray, size: int) -> Scored:
    """Scores of some of a batch's ``size`` examples; those of the others may be anything, also NaN."""
    if len(at) == size:
        return scored
    return Matrix(scored.score_BV[at]) if isinstance(scored, Matrix) else _Rows(scored, at, size)


def scored(found: Any) -> Scored:
    """What a score function gave, as ``Scored``."""
    return found if isinstance(found, Scored) else Matrix(np.asarray(found))


# To scores_BV of the whole catalogue, numpy or jax, or to Scored where no one place holds them.
Score = Callable[[EvalBatch], Any]


@runtime_checkable
class Ahead(Protocol):
    """A score function that is quicker where it sees many batches together."""

    def each(self, batches: Iterable[EvalBatch]) -> Iterator[tuple[EvalBatch, Scored]]:
        """The batches in turn with their scores; some may be read ahead."""
        ...


def each(score: Score, batches: Iterable[EvalBatch]) -> Iterator[tuple[EvalBatch, Scored]]:
    """The batches in turn, with their scores."""
    if isinstance(score, Ahead):
        return score.each(batches)
    return ((batch, scored(score(batch))) for batch in batches)
