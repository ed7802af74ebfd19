import math

import numpy as np
import pytest

from jaxneg.baselines import counting, least_squares, votes
from jaxneg.batch import CODE, EvalBatch
from jaxneg.evaluation import tuning

SIGN = np.array([0, 0, -1, -1, 1, 1], np.int8)
SKIP, PLAY, UNKNOWN = CODE["skip"], CODE["play"], CODE["unknown"]


def make_log(events, items, users=3):
    """A log of (user, session, item, sign)."""
    user, session, item, sign = (np.array(column) for column in zip(*events, strict=True))
    return counting.Log(user, item, sign, session, items, users)


def make_batch(contexts, users, length=4):
    """Examples with contexts of (item, feedback code) pairs."""
    item_BL, feedback_BL = np.zeros((2, len(contexts), length), np.int32)
    for b, context in enumerate(contexts):
        for l, (item, feedback) in enumerate(context):
            item_BL[b, l], feedback_BL[b, l] = item, feedback
    empty_B1 = np.zeros((len(contexts), 1), np.int32)
    return EvalBatch(
        item_BL=item_BL,
        feedback_BL=feedback_BL,
        station_BL=np.zeros_like(item_BL),
        liked_BC=empty_B1,
        disliked_BC=empty_B1,
        pair_B2=np.zeros((len(contexts), 2), np.int32),
        user_B=np.array(users, np.int32),
        share_B=np.zeros(len(contexts), np.float32),
        real_B=np.ones(len(contexts), bool),
    )


EVENTS = [
    (0, 0, 1, 1),
    (0, 0, 2, 1),
    (0, 0, 3, -1),
    (0, 1, 1, 1),
    (0, 1, 2, -1),
    (1, 2, 1, -1),
    (1, 2, 2, 1),
    (1, 2, 4, 0),
    (1, 2, 3, 1),
]
LOG = make_log(EVENTS, items=5)
BATCH = make_batch([[(1, PLAY)], [(3, SKIP), (2, PLAY)], [(4, UNKNOWN)]], users=[0, 1, 99])


def first(score):
    """Every setting is as good as another, so the first of a grid is taken."""
    return 0.0


@pytest.mark.parametrize("name", tuning.BASELINES["usual"])
def test_scores_cover_the_catalogue_for_known_and_unknown_users(name):
    fitted = tuning.BASELINES["usual"][name](LOG, SIGN, first)
    score_BV = np.asarray(fitted(BATCH))
    assert score_BV.shape == (3, 6)
    assert score_BV.dtype == np.float32
    assert np.isfinite(score_BV).all()
    np.testing.assert_array_equal(score_BV, fitted(BATCH))


@pytest.mark.parametrize("name", tuning.BASELINES["usual"])
def test_a_log_of_one_neutral_event_is_fitted(name):
    log = make_log([(0, 0, 1, 0)], items=2, users=1)
    score_BV = tuning.BASELINES["usual"][name](log, SIGN, lambda score: math.nan)(
        make_batch([[(1, PLAY)]], [0])
    )
    assert np.isfinite(score_BV).all()


@pytest.mark.parametrize("name", tuning.BASELINES["usual"])
def test_the_best_settings_on_validation_are_kept(name):
    """Validation here likes whatever was tried fifth, or only."""
    seen = []

    def validate(score):
        seen.append(np.asarray(score(BATCH)))
        return 1.0 if len(seen) == 5 else 0.0

    fitted = tuning.BASELINES["usual"][name](LOG, SIGN, validate)
    if name == "like_rate":
        np.testing.assert_array_equal(fitted(BATCH), seen[4])
        assert fitted.settings == {"strength": 20}


def test_popularity_counts_positives():
    score_BV = counting.popularity(LOG, SIGN, first)(BATCH)
    assert score_BV[0].tolist() == [0, 2, 2, 1, 0, 0]


def test_like_rate_by_hand():
    fitted = counting.like_rate(LOG, SIGN, first)
    prior = (5 + 1) / (8 + 2)
    assert fitted.settings == {"strength": 1}
    expected = [(2 + prior) / 4, (2 + prior) / 4, (1 + prior) / 3, prior, prior]
    np.testing.assert_allclose(fitted(BATCH)[0, 1:], expected, rtol=1e-6)


