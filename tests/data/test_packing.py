"""Rows of several sequences: the plan against plain loops, and batches against those of one sequence a row."""

import collections
import dataclasses

import numpy as np
import pytest

from jaxneg.batch import MASK
from jaxneg.config import DataConfig
from jaxneg.data import batch_fields, histories, packing, pipeline
from jaxneg.data.sequences import train_spans

CONFIG = DataConfig(length=6, batch_size=4, seed=5, packed="never")
PACKED = dataclasses.replace(CONFIG, packed="always")


def epoch(batches, number=0):
    per_epoch = batches.steps_per_epoch
    return [batches[step] for step in range(number * per_epoch, (number + 1) * per_epoch)]


def next_fit(sizes, capacity):
    """Rows that sequences take in their own order, each in the last row or in a new one."""
    rows, left = 0, 0
    for size in sizes:
        if size > left:
            rows, left = rows + 1, capacity
        left -= size
    return rows


@pytest.mark.parametrize("window", [1 << 16, 100])
def test_a_plan_fills_rows_with_each_sequence_once(window, monkeypatch):
    monkeypatch.setattr(packing, "WINDOW", window)
    rng = np.random.default_rng(0)
    size_W = np.minimum(rng.geometric(1 / 8, 3_000), 50)
    plan = packing.plan(size_W, 50, seed=1)
    assert sorted(plan.sequence_W.tolist()) == list(range(3_000))
    held = [
        size_W[plan.sequence_W[low:high]].sum()
        for low, high in zip(plan.indptr_R[:-1], plan.indptr_R[1:], strict=True)
    ]
    assert min(held) > 0 and max(held) <= 50
    # Best fit leaves next to nothing; a window at a time leaves a row or two half empty in each.
    assert sum(held) / (50 * len(held)) > (0.99 if window > 3_000 else 0.93)
    assert len(held) < next_fit(size_W, 50)
    again = packing.plan(size_W, 50, seed=1)
    np.testing.assert_array_equal(again.sequence_W, plan.sequence_W)
    assert not np.array_equal(packing.plan(size_W, 50, seed=2).sequence_W, plan.sequence_W)


