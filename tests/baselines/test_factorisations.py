import functools
import itertools
import math

import numpy as np
import pytest
import scipy.sparse as sp

from jaxneg.baselines import counting, factorisations, least_squares
from jaxneg.batch import CODE, EvalBatch
from jaxneg.config import EvalConfig
from jaxneg.metrics import measures

SIGN = np.array([0, 0, -1, -1, 1, 1], np.int8)
OF_LIKES = [name for name in factorisations.FACTORISATIONS if name != "several_ranks"]
SKIP, PLAY, UNKNOWN = CODE["skip"], CODE["play"], CODE["unknown"]


def make_log(events, items, users):
    """A log of (user, item, sign), each user one session."""
    user, item, sign = (np.array(column) for column in zip(*events, strict=True))
    return counting.Log(user, item, sign, user, items, users)


def make_batch(contexts, users, length=4, disliked=None):
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
        disliked_BC=empty_B1 if disliked is None else disliked,
        pair_B2=np.zeros((len(contexts), 2), np.int32),
        user_B=np.array(users, np.int32),
        share_B=np.zeros(len(contexts), np.float32),
        real_B=np.ones(len(contexts), bool),
    )


def planted(users=60, items=20, each=6, seed=0):
    """Listeners of two kinds: even users like items of the first half, odd ones of the second."""
    rng = np.random.default_rng(seed)
    half = items // 2
    return [
        (user, int(item) + 1 + half * (user % 2), 1)
        for user in range(users)
        for item in rng.choice(half, size=each, replace=False)
    ]


def first(score):
    """Every setting is as good as another, so the first is taken."""
    return 0.0


@pytest.fixture(autouse=True, scope="module")
def few_sweeps():
    """Enough for twenty items."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(factorisations, "SWEEPS", 3)
        patch.setattr(factorisations, "EPOCHS", (20,))
        yield


LOG = make_log([(0, 1, 1), (0, 2, 1), (0, 3, -1), (0, 2, -1), (1, 1, -1), (1, 2, 1), (1, 4, 0)], 5, users=3)
BATCH = make_batch([[(1, PLAY)], [(3, SKIP), (2, PLAY)], [(4, UNKNOWN)]], users=[0, 1, 99])


@functools.cache
def fitted(name):
    """A factorisation of LOG, fitted once; it is only asked."""
    return factorisations.FACTORISATIONS[name](LOG, SIGN, first)


@pytest.mark.parametrize("name", OF_LIKES)
def test_scores_cover_the_catalogue_for_known_and_unknown_users(name):
    model = fitted(name)
    score_BV = np.asarray(model(BATCH))
    assert score_BV.shape == (3, 6)
    assert score_BV.dtype == np.float32
    assert np.isfinite(score_BV).all()
    np.testing.assert_array_equal(score_BV, model(BATCH))


# Every one with what leaves nothing to fit, and the other signs with one of each family.
ONE_EVENT = [(name, sign) for name in OF_LIKES for sign in (-1, 0, 1)]


@pytest.mark.parametrize(
    ("name", "sign"),
    [
        pytest.param(name, sign, marks=[] if sign < 0 or name in ("wrmf", "bpr") else pytest.mark.slow)
        for name, sign in ONE_EVENT
    ],
)
def test_a_log_of_one_event_is_fitted(name, sign):
    log = make_log([(0, 1, sign)], items=2, users=1)
    batch = make_batch([[(1, PLAY)], [(2, SKIP)], []], [0, 1, 0])
    score_BV = factorisations.FACTORISATIONS[name](log, SIGN, lambda score: math.nan)(batch)
    assert np.isfinite(score_BV).all()


@pytest.mark.parametrize("name", OF_LIKES)
def test_an_example_scores_the_same_in_any_company(name):
    """To float32 sums, whose order differs with the size of a batch."""
    model = fitted(name)
    alone = model(make_batch([[(3, SKIP), (2, PLAY)]], users=[1]))
    np.testing.assert_allclose(model(BATCH)[1], alone[0], rtol=1e-4, atol=1e-5)


def separation(score_BV, log):
    """Share of a user's unrated items of the own half that score above items of the other half, mean over users."""
    rated_UV = np.zeros((log.users, log.items + 1), bool)
    rated_UV[log.user_T, log.item_T] = True
    shares = []
    for b, score_V in enumerate(score_BV):
        halves = score_V[1:11], score_V[11:]
        new = ~rated_UV[b, 1:].reshape(2, 10)[b % 2]
        shares.append((halves[b % 2][new][:, None] > halves[1 - b % 2]).mean())
    return float(np.mean(shares))


