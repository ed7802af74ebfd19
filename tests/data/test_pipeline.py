import collections
import dataclasses

import numpy as np
import pytest

from jaxneg.config import DataConfig, EvalConfig, UserError
from jaxneg.data import pipeline

CONFIG = DataConfig(length=3, batch_size=4, seed=5)


def epoch(batches, number=0):
    per_epoch = batches.steps_per_epoch
    return [batches[step] for step in range(number * per_epoch, (number + 1) * per_epoch)]


def train_histories(store, reach):
    """Training events (places in the log) of each session or user, by plain loops."""
    histories = collections.defaultdict(list)
    for s in range(store.sessions):
        key = s if reach == "session" else int(store.session_user[s])
        histories[key] += range(store.session_indptr[s], store.session_train_end[s])
    return histories


@pytest.mark.parametrize("reach", ["session", "user"])
def test_every_training_event_is_the_target_once_per_epoch(random_store, reach):
    store = random_store(1, ordered=True)
    config = dataclasses.replace(CONFIG, reach=reach)
    batches = pipeline.TrainBatches(store, config)
    for number in range(3):
        found = collections.Counter()
        for batch in epoch(batches, number):
            for b, t in zip(*np.nonzero(batch.item_BL), strict=True):
                found[
                    (
                        batch.item_BL[b, t],
                        batch.feedback_BL[b, t],
                        batch.station_BL[b, t],
                        batch.target_BL[b, t],
                    )
                ] += 1
        expected = collections.Counter()
        for events in train_histories(store, reach).values():
            for seen, after in zip(events[:-1], events[1:], strict=True):
                target = store.item_T[after] if store.sign[store.feedback_T[after]] > 0 else 0
                expected[(store.item_T[seen], store.feedback_T[seen], store.station_T[seen], target)] += 1
        assert found == expected


def test_sequences_are_runs_of_one_history_padded_on_the_right(random_store):
    store = random_store(2, longest=12)
    runs = set()
    for events in train_histories(store, "session").values():
        for first in range(0, len(events) - 1, CONFIG.length):
            inputs = events[first : first + CONFIG.length + 1][:-1]
            runs.add(tuple(store.item_T[inputs]) + (0,) * (CONFIG.length - len(inputs)))
    found = {
        tuple(row)
        for batch in epoch(pipeline.TrainBatches(store, CONFIG))
        for row in batch.item_BL
        if row.any()
    }
    assert found == runs


def test_epochs_are_new_permutations_with_new_negatives(random_store):
    batches = pipeline.TrainBatches(random_store(3, users=60), CONFIG)
    first, second = (np.concatenate([batch.item_BL for batch in epoch(batches, n)]) for n in (0, 1))
    assert not np.array_equal(first, second)
    assert collections.Counter(map(tuple, first)) == collections.Counter(map(tuple, second))
    negatives = [
        collections.Counter(
            (b.target_BL[at], b.negative_BLN[at][0])
            for b in epoch(batches, n)
            for at in zip(*np.nonzero(b.target_BL), strict=True)
        )
        for n in (0, 1)
    ]
    assert negatives[0] != negatives[1]


def test_batches_have_one_shape_and_targets_their_negatives(random_store):
    batches = pipeline.TrainBatches(random_store(4), dataclasses.replace(CONFIG, negatives=2))
    for batch in epoch(batches):
        assert [leaf.shape for leaf in batch] == [(4, 3)] * 4 + [(4, 3, 2)] * 2
        assert [leaf.dtype for leaf in batch] == [np.int32] * 5 + [bool]
        np.testing.assert_array_equal(
            batch.negative_BLN > 0, np.repeat((batch.target_BL > 0)[..., None], 2, axis=2)
        )
        assert not batch.hard_BLN[batch.target_BL == 0].any()


def test_seeking_gives_what_reading_on_gives(random_store):
    batches = pipeline.TrainBatches(random_store(5), CONFIG)
    stream = batches.since(0)
    read = [next(stream) for _ in range(3 * batches.steps_per_epoch)]
    for step in (0, 1, batches.steps_per_epoch, len(read) - 1):
        for a, b in zip(next(batches.since(step)), read[step], strict=True):
            np.testing.assert_array_equal(a, b)


