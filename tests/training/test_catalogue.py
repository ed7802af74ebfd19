"""Contexts encoded in a few lengths, against contexts as they come; figures, against a sort of all scores."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxneg import models
from jaxneg.batch import MASK, EvalBatch
from jaxneg.config import EvalConfig, ModelConfig, parts
from jaxneg.embeddings import layouts, sharding, tables
from jaxneg.metrics import measures, scores
from jaxneg.training import catalogue
from tests.marks import rest_slow

ITEMS, L, C, B = 60, 16, 3, 8


def model_of(encoder):
    config = ModelConfig(encoder=encoder, width=8, layers=2, heads=2, window=5)
    return models.build(config, length=L, stations=3, attributes=(4,), cloze=encoder == "bert4rec")


def score_of(model):
    layout = layouts.Whole(sharding.make_mesh(1), ITEMS)
    params = model.init(jax.random.key(0))
    by_item = tables.init_tables(jax.random.key(1), ModelConfig(width=8, row_scale=1.0), ITEMS + 1)
    attribute_VA = jnp.asarray(np.arange(ITEMS + 1, dtype=np.int32)[:, None] % 4)
    return catalogue.CatalogueScore(model, layout, tables.Weights(params, by_item, attribute_VA))


@pytest.fixture(scope="module")
def batches():
    return make_batches()


def make_batches():
    """Five batches of contexts of 1 to L events; the last has a row that only fills it up."""
    rng = np.random.default_rng(0)
    found = []
    for n in range(5):
        size_B1 = rng.integers(1, L + 1, (B, 1))
        real_B = np.arange(B) < (B - 1 if n == 4 else B)
        seen_BL = (np.arange(L)[None] < size_B1) & real_B[:, None]

        def some(low, high, *shape):
            return rng.integers(low, high, shape, dtype=np.int32)

        liked_BC, disliked_BC = (
            some(0, ITEMS + 1, B, C) * real_B[:, None],
            some(0, ITEMS + 1, B, C) * real_B[:, None],
        )
        found.append(
            EvalBatch(
                item_BL=some(1, ITEMS + 1, B, L) * seen_BL,
                feedback_BL=some(1, MASK, B, L) * seen_BL,
                station_BL=some(1, 4, B, L) * seen_BL,
                liked_BC=np.sort(liked_BC)[:, ::-1],
                disliked_BC=np.sort(disliked_BC)[:, ::-1],
                pair_B2=some(1, ITEMS + 1, B, 2) * real_B[:, None],
                user_B=np.arange(n * B, n * B + B, dtype=np.int32),
                share_B=rng.random(B, np.float32),
                real_B=real_B,
            )
        )
    return found


@pytest.mark.parametrize("encoder", rest_slow(["sasrec", "bert4rec", "gru4rec", "caser", "ligr"], ["sasrec"]))
def test_what_is_cut_off_changes_no_hidden_state(encoder, batches, monkeypatch):
    model = model_of(encoder)
    whole, cut = score_of(model._replace(cut=False)), score_of(model)
    monkeypatch.setattr(catalogue, "PROGRAM", 0)
    monkeypatch.setattr(catalogue, "CACHE", 8 * 3 * L)  # three of the longest at a time
    found = np.concatenate(cut.encoded(batches))
    assert cut._compiled == {4, 8, 12, 16} and whole._compiled == set()
    monkeypatch.undo()
    expected = np.concatenate(whole.encoded(batches))
    assert whole._compiled == {16} and np.std(expected[:-1], axis=0).min() > 0.1
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


# The device ranks all; the host ranks the first lot; it ranks all.
@pytest.mark.parametrize(
    ("exclude", "few"),
    [
        pytest.param(False, 0, marks=pytest.mark.slow),
        (True, 2 * B * ITEMS),
        pytest.param(False, 1 << 25, marks=pytest.mark.slow),
    ],
)
def test_figures_are_those_of_all_scores_at_once(exclude, few, batches, monkeypatch):
    monkeypatch.setattr(catalogue, "SORTED", few)
    monkeypatch.setattr(catalogue, "PROGRAM", 0)
    monkeypatch.setattr(catalogue, "AT_HAND", 0)
    for name in ("AHEAD", "TURN"):
        monkeypatch.setattr(catalogue, name, 2 * B)  # in three lots, the last of one batch
    model = model_of("sasrec")
    score = score_of(model)
    config = EvalConfig(ks=(3, 10), bootstrap=20, exclude_seen=exclude, released=10, released_batch=6)
    at_hand = [isinstance(one, scores.Matrix) for _, one in score.each(batches)]
    assert at_hand == [n * B * ITEMS <= few for n in range(1, 6)]
    score = score_of(model)
    found = measures.evaluate(score, batches, items=ITEMS, config=config)
    expected = measures.evaluate(lambda batch: score(batch), batches, items=ITEMS, config=config)
    for name, column in expected.value_X.items():
        np.testing.assert_array_equal(found.value_X[name], column, err_msg=name)
    assert found.to_dict() == expected.to_dict()


def test_a_length_is_compiled_for_where_it_saves_enough():
    size_X = np.array([3] * 10 + [40] * 10 + [180] * 20)
    assert catalogue.chosen(size_X, 200, set(), 0) == [50, 200]
    assert catalogue.chosen(size_X, 200, set(), 2999) == [50, 200]  # saves 20 times 150
    assert catalogue.chosen(size_X, 200, set(), 3001) == [200]
    assert catalogue.chosen(size_X, 200, {50}, 3001) == [50, 200]
    assert catalogue.chosen(size_X, 200, {150, 200}, 3001) == [150, 200]  # what is there costs nothing
    assert catalogue.chosen(size_X[:20], 200, {200}, 10**6) == [200]
    assert catalogue.chosen(size_X[:20], 200, set(), 10**6) == [50]


def test_others_encoders_that_look_back_and_forth_see_rows_as_they_are(monkeypatch):
    own = parts.Encoder(parts.ENCODERS["bert4rec"].make, origin=("session", ""), bidirectional=True)
    for name, row, cut in (("own", own, False), ("back", parts.Encoder(own.make, origin=own.origin), True)):
        monkeypatch.setitem(parts.ENCODERS, name, row)
        config = ModelConfig(encoder=name, width=8, layers=1)
        assert models.build(config, length=L, stations=0, attributes=()).cut == cut
