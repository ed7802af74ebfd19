"""Fixed-shape batches from a store, for each host and epoch.

In grain the element is a *batch*: step k names its sequences by a stateless permutation, one vectorised gather reads
them and one vectorised draw makes the negatives. A batch is thus a function of (seed, step) alone: seeking is exact,
each epoch redraws, and any number of hosts sees the same global batch.
"""

import contextlib
import functools
import os
import pathlib
from collections.abc import Container, Iterator
from typing import NamedTuple

import grain
import numpy as np

from jaxneg.batch import MASK, Batch
from jaxneg.config import Config, DataConfig
from jaxneg.data import (
    batch_fields as of_batch,
    draws,
    expected,
    histories,
    negatives,
    opinions,
    orders,
    packing,
    stores,
)
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


class _Gather(grain.transforms.RandomMap):
    """Reads a batch's sequences, hides what cloze training hides, draws negatives."""

    def __init__(
        self,
        store: stores.Store,
        spans: Spans,
        rows: packing.Rows | None,
        shown: histories.Shown,
        config: DataConfig,
        fields: Container[str],
        log_q: bool,
        in_batch: bool,
    ):
        self.spans, self.rows, self.config, self.fields = spans, rows, config, fields
        self.index = negatives.index_of(store, config)
        self.sign, self.shown = np.asarray(store.sign), shown
        # Plain views: indexing a memory map itself runs the hooks of its class each time.
        columns = (store.item_T, store.feedback_T, store.station_T, store.group_T)
        self.columns = [column_T if isinstance(column_T, stores.Sharded) else np.asarray(column_T)
                        for column_T in columns]  # fmt: skip
        self.session_indptr = np.asarray(store.session_indptr)  # scope "session" looks its targets up
        # Events of each row of which a batch's targets are taken, and the number of these where it is known before.
        self.count_V, self.targets, self.log_q = np.zeros(0, np.int64), 0.0, log_q
        if log_q and in_batch:
            self.count_V = target_counts(store, config, shown)

    # Without an annotation, pyright takes the result of grain's abstract method for None.
    def random_map(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, element: np.ndarray, rng: np.random.Generator
    ) -> Batch:
        config = self.config
        span_B, in_rows = element, None
        if self.rows is not None:  # then B counts sequences until they are packed
            span_B, *in_rows = self.rows.sequences(element)
        real_B = span_B >= 0
        start_B = np.where(real_B, self.spans.start_W[span_B], 0)
        size_B = np.where(real_B, self.spans.stop_W[span_B] - start_B, 0)
        # One event more than the inputs: inputs are all but the last, targets all but the first.
        seen_BM, columns = self._events(rng, start_B, size_B, config.length + 1)
        item_BM, feedback_BM = columns[0] * seen_BM, columns[1].astype(np.int32) * seen_BM
        station_BM, group_BM = columns[2] * seen_BM, columns[3]
        sign_BM = self.sign[feedback_BM]
        if config.mask > 0:
            hidden_BM = self._hidden(rng, seen_BM, sign_BM)
            item_BL, station_BL = item_BM * ~hidden_BM, station_BM
            feedback_BL = np.where(hidden_BM, np.int32(MASK), feedback_BM)
            target_BL, label_BL = item_BM * hidden_BM, sign_BM * hidden_BM
            group_BL, at_BM = group_BM, np.arange(seen_BM.shape[1])[None]
        else:
            input_BL = seen_BM[:, 1:]
            item_BL, feedback_BL, station_BL = (
                column_BM[:, :-1] * input_BL for column_BM in (item_BM, feedback_BM, station_BM)
            )
            at_BM = np.arange(1, seen_BM.shape[1])[None]
            if config.target == "next_positive":
                at_BM = _next(sign_BM > 0)[:, :-1]
            missing = at_BM >= seen_BM.shape[1]
            at_BM = np.where(missing, 0, at_BM)
            target_BL, label_BL, group_BL = (
                np.take_along_axis(column_BM, np.broadcast_to(at_BM, input_BL.shape), axis=1)
                for column_BM in (item_BM, sign_BM, group_BM)
            )
            target_BL, label_BL = target_BL * ~missing, label_BL * ~missing
        wanted_BL = (target_BL > 0) & ((label_BL > 0) | (config.target == "any"))
        at = np.flatnonzero(wanted_BL)
        session_P = None
        if config.hard_scope == "session":
            place_BL = np.take_along_axis(columns[-1], np.broadcast_to(at_BM, wanted_BL.shape), axis=1)
            session_P = np.searchsorted(self.session_indptr, place_BL.ravel()[at], side="right") - 1
        N = config.negatives if "negative_BLN" in self.fields else 0
        negative_PN, hard_PN = negatives.draw_negatives(
            rng,
            self.index,
            target_BL.ravel()[at],
            np.repeat(self.spans.user_W[span_B], wanted_BL.sum(1)),
            group_BL.ravel()[at],
            negatives=N,
            p_hard=config.p_hard,
            scope=config.hard_scope,
            random=config.random,
            session_P=session_P,
        )
        negative_BLN = np.zeros((*target_BL.shape, N), np.int32)
        hard_BLN = np.zeros(negative_BLN.shape, bool)
        negative_BLN[wanted_BL], hard_BLN[wanted_BL] = negative_PN, hard_PN
        target_log_q_BL, targets = np.zeros(target_BL.shape, np.float32), self.targets
        if len(self.count_V):
            # Positions may share a target: the first liked event after several others.
            targets = targets or float(config.blocks * _events(at_BM, target_BL > 0))
            target_log_q_BL[target_BL > 0] = self.log_q_of(target_BL[target_BL > 0], targets)
        batch = Batch(
            item_BL=item_BL,
            feedback_BL=feedback_BL,
            station_BL=station_BL,
            target_BL=target_BL,
            label_BL=label_BL,
            negative_BLN=negative_BLN,
            hard_BLN=hard_BLN,
            event_BM=item_BM,
            sign_BM=sign_BM,
            **self.shared(rng, targets),
            target_log_q_BL=target_log_q_BL,
            segment_BL=np.zeros((len(span_B), 0), np.int32),
        )
        if in_rows is not None:
            batch = packing.packed(batch, *in_rows, rows=len(element))
        return batch._replace(
            **{
                name: np.zeros(of_batch.without(leaf.shape), leaf.dtype)
                for name, leaf in batch._asdict().items()
                if name not in self.fields
            }
        )

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

    def _events(self, rng, start_B, size_B, width):
        """Which of ``width`` places hold an event, and the columns there."""
        seen_BM = np.arange(width) < size_B[:, None]
        columns = [self.shown.windows(column_T, start_B, width) for column_T in self.columns]
        if self.config.hard_scope == "session":
            columns.append(self.shown.places(start_B[:, None] + np.arange(width)))
        if self.config.shuffle_events:
            order_BM = rng.random(seen_BM.shape, dtype=np.float32)
            order_BM = np.argsort(order_BM + ~seen_BM, axis=1, kind="stable")  # padding stays last
            columns = [np.take_along_axis(column_BM, order_BM, axis=1) for column_BM in columns]
            seen_BM = np.take_along_axis(seen_BM, order_BM, axis=1)
        return seen_BM, columns

    def _hidden(self, rng, seen_BM, sign_BM):
        """A share ``mask`` of the events that may be predicted, and always the last of them, as in serving."""
        may_BM = seen_BM & ((sign_BM > 0) | (self.config.target == "any"))
        hidden_BM = may_BM & (rng.random(seen_BM.shape, dtype=np.float32) < self.config.mask)
        last_B = seen_BM.sum(1) - 1
        rows = np.flatnonzero(last_B > 0)  # what would hide the only event teaches nothing
        hidden_BM[rows, last_B[rows]] = may_BM[rows, last_B[rows]]
        return hidden_BM


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


