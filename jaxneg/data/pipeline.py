"""Fixed-shape batches from a store, for each host and epoch.

In grain the element is a *batch*: step k names its sequences by a stateless permutation, one vectorised gather reads
them and one vectorised draw makes the negatives. A batch is thus a function of (seed, step) alone: seeking is exact,
each epoch redraws, and any number of hosts sees the same global batch.
"""

import functools
import math
import os
from collections.abc import Container, Iterator
from typing import NamedTuple

import grain
import numpy as np

from jaxneg.batch import Batch, Form
from jaxneg.config import Config, DataConfig
from jaxneg.data import audit, batch_fields, expected, gathering, orders, packing, sequences, stores
from jaxneg.errors import UserError

AHEAD = 4  # batches that are made before they are asked for


class Part(NamedTuple):
    """Which of the processes that train together this is, from 0."""

    process: int = 0
    processes: int = 1


WHOLE = Part()


class Wanted(NamedTuple):
    """What a training step wants of its batches."""

    fields: Container[str] = batch_fields.ALL  # of Batch; the others have no elements
    log_q: bool = False
    """how likely shared and in-batch negatives are drawn; a shared one then is in the batch once"""
    in_batch: bool = False  # targets are negatives of each other; with log_q it costs a pass over the log
    parts: int = 1  # that rows must split into evenly


ALL = Wanted()


class _Blocks(grain.transforms.RandomMap):
    """Blocks of a batch's rows, one after the other, each drawn by itself: the same whoever draws them."""

    def __init__(self, gather: gathering.Gather, own: range):
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


def form_of(config: DataConfig, per_row: float = 0.0, parts: int = 1) -> Form:
    """The form of batches. Empty rows stand at the end of each of ``config.blocks``.

    Args:
      config: how they are made.
      per_row: sequences that a packed row holds on average; 0 where each has a row of its own.
      parts: that packed rows must split into evenly.
    """
    if per_row == 0.0:
        return Form(config.batch_size, config.positions)
    held, blocks = packing.rows_of_batch(config.batch_size, per_row, config.blocks), config.blocks
    step = math.lcm(parts, blocks)
    rows = -(-held // step) * step
    return Form(rows, config.row or config.positions, packed=True, empty=rows - held)


def _order(config: DataConfig, spans: int, form: Form) -> orders.Order:
    if config.shuffle_block == 0:
        return orders.Order(spans, form.rows, config.seed, form.empty, config.blocks)
    block, pool = config.shuffle_block, config.shuffle_pool
    return orders.BlockOrder(spans, form.rows, config.seed, block, pool)


def _read(store: stores.Store, found: sequences.Sequences, first: int, end: int) -> None:
    """Reads what training on the spans [first, end) needs, so that it is in the system's cache of files."""

    spans, shown = found.spans, found.shown

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
    """Training batches of a store, addressed by step: ``steps_per_epoch`` of one form hold ``spans`` sequences."""

    def __init__(self, store: stores.Store, config: DataConfig, wanted: Wanted = ALL, part: Part = WHOLE):
        """Batches of a store.

        Args:
          store: with a training window.
          config: how batches are drawn.
          wanted: what of them is read; sequences share rows only where ``segment_BL`` is, or the config insists.
          part: the process whose rows alone come.
        """
        found = sequences.of_store(store, config, may_pack="segment_BL" in wanted.fields)
        self._found, (process, processes) = found, part
        self.spans = len(found.spans.start_W)
        self.sequences_per_row = self.spans / found.rows
        per_row = self.sequences_per_row if found.packing else 0.0
        self.form = form_of(config, per_row, math.lcm(wanted.parts, processes))
        rows = self.form.rows
        if config.batch_size % processes:
            raise UserError(
                f"--data.batch-size {config.batch_size} must be a multiple of the {processes} processes"
            )
        source = self._order = _order(config, found.rows, self.form)
        # Where each process has whole blocks it draws no others; else it draws all rows and keeps its own.
        apart = config.blocks > 1 and config.blocks % processes == 0
        if isinstance(source, orders.BlockOrder):
            own = rows // processes if apart else rows
            first = process * own if apart else 0
            read = functools.partial(_read, store, found)
            source = orders.ReadAhead(source, slice(first, first + own), read)
        self.steps_per_epoch = self._order.steps_per_epoch
        self._config, self._hard = config, "hard_BLN" in wanted.fields
        gather = gathering.Gather(store, config, found, wanted.fields, wanted.log_q, wanted.in_batch)
        self._index = gather.index

        def drawn(blocks: range) -> grain.MapDataset:
            draw = gather if config.blocks == 1 else _Blocks(gather, blocks)
            return grain.MapDataset.source(source).seed(config.seed).random_map(draw)

        self._whole = drawn(range(config.blocks))
        if wanted.log_q and wanted.in_batch and config.blocks > 1:
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
    def sequences_per_step(self) -> float:
        """Sequences of a full batch of all processes, on average."""
        return self.form.held * self.sequences_per_row

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
        drawn = audit.Drawn()
        for step in range(min(batches, self.steps_per_epoch)):
            batch = self._whole[step]
            assert batch is not None  # nothing is filtered out
            span_BL = self._found.of_positions(self._order[step], batch.segment_BL, batch.target_BL.shape[1])
            drawn += audit.false_negatives(store, batch, span_BL, self._found.spans.user_W, in_batch=in_batch)
        return drawn.share

    def since(self, step: int) -> Iterator[Batch]:
        """Batches from a step on, made ahead by threads, without end."""
        # A store that is read ahead of its batches is read in their order.
        threads = 1 if isinstance(self._order, orders.BlockOrder) else _threads()
        options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=AHEAD)
        iterator = iter(self._dataset.to_iter_dataset(options))
        grain.experimental.set_next_index(iterator, step)
        return iterator


def _threads() -> int:
    """Threads that make batches: a quarter of the cores, which others need too; which thread makes one is no matter."""
    return min(AHEAD, max(1, (os.cpu_count() or 1) // 4))


def of_config(config: Config, store: stores.Store, part: Part = WHOLE, *, devices: int = 1) -> TrainBatches:
    """The training batches of an experiment, with the fields that its training step reads, for so many devices."""
    stations = store.metadata.counts["stations"]
    wanted = Wanted(
        fields=batch_fields.read(config, stations),
        log_q=config.loss.log_q != "none",
        in_batch=config.loss.in_batch,
        parts=config.optim.accumulate * devices,
    )
    return TrainBatches(store, config.data, wanted, part)
