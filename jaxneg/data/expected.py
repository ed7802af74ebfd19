"""What a target's own negatives are expected to be, worked out from the log instead of drawn.

Follows ``negatives.draw_negatives`` but for draws that hit the target itself. Scope "popularity" counts as "user".
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from jaxneg.config import DataConfig
from jaxneg.data import draws, histories, negatives, opinions, stores


class Hard(NamedTuple):
    """Expected number of draws of each of X rejections in one pass over the targets, were p_hard 1."""

    item_X: np.ndarray
    user_X: np.ndarray
    draws_X: np.ndarray  # float64


def hard(index: negatives.NegativeIndex, store: stores.Store, config: DataConfig) -> Iterator[Hard]:
    """Hard negatives: in their scope, then those of targets whose scope has none, from all of the user's."""
    weight = _running(index.weight, index.negative_item)
    of_user = index.negative_indptr[index.user_group_indptr]
    scope = config.hard_scope
    if scope in ("station", "session"):
        if scope == "session":
            targets_R, user_R = _by_session(store, config), np.asarray(store.session_user)
            indptr, item_X = np.asarray(index.session_indptr), index.session_item
            running = _running(index.session_weight, item_X)
        else:
            targets_R, user_R = _by_group(store, config)
            indptr, item_X, running = index.negative_indptr, index.negative_item, weight
        draws_X, left_R = _spread(targets_R, indptr, running)
        yield Hard(item_X, np.repeat(user_R, np.diff(indptr)), draws_X)
        left_U = np.bincount(user_R, left_R, minlength=store.users)
    else:
        left_U = by_user(store, config)
    draws_X, _ = _spread(left_U, of_user, weight)
    yield Hard(index.negative_item, np.repeat(np.arange(store.users), np.diff(of_user)), draws_X)


def hard_V(index: negatives.NegativeIndex, store: stores.Store, config: DataConfig) -> np.ndarray:
    """Expected number of hard draws of each row in one pass over the targets, were p_hard 1, float64 [V]."""
    return sum(
        (
            np.bincount(its.item_X, its.draws_X, minlength=store.items + 1)
            for its in hard(index, store, config)
        ),
        np.zeros(store.items + 1),
    )


def hard_also_liked(index: negatives.NegativeIndex, store: stores.Store, config: DataConfig) -> float:
    """Share of hard draws of songs that their listener likes elsewhere in the training window; NaN without any."""
    liked = total = 0.0
    for item_X, user_X, draws_X in hard(index, store, config):
        drawn = np.flatnonzero(draws_X)
        its = opinions.is_positive(index.positive_indptr, index.positive_item, user_X[drawn], item_X[drawn])
        liked, total = liked + float(draws_X[drawn][its].sum()), total + float(draws_X[drawn].sum())
    return liked / total if total and config.p_hard > 0 and config.negatives > 0 else float("nan")


def random_V(index: negatives.NegativeIndex, store: stores.Store, config: DataConfig) -> np.ndarray:
    """Chance of each row to be one own negative of a target, and drawn at random, float64 [V]: sums to 1 - hard share.

    Random negatives are no positives of their user. One listener more who likes nothing is reckoned with, so that what
    all others like is not taken to be never drawn.
    """
    row, sizes_U = np.arange(index.items + 1), np.diff(index.positive_indptr)
    targets_U, of_user = by_user(store, config), index.negative_indptr[index.user_group_indptr]
    some_U = np.diff(_running(index.weight, index.negative_item)[of_user]) > 0
    weight_U = targets_U / max(targets_U.sum(), 1) * (1 - config.p_hard * some_U)
    p_V = np.where(row > 0, draws.chance(row, index.items, config.random, index.until_V), 0.0)
    user_P, free_U = np.repeat(np.arange(len(sizes_U)), sizes_U), index.items - sizes_U
    free_U = np.where(free_U > 0, free_U, np.inf)  # a user who likes everything keeps the draw
    # Drawn again in place of a positive, each item that is free has the same chance.
    again_U = np.bincount(user_P, p_V[index.positive_item], minlength=len(sizes_U)) / free_U
    kept = len(sizes_U) / (len(sizes_U) + 1)

    def liked(value_U: np.ndarray) -> np.ndarray:
        value_P = np.where(np.isfinite(free_U), value_U, 0.0)[user_P]
        return kept * np.bincount(index.positive_item, value_P, minlength=len(row))

    drawn_V = (
        p_V * (weight_U.sum() - liked(weight_U)) + (weight_U * again_U).sum() - liked(weight_U * again_U)
    )
    return np.where(row > 0, drawn_V, 0.0)


def by_user(store: stores.Store, config: DataConfig) -> np.ndarray:
    """Targets of each user."""
    targets_G, user_G = _by_group(store, config)
    return np.bincount(user_G, targets_G, minlength=store.users)


def _by_group(store: stores.Store, config: DataConfig) -> tuple[np.ndarray, np.ndarray]:
    """Targets of each (user, station) group, and its user."""
    indptr = np.asarray(store.user_group_indptr)
    targets_G = np.zeros(indptr[-1], np.int64)
    for event in _targets(store, config):
        targets_G += np.bincount(store.group_T[event], minlength=len(targets_G))
    return targets_G, np.repeat(np.arange(len(indptr) - 1), np.diff(indptr))


def _by_session(store: stores.Store, config: DataConfig) -> np.ndarray:
    """Targets of each session."""
    indptr = np.asarray(store.session_indptr)
    targets = np.zeros(len(indptr) - 1, np.int64)
    for event in _targets(store, config):
        targets += np.bincount(np.searchsorted(indptr, event, side="right") - 1, minlength=len(targets))
    return targets


def _targets(store: stores.Store, config: DataConfig) -> Iterator[np.ndarray]:
    """Events that are ranked high where they are targets; the first of a session is taken for one too."""
    counted = histories.shown_kinds(config) & ((np.asarray(store.sign) > 0) | (config.target == "any"))
    for event in opinions.training_runs(store):
        yield event[counted[store.feedback_T[event]]]


def _running(weight: np.ndarray, item_X: np.ndarray) -> np.ndarray:
    """Running sum of the weights of entries, 0 first; where none are given all weigh alike."""
    return weight if len(weight) else np.arange(len(item_X) + 1.0)


def _spread(targets_R: np.ndarray, indptr: np.ndarray, running: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Draws of each entry where each range's targets draw by weight; the targets of ranges without any weight."""
    total_R = np.diff(running[indptr])
    some_R = total_R > 0
    rate_R = np.where(some_R, targets_R, 0.0) / np.where(some_R, total_R, 1.0)
    return np.repeat(rate_R, np.diff(indptr)) * np.diff(running), np.where(some_R, 0.0, targets_R)