def test_personal_rate_counts_a_context_of_the_log_once():
    like_V = counting.like_rate(LOG, SIGN, first)(BATCH)[0]
    score_BV = counting.personal_rate(LOG, SIGN, first)(BATCH)  # own_strength 2, bonus 0
    # User 0 liked item 1 twice; the play in the context is one of these.
    assert score_BV[0, 1] == pytest.approx((2 + 2 * like_V[1]) / (2 + 2))
    assert score_BV[0, 2] == pytest.approx((1 + 2 * like_V[2]) / (2 + 2))
    # User 1 liked item 3 in the log and skipped it in the context, which is news.
    assert score_BV[1, 3] == pytest.approx((1 + 2 * like_V[3]) / (2 + 2))
    # An unknown user backs off to the like rate.
    np.testing.assert_allclose(score_BV[2], like_V, rtol=1e-6)


def test_transitions_by_hand():
    score_BV = counting.transitions(LOG, SIGN, first)(BATCH)  # count, window 1, strength 2
    popular_V = np.array([0, 2, 2, 1, 0, 0]) / 5
    # Item 1 was followed three times with an opinion, twice by a liked item 2; session ends do not count.
    expected = popular_V + np.array([0, 0, 2, 0, 0, 0]) / (3 + 2)
    np.testing.assert_allclose(score_BV[0], expected, rtol=1e-6)
    # The last event of the second context is item 2: followed once with an opinion, by a disliked item 3.
    np.testing.assert_allclose(score_BV[1], popular_V, rtol=1e-6)


def test_transitions_as_rate_by_hand():
    tried = []

    def validate(score):
        tried.append(score)
        return 0.0

    counting.transitions(LOG, SIGN, validate)
    like_V = counting.like_rate(LOG, SIGN, first)(BATCH)[0]
    rate = tried[6 + 6]  # after six like rates and six of counts: rate, window 1, strength 2
    score_BV = rate(BATCH)
    assert score_BV[0, 2] == pytest.approx((2 + 2 * like_V[2]) / (3 + 2))
    assert score_BV[1, 3] == pytest.approx((0 + 2 * like_V[3]) / (1 + 2))
    assert score_BV[2, 1] == pytest.approx(like_V[1])  # no one followed item 4 with item 1


@pytest.mark.parametrize("square", [0, 2500])
def test_item_item_equals_dense_loops(square, monkeypatch):
    monkeypatch.setattr(votes, "SQUARE", square)
    rng = np.random.default_rng(0)
    events = [
        (int(u), int(u), int(rng.integers(1, 8)), int(rng.choice([-1, 1]))) for u in np.repeat(range(6), 5)
    ]
    log = make_log(events, items=7, users=6)
    settings = {"damping": 0.5, "against": 0.5, "prior": 0.0}
    tried = []

    def validate(score):
        tried.append(score)
        return 0.0

    counting.item_item(log, SIGN, validate)
    score = tried[6 + 3]  # after the like rates: damping 0.5, against 0, three priors; then against 0.5
    batch = make_batch([[(1, PLAY), (2, SKIP)], [(3, SKIP), (5, SKIP), (6, PLAY)]], users=[0, 9])
    profile = {s: np.zeros((6, 8)) for s in (1, -1)}
    for user, _, item, sign in events:
        profile[sign][user, item] = 1.0

    def cosine(s, a, r, b):
        x, y = profile[s][:, a], profile[r][:, b]
        size = math.sqrt(max(x.sum(), 1) * max(y.sum(), 1))
        return x @ y / size

    for b, context in enumerate([[(1, 1), (2, -1)], [(3, -1), (5, -1), (6, 1)]]):
        weight = {1: 1.0, -1: settings["against"]}
        expected = np.array(
            [
                sum(
                    weight[s] * (cosine(s, a, 1, v) - settings["against"] * cosine(s, a, -1, v))
                    for a, s in context
                )
                for v in range(8)
            ]
        )
        expected /= max(np.abs(expected).max(), 1e-9)
        np.testing.assert_allclose(score(batch)[b], expected, atol=1e-5)  # float32 sums


