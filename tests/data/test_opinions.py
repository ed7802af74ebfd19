"""Songs that a listener both liked and rejected, by plain loops over the log."""

import collections
import dataclasses

import numpy as np
import pytest

from jaxneg import config as configs
from jaxneg.config import Config, DataConfig
from jaxneg.data import biases, draws, expected, negatives, opinions, pipeline
from tests.marks import rest_slow


def histories(store):
    """(listener, song) -> signs of its training events by time, with the places of these events."""
    found = collections.defaultdict(list)
    for s in range(store.sessions):
        for t in range(store.session_indptr[s], store.session_train_end[s]):
            if sign := int(store.sign[store.feedback_T[t]]):
                found[int(store.session_user[s]), int(store.item_T[t])].append(
                    (int(store.time_T[t]), t, sign)
                )
    return {key: sorted(events) for key, events in found.items()}


def by_hand(store, opinion):
    """What each rejection weighs, by place."""
    weights = {}
    for events in histories(store).values():
        signs = [sign for _, _, sign in events]
        rejections, likes = signs.count(-1), signs.count(1)
        for _, t, sign in events:
            if sign < 0:
                net, latest = max(rejections - likes, 0) / rejections, float(signs[-1] < 0)
                weights[t] = {"all": 1.0, "net": net, "latest": latest}[opinion]
    return weights


@pytest.mark.parametrize("opinion", ["all", "net", "latest"])
def test_what_is_kept_equals_plain_loops(random_store, opinion):
    for seed in range(10):
        store = random_store(seed, users=6, items=5, longest=12)
        # Sessions overlap, and events share a time: the later place counts.
        store = dataclasses.replace(
            store, time_T=np.random.default_rng(seed).integers(0, 9, len(store.time_T))
        )
        expected_ = by_hand(store, opinion)
        rejected = np.array(sorted(expected_), np.int64)
        found = opinions.kept(store, rejected, opinion)
        np.testing.assert_allclose(found, [expected_[t] for t in rejected.tolist()])


def test_no_rejections_and_no_likes():
    """The edges: nothing contested."""
    none = np.zeros(0, np.int64)
    assert not len(opinions.is_positive(np.zeros(3, np.int64), np.zeros(0, np.int32), none, none))
    assert opinions.is_positive(
        np.zeros(3, int), np.zeros(0, np.int32), np.array([0]), np.array([4])
    ).tolist() == [False]


def test_a_log_without_rejections_has_no_share(make_store):
    assert np.isnan(opinions.also_liked(make_store([(0, [(1, "play", 1, "train")] * 3)], items=3)))


def test_shares_of_rejections_also_liked_by_hand(make_store):
    train = [
        (1, "play", 1, "train"),
        (1, "skip", 1, "train"),
        (2, "skip", 1, "train"),
        (2, "thumb_down", 2, "train"),
    ]
    held_out = [(2, "play", 1, "test")]  # is no training like
    store = make_store(
        [(0, train + held_out), (1, [(1, "skip", 1, "train"), (2, "play", 1, "train")])], items=4
    )
    assert opinions.also_liked(store) == 1 / 4


def first(config, store, targets):
    found = biases.first(config, store, targets)
    assert found is not None
    return found


CONFLICT = [
    (3, "skip", 1, "train"),
    (3, "skip", 1, "train"),
    (3, "play", 1, "train"),  # outnumbered once, liked in the end
    (4, "play", 1, "train"),
    (4, "skip", 1, "train"),  # as often liked, rejected in the end
    (5, "skip", 1, "train"),
    (1, "play", 1, "train"),
]


@pytest.mark.parametrize(
    "opinion, shares",
    [("all", {3: 0.5, 4: 0.25, 5: 0.25}), ("net", {3: 0.5, 5: 0.5}), ("latest", {4: 0.5, 5: 0.5})],
)
@pytest.mark.parametrize("scope", ["station", "session", "user"])
def test_hard_negatives_are_drawn_by_what_is_kept(make_store, opinion, shares, scope):
    store, size = make_store([(0, CONFLICT)], items=9), 6000
    index = negatives.negative_index(store, scope, opinion=opinion)
    zeros = np.zeros(size, np.int32)
    targets = negatives.Targets(zeros + 1, zeros, zeros, zeros)
    item, hard = negatives.draw_negatives(
        np.random.default_rng(0), index, targets, negatives.Draw(1, 1.0, scope)
    )
    counts = collections.Counter(item.ravel().tolist())
    assert hard.all() and set(counts) == set(shares)
    for row, share in shares.items():
        assert abs(counts[row] / size - share) < 5 * (share * (1 - share) / size) ** 0.5


def test_where_all_is_taken_back_draws_are_random_and_liked_by_nobody(make_store):
    taken_back = [(3, "skip", 1, "train"), (3, "play", 1, "train"), (1, "play", 1, "train")]
    store = make_store([(0, taken_back)], items=9)
    index, zeros = negatives.negative_index(store, opinion="latest"), np.zeros(500, np.int32)
    targets = negatives.Targets(zeros + 1, zeros, zeros)
    item, hard = negatives.draw_negatives(np.random.default_rng(0), index, targets, negatives.Draw(1, 1.0))
    assert not hard.any() and not np.isin(item, [1, 3]).any()