def test_hosts_share_the_same_global_batch(random_store):
    store = random_store(6)
    whole = pipeline.TrainBatches(store, CONFIG)
    for processes in (2, 4):
        parts = [
            pipeline.TrainBatches(store, CONFIG, process=p, processes=processes) for p in range(processes)
        ]
        for step in range(5):
            for number, leaf in enumerate(whole[step]):
                for p in range(processes):
                    np.testing.assert_array_equal(parts[p][step][number], leaf[p::processes])
    with pytest.raises(UserError, match="multiple of the 3 processes"):
        pipeline.TrainBatches(store, CONFIG, processes=3)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 63, 64, 65, 1000, 4097])
def test_permuted_is_a_permutation_that_depends_on_the_seed(size):
    first, second = (pipeline.permuted(np.arange(size), size, seed) for seed in (0, 1))
    assert sorted(first) == list(range(size)) == sorted(second)
    if size > 60:
        assert not np.array_equal(first, second)
        # Of a random permutation about 1 place is fixed and neighbours land a third of the size apart.
        assert (first == np.arange(size)).sum() < 10
        assert abs(np.abs(np.diff(first)).mean() / size - 1 / 3) < 0.06
    np.testing.assert_array_equal(pipeline.permuted(np.array([size - 1, 0]), size, 0), first[[size - 1, 0]])


def examples_by_hand(store, split, reach):
    """(user, context places, liked places, disliked places) of each example, by plain loops."""
    for s in range(store.sessions):
        begin, end = int(store.session_indptr[s]), int(store.session_indptr[s + 1])
        train_end, valid_end = int(store.session_train_end[s]), int(store.session_valid_end[s])
        cut, end = (train_end, valid_end) if split == "validation" else (valid_end, end)
        if cut == begin:
            cut = begin + (end - begin) // 2
        if reach == "user":
            begin = int(store.session_indptr[store.user_indptr[store.session_user[s]]])
        sign = [int(store.sign[store.feedback_T[t]]) for t in range(cut, end)]
        liked = [t for t, value in zip(range(cut, end), sign, strict=True) if value > 0]
        disliked = [t for t, value in zip(range(cut, end), sign, strict=True) if value < 0]
        if (liked or disliked) and cut > begin:
            yield int(store.session_user[s]), list(range(begin, cut)), liked, disliked


@pytest.mark.parametrize("split", ["validation", "test"])
@pytest.mark.parametrize("reach", ["session", "user"])
def test_examples_equal_plain_loops(random_store, split, reach):
    for seed in range(8):
        store = random_store(seed, ordered=True)
        expected = list(examples_by_hand(store, split, reach))
        data = dataclasses.replace(CONFIG, reach=reach)
        batches = pipeline.EvalBatches(store, data, EvalConfig(batch_size=3), split)
        assert batches.examples == len(expected)
        rows = [tuple(leaf[b] for leaf in batch) for batch in batches for b in range(3)]
        assert [bool(row[8]) for row in rows] == [True] * len(expected) + [False] * (-len(expected) % 3)
        for row, (user, context, liked, disliked) in zip(rows, expected, strict=False):
            item, feedback, station, liked_C, disliked_C, pair, user_, share, _ = row
            context = context[-3:]
            padding = [0] * (3 - len(context))
            assert item.tolist() == store.item_T[context].tolist() + padding
            assert feedback.tolist() == store.feedback_T[context].tolist() + padding
            assert station.tolist() == store.station_T[context].tolist() + padding
            assert [i for i in liked_C if i] == store.item_T[liked].tolist()
            assert [i for i in disliked_C if i] == store.item_T[disliked].tolist()
            pairs = {
                (store.item_T[a], store.item_T[b])
                for a in liked
                for b in disliked
                if store.station_T[a] == store.station_T[b]
            }
            assert tuple(pair) in pairs if pairs else tuple(pair) == (0, 0)
            assert user_ == user
            whole = [store.sign[store.feedback_T[t]] for s in range(store.sessions) if store.session_user[s] == user
                     for t in range(store.session_indptr[s], store.session_indptr[s + 1])]  # fmt: skip
            signed = sum(value != 0 for value in whole)
            np.testing.assert_allclose(share, sum(value > 0 for value in whole) / signed, rtol=1e-6)


