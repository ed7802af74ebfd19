"""The like head: its loss, what it leaves alone, and scores in every serving form against numpy."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxneg import config as configs, metrics
from jaxneg.batch import forms
from jaxneg.batch.forms import Form
from jaxneg.config import LikeConfig, TrainConfig, UserError
from jaxneg.data import biases, opinions, stores
from jaxneg.embeddings import layouts, optim, sharding, tables, topk
from jaxneg.evaluation import eval_sets
from jaxneg.training import catalogue, likes, loop, objective, processes, program, records, runs, scoring
from tests.marks import rest_slow
from tests.training import test_catalogue, test_loop, test_steps
from tests.training.test_steps import ATTRIBUTE_VA, CONFIG, V, make_batch

batches = pytest.fixture(scope="module")(test_catalogue.make_batches)
SERVED = [Form("rank"), Form("judge"), Form("sum", 0.7), Form("demote", 1.5, -0.2)]


def with_head(config=CONFIG, **fields):
    return dataclasses.replace(config, like=LikeConfig(**{"weight": 1.0} | fields))


def rough_state(config):
    """A model without dropout, whose tables and common row are far from zero."""
    config, model, state = test_steps.rough(config)
    row_D = 0.5 * np.random.default_rng(5).normal(size=8).astype(np.float32)
    return config, model, state._replace(params=state.params | {likes.ROW: jnp.asarray(row_D)})


def logits(state, h_BLD, own=True):
    """Log odds of a like of each item at every position, float64, by hand."""
    row_VD = np.asarray(state.tables["like_VD"], np.float64) if own else np.zeros((V, 8))
    row_VD = row_VD + np.asarray(state.params[likes.ROW], np.float64)
    return np.asarray(h_BLD, np.float64) @ row_VD.T + np.asarray(state.tables["like_bias_V"], np.float64)


@pytest.mark.parametrize("rows", rest_slow(["own", "none"], ["own"]))
def test_the_loss_is_cross_entropy_of_the_events_that_got_feedback(rows):
    config, model, state = rough_state(with_head(weight=3.0, rows=rows))
    assert ("like_VD" in state.tables) == (rows == "own")
    batch = make_batch()
    label_BL = np.where(
        np.arange(batch.label_BL.size).reshape(batch.label_BL.shape) % 4 == 1, 0, batch.label_BL
    )
    batch = batch._replace(label_BL=jnp.asarray(label_BL.astype(np.int8)))
    seen = scoring.Seen(batch.item_BL, batch.feedback_BL, batch.station_BL)
    logit_BLV = logits(state, test_steps.encoded(model, state, seen), rows == "own")
    lost = []
    for b, l in np.ndindex(*label_BL.shape):
        if batch.target_BL[b, l] and label_BL[b, l]:
            p = 1 / (1 + np.exp(-logit_BLV[b, l, batch.target_BL[b, l]]))
            lost.append(-np.log(p if label_BL[b, l] > 0 else 1 - p))
    without = dataclasses.replace(config, like=LikeConfig())
    found, rest = (test_steps.value_of(one, model, state, batch) for one in (config, without))
    assert 5 < len(lost) < (np.asarray(batch.target_BL) > 0).sum()
    np.testing.assert_allclose(found - rest, 3 * np.mean(lost), rtol=1e-5)


@pytest.mark.slow
def test_the_encoder_learns_from_likes_where_it_is_asked_to():
    batch = make_batch()

    @functools.partial(jax.jit, static_argnums=0)
    def gradients(task, weights):
        return jax.grad(lambda one: objective.loss(task, one, batch, objective.index(batch)), allow_int=True)(
            weights
        )

    found = {}
    for name, like in {"off": {}, "on": {"gradient": True}, "none": {"weight": 0.0}}.items():
        config, model, state = rough_state(with_head())
        config = dataclasses.replace(config, like=LikeConfig(**{"weight": 1.0} | like))
        found[name] = gradients(objective.Task(config, model, V - 1), test_steps.weights(state))
    own = {"like_VD", "like_bias_V"}
    for name, leaf in found["none"].tables.items():
        assert (name in own) == (not np.any(leaf))
        if name not in own:
            np.testing.assert_allclose(found["off"].tables[name], leaf, rtol=1e-5, atol=1e-7)
            assert np.abs(found["on"].tables[name] - leaf).max() > 1e-4 or name == "bias_V"
    assert np.any(found["off"].params[likes.ROW]) and all(np.any(found["off"].tables[name]) for name in own)


DECAY = dataclasses.replace(CONFIG, optim=dataclasses.replace(CONFIG.optim, weight_decay=0.1, clip=0.1))


@functools.cache
def trained(decay):
    """What a head that decays so leaves."""
    return test_steps.run(with_head(DECAY, decay=decay, learning_rate=0.5))[0]


@pytest.mark.parametrize("decay", rest_slow([0.0, 2.0], [0.0]))
def test_a_head_of_its_own_leaves_what_ranks_as_it_would_be_without_it(decay):
    plain, _ = test_steps.run(DECAY)
    state = trained(decay)
    for name in plain.tables:
        np.testing.assert_array_equal(state.tables[name], plain.tables[name], err_msg=name)
    for name in plain.params:
        np.testing.assert_array_equal(state.params[name], plain.params[name], err_msg=name)
    own = {"like_VD", "like_bias_V"}
    assert set(state.tables) - set(plain.tables) == own and set(state.params) - set(plain.params) == {
        likes.ROW
    }
    assert all(np.abs(state.tables[name]).max() > 0.1 for name in own)
    assert not np.any(state.tables["like_VD"][0])


def test_decay_draws_rows_of_likes_to_zero_and_no_biases():
    free, held = trained(0.0), trained(2.0)
    size = [np.linalg.norm(state.tables["like_VD"]) for state in (free, held)]
    assert size[1] < 0.9 * size[0]
    bias = [np.linalg.norm(state.tables["like_bias_V"]) for state in (free, held)]
    assert bias[1] > 0.9 * bias[0]


def test_a_step_takes_rate_times_decay_of_rows_of_likes_and_of_nothing_else():
    rng = np.random.default_rng(0)

    def drawn():
        shapes = {likes.ROW: (8,)}, {"like_VD": (5, 8), "like_bias_V": (5,), "item_VD": (5, 8)}
        return tuple(
            {name: rng.normal(size=shape).astype(np.float32) for name, shape in one.items()} for one in shapes
        )

    trained, gradients = drawn(), drawn()

    @functools.partial(jax.jit, static_argnums=0)
    def changes(decay, trained, gradients):
        config = dataclasses.replace(CONFIG.optim, warmup_steps=0, weight_decay=0.1)
        optimizer = optim.dense_optimizer(config, 10, LikeConfig(weight=1.0, decay=decay, learning_rate=0.5))
        return optimizer.update(gradients, optimizer.init(trained), trained)[0]

    for free, held, value in zip(
        *(changes(decay, trained, gradients) for decay in (0.0, 3.0)), trained, strict=True
    ):
        for name in value:
            drawn_in = 0.5 * 3 * value[name] if name == "like_VD" else 0.0
            np.testing.assert_allclose(free[name] - held[name], drawn_in, rtol=1e-5, atol=1e-6, err_msg=name)


def by_hand(form, rank_BV, like_BV):
    if form.name == "judge":
        return like_BV
    if form.name == "rank":
        return rank_BV
    if form.name == "sum":
        return rank_BV + form.beta * like_BV
    usual_B1 = like_BV[:, 1:].mean(1, keepdims=True)
    return rank_BV + form.beta * np.minimum(like_BV - usual_B1 - form.threshold, 0)


def weights_of(model, items):
    """Weights of a like head, all far from zero, by item."""
    rng = np.random.default_rng(7)
    params = model.init(jax.random.key(0)) | {likes.ROW: rng.normal(size=8).astype(np.float32)}
    by_item = {"item_VD": (8,), "bias_V": (), "like_VD": (8,), "like_bias_V": ()}
    by_item = {name: rng.normal(size=(items + 1, *tail)).astype(np.float32) for name, tail in by_item.items()}
    for name in ("like_VD", "like_bias_V"):
        by_item[name][0] = 0.0
    attribute_VA = np.arange(items + 1, dtype=np.int32)[:, None] % 4
    return jax.tree.map(jnp.asarray, tables.Weights(params, by_item, attribute_VA))


@pytest.mark.parametrize("few", rest_slow([0, 1 << 25], [1 << 25]))
def test_scores_of_every_form_are_the_formula(few, batches, monkeypatch):
    """Ranked by the host out of all scores, and by the program that counts; items asked for by number."""
    monkeypatch.setattr(catalogue, "SORTED", few)
    monkeypatch.setattr(catalogue, "AT_HAND", 0)
    model, items = test_catalogue.model_of("sasrec"), test_catalogue.ITEMS
    weights = weights_of(model, items)
    score = catalogue.CatalogueScore(model, layouts.Whole(sharding.make_mesh(1), items), weights)
    [h_BD] = score.encoded(batches[:1])
    of = {name: np.asarray(table, np.float64) for name, table in weights.tables.items()}
    h_BD = h_BD.astype(np.float64)
    rank_BV = h_BD @ of["item_VD"].T + of["bias_V"]
    like_BV = h_BD @ (of["like_VD"] + np.asarray(weights.params[likes.ROW])).T + of["like_bias_V"]
    assert 0.2 < (like_BV < -0.2).mean() < 0.8
    batch, seen = batches[0], []
    for form in SERVED:
        expected_BV = by_hand(form, rank_BV, like_BV)
        scored = score.in_form(form).scored(h_BD.astype(np.float32))
        close = {"rtol": 1e-5, "atol": 1e-4}
        np.testing.assert_allclose(
            scored.of(batch.liked_BC), np.take_along_axis(expected_BV, batch.liked_BC, axis=1), **close
        )
        found = scored.rank((batch.liked_BC,), k=5, seen_BL=None)
        expected = metrics.rank(expected_BV, (batch.liked_BC,), k=5)
        np.testing.assert_array_equal(found.top_Bk, expected.top_Bk, err_msg=str(form))
        np.testing.assert_array_equal(found.targets[0], expected.targets[0])
        if few:
            np.testing.assert_allclose(score.in_form(form)(batch)[:, 1:], expected_BV[:, 1:], **close)
        seen.append(found.top_Bk.tolist())
    assert all(one != other for k, one in enumerate(seen) for other in seen[:k])


@pytest.mark.parametrize("form", rest_slow(SERVED, SERVED[-1:]))
def test_devices_that_share_rows_rank_in_a_form_as_one_does(form):
    model, items = test_catalogue.model_of("sasrec"), 50
    weights = weights_of(model, items)
    mesh = sharding.make_mesh(8, 4)
    layout = layouts.Sharded(mesh, items)
    shared = {
        name: sharding.put(tables.spread(np.asarray(leaf)), mesh, "V")
        for name, leaf in weights.tables.items()
    }
    attribute_VA = sharding.put(tables.spread(np.asarray(weights.attribute_VA)), mesh, "VA")
    rng = np.random.default_rng(1)
    h_BD = rng.normal(size=(8, 8)).astype(np.float32)
    target_BC = rng.integers(0, items + 1, (8, 4)).astype(np.int32)
    heads = scoring.catalogue_rows(model, likes.with_numbers(weights, form, items), form.name)
    row, bias, *under = map(np.asarray, heads)
    score_BV = h_BD @ row.T + bias
    if under:
        score_BV = score_BV + np.minimum(h_BD @ under[0].T + under[1], 0)
    rows = functools.partial(scoring.catalogue_rows, model, form=form.name)
    spread = likes.with_numbers(tables.Weights(weights.params, shared, attribute_VA), form, items)
    none_B1 = np.zeros((8, 1), np.int32)
    found = jax.jit(functools.partial(topk.ranked, layout, rows, k=5))(
        spread, topk.Examples(h_BD, target_BC, none_B1)
    )
    expected = metrics.rank(score_BV, (target_BC,), k=5)
    np.testing.assert_array_equal(found.top_Bk, expected.top_Bk)
    np.testing.assert_array_equal(topk.on_host(found, (target_BC,)).targets[0], expected.targets[0])


def test_a_model_without_a_like_head_serves_in_one_form(batches):
    score = test_catalogue.score_of(test_catalogue.model_of("sasrec"))
    with pytest.raises(UserError, match="form judge needs a like head"):
        score.in_form(Form("judge"))
    with pytest.raises(UserError, match="form must be one of rank, judge, sum, demote, got 'best'"):
        forms.check("best")


def test_biases_of_likes_start_at_smoothed_log_odds(small_store):
    store = stores.Store.open(small_store)
    config = with_head()
    liked, disliked = np.zeros(store.items + 1), np.zeros(store.items + 1)
    for event in opinions.training_runs(store):
        for item, code in zip(store.item_T[event].tolist(), store.feedback_T[event].tolist(), strict=True):
            liked[item] += store.sign[code] > 0
            disliked[item] += store.sign[code] < 0
    share = (liked.sum() + 1) / (liked.sum() + disliked.sum() + 2)
    expected = np.log(liked + 10 * share) - np.log(disliked + 10 * (1 - share))
    np.testing.assert_allclose(biases.likes(config, store)[1:], expected[1:], rtol=1e-5)
    assert biases.likes(config, store)[0] == 0 and biases.likes(CONFIG, store) is None


@pytest.mark.system
def test_a_head_trains_on_shared_tables():
    """Eight devices that share rows in four parts: the rows of likes move as the others do."""
    config = configs.override(with_head(), ["--optim.rows", "sgd"])
    store = program.Catalogue(V - 1, 3, (3, 3))
    found = {}
    for devices, shards in ((8, 4), (1, 1)):
        config = dataclasses.replace(config, train=TrainConfig(shards=shards))
        built = program.build(config, store, sharding.make_mesh(devices, shards))
        state = built.init()
        attribute_VA = sharding.put(tables.spread(np.asarray(ATTRIBUTE_VA)), built.layout.mesh, "VA")
        for k in range(3):
            batch = jax.tree.map(np.asarray, make_batch(k))
            state, _ = built.update(state, sharding.put_fields(batch, built.mesh), attribute_VA)
        found[devices] = tables.gathered(jax.tree.map(np.asarray, state.tables), V - 1)
    for name, table in found[1].items():
        np.testing.assert_allclose(found[8][name], table, rtol=1e-4, atol=1e-6, err_msg=name)
    assert np.abs(found[1]["like_VD"]).max() > 1e-3


@pytest.mark.slow
def test_a_run_goes_on_exactly_and_its_validation_is_that_of_the_judge(small_store, tmp_path):
    options = "--like.weight 1 --like.decay 0.1 --data.packed always --optim.average 0.9".split()
    config = configs.override(test_loop.of(test_loop.CONFIG, small_store), options)
    loop.train(config, tmp_path / "whole")
    with pytest.raises(processes.Stopped):
        loop.train(config, tmp_path / "parts", stop=lambda step: step == 7)
    result = loop.train(config, tmp_path / "parts")
    whole, parts = (test_loop.final_state(config, tmp_path / name)[0] for name in ("whole", "parts"))
    test_loop.assert_same_state(whole, parts)
    assert (
        np.any(whole.tables["like_VD"]) and whole.average[1]["like_VD"].shape == whole.tables["like_VD"].shape
    )
    trained = runs.load(tmp_path / "parts")
    score = runs.catalogue_score(trained, Form("judge"))
    found = eval_sets.EvalSet(trained.store, config, "validation").measure(score).figures
    best = next(line for line in result["history"] if line["step"] == result["best_step"])
    for name in ("pair_accuracy", "auc"):
        np.testing.assert_allclose(best[f"like_{name}"], found[name], atol=1e-9)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ("--data.target next_positive", "learn from rejected events too"),
        ("--data.mask 0.2", "learn from rejected events too"),
        ("--like.rows folded --data.mask 0.2 --data.target any", "solves for a listener"),
        ("--optim.accumulate 2", "are means over other events"),
        ("--optim.rows adagrad --like.decay 1", "rows that Adam changes"),
        ("--optim.rows sgd --like.learning-rate 1", "rows that Adam changes"),
    ],
)
def test_what_does_not_go_with_a_like_head_is_refused(options, told):
    with pytest.raises(UserError, match=told):
        configs.check(configs.override(configs.Config(), f"--like.weight 1 {options}".split()))


def test_a_config_of_a_version_without_like_heads_loads(tmp_path):
    config = configs.override(configs.Config(), ["--data.length", "7"])
    old = json.loads(configs.to_json(config))
    del old["like"]
    assert configs.from_json(json.dumps(old)) == config
    (tmp_path / "config.json").write_text(json.dumps(old))
    (tmp_path / "checkpoints").mkdir()
    [found] = records.summaries([tmp_path])
    assert (found.state, found.settings["data.length"], found.settings["like.weight"]) == ("stopped", 7, 0.0)
