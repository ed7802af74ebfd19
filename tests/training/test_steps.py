import dataclasses
import functools
import json
import math
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxneg import models
from jaxneg.batch import CODE, MASK, Batch
from jaxneg.config import Config, DataConfig, LossConfig, ModelConfig, OptimConfig
from jaxneg.embeddings import layouts, optim, sharding, tables
from jaxneg.training import objective, scoring, steps
from tests.marks import rest_slow

V, B, L, D = 20, 16, 5, 8
GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "step.json"
CONFIG = Config(
    data=DataConfig(length=L, batch_size=B),
    model=ModelConfig(width=D, heads=2, layers=1, dropout=0.1, output_attributes=True),
    optim=OptimConfig(learning_rate=0.05, warmup_steps=2),
)
ATTRIBUTE_VA = jnp.asarray(np.random.default_rng(9).integers(0, 4, (V, 2)), jnp.int32)


def make_batch(seed=0, negatives=2, shared=0):
    rng = np.random.default_rng(seed)
    length_B = rng.integers(1, L + 1, B)
    seen_BL = np.arange(L) < length_B[:, None]
    target_BL = rng.integers(1, V, (B, L)) * seen_BL * (rng.random((B, L)) < 0.6)
    item_BL = rng.integers(1, V, (B, L)) * seen_BL
    feedback_BL = rng.integers(1, 6, (B, L)) * seen_BL
    station_BL = rng.integers(0, 4, (B, L)) * seen_BL
    negative_BLN = rng.integers(1, V, (B, L, negatives)) * (target_BL > 0)[..., None]
    hard_BLN = (rng.random((B, L, negatives)) < 0.5) & (target_BL > 0)[..., None]
    # Every third target was rejected, as every third event was.
    label_BL = np.where(target_BL % 3 == 0, -1, 1) * (target_BL > 0)
    event_BM = np.concatenate([item_BL, target_BL[:, -1:]], axis=1)
    shared_S = rng.integers(1, V, shared)
    batch = Batch(
        item_BL=item_BL.astype(np.int32),
        feedback_BL=feedback_BL.astype(np.int32),
        station_BL=station_BL.astype(np.int32),
        target_BL=target_BL.astype(np.int32),
        label_BL=label_BL.astype(np.int8),
        negative_BLN=(negative_BLN * (label_BL > 0)[..., None]).astype(np.int32),
        hard_BLN=hard_BLN & (label_BL > 0)[..., None],
        event_BM=event_BM.astype(np.int32),
        sign_BM=(np.where(event_BM % 3 == 0, -1, 1) * (event_BM > 0)).astype(np.int8),
        shared_S=shared_S.astype(np.int32),
        shared_log_q_S=np.log(0.1 + 0.04 * shared_S).astype(np.float32),
        target_log_q_BL=(np.log(0.1 + 0.04 * target_BL) * (target_BL > 0)).astype(np.float32),
        segment_BL=np.zeros((B, 0), np.int32),
    )
    return jax.tree.map(jnp.asarray, batch)


def make(config=CONFIG):
    model, made, update = prepared(config)
    return model, steps.init_state(made), update


@functools.lru_cache
def prepared(config):
    """Model, recipe and step of a config, which is compiled once for all tests of it."""
    model = models.build(config.model, length=L, stations=3, attributes=(3, 3))
    made = recipe(config, model)
    return model, made, jax.jit(functools.partial(steps.train_step, made))


def recipe(config, model):
    layout = layouts.Whole(sharding.make_mesh(1), V - 1)
    optimizer = layout.optimizer(config.optim, 100, config.like)
    return steps.Recipe(objective.Task(config, model, V - 1), layout, optimizer)


def weights(state):
    return tables.Weights(state.params, state.tables, ATTRIBUTE_VA)


@functools.lru_cache
def value_by(config, model):
    """The loss as one program: operation by operation it would be a hundred."""
    task = objective.Task(config, model, V - 1)
    layout = recipe(config, model).layout

    def value(weights, batch):
        catalogue = objective.Catalogue(weights, layout)
        return objective.loss(task, weights, batch, objective.index(batch), catalogue=catalogue)

    return jax.jit(value)


def value_of(config, model, state, batch):
    return value_by(config, model)(weights(state), batch)


@functools.lru_cache
def encoder(model):
    return jax.jit(functools.partial(scoring.encode, model))


def encoded(model, state, contexts):
    """Hidden states of contexts, [B, L, D]."""
    return encoder(model)(weights(state), contexts)