def test_pairs_are_uniform_over_same_station_pairs(make_store):
    events = [(1, "play", 1, "train")] + [
        (2, "play", 1, "test"), (3, "skip", 1, "test"), (4, "skip", 1, "test"),
        (5, "play", 2, "test"), (6, "skip", 2, "test"),
    ]  # fmt: skip
    store = make_store([(user, events) for user in range(3000)], items=6)
    batches = pipeline.EvalBatches(store, CONFIG, EvalConfig(batch_size=3000), "test")
    counts = collections.Counter(map(tuple, batches[0].pair_B2.tolist()))
    assert set(counts) == {(2, 3), (2, 4), (5, 6)}
    assert max(abs(count - 1000) for count in counts.values()) < 5 * 1000**0.5
    again = pipeline.EvalBatches(store, CONFIG, EvalConfig(batch_size=7), "test")
    np.testing.assert_array_equal(np.concatenate([b.pair_B2[b.real_B] for b in again]), batches[0].pair_B2)


def test_examples_without_context_are_counted(make_store):
    store = make_store(
        [(0, [(1, "play", 1, "test")]), (1, [(2, "play", 1, "train"), (1, "skip", 1, "test")])], items=2
    )
    batches = pipeline.EvalBatches(store, CONFIG, EvalConfig(), "test")
    assert (batches.examples, batches.cold) == (1, 1)


def test_reach_user_refuses_what_would_leak(make_store):
    train, test = "train", "test"
    mixed = [
        (0, [(1, "play", 1, train), (2, "play", 1, test)]),
        (0, [(1, "play", 1, train), (2, "play", 1, test)]),
    ]
    config = dataclasses.replace(CONFIG, reach="user")
    with pytest.raises(UserError, match="precede all held-out events"):
        pipeline.TrainBatches(make_store(mixed, items=2), config)
    whole = [(0, [(1, "play", 1, train), (2, "play", 1, train)])]
    with pytest.raises(UserError, match="do not overlap"):
        pipeline.TrainBatches(make_store(whole, items=2, overlap=True), config)


def test_stores_without_sequences_or_examples_are_refused(make_store):
    store = make_store([(0, [(1, "play", 1, "train")])], items=1)
    with pytest.raises(UserError, match="no training sequence"):
        pipeline.TrainBatches(store, CONFIG)
    with pytest.raises(UserError, match="no test example"):
        pipeline.EvalBatches(store, CONFIG, EvalConfig(), "test")


def test_shuffled_events_keep_each_sequence_and_reorder_it_every_epoch(random_store):
    store = random_store(7, users=40, longest=4)  # every sequence fits into one row
    config = dataclasses.replace(CONFIG, shuffle_events=True)

    def rows(number):
        """Per sequence of an epoch the events seen and, at the end, the last target, in order."""
        found = []
        for batch in epoch(pipeline.TrainBatches(store, config), number):
            for item, feedback, target in zip(batch.item_BL, batch.feedback_BL, batch.target_BL, strict=True):
                seen = int((item > 0).sum())
                # A target is the next event seen: the order of targets is that of inputs.
                for t in range(seen - 1):
                    positive = store.sign[feedback[t + 1]] > 0
                    assert target[t] == (item[t + 1] if positive else 0)
                if seen:
                    found.append(tuple(item[:seen]))
        return found

    histories = [
        tuple(store.item_T[events])
        for events in train_histories(store, "session").values()
        if len(events) > 1
    ]
    for inputs in rows(0):
        # All events but one are inputs, whichever comes last in the new order.
        assert any(
            len(inputs) == len(history) - 1 and not collections.Counter(inputs) - collections.Counter(history)
            for history in histories
        )
    assert len(rows(0)) == len(histories)
    assert collections.Counter(rows(0)) == collections.Counter(rows(0)) != collections.Counter(rows(1))
