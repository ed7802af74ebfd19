import collections
import dataclasses
import math
import os

import numpy as np
import pytest

from jaxneg import config as configs
from jaxneg.batch import CODE, FEEDBACK, MASK, latest
from jaxneg.config import Config, DataConfig, EvalConfig, UserError
from jaxneg.data import gathering, held_out, histories, pipeline, sequences

CONFIG = DataConfig(length=3, batch_size=4, seed=5, packed="never")
LOG_Q = pipeline.Wanted(log_q=True)


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
                        batch.label_BL[b, t],
                    )
                ] += 1
        expected = collections.Counter()
        for events in train_histories(store, reach).values():
            for seen, after in zip(events[:-1], events[1:], strict=True):
                label = store.sign[store.feedback_T[after]]
                kept = (store.item_T[seen], store.feedback_T[seen], store.station_T[seen])
                expected[(*kept, store.item_T[after], label)] += 1
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
    drawn = [
        collections.Counter(
            (b.target_BL[at], b.negative_BLN[at][0])
            for b in epoch(batches, n)
            for at in zip(*np.nonzero(b.target_BL), strict=True)
        )
        for n in (0, 1)
    ]
    assert drawn[0] != drawn[1]


def test_batches_have_one_shape_and_targets_their_negatives(random_store):
    batches = pipeline.TrainBatches(random_store(4), dataclasses.replace(CONFIG, negatives=2))
    for batch in epoch(batches):
        shapes = [(4, 3)] * 5 + [(4, 3, 2)] * 2 + [(4, 4)] * 2 + [(0,)] * 2 + [(4, 3), (4, 0)]
        assert [leaf.shape for leaf in batch] == shapes
        dtypes = [np.int32] * 4 + [np.int8, np.int32, bool, np.int32, np.int8, np.int32]
        assert [leaf.dtype for leaf in batch] == [*dtypes, np.float32, np.float32, np.int32]
        np.testing.assert_array_equal(
            batch.negative_BLN > 0, np.repeat((batch.label_BL > 0)[..., None], 2, axis=2)
        )
        assert not batch.hard_BLN[batch.label_BL <= 0].any()


def rows(batches, *names):
    """Rows of the named fields of an epoch's batches, those of real sequences."""
    for batch in epoch(batches):
        for b in np.flatnonzero(batch.event_BM.any(1)):
            yield [getattr(batch, name)[b] for name in names]


def test_the_whole_sequence_comes_with_its_signs(random_store):
    store = random_store(7, longest=12)
    found = collections.Counter(
        (tuple(event_M), tuple(sign_M))
        for event_M, sign_M in rows(pipeline.TrainBatches(store, CONFIG), "event_BM", "sign_BM")
    )
    expected = collections.Counter()
    for events in train_histories(store, "session").values():
        for first in range(0, len(events) - 1, CONFIG.length):
            run = events[first : first + CONFIG.length + 1]
            fill = (0,) * (CONFIG.length + 1 - len(run))
            expected[(tuple(store.item_T[run]) + fill, tuple(store.sign[store.feedback_T[run]]) + fill)] += 1
    assert found == expected


def test_next_positive_targets_are_the_first_liked_events_after(random_store):
    config = dataclasses.replace(CONFIG, target="next_positive")
    fields = ("item_BL", "target_BL", "label_BL", "event_BM", "sign_BM", "negative_BLN")
    for item_L, target_L, label_L, event_M, sign_M, negative_LN in rows(
        pipeline.TrainBatches(random_store(8, longest=12), config), *fields
    ):
        for t in range(len(item_L)):
            after = [event_M[m] for m in range(t + 1, len(event_M)) if sign_M[m] > 0]
            assert target_L[t] == (after[0] if after else 0)
            assert label_L[t] == bool(after) == bool(negative_LN[t, 0])


def test_any_target_gets_negatives_whatever_its_feedback(random_store):
    config = dataclasses.replace(CONFIG, target="any")
    labels = set()
    for target_L, label_L, negative_LN in rows(
        pipeline.TrainBatches(random_store(9), config), "target_BL", "label_BL", "negative_BLN"
    ):
        np.testing.assert_array_equal(negative_LN[:, 0] > 0, target_L > 0)
        labels |= set(label_L[target_L > 0].tolist())
    assert labels == {-1, 0, 1}


