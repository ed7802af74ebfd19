import dataclasses
import functools
import json
import math
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxneg import models, optim, sharding, step as steps, tables
from jaxneg.batch import CODE, Batch
from jaxneg.config import Config, DataConfig, ModelConfig, OptimConfig

V, B, L, D = 20, 16, 5, 8
GOLDEN = pathlib.Path(__file__).parent / "golden" / "step.json"
CONFIG = Config(
    data=DataConfig(length=L, batch_size=B),
    model=ModelConfig(width=D, heads=2, dropout=0.1, output_attributes=True),
    optim=OptimConfig(learning_rate=0.05, warmup_steps=2),
)
ATTRIBUTE_VA = jnp.asarray(np.random.default_rng(9).integers(0, 4, (V, 2)), jnp.int32)


def make_batch(seed=0, negatives=2):
    rng = np.random.default_rng(seed)
    length_B = rng.integers(1, L + 1, B)
    seen_BL = np.arange(L) < length_B[:, None]
    target_BL = rng.integers(1, V, (B, L)) * seen_BL * (rng.random((B, L)) < 0.6)
    batch = Batch(
        item_BL=(rng.integers(1, V, (B, L)) * seen_BL).astype(np.int32),
        feedback_BL=(rng.integers(1, 6, (B, L)) * seen_BL).astype(np.int32),
        station_BL=(rng.integers(0, 4, (B, L)) * seen_BL).astype(np.int32),
        target_BL=target_BL.astype(np.int32),
        negative_BLN=(rng.integers(1, V, (B, L, negatives)) * (target_BL > 0)[..., None]).astype(np.int32),
        hard_BLN=(rng.random((B, L, negatives)) < 0.5) & (target_BL > 0)[..., None],
    )
    return jax.tree.map(jnp.asarray, batch)


def make(config=CONFIG):
    model = models.build(config.model, length=L, stations=3, attributes=(3, 3))
    optimizer = optim.dense_optimizer(config.optim, 100)
    state = steps.init_state(config, model, optimizer, V)
    update = jax.jit(functools.partial(steps.train_step, config, model, optimizer))
    return model, state, update


def run(config=CONFIG, mesh=None, count=10):
    model, state, update = make(config)
    attribute_VA = jnp.asarray(ATTRIBUTE_VA)
    if mesh is not None:
        state, attribute_VA = sharding.put((state, attribute_VA), mesh)
    losses = []
    for k in range(count):
        batch = make_batch(k % 3)
        state, metrics = update(
            state, batch if mesh is None else sharding.put(batch, mesh, "B"), attribute_VA
        )
        losses.append(float(metrics["loss"]))
    return state, losses


def test_loss_equals_a_slow_loop():
    config = dataclasses.replace(CONFIG, model=dataclasses.replace(CONFIG.model, dropout=0.0))
    model, state, _ = make(config)
    batch = make_batch()
    state = state._replace(
        tables={k: v + 0.1 * jax.random.normal(jax.random.key(4), v.shape) for k, v in state.tables.items()}
    )
    h_BLD = np.asarray(
        steps.encode(
            model,
            state.params,
            state.tables,
            batch.item_BL,
            batch.feedback_BL,
            batch.station_BL,
            ATTRIBUTE_VA,
        )
    )
    row_VD, bias_V = np.asarray(state.tables["item_VD"]), np.asarray(state.tables["bias_V"])

    def logit(b, t, item):
        row = row_VD[item].astype(np.float64)
        for k in range(2):
            if code := ATTRIBUTE_VA[item, k]:
                row = row + np.asarray(state.params[f"inputs.attribute{k}"])[code]
        return float(h_BLD[b, t] @ row + bias_V[item])

    total = count = 0
    for b in range(B):
        for t in range(L):
            if target := batch.target_BL[b, t]:
                total += math.log1p(math.exp(-logit(b, t, target)))
                total += sum(math.log1p(math.exp(logit(b, t, item))) for item in batch.negative_BLN[b, t])
                count += 1
    value = steps.loss(config, model, state.params, state.tables, batch, ATTRIBUTE_VA, None)
    np.testing.assert_allclose(value, total / count, rtol=1e-5)