@pytest.mark.parametrize("name", OF_LIKES)
def test_planted_tastes_are_found_for_known_and_new_users(name):
    log = make_log(planted(), 20, 60)
    known = make_batch([[]] * 60, users=range(60))
    fitted = factorisations.FACTORISATIONS[name](log, SIGN, lambda score: separation(score(known), log))
    assert separation(fitted(known), log) > 0.98
    strangers = make_batch(
        [[(1, PLAY), (2, PLAY), (3, PLAY)], [(11, PLAY), (12, PLAY), (13, PLAY)]], users=[60, 61]
    )
    score_BV = fitted(strangers)
    assert (score_BV[0, 4:11, None] > score_BV[0, 11:]).mean() > 0.9
    assert (score_BV[1, 14:, None] > score_BV[1, 1:11]).mean() > 0.9


@pytest.mark.parametrize("name", OF_LIKES)
def test_a_context_of_the_log_does_not_count_twice(name):
    model = fitted(name)
    empty = model(make_batch([[]], [1]))
    np.testing.assert_array_equal(model(make_batch([[(1, SKIP), (2, PLAY)]], [1])), empty)
    assert not np.array_equal(model(make_batch([[(1, PLAY)]], [1])), empty)


@pytest.mark.parametrize("name", OF_LIKES)
def test_the_best_settings_on_validation_are_kept(name):
    seen = []

    def validate(score):
        seen.append(np.asarray(score(BATCH)))
        return 1.0 if len(seen) == 3 else 0.0

    fitted = factorisations.FACTORISATIONS[name](LOG, SIGN, validate)
    np.testing.assert_array_equal(fitted(BATCH), seen[2])
    assert ("nr" in name) == bool({"share", "preference"} & set(fitted.settings))


def confidences(count_RV, total_RV, alpha):
    """Weight and preference of every pair, dense."""
    preference_RV = np.divide(total_RV, count_RV, out=np.zeros_like(total_RV), where=count_RV > 0)
    return 1 + alpha * count_RV, preference_RV


def random_counts(seed=0, rows=7, columns=5):
    """Observations of pairs, and the sums of their preferences between -1 and 1."""
    rng = np.random.default_rng(seed)
    count_RV = rng.integers(0, 4, size=(rows, columns)) * rng.integers(0, 2, size=(rows, columns))
    total_RV = np.round(rng.uniform(-1, 1, size=(rows, columns)) * count_RV)
    return count_RV.astype(np.float64), total_RV


@pytest.mark.parametrize(("alpha", "l2"), [(1.0, 0.5), (40.0, 10.0)])
def test_confident_ridge_equals_dense_normal_equations(alpha, l2):
    count_RV, total_RV = random_counts()
    other_VF = np.random.default_rng(1).standard_normal((5, 3))
    found = factorisations.confident_ridge(
        *(sp.csr_array(table.astype(np.float32)) for table in (count_RV, total_RV)),
        other_VF.astype(np.float32),
        alpha=alpha,
        l2=l2,
    )
    weight_RV, preference_RV = confidences(count_RV, total_RV, alpha)
    for row in range(7):
        left = other_VF.T @ np.diag(weight_RV[row]) @ other_VF + l2 * np.eye(3)
        right = other_VF.T @ (weight_RV[row] * preference_RV[row])
        np.testing.assert_allclose(found[row], np.linalg.solve(left, right), rtol=1e-3, atol=1e-4)  # float32


def test_each_half_sweep_lowers_the_objective_of_wrmf():
    count_RV, total_RV = random_counts(seed=2, rows=30, columns=12)
    count_RV[:, 0] = total_RV[:, 0] = 0  # the padding row
    weight_RV, preference_RV = confidences(count_RV, total_RV, 10.0)

    def objective(user_UF, item_VF):
        squares = (user_UF.astype(np.float64) ** 2).sum() + (item_VF.astype(np.float64) ** 2).sum()
        return (weight_RV * (preference_RV - user_UF @ item_VF.T) ** 2).sum() + 2.0 * squares

    tables = (sp.csr_array(table.astype(np.float32)) for table in (count_RV, total_RV))
    sweeps = itertools.islice(factorisations.alternating(*tables, factors=3, alpha=10.0, l2=2.0), 6)
    pairs = [(user_UF.copy(), item_VF.copy()) for user_UF, item_VF in sweeps]
    value = [objective(pairs[0][0], pairs[0][1])]
    for (_, old_VF), (user_UF, item_VF) in itertools.pairwise(pairs):
        value += [objective(user_UF, old_VF), objective(user_UF, item_VF)]
    assert all(after < before for before, after in itertools.pairwise(value))