def run(config=CONFIG, devices=1, count=10, shared=0):
    _, state, update = make(config)
    mesh = sharding.make_mesh(devices)
    state, attribute_VA = sharding.put((state, ATTRIBUTE_VA), mesh)
    losses = []
    for k in range(count):
        batch = make_batch(k % 3, shared=shared)
        state, metrics = update(state, sharding.put_fields(batch, mesh), attribute_VA)
        losses.append(float(metrics["loss"]))
    return state, losses


def rough(config):
    """A model of the config without dropout, and a state whose tables are far from zero."""
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, dropout=0.0))
    model, state, _ = make(config)
    rng = np.random.default_rng(4)
    noise = {k: 0.3 * rng.normal(size=v.shape).astype(np.float32) for k, v in state.tables.items()}
    return config, model, state._replace(tables={k: v + noise[k] for k, v in state.tables.items()})


def logits(model, state, batch):
    """Logits of every item at every position, float64, built from rows, attributes and biases by hand."""
    contexts = scoring.Seen(batch.item_BL, batch.feedback_BL, batch.station_BL)
    h_BLD = np.asarray(encoded(model, state, contexts), np.float64)
    row_VD = np.asarray(state.tables["item_VD"], np.float64)
    for k in range(2):
        table = np.asarray(state.params[f"inputs.attribute{k}"], np.float64)
        for item in range(V):
            if code := int(ATTRIBUTE_VA[item, k]):
                row_VD[item] += table[code]
    return h_BLD @ row_VD.T + np.asarray(state.tables["bias_V"], np.float64)


def candidates(batch, b, t, *, own=True, shared=True, in_batch=False, log_q=False):
    """(id, what is taken off its logit) of each negative of a position, by plain loops."""
    target = int(batch.target_BL[b, t])
    found = [(int(i), 0.0) for i in batch.negative_BLN[b, t] if own and i]
    if shared:
        found += [(int(i), float(q)) for i, q in zip(batch.shared_S, batch.shared_log_q_S, strict=True)]
    if in_batch:
        flat = zip(batch.target_BL.ravel().tolist(), batch.target_log_q_BL.ravel().tolist(), strict=True)
        found += sorted({i: q for i, q in flat if i}.items())
    if in_batch and log_q:  # an item of both lists is there once
        hard = sum(bool(i) for i in batch.negative_BLN[b, t]) if own else 0
        found = found[:hard] + sorted(dict(found[hard:]).items())
    return [(i, q if log_q else 0.0) for i, q in found if i != target]


def positions(batch, *, liked=True):
    for b in range(B):
        for t in range(L):
            if batch.target_BL[b, t] and (batch.label_BL[b, t] > 0 or not liked):
                yield b, t


def softplus(x):
    return math.log1p(math.exp(x))


def test_loss_equals_a_slow_loop():
    config, model, state = rough(CONFIG)
    batch = make_batch()
    logit = logits(model, state, batch)
    parts = [
        softplus(-logit[b, t, batch.target_BL[b, t]])
        + sum(softplus(logit[b, t, i]) for i, _ in candidates(batch, b, t))
        for b, t in positions(batch)
    ]
    value = value_of(config, model, state, batch)
    np.testing.assert_allclose(value, np.mean(parts), rtol=1e-5)


@pytest.mark.parametrize("in_batch", rest_slow([False, True], [True]))
@pytest.mark.parametrize("log_q", ["none", "plain"])
@pytest.mark.parametrize("shared", rest_slow([0, 7], [7]))
def test_sampled_softmax_sees_own_shared_and_batch_negatives_but_never_the_target(in_batch, log_q, shared):
    options = LossConfig(name="sampled_softmax", in_batch=in_batch, log_q=log_q)
    config, model, state = rough(dataclasses.replace(CONFIG, loss=options))
    batch = make_batch(shared=shared)
    logit = logits(model, state, batch)
    parts = []
    for b, t in positions(batch):
        target = logit[b, t, batch.target_BL[b, t]]
        others = [
            logit[b, t, i] - q for i, q in candidates(batch, b, t, in_batch=in_batch, log_q=log_q == "plain")
        ]
        parts.append(math.log(sum(math.exp(x) for x in [target, *others])) - target)
    value = value_of(config, model, state, batch)
    np.testing.assert_allclose(value, np.mean(parts), rtol=1e-5)


