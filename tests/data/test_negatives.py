import collections

import numpy as np
import pytest

from jaxneg.data import negatives


def draw(store, target, user, group, seed=0, **options):
    options = {"negatives": 1, "p_hard": 0.5} | options
    index = negatives.negative_index(store)
    arrays = (np.asarray(values, np.int32) for values in (target, user, group))
    return negatives.draw_negatives(np.random.default_rng(seed), index, *arrays, **options)


@pytest.fixture
def store(make_store):
    """User 0 likes 1, 2 and 3 and rejects 4 and 5 at station 1, 6 at station 2; user 1 likes 7 only."""
    train = "train"
    return make_store(
        [
            (
                0,
                [
                    (1, "play", 1, train),
                    (2, "play", 1, train),
                    (4, "skip", 1, train),
                    (5, "thumb_down", 1, train),
                ],
            ),
            (
                0,
                [
                    (3, "thumb_up", 2, train),
                    (6, "skip", 2, train),
                    (8, "skip", 2, "test"),
                    (1, "play", 3, train),
                ],
            ),
            (1, [(7, "play", 1, train), (9, "play", 1, "validation")]),
        ],
        items=10,
    )


STATION_1, STATION_2, STATION_3, OTHER_USER = 0, 1, 2, 3  # groups of the store above


def test_all_hard_come_from_the_users_station_in_equal_shares(store):
    item, hard = draw(store, [1] * 4000, [0] * 4000, [STATION_1] * 4000, p_hard=1.0)
    counts = collections.Counter(item.ravel().tolist())
    assert hard.all() and set(counts) == {4, 5}
    assert abs(counts[4] - 2000) < 5 * 1000**0.5  # five standard deviations of a fair coin


def test_a_station_without_negatives_falls_back_to_the_user(store):
    item, hard = draw(store, [1] * 500, [0] * 500, [STATION_3] * 500, p_hard=1.0)
    assert hard.all() and set(item.ravel()) == {4, 5, 6}  # 8 was rejected in the test window only


def test_user_scope_ignores_stations(store):
    item, _ = draw(store, [1] * 500, [0] * 500, [STATION_2] * 500, p_hard=1.0, scope="user")
    assert set(item.ravel()) == {4, 5, 6}
    item, _ = draw(store, [1] * 500, [0] * 500, [STATION_2] * 500, p_hard=1.0)
    assert set(item.ravel()) == {6}


def test_a_user_without_negatives_gets_random_ones(store):
    item, hard = draw(store, [7] * 3000, [1] * 3000, [OTHER_USER] * 3000, p_hard=1.0)
    counts = collections.Counter(item.ravel().tolist())
    assert not hard.any() and set(counts) == {
        1,
        2,
        3,
        4,
        5,
        6,
        8,
        9,
        10,
    }  # 9 is liked in validation only: unknown
    assert max(abs(count - 3000 / 9) for count in counts.values()) < 5 * (3000 / 9) ** 0.5


def test_random_negatives_are_uniform_over_what_the_user_does_not_like(store):
    item, hard = draw(store, [1] * 7000, [0] * 7000, [STATION_1] * 7000, p_hard=0.0, negatives=2)
    counts = collections.Counter(item.ravel().tolist())
    assert not hard.any() and set(counts) == {4, 5, 6, 7, 8, 9, 10}
    assert max(abs(count - 2000) for count in counts.values()) < 5 * 2000**0.5


def test_a_hard_negative_is_never_the_target(make_store):
    store = make_store(
        [(0, [(1, "play", 1, "train"), (1, "skip", 1, "train"), (2, "play", 1, "train")])], items=5
    )
    item, hard = draw(store, [1, 2] * 200, [0] * 400, [0] * 400, p_hard=1.0)
    assert not hard[0::2].any() and set(item[0::2, 0]) == {3, 4, 5}
    assert hard[1::2].all() and set(item[1::2, 0]) == {1}


def test_a_user_who_likes_everything_still_gets_a_draw(make_store):
    store = make_store([(0, [(1, "play", 1, "train"), (2, "play", 1, "train")])], items=2)
    item, hard = draw(store, [1] * 50, [0] * 50, [0] * 50)
    assert not hard.any() and set(item.ravel()) == {1, 2}


def test_the_hard_share_is_p_hard(store):
    for p_hard in (0.0, 0.1, 0.4, 0.8, 1.0):
        _, hard = draw(store, [1] * 20000, [0] * 20000, [STATION_1] * 20000, p_hard=p_hard)
        assert abs(hard.mean() - p_hard) < 0.02  # 5 standard deviations: 5 * 0.5 / sqrt(20000)


def test_the_draw_is_a_function_of_the_generator(store):
    arguments = ([1, 2, 3] * 50, [0] * 150, [STATION_1] * 150)
    np.testing.assert_array_equal(draw(store, *arguments)[0], draw(store, *arguments)[0])
    assert not np.array_equal(draw(store, *arguments)[0], draw(store, *arguments, seed=1)[0])


def test_no_random_negative_is_a_positive_on_random_stores(random_store):
    for seed in range(20):
        store = random_store(seed, items=40)
        rng = np.random.default_rng(seed)
        user = rng.integers(0, store.users, 300).astype(np.int32)
        group = np.asarray(store.user_group_indptr)[user]
        item, hard = draw(store, np.zeros(300), user, group, seed=seed, negatives=3)
        for p in range(300):
            liked = store.positive_item[slice(*store.positive_indptr[[user[p], user[p] + 1]])]
            rejected = store.negative_item[
                slice(*store.negative_indptr[store.user_group_indptr[[user[p], user[p] + 1]]])
            ]
            for n in range(3):
                assert item[p, n] in rejected if hard[p, n] else item[p, n] not in liked
                assert 1 <= item[p, n] <= 40


def test_odds_are_where_the_loss_without_a_context_is_least():
    """The gradient of the expected loss by each bias, summed over the distribution of draws, is zero there."""
    rng = np.random.default_rng(0)
    positive_V, negative_V = np.append(0, rng.integers(1, 50, 30)), np.append(0, rng.integers(1, 50, 30))
    prior = 7.0
    for p_hard, count in ((0.0, 1), (0.4, 3), (1.0, 2)):
        bias_V = negatives.odds(positive_V, negative_V, negatives=count, p_hard=p_hard, prior=prior).astype(
            np.float64
        )
        share = positive_V.sum() / (positive_V.sum() + negative_V.sum())
        target_V = (positive_V + prior * share)[1:]
        hard_V = (negative_V + prior * (1 - share))[1:]
        drawn_V = p_hard * hard_V / hard_V.sum() + (1 - p_hard) / 30
        sigmoid_V = 1 / (1 + np.exp(-bias_V[1:]))
        gradient_V = -(1 - sigmoid_V) * target_V / target_V.sum() + count * sigmoid_V * drawn_V
        np.testing.assert_allclose(gradient_V, 0.0, atol=1e-7)  # biases are float32
        assert bias_V[0] == 0.0


def test_odds_of_a_log_without_negatives_are_finite():
    assert np.isfinite(
        negatives.odds(np.array([0, 3, 0]), np.zeros(3), negatives=1, p_hard=1.0, prior=10.0)
    ).all()