def test_rejections_enter_wrmf_as_observations_of_the_preference():
    """Twice liked and once rejected, and rejected alone, at a preference of -1."""
    counts = factorisations.Counts(
        sp.csr_array(np.array([[0, 2, 0, 1]], np.float32)), sp.csr_array(np.array([[0, 1, 3, 0]], np.float32))
    )
    count, total = factorisations.observed(counts, "nr", -1.0)
    assert count.toarray().tolist() == [[0, 3, 3, 1]]
    assert total.toarray().tolist() == [[0, 1, -3, 1]]
    for form in ("plain", "bl"):
        assert [table.toarray().tolist() for table in factorisations.observed(counts, form, 0.0)] == [
            [[0, 2, 0, 1]]
        ] * 2


@pytest.mark.parametrize("model", ["wrmf", "bpr"])
def test_only_with_negatives_is_a_rejected_item_below_its_unrated_twin(model):
    """Items 1 and 2 are liked by the same users; user 0 shares their taste and rejected item 1."""
    events = [event for event in planted() if event[1] not in (1, 2) and event[0] != 0]
    events += [(user, item, 1) for user in range(2, 60, 2) for item in (1, 2)]
    events += [(0, item, 1) for item in range(3, 9)] + [(0, 1, -1)]
    log, batch = make_log(events, 20, 60), make_batch([[]], users=[0])
    gap = {}
    for form in ("plain", "nr"):
        tried = []
        name = model if form == "plain" else f"{model}_nr"
        factorisations.FACTORISATIONS[name](log, SIGN, lambda score: tried.append(score(batch)[0]) or 0.0)  # noqa: B023
        gap[form] = np.array([score_V[2] - score_V[1] for score_V in tried])
    assert np.median(gap["nr"]) > 0  # near 0 where the penalty leaves little of the factors
    assert gap["nr"].mean() > 2 * np.abs(gap["plain"]).mean()  # twins differ by their random start alone


@pytest.mark.parametrize("model", ["wrmf", "bpr"])
def test_the_blacklist_ends_the_ranking_in_its_own_order(model):
    log = make_log([*planted(), (0, 1, -1), (0, 1, -1), (0, 2, -1), (1, 3, -1)], 20, 60)
    bl = factorisations.FACTORISATIONS[f"{model}_bl"](log, SIGN, first)
    liked = {item for user, item, sign in planted() if user == 0}
    # Item 2 is rejected once; liked once as well, it would stay. Items 4 and 15 are rejected in the context.
    blocked = {1, 4, 15} | ({2} - liked)
    score_V = bl(make_batch([[(4, SKIP), (4, SKIP), (15, SKIP)]], users=[0]))[0]
    order = np.argsort(-score_V[1:]) + 1
    assert set(order[-len(blocked) :].tolist()) == blocked
    assert np.isfinite(score_V).all()
    assert score_V[4] > score_V[15]  # by taste


@pytest.mark.parametrize("model", ["wrmf", "bpr"])
def test_the_blacklist_is_never_recommended(model):
    log = make_log([*planted(), (0, 1, -1), (0, 1, -1)], 20, 60)
    batch = make_batch([[]], users=[0], disliked=np.array([[1]], np.int32))
    rank = {}
    for name in (model, f"{model}_bl"):
        found = measures.evaluate(
            factorisations.FACTORISATIONS[name](log, SIGN, first),
            [batch],
            items=20,
            config=EvalConfig(ks=(10,), bootstrap=10),
        )
        rank[name] = found.disliked_rank[0]
    assert rank[model] <= 10
    assert rank[f"{model}_bl"] == 20


def test_pairs_more_often_rejected_are_no_training_positives_under_the_blacklist():
    """Without their one and only positive, the scores are those of a log that never had it."""
    events = [*planted(), (0, 20, 1), (0, 20, -1), (0, 20, -1)]
    without = [*planted(), (0, 20, -1), (0, 20, -1)]
    batch = make_batch([[]], users=[1])
    for name in ("wrmf_bl", "bpr_bl"):
        fit = factorisations.FACTORISATIONS[name]
        one, other = (fit(make_log(log, 20, 60), SIGN, first)(batch) for log in (events, without))
        np.testing.assert_array_equal(one, other)


