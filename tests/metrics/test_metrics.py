import math

import numpy as np
import pytest

from jaxneg import metrics


def rank_of(score_V, target, seen=()):
    """By counting, item by item."""
    others = [v for v in range(1, len(score_V)) if v != target and v not in seen]
    above = sum(score_V[v] > score_V[target] for v in others)
    return 1 + above + 0.5 * sum(score_V[v] == score_V[target] for v in others)


def test_mean_adds_sums_and_counts():
    total = metrics.Mean()
    for values in ([1.0, 2.0], [np.nan, 6.0]):
        total += metrics.mean(np.array(values))
    assert total == metrics.Mean(9.0, 3)
    assert total.value == 3.0
    assert metrics.mean(np.array([2**24, 1, 1], np.float32)) == metrics.Mean(2.0**24 + 2, 3)
    assert math.isnan(metrics.Mean().value)


def test_pair_accuracy_counts_ties_half_and_leaves_out_fill():
    score_B2 = np.array([[2.0, 1.0], [1.0, 2.0], [1.0, 1.0], [9.0, 0.0]])
    assert metrics.pair_accuracy(score_B2, np.array([True, True, True, False])) == metrics.Mean(1.5, 3)


@pytest.mark.parametrize("levels", [3, 1000])
@pytest.mark.parametrize("items", [6, 10**6])  # of 6 items most examples have some on both sides
def test_auc_is_over_all_pairs_of_two_items(levels, items):
    rng = np.random.default_rng(0)
    liked_BC, disliked_BM = (
        rng.integers(1, items + 1, size=(40, c)) * (rng.random((40, c)) < 0.4) for c in (5, 7)
    )
    table = {}  # an item has one score in an example
    score = lambda b, item: table.setdefault((b, item), np.float32(rng.integers(levels)))  # noqa: E731
    liked_score_BC, disliked_score_BM = (
        np.array([[score(b, int(item)) for item in row] for b, row in enumerate(item_BC)])
        for item_BC in (liked_BC, disliked_BM)
    )
    expected, counted, same = [], [], []
    for b in range(40):
        all_pairs = [(int(x), int(y)) for x in liked_BC[b] if x for y in disliked_BM[b] if y]
        of_two = [(table[b, x], table[b, y]) for x, y in all_pairs if x != y]
        wins = [1.0 if x > y else 0.5 if x == y else 0.0 for x, y in of_two]
        expected.append(sum(wins) / len(wins) if wins else math.nan)
        counted.append(len(of_two))
        same.append(len(all_pairs) - len(of_two))
    found = metrics.pairs(liked_score_BC, liked_BC, disliked_score_BM, disliked_BM)
    np.testing.assert_allclose(found.auc_B, expected, rtol=1e-12)
    assert (found.pairs_B.tolist(), found.same_B.tolist()) == (counted, same)
    assert found.pairs_B.dtype == found.same_B.dtype == np.int64
    assert (sum(same) > 0) == (items == 6)


def test_an_item_with_itself_alone_is_no_pair():
    score_B1 = np.array([[1.0], [1.0]])
    found = metrics.pairs(score_B1, np.array([[3], [3]]), score_B1, np.array([[3], [4]]))
    assert np.isnan(found.auc_B[0]) and found.auc_B[1] == 0.5
    assert (found.pairs_B.tolist(), found.same_B.tolist()) == ([0, 1], [1, 0])


