"""Ids offered as negatives: real ones with probability p_hard, else random ones; and those shared by a batch.

Reference: Mei, Bembom and Ehmann, Hard Negative Sampling for Music Recommendation, MuRS 2024.
"""

import threading
from typing import NamedTuple

import numpy as np

from jaxneg.batch import CODE, FEEDBACK
from jaxneg.config import DataConfig, parts
from jaxneg.data import draws, opinions, stores

NEAREST = 4  # hard negatives from which scope "popularity" takes the one nearest in count to the target
BITS_PER_POSITIVE = 16  # of the filter: about 1 in 16 non-positives needs the exact look-up


class Filter:
    """Which (user, item) may be a positive, by one hashed bit for each that is: a clear bit proves that it is none.

    2 bytes per positive of memory and a pass over all, when it is asked first: where no negatives are drawn for
    targets, as where all are shared, it never is.
    """

    def __init__(self, indptr: np.ndarray, item: np.ndarray):
        self._indptr, self._item, self._making = indptr, item, threading.Lock()
        self._bits: np.ndarray | None = None

    def maybe(self, user: np.ndarray, item: np.ndarray) -> np.ndarray:
        """Places of the pairs that may be positives."""
        if not len(user):
            return np.zeros(0, np.int64)
        with self._making:  # several threads make batches
            if self._bits is None:
                self._bits = self._made()
        bits = self._bits
        slot = _slot(user, item, 8 * len(bits))
        return np.flatnonzero((bits[slot >> 3] >> (slot & 7).astype(np.uint8)) & 1)

    def _made(self) -> np.ndarray:
        size = 1 << max(10, int(BITS_PER_POSITIVE * max(len(self._item), 1) - 1).bit_length())
        bits = np.zeros(size // 8, np.uint8)
        step = 1 << 22
        for begin in range(0, len(self._item), step):
            item = np.asarray(self._item[begin : begin + step])
            user = np.searchsorted(self._indptr, np.arange(begin, begin + len(item)), side="right") - 1
            slot = _slot(user.astype(np.int32), item, size)
            np.bitwise_or.at(bits, slot >> 3, (1 << (slot & 7)).astype(np.uint8))
        return bits


class NegativeIndex(NamedTuple):
    """What a draw needs to know of the training window. G groups are (user, station) pairs, P positives."""

    items: int  # rows 1..items may be drawn
    negative_indptr: np.ndarray  # int64 [G + 1], ranges of negative_item
    negative_item: np.ndarray  # int32, real negatives by group, hence by user
    user_group_indptr: np.ndarray  # int64 [users + 1], ranges of groups
    positive_indptr: np.ndarray  # int64 [users + 1], ranges of positive_item
    positive_item: np.ndarray  # int32 [P], ascending within a user
    filter: Filter  # of these
    # float64, log(1 + signed events in training) of each row; empty unless scope is popularity
    log_count_V: np.ndarray
    session_indptr: np.ndarray  # int64 [sessions + 1], ranges of session_item; empty unless scope is session
    session_item: np.ndarray  # int32, real negatives by session; empty unless scope is session
    # float64, running sum of the weights of negative_item, 0 first; empty if all weigh alike
    weight: np.ndarray
    session_weight: np.ndarray  # float64, of session_item likewise
    until_V: np.ndarray  # int64, training events of rows up to each; empty unless random draws are by count


def negative_index(
    store: stores.Store,
    scope: str = "station",
    *,
    skip: float = 1.0,
    thumb_down: float = 1.0,
    opinion: str = "all",
    random: str = "uniform",
) -> NegativeIndex:
    """The index of a store, memory-mapped but for its ``Filter``.

    Scope "session", unequal weights and opinions take 4 to 40 bytes more per negative of the training window.

    Args:
      store: whose training window is drawn from.
      scope: that ``draw_negatives`` will be asked for.
      skip: weight of a skip among hard negatives.
      thumb_down: weight of a thumbs-down.
      opinion: what counts of a song that its listener has liked too, as in ``opinions.kept``.
      random: draw of random negatives; of those by count it takes 8 bytes per item.
    """
    none, negative_item = np.zeros(0), np.asarray(store.negative_item)
    indptr, positive_item = np.asarray(store.positive_indptr), np.asarray(store.positive_item)
    session_indptr = session_item = weight = session_weight = none
    weighted = skip != thumb_down or opinion != "all"
    if weighted or scope == "session":
        runs = [event[store.sign[store.feedback_T[event]] < 0] for event in opinions.training_runs(store)]
        event = np.concatenate(runs) if runs else np.zeros(0, np.int64)
        of_kind = np.ones(len(FEEDBACK))
        of_kind[CODE["skip"]], of_kind[CODE["thumb_down"]] = skip, thumb_down
        weight_T = of_kind[store.feedback_T[event]] * opinions.kept(store, event, opinion)
        if scope == "session":
            session_indptr = np.searchsorted(event, np.asarray(store.session_indptr))
            session_item = store.item_T[event]
        if weighted:
            by_group = np.argsort(store.group_T[event], kind="stable")
            negative_item = store.item_T[event][by_group]  # in the order of the weights
            weight = np.concatenate([[0.0], np.cumsum(weight_T[by_group])])
            session_weight = np.concatenate([[0.0], np.cumsum(weight_T)]) if scope == "session" else none
    return NegativeIndex(
        items=store.items,
        negative_indptr=np.asarray(store.negative_indptr),
        negative_item=negative_item,
        user_group_indptr=np.asarray(store.user_group_indptr),
        positive_indptr=indptr,
        positive_item=positive_item,
        filter=Filter(indptr, positive_item),
        log_count_V=np.log1p(sum(train_counts(store))) if scope == "popularity" else none,
        session_indptr=session_indptr,
        session_item=session_item,
        weight=weight,
        session_weight=session_weight,
        until_V=np.cumsum(event_counts(store)) if parts.SAMPLERS[random].counted else np.zeros(0, np.int64),
    )


def train_counts(store: stores.Store) -> tuple[np.ndarray, np.ndarray]:
    """Positive and negative events of each row in the training window, int64 [V] each."""
    counts = np.zeros((2, store.items + 1), np.int64)
    for event in opinions.training_runs(store):
        item, sign = store.item_T[event], store.sign[store.feedback_T[event]]
        for row, value in enumerate((1, -1)):
            counts[row] += np.bincount(item[sign == value], minlength=store.items + 1)
    return counts[0], counts[1]


def index_of(store: stores.Store, config: DataConfig) -> NegativeIndex:
    """The index that the draws of a config need."""
    return negative_index(
        store,
        config.hard_scope,
        skip=config.hard_skip,
        thumb_down=config.hard_thumb_down,
        opinion=config.hard_opinion,
        random=config.random,
    )


def event_counts(store: stores.Store) -> np.ndarray:
    """Events of each row in the training window, of whatever feedback, int64 [V]."""
    count_V = np.zeros(store.items + 1, np.int64)
    for event in opinions.training_runs(store):
        count_V += np.bincount(store.item_T[event], minlength=store.items + 1)
    return count_V


class Targets(NamedTuple):
    """P targets that negatives are drawn for."""

    item_P: np.ndarray  # int32, rows
    user_P: np.ndarray
    group_P: np.ndarray  # (user, station) groups
    session_P: np.ndarray | None = None  # scope "session" needs them

    def at(self, p: np.ndarray) -> "Targets":
        """Those with these numbers."""
        session_P = None if self.session_P is None else self.session_P[p]
        return Targets(self.item_P[p], self.user_P[p], self.group_P[p], session_P)


class Draw(NamedTuple):
    """How negatives are drawn."""

    negatives: int  # N for each target
    p_hard: float  # in [0, 1]; the realised share is lower where users lack negatives
    # "station", "session" for the target's own; "user" to ignore both; "popularity" for the nearest to the target in
    # training count, in logs, of NEAREST draws from the user's.
    scope: str = "station"
    random: str = (
        "uniform"  # as in ``draws.random_items``; a draw that is a positive is drawn again uniformly
    )


def draw_negatives(
    rng: np.random.Generator, index: NegativeIndex, targets: Targets, how: Draw
) -> tuple[np.ndarray, np.ndarray]:
    """N negatives for each of P targets, and which of them are hard.

    With probability p_hard a negative is drawn from the user's negative events in the target's scope, each with the
    weight of its kind, or, where there are none, from all of the user's negative events; else, and where the user has
    none at all or the draw hits the target itself, from the items that are not positives of the user.

    Returns: item_PN int32 and hard_PN bool. An item_PN is a positive of the user only if the user likes the whole
      catalogue (random) or has both liked and rejected it (hard).
    """
    shape = (len(targets.item_P), how.negatives)
    item_PN = draws.random_items(rng, index.items, shape, how.random, index.until_V)
    random_PN = ~(rng.random(shape, dtype=np.float32) < how.p_hard)
    hard_PN = np.zeros(shape, bool)
    if how.p_hard > 0:
        p, n = _places(~random_PN)
        item, found = _draw_hard(rng, index, targets.at(p), how.scope)
        p, n = p[found], n[found]
        item_PN[p, n] = item[found]
        hard_PN[p, n] = True
    _replace_positives(rng, index, item_PN, targets.user_P, hard_PN)
    return item_PN, hard_PN


def _draw_hard(
    rng: np.random.Generator, index: NegativeIndex, targets: Targets, scope: str
) -> tuple[np.ndarray, np.ndarray]:
    """One real negative per target, and where there was one."""
    target_P, user_P, group_P, session_P = targets
    groups = index.user_group_indptr
    of_user = index.negative_indptr[groups[user_P]], index.negative_indptr[groups[user_P + 1]]
    if scope == "station":
        of_scope = index.negative_indptr[group_P], index.negative_indptr[group_P + 1]
        item, found = _pick(rng, index.negative_item, index.weight, *of_scope)
    elif scope == "session":
        assert session_P is not None
        of_scope = index.session_indptr[session_P], index.session_indptr[session_P + 1]
        item, found = _pick(rng, index.session_item, index.session_weight, *of_scope)
    elif scope == "user":
        item, found = _pick(rng, index.negative_item, index.weight, *of_user)
    else:
        tries = [_pick(rng, index.negative_item, index.weight, *of_user) for _ in range(NEAREST)]
        item_RP = np.stack([item for item, _ in tries])
        distance_RP = np.abs(index.log_count_V[item_RP] - index.log_count_V[target_P])
        nearest_1P = np.argmin(np.where(item_RP == target_P, np.inf, distance_RP), axis=0)[None]
        item, found = np.take_along_axis(item_RP, nearest_1P, axis=0)[0], tries[0][1]
    if scope in ("station", "session"):
        lacks = np.flatnonzero(~found)
        item[lacks], found[lacks] = _pick(
            rng, index.negative_item, index.weight, of_user[0][lacks], of_user[1][lacks]
        )
    return item, found & (item != target_P)


def _pick(
    rng: np.random.Generator, item: np.ndarray, weight: np.ndarray, low: np.ndarray, high: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """One entry of each range [low, high) of ``item``, by weight, and where there was one."""
    chance = rng.random(len(low))
    if len(weight):
        begin, end = weight[low], weight[high]
        found = end > begin
        # Below the end also where the sum rounds up to it: what stands last may weigh nothing.
        at = np.minimum(begin + chance * (end - begin), np.nextafter(end, -np.inf))
        place = np.searchsorted(weight, at, side="right") - 1
        place = np.clip(place, low, np.maximum(high - 1, low))
    else:
        found = high > low
        place = low + (chance * (high - low)).astype(np.int64)
    picked = np.zeros(len(low), np.int32)
    picked[found] = item[place[found]]
    return picked, found


def _replace_positives(
    rng: np.random.Generator,
    index: NegativeIndex,
    item_PN: np.ndarray,
    user_P: np.ndarray,
    hard_PN: np.ndarray,
) -> None:
    """Draws again, in place and exactly, each random negative that is a positive of its user."""
    p, n = _places(~hard_PN)
    user, item = user_P[p], item_PN[p, n]
    maybe = index.filter.maybe(user, item)
    p, n, user, item = p[maybe], n[maybe], user[maybe], item[maybe]
    low, high = index.positive_indptr[user], index.positive_indptr[user + 1]
    place = opinions.first(low, high, lambda at: index.positive_item[at] >= item)
    hit = (place < high) & (index.positive_item[np.minimum(place, len(index.positive_item) - 1)] == item)
    free = index.items - (high - low)
    hit &= free > 0  # a user who likes everything keeps the draw
    p, n, low, high, free = p[hit], n[hit], low[hit], high[hit], free[hit]
    # The k-th item that is no positive is k plus the number of positives before it.
    k = 1 + (rng.random(len(p)) * free).astype(np.int64)
    place = opinions.first(low, high, lambda at: index.positive_item[at] - (at - low) > k)
    item_PN[p, n] = k + (place - low)


def _places(mask_PN: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """np.nonzero of a matrix; several times faster through its flat form."""
    flat = np.flatnonzero(mask_PN)
    return (flat, np.zeros_like(flat)) if mask_PN.shape[1] == 1 else np.divmod(flat, mask_PN.shape[1])


def _slot(user: np.ndarray, item: np.ndarray, size: int) -> np.ndarray:
    """A hash of (user, item) in [0, size); size is a power of two."""
    key = user.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + item.astype(np.uint64)
    key *= np.uint64(0xD6E8FEB86659FD93)
    return (key >> np.uint64(65 - size.bit_length())).astype(np.int64)