def _events(at_BM: np.ndarray, there_BL: np.ndarray) -> int:
    """Number of events that are the target of some position."""
    at_BL = np.broadcast_to(at_BM, there_BL.shape)
    place_BL = np.arange(len(at_BL))[:, None] * (at_BL.max(initial=0) + 1) + at_BL
    return len(np.unique(place_BL[there_BL]))


class _Blocks(grain.transforms.RandomMap):
    """Blocks of a batch's rows, one after the other, each drawn by itself: the same whoever draws them."""

    def __init__(self, gather: _Gather, own: range):
        self.gather, self.own = gather, own

    def random_map(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, element: np.ndarray, rng: np.random.Generator
    ) -> Batch:
        config, seed = self.gather.config, int(rng.integers(1 << 62))
        rows = len(element) // config.blocks
        parts = [
            self.gather.random_map(
                element[block * rows : (block + 1) * rows], np.random.default_rng((seed, block))
            )
            for block in self.own
        ]
        # Those of the whole batch have draws of their own, the same for all.
        shared = self.gather.shared(np.random.default_rng((seed, config.blocks)), self.gather.targets)
        joined = {
            name: shared[name] if name in shared else np.concatenate([getattr(part, name) for part in parts])
            for name in Batch._fields
        }
        return Batch(**joined)


