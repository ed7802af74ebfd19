"""Songs that a listener has both liked and rejected, and what is held to be his opinion of them."""

from collections.abc import Callable, Iterator

import numpy as np

from jaxneg.data import stores


def is_positive(indptr: np.ndarray, item_P: np.ndarray, user: np.ndarray, item: np.ndarray) -> np.ndarray:
    """Whether each (user, item) is among a user's positives, bool; ``item_P`` ascends within ``indptr``'s ranges."""
    if not len(item_P):
        return np.zeros(len(user), bool)
    low, high = indptr[user], indptr[user + 1]
    place = first(low, high, lambda at: item_P[at] >= item)
    return (place < high) & (item_P[np.minimum(place, len(item_P) - 1)] == item)


def contested(store: stores.Store, event: np.ndarray) -> np.ndarray:
    """Which of these events of the training window are of a song that their listener likes elsewhere in it, bool."""
    user = users_of(store, event)
    indptr, item_P = np.asarray(store.positive_indptr), np.asarray(store.positive_item)
    return is_positive(indptr, item_P, user, np.asarray(store.item_T[event]))


def also_liked(store: stores.Store) -> float:
    """Share of the rejections in training of songs that the same listener also likes in training; NaN without any."""
    found = total = 0
    for event in training_runs(store):
        rejected = event[store.sign[store.feedback_T[event]] < 0]
        found, total = found + int(contested(store, rejected).sum()), total + len(rejected)
    return found / total if total else float("nan")


def kept(store: stores.Store, rejected: np.ndarray, opinion: str) -> np.ndarray:
    """What is left of each rejection once the same listener's likes of the same song are heard, float64 in [0, 1].

    With r rejections and l likes of a song by a listener in the training window:

        all     1
        net     max(r - l, 0) / r, so that the rejections of a song weigh together as much as they outnumber its likes
        latest  1 where the latest of these events is a rejection, else 0; of one time the later place in the log counts

    Args:
      store: that the events are of.
      rejected: places in the log of rejections in the training window.
      opinion: "all", "net" or "latest".
    """
    weight = np.ones(len(rejected))
    if opinion == "all" or not len(rejected):
        return weight
    both = np.flatnonzero(contested(store, rejected))
    key, pair = np.unique(_keys(store, rejected[both]), return_inverse=True)
    events, pairs = [rejected[both]], [pair]
    for run in training_runs(store):
        liked = run[store.sign[store.feedback_T[run]] > 0]
        its = _keys(store, liked)
        place = np.minimum(np.searchsorted(key, its), max(len(key) - 1, 0))
        here = key[place] == its if len(key) else np.zeros(len(its), bool)
        events.append(liked[here])
        pairs.append(place[here])
    event, pair = np.concatenate(events), np.concatenate(pairs)
    like = np.arange(len(event)) >= len(both)
    if opinion == "net":
        rejections, likes = (np.bincount(pair[of], minlength=len(key)) for of in (~like, like))
        left = np.maximum(rejections - likes, 0) / np.maximum(rejections, 1)
    else:
        order = np.lexsort((event, store.time_T[event], pair))
        last = np.append(np.diff(pair[order]) > 0, True) if len(order) else np.zeros(0, bool)
        left = (~like[order[last]]).astype(np.float64)
    weight[both] = left[pair[: len(both)]]
    return weight


def users_of(store: stores.Store, event: np.ndarray) -> np.ndarray:
    """The listener of each event."""
    session = np.searchsorted(np.asarray(store.session_indptr), event, side="right") - 1
    return np.asarray(store.session_user)[session]


def training_runs(store: stores.Store) -> Iterator[np.ndarray]:
    """Places in the log of the events of the training window, ascending, some sessions at a time."""
    indptr, train_end = np.asarray(store.session_indptr), np.asarray(store.session_train_end)
    step = 1 << 16  # sessions at a time bound the memory
    for first_ in range(0, len(train_end), step):
        run = indptr[first_ : first_ + step + 1]
        inside = np.arange(run[0], run[-1]) < np.repeat(train_end[first_ : first_ + step], np.diff(run))
        yield run[0] + np.flatnonzero(inside)


def first(low: np.ndarray, high: np.ndarray, holds: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """The first place in each [low, high) where ``holds`` is true, else high; holds must be monotone."""
    low, high = low.copy(), high.copy()
    while (open_ := low < high).any():
        middle = (low + high) >> 1
        true = np.zeros(len(low), bool)
        # Closed ranges ask a harmless place, so that `holds` sees whole vectors.
        true[:] = holds(np.where(open_, middle, np.maximum(high - 1, 0)))
        low = np.where(open_ & ~true, middle + 1, low)
        high = np.where(open_ & true, middle, high)
    return low


def _keys(store: stores.Store, event: np.ndarray) -> np.ndarray:
    """A number for the (listener, song) of each event."""
    return users_of(store, event).astype(np.int64) * (store.items + 1) + store.item_T[event]
