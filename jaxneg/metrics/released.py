"""Hit rates as the released code of Seshadri and Knees takes them: among the targets of a batch and random items.

Their batches are groups of ``EvalConfig.released_batch`` examples in order, whatever the batches that are scored.

Reference: Seshadri and Knees, Leveraging Negative Signals with Self-Attention for Sequential Music Recommendation,
2023, arXiv:2309.11623.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from jaxneg import metrics
from jaxneg.config import EvalConfig


def candidates(
    group: int, target_G: Int[np.ndarray, "G"], items: int, config: EvalConfig
) -> Int[np.ndarray, "C"]:
    """The different targets of a group, and ``config.released`` other items, uniform and without replacement.

    Args:
      group: its number, from 0, which with the seed decides the draw.
      target_G: the first liked item of each example, 0 where there is none.
      items: rows of the catalogue without the padding row.
      config: how many other items, and the seed.
    """
    rng = np.random.default_rng((config.pair_seed, 1, group))
    target = np.unique(target_G[target_G > 0]).astype(np.int64)
    free = items - len(target)
    rank = rng.choice(free, size=min(config.released, free), replace=False)  # among the other items, from 0
    before = target - 1 - np.arange(len(target))  # other items below each target
    return np.concatenate([target, rank + 1 + np.searchsorted(before, rank, side="right")])


def width(config: EvalConfig) -> int:
    """Columns of a matrix of candidates: the target, then the candidates, which it is among."""
    return 1 + config.released_batch + config.released


def matrix(
    target_X: Int[np.ndarray, "X"], first: int, last: int, items: int, config: EvalConfig, before: int = 0
) -> Int[np.ndarray, "B C"]:
    """Target and candidates of the examples ``first`` to ``last``, out of the targets of all; 0 fills up.

    ``before`` are groups of other examples before these.
    """
    size = config.released_batch
    item_BC = np.zeros((last - first, width(config)), np.int32)
    item_BC[:, 0] = target_X[first:last]
    for group in range(first // size, -(-last // size)):
        found = candidates(before + group, target_X[group * size : (group + 1) * size], items, config)
        item_BC[max(group * size - first, 0) : (group + 1) * size - first, 1 : len(found) + 1] = found
    return item_BC


def rank(score_BC: Float[np.ndarray, "B C"], item_BC: Int[np.ndarray, "B C"]) -> Float[np.ndarray, "B"]:
    """Rank of the target, the first column, among the candidates, as ``metrics.rank``; NaN without a target."""
    real_BC, target_B1 = item_BC[:, 1:] > 0, score_BC[:, :1]
    above_B = ((score_BC[:, 1:] > target_B1) & real_BC).sum(-1)
    same_B = ((score_BC[:, 1:] == target_B1) & real_BC).sum(-1)
    return np.where(item_BC[:, 0] > 0, 1 + above_B + 0.5 * (same_B - 1), np.nan)


class Hits:
    """Hit rates of examples that come in batches of any size; what was scored waits until its group is whole."""

    def __init__(self, items: int, config: EvalConfig, before: int = 0):
        """Of examples that follow on ``before`` others, which are whole groups."""
        self._items, self._config = items, config
        self._group = before // config.released_batch  # the first one
        self._targets: list[np.ndarray] = []  # of all examples so far
        self._waiting: list[tuple[int, Any]] = []  # examples and scores of each batch that waits
        self._done = self._added = 0  # examples
        self._columns: dict[str, list[np.ndarray]] = {}

    def add(self, target_B: Int[np.ndarray, "B"], scored: Any) -> None:
        """Takes the next examples.

        Args:
          target_B: the first liked item of each, 0 where there is none.
          scored: their scores, as ``scores.Scored``.
        """
        self._targets.append(target_B)
        self._waiting.append((len(target_B), scored))
        self._added += len(target_B)
        self._settle(self._added // self._config.released_batch * self._config.released_batch)

    def values(self) -> dict[str, Float[np.ndarray, "X"]]:
        """released_hit_rate@k and released_candidates of all examples, NaN where there is no target."""
        self._settle(self._added)
        return {name: np.concatenate(column) for name, column in self._columns.items()}

    def _settle(self, whole: int) -> None:
        """Measures the batches whose examples are all below ``whole``, where groups are complete."""
        target_X: Sequence[Any] | np.ndarray | None = None
        while self._waiting and self._done + self._waiting[0][0] <= whole:
            size, scored = self._waiting.pop(0)
            if target_X is None:
                target_X = np.concatenate(self._targets)
            item_BC = matrix(target_X, self._done, self._done + size, self._items, self._config, self._group)
            self._done += size
            rank_B = rank(scored.of(item_BC), item_BC)
            count_B = np.where(item_BC[:, 0] > 0, (item_BC[:, 1:] > 0).sum(-1), np.nan)
            found = {f"released_hit_rate@{k}": metrics.hit_rate(rank_B, k) for k in self._config.ks}
            for name, value_B in {"released_candidates": count_B, **found}.items():
                self._columns.setdefault(name, []).append(value_B)