def test_the_target_and_its_feedback_are_no_input():
    """Changing what is to be predicted must not change what it is predicted from."""
    model, state, _ = make()
    batch = make_batch()
    at = (state.params, state.tables, batch.item_BL, batch.feedback_BL, batch.station_BL, ATTRIBUTE_VA)
    before = steps.encode(model, *at)
    # The pipeline puts the event at t + 1 into target_BL[t]; its feedback stands in feedback_BL[t + 1], after t.
    later = batch.feedback_BL.at[:, 3].set(CODE["thumb_down"])
    after = steps.encode(
        model, state.params, state.tables, batch.item_BL, later, batch.station_BL, ATTRIBUTE_VA
    )
    np.testing.assert_array_equal(after[:, :3], before[:, :3])


def test_one_and_eight_devices_give_the_same_losses():
    _, alone = run(mesh=sharding.make_mesh(1))
    state, together = run(mesh=sharding.make_mesh(8))
    assert len(state.tables["item_VD"].devices()) == 8
    # float32 sums in another order, through ten updates.
    np.testing.assert_allclose(together, alone, rtol=1e-5)
    assert alone[-1] < alone[0]


def test_same_seed_same_bits_and_another_seed_other_bits():
    first, second = run()[0], run()[0]
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        np.testing.assert_array_equal(a, b)
    other = run(dataclasses.replace(CONFIG, train=dataclasses.replace(CONFIG.train, seed=1)))[0]
    assert not np.array_equal(other.tables["item_VD"], first.tables["item_VD"])


def test_padding_sequences_change_nothing():
    model, state, update = make(
        dataclasses.replace(CONFIG, model=dataclasses.replace(CONFIG.model, dropout=0.0))
    )
    batch = make_batch()
    padded = jax.tree.map(lambda leaf: jnp.concatenate([leaf, jnp.zeros_like(leaf)]), batch)
    (a, _), (b, _) = update(state, batch, ATTRIBUTE_VA), update(state, padded, ATTRIBUTE_VA)
    for x, y in zip(jax.tree.leaves(a.params), jax.tree.leaves(b.params), strict=True):
        np.testing.assert_allclose(
            x, y, atol=1e-5
        )  # Adam divides tiny gradients, whose sums are taken in another order


def test_scores_agree_with_each_other():
    model, state, _ = make()
    batch = make_batch()
    h_BD = steps.last_hidden(
        model, state.params, state.tables, batch.item_BL, batch.feedback_BL, batch.station_BL, ATTRIBUTE_VA
    )
    row_VD, bias_V = steps.catalogue_rows(model, state.params, state.tables, ATTRIBUTE_VA)
    item_BC = jnp.tile(jnp.arange(V), (B, 1))
    scores_BC = steps.score_items(model, state.params, state.tables, h_BD, item_BC, ATTRIBUTE_VA)
    np.testing.assert_allclose(scores_BC, h_BD @ row_VD.T + bias_V[None], atol=1e-5)


def test_last_hidden_is_that_of_the_last_event():
    model, state, _ = make()
    batch = make_batch()
    contexts = (batch.item_BL, batch.feedback_BL, batch.station_BL)
    h_BLD = steps.encode(model, state.params, state.tables, *contexts, ATTRIBUTE_VA)
    h_BD = steps.last_hidden(model, state.params, state.tables, *contexts, ATTRIBUTE_VA)
    for b in range(B):
        np.testing.assert_array_equal(h_BD[b], h_BLD[b, (batch.item_BL[b] > 0).sum() - 1])


def test_untied_output_has_a_table_of_its_own():
    config = dataclasses.replace(
        CONFIG, model=dataclasses.replace(CONFIG.model, tied=False, item_bias="none")
    )
    _, state, _ = make(config)
    assert set(state.tables) == {"item_VD", "output_VD"}
    assert tables.output_table(state.tables) is state.tables["output_VD"]
    assert float(tables.bias(state.tables, jnp.array([1]))) == 0.0


def test_golden_step():
    """The first ten losses of a fixed run. Update the file only with a change that is meant to alter training."""
    _, losses = run()
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