def test_rows_are_made_of_neighbours_in_the_store(monkeypatch):
    monkeypatch.setattr(packing, "WINDOW", 64)
    plan = packing.plan(np.random.default_rng(1).integers(1, 9, 640), 10, seed=0)
    for low, high in zip(plan.indptr_R[:-1], plan.indptr_R[1:], strict=True):
        assert len(set((plan.sequence_W[low:high] // 64).tolist())) == 1


@pytest.mark.parametrize(
    ("size_W", "rows"), [([5] * 7, 7), ([1] * 10, 2), ([3, 2, 3, 2, 4, 1], 3), ([3] * 4, 4), ([], 0)]
)
def test_small_plans_by_hand(size_W, rows):
    assert len(packing.plan(np.array(size_W, np.int64), 5, seed=0).indptr_R) - 1 == rows


@pytest.mark.parametrize(
    ("batch_size", "per_row", "blocks", "rows"),
    [
        (128, 1.9, 1, 68),  # 67.4 are wanted: a multiple of 4, as 8 is more than a sixteenth
        (128, 1.0, 1, 128),
        (128, 1.9, 32, 64),
        (96, 3.0, 1, 32),
        (4, 3.0, 1, 1),
        (4, 3.0, 4, 4),
        (8192, 1.882, 1, 4352),  # 17 times 256
        (100, 400.0, 1, 1),
    ],
)
def test_rows_of_a_batch_by_hand(batch_size, per_row, blocks, rows):
    assert packing.rows_of_batch(batch_size, per_row, blocks) == rows


@pytest.mark.parametrize("batch_size", [16, 100, 128, 1000, 4096])
def test_rows_of_a_batch_are_as_many_as_its_sequences_fill(batch_size):
    """Within 1 of 32 where they are many; and a multiple of a divisor of the sequences, of a usual size."""
    for per_row in np.linspace(1.0, 20.0, 50):
        rows, wanted = packing.rows_of_batch(batch_size, per_row), batch_size / per_row
        assert rows == 1 or abs(rows - wanted) <= max(wanted / 32, 0.5) + 1e-9
        assert np.gcd(rows, batch_size) > wanted / 16 / 5  # divisors of these are at most five apart


@pytest.mark.parametrize("blocks", [1, 2])
@pytest.mark.parametrize("parts", [3, 8])
def test_empty_rows_let_devices_share_what_is_the_same_for_all(random_store, blocks, parts):
    store = random_store(3, users=40)
    config = dataclasses.replace(PACKED, batch_size=20, blocks=blocks)
    one, many = (pipeline.TrainBatches(store, config, pipeline.Wanted(parts=n)) for n in (1, parts))
    assert many.form.rows % parts == 0 and many.form.empty < parts * blocks
    assert one.form.empty == 0 and one.steps_per_epoch == many.steps_per_epoch
    assert one.sequences_per_step == many.sequences_per_step
    rows = one.form.rows // blocks
    for few, filled in zip(epoch(one), epoch(many), strict=True):
        for name, leaf in few._asdict().items():
            if name.endswith("_S") or leaf.size == 0:
                np.testing.assert_array_equal(getattr(filled, name)[: len(leaf)], leaf)
                continue
            found = getattr(filled, name).reshape(blocks, -1, *leaf.shape[1:])
            np.testing.assert_array_equal(found[:, :rows].reshape(leaf.shape), leaf)
            assert not found[:, rows:].any()


def lengths(*sizes):
    """Sessions of so many events, all played, one a user."""
    return [(user, [(1 + e % 9, "play", 0, "train") for e in range(size)]) for user, size in enumerate(sizes)]


@pytest.mark.parametrize(
    ("sizes", "packed"),
    [
        ([7] * 20, False),  # six inputs of six
        ([7] * 10 + [6] * 10, False),  # 92%
        ([7] * 8 + [6] * 11 + [5], False),  # 5.35 of 6 on average, 89%, but no two find room in a row
        ([5] * 20, False),
        ([7] * 16 + [4] * 4, False),  # 18 rows for 20
        ([7] * 14 + [4] * 6, True),  # 17
        ([4] * 20, True),
        ([2], False),
    ],
)
def test_rows_are_packed_where_that_saves_a_tenth(make_store, sizes, packed):
    store, config = make_store(lengths(*sizes), items=9), dataclasses.replace(CONFIG, packed="auto")
    assert pipeline.TrainBatches(store, config).form.packed == packed
    # What reads no segments is given one sequence a row, whatever it would save, and what insists gets what it wants.
    without = pipeline.Wanted(fields=batch_fields.ALL - {"segment_BL"})
    assert not pipeline.TrainBatches(store, config, without).form.packed
    assert pipeline.TrainBatches(store, dataclasses.replace(config, packed="always")).form.packed
    assert not pipeline.TrainBatches(store, dataclasses.replace(config, packed="never")).form.packed


def test_rows_may_be_longer_than_sequences(random_store):
    """The same sequences in fewer rows of 20 positions, of which each has as many as fit."""
    store = random_store(1, users=40, ordered=True)
    alone = pipeline.TrainBatches(store, CONFIG)
    long = pipeline.TrainBatches(store, dataclasses.replace(PACKED, packed="auto", row=20))
    assert long.form.packed and long.form.length == 20 and epoch(long)[0].item_BL.shape[1] == 20
    expected, found = (
        collections.Counter(s for batch in epoch(batches) for s in sequences(batch))
        for batches in (alone, long)
    )
    assert found == expected
    assert max(batch.segment_BL.max() for batch in epoch(long)) > 6


FIELDS = ("item_BL", "feedback_BL", "station_BL", "target_BL", "label_BL")


def sequences(batch):
    """Each sequence of a batch, as tuples of its fields: a segment of a packed row, or the events of a row."""
    for b in range(len(batch.item_BL)):
        if batch.segment_BL.shape[1]:
            parts = [batch.segment_BL[b] == k for k in np.unique(batch.segment_BL[b]) if k > 0]
        else:
            parts = [batch.feedback_BL[b] > 0]
        for at in parts:
            if at.any():
                yield tuple(tuple(getattr(batch, name)[b][at].tolist()) for name in FIELDS)


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"target": "next_positive"},
        {"target": "any", "reach": "user"},
        {"inputs": ("play", "thumb_up", "skip")},
        {"hard_scope": "session", "negatives": 3},
    ],
)
def test_packed_rows_hold_the_same_sequences_side_by_side(random_store, change):
    store = random_store(1, users=40, ordered=True)
    alone = pipeline.TrainBatches(store, dataclasses.replace(CONFIG, **change))
    packed = pipeline.TrainBatches(store, dataclasses.replace(PACKED, **change))
    assert packed.form.rows < alone.form.rows and packed.spans == alone.spans
    for number in range(2):
        expected = collections.Counter(s for batch in epoch(alone, number) for s in sequences(batch))
        found = collections.Counter(s for batch in epoch(packed, number) for s in sequences(batch))
        assert found == expected
    several = 0
    for batch in epoch(packed):
        there_BL = batch.segment_BL > 0
        np.testing.assert_array_equal(there_BL, batch.item_BL > 0)
        assert not (batch.target_BL[~there_BL].any() or batch.negative_BLN[~there_BL].any())
        several += int((batch.segment_BL.max(1) > 1).sum())
        for segment_L in batch.segment_BL:
            real = segment_L[segment_L > 0]  # stands at the left, each segment in one piece
            assert (segment_L[: len(real)] > 0).all() and (np.diff(real) >= 0).all()
        wanted_BL = (batch.target_BL > 0) & ((batch.label_BL > 0) | (change.get("target") == "any"))
        np.testing.assert_array_equal((batch.negative_BLN > 0).all(2), wanted_BL)
    assert several > 5