class _Rows(grain.transforms.Map):
    """The rows of one process: a block of the global batch, so that it is the same for any number of them."""

    def __init__(self, process: int, processes: int):
        self.process, self.processes = process, processes

    def map(self, element: Batch) -> Batch:  # pyright: ignore[reportIncompatibleMethodOverride]
        size = len(element.item_BL) // self.processes
        own = slice(self.process * size, (self.process + 1) * size)
        return element._replace(
            **{name: leaf[own] for name, leaf in element._asdict().items() if not name.endswith("_S")}
        )


def _next(positive_BM: np.ndarray) -> np.ndarray:
    """Place of the first positive after each place; M where there is none."""
    M = positive_BM.shape[1]
    at_BM = np.where(positive_BM, np.arange(M), M)
    first_BM = np.minimum.accumulate(at_BM[:, ::-1], axis=1)[:, ::-1]
    return np.concatenate([first_BM[:, 1:], np.full((len(at_BM), 1), M)], axis=1)


def warn_beyond_memory(store: stores.Store, config: DataConfig) -> str | None:
    """Advice where rows are read from all over a store that takes more than half of the memory; None elsewhere."""
    columns = (store.item_T, store.feedback_T, store.station_T, store.group_T)
    read = sum(
        len(column) * column.dtype.itemsize for column in (*columns, store.negative_item, store.positive_item)
    )
    memory = _memory()
    if config.shuffle_block > 0 or read <= memory / 2:
        return None
    return (
        f"training reads {read / 1e9:.1f} GB of the store in no order, and there are {memory / 1e9:.1f} GB of memory: "
        "with --data.shuffle-block 4096 it reads in runs"
    )


def _memory() -> int:
    """Bytes of memory of this machine or container."""
    sizes = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for limit in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):  # "max" is no limit
            sizes.append(int(pathlib.Path(limit).read_text()))
    return min(sizes)


def _order(config: DataConfig, spans: int) -> orders.Order:
    if config.shuffle_block == 0:
        return orders.Order(spans, config.batch_size, config.seed)
    block, pool = config.shuffle_block, config.shuffle_pool
    return orders.BlockOrder(spans, config.batch_size, config.seed, block, pool)


def _read(store: stores.Store, spans: Spans, shown: histories.Shown, first: int, end: int) -> None:
    """Reads what training on the spans [first, end) needs, so that it is in the system's cache of files."""

    def between(bounds: np.ndarray, low: int, high: int) -> tuple[int, int]:
        inside = np.array(bounds[low : high + 1])
        return int(inside[0]), int(inside[-1])

    begin, last = shown.places(np.array([spans.start_W[first], spans.stop_W[end - 1] - 1])).tolist()
    for column_T in (store.item_T, store.feedback_T, store.station_T, store.group_T):
        np.array(column_T[begin : last + 1])
    users = int(spans.user_W[first]), int(spans.user_W[end - 1]) + 1
    negative = between(store.negative_indptr, *between(store.user_group_indptr, *users))
    np.array(store.negative_item[slice(*negative)])
    np.array(store.positive_item[slice(*between(store.positive_indptr, *users))])


