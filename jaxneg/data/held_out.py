"""Held-out examples of a store: what a model sees, and the liked and disliked items that follow."""

from collections.abc import Iterator

import numpy as np

from jaxneg.batch import PAD, EvalBatch
from jaxneg.config import DataConfig, EvalConfig
from jaxneg.data import histories, sequences, stores
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
            sequences.check_reach(store)
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

    def _signed(self, store: stores.Store, cut_X: np.ndarray, end_X: np.ndarray) -> None:
        """The S held-out events with an opinion: their example, place in the log, and whether liked."""
        size = end_X - cut_X
        example = np.repeat(np.arange(len(size)), size)
        event = np.arange(len(example)) + np.repeat(cut_X - (np.cumsum(size) - size), size)
        sign = store.sign[store.feedback_T[event]]
        signed = sign != 0
        self.example_S, self.event_S, self.liked_S = example[signed], event[signed], sign[signed] > 0

    @property
    def users(self) -> int:
        """How many users have an example."""
        return len(np.unique(self.user_X))

    @property
    def paired_X(self) -> np.ndarray:
        """bool [X], the examples that have a pair of a liked and a disliked item of one station."""
        return self.pair_X2[:, 0] > 0

    @property
    def first_liked_X(self) -> np.ndarray:
        """int32 [X], the first liked item of each example; 0 where there is none."""
        at, first = np.unique(self.example_S[self.liked_S], return_index=True)
        item_X = np.zeros(self.examples, np.int32)
        item_X[at] = self.store.item_T[self.event_S[self.liked_S][first]]
        return item_X

    @property
    def compared_X(self) -> np.ndarray:
        """bool [X], the examples that have a liked and another disliked item, of any station."""
        item = self.store.item_T[self.event_S]
        order = np.lexsort((item, self.example_S))
        at, other = (order[self.liked_S[order] == sign] for sign in (True, False))
        example = self.example_S
        low, high, first, last = _opposite(example[at], item[at], example[other], item[other])
        meets = last - first > high - low
        return np.bincount(example[at[meets]], minlength=self.examples) > 0

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
    """A pair per example, uniform over its pairs of a liked and a disliked event of the same station, int32 [X, 2].

    Of events of one item there is no pair: any score would get one half right.
    """
    example, liked = examples.example_S, examples.liked_S
    station, item = store.station_T[examples.event_S], store.item_T[examples.event_S]
    order = np.lexsort((item, station, example))
    new = np.concatenate([[True], (np.diff(example[order]) != 0) | (np.diff(station[order]) != 0)])
    segment = np.empty(len(order), np.int64)
    segment[order] = np.cumsum(new) - 1  # a station of an example
    # Events in order of segment and item; the liked ones choose first.
    at, other = (order[liked[order] == sign] for sign in (True, False))
    low, high, first, last = _opposite(segment[at], item[at], segment[other], item[other])
    weight = last - first - (high - low)  # disliked events of another item that a liked one can meet
    total = np.concatenate([[0], np.cumsum(weight)])
    bounds = np.searchsorted(example[at], np.arange(examples.examples + 1))
    begin, end = total[bounds[:-1]], total[bounds[1:]]
    pick = begin + (draw_X * (end - begin)).astype(np.int64)
    chosen = end > begin
    e = np.searchsorted(total, pick[chosen], side="right") - 1
    place = first[e] + pick[chosen] - total[e]
    place += np.where(place >= low[e], high[e] - low[e], 0)  # past the events of the same item
    result = np.zeros((examples.examples, 2), np.int32)
    result[chosen, 0], result[chosen, 1] = item[at[e]], item[other[place]]
    return result


def _opposite(
    group: np.ndarray, item: np.ndarray, other_group: np.ndarray, other_item: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Where the other events of one's own group and item begin and end, and those of the group, all int64.

    The other events are in order of group and item.
    """
    rows = int(max(item.max(initial=0), other_item.max(initial=0))) + 1
    key, other_key = group.astype(np.int64) * rows + item, other_group.astype(np.int64) * rows + other_item
    ends = [np.searchsorted(other_key, key, side) for side in ("left", "right")]
    ends += [np.searchsorted(other_group, group, side) for side in ("left", "right")]
    return ends[0], ends[1], ends[2], ends[3]


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


def later_share(store: stores.Store, sessions: int = 1 << 16) -> float:
    """Share of training events that come after the median test event; NaN without either.

    Above 0 what a model knows of an item includes its future, as where each user's tail is held out. Of larger logs
    it takes that many sessions, evenly spaced.
    """
    indptr = np.asarray(store.session_indptr)
    at = np.unique(np.linspace(0, store.sessions - 1, min(sessions, store.sessions)).astype(np.int64))
    parts = (
        (indptr[:-1], np.asarray(store.session_train_end)),
        (np.asarray(store.session_valid_end), indptr[1:]),
    )
    train, test = (_times(store, begin[at], end[at]) for begin, end in parts)
    return float((train > np.median(test)).mean()) if len(train) and len(test) else float("nan")


def _times(store: stores.Store, begin: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Times of the events of some runs of the log."""
    size = end - begin
    event = np.arange(size.sum()) + np.repeat(begin - (np.cumsum(size) - size), size)
    return np.asarray(store.time_T[event])
