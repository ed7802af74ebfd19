"""Held-out examples of a store: what a model sees, and the liked and disliked items that follow."""

from collections.abc import Iterator

import numpy as np

from jaxneg.batch import PAD, EvalBatch
from jaxneg.config import DataConfig, EvalConfig
from jaxneg.data import histories, pipeline, store as stores
from jaxneg.errors import UserError


class EvalBatches:
    """Held-out examples of a split ("validation" or "test"), a batch at a time, in the order of the store.

    Each session with signed events in the split gives one example. Its context is what precedes the split's events:
    in the session, or with reach "user" in all of the user's history: the last events of the kinds that are inputs. A
    session that lies wholly in the split is cut
    in its middle: its first half is context, its second half held out. Examples without context are left out and
    counted in ``cold``.
    """

    def __init__(self, store: stores.Store, data: DataConfig, config: EvalConfig, split: str):
        if data.reach == "user":
            pipeline.check_reach(store)
        indptr = np.asarray(store.session_indptr)
        train_end, valid_end = np.asarray(store.session_train_end), np.asarray(store.session_valid_end)
        cut, end = (train_end, valid_end) if split == "validation" else (valid_end, indptr[1:])
        begin = indptr[:-1]
        cut = np.where(cut == begin, begin + (end - begin) // 2, cut)
        user = np.asarray(store.session_user)
        if data.reach == "user":
            begin = indptr[np.asarray(store.user_indptr)[user]]
        held_out = np.flatnonzero(end > cut)
        self._signed(store, cut[held_out], end[held_out])
        signed = np.bincount(self.example_S, minlength=len(held_out)) > 0
        warm = cut[held_out] > begin[held_out]
        self.cold = int((signed & ~warm).sum())
        keep = signed & warm
        kept = held_out[keep]
        self.begin_X, self.cut_X, self.user_X = begin[kept], cut[kept], user[kept].astype(np.int32)
        self.session_X = kept  # what an example is known by, whatever its context
        renumber = np.cumsum(keep) - 1
        events = keep[self.example_S]
        self.example_S, self.event_S = renumber[self.example_S[events]], self.event_S[events]
        self.liked_S = self.liked_S[events]
        self.examples = len(kept)
        if self.examples == 0:
            raise UserError(
                f"no {split} example: no session has a liked or disliked event in that split after a context"
            )
        # A draw for those without context too: one example has one pair, however far back inputs go.
        draw_X = np.random.default_rng(config.pair_seed).random(int(signed.sum()))[warm[signed]]
        self.pair_X2 = _pairs(store, self, draw_X)
        self.share_X = _shares(store)[self.user_X]
        self.width = 1
        for sign in (True, False):
            counts = np.bincount(self.example_S[self.liked_S == sign], minlength=self.examples)
            self.width = max(self.width, int(counts.max()))
        self.store, self.data, self.config = store, data, config
        self._columns = store.item_T, store.feedback_T, store.station_T
        self._shown = histories.Shown(store, data)

    def _signed(self, store, cut_X, end_X):
        """The S held-out events with an opinion: their example, place in the log, and whether liked."""
        size = end_X - cut_X
        example = np.repeat(np.arange(len(size)), size)
        event = np.arange(len(example)) + np.repeat(cut_X - (np.cumsum(size) - size), size)
        sign = store.sign[store.feedback_T[event]]
        signed = sign != 0
        self.example_S, self.event_S, self.liked_S = example[signed], event[signed], sign[signed] > 0

    def __len__(self) -> int:
        return -(-self.examples // self.config.batch_size)

    def __iter__(self) -> Iterator[EvalBatch]:
        return (self[k] for k in range(len(self)))

    def __getitem__(self, k: int) -> EvalBatch:
        size, length = self.config.batch_size, self.data.length
        first, last = k * size, min((k + 1) * size, self.examples)
        fill = size - (last - first)
        begin, cut = (
            np.pad(self._shown.before(place_X[first:last]), (0, fill))
            for place_X in (self.begin_X, self.cut_X)
        )
        start = np.maximum(begin, cut - length)
        seen_BL = start[:, None] + np.arange(length) < cut[:, None]
        context = [self._shown.windows(column_T, start, length) for column_T in self._columns]
        low, high = np.searchsorted(self.example_S, [first, last])
        example, liked = self.example_S[low:high] - first, self.liked_S[low:high]
        item = self.store.item_T[self.event_S[low:high]]
        return EvalBatch(
            item_BL=context[0] * seen_BL,
            feedback_BL=context[1] * seen_BL.astype(np.int32),
            station_BL=context[2] * seen_BL,
            liked_BC=_ragged(example[liked], item[liked], size, self.width),
            disliked_BC=_ragged(example[~liked], item[~liked], size, self.width),
            pair_B2=np.pad(self.pair_X2[first:last], ((0, fill), (0, 0))),
            user_B=np.pad(self.user_X[first:last], (0, fill)),
            share_B=np.pad(self.share_X[first:last], (0, fill)),
            real_B=np.arange(size) < last - first,
        )


def _ragged(row: np.ndarray, value: np.ndarray, rows: int, width: int) -> np.ndarray:
    """Values of ascending rows as a matrix filled up with PAD."""
    count = np.bincount(row, minlength=rows)
    matrix = np.full((rows, width), PAD, np.int32)
    matrix[row, np.arange(len(row)) - np.repeat(np.cumsum(count) - count, count)] = value
    return matrix


def _pairs(store: stores.Store, examples: EvalBatches, draw_X: np.ndarray) -> np.ndarray:
    """A pair per example, uniform over its pairs of a liked and a disliked event of the same station, int32 [X, 2]."""
    station = store.station_T[examples.event_S]
    order = np.lexsort(
        (~examples.liked_S, station, examples.example_S)
    )  # a segment's liked events come first
    example, station, liked = examples.example_S[order], station[order], examples.liked_S[order]
    item = store.item_T[examples.event_S[order]]
    new = np.concatenate([[True], (np.diff(example) != 0) | (np.diff(station) != 0)])
    segment = np.cumsum(new) - 1
    first = np.flatnonzero(new)
    likes = np.bincount(segment[liked], minlength=len(first)).astype(np.int64)
    pairs = likes * (np.bincount(segment, minlength=len(first)) - likes)
    total = np.concatenate([[0], np.cumsum(pairs)])
    bounds = np.searchsorted(example[first], np.arange(examples.examples + 1))
    low, high = total[bounds[:-1]], total[bounds[1:]]
    pick = low + (draw_X * (high - low)).astype(np.int64)
    chosen = high > low
    at = np.searchsorted(total, pick[chosen], side="right") - 1
    liked_at, disliked_at = np.divmod(pick[chosen] - total[at], pairs[at] // likes[at])
    result = np.zeros((examples.examples, 2), np.int32)
    result[chosen, 0] = item[first[at] + liked_at]
    result[chosen, 1] = item[first[at] + likes[at] + disliked_at]
    return result


def _shares(store: stores.Store) -> np.ndarray:
    """Per user the share of positives among the signed events of the whole history; NaN where there are none."""
    begin = np.asarray(store.session_indptr)[np.asarray(store.user_indptr)]
    shares = np.full(len(begin) - 1, np.nan, np.float32)
    step = max(1, len(shares) // 64)  # a run of users at a time bounds the memory
    for first in range(0, len(shares), step):
        run = begin[first : first + step + 1]
        sign = store.sign[store.feedback_T[run[0] : run[-1]]]
        likes = np.concatenate([[0], np.cumsum(sign > 0)])[run - run[0]]
        signed = np.concatenate([[0], np.cumsum(sign != 0)])[run - run[0]]
        with np.errstate(invalid="ignore"):
            shares[first : first + len(run) - 1] = np.diff(likes) / np.diff(signed)
    return shares