def test_softmax_runs_over_the_whole_catalogue():
    config, model, state = rough(dataclasses.replace(CONFIG, loss=LossConfig(name="softmax")))
    batch = make_batch()
    logit = logits(model, state, batch)
    parts = [
        math.log(np.exp(logit[b, t, 1:]).sum()) - logit[b, t, batch.target_BL[b, t]]
        for b, t in positions(batch)
    ]
    value = value_of(config, model, state, batch)
    np.testing.assert_allclose(value, np.mean(parts), rtol=1e-5)


@pytest.mark.parametrize("keep", rest_slow([1, 3], [3]))
@pytest.mark.parametrize("shared", [0, 9])
def test_hardest_keeps_the_highest_scoring_negatives(keep, shared):
    config, model, state = rough(dataclasses.replace(CONFIG, loss=LossConfig(hardest=keep)))
    batch = make_batch(negatives=5, shared=shared)
    logit = logits(model, state, batch)
    parts = []
    for b, t in positions(batch):
        others = sorted((logit[b, t, i] for i, _ in candidates(batch, b, t)), reverse=True)[:keep]
        parts.append(softplus(-logit[b, t, batch.target_BL[b, t]]) + sum(map(softplus, others)))
    value = value_of(config, model, state, batch)
    np.testing.assert_allclose(value, np.mean(parts), rtol=1e-5)


def test_the_gradient_of_hardest_is_that_of_the_kept_ones():
    config, model, state = rough(dataclasses.replace(CONFIG, loss=LossConfig(hardest=1)))
    batch = make_batch(negatives=5)
    logit = logits(model, state, batch)
    kept = np.zeros((B, L, 1), np.int32)
    for b, t in positions(batch):
        kept[b, t, 0] = max(candidates(batch, b, t), key=lambda found: logit[b, t, found[0]])[0]
    plain = dataclasses.replace(config, loss=LossConfig())

    def gradient(config, batch):
        def value(item_tables):
            return value_of(config, model, state._replace(tables=item_tables), batch)

        return jax.grad(value)(state.tables)["item_VD"]

    expected = gradient(plain, batch._replace(negative_BLN=jnp.asarray(kept)))
    np.testing.assert_allclose(gradient(config, batch), expected, atol=1e-6)  # float32 sums, entries below 1


def test_any_target_trains_on_rejected_events_as_the_released_code_does():
    data = dataclasses.replace(CONFIG.data, target="any")
    options = LossConfig(name="sampled_softmax")
    config, model, state = rough(dataclasses.replace(CONFIG, loss=options, data=data))
    batch = make_batch(shared=6)
    logit = logits(model, state, batch)
    parts = []
    for b, t in positions(batch, liked=False):
        target = logit[b, t, batch.target_BL[b, t]]
        others = [logit[b, t, i] for i, _ in candidates(batch, b, t)]
        parts.append(math.log(sum(math.exp(x) for x in [target, *others])) - target)
    value = value_of(config, model, state, batch)
    np.testing.assert_allclose(value, np.mean(parts), rtol=1e-5)


def test_the_feedback_term_adds_by_its_weight():
    batch = make_batch()
    config, model, state = rough(CONFIG)
    logit = logits(model, state, batch)
    parts = []
    for b, t in positions(batch, liked=False):
        x = logit[b, t, batch.target_BL[b, t]]
        parts.append(softplus(-x if batch.label_BL[b, t] > 0 else x))
    alone = dataclasses.replace(config, loss=LossConfig(name="feedback"))
    both = dataclasses.replace(config, loss=LossConfig(feedback=0.7))
    values = [value_of(one, model, state, batch) for one in (config, alone, both)]
    np.testing.assert_allclose(values[1], np.mean(parts), rtol=1e-5)
    np.testing.assert_allclose(values[2], values[0] + 0.7 * values[1], rtol=1e-5)


