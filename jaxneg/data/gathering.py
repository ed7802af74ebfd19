"""A batch's events, targets and negatives, read from a store and drawn in one go each."""

from collections.abc import Container
from typing import NamedTuple

import grain
import numpy as np

from jaxneg.batch import MASK, Batch
from jaxneg.config import DataConfig
from jaxneg.data import batch_fields, draws, negatives, packing, sequences, stores
from jaxneg.data.shards import Sharded


class Window(NamedTuple):
    """Events of B sequences, one more than the inputs of each, M = L + 1."""

    seen_BM: np.ndarray  # bool, where there is an event
    item_BM: np.ndarray  # int32, of this and of the next two 0 where there is none
    feedback_BM: np.ndarray  # int32
    station_BM: np.ndarray  # int32
    sign_BM: np.ndarray  # int8
    group_BM: np.ndarray  # (user, station) groups; anything where there is no event
    place_BM: np.ndarray | None  # places in the log, where they are asked for


class Positions(NamedTuple):
    """What models see of a window, and what they are to predict."""

    item_BL: np.ndarray
    feedback_BL: np.ndarray
    station_BL: np.ndarray
    target_BL: np.ndarray
    label_BL: np.ndarray
    group_BL: np.ndarray  # of the targets
    at_BM: np.ndarray  # which event of the window each target is; broadcasts to BL