def test_item_item_by_item_is_that_by_session(monkeypatch):
    """All settings, of contexts and units of several sizes."""
    rng = np.random.default_rng(3)
    events = [
        (int(u), 3 * int(u) + s, int(rng.integers(1, 40)), int(rng.choice([-1, 0, 1])))
        for u in range(20)
        for s in np.repeat(range(3), 12)
    ]
    log = make_log(events, items=40, users=20)
    rows = [
        [(int(rng.integers(1, 41)), int(rng.choice([PLAY, SKIP]))) for _ in range(length)]
        for length in range(9)
    ]
    batch = make_batch(rows, users=list(range(9)), length=8)
    found = {}
    for square in (0, 2500):
        found[square] = []
        monkeypatch.setattr(votes, "SQUARE", square)
        chosen = counting.item_item(log, SIGN, lambda score, of=found[square]: of.append(score(batch)) or 0.0)
        found[square].append(chosen(batch))
    assert len(found[0]) == len(found[2500]) == 6 + 36 + 1
    for one, other in zip(found[0], found[2500], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


def test_ridge_equals_normal_equations_of_each_row():
    rng = np.random.default_rng(1)
    count = rng.integers(0, 3, size=(4, 6)).astype(np.float32)
    total = rng.integers(-1, 2, size=(4, 6)) * np.minimum(count, 1)
    other_VF = rng.standard_normal((6, 3)).astype(np.float32)
    penalty = np.diag([2.0, 2.0, 0.5]).astype(np.float32)
    as_table = lambda dense: counting.sp.csr_array(dense.astype(np.float32))  # noqa: E731
    found = least_squares.ridge(as_table(count), as_table(total), other_VF, 0.2, penalty)
    for row in range(4):
        left, right = penalty.astype(np.float64), np.zeros(3)
        for column in range(6):
            x = np.array([other_VF[column, 0], other_VF[column, 1], 1.0])
            left = left + count[row, column] * np.outer(x, x)
            right += x * (total[row, column] - count[row, column] * (0.2 + other_VF[column, 2]))
        np.testing.assert_allclose(found[row], np.linalg.solve(left, right), rtol=1e-3, atol=1e-4)  # float32


def test_matrix_factorisation_finds_tastes_and_folds_in_new_users():
    """Two kinds of listeners with opposite tastes: only factors tell them apart."""
    rng = np.random.default_rng(2)
    events = []
    for user in range(60):
        for item in rng.choice(np.arange(1, 21), size=12, replace=False):
            events.append((user, user, int(item), 1 if (item <= 10) == (user % 2 == 0) else -1))
    log = make_log(events, items=20, users=60)
    contexts = [[(1, PLAY), (12, SKIP), (3, PLAY)], [(1, SKIP), (12, PLAY), (3, SKIP)]]
    known, strangers = make_batch([[], []], users=[0, 1]), make_batch(contexts, users=[60, 61])

    def validate(score):
        score_BV = score(known)
        return float(score_BV[0, 1:11].mean() - score_BV[0, 11:].mean())

    fitted = least_squares.matrix_factorisation(log, SIGN, validate)
    assert fitted.settings["factors"] > 0
    for batch in (known, strangers):
        score_BV = fitted(batch)
        assert score_BV[0, 1:11].min() > score_BV[0, 11:].max()
        assert score_BV[1, 1:11].max() < score_BV[1, 11:].min()


def test_a_context_of_the_log_does_not_count_twice_in_matrix_factorisation():
    fitted = least_squares.matrix_factorisation(LOG, SIGN, first)
    repeated, empty = make_batch([[(1, PLAY), (2, PLAY)]], [0]), make_batch([[]], [0])
    np.testing.assert_array_equal(fitted(repeated), fitted(empty))
    assert not np.array_equal(fitted(make_batch([[(4, PLAY)]], [0])), fitted(empty))


def test_a_user_may_be_solved_for_from_the_context_alone_as_a_stranger_is():
    fitted = least_squares.alternating(LOG, SIGN)
    (of_history, history), (of_context, context) = fitted(
        2, 1.0, 1.0, (3,), solved_from=("history", "context"), seed=1
    )
    assert (of_history["solved_from"], of_context["solved_from"]) == ("history", "context")
    plays = [[(1, PLAY), (4, SKIP)]]
    known, stranger = make_batch(plays, [0]), make_batch(plays, [LOG.users])
    np.testing.assert_array_equal(context(known), history(stranger))
    assert not np.allclose(history(known), context(known))