def test_the_mean_of_several_ranks_is_of_standardised_scores():
    rng = np.random.default_rng(2)
    events = [
        (user, int(item), int(rng.choice([1, -1])))
        for user in range(30)
        for item in rng.permutation(20)[:8] + 1
    ]
    log, batch = make_log(events, 20, 30), make_batch([[], [(1, PLAY)]], users=[0, 30])
    many = factorisations.several_ranks(log, SIGN, first)
    penalties = {name: many.settings[name] for name in ("l2", "l2_bias")}
    fitted, expected = least_squares.alternating(log, SIGN), np.zeros((2, 20))
    for rank in (2, 3, 4, 6, 8, 16):
        ((_, score),) = fitted(rank, **penalties, sweeps=(many.settings["sweeps"],))
        for example, score_V in enumerate(score(batch)):
            of_items = score_V[1:].astype(np.float64)
            expected[example] += (of_items - of_items.mean()) / of_items.std() / 6
    np.testing.assert_allclose(many(batch)[:, 1:], expected, rtol=1e-4, atol=1e-5)
    assert not np.allclose(many.again(1)(batch), many(batch), rtol=0.01)  # from another random start


def slow_objective(user_F, item_VG, triples, l2):
    """BPR's objective of one user, triple by triple."""
    value = 0.0
    for i, j in triples:
        margin = user_F @ (item_VG[i, :-1] - item_VG[j, :-1]) + item_VG[i, -1] - item_VG[j, -1]
        value += math.log1p(math.exp(-margin)) / len(triples)
    return value + l2 / 2 * (user_F**2).sum()


@pytest.mark.parametrize("scale", [0.3, 3.0])
def test_a_user_of_bpr_is_at_the_minimum(scale):
    """Of the objective over all pairs, which the drawn triples stand for; no small step leads much lower."""
    rng = np.random.default_rng(3)
    item_VG = (scale * rng.standard_normal((9, 3))).astype(np.float32)
    item_VG[0] = 0.0
    liked_BV = np.zeros((2, 9), np.float32)
    liked_BV[0, [1, 4, 6]] = 1.0
    counts = factorisations.Counts(sp.csr_array(liked_BV), sp.csr_array(np.zeros_like(liked_BV)))
    user_BG = factorisations.pairwise_users(counts, item_VG, l2=0.5, share=0.0)
    np.testing.assert_array_equal(user_BG[:, -1], 1.0)
    np.testing.assert_array_equal(user_BG[1, :-1], 0.0)
    triples = [(i, j) for i in (1, 4, 6) for j in (2, 3, 5, 7, 8)]
    here = slow_objective(user_BG[0, :-1].astype(np.float64), item_VG, triples, 0.5)
    around = [
        slow_objective(user_BG[0, :-1] + step, item_VG, triples, 0.5) for step in rng.normal(0, 1.0, (300, 2))
    ]
    assert here < min(around) + 0.02  # 256 draws of 15 pairs
    assert here < slow_objective(np.zeros(2), item_VG, triples, 0.5)


def test_negatives_of_bpr_are_not_liked_and_partly_rejected():
    liked_UV, rejected_UV = np.zeros((2, 2, 12), np.float32)
    liked_UV[0, 1:6], rejected_UV[0, 5:8], liked_UV[1, 1:12] = 1.0, 1.0, 1.0
    counts = factorisations.Counts(sp.csr_array(liked_UV), sp.csr_array(rejected_UV))
    user = np.repeat([0, 1], 30_000)
    keys = factorisations._keys(counts.liked)
    drawn = factorisations._drawn(keys, counts, np.random.default_rng(0), user, 0.6)
    assert set(drawn[user == 1].tolist()) == {0}  # likes the whole catalogue
    count_V = np.bincount(drawn[user == 0], minlength=12) / 30_000
    assert count_V[1:6].sum() == 0
    # Rejected 6 and 7 come with 0.6 * 2/3; the rest, a fifth of it being 5 drawn again, is uniform over six items.
    rest = 1 - 0.6 * 2 / 3
    expected = [0.2 + rest / 6] * 2 + [rest / 6] * 4
    np.testing.assert_allclose(count_V[6:], expected, atol=0.03)  # a share of draws fails four times
