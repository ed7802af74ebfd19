"""Listeners folded in: the devices' solutions against scipy's ridge, and what training leaves as it was."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxneg import config as configs
from jaxneg.baselines import counting, folding
from jaxneg.batch import EvalBatch, folds
from jaxneg.config import LikeConfig, TrainConfig
from jaxneg.data import held_out, stores
from jaxneg.embeddings import sharding, tables
from jaxneg.metrics import measures
from jaxneg.training import fold_in, likes, loop, program, runs, steps
from tests.marks import rest_system
from tests.training import test_loop, test_steps
from tests.training.test_steps import ATTRIBUTE_VA, CONFIG, D, V

SIGN = np.array([0, 0, -1, -1, 1, 1], np.int8)
B, L = 7, 12
RNG = np.random.default_rng(3)
# Solutions differ by float32's rounding, times how uneven the equations are.
CLOSE = {"rtol": 2e-4, "atol": 2e-5}


def folded(rows=V, factors=True, seed=0):
    rng = np.random.default_rng(seed)
    row_VG = rng.normal(size=(rows, folds.WIDTH)).astype(np.float32) * (0.5 if factors else 0.0)
    row_VG[:, sum(folds.RANKS) :] = 0.3 * rng.normal(size=(rows, len(folds.RANKS)))
    row_VG[0] = 0.0
    return folds.Folded(row_VG, 0.2, 2.0, 3.0, 1.7, -0.4)


def weights_of(one):
    first = fold_in.first(one, SIGN)
    params = {name: jnp.asarray(value) for name, value in first.params.items()}
    return tables.Weights(params, {fold_in.TABLE: jnp.asarray(first.table_VG)}, ATTRIBUTE_VA)


def histories():
    """From empty to whole, some items over and over again, every kind of feedback."""
    size_B = np.array([0, 1, 2, 5, 9, L, L])
    item_BL = RNG.integers(1, V, (B, L)) * (np.arange(L) < size_B[:, None])
    item_BL[4, :9] = 3
    feedback_BL = RNG.integers(1, 6, (B, L)) * (item_BL > 0)
    return item_BL.astype(np.int32), feedback_BL.astype(np.int32)


def seen(item_BL, feedback_BL):
    """Contexts of which nothing is held out."""
    size, none = len(item_BL), np.zeros((len(item_BL), 0), np.int32)
    none_B2, zero_B = np.zeros((size, 2), np.int32), np.zeros(size, np.float32)
    return EvalBatch(
        item_BL, feedback_BL, 0 * item_BL, none, none, none_B2, np.arange(size), zero_B, np.ones(size, bool)
    )


def scored(weights, query_BG):
    """Of all items, from their rows and biases."""
    row_VG, bias_V = fold_in.of_all(weights)
    return np.asarray(query_BG) @ np.asarray(row_VG).T + np.asarray(bias_V)


@pytest.mark.parametrize("factors", [True, False])
def test_scores_are_those_of_ridge_regressions(factors):
    one, (item_BL, feedback_BL) = folded(factors=factors), histories()
    weights = weights_of(one)
    found = scored(weights, jax.jit(fold_in.queries)(weights, item_BL, feedback_BL))
    expected = one.scale * folding.scores(one, SIGN, seen(item_BL, feedback_BL)) + one.offset
    np.testing.assert_allclose(found[:, 1:], expected[:, 1:], **CLOSE)
    assert (np.ptp(found[1:, 1:] - found[:1, 1:], axis=1).min() > 0.01) == factors


@pytest.mark.parametrize("packed", [False, True])
def test_every_position_knows_what_came_before_it_in_its_own_sequence(packed):
    item_BL, feedback_BL = histories()
    weights, segment_BL = weights_of(folded()), np.zeros((B, L), np.int32)
    if packed:  # the last two rows hold sequences of 4, 1, 5 and 2 padding positions
        item_BL[:, 10:] = feedback_BL[:, 10:] = 0
        segment_BL[:] = np.repeat([1, 2, 3, 0], [4, 1, 5, 2])
    found = np.asarray(
        jax.jit(fold_in.prefixes)(weights, item_BL, feedback_BL, segment_BL if packed else None)
    )
    begin_L = np.repeat([0, 4, 5, 10], [4, 1, 5, 2]) if packed else np.zeros(L, int)
    queries = jax.jit(fold_in.queries)
    for l in range(L - 2):
        inside_L = (np.arange(L) >= begin_L[l]) & (np.arange(L) <= l)
        np.testing.assert_allclose(
            found[:, l], queries(weights, item_BL * inside_L, feedback_BL * inside_L), **CLOSE
        )


def test_a_log_of_two_tastes_is_folded_by_factors_and_one_without_tastes_by_biases():
    """Half of the listeners like even songs and reject odd ones, the others the other way round."""
    users, items, each = 200, 40, 20
    user_T = np.repeat(np.arange(users), each)
    item_T = np.concatenate([1 + RNG.permutation(items)[:each] for _ in range(users)])
    session_T = user_T
    taste_T = np.where((user_T + item_T) % 2, 1, -1)
    # Whatever taste they have, songs of low numbers are liked.
    common_T = np.where(item_T < items // 2, 1, -1)
    batch = held_out_of(items)
    for sign_T, has_factors in ((taste_T, True), (common_T, False)):
        log = counting.Log(user_T, item_T, sign_T.astype(np.int8), session_T, items, users)

        def separates(score, by_taste=has_factors):
            score_BV = score(batch)
            liked_BV = liked(batch, items, by_taste)
            gaps = [
                row[1:][like][:, None] - row[1:][~like][None]
                for row, like in zip(score_BV, liked_BV, strict=True)
            ]
            return float(np.mean([(gap > 0).mean() + 0.5 * (gap == 0).mean() for gap in gaps]))

        one = folding.fit(log, SIGN, separates, [batch._replace(**ends(batch, items, has_factors))])
        assert separates(lambda batch: folding.scores(one, SIGN, batch)) > 0.95  # noqa: B023
        assert one.scale > 0.5
        if has_factors:
            assert np.abs(one.row_VG[:, : sum(folds.RANKS)]).max() > 0.1
        else:  # biases are as good, and come first
            assert not np.any(one.row_VG[:, : sum(folds.RANKS)])
        assert not np.any(one.row_VG[0])


def liked(batch, items, by_taste):
    number_V = np.arange(1, items + 1)
    if by_taste:
        return (batch.user_B[:, None] + number_V) % 2 > 0
    return np.broadcast_to(number_V < items // 2, (len(batch.user_B), items))


def ends(batch, items, by_taste):
    liked_BV = liked(batch, items, by_taste)
    number_BV = np.broadcast_to(np.arange(1, items + 1), liked_BV.shape)
    return {
        "liked_BC": np.where(liked_BV, number_BV, 0).astype(np.int32),
        "disliked_BC": np.where(liked_BV, 0, number_BV).astype(np.int32),
    }


def held_out_of(items):
    """Contexts of twenty listeners, six events each, signed by their taste."""
    user_B = np.arange(20)
    item_BL = np.stack([1 + RNG.permutation(items)[:6] for _ in user_B]).astype(np.int32)
    return seen(item_BL, np.where((user_B[:, None] + item_BL) % 2, 5, 2).astype(np.int32))


def with_folding(config=CONFIG, **fields):
    return dataclasses.replace(config, like=LikeConfig(**{"weight": 1.0, "rows": "folded"} | fields))


def started(config):
    """The first state of a config on one device."""
    _, recipe, update = test_steps.prepared(config)
    return steps.init_state(recipe, folded=fold_in.first(folded(), SIGN)), update


@pytest.mark.slow
def test_training_changes_neither_factors_nor_numbers():
    decaying = dataclasses.replace(CONFIG, optim=dataclasses.replace(CONFIG.optim, weight_decay=0.5))
    first, update = started(with_folding(decaying, decay=0.5))
    before = jax.tree.map(np.array, (first.params, first.tables))
    state = first
    for k in range(3):
        state, _ = update(state, test_steps.make_batch(k), ATTRIBUTE_VA)
    for old, new in zip(before, (state.params, state.tables), strict=True):
        for name, leaf in old.items():
            fixed = name.startswith(("fold.", "fold_"))
            assert np.array_equal(leaf, new[name]) == fixed, name


def test_the_head_starts_as_the_factorisation_whatever_the_encoder_says():
    state, _ = started(with_folding())
    weights = test_steps.weights(state)
    item_BL, feedback_BL = histories()
    h_BD = RNG.normal(size=(B, D)).astype(np.float32)
    query_BG = jax.jit(fold_in.queries)(weights, item_BL, feedback_BL)
    row_VE, bias_V = likes.of_all(weights)
    found = np.concatenate([h_BD, query_BG], axis=1) @ np.asarray(row_VE).T + np.asarray(bias_V)
    one = folded()
    expected = one.scale * folding.scores(one, SIGN, seen(item_BL, feedback_BL)) + one.offset
    np.testing.assert_allclose(found[:, 1:], expected[:, 1:], **CLOSE)


@pytest.mark.system
def test_devices_that_share_rows_fold_in_as_one_does():
    config = configs.override(with_folding(), ["--optim.rows", "lazy_adam"])
    store, first, found = program.Catalogue(V - 1, 3, (3, 3)), fold_in.first(folded(), SIGN), {}
    for devices, shards in ((8, 4), (1, 1)):
        config = dataclasses.replace(config, train=TrainConfig(shards=shards))
        built = program.build(config, store, sharding.make_mesh(devices, shards))
        state = built.init(folded=first._replace(table_VG=built.layout.by_row(first.table_VG)))
        attribute_VA = sharding.put(tables.spread(np.asarray(ATTRIBUTE_VA)), built.layout.mesh, "VA")
        for k in range(3):
            batch = jax.tree.map(np.asarray, test_steps.make_batch(k))
            state, _ = built.update(state, sharding.put_fields(batch, built.mesh), attribute_VA)
        found[devices] = tables.gathered(jax.tree.map(np.asarray, state.tables), V - 1)
    for name, table in found[1].items():
        np.testing.assert_allclose(found[8][name], table, rtol=1e-4, atol=1e-5, err_msg=name)
    np.testing.assert_array_equal(found[8][fold_in.TABLE][1:], first.table_VG[1:])
    assert np.abs(found[1]["like_VD"]).max() > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("packed", rest_system(["never", "always"], {"never"}))
def test_a_run_begins_at_the_factorisation_and_goes_on_exactly(packed, small_store, tmp_path):
    options = f"--like.weight 1 --like.rows folded --data.packed {packed} --train.epochs 2".split()
    config = configs.override(test_loop.of(test_loop.CONFIG, small_store), options)
    result = loop.train(config, tmp_path)
    store = stores.Store.open(small_store)
    validation = held_out.EvalBatches(store, config.data, config.eval, "validation")
    sign, examples = np.asarray(store.sign), list(validation)

    def separation(score):
        return measures.separation(score, examples)

    one = folding.fit(counting.training_log(store), sign, lambda score: separation(score)["auc"], examples)
    expected = separation(lambda batch: folding.scores(one, sign, batch))
    at_first, last = result["history"][0], result["history"][-1]
    np.testing.assert_allclose(at_first["like_auc"], expected["auc"], atol=2e-3)
    assert last["like_auc"] != at_first["like_auc"]
    trained = runs.load(tmp_path)
    np.testing.assert_array_equal(trained.state.tables[fold_in.TABLE][1:], one.row_VG[1:])
