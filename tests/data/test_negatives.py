import collections

import numpy as np
import pytest

from jaxneg.batch import FEEDBACK
from jaxneg.config import DataConfig
from jaxneg.data import draws, negatives, opinions


def draw(store, target, user, group, seed=0, **options):
    options = {"negatives": 1, "p_hard": 0.5} | options
    weights = {kind: options.pop(kind) for kind in ("skip", "thumb_down") if kind in options}
    index = negatives.negative_index(store, options.get("scope", "station"), **weights)
    arrays = (np.asarray(values, np.int32) for values in (target, user, group))
    targets = negatives.Targets(*arrays, options.pop("session_P", None))
    return negatives.draw_negatives(np.random.default_rng(seed), index, targets, negatives.Draw(**options))


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
    # 9 is liked in validation only: unknown
    assert not hard.any() and set(counts) == {1, 2, 3, 4, 5, 6, 8, 9, 10}
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


def test_session_scope_draws_from_the_targets_session(make_store):
    first = [(1, "play", 1, "train"), (4, "skip", 1, "train"), (5, "thumb_down", 1, "train")]
    second = [(3, "play", 1, "train"), (6, "skip", 1, "train"), (8, "skip", 1, "test")]
    store = make_store([(0, first), (0, second)], items=10)
    sessions = np.array([0, 1] * 1000)
    item, hard = draw(
        store, [1] * 2000, [0] * 2000, [STATION_1] * 2000, p_hard=1.0, scope="session", session_P=sessions
    )
    assert hard.all() and set(item[0::2, 0]) == {4, 5} and set(item[1::2, 0]) == {6}


def test_a_session_without_negatives_falls_back_to_the_user(make_store):
    played, skipped = [(1, "play", 1, "train")] * 2, [(2, "skip", 1, "train"), (3, "skip", 1, "test")]
    store = make_store([(0, played), (0, skipped), (1, played)], items=9)
    options = {"p_hard": 1.0, "scope": "session", "session_P": np.array([0] * 50 + [2] * 50)}
    item, hard = draw(store, [1] * 100, [0] * 50 + [1] * 50, [0] * 50 + [1] * 50, **options)
    assert hard[:50].all() and set(item[:50, 0]) == {2} and not hard[50:].any()


@pytest.mark.parametrize("scope", ["station", "session", "user"])
def test_weights_set_the_shares_of_kinds(store, scope):
    size = 8000
    options = {"p_hard": 1.0, "skip": 3.0, "thumb_down": 1.0, "scope": scope}
    options |= {"session_P": np.zeros(size, int)} if scope == "session" else {}
    item, hard = draw(store, [1] * size, [0] * size, [STATION_1] * size, **options)
    # At the station, and in its session: item 4 skipped, 5 thumbed down. Of the user also 6, skipped.
    expected = {4: 3 / 7, 5: 1 / 7, 6: 3 / 7} if scope == "user" else {4: 3 / 4, 5: 1 / 4}
    counts = collections.Counter(item.ravel().tolist())
    assert hard.all() and set(counts) == set(expected)
    for row, share in expected.items():
        assert abs(counts[row] - size * share) < 5 * (size * share * (1 - share)) ** 0.5


def test_a_kind_of_weight_zero_is_never_drawn(store):
    item, hard = draw(store, [1] * 500, [0] * 500, [STATION_1] * 500, p_hard=1.0, skip=0.0)
    assert hard.all() and set(item.ravel()) == {5}
    # Station 2 has skips only, so the draw falls back to the user, who has one thumbs-down.
    item, hard = draw(store, [1] * 500, [0] * 500, [STATION_2] * 500, p_hard=1.0, skip=0.0)
    assert hard.all() and set(item.ravel()) == {5}


def test_weights_match_entries_where_sessions_overlap(random_store):
    """The store lists a group's negatives in order of time, the log by session."""
    store = random_store(5, items=30)
    rng = np.random.default_rng(0)
    user = rng.integers(0, store.users, 2000).astype(np.int32)
    group = np.asarray(store.user_group_indptr)[user]
    kind = dict(zip(("skip", "thumb_down"), (0.0, 1.0), strict=True))
    item, hard = draw(store, np.zeros(2000), user, group, p_hard=1.0, **kind)
    downs = {}
    for s in range(store.sessions):
        for e in range(store.session_indptr[s], store.session_train_end[s]):
            if FEEDBACK[store.feedback_T[e]] == "thumb_down" and store.sign[store.feedback_T[e]] < 0:
                downs.setdefault(int(store.session_user[s]), set()).add(int(store.item_T[e]))
    for u, row, is_hard in zip(user.tolist(), item[:, 0].tolist(), hard[:, 0], strict=True):
        assert is_hard == (u in downs) and (not is_hard or row in downs[u])


def test_popularity_scope_prefers_negatives_as_frequent_as_the_target(make_store):
    rare, often = [(7, "skip", 1, "train")], [(8, "skip", 1, "train")]
    crowd = [(user, [(8, "play", 1, "train")] * 30 + [(1, "play", 1, "train")] * 30) for user in range(1, 5)]
    store = make_store(
        [(0, rare + often + [(1, "play", 1, "train"), (2, "play", 1, "train")]), *crowd], items=9
    )
    group = [0] * 4000
    near_often, hard = draw(store, [1] * 4000, [0] * 4000, group, p_hard=1.0, scope="popularity")
    near_rare, _ = draw(store, [2] * 4000, [0] * 4000, group, p_hard=1.0, scope="popularity")
    # The nearer of the two wins unless all draws miss it.
    miss = 0.5**negatives.NEAREST
    for found, row in ((near_often, 8), (near_rare, 7)):
        assert hard.all() and abs((found == row).mean() - (1 - miss)) < 5 * (miss * (1 - miss) / 4000) ** 0.5


