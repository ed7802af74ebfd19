"""Draws follow their chances, and sums over what is drawn, corrected, are sums over the catalogue."""

import math
import re

import numpy as np
import pytest

from jaxneg.config import parts
from jaxneg.data import draws
from jaxneg.errors import UserError

V, REPEATS = 2000, 300
RANK = np.arange(1, V + 1)
# in no order of rows
COUNT = np.random.default_rng(7).permutation((20_000 / (RANK + 10)).astype(np.int64) + 1)
UNTIL_V = np.cumsum(np.append(0, COUNT))
DRAWS = ("uniform", "log_uniform", "by_count")


def popularity(draw):
    return {"uniform": 1.0 / RANK, "log_uniform": np.log1p(1.0 / RANK), "by_count": COUNT}[draw].astype(float)


def scores(draw, goes_with):
    """Scores that go with the popularity of draws, or against it, with noise."""
    rng = np.random.default_rng(3)
    return goes_with * 0.5 * np.log(popularity(draw)) + rng.normal(0.0, 0.5, V)


def within(estimates, truth):
    """Whether their mean is within 3 standard errors of the truth."""
    error = np.std(estimates, ddof=1) / len(estimates) ** 0.5
    return abs(np.mean(estimates) - truth) <= 3 * error + 1e-9 * truth


def estimate(row, log_q, s):
    """The sum over a list in which each row stands once."""
    row, at = np.unique(row, return_index=True)
    return np.exp(s[row - 1] - log_q[at].astype(float)).sum()


@pytest.mark.parametrize("goes_with", [1, -1], ids=["with", "against"])
@pytest.mark.parametrize("S", [16, 100, 1000])
@pytest.mark.parametrize("draw", DRAWS)
def test_draws_shared_by_a_batch_estimate_the_sum_over_the_catalogue(draw, S, goes_with):
    s, rng, found = scores(draw, goes_with), np.random.default_rng(S), []
    for _ in range(REPEATS):
        row = draws.random_items(rng, V, S, draw, UNTIL_V)
        missed = draws.log_missed(draws.chance(row, V, draw, UNTIL_V), S)
        found.append(estimate(row, draws.log_among(missed), s))
    assert within(found, np.exp(s).sum())


@pytest.mark.parametrize("goes_with", [1, -1], ids=["with", "against"])
@pytest.mark.parametrize("P", [16, 100, 1000])
def test_events_drawn_without_replacement_estimate_the_sum_over_their_items(P, goes_with):
    s, rng, found = scores("by_count", goes_with), np.random.default_rng(P), []
    event = np.repeat(RANK, COUNT)
    for _ in range(REPEATS):
        row = rng.choice(event, P, replace=False)
        found.append(estimate(row, draws.log_among(draws.log_left_out(COUNT[row - 1], P, len(event))), s))
    assert within(found, np.exp(s).sum())


@pytest.mark.parametrize("goes_with", [1, -1], ids=["with", "against"])
@pytest.mark.parametrize("S", [16, 100, 1000])
@pytest.mark.parametrize("draw", DRAWS)
def test_both_lists_together_count_an_item_once(draw, S, goes_with):
    s, rng, found = scores("by_count", goes_with), np.random.default_rng(S), []
    event = np.repeat(RANK, COUNT)
    for _ in range(REPEATS):
        row = np.append(draws.random_items(rng, V, S, draw, UNTIL_V), rng.choice(event, S, replace=False))
        log_q = draws.log_among(
            draws.log_missed(draws.chance(row, V, draw, UNTIL_V), S),
            draws.log_left_out(COUNT[row - 1], S, len(event)),
        )
        found.append(estimate(row, log_q, s))
    assert within(found, np.exp(s).sum())


def test_the_test_tells_a_wrong_correction():
    """Copies divided by the chance to be drawn at all, as is easily done, are far off."""
    s, rng, found = scores("log_uniform", 1), np.random.default_rng(0), []
    for _ in range(REPEATS):
        row = draws.random_items(rng, V, 1000, "log_uniform")
        log_q = draws.log_among(draws.log_missed(draws.chance(row, V, "log_uniform"), 1000))
        found.append(np.exp(s[row - 1] - log_q).sum())
    assert not within(found, np.exp(s).sum()) and np.mean(found) > 2 * np.exp(s).sum()