class TrainBatches:
    """Training batches of a store, addressed by step. ``spans`` sequences make ``steps_per_epoch`` batches."""

    def __init__(
        self,
        store: stores.Store,
        config: DataConfig,
        *,
        fields: Container[str] = of_batch.ALL,
        log_q: bool = False,
        in_batch: bool = False,
        process: int = 0,
        processes: int = 1,
    ):
        """Batches of a store.

        Args:
          store: with a training window.
          config: how batches are drawn.
          fields: of Batch that are wanted; the others have no elements.
          log_q: fill in how likely shared and in-batch negatives are drawn; a shared one then is in the batch once.
          in_batch: whether targets are negatives of each other; with ``log_q`` it costs a pass over the log.
          process: of ``processes``, whose rows alone come.
          processes: in all.
        """
        shown = histories.Shown(store, config)
        spans = train_spans(store, config, shown)
        if len(spans.start_W) == 0:
            kinds = f" of the kinds of --data.inputs {' '.join(config.inputs)}" if config.inputs else ""
            raise UserError(f"store {config.store} has no training sequence of two events or more{kinds}")
        if config.batch_size % processes:
            raise UserError(
                f"--data.batch-size {config.batch_size} must be a multiple of the {processes} processes"
            )
        self._packing = None
        self.spans = rows = len(spans.start_W)
        if config.packed:
            # The last event of a sequence is no input, except in cloze training.
            last = 0 if config.mask > 0 else 1
            size_W = spans.stop_W - spans.start_W - last
            self._packing = packing.plan(size_W, config.length + 1 - last, config.seed)
            rows = len(self._packing.indptr_R) - 1
        self.sequences_per_row = self.spans / rows
        source = self._order = _order(config, rows)
        # Where each process has whole blocks it draws no others; else it draws all rows and keeps its own.
        apart = config.blocks > 1 and config.blocks % processes == 0
        if isinstance(source, orders.BlockOrder):
            own = config.batch_size // processes if apart else config.batch_size
            first = process * own if apart else 0
            read = functools.partial(_read, store, spans, shown)
            source = orders.ReadAhead(source, slice(first, first + own), read)
        self.steps_per_epoch = self._order.steps_per_epoch
        self._config, self._user_W, self._hard = config, spans.user_W, "hard_BLN" in fields
        gather = _Gather(store, spans, self._packing, shown, config, fields, log_q, in_batch)
        self._index = gather.index

        def drawn(blocks: range) -> grain.MapDataset:
            draw = gather if config.blocks == 1 else _Blocks(gather, blocks)
            return grain.MapDataset.source(source).seed(config.seed).random_map(draw)

        self._whole = drawn(range(config.blocks))
        if log_q and in_batch and config.blocks > 1:
            gather.targets = self.targets()  # no block knows the targets of the others
        if apart:
            share = config.blocks // processes
            self._dataset = drawn(range(process * share, (process + 1) * share))
        else:
            self._dataset = self._whole.map(_Rows(process, processes)) if processes > 1 else self._whole

    def __getitem__(self, step: int) -> Batch:
        batch = self._dataset[step]
        assert batch is not None  # nothing is filtered out
        return batch

    def targets(self, batches: int = 8) -> float:
        """Number of events that are targets in a batch of all processes, on average over the first ``batches``."""
        found = []
        for step in range(min(batches, self.steps_per_epoch)):
            batch = self._whole[step]
            assert batch is not None  # nothing is filtered out
            # Positions that wait for the same event follow each other.
            again_BL = np.zeros(batch.target_BL.shape, bool)
            if self._config.target == "next_positive":
                again_BL[:, 1:] = batch.target_BL[:, 1:] == batch.target_BL[:, :-1]
            found.append(np.count_nonzero((batch.target_BL > 0) & ~again_BL))
        return float(np.mean(found))

    @property
    def draws_hard(self) -> bool:
        """Whether hard negatives are asked for."""
        return self._hard and self._config.p_hard > 0 and self._config.negatives > 0

    def hard_also_liked(self, store: stores.Store) -> float:
        """Share of the hard negatives that their listener likes elsewhere in training; NaN where none is drawn."""
        return expected.hard_also_liked(self._index, store, self._config) if self._hard else float("nan")

    def false_negatives(self, store: stores.Store, *, in_batch: bool, batches: int = 8) -> float:
        """Share of the random negatives that their listener likes somewhere in the log, held-out events included.

        Counted on the first ``batches``, the rows of all processes, a negative shared by a batch once for each of its
        sequences. NaN where nothing is drawn at random.

        Args:
          store: that the batches are of.
          in_batch: whether the other targets of a batch are negatives too.
          batches: to look at.
        """
        false = drawn = 0
        for step in range(min(batches, self.steps_per_epoch)):
            batch = self._whole[step]
            assert batch is not None  # nothing is filtered out
            span_BL = self._spans(self._order[step], batch)
            user_BL = np.where(span_BL >= 0, self._user_W[span_BL], -1)
            hard = batch.hard_BLN if batch.hard_BLN.size else False
            b, t, *_ = at = np.nonzero((batch.negative_BLN > 0) & ~np.asarray(hard))
            users, items = [user_BL[b, t]], [batch.negative_BLN[at]]
            shared_C = batch.shared_S[batch.shared_S > 0]
            if in_batch:
                shared_C = np.concatenate([shared_C, np.unique(batch.target_BL[batch.target_BL > 0])])
            ranked = np.unique(span_BL[batch.target_BL > 0])
            users.append(np.repeat(self._user_W[ranked], len(shared_C)))
            items.append(np.tile(shared_C, len(ranked)))
            key = np.concatenate(users).astype(np.int64) * (store.items + 1) + np.concatenate(items)
            # What a sequence itself predicts is no negative there.
            own = (user_BL.astype(np.int64) * (store.items + 1) + batch.target_BL)[batch.target_BL > 0]
            key = key[~np.isin(key, own)]
            false += int(np.isin(key, _liked(store, np.unique(user_BL[user_BL >= 0]))).sum())
            drawn += len(key)
        return false / drawn if drawn else float("nan")

    def _spans(self, row_B: np.ndarray, batch: Batch) -> np.ndarray:
        """The sequence that each position is of, -1 where there is none."""
        if self._packing is None:
            return np.broadcast_to(row_B[:, None], batch.target_BL.shape)
        begin_B1 = self._packing.indptr_R[np.maximum(row_B, 0)][:, None]
        place_BL = np.where(batch.segment_BL > 0, begin_B1 + batch.segment_BL - 1, 0)
        return np.where(batch.segment_BL > 0, self._packing.sequence_W[place_BL], -1)

    def since(self, step: int) -> Iterator[Batch]:
        """Batches from a step on, made ahead by a thread, without end."""
        options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=self._config.prefetch)
        iterator = iter(self._dataset.to_iter_dataset(options))
        grain.experimental.set_next_index(iterator, step)
        return iterator


def of_config(config: Config, store: stores.Store, process: int = 0, processes: int = 1) -> TrainBatches:
    """The training batches of an experiment, with the fields that its training step reads."""
    stations = store.metadata.counts["stations"]
    return TrainBatches(
        store,
        config.data,
        fields=of_batch.read(config, stations),
        log_q=config.loss.log_q != "none",
        in_batch=config.loss.in_batch,
        process=process,
        processes=processes,
    )


def _liked(store: stores.Store, user_U: np.ndarray) -> np.ndarray:
    """user * V + item for all that these users like anywhere in the log."""
    begin = np.asarray(store.session_indptr)[np.asarray(store.user_indptr)]
    size = begin[user_U + 1] - begin[user_U]
    event = np.arange(size.sum()) + np.repeat(begin[user_U] - (np.cumsum(size) - size), size)
    user = np.repeat(user_U.astype(np.int64), size)
    liked = store.sign[store.feedback_T[event]] > 0
    return user[liked] * (store.items + 1) + store.item_T[event][liked]