# Targets are counted, or sorted; in one go, or a few examples at a time.
@pytest.mark.parametrize(("few", "block"), [(metrics.ranking.FEW, metrics.ranking.BLOCK), (3, 41 * 5)])
@pytest.mark.parametrize("levels", [4, 10**6])
@pytest.mark.parametrize("exclude", [False, True])
def test_rank_equals_counting(levels, exclude, few, block, monkeypatch):
    monkeypatch.setattr(metrics.ranking, "FEW", few)
    monkeypatch.setattr(metrics.ranking, "BLOCK", block)
    rng = np.random.default_rng(1)
    score_BV = rng.integers(levels, size=(12, 41)).astype(np.float32)
    score_BV[:, 0] = levels + 1  # the padding row must not count
    targets = (rng.integers(0, 41, size=(12, 6)), rng.integers(0, 41, size=(12, 2)))
    seen_BL = rng.integers(0, 41, size=(12, 15))
    found = metrics.rank(score_BV, targets, k=8, seen_BL=seen_BL if exclude else None)
    for rank_BC, target_BC in zip(found.targets, targets, strict=True):
        for (b, c), target in np.ndenumerate(target_BC):
            if target == 0:
                assert math.isnan(rank_BC[b, c])
            else:
                assert rank_BC[b, c] == rank_of(score_BV[b], target, set(seen_BL[b]) if exclude else ())
    for b in range(12):
        left = [v for v in range(1, 41) if not exclude or v not in seen_BL[b]]
        assert found.top_Bk[b].tolist() == sorted(left, key=lambda v: (-score_BV[b, v], v))[:8]


@pytest.mark.parametrize("exclude", [False, True])
@pytest.mark.parametrize("k", [1, 8, 60])
def test_top_is_that_of_rank(k, exclude):
    rng = np.random.default_rng(6)
    score_BV = rng.integers(6, size=(30, 41)).astype(np.float32)
    score_BV[:, 0] = np.nan
    seen_BL = rng.integers(0, 41, size=(30, 15)) if exclude else None
    expected = metrics.rank(score_BV, (), k=k, seen_BL=seen_BL).top_Bk
    np.testing.assert_array_equal(metrics.top(score_BV, k=k, seen_BL=seen_BL), expected)
    for item in (1, 2, 40):
        spoilt_BV = np.where(np.arange(41) == item, np.nan, score_BV)
        with pytest.raises(ValueError, match=r"^a score is NaN: scores must order all items$"):
            metrics.top(spoilt_BV, k=k, seen_BL=seen_BL)


@pytest.mark.parametrize("levels", [3, 40, 10**6])
def test_what_leads_is_found_in_groups_of_columns(levels):
    """Popular columns come first, as in a catalogue, and some scores are -inf."""
    rng = np.random.default_rng(2)
    score_BV = rng.integers(levels, size=(9, 501)) / levels - np.arange(501) / 300
    score_BV[rng.random(score_BV.shape) < 0.1] = -np.inf
    score_BV[0, 20:] = -np.inf
    seen_BL = rng.integers(0, 501, size=(9, 60))
    for k in (1, 7, 30, 499):
        found = metrics.top(score_BV, k=k, seen_BL=seen_BL)
        for score_V, seen_L, top_k in zip(score_BV, seen_BL, found, strict=True):
            left = [v for v in range(1, 501) if v not in seen_L]
            expected = sorted(left, key=lambda v: (-score_V[v], v))[:k]
            assert top_k.tolist() == expected + [0] * (k - len(expected))


def test_rank_by_hand():
    score_BV = np.array([[99.0, 3.0, 1.0, 3.0, 2.0]], np.float32)
    target_BC = np.array([[1, 4, 2, 0]])
    found = metrics.rank(score_BV, (target_BC,))
    assert found.targets[0].tolist()[0][:3] == [1.5, 3.0, 4.0] and found.top_Bk.shape == (1, 0)
    # Item 3 is seen and leaves; item 4 is seen but is a target, so it is ranked among those left.
    seen = metrics.rank(score_BV, (target_BC,), k=4, seen_BL=np.array([[3, 4, 0]]))
    assert seen.targets[0].tolist()[0][:3] == [1.0, 2.0, 2.0]
    assert seen.top_Bk.tolist() == [[1, 2, 0, 0]]


def test_a_constant_score_ranks_every_item_in_the_middle():
    found = metrics.rank(np.zeros((1, 12), np.float32), (np.arange(12)[None],), k=3)
    assert found.targets[0][0, 1:].tolist() == [6.0] * 11
    assert found.top_Bk.tolist() == [[1, 2, 3]]


def test_rank_refuses_nan_and_takes_infinities():
    with pytest.raises(ValueError, match="NaN"):
        metrics.rank(np.array([[0.0, np.nan]], np.float32), (np.array([[1]]),))
    score_BV = np.array([[np.nan, -np.inf, np.inf, -np.inf]], np.float32)
    assert metrics.rank(score_BV, (np.array([[1, 2, 3]]),), k=3).targets[0].tolist() == [[2.5, 1.0, 2.5]]