@pytest.mark.parametrize("context", ["predicted", "item"])
def test_the_contrastive_term_pulls_to_the_next_liked_and_away_from_skips(context):
    options = LossConfig(contrastive=0.5, contrastive_context=context, temperature=0.2)
    config, model, state = rough(dataclasses.replace(CONFIG, loss=options))
    batch = make_batch()
    contexts = scoring.Seen(batch.item_BL, batch.feedback_BL, batch.station_BL)
    h_BLD = np.asarray(encoded(model, state, contexts))
    row_VD, _ = scoring.catalogue_rows(model, weights(state))
    row_VD = np.asarray(row_VD, np.float64)

    def similarity(x, y):
        return float(x @ y / np.linalg.norm(x) / np.linalg.norm(y)) / 0.2

    parts = []
    for b in range(B):
        event_M, sign_M = np.asarray(batch.event_BM[b]), np.asarray(batch.sign_BM[b])
        skips = [row_VD[event_M[m]] for m in range(L + 1) if sign_M[m] < 0]
        for t in range(L + 1):
            after = [m for m in range(t + 1, L + 1) if sign_M[m] > 0]
            if sign_M[t] > 0 and after and skips:
                c = h_BLD[b, t].astype(np.float64) if context == "predicted" else row_VD[event_M[t]]
                p = math.exp(similarity(row_VD[event_M[after[0]]], c))
                parts.append(-math.log(p / (p + sum(math.exp(similarity(s, c)) for s in skips))))
    plain = dataclasses.replace(config, loss=LossConfig())
    without, whole = (value_of(one, model, state, batch) for one in (plain, config))
    assert len(parts) > 10
    np.testing.assert_allclose(whole - without, 0.5 * np.mean(parts), rtol=1e-4)  # a difference of float32


@pytest.mark.slow
def test_the_moving_average_is_that_of_the_weights_and_is_what_is_evaluated():
    config = dataclasses.replace(CONFIG, optim=dataclasses.replace(CONFIG.optim, average=0.6))
    _, state, update = make(config)
    expected = np.asarray(state.tables["item_VD"], np.float64)
    for k in range(6):
        state, _ = update(state, make_batch(k), ATTRIBUTE_VA)
        decay = min(0.6, (2 + k) / (11 + k))
        expected = decay * expected + (1 - decay) * np.asarray(state.tables["item_VD"], np.float64)
    found = steps.evaluated(state, ATTRIBUTE_VA)
    np.testing.assert_allclose(found.tables["item_VD"], expected, rtol=1e-5, atol=1e-6)
    assert set(found.params) == set(state.params)
    plain = run()[0]
    assert steps.evaluated(plain, ATTRIBUTE_VA)[:2] == (plain.params, plain.tables)


def test_a_model_of_hidden_events_reads_a_context_through_one_more_hidden_event():
    data = dataclasses.replace(CONFIG.data, mask=0.2)
    for encoder in ("bert4rec", "sasrec"):
        own = dataclasses.replace(CONFIG.model, dropout=0.0, encoder=encoder)
        model = models.build(own, length=L, stations=3, attributes=(3, 3), cloze=True)
        config = dataclasses.replace(CONFIG, data=data, model=own)
        state = steps.init_state(recipe(config, model))
        batch = make_batch()
        contexts = scoring.Seen(batch.item_BL, batch.feedback_BL, batch.station_BL)
        h_BD = jax.jit(functools.partial(scoring.last_hidden, model))(weights(state), contexts)
        for b in range(3):
            size = int((batch.item_BL[b] > 0).sum())
            item, feedback, station = (np.zeros((1, L + 1), np.int32) for _ in range(3))
            for to, of in zip((item, feedback, station), contexts[:3], strict=True):
                to[0, :size] = of[b, :size]
            feedback[0, size], station[0, size] = MASK, station[0, size - 1]
            hidden = scoring.Seen(*map(jnp.asarray, (item, feedback, station)))
            h_1LD = encoded(model, state, hidden)
            np.testing.assert_allclose(h_BD[b], h_1LD[0, size], atol=1e-5)


def test_the_target_and_its_feedback_are_no_input():
    """Changing what is to be predicted must not change what it is predicted from."""
    model, state, _ = make()
    batch = make_batch()
    contexts = scoring.Seen(batch.item_BL, batch.feedback_BL, batch.station_BL)
    before = encoded(model, state, contexts)
    # The pipeline puts the event at t + 1 into target_BL[t]; its feedback stands in feedback_BL[t + 1], after t.
    later = batch.feedback_BL.at[:, 3].set(CODE["thumb_down"])
    after = encoded(model, state, contexts._replace(feedback_BL=later))
    np.testing.assert_array_equal(after[:, :3], before[:, :3])


SOFTMAX = dataclasses.replace(
    CONFIG, loss=LossConfig(name="sampled_softmax", in_batch=True, contrastive=0.5, feedback=0.5)
)


@pytest.mark.slow
@pytest.mark.parametrize(("config", "shared"), [(CONFIG, 0), (SOFTMAX, 6)])
def test_one_and_eight_devices_give_the_same_losses(config, shared):
    _, alone = run(config, shared=shared)
    state, together = run(config, 8, shared=shared)
    assert len(state.tables["item_VD"].devices()) == 8
    # float32 sums in another order, through ten updates.
    np.testing.assert_allclose(together, alone, rtol=1e-5)
    assert alone[-1] < alone[0]


