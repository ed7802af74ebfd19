"""Lists by an index that finds all it should are those of the whole catalogue, in every form and with every filter."""

import numpy as np
import pytest

from jaxneg.batch import forms
from jaxneg.serve import matrices, nearest
from jaxneg.serve.choice import Choice
from jaxneg.serve.scorer import Event, Scorer

pytestmark = pytest.mark.slow


@pytest.fixture
def model(exported):
    return Scorer.open(exported("with a like head"))


@pytest.fixture
def asked(model, monkeypatch):
    """How many items an exact index was asked for, one number a search."""
    numbers, scores = [], model._scores

    def search(query_BE, form, n):
        numbers.append(n)
        by = form if form.name in (forms.JUDGE, forms.SUM) else forms.Form()
        score_BV = scores.of(query_BE, by)
        score_BV[:, 0] = -np.inf
        items = model.manifest["items"]
        row_BN = np.argsort(-score_BV, axis=1, kind="stable")[:, : min(n, items)]
        return np.pad(row_BN, ((0, 0), (0, n - row_BN.shape[1])))

    monkeypatch.setattr(model, "_nearest", nearest.Nearest(search, scores, model._attributes))
    return numbers


@pytest.mark.parametrize("most", [nearest.MOST, 12])
@pytest.mark.parametrize("name", ["rank", "judge", "sum", "demote"])
def test_lists_by_an_index_are_those_of_the_whole_catalogue(name, most, model, asked, exported, monkeypatch):
    monkeypatch.setattr(nearest, "MOST", most)
    plain, rng, names = Scorer.open(exported("with a like head")), np.random.default_rng(0), model.items(99)
    for n in range(40):
        history = [Event(str(rng.choice(names)), str(rng.choice(["play", "skip"]))) for _ in range(1 + n % 6)]
        form = (
            model.form(name) if name in ("rank", "judge") else model.form(name, beta=float(rng.uniform(0, 3)))
        )
        choice = Choice(
            exclude=names[: n % 5],
            where={"artist": [f"artist_{i}" for i in range(5)]} if n % 7 == 0 else {},
            at_most={"artist": 1} if n % 3 == 0 else {},
        )
        k = int(rng.integers(1, 100 if n % 5 == 0 else 8))
        found = model.recommend(history, k, exclude_seen=bool(n % 2), form=form, choice=choice)
        expected = plain.recommend(history, k, exclude_seen=bool(n % 2), form=form, choice=choice)
        assert [one.item for one in found] == [one.item for one in expected]
        np.testing.assert_allclose(
            [one.score for one in found], [one.score for one in expected], rtol=1e-4, atol=1e-5
        )
    assert len(asked) > (20 if most > 12 else 0) and max(asked) <= most


@pytest.mark.parametrize("size", [1, 2, 63, 1000, 40_000])
def test_the_highest_are_those_of_a_sort(size):
    rng = np.random.default_rng(size)
    for n in {1, min(size, 2), min(size, 100), size}:
        for score_V in (rng.standard_normal(size), rng.integers(5, size=size) * 1.0, np.zeros(size)):
            score_V = score_V.astype(np.float32)
            score_V[rng.random(size) < 0.3] = -np.inf
            expected = sorted(np.flatnonzero(np.isfinite(score_V)), key=lambda at: (-score_V[at], at))[:n]
            assert matrices.highest(score_V, n).tolist() == expected


def test_what_an_index_does_not_find_is_not_made_up(model, monkeypatch):
    """An index that finds nothing: the list is made of the whole catalogue."""
    none = nearest.Nearest(
        lambda query_BE, _, n: np.zeros((len(query_BE), n), np.int64), model._scores, model._attributes
    )
    history = model.items(3)
    expected = model.recommend(history, 5)
    monkeypatch.setattr(model, "_nearest", none)
    assert model.recommend(history, 5) == expected