def test_hit_rate_ndcg_and_mrr_by_hand():
    rank = np.array([1.0, 3.0, 10.0, 10.5, np.nan])
    np.testing.assert_array_equal(metrics.hit_rate(rank, 10), [1, 1, 1, 0, np.nan])
    np.testing.assert_allclose(metrics.ndcg(rank, 10), [1, 0.5, 1 / math.log2(11), 0, np.nan])
    np.testing.assert_allclose(metrics.mrr(rank), [1, 1 / 3, 0.1, 1 / 10.5, np.nan])


def test_average_precision_and_log_rank_by_hand():
    rank = np.array([1.0, 4.0, 10.0, 10.5, np.nan])
    np.testing.assert_array_equal(metrics.average_precision(rank, 10), [1, 0.25, 0.1, 0, np.nan])
    np.testing.assert_allclose(metrics.log_rank(rank), [0, math.log(4), math.log(10), math.log(10.5), np.nan])


@pytest.mark.parametrize("seed", range(20))
def test_average_precision_is_within_the_bounds_of_hit_rates(seed):
    """On rankings without ties, the target raised by more or less so that all spans of ranks occur."""
    rng = np.random.default_rng(seed)
    score_BV = rng.permuted(np.tile(np.arange(31, dtype=np.float32), (50, 1)), axis=1)
    target_BC = rng.integers(1, 31, size=(50, 1))
    np.put_along_axis(score_BV, target_BC, rng.uniform(0, 31, size=(50, 1)).astype(np.float32), axis=1)
    rank_BC = metrics.rank(score_BV, (target_BC,)).targets[0]
    hits = (float(metrics.hit_rate(rank_BC, k).mean()) for k in (1, 5, 10))
    low, high = metrics.average_precision_bounds(*hits)
    found = metrics.average_precision(rank_BC, 10).mean()
    assert low - 1e-12 <= found <= high + 1e-12
    assert 0 < low < high < 1


def test_average_precision_bounds_are_reached_and_a_tie_exceeds_the_upper():
    def of(*ranks):
        rank = np.array(ranks)
        hits = (float(metrics.hit_rate(rank, k).mean()) for k in (1, 5, 10))
        return *metrics.average_precision_bounds(*hits), metrics.average_precision(rank, 10).mean()

    low, _, found = of(1.0, 5.0, 10.0, 11.0)
    assert found == pytest.approx(low) == pytest.approx((1 + 1 / 5 + 1 / 10) / 4)
    _, high, found = of(1.0, 2.0, 6.0, 11.0)
    assert found == pytest.approx(high) == pytest.approx((1 + 1 / 2 + 1 / 6) / 4)
    low, high, found = of(1.5)
    assert (low, high) == (0.2, 0.5) and found == pytest.approx(1 / 1.5)


# Seshadri and Knees (2024), main table: (HR@1, HR@5, HR@10, MAP@10) without and with their term.
PRINTED = {
    "MSSD SASRec": ((0.377, 0.615, 0.696, 0.397), (0.410, 0.628, 0.706, 0.417)),
    "MSSD BERT4Rec": ((0.204, 0.450, 0.553, 0.185), (0.355, 0.608, 0.693, 0.369)),
    "MSSD GRU4Rec": ((0.210, 0.398, 0.491, 0.176), (0.235, 0.431, 0.534, 0.193)),
    "MSSD Caser": ((0.223, 0.412, 0.518, 0.195), (0.251, 0.455, 0.530, 0.221)),
    "LFM-2b SASRec": ((0.190, 0.371, 0.452, 0.188), (0.221, 0.400, 0.477, 0.219)),
    "LFM-2b BERT4Rec": ((0.101, 0.227, 0.292, 0.098), (0.117, 0.248, 0.320, 0.110)),
    "LFM-2b GRU4Rec": ((0.096, 0.203, 0.273, 0.078), (0.102, 0.221, 0.291, 0.085)),
    "LFM-2b Caser": ((0.102, 0.197, 0.281, 0.081), (0.112, 0.208, 0.302, 0.088)),
    "LFM-1K SASRec": ((0.152, 0.301, 0.392, 0.092), (0.181, 0.330, 0.421, 0.107)),
    "LFM-1K BERT4Rec": ((0.069, 0.207, 0.299, 0.049), (0.086, 0.230, 0.320, 0.064)),
    "LFM-1K GRU4Rec": ((0.048, 0.182, 0.261, 0.034), (0.059, 0.200, 0.289, 0.042)),
    "LFM-1K Caser": ((0.052, 0.188, 0.269, 0.037), (0.071, 0.198, 0.293, 0.040)),
}


