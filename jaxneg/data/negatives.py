"""Ids offered as negatives: real ones with probability p_hard, else random ones.

Reference: Mei, Bembom and Ehmann, Hard Negative Sampling for Music Recommendation, MuRS 2024.
"""

from typing import NamedTuple

import numpy as np

from jaxneg.data import store as stores

BITS_PER_POSITIVE = 16  # of the filter: about 1 in 16 non-positives needs the exact look-up


class NegativeIndex(NamedTuple):
    """What a draw needs to know of the training window. G groups are (user, station) pairs, P positives."""

    items: int  # rows 1..items may be drawn
    negative_indptr: np.ndarray  # int64 [G + 1], ranges of negative_item
    negative_item: np.ndarray  # int32, real negatives by group, hence by user
    user_group_indptr: np.ndarray  # int64 [users + 1], ranges of groups
    positive_indptr: np.ndarray  # int64 [users + 1], ranges of positive_item
    positive_item: np.ndarray  # int32 [P], ascending within a user
    filter_bits: np.ndarray  # uint8, one hashed bit per (user, positive): a clear bit proves no positive


def negative_index(store: stores.Store) -> NegativeIndex:
    """The index of a store. Keeps 2 bytes per positive in memory; the rest stays memory-mapped."""
    indptr = np.asarray(store.positive_indptr)
    size = 1 << max(10, int(BITS_PER_POSITIVE * max(len(store.positive_item), 1) - 1).bit_length())
    bits = np.zeros(size // 8, np.uint8)
    step = 1 << 22
    for begin in range(0, len(store.positive_item), step):
        item = np.asarray(store.positive_item[begin : begin + step])
        user = np.searchsorted(indptr, np.arange(begin, begin + len(item)), side="right") - 1
        slot = _slot(user.astype(np.int32), item, size)
        np.bitwise_or.at(bits, slot >> 3, (1 << (slot & 7)).astype(np.uint8))
    return NegativeIndex(
        items=store.items,
        negative_indptr=np.asarray(store.negative_indptr),
        negative_item=np.asarray(store.negative_item),
        user_group_indptr=np.asarray(store.user_group_indptr),
        positive_indptr=indptr,
        positive_item=np.asarray(store.positive_item),
        filter_bits=bits,
    )


def draw_negatives(
    rng: np.random.Generator,
    index: NegativeIndex,
    target_P: np.ndarray,
    user_P: np.ndarray,
    group_P: np.ndarray,
    *,
    negatives: int,
    p_hard: float,
    scope: str = "station",
) -> tuple[np.ndarray, np.ndarray]:
    """N negatives for each of P targets, and which of them are hard.

    With probability p_hard a negative is drawn uniformly from the user's negative events at the target's station,
    or, where there are none, from all of the user's negative events; else, and where the user has none at all or
    the draw hits the target itself, uniformly from the items that are not positives of the user.

    Args:
      target_P: rows of the targets, int32.
      user_P: users of the targets.
      group_P: (user, station) groups of the targets.
      negatives: N.
      p_hard: in [0, 1]; the realised share is lower where users lack negatives.
      scope: "station" as above, or "user" to ignore stations.

    Returns: item_PN int32 and hard_PN bool. An item_PN is a positive of the user only if the user likes the whole
      catalogue (random) or has both liked and rejected it (hard).
    """
    shape = (len(target_P), negatives)
    item_PN = rng.integers(1, index.items + 1, size=shape, dtype=np.int32)
    random_PN = ~(rng.random(shape, dtype=np.float32) < p_hard)
    hard_PN = np.zeros(shape, bool)
    if p_hard > 0:
        p, n = _places(~random_PN)
        item, found = _draw_hard(rng, index, target_P[p], user_P[p], group_P[p], scope)
        p, n = p[found], n[found]
        item_PN[p, n] = item[found]
        hard_PN[p, n] = True
    _replace_positives(rng, index, item_PN, user_P, hard_PN)
    return item_PN, hard_PN


def odds(
    positive_V: np.ndarray, negative_V: np.ndarray, *, negatives: int, p_hard: float, prior: float
) -> np.ndarray:
    """The item biases, float32 [V], that binary cross-entropy ends with when nothing is known of the listener.

        bias_i = log P(i is the target) - log(N P(i is drawn as a negative))

    where a draw is from the log's negatives with p_hard, else uniform. Counts are smoothed by ``prior`` events per
    item.

    Args:
      positive_V: positive events of each row in the training window, padding row first.
      negative_V: negative events likewise.
      negatives: N, negatives per target.
      p_hard: share of hard ones.
      prior: above 0.
    """
    total_V = positive_V + negative_V
    share = positive_V.sum() / max(total_V.sum(), 1)
    items = len(total_V) - 1

    def smoothed(count_V: np.ndarray, share: float) -> np.ndarray:
        return (count_V + prior * share) / max(count_V.sum() + prior * share * items, 1e-9)

    drawn_V = p_hard * smoothed(negative_V, 1 - share) + (1 - p_hard) / items
    with np.errstate(divide="ignore"):
        bias_V = np.log(smoothed(positive_V, share)) - np.log(negatives * drawn_V)
    return np.where(np.isfinite(bias_V) & (np.arange(items + 1) > 0), bias_V, 0.0).astype(np.float32)


def _draw_hard(rng, index, target_P, user_P, group_P, scope):
    """One real negative per target, and where there was one."""
    indptr, groups = index.negative_indptr, index.user_group_indptr
    low, high = indptr[group_P], indptr[group_P + 1]
    whole = (
        np.flatnonzero(low == high) if scope == "station" else slice(None)
    )  # where all of the user's serve
    low[whole] = indptr[groups[user_P[whole]]]
    high[whole] = indptr[groups[user_P[whole] + 1]]
    count = high - low
    pick = low + (rng.random(len(target_P)) * count).astype(np.int64)
    found = count > 0
    item = np.zeros(len(target_P), np.int32)
    item[found] = index.negative_item[pick[found]]
    return item, found & (item != target_P)


def _replace_positives(rng, index, item_PN, user_P, hard_PN):
    """Draws again, in place and exactly, each random negative that is a positive of its user."""
    p, n = _places(~hard_PN)
    user, item = user_P[p], item_PN[p, n]
    slot = _slot(user, item, 8 * len(index.filter_bits))
    maybe = np.flatnonzero((index.filter_bits[slot >> 3] >> (slot & 7).astype(np.uint8)) & 1)
    p, n, user, item = p[maybe], n[maybe], user[maybe], item[maybe]
    low, high = index.positive_indptr[user], index.positive_indptr[user + 1]
    place = _first(low, high, lambda at: index.positive_item[at] >= item)
    hit = (place < high) & (index.positive_item[np.minimum(place, len(index.positive_item) - 1)] == item)
    free = index.items - (high - low)
    hit &= free > 0  # a user who likes everything keeps the draw
    p, n, low, high, free = p[hit], n[hit], low[hit], high[hit], free[hit]
    # The k-th item that is no positive is k plus the number of positives before it.
    k = 1 + (rng.random(len(p)) * free).astype(np.int64)
    place = _first(low, high, lambda at: index.positive_item[at] - (at - low) > k)
    item_PN[p, n] = k + (place - low)


def _places(mask_PN):
    """np.nonzero of a matrix; several times faster through its flat form."""
    flat = np.flatnonzero(mask_PN)
    return (flat, np.zeros_like(flat)) if mask_PN.shape[1] == 1 else np.divmod(flat, mask_PN.shape[1])


def _first(low, high, holds):
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


def _slot(user, item, size):
    """A hash of (user, item) in [0, size); size is a power of two."""
    key = user.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + item.astype(np.uint64)
    key *= np.uint64(0xD6E8FEB86659FD93)
    return (key >> np.uint64(65 - size.bit_length())).astype(np.int64)
