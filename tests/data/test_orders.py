"""Orders of sequences: every one once an epoch, a function of the step, near each other on disk if asked."""

import collections
import dataclasses
import threading

import numpy as np
import pytest

from jaxneg.config import DataConfig, EvalConfig
from jaxneg.data import audit, held_out, orders, pipeline
from jaxneg.data.metadata import EVENTS
from jaxneg.data.shards import Sharded


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 63, 64, 65, 1000, 4097])
def test_permuted_is_a_permutation_that_depends_on_the_seed(size):
    first, second = (orders.permuted(np.arange(size), size, seed) for seed in (0, 1))
    assert sorted(first) == list(range(size)) == sorted(second)
    if size > 60:
        assert not np.array_equal(first, second)
        # Of a random permutation about 1 place is fixed and neighbours land a third of the size apart.
        assert (first == np.arange(size)).sum() < 10
        assert abs(np.abs(np.diff(first)).mean() / size - 1 / 3) < 0.06
    np.testing.assert_array_equal(orders.permuted(np.array([size - 1, 0]), size, 0), first[[size - 1, 0]])


SHAPES = [  # sequences, batch, block, blocks of a pool
    (1, 4, 3, 2),
    (5, 8, 2, 1),
    (64, 8, 4, 8),
    (1000, 8, 7, 16),
    (1000, 12, 16, 1),
    (997, 7, 10, 3),
    (4096, 64, 32, 256),
    (5003, 128, 1000, 4),
]


def epoch(order, number=0):
    first = number * order.steps_per_epoch
    return [order[step] for step in range(first, first + order.steps_per_epoch)]