def test_bounds_of_the_printed_sasrec_by_hand():
    low, high = metrics.average_precision_bounds(0.377, 0.615, 0.696)
    assert (low, high) == (pytest.approx(0.4327), pytest.approx(0.5095))


@pytest.mark.parametrize("cell", PRINTED)
def test_printed_map_at_10_is_none_of_single_targets(cell):
    """They are below what their own hit rates allow, so no figure of ours is compared with them."""
    rounding = 0.0005  # of each printed figure
    for hr1, hr5, hr10, printed in PRINTED[cell]:
        low, _ = metrics.average_precision_bounds(hr1 - rounding, hr5 - rounding, hr10 - rounding)
        assert printed + rounding < low


def test_over_targets_averages_within_an_example():
    value_BC = np.array([[1.0, np.nan, 0.0], [np.nan, np.nan, np.nan], [0.5, np.nan, np.nan]])
    np.testing.assert_array_equal(metrics.over_targets(value_BC), [0.5, np.nan, 0.5])


def test_gini_equals_mean_absolute_difference():
    """G = sum_ij |x_i - x_j| / (2 n^2 mean)."""
    count_V = np.random.default_rng(3).poisson(0.7, size=60)
    apart = sum(abs(int(x) - int(y)) for x in count_V for y in count_V)
    assert metrics.gini(count_V) == pytest.approx(apart / (2 * 60**2 * count_V.mean()))


def test_gini_extremes():
    assert metrics.gini(np.full(7, 3)) == pytest.approx(0.0)
    assert metrics.gini(np.array([0, 0, 0, 5])) == pytest.approx(0.75)  # (n - 1) / n
    assert math.isnan(metrics.gini(np.zeros(4, int)))


def test_lorenz_curve_encloses_half_the_gini():
    count_V = np.random.default_rng(4).poisson(2.0, size=200)
    curve = metrics.lorenz(count_V)
    assert (curve[0], curve[-1]) == (0.0, pytest.approx(1.0))
    under = ((curve[1:] + curve[:-1]) / 2).mean()
    assert metrics.gini(count_V) == pytest.approx(1 - 2 * under)


def test_lorenz_curve_of_one_exposure_and_of_none():
    assert metrics.lorenz(np.array([0, 1])).tolist() == [0.0, 0.0, 1.0]
    assert metrics.lorenz(np.zeros(2, int)).tolist() == [0.0, 0.0, 0.0]


def test_item_coverage():
    assert metrics.item_coverage(np.array([0, 3, 1, 0])) == 0.5
    assert math.isnan(metrics.item_coverage(np.zeros(0, int)))


def slow_bootstrap(value, unit, resamples, seed):
    """Units drawn by name, their values laid end to end."""
    units = sorted({u for u, v in zip(unit, value, strict=True) if not math.isnan(v)})
    rng, means = np.random.default_rng(seed), []
    for _ in range(resamples):
        drawn = [units[n] for n in rng.integers(len(units), size=len(units), dtype=np.int32)]
        values = [v for d in drawn for u, v in zip(unit, value, strict=True) if u == d and not math.isnan(v)]
        means.append(sum(values) / len(values))
    return np.quantile(means, [0.025, 0.975])


@pytest.mark.parametrize("users", [2, 5, 40])
def test_bootstrap_resamples_units_with_all_their_values(users):
    rng = np.random.default_rng(users)
    unit = rng.integers(users, size=120) * 7  # in no order, with gaps
    value = np.where(rng.random(120) < 0.2, np.nan, rng.random(120) + unit / 70)
    found = metrics.bootstrap(value, unit, resamples=40, seed=3)
    np.testing.assert_allclose(found, slow_bootstrap(value.tolist(), unit.tolist(), 40, 3), rtol=1e-12)