def test_cloze_hides_what_it_asks_for(random_store):
    config = dataclasses.replace(CONFIG, length=9, mask=0.3)
    store = random_store(10, users=300, longest=10)
    hidden, liked, last_hidden, last_liked = 0, 0, 0, 0
    fields = ("item_BL", "feedback_BL", "target_BL", "label_BL", "event_BM", "sign_BM", "station_BL")
    for item_M, feedback_M, target_M, label_M, event_M, sign_M, station_M in rows(
        pipeline.TrainBatches(store, config), *fields
    ):
        at = feedback_M == MASK
        assert (item_M[at] == 0).all() and (sign_M[at] > 0).all()
        np.testing.assert_array_equal(item_M[~at], event_M[~at])
        np.testing.assert_array_equal(target_M, event_M * at)
        np.testing.assert_array_equal(label_M, sign_M * at)
        np.testing.assert_array_equal(station_M > 0, event_M > 0)
        last = (event_M > 0).sum() - 1
        last_hidden, last_liked = last_hidden + at[last], last_liked + (sign_M[last] > 0)
        hidden, liked = hidden + at[:last].sum(), liked + (sign_M[:last] > 0).sum()
    assert last_hidden == last_liked > 0
    assert abs(hidden / liked - 0.3) < 5 * (0.3 * 0.7 / liked) ** 0.5


def test_sequences_keep_the_kinds_that_are_inputs(random_store):
    """Others are left out before histories are cut, so that each input but the first is the target once."""
    store = random_store(11, longest=12, ordered=True)
    for reach, inputs, length in (
        ("session", ("play", "thumb_up"), 12),
        ("session", ("skip", "thumb_down", "play"), 2),
        ("user", ("play", "thumb_up"), 3),
        ("user", ("thumb_down",), 1),
        ("session", ("unknown", "thumb_down", "skip", "play", "thumb_up"), 3),
    ):
        config = dataclasses.replace(CONFIG, length=length, inputs=inputs, reach=reach, hard_scope="session")
        batches = pipeline.TrainBatches(store, config)
        found = collections.Counter(tuple(map(tuple, row)) for row in rows(batches, "event_BM", "target_BL"))
        expected = collections.Counter()
        for events in train_histories(store, reach).values():
            events = [e for e in events if store.feedback_T[e] in [CODE[kind] for kind in inputs]]
            for first in range(0, len(events) - 1, length):
                run = store.item_T[events[first : first + length + 1]].tolist()
                filled = (0,) * (length + 1 - len(run))
                expected[(*run, *filled), (*run[1:], *filled)] += 1
        assert found == expected and found
        # Which events targets are counted of is known beside the batches.
        targets = np.concatenate([target_L for (target_L,) in rows(batches, "target_BL")])
        count_V = np.bincount(targets[targets > 0], minlength=store.items + 1)
        np.testing.assert_array_equal(sequences.target_counts(store, config), count_V)


def test_a_log_without_the_kinds_that_are_inputs_has_nothing_to_train_on(make_store):
    events = [(1, "play", 1, "train"), (2, "skip", 1, "train"), (3, "play", 1, "test")]
    store = make_store([(0, events), (1, [*events[:2], (4, "skip", 1, "test")])], items=5)
    with pytest.raises(
        UserError, match="no training sequence of two events or more of the kinds of --data.inp"
    ):
        pipeline.TrainBatches(store, dataclasses.replace(CONFIG, inputs=("thumb_up",)))
    with pytest.raises(UserError, match="of --data.inputs skip$"):  # one of each listener
        pipeline.TrainBatches(store, dataclasses.replace(CONFIG, inputs=("skip",)))


@pytest.mark.parametrize("split", ["validation", "test"])
@pytest.mark.parametrize("reach", ["session", "user"])
@pytest.mark.parametrize("inputs", [(), ("play", "thumb_up"), ("skip", "thumb_down"), ("unknown",)])
def test_contexts_are_the_latest_events_of_the_kinds_that_are_inputs(random_store, split, reach, inputs):
    store = random_store(12, longest=12, ordered=True)
    config = dataclasses.replace(CONFIG, length=3, inputs=inputs, reach=reach)
    batches = held_out.EvalBatches(store, config, EvalConfig(batch_size=5), split)
    shown = [CODE[kind] for kind in inputs or FEEDBACK]
    found = [np.concatenate(parts) for parts in zip(*batches, strict=True)]
    for x, (begin, cut) in enumerate(zip(batches.begin_X, batches.cut_X, strict=True)):
        events = np.arange(begin, cut)
        events = events[latest(np.isin(store.feedback_T[events], shown), 3)]
        for found_XL, column_T in zip(
            found[:3], (store.item_T, store.feedback_T, store.station_T), strict=True
        ):
            np.testing.assert_array_equal(found_XL[x], np.pad(column_T[events], (0, 3 - len(events))))
    assert batches.examples > 3


