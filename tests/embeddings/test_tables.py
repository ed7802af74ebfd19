"""Tables whose rows devices share, against numpy: who asks for what, who answers, and that each row changes once."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxneg import metrics
from jaxneg.config import Config, DataConfig, LossConfig, ModelConfig, OptimConfig, TrainConfig, UserError
from jaxneg.embeddings import exchange, layouts, optim, sharding, tables, topk
from jaxneg.training import objective, program, scoring
from tests.marks import rest_slow, rest_system
from tests.training.test_steps import ATTRIBUTE_VA, B, L, V, make_batch

SHAPES = [(1, 1), (8, 1), (4, 2), (2, 4), (1, 8)]  # replicas x parts
ITEMS = 50_000


def mesh_of(shape):
    return sharding.mesh_of(jax.devices()[: shape[0] * shape[1]], shape[1])


def crowded(rng, ids):
    """Ids of which most live on one device of eight, with repetitions."""
    place = np.asarray(tables.place(np.arange(ITEMS + 1), tables.rows(ITEMS)))
    on_one = np.flatnonzero(place < tables.rows(ITEMS) // 8)
    drawn = rng.choice(on_one, ids)
    few = rng.random(ids) < 0.1
    return np.where(few, rng.integers(0, 3, ids), drawn)


IDS = {
    "uniform": lambda rng, ids: rng.integers(1, ITEMS + 1, ids),
    "the same for all": lambda rng, ids: np.full(ids, 17),
    "only padding": lambda rng, ids: np.zeros(ids),
    "the most popular": lambda rng, ids: rng.integers(0, 40, ids),
    "crowded on one device": crowded,
}


# One device and both axes of a mesh every time; the others are slow together.
every_shape = pytest.mark.parametrize("shape", rest_slow(SHAPES, [(1, 1), (4, 2)]), ids=str)


@every_shape
@pytest.mark.parametrize("kind", IDS)
def test_every_id_gets_its_row_and_every_row_its_sum(shape, kind):
    rng = np.random.default_rng(3)
    layout = layouts.Sharded(mesh_of(shape), ITEMS)
    by_item = rng.normal(size=(ITEMS + 1, 3)).astype(np.float32)
    table, moment = tables.spread(by_item), np.zeros(layout.rows, np.float32)
    id_BL = IDS[kind](rng, (16, 150)).astype(np.int32)
    value_BLD = rng.normal(size=(16, 150, 3)).astype(np.float32)

    @jax.jit
    def both(table, moment, id_BL, value_BLD):
        found, (slot_BL,), route = layout.look({"item_VD": table}, [id_BL])
        row_BLD, vjp = jax.vjp(lambda item: tables.lookup(item, slot_BL), found["item_VD"])
        (gradient,) = vjp(value_BLD)

        def change(part, moment, row_Q, value_QD):
            put = {"mode": "drop", "unique_indices": True}
            return part.at[row_Q].add(value_QD, **put), moment.at[row_Q].add(1.0, **put)

        beside = (table, moment)
        return route.rounds, row_BLD, exchange.send(layout.mesh, route, gradient.row_KUX, beside, change)

    rounds, row_BLD, (changed, times) = both(table, moment, id_BL, value_BLD)
    np.testing.assert_array_equal(row_BLD, by_item[id_BL])
    expected = by_item.astype(np.float64)
    # what is sent to the padding row is dropped
    np.add.at(expected, id_BL, value_BLD * (id_BL > 0)[..., None])
    order = tables.gathered({"item": np.asarray(changed), "times": np.asarray(times)}, ITEMS)
    # float32 sums of up to 2,400 normal numbers, in any order.
    np.testing.assert_allclose(order["item"], expected, rtol=1e-4, atol=1e-3)
    touched = np.isin(np.arange(ITEMS + 1), id_BL[id_BL > 0])
    np.testing.assert_array_equal(order["times"], touched)
    if kind == "crowded on one device" and shape == (1, 8):
        assert rounds > 1  # or the test would not show what it is for
    if kind == "uniform":
        assert rounds == 1


@pytest.mark.parametrize("parts", [2, 8, 24, 256])
def test_popular_items_load_no_single_device(parts):
    size = tables.rows(10_000_000)
    for popular in (parts, 100 * parts):
        owner = np.asarray(tables.place(np.arange(1, popular + 1), size)) // (size // parts)
        count = np.bincount(owner, minlength=parts)
        assert count.max() <= 1.02 * popular / parts + 2


def test_places_are_distinct_and_fit_32_bits():
    size = tables.rows(100_000)
    assert len(set(np.asarray(tables.place(np.arange(size), size)))) == size
    last = np.int32(100_000_000)
    assert tables.place(last, tables.rows(int(last))) == tables.place(int(last), tables.rows(int(last)))
    assert tables.place(0, size) == 0


def by_hand(rows, gradient, moments, step, rate, b2):
    """float64 row updates, each row by itself."""
    g = gradient.astype(np.float64)
    if rows == "sgd":
        return -rate * g, ()
    if rows == "adagrad":
        s = moments[0] + (g**2).mean(-1)
        return -rate * g / (np.sqrt(s) + 1e-8)[:, None], (s,)
    m, v = 0.9 * moments[0] + 0.1 * g, b2 * moments[1] + (1 - b2) * g**2
    return -rate * m / (1 - 0.9**step) / (np.sqrt(v / (1 - b2**step)) + 1e-8), (m, v)


@pytest.mark.parametrize("rows", ["sgd", "adagrad", "lazy_adam"])
def test_row_optimizers_follow_their_formulas_and_leave_other_rows_alone(rows):
    config = OptimConfig(rows=rows, row_learning_rate=0.3, warmup_steps=0)
    optimizer = optim.row_optimizer(config, 10)
    rng = np.random.default_rng(0)
    table = rng.normal(size=(6, 4)).astype(np.float32)
    moments = optimizer.init({"item_VD": jnp.asarray(table)})["item_VD"]
    expected, kept = table.astype(np.float64), [np.zeros(leaf.shape) for leaf in moments.values()]
    found = (jnp.asarray(table), *moments.values())
    for step, touched in enumerate(([0, 3], [3, 5], [0, 3]), start=1):
        gradient = rng.normal(size=(3, 4)).astype(np.float32)
        row_Q = jnp.array([*touched, 99])  # past the end: ignored
        found = optimizer.change(jnp.int32(step - 1), *found, row_Q, jnp.asarray(gradient))
        delta, new = by_hand(rows, gradient[:2], [leaf[touched] for leaf in kept], step, 0.3, config.b2)
        expected[touched] += delta
        for leaf, value in zip(kept, new, strict=True):
            leaf[touched] = value
    np.testing.assert_allclose(found[0], expected, rtol=1e-5)
    np.testing.assert_array_equal(found[0][jnp.array([1, 2, 4])], table[[1, 2, 4]])


def test_moments_that_have_seen_more_updates_than_the_run_has_steps_are_corrected_for_those():
    config = OptimConfig(rows="lazy_adam", row_learning_rate=0.3, warmup_steps=4)
    optimizer = optim.row_optimizer(config, 10)
    rng = np.random.default_rng(0)
    table, gradient, first, second = (rng.normal(size=(2, 4)).astype(np.float32) for _ in range(4))
    beside = (jnp.asarray(first), jnp.square(second), jnp.arange(2), jnp.asarray(gradient))
    changed, *_ = optimizer.change(jnp.int32(1), jnp.asarray(table), *beside, count=jnp.int32(29))
    rate = 0.3 * 1 / 4  # of the schedule, which goes by the steps of the run
    delta, _ = by_hand("lazy_adam", gradient, (first, second.astype(np.float64) ** 2), 30, rate, config.b2)
    np.testing.assert_allclose(changed, table + delta, rtol=1e-5)


@pytest.mark.parametrize("rows", ["sgd", "adagrad", "lazy_adam"])
def test_a_change_of_all_rows_is_one_of_each(rows):
    optimizer = optim.row_optimizer(OptimConfig(rows=rows, row_learning_rate=0.3, warmup_steps=0), 10)
    rng = np.random.default_rng(0)
    table, gradient = (jnp.asarray(rng.normal(size=(6, 4)), jnp.float32) for _ in range(2))
    moments = optimizer.init({"item_VD": table})["item_VD"].values()
    each = optimizer.change(jnp.int32(2), table, *moments, jnp.arange(6), gradient)
    for one, other in zip(each, optimizer.change_all(jnp.int32(2), table, *moments, gradient), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)


CONFIG = Config(
    data=DataConfig(length=L, batch_size=B, negatives=2, shared_negatives=5),
    model=ModelConfig(width=8, heads=2, layers=1, dropout=0.1, output_attributes=True, tied=False),
    optim=OptimConfig(learning_rate=0.05, warmup_steps=2, rows="adagrad", row_learning_rate=0.2),
)
CATALOGUE = program.Catalogue(items=V - 1, stations=3, attributes=(3, 3))
LOSSES = {
    "bce": {},
    "hardest": {"hardest": 2},
    "in batch": {"name": "sampled_softmax", "in_batch": True, "log_q": "plain"},
    "contrastive": {"contrastive": 0.5},
    "softmax": {"name": "softmax"},
    "in batch, contrastive": {
        "name": "sampled_softmax",
        "in_batch": True,
        "log_q": "plain",
        "contrastive": 0.5,
    },
}
SMOKE = ("in batch, contrastive", (4, 2))


def train(config, shape, count=20):
    mesh = mesh_of(shape)
    config = dataclasses.replace(config, train=TrainConfig(shards=shape[1]))
    built = program.build(config, CATALOGUE, mesh, count)
    state, losses = built.init(), []
    attribute = built.layout.by_row(np.asarray(ATTRIBUTE_VA))
    attribute_VA = jax.device_put(attribute, built.attribute_VA.sharding)
    for k in range(count):
        batch = sharding.put_fields(make_batch(k % 7, shared=5), mesh)
        state, metrics = built.update(state, batch, attribute_VA)
        losses.append(float(metrics["loss"]))
    return losses, jax.tree.map(np.asarray, (state.params, built.layout.by_item(state.tables)))


@functools.cache
def alone(name, rows="adagrad"):
    return train(of(name, rows), (1, 1))


def of(name, rows="adagrad"):
    return dataclasses.replace(
        CONFIG, loss=LossConfig(**LOSSES[name]), optim=dataclasses.replace(CONFIG.optim, rows=rows)
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "shape"),
    [
        # Of losses those that ask for rows of other positions, two of them in one. training/test_loop.py has the first
        # one on (2, 4), and dense tables on (8, 1); the rest of the product where it is asked for.
        pytest.param(
            name, shape, marks=() if (name, shape) == SMOKE else pytest.mark.system, id=f"{name}-{shape}"
        )
        for name in LOSSES
        for shape in SHAPES[1:]
    ],
)
def test_any_mesh_trains_as_one_device_does(name, shape):
    one, (_, rows) = alone(name)
    losses, (_, others) = train(of(name), shape)
    np.testing.assert_allclose(losses, one, rtol=2e-4)  # float32 sums in another order over 20 steps
    for key, row in rows.items():
        np.testing.assert_allclose(others[key], row, rtol=5e-3, atol=5e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", rest_system(["in batch", "softmax"], {"in batch"}))
def test_sgd_on_touched_rows_is_sgd_on_all(name):
    """With SGD for rows the two paths are the same mathematics, given the same first rows."""
    config = of(name, "sgd")
    mesh = mesh_of((1, 8))
    built = program.build(dataclasses.replace(config, train=TrainConfig(shards=8)), CATALOGUE, mesh, 100)
    state = built.init()
    whole = tables.gathered(jax.tree.map(np.asarray, state.tables), V - 1)
    dense = program.build(
        dataclasses.replace(config, optim=dataclasses.replace(config.optim, rows="dense")),
        CATALOGUE,
        mesh_of((1, 1)),
        100,
    )
    params = {name: jnp.asarray(np.asarray(leaf)) for name, leaf in state.params.items()}
    batch = make_batch(0, shared=5)

    rate = config.optim.row_learning_rate * 0.5  # of the second step of the warm-up
    attribute_VA = jax.device_put(tables.spread(np.asarray(ATTRIBUTE_VA)), built.attribute_VA.sharding)
    state = state._replace(step=jax.device_put(jnp.int32(1), state.step.sharding))

    def loss(item_tables):
        key = jax.random.fold_in(np.asarray(state.key), 1)
        task, weights = (
            objective.Task(config, dense.model, V - 1),
            tables.Weights(params, item_tables, ATTRIBUTE_VA),
        )
        everything = objective.Catalogue(weights, dense.layout)
        return objective.loss(task, weights, batch, objective.index(batch), key, everything)

    gradients = jax.jit(jax.grad(loss))(jax.tree.map(jnp.asarray, whole))
    state, _ = built.update(state, sharding.put_fields(batch, mesh), attribute_VA)
    found = tables.gathered(jax.tree.map(np.asarray, state.tables), V - 1)
    for name, table in whole.items():
        expected = table - rate * np.asarray(gradients[name]) * (np.arange(V) > 0).reshape(
            -1, *[1] * (table.ndim - 1)
        )
        np.testing.assert_allclose(found[name], expected, rtol=1e-4, atol=1e-6)


def test_shards_that_do_not_divide_the_buckets_are_refused():
    with pytest.raises(UserError, match="--train.shards must divide 3072"):
        tables.check_shards(5)


@every_shape
@pytest.mark.parametrize("exclude", rest_slow([False, True], [True]))
def test_ranks_and_top_k_are_those_of_all_scores_in_one_place(shape, exclude):
    config = dataclasses.replace(CONFIG, train=TrainConfig(shards=shape[1]))
    built = program.build(config, CATALOGUE, mesh_of(shape))
    state, rng = built.init(), np.random.default_rng(1)
    noisy = {
        name: 0.3 * rng.normal(size=leaf.shape).astype(np.float32) for name, leaf in state.tables.items()
    }
    whole = tables.gathered(noisy, V - 1)
    # Items 4 and 5 share rows and attributes, so that they tie for every listener.
    attribute = np.array(ATTRIBUTE_VA)
    attribute[5] = attribute[4]
    for name, table in noisy.items():
        at = tables.place(np.array([4, 5]), built.layout.rows)
        table[at[1]] = whole[name][5] = whole[name][4]
    shared = {name: sharding.put(leaf, built.layout.mesh, "V") for name, leaf in noisy.items()}
    attribute_VA = sharding.put(tables.spread(attribute), built.layout.mesh, "VA")
    h_BD = rng.normal(size=(11, 8)).astype(np.float32)
    target_BC = rng.integers(0, V, (11, 6)).astype(np.int32)
    seen_BL = rng.integers(0, V, (11, 7)).astype(np.int32) * exclude
    by_item = {name: jnp.asarray(table) for name, table in whole.items()}
    weights = tables.Weights(state.params, by_item, jnp.asarray(attribute))

    @jax.jit
    def scored(weights, h_BD):
        row_VD, bias_V = scoring.catalogue_rows(built.model, weights)
        return h_BD @ row_VD.T + bias_V[None]

    score_BV = np.asarray(scored(weights, h_BD))
    rows = functools.partial(scoring.catalogue_rows, built.model)
    found = jax.jit(functools.partial(topk.ranked, built.layout, rows, k=25))(
        tables.Weights(state.params, shared, attribute_VA), topk.Examples(h_BD, target_BC, seen_BL)
    )
    found = topk.on_host(found, (target_BC[:, :2], target_BC[:, 2:]))
    expected = metrics.rank(score_BV, (target_BC,), k=25, seen_BL=seen_BL if exclude else None)
    np.testing.assert_array_equal(found.top_Bk, expected.top_Bk)
    np.testing.assert_array_equal(np.concatenate(found.targets, axis=1), expected.targets[0])