@pytest.mark.parametrize("shape", SHAPES)
def test_blocks_give_every_sequence_once_an_epoch(shape):
    spans, batch_size, block, pool = shape
    order = orders.BlockOrder(spans, batch_size, 3, block, pool)
    assert order.steps_per_epoch == -(-spans // batch_size)
    for number in (0, 1, 5):
        drawn = np.concatenate(epoch(order, number))
        assert len(drawn) == order.steps_per_epoch * batch_size
        assert sorted(drawn[drawn >= 0]) == list(range(spans))
    if spans > 60:
        assert not np.array_equal(np.concatenate(epoch(order, 0)), np.concatenate(epoch(order, 1)))


@pytest.mark.parametrize("shape", SHAPES)
def test_a_step_is_the_same_whatever_was_read_before(shape):
    spans, *rest = shape
    steps = np.random.default_rng(0).permutation(3 * -(-spans // rest[0]))[:50].tolist()
    used = orders.BlockOrder(spans, rest[0], 3, *rest[1:])
    for step in steps:
        fresh = orders.BlockOrder(spans, rest[0], 3, *rest[1:])
        np.testing.assert_array_equal(used[step], fresh[step])


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("hosts", [1, 2, 4])
def test_rows_come_from_the_runs_of_their_pool(shape, hosts):
    """By plain loops: what a host's rows of the steps of a pool use is in the runs that it is told to read."""
    spans, batch_size, block, pool = shape
    if batch_size % hosts:
        return
    order = orders.BlockOrder(spans, batch_size, 1, block, pool)
    size, lanes = batch_size // hosts, order.lanes
    for host in range(hosts):
        rows = slice(host * size, (host + 1) * size)
        allowed = collections.defaultdict(set)
        for step in range(2 * order.steps_per_epoch):
            number, last = order.pool_of(step)
            for p in range(max(0, last - 1 - batch_size // lanes), last + 1):
                if (number, p) not in allowed:
                    runs = order.runs(number, p, rows)
                    assert ((runs[:, 1] - runs[:, 0]) <= block).all()
                    allowed[number, p] = {s for first, end in runs for s in range(first, end)}
            used = {int(s) for s in order[step][rows] if s >= 0}
            assert used <= set().union(*(allowed[number, p] for n, p in allowed if n == number))
        if lanes % hosts == 0:  # a host reads its share of the store, not all of it
            share = sum(len(spans_) for (n, _), spans_ in allowed.items() if n == 0)
            assert share <= -(-spans // lanes) * (lanes // hosts)


def test_pools_follow_each_other_through_the_epoch():
    order = orders.BlockOrder(1000, 8, 1, 7, 16)
    seen = list(dict.fromkeys(order.pool_of(step) for step in range(3 * order.steps_per_epoch)))
    now = (0, 0)
    for pool in seen:
        assert pool == now
        now = order.after(*now)
    assert now == (3, 0)


def test_rows_of_a_batch_come_from_many_places():
    order = orders.BlockOrder(100_000, 64, 0, 100, 256)
    steps = [order[step] for step in range(50, 60)]
    for span_B in steps:
        assert len(np.unique(span_B // 100)) > 55  # of 64 rows, each of a lane of its own
    # A block's rows are spread over the batches that its pool fills.
    first = np.flatnonzero([7 in np.asarray(batch) // 100 for batch in epoch(order)])
    assert len(first) > 80 and np.ptp(first) <= 2 * 4 * 100


def test_the_pool_of_a_step_and_the_next_are_read_ahead():
    order = orders.BlockOrder(1000, 8, 1, 10, 16)  # a pool of a lane is 20 sequences, so 20 steps long
    read, done = [], threading.Event()

    def note(first, end):
        read.append((first, end))
        if len(read) == expected:
            done.set()

    wanted = [tuple(run) for pool in (1, 2) for run in order.runs(0, pool, slice(0, 4)).tolist()]
    expected = len(wanted)
    ahead = orders.ReadAhead(order, slice(0, 4), note)
    np.testing.assert_array_equal(ahead[25], order[25])
    assert done.wait(10) and sorted(read) == sorted(wanted)
    done.clear()
    more = order.runs(0, 3, slice(0, 4)).tolist()
    expected += len(more)
    np.testing.assert_array_equal(ahead[45], order[45])
    assert done.wait(10) and sorted(read[-len(more) :]) == sorted(map(tuple, more))


@pytest.mark.parametrize("reach", ["session", "user"])
def test_batches_by_blocks_hold_the_sequences_of_batches_by_rows(random_store, reach):
    store = random_store(1, users=60, ordered=True)
    config = DataConfig(length=3, batch_size=4, seed=5, reach=reach, packed="never")
    by_blocks = dataclasses.replace(config, shuffle_block=5, shuffle_pool=8)

    def sequences(config, number=0):
        batches = pipeline.TrainBatches(store, config)
        first = number * batches.steps_per_epoch
        every = [batches[step] for step in range(first, first + batches.steps_per_epoch)]
        return [
            tuple(row)
            for batch in every
            for row in np.concatenate([batch.item_BL, batch.target_BL], 1)
            if row.any()
        ]

    rows, blocks = sequences(config), sequences(by_blocks)
    assert (
        collections.Counter(rows)
        == collections.Counter(blocks)
        == collections.Counter(sequences(by_blocks, 1))
    )
    assert rows != blocks != sequences(by_blocks, 1)


def test_seeking_is_exact_with_blocks(random_store):
    store = random_store(2, users=60)
    config = DataConfig(length=3, batch_size=4, seed=5, shuffle_block=3, shuffle_pool=8)
    batches = pipeline.TrainBatches(store, config)
    source = batches.since(0)
    run = [next(source) for _ in range(40)]
    for step in (0, 7, 31):
        for a, b in zip(next(pipeline.TrainBatches(store, config).since(step)), run[step], strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("config", [{}, {"shuffle_block": 3}, {"reach": "user"}, {"hard_scope": "session"}])
def test_shards_make_no_difference_to_batches(random_store, config):
    store = random_store(4, users=60, ordered=True)
    begin = store.session_indptr[store.user_indptr]
    cuts = [int(begin[k]) for k in (1, 20, 33)]
    parts = {field: Sharded(np.split(np.asarray(getattr(store, field)), cuts)) for field in EVENTS}
    sharded = dataclasses.replace(store, **parts)
    config = DataConfig(length=3, batch_size=4, seed=5, packed="never", **config)
    one, many = (
        pipeline.TrainBatches(store, config, pipeline.Wanted(log_q=True)),
        pipeline.TrainBatches(sharded, config, pipeline.Wanted(log_q=True)),
    )
    for step in range(one.steps_per_epoch):
        for a, b in zip(one[step], many[step], strict=True):
            np.testing.assert_array_equal(a, b)
    assert one.false_negatives(store, in_batch=True) == many.false_negatives(sharded, in_batch=True)
    for a, b in zip(
        *(held_out.EvalBatches(s, config, EvalConfig(batch_size=7), "test") for s in (store, sharded)),
        strict=True,
    ):
        for x, y in zip(a, b, strict=True):
            np.testing.assert_array_equal(x, y)


def test_a_store_larger_than_half_the_memory_is_told(random_store, monkeypatch):
    store = random_store(4)
    rows, blocks = DataConfig(), DataConfig(shuffle_block=4096)
    assert audit.warn_beyond_memory(store, rows) is None
    monkeypatch.setattr(audit, "_memory", lambda: 1000)
    assert "--data.shuffle-block 4096" in str(audit.warn_beyond_memory(store, rows))
    assert audit.warn_beyond_memory(store, blocks) is None
