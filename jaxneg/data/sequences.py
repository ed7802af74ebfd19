"""Which training sequences a store holds, and which of them share a row."""

from typing import NamedTuple

import numpy as np

from jaxneg.config import DataConfig
from jaxneg.data import histories, opinions, packing, stores
from jaxneg.errors import UserError


class Spans(NamedTuple):
    """W training sequences: events [start, stop), the first an input only, the last a target only.

    Events are numbered as ``histories.Shown`` has them.
    """

    start_W: np.ndarray  # int64
    stop_W: np.ndarray  # int64
    user_W: np.ndarray  # int32


def train_spans(store: stores.Store, config: DataConfig, shown: histories.Shown) -> Spans:
    """Every training sequence of at most ``config.length`` inputs.

    The inputs of a session, or with reach "user" of all of a user's history, are cut into runs of as many targets; each
    but the first of all is the target once. Raises UserError where inputs across sessions would leak held-out events.
    """
    length = config.length
    if config.reach == "session":
        begin, end = np.asarray(store.session_indptr[:-1]), np.asarray(store.session_train_end)
        user = np.asarray(store.session_user)
    else:
        check_reach(store)
        begin = np.asarray(store.session_indptr)[store.user_indptr[:-1]]
        trained = np.asarray(store.session_train_end) - np.asarray(store.session_indptr[:-1])
        total = np.concatenate([[0], np.cumsum(trained)])
        end = begin + total[store.user_indptr[1:]] - total[store.user_indptr[:-1]]
        user = np.arange(len(begin), dtype=np.int32)
    begin, end = shown.before(begin), shown.before(end)
    targets = end - begin - 1
    pieces = np.maximum(-(-targets // length), 0)
    which = np.repeat(np.arange(len(begin)), pieces)
    piece = np.arange(len(which)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    start = begin[which] + piece * length
    stop = np.minimum(start + length + 1, end[which])
    return Spans(start, stop, user[which].astype(np.int32))


def check_reach(store: stores.Store) -> None:
    """Raises UserError where inputs across sessions would leak held-out events."""
    if store.metadata.sessions_overlap:
        raise UserError(
            "--data.reach user needs sessions that do not overlap in time, and those of this store do: "
            "use --data.reach session, or prepare with --session gap or user"
        )
    trained = np.asarray(store.session_train_end) - np.asarray(store.session_indptr[:-1])
    whole = trained == np.diff(store.session_indptr)
    # Training events must be a prefix of each user's history: nothing trained after a session that is cut short.
    cut_before = np.concatenate([[0], np.cumsum(~whole)])
    first = cut_before[np.asarray(store.user_indptr)[np.asarray(store.session_user)]]
    if ((cut_before[:-1] > first) & (trained > 0)).any():
        raise UserError(
            "--data.reach user needs training events that precede all held-out events of a user: "
            "use --data.reach session, or prepare with --split time or tail"
        )


class Sequences(NamedTuple):
    """The training sequences of a store under a config."""

    spans: Spans
    shown: histories.Shown  # how their events are numbered
    packing: packing.Rows | None  # rows of several sequences; None where each has a row of its own
    length: int  # positions of a row, L

    @property
    def rows(self) -> int:
        """Rows that one pass over all sequences fills."""
        return len(self.spans.start_W) if self.packing is None else len(self.packing.indptr_R) - 1

    def of_positions(self, row_B: np.ndarray, segment_BL: np.ndarray, length: int) -> np.ndarray:
        """The sequence that each position is of, span_BL, -1 where there is none.

        Args:
          row_B: rows of a batch.
          segment_BL: as in ``batch.Batch``, without columns where rows are not packed.
          length: positions of a row, L.
        """
        if self.packing is None:
            return np.broadcast_to(row_B[:, None], (len(row_B), length))
        begin_B1 = self.packing.indptr_R[np.maximum(row_B, 0)][:, None]
        place_BL = np.where(segment_BL > 0, begin_B1 + segment_BL - 1, 0)
        return np.where(segment_BL > 0, self.packing.sequence_W[place_BL], -1)


def of_store(store: stores.Store, config: DataConfig, *, may_pack: bool = True) -> Sequences:
    """The training sequences of a store, in rows of several where the config wants it. Raises UserError without any.

    Args:
      store: with a training window.
      config: how batches are made.
      may_pack: whether rows may hold several, where the config leaves it to this.
    """
    shown = histories.Shown(store, config)
    spans = train_spans(store, config, shown)
    if len(spans.start_W) == 0:
        kinds = f" of the kinds of --data.inputs {' '.join(config.inputs)}" if config.inputs else ""
        raise UserError(f"store {config.store} has no training sequence of two events or more{kinds}")
    # The last event of a sequence is no input, except in cloze training.
    size_W = spans.stop_W - spans.start_W - (config.mask == 0)
    row = config.row or config.positions
    if config.packed == "always" or config.row > 0:
        return Sequences(spans, shown, packing.plan(size_W, row, config.seed), row)
    pays = config.packed == "auto" and may_pack
    return Sequences(spans, shown, packing.worthwhile(size_W, row, config.seed) if pays else None, row)


def target_counts(
    store: stores.Store, config: DataConfig, shown: histories.Shown | None = None
) -> np.ndarray:
    """Events of each row of which the targets of batches are taken, int64 [V].

    Of all kinds that are shown, or of liked ones where others are never targets; the first input of a session, or with
    reach "user" of a listener, is none but in cloze training.
    """
    shown = shown or histories.Shown(store, config)
    liked_alone = config.target == "next_positive" or (config.target == "positive" and config.mask > 0)
    first = np.asarray(store.session_indptr)[:-1]
    if config.reach == "user":
        first = first[np.asarray(store.user_indptr)[:-1]]
    first = np.unique(shown.places(shown.before(first)))
    counted = histories.shown_kinds(config) & ((np.asarray(store.sign) > 0) | (not liked_alone))
    count_V = np.zeros(store.items + 1, np.int64)
    for event in opinions.training_runs(store):
        if config.mask == 0:
            event = event[~np.isin(event, first, assume_unique=True)]
        event = event[counted[store.feedback_T[event]]]
        count_V += np.bincount(store.item_T[event], minlength=store.items + 1)
    return count_V