def test_hidden_events_are_packed_with_their_sequence(random_store):
    store = random_store(2, users=40)
    change = {"mask": 0.4, "target": "any"}
    alone = pipeline.TrainBatches(store, dataclasses.replace(CONFIG, **change))
    packed = pipeline.TrainBatches(store, dataclasses.replace(PACKED, **change))

    def shown(batches):
        found = collections.Counter()
        for item, feedback, station, target, _ in (s for batch in epoch(batches) for s in sequences(batch)):
            assert all(
                (i == 0) == (f == MASK) == (t > 0) for i, f, t in zip(item, feedback, target, strict=True)
            )
            found[(tuple(np.add(item, target).tolist()), station)] += 1
        return found

    assert shown(packed) == shown(alone)


def test_a_packed_batch_is_a_function_of_seed_and_step(random_store):
    store = random_store(3, users=40)
    config = dataclasses.replace(PACKED, batch_size=20)
    batches = pipeline.TrainBatches(store, config, pipeline.Wanted(parts=2))
    source = batches.since(3)
    halves = [pipeline.TrainBatches(store, config, part=pipeline.Part(p, 2)) for p in range(2)]
    first, second = (np.concatenate([b.item_BL for b in epoch(batches, n)]) for n in (0, 1))
    assert not np.array_equal(first, second)
    assert collections.Counter(map(tuple, first)) == collections.Counter(map(tuple, second))
    for step in range(3, 3 + batches.steps_per_epoch):  # into the next epoch
        whole, ahead = batches[step], next(source)
        for name, leaf in whole._asdict().items():
            np.testing.assert_array_equal(getattr(ahead, name), leaf)
            for p in range(2):
                size = len(leaf) // 2  # a block of the rows
                own = leaf if name.endswith("_S") else leaf[p * size : (p + 1) * size]
                np.testing.assert_array_equal(getattr(halves[p][step], name), own)


def test_false_negatives_are_counted_by_the_listener_of_each_segment(random_store):
    store = random_store(14, users=40, items=25)
    liked = collections.defaultdict(set)
    for s in range(store.sessions):
        for e in range(store.session_indptr[s], store.session_indptr[s + 1]):
            if store.sign[store.feedback_T[e]] > 0:
                liked[int(store.session_user[s])].add(int(store.item_T[e]))
    # The listener of a sequence is known by its events, of which there is one sequence each.
    spans, users = train_spans(store, CONFIG, histories.Shown(store, CONFIG)), {}
    for start, stop, user in zip(*spans, strict=True):
        users[tuple(tuple(column[start : stop - 1]) for column in (store.item_T, store.feedback_T))] = int(
            user
        )
    assert len(users) == len(spans.start_W)
    batches = pipeline.TrainBatches(store, dataclasses.replace(PACKED, p_hard=0.3, negatives=3))
    false = drawn = 0
    for batch in epoch(batches):
        own, pairs = collections.defaultdict(set), []
        for b, k in {(b, k) for b, segment_L in enumerate(batch.segment_BL) for k in segment_L if k}:
            at = batch.segment_BL[b] == k
            user = users[tuple(batch.item_BL[b][at]), tuple(batch.feedback_BL[b][at])]
            own[user] |= set(batch.target_BL[b][at].tolist())
            random = batch.negative_BLN[b][at][~batch.hard_BLN[b][at]]
            pairs += [(user, int(i)) for i in random if i]
        left = [(user, i) for user, i in pairs if i not in own[user]]
        drawn += len(left)
        false += sum(i in liked[user] for user, i in left)
    assert 0 < false < drawn
    found = batches.false_negatives(store, in_batch=False, batches=batches.steps_per_epoch)
    assert found == false / drawn