@pytest.mark.parametrize("scope", ["station", "session", "user"])
@pytest.mark.parametrize("opinion", ["all", "net"])
def test_the_share_of_hard_negatives_also_liked_is_that_of_the_draws(random_store, scope, opinion):
    store = random_store(3, users=8, items=12, longest=20)
    config = DataConfig(
        length=40,
        batch_size=16,
        negatives=8,
        p_hard=1.0,
        hard_scope=scope,
        hard_opinion=opinion,
        hard_skip=2.0,
        target="any",
        inputs=(),
    )
    index = negatives.index_of(store, config)
    liked = {key for key, events in histories(store).items() if any(sign > 0 for _, _, sign in events)}
    # Every training event is once a target here: draws without the pipeline, which leaves out first events.
    event = np.concatenate(list(opinions.training_runs(store)))
    session = np.searchsorted(np.asarray(store.session_indptr), event, side="right") - 1
    user = np.asarray(store.session_user)[session]
    targets = negatives.Targets(np.zeros(len(event), np.int32), user, store.group_T[event], session)
    item, hard = negatives.draw_negatives(
        np.random.default_rng(0), index, targets, negatives.Draw(4000, 1.0, scope)
    )
    its = [(int(user[p]), int(item[p, n])) in liked for p, n in zip(*np.nonzero(hard), strict=True)]
    assert expected.hard_also_liked(index, store, config) == pytest.approx(np.mean(its), abs=0.01)


BIASED = {
    "uniform": "--data.p-hard 0 --data.negatives 3",
    "hard, station": "--data.p-hard 1",
    "hard, session, weights": "--data.p-hard 0.6 --data.hard-scope session --data.hard-skip 3",
    "hard, user, net": "--data.p-hard 0.8 --data.hard-scope user --data.hard-opinion net",
    "log-uniform": "--data.p-hard 0.3 --data.random log_uniform",
    "by count": "--data.p-hard 0 --data.random by_count --data.negatives 2",
    "shared": "--data.negatives 0 --data.shared-negatives 6 --data.random log_uniform",
    "in batch": "--data.negatives 0 --loss.in-batch",
}


@pytest.mark.parametrize("name", rest_slow(BIASED, ["hard, station", "in batch"]))
def test_first_biases_are_the_log_odds_of_what_batches_hold(random_store, name):
    """Targets and negatives of many epochs, counted: where binary cross-entropy has its least value over biases."""
    store = random_store(11, users=60, items=12, longest=30)
    options = (
        f"--data.length 40 --data.batch-size 16 --model.item-bias odds --model.bias-prior 1e-9 {BIASED[name]}"
    )
    config = configs.override(Config(), options.split())
    batches = pipeline.of_config(config, store)
    target, negative = np.zeros(13), np.zeros(13)
    for step in range(40 * batches.steps_per_epoch):
        batch = batches[step]
        wanted = (batch.target_BL > 0) & (batch.label_BL > 0)
        target += np.bincount(batch.target_BL[wanted], minlength=13)
        if batch.negative_BLN.size:
            negative += np.bincount(batch.negative_BLN[wanted].ravel(), minlength=13)
        shared = batch.shared_S
        if config.loss.in_batch:
            shared = np.append(shared, np.unique(batch.target_BL[batch.target_BL > 0]))
        for row in shared:
            negative[row] += (wanted & (batch.target_BL != row)).sum()
    found = first(config, store, batches.targets)
    expected_ = np.log(target[1:]) - np.log(negative[1:])
    # The first event of a session is counted for a target here and is none there; draws that hit the target are not.
    assert np.abs(found[1:] - expected_).max() < 0.35
    assert np.abs((found[1:] - expected_).mean()) < 0.1 and found[0] == 0.0


def test_biases_of_a_loss_over_the_catalogue_are_the_shares_of_targets(random_store):
    store = random_store(11, users=60, items=12, longest=30)
    positive_V, _ = negatives.train_counts(store)
    for options in (
        "--loss.name softmax",
        "--loss.name sampled_softmax --data.negatives 0 --loss.in-batch --loss.log-q plain",
        "--loss.name sampled_softmax --data.negatives 0 --data.shared-negatives 5 --data.random by_count "
        "--loss.log-q refined",
    ):
        config = configs.override(
            Config(), f"--model.item-bias odds --model.bias-prior 1e-9 {options}".split()
        )
        found = first(config, store, lambda: 100.0)
        np.testing.assert_allclose(found[1:], np.log(positive_V[1:] / positive_V.sum()), rtol=1e-4)


def test_biases_of_feedback_compare_likes_with_rejections(random_store):
    store = random_store(11, users=60, items=12, longest=30)
    config = configs.override(
        Config(), "--model.item-bias odds --loss.name feedback --model.bias-prior 1e-9".split()
    )
    positive_V, negative_V = negatives.train_counts(store)
    found = first(config, store, lambda: 100.0)
    share = positive_V[1:] / positive_V.sum() / (negative_V[1:] / negative_V.sum())
    np.testing.assert_allclose(found[1:], np.log(share), rtol=1e-4, atol=1e-5)


def test_no_bias_is_infinite(make_store):
    store = make_store([(0, [(1, "play", 1, "train")] * 4)], items=3)
    for options in BIASED.values():
        config = configs.override(Config(), f"--model.item-bias odds --data.length 4 {options}".split())
        assert np.isfinite(first(config, store, lambda: 3.0)).all()
    assert draws.log_left_out(np.array([5.0]), 5, 5)[0] == -np.inf