def test_the_latest_events_of_a_history():
    assert latest(np.array([True, False, True, True, False]), 2).tolist() == [2, 3]
    assert latest(np.array([True, False, False]), 2).tolist() == [0]
    assert latest(np.zeros(3, bool), 2).tolist() == latest(np.zeros(0, bool), 2).tolist() == []


def test_shared_negatives_are_the_same_for_all_hosts_and_know_their_chance(random_store):
    store = random_store(13, items=40)
    config = dataclasses.replace(CONFIG, shared_negatives=50, random="log_uniform")
    parts = [pipeline.TrainBatches(store, config, LOG_Q, pipeline.Part(p, 2))[3].shared_S for p in (0, 1)]
    np.testing.assert_array_equal(*parts)
    batch = pipeline.TrainBatches(store, config, LOG_Q)[3]
    there = batch.shared_S > 0
    assert len(set(batch.shared_S[there])) == there.sum() < 50  # each once
    p = np.log((batch.shared_S[there] + 1.0) / batch.shared_S[there]) / np.log(store.items + 1.0)
    np.testing.assert_allclose(batch.shared_log_q_S[there], np.log(1 - (1 - p) ** 50), rtol=1e-4)  # float32
    assert not batch.shared_log_q_S[~there].any()
    both = pipeline.TrainBatches(store, config, pipeline.Wanted(log_q=True, in_batch=True))[3]
    np.testing.assert_array_equal(both.shared_S, batch.shared_S)
    # An event is a target once in an epoch; the first of a session never is.
    first = set(np.asarray(store.session_indptr)[:-1].tolist())
    trained = [
        t for b, e in zip(store.session_indptr, store.session_train_end, strict=False) for t in range(b, e)
    ]
    counts = collections.Counter(int(store.item_T[t]) for t in trained if t not in first)
    P, N = int((both.target_BL > 0).sum()), sum(counts.values())

    def expected(row):
        chance = math.log((row + 1) / row) / math.log(store.items + 1)
        missed = math.comb(N - 1 - counts[row], P - 1) / math.comb(N - 1, P - 1) * (1 - chance) ** 50
        return math.log(1 - missed)

    for rows, found in ((both.shared_S, both.shared_log_q_S), (both.target_BL, both.target_log_q_BL)):
        for row, log_q in zip(rows.ravel().tolist(), found.ravel().tolist(), strict=True):
            assert log_q == pytest.approx(expected(row), abs=2e-3) if row else log_q == 0.0


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
            pipeline.TrainBatches(store, CONFIG, part=pipeline.Part(p, processes)) for p in range(processes)
        ]
        for step in range(5):
            for number, leaf in enumerate(whole[step]):
                for p in range(processes):
                    own = leaf if leaf.ndim == 1 else np.split(leaf, processes)[p]
                    np.testing.assert_array_equal(parts[p][step][number], own)
    with pytest.raises(UserError, match="multiple of the 3 processes"):
        pipeline.TrainBatches(store, CONFIG, part=pipeline.Part(0, 3))


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
        batches = held_out.EvalBatches(store, data, EvalConfig(batch_size=3), split)
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
                if store.station_T[a] == store.station_T[b] and store.item_T[a] != store.item_T[b]
            }
            assert tuple(pair) in pairs if pairs else tuple(pair) == (0, 0)
            assert user_ == user
            whole = [
                store.sign[store.feedback_T[t]]
                for s in range(store.sessions)
                if store.session_user[s] == user
                for t in range(store.session_indptr[s], store.session_indptr[s + 1])
            ]
            signed = sum(value != 0 for value in whole)
            np.testing.assert_allclose(share, sum(value > 0 for value in whole) / signed, rtol=1e-6)