class Gather(grain.transforms.RandomMap):
    """Reads a batch's sequences, hides what cloze training hides, draws negatives.

    Args:
      store: with a training window.
      config: how batches are drawn.
      sequences: of the store.
      fields: of Batch that are wanted; the others have no elements.
      log_q: fill in how likely shared and in-batch negatives are drawn.
      in_batch: whether targets are negatives of each other.
    """

    def __init__(
        self,
        store: stores.Store,
        config: DataConfig,
        of_store: sequences.Sequences,
        fields: Container[str],
        log_q: bool,
        in_batch: bool,
    ):
        self.spans, self.rows, self.config, self.fields = of_store.spans, of_store.packing, config, fields
        self.row = of_store.length
        self.index = negatives.index_of(store, config)
        self.sign, self.shown = np.asarray(store.sign), of_store.shown
        # Plain views: indexing a memory map itself runs the hooks of its class each time.
        columns = (store.item_T, store.feedback_T, store.station_T, store.group_T)
        self.columns = [
            column_T if isinstance(column_T, Sharded) else np.asarray(column_T) for column_T in columns
        ]
        self.session_indptr = np.asarray(store.session_indptr)  # scope "session" looks its targets up
        # Events of each row of which a batch's targets are taken, and the number of these where it is known before.
        self.count_V, self.targets, self.log_q = np.zeros(0, np.int64), 0.0, log_q
        if log_q and in_batch:
            self.count_V = sequences.target_counts(store, config, of_store.shown)

    # Without an annotation, pyright takes the result of grain's abstract method for None.
    def random_map(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, element: np.ndarray, rng: np.random.Generator
    ) -> Batch:
        span_B, in_rows = element, None
        if self.rows is not None:  # then B counts sequences until they are packed
            span_B, *in_rows = self.rows.sequences(element)
        window = self._window(span_B, rng)
        its = self._hidden(window, rng) if self.config.mask > 0 else self._shifted(window)
        negative_BLN, hard_BLN = self._negatives(window, its, self.spans.user_W[span_B], rng)
        target_log_q_BL, targets = np.zeros(its.target_BL.shape, np.float32), self.targets
        if len(self.count_V):
            # Positions may share a target: the first liked event after several others.
            targets = targets or float(self.config.blocks * _events(its.at_BM, its.target_BL > 0))
            target_log_q_BL[its.target_BL > 0] = self.log_q_of(its.target_BL[its.target_BL > 0], targets)
        batch = Batch(
            item_BL=its.item_BL,
            feedback_BL=its.feedback_BL,
            station_BL=its.station_BL,
            target_BL=its.target_BL,
            label_BL=its.label_BL,
            negative_BLN=negative_BLN,
            hard_BLN=hard_BLN,
            event_BM=window.item_BM,
            sign_BM=window.sign_BM,
            **self.shared(rng, targets),
            target_log_q_BL=target_log_q_BL,
            segment_BL=np.zeros((len(span_B), 0), np.int32),
        )
        if in_rows is not None:
            batch = packing.packed(batch, *in_rows, rows=len(element), row=self.row)
        return batch._replace(
            **{
                name: np.zeros(batch_fields.without(leaf.shape), leaf.dtype)
                for name, leaf in batch._asdict().items()
                if name not in self.fields
            }
        )

    def _window(self, span_B: np.ndarray, rng: np.random.Generator) -> Window:
        """The events of sequences, none of those below 0."""
        config = self.config
        width, real_B = config.length + 1, span_B >= 0
        start_B = np.where(real_B, self.spans.start_W[span_B], 0)
        size_B = np.where(real_B, self.spans.stop_W[span_B] - start_B, 0)
        seen_BM = np.arange(width) < size_B[:, None]
        columns = [self.shown.windows(column_T, start_B, width) for column_T in self.columns]
        if config.hard_scope == "session":
            columns.append(self.shown.places(start_B[:, None] + np.arange(width)))
        if config.shuffle_events:
            order_BM = rng.random(seen_BM.shape, dtype=np.float32)
            order_BM = np.argsort(order_BM + ~seen_BM, axis=1, kind="stable")  # padding stays last
            columns = [np.take_along_axis(column_BM, order_BM, axis=1) for column_BM in columns]
            seen_BM = np.take_along_axis(seen_BM, order_BM, axis=1)
        item_BM, feedback_BM, station_BM, group_BM, *place = columns
        feedback_BM = feedback_BM.astype(np.int32) * seen_BM
        return Window(
            seen_BM,
            item_BM * seen_BM,
            feedback_BM,
            station_BM * seen_BM,
            self.sign[feedback_BM],
            group_BM,
            place[0] if place else None,
        )

    def _hidden(self, window: Window, rng: np.random.Generator) -> Positions:
        """Cloze training: a share ``mask`` of the events that may be predicted is hidden, and always the last of them,
        as in serving."""
        seen_BM, sign_BM = window.seen_BM, window.sign_BM
        may_BM = seen_BM & ((sign_BM > 0) | (self.config.target == "any"))
        hidden_BM = may_BM & (rng.random(seen_BM.shape, dtype=np.float32) < self.config.mask)
        last_B = seen_BM.sum(1) - 1
        rows = np.flatnonzero(last_B > 0)  # what would hide the only event teaches nothing
        hidden_BM[rows, last_B[rows]] = may_BM[rows, last_B[rows]]
        return Positions(
            item_BL=window.item_BM * ~hidden_BM,
            feedback_BL=np.where(hidden_BM, np.int32(MASK), window.feedback_BM),
            station_BL=window.station_BM,
            target_BL=window.item_BM * hidden_BM,
            label_BL=sign_BM * hidden_BM,
            group_BL=window.group_BM,
            at_BM=np.arange(seen_BM.shape[1])[None],
        )

    def _shifted(self, window: Window) -> Positions:
        """Inputs are all events but the last, targets all but the first, or the first liked one that follows."""
        seen_BM, input_BL = window.seen_BM, window.seen_BM[:, 1:]
        item_BL, feedback_BL, station_BL = (
            column_BM[:, :-1] * input_BL
            for column_BM in (window.item_BM, window.feedback_BM, window.station_BM)
        )
        at_BM = np.arange(1, seen_BM.shape[1])[None]
        if self.config.target == "next_positive":
            at_BM = _next(window.sign_BM > 0)[:, :-1]
        missing = at_BM >= seen_BM.shape[1]
        at_BM = np.where(missing, 0, at_BM)
        target_BL, label_BL, group_BL = (
            np.take_along_axis(column_BM, np.broadcast_to(at_BM, input_BL.shape), axis=1)
            for column_BM in (window.item_BM, window.sign_BM, window.group_BM)
        )
        target_BL, label_BL = target_BL * ~missing, label_BL * ~missing
        return Positions(item_BL, feedback_BL, station_BL, target_BL, label_BL, group_BL, at_BM)

    def _negatives(
        self, window: Window, its: Positions, user_B: np.ndarray, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """negative_BLN of the targets that are ranked, and hard_BLN."""
        config = self.config
        wanted_BL = (its.target_BL > 0) & ((its.label_BL > 0) | (config.target == "any"))
        at = np.flatnonzero(wanted_BL)
        session_P = None
        if window.place_BM is not None:
            at_BL = np.broadcast_to(its.at_BM, wanted_BL.shape)
            place_BL = np.take_along_axis(window.place_BM, at_BL, axis=1)
            session_P = np.searchsorted(self.session_indptr, place_BL.ravel()[at], side="right") - 1
        N = config.negatives if "negative_BLN" in self.fields else 0
        negative_PN, hard_PN = negatives.draw_negatives(
            rng,
            self.index,
            negatives.Targets(
                its.target_BL.ravel()[at],
                np.repeat(user_B, wanted_BL.sum(1)),
                its.group_BL.ravel()[at],
                session_P,
            ),
            negatives.Draw(N, config.p_hard, config.hard_scope, config.random),
        )
        negative_BLN = np.zeros((*its.target_BL.shape, N), np.int32)
        hard_BLN = np.zeros(negative_BLN.shape, bool)
        negative_BLN[wanted_BL], hard_BLN[wanted_BL] = negative_PN, hard_PN
        return negative_BLN, hard_BLN

    def shared(self, rng: np.random.Generator, targets: float) -> dict[str, np.ndarray]:
        """The fields of a batch that are no rows of it: random negatives for all, each once if they are corrected."""
        count, index = self.config.shared_negatives if "shared_S" in self.fields else 0, self.index
        shared_S = draws.random_items(rng, index.items, count, self.config.random, index.until_V)
        log_q_S = np.zeros(count, np.float32)
        if self.log_q:
            again_S = np.ones(count, bool)
            again_S[np.unique(shared_S, return_index=True)[1]] = False
            log_q_S = np.where(again_S, 0.0, self.log_q_of(shared_S, targets)).astype(np.float32)
            shared_S = np.where(again_S, 0, shared_S).astype(np.int32)
        return {"shared_S": shared_S, "shared_log_q_S": log_q_S}

    def log_q_of(self, row: np.ndarray, targets: float) -> np.ndarray:
        """Log of the chance that an item is a shared or in-batch negative of a position with another target, float32.

        The position's own target is one of the ``targets`` events of the batch, so the others are one less.
        """
        config, index = self.config, self.index
        count = config.shared_negatives if "shared_S" in self.fields else 0
        p = draws.chance(row, index.items, config.random, index.until_V)
        missed = [draws.log_missed(p, count)]
        if len(self.count_V):
            total = float(self.count_V.sum())
            missed.append(draws.log_left_out(self.count_V[row], min(targets, total) - 1, total - 1))
        return draws.log_among(*missed)


def _events(at_BM: np.ndarray, there_BL: np.ndarray) -> int:
    """Number of events that are the target of some position."""
    at_BL = np.broadcast_to(at_BM, there_BL.shape)
    place_BL = np.arange(len(at_BL))[:, None] * (at_BL.max(initial=0) + 1) + at_BL
    return len(np.unique(place_BL[there_BL]))


def _next(positive_BM: np.ndarray) -> np.ndarray:
    """Place of the first positive after each place; M where there is none."""
    M = positive_BM.shape[1]
    at_BM = np.where(positive_BM, np.arange(M), M)
    first_BM = np.minimum.accumulate(at_BM[:, ::-1], axis=1)[:, ::-1]
    return np.concatenate([first_BM[:, 1:], np.full((len(at_BM), 1), M)], axis=1)