def test_five_users_leave_an_interval_of_five_users():
    """100 pairs of each: users are right in .5 to .9 of theirs. Over pairs the interval would be a tenth of that."""
    unit = np.repeat(np.arange(5), 100)
    rate = np.array([0.5, 0.6, 0.7, 0.8, 0.9])
    value = (np.tile(np.arange(100), 5) < 100 * rate[unit]).astype(float)
    low, high = metrics.bootstrap(value, unit, resamples=4000, seed=0)
    # The mean of five draws of rates with s.d. sqrt(.02): s.d. .0632.
    assert high - low == pytest.approx(2 * 1.96 * math.sqrt(0.02 / 5), rel=0.1)
    over_pairs = metrics.bootstrap(value, np.arange(500), resamples=4000, seed=0)
    assert over_pairs[1] - over_pairs[0] < 0.4 * (high - low)


def test_bootstrap_is_seeded_and_as_wide_as_the_normal_interval():
    value = (np.random.default_rng(5).random(2000) < 0.7).astype(float)
    unit = np.arange(2001)
    low, high = metrics.bootstrap(value, unit[:2000], resamples=2000, seed=0)
    assert (low, high) == metrics.bootstrap(np.append(value, np.nan), unit, resamples=2000, seed=0)
    assert (low, high) != metrics.bootstrap(value, unit[:2000], resamples=2000, seed=1)
    wide = 2 * 1.96 * value.std() / math.sqrt(2000)
    assert high - low == pytest.approx(wide, rel=0.06)  # 2,000 resamples leave an end a few percent uncertain
    assert low < value.mean() < high


@pytest.mark.parametrize("value", [[], [math.nan], [0.5], [0.5, 0.7, math.nan]])
def test_fewer_than_two_units_have_no_interval(value):
    unit = np.array([0, 0, 1][: len(value)], np.int64)
    assert np.isnan(metrics.bootstrap(np.array(value), unit, resamples=10, seed=0)).all()


def test_bootstrap_ratio_of_a_fixed_ratio_is_that_ratio():
    """Values are drawn together: apart, the ratio would vary."""
    below = np.random.default_rng(7).random(50)
    low, high = metrics.bootstrap_ratio(0.4 * below, below, np.arange(50) // 3, resamples=200, seed=0)
    assert low == pytest.approx(0.4) and high == pytest.approx(0.4)


@pytest.mark.parametrize("each", [1, 3])
def test_bootstrap_ratio_is_as_wide_as_the_normal_interval(each):
    """Variance of a ratio of means by the delta method: var(y - r x) / (n mean(x)^2), of what each unit sums up."""
    rng = np.random.default_rng(8)
    below = rng.uniform(1, 3, size=1500)
    above = 0.7 * below + rng.normal(size=1500)
    ratio = above.sum() / below.sum()
    # Each unit's values are the same ``each`` times over, which tells no more than once.
    unit = np.tile(np.arange(1500), each)
    low, high = metrics.bootstrap_ratio(
        np.tile(above, each), np.tile(below, each), unit, resamples=2000, seed=0
    )
    wide = 2 * 1.96 * (above - ratio * below).std() / (math.sqrt(1500) * below.mean())
    assert high - low == pytest.approx(wide, rel=0.06)  # 2,000 resamples leave an end a few percent uncertain
    assert low < ratio < high


def test_bootstrap_ratio_of_nothing_and_over_zero():
    none, three, two = np.zeros(0, np.int64), np.arange(3), np.arange(2)
    assert np.isnan(metrics.bootstrap_ratio(np.zeros(0), np.zeros(0), none, resamples=10, seed=0)).all()
    assert np.isnan(metrics.bootstrap_ratio(np.ones(3), np.zeros(3), three, resamples=10, seed=0)).all()
    # A resample without the one example that counts below has no ratio; all others have 1.
    one = np.array([1.0, 0.0])
    assert metrics.bootstrap_ratio(one, one, two, resamples=50, seed=0) == (1.0, 1.0)