def test_pairs_are_uniform_over_same_station_pairs(make_store):
    events = [(1, "play", 1, "train")] + [
        (2, "play", 1, "test"),
        (3, "skip", 1, "test"),
        (4, "skip", 1, "test"),
        (5, "play", 2, "test"),
        (6, "skip", 2, "test"),
    ]
    store = make_store([(user, events) for user in range(3000)], items=6)
    batches = held_out.EvalBatches(store, CONFIG, EvalConfig(batch_size=3000), "test")
    counts = collections.Counter(map(tuple, batches[0].pair_B2.tolist()))
    assert set(counts) == {(2, 3), (2, 4), (5, 6)}
    assert max(abs(count - 1000) for count in counts.values()) < 5 * 1000**0.5
    again = held_out.EvalBatches(store, CONFIG, EvalConfig(batch_size=7), "test")
    np.testing.assert_array_equal(np.concatenate([b.pair_B2[b.real_B] for b in again]), batches[0].pair_B2)


def test_an_item_makes_no_pair_with_itself(make_store):
    """Likes of 2, 2, 3 and dislikes of 2, 3, 4: of nine pairs three are of an item with itself."""
    events = [(1, "play", 1, "train")] + [
        (item, kind, 1, "test")
        for item, kind in [(2, "play"), (2, "skip"), (3, "skip"), (2, "play"), (4, "skip"), (3, "play")]
    ]
    only_itself = [(1, "play", 1, "train"), (5, "play", 1, "test"), (5, "skip", 1, "test")]
    elsewhere = [*only_itself, (6, "skip", 2, "test")]
    store = make_store(
        [(user, events) for user in range(3000)] + [(3000, only_itself), (3001, elsewhere)], items=6
    )
    batches = held_out.EvalBatches(store, CONFIG, EvalConfig(), "test")
    counts = collections.Counter(map(tuple, batches.pair_X2[:3000].tolist()))
    expected = {(2, 3): 1000, (2, 4): 1000, (3, 2): 500, (3, 4): 500}
    assert set(counts) == set(expected)
    assert max(abs(counts[pair] - n) for pair, n in expected.items()) < 5 * 1000**0.5
    assert batches.pair_X2[3000:].tolist() == [[0, 0], [0, 0]]
    assert batches.paired_X[[2999, 3000, 3001]].tolist() == [True, False, False]
    assert batches.compared_X[[2999, 3000, 3001]].tolist() == [True, False, True]
    assert batches.users == 3002


def test_examples_without_context_are_counted(make_store):
    store = make_store(
        [(0, [(1, "play", 1, "test")]), (1, [(2, "play", 1, "train"), (1, "skip", 1, "test")])], items=2
    )
    batches = held_out.EvalBatches(store, CONFIG, EvalConfig(), "test")
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
        held_out.EvalBatches(store, CONFIG, EvalConfig(), "test")


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


def test_false_negatives_counts_random_negatives_that_the_listener_likes(random_store):
    store = random_store(14, users=40, items=25)
    liked = collections.defaultdict(set)
    for s in range(store.sessions):
        for e in range(store.session_indptr[s], store.session_indptr[s + 1]):
            if store.sign[store.feedback_T[e]] > 0:
                liked[int(store.session_user[s])].add(int(store.item_T[e]))
    config = dataclasses.replace(CONFIG, p_hard=0.3, negatives=3)
    batches = pipeline.TrainBatches(store, config)
    spans, order = sequences.train_spans(store, config, histories.Shown(store, config)), batches._order
    false = drawn = 0
    for step in range(batches.steps_per_epoch):
        batch = batches[step]
        for b, span in enumerate(order[step]):
            own = {int(i) for i in batch.target_BL[b] if i}
            for i in batch.negative_BLN[b][~batch.hard_BLN[b] & (batch.negative_BLN[b] > 0)].tolist():
                if i not in own:
                    drawn += 1
                    false += i in liked[int(spans.user_W[span])]
    found = batches.false_negatives(store, in_batch=False, batches=batches.steps_per_epoch)
    assert 0 < false < drawn and found == false / drawn