@pytest.mark.parametrize("draw", DRAWS)
def test_draws_follow_their_chances(draw):
    size = 200_000
    row = draws.random_items(np.random.default_rng(0), V, size, draw, UNTIL_V)
    p = draws.chance(RANK, V, draw, UNTIL_V)
    assert row.dtype == np.int32 and row.min() >= 1 and row.max() <= V and abs(p.sum() - 1) < 1e-12
    share = np.bincount(row, minlength=V + 1)[1:] / size
    assert (np.abs(share - p) < 5.5 * np.sqrt(p * (1 - p) / size) + 1e-12).all()


def test_every_event_is_drawn_by_count_the_first_too():
    row = draws.random_items(np.random.default_rng(0), 3, (2, 60), "by_count", np.array([0, 1, 1, 2]))
    assert row.shape == (2, 60) and set(row.ravel().tolist()) == {1, 3}


def test_items_without_events_are_never_drawn_by_count():
    until_V = np.cumsum([0, 0, 3, 0, 0, 1, 0])
    row = draws.random_items(np.random.default_rng(0), 6, 400, "by_count", until_V)
    assert set(row.tolist()) == {2, 5}
    np.testing.assert_allclose(
        draws.chance(np.arange(1, 7), 6, "by_count", until_V), [0, 0.75, 0, 0, 0.25, 0]
    )


@pytest.mark.parametrize("N, P", [(12, 5), (500, 1), (500, 100), (500, 450), (40_000, 1000)])
def test_left_out_is_the_hypergeometric_chance(N, P):
    for count in (0, 1, 2, 7, N // 3, N - P, N - P + 1, N):
        among = 1 - math.comb(N - count, P) / math.comb(N, P)
        found = np.exp(draws.log_among(draws.log_left_out(np.array([count]), P, N)))[0]
        assert found == pytest.approx(among, rel=2e-3)


def test_chances_of_rare_items_in_large_catalogues_keep_their_digits():
    """A part in 10^8 each: float32 sums, or differences of large numbers, would lose them."""
    shared = draws.log_missed(np.array([1e-8]), 1000)
    others = draws.log_left_out(np.array([1.0]), 1000, 10**9)
    assert np.exp(draws.log_among(shared)) == pytest.approx([1e-5], rel=1e-4)
    assert np.exp(draws.log_among(others)) == pytest.approx([1e-6], rel=1e-4)
    assert np.exp(draws.log_among(shared, others)) == pytest.approx([1.1e-5], rel=1e-4)


def test_what_a_draw_of_others_gives_is_looked_at(monkeypatch):
    def of(given, shape):
        row = parts.Sampler(lambda rng, items, shape, until_V: given, origin=("session", ""))
        monkeypatch.setitem(parts.SAMPLERS, "theirs", row)
        return draws.random_items(np.random.default_rng(0), 9, shape, "theirs")

    for given in (np.array([1, 9, 5], np.int64), np.array([1, 9, 5], np.uint8), [1, 9, 5]):
        for shape in (3, (3,)):
            found = of(given, shape)
            assert found.dtype == np.int32 and found.tolist() == [1, 9, 5]
    assert of(np.zeros((0, 2), int), (0, 2)).shape == (0, 2)
    assert of(np.array([[7]]), (1, 1)).tolist() == [[7]]
    for given, shape, message in (
        (np.array([1.0, 2.0]), 2, "whole numbers of shape (2,), got float64 of shape (2,)"),
        (np.array([1, 2]), (2, 1), "whole numbers of shape (2, 1), got int64 of shape (2,)"),
        (np.array([1, 2, 3]), 2, "whole numbers of shape (2,), got int64 of shape (3,)"),
        (np.array([0, 9]), 2, "rows 1 to 9, got 0 to 9"),
        (np.array([1, 10]), 2, "rows 1 to 9, got 1 to 10"),
    ):
        with pytest.raises(UserError, match=f"^{re.escape(f'sampler theirs must give {message}')}$"):
            of(given, shape)


def test_chances_to_be_missed_at_their_ends():
    """No draw misses nothing; one draw; what is sure to be drawn, also where a sum of chances rounds up."""
    assert draws.log_missed(np.array([0.25, 1.0]), 0).tolist() == [0.0, 0.0]
    np.testing.assert_allclose(draws.log_missed(np.array([0.25, 0.0]), 1), [math.log(0.75), 0.0], rtol=1e-15)
    assert draws.log_missed(np.array([1.0, 1.0 + 1e-9]), 3).tolist() == [-math.inf, -math.inf]