@pytest.mark.slow
def test_same_seed_same_bits_and_another_seed_other_bits():
    first, second = run()[0], run()[0]
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        np.testing.assert_array_equal(a, b)
    other = run(dataclasses.replace(CONFIG, train=dataclasses.replace(CONFIG.train, seed=1)))[0]
    assert not np.array_equal(other.tables["item_VD"], first.tables["item_VD"])


@pytest.mark.slow
def test_padding_sequences_change_nothing():
    model, state, update = make(
        dataclasses.replace(CONFIG, model=dataclasses.replace(CONFIG.model, dropout=0.0))
    )
    batch = make_batch()
    padded = jax.tree.map(lambda leaf: jnp.asarray(np.concatenate([leaf, np.zeros_like(leaf)])), batch)
    (a, _), (b, _) = update(state, batch, ATTRIBUTE_VA), update(state, padded, ATTRIBUTE_VA)
    for x, y in zip(jax.tree.leaves(a.params), jax.tree.leaves(b.params), strict=True):
        # Adam divides tiny gradients, whose sums are taken in another order
        np.testing.assert_allclose(x, y, atol=1e-5)


def test_scores_agree_with_each_other():
    model, state, _ = make()
    batch = make_batch()
    contexts = scoring.Seen(batch.item_BL, batch.feedback_BL, batch.station_BL)
    item_BC = jnp.asarray(np.tile(np.arange(V), (B, 1)))

    @jax.jit
    def found(weights):
        h_BD = scoring.last_hidden(model, weights, contexts)
        scores_BC = scoring.score_items(model, weights, h_BD, item_BC)
        return h_BD, *scoring.catalogue_rows(model, weights), scores_BC

    h_BD, row_VD, bias_V, scores_BC = map(np.asarray, found(weights(state)))
    np.testing.assert_allclose(scores_BC, h_BD @ row_VD.T + bias_V, atol=1e-5)


def test_last_hidden_is_that_of_the_last_event():
    model, state, _ = make()
    batch = make_batch()
    contexts = scoring.Seen(batch.item_BL, batch.feedback_BL, batch.station_BL)
    h_BLD = np.asarray(encoded(model, state, contexts))
    h_BD = np.asarray(jax.jit(functools.partial(scoring.last_hidden, model))(weights(state), contexts))
    for b in range(B):
        # In float32; the products of one query are summed in another order.
        expected = h_BLD[b, int((batch.item_BL[b] > 0).sum()) - 1]
        np.testing.assert_allclose(h_BD[b], expected, rtol=1e-5, atol=1e-6)


def test_untied_output_has_a_table_of_its_own():
    config = dataclasses.replace(
        CONFIG, model=dataclasses.replace(CONFIG.model, tied=False, item_bias="none")
    )
    _, state, _ = make(config)
    assert set(state.tables) == {"item_VD", "output_VD"}
    assert tables.output_table(state.tables) is state.tables["output_VD"]
    assert tables.bias(state.tables, jnp.array([1])).tolist() == [0.0]


def test_golden_step():
    """The first ten losses of a fixed run of two blocks.

    Update the file only with a change that is meant to alter training.
    """
    _, losses = run(dataclasses.replace(CONFIG, model=dataclasses.replace(CONFIG.model, layers=2)))
    if not GOLDEN.exists():
        GOLDEN.parent.mkdir(exist_ok=True)
        GOLDEN.write_text(json.dumps({"losses": losses}, indent=2) + "\n")
        pytest.fail(f"{GOLDEN} was missing and has been written: look at it, then commit it")
    expected = json.loads(GOLDEN.read_text())["losses"]
    # Another jax may fuse sums in another order.
    np.testing.assert_allclose(
        losses, expected, rtol=1e-4, err_msg=f"if this change is meant, delete {GOLDEN} and run again"
    )


def test_schedule_warms_up_then_decays():
    rate = optim.schedule(OptimConfig(learning_rate=1.0, warmup_steps=10, decay="cosine"), 110)
    np.testing.assert_allclose(
        [rate(0), rate(5), rate(10), rate(60), rate(110)], [0.0, 0.5, 1.0, 0.5, 0.0], atol=1e-6
    )
    rate = optim.schedule(OptimConfig(learning_rate=1.0, warmup_steps=0), 100)
    np.testing.assert_allclose([rate(0), rate(1000)], [1.0, 1.0])