def test_false_negatives_of_shared_and_batch_negatives(random_store):
    store = random_store(15, users=40, items=25)
    alone = pipeline.TrainBatches(store, dataclasses.replace(CONFIG, p_hard=0.0)).false_negatives(
        store, in_batch=False
    )
    config = dataclasses.replace(CONFIG, p_hard=0.0, shared_negatives=200)
    shared = pipeline.TrainBatches(store, config).false_negatives(store, in_batch=False)
    with_batch = pipeline.TrainBatches(store, config).false_negatives(store, in_batch=True)
    # Draws of a target's own leave out what its listener is known to like; shared ones cannot.
    assert alone < shared and shared != with_batch


def test_no_negatives_of_its_own_leaves_a_target_to_the_shared_ones(random_store, monkeypatch):
    store = random_store(16)
    # Bytes and a pass for each positive of the log, which shared draws do not ask.
    monkeypatch.setattr(pipeline.gathering.negatives.Filter, "_made", None)
    config = dataclasses.replace(CONFIG, negatives=0, shared_negatives=6)
    for batch in epoch(pipeline.TrainBatches(store, config)):
        assert batch.negative_BLN.shape == (4, 3, 0) and batch.shared_S.shape == (6,)
        assert ((1 <= batch.shared_S) & (batch.shared_S <= store.items)).all()


@pytest.mark.parametrize("shuffle", [{}, {"shuffle_block": 8, "shuffle_pool": 4}])
def test_blocks_are_drawn_the_same_whoever_draws_them(random_store, shuffle, monkeypatch):
    store = random_store(3, users=60)
    config = DataConfig(
        length=5, batch_size=8, negatives=2, shared_negatives=6, blocks=4, packed="never", **shuffle
    )
    whole = pipeline.TrainBatches(store, config, LOG_Q)
    shares = {
        n: [pipeline.TrainBatches(store, config, LOG_Q, pipeline.Part(p, n)) for p in range(n)]
        for n in (2, 4, 8)
    }
    for step in range(2 * whole.steps_per_epoch):
        expected = whole[step]
        for n, parts in shares.items():
            for p, part in enumerate(parts):
                found = part[step]
                for name, leaf in expected._asdict().items():
                    own = leaf if name.endswith("_S") else leaf[p * 8 // n : (p + 1) * 8 // n]
                    np.testing.assert_array_equal(getattr(found, name), own)
    # Fewer rows are gathered: a process of two draws half of each batch.
    rows, gather = [], gathering.Gather.random_map

    def counted(self, element, rng):
        rows.append(len(element))
        return gather(self, element, rng)

    monkeypatch.setattr(gathering.Gather, "random_map", counted)
    shares[2][1][0]
    assert sum(rows) == 4
    drawn = [row for k in range(whole.steps_per_epoch) for row in whole[k].negative_BLN.reshape(8, -1)]
    drawn = [tuple(row) for row in drawn if row.any()]
    # short rows may meet by chance, blocks of equal draws would always
    assert len(set(drawn)) > 0.8 * len(drawn)


def test_a_batch_that_blocks_do_not_divide_is_refused():
    with pytest.raises(UserError, match="--data.blocks must be a divisor of the batch size 128, got 3"):
        configs.check(Config(data=DataConfig(blocks=3)))


@pytest.mark.parametrize("split", ["validation", "test"])
def test_an_example_has_one_pair_however_far_back_inputs_go(random_store, split):
    store = random_store(16, users=60, longest=12, ordered=True)
    sides = [
        held_out.EvalBatches(store, dataclasses.replace(CONFIG, reach=reach), EvalConfig(), split)
        for reach in ("session", "user")
    ]
    near, far = (dict(zip(one.session_X.tolist(), one.pair_X2.tolist(), strict=True)) for one in sides)
    assert set(near) < set(far) and {s: far[s] for s in near} == near
    assert sum(pair[0] > 0 for pair in near.values()) > 5


@pytest.mark.parametrize("packed", ["always", "never"])
def test_many_threads_make_the_same_batches_in_the_same_order(random_store, monkeypatch, packed):
    store, config = random_store(5, users=60), dataclasses.replace(CONFIG, packed=packed, negatives=2)
    batches = pipeline.TrainBatches(store, config)
    expected = [batches[step] for step in range(3, 40)]
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    for found, one in zip(batches.since(3), expected, strict=False):
        for name, leaf in one._asdict().items():
            np.testing.assert_array_equal(getattr(found, name), leaf)