@pytest.mark.parametrize("runs", [1, 4])
def test_counts_of_rows_by_loops(random_store, monkeypatch, runs):
    """Whether the training window is read at once or, as a large one is, by runs of sessions."""
    store = random_store(2, items=15, longest=20)
    liked, rejected, every = (np.zeros(16, int) for _ in range(3))
    for s in range(store.sessions):
        for e in range(store.session_indptr[s], store.session_train_end[s]):
            row, sign = store.item_T[e], store.sign[store.feedback_T[e]]
            liked[row] += sign > 0
            rejected[row] += sign < 0
            every[row] += 1
    assert liked.max() > 1 and rejected.max() > 1 and (every > liked + rejected).any()
    whole = np.concatenate(list(opinions.training_runs(store)))
    monkeypatch.setattr(opinions, "training_runs", lambda store: iter(np.array_split(whole, runs)))
    found = (*negatives.train_counts(store), negatives.event_counts(store))
    for count_V, expected in zip(found, (liked, rejected, every), strict=True):
        assert count_V.dtype == np.int64 and count_V.tolist() == expected.tolist()


def test_random_draws_that_are_no_positives_stay_what_they_were(random_store):
    """Also where the filter of positives takes them for one: so draws by count keep their chances."""
    changed = 0
    for seed in range(6):
        store = random_store(seed, items=40, longest=30)
        index = negatives.negative_index(store, random="by_count")
        user = np.random.default_rng(seed).integers(0, store.users, 800).astype(np.int32)
        targets = negatives.Targets(np.zeros(800, np.int32), user, np.zeros(800, np.int32))
        raw = draws.random_items(np.random.default_rng(seed), 40, (800, 3), "by_count", index.until_V)
        how = negatives.Draw(3, 0.0, random="by_count")
        found, _ = negatives.draw_negatives(np.random.default_rng(seed), index, targets, how)
        for p, u in enumerate(user):
            liked = store.positive_item[slice(*store.positive_indptr[[u, u + 1]])].tolist()
            for before, after in zip(raw[p].tolist(), found[p].tolist(), strict=True):
                assert after not in liked and (before in liked or after == before)
                changed += after != before
    assert changed > 100


def test_a_user_who_likes_all_but_one_item_gets_that_one(make_store):
    store = make_store([(0, [(row, "play", 1, "train") for row in (1, 2, 4)])], items=4)
    item, _ = draw(store, [1] * 40, [0] * 40, [0] * 40, p_hard=0.0)
    assert set(item.ravel()) == {3}


def test_popularity_scope_passes_over_the_target_where_it_drew_another(make_store):
    """Of a rejected target and another rejected item, equally likely: the other, unless all draws hit the target."""
    events = [(1, "skip", 1, "train"), (7, "skip", 1, "train"), (2, "play", 1, "train")]
    store = make_store([(0, events)], items=9)
    size, miss = 4000, 0.5**negatives.NEAREST
    item, hard = draw(store, [1] * size, [0] * size, [0] * size, p_hard=1.0, scope="popularity")
    assert set(item[hard]) == {7}
    assert abs(hard.mean() - (1 - miss)) < 5 * (miss * (1 - miss) / size) ** 0.5


class Fixed(np.random.Generator):
    """Always draws the same number of [0, 1)."""

    def __init__(self, number):
        super().__init__(np.random.PCG64(0))
        self.number = number

    def random(self, size=None, dtype=np.float64, out=None):
        return np.full(size, self.number, dtype)


@pytest.mark.parametrize("number", [0.0, 0.5, np.nextafter(1.0, 0.0)])
def test_what_weighs_nothing_is_not_picked_at_either_end(number):
    """The largest number times a weight, added to the weights before it, rounds up to the end."""
    item = np.array([10, 11, 12, 13], np.int32)
    weight = np.array([0.0, 1e9, 1e9, 1e9 + 1, 1e9 + 1])
    low, high = np.array([1, 2, 3]), np.array([4, 3, 4])
    picked, found = negatives._pick(Fixed(number), item, weight, low, high)
    assert found.tolist() == [True, True, False] and picked.tolist()[:2] == [12, 12]


@pytest.mark.parametrize(
    "options",
    [
        {"hard_scope": "session"},
        {"hard_skip": 2.0},
        {"hard_thumb_down": 3.0},
        {"hard_opinion": "net"},
        {"random": "by_count"},
    ],
)
def test_the_index_of_a_config_heeds_its_fields(random_store, options):
    store = random_store(4, items=15, longest=20)
    names = {
        "hard_skip": "skip",
        "hard_thumb_down": "thumb_down",
        "hard_opinion": "opinion",
        "random": "random",
    }
    scope = options.get("hard_scope", "station")
    others = {names[name]: value for name, value in options.items() if name in names}
    made = negatives.index_of(store, DataConfig(**options)), negatives.negative_index(store, scope, **others)
    found, expected, plain = (one._replace(filter=None) for one in (*made, negatives.negative_index(store)))
    assert all(np.array_equal(one, other) for one, other in zip(found, expected, strict=True))
    assert not all(np.array_equal(one, other) for one, other in zip(found, plain, strict=True))
