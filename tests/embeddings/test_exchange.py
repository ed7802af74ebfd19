"""What a TPU does by sorts where others move numbers one by one: the same bits, and no more of either than now."""

import collections
import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxneg.config import Config, DataConfig, LossConfig, ModelConfig, OptimConfig, TrainConfig
from jaxneg.embeddings import exchange, layouts, messages, sharding, tables
from jaxneg.training import program
from tests.embeddings.test_tables import IDS, ITEMS, mesh_of
from tests.training.test_steps import ATTRIBUTE_VA, V, make_batch

CONFIG = Config(
    data=DataConfig(length=20, batch_size=64, negatives=0, shared_negatives=32, random="log_uniform"),
    model=ModelConfig(width=128, layers=1, heads=2, attributes=False, item_bias="none"),
    loss=LossConfig(name="sampled_softmax", log_q="plain"),
    optim=OptimConfig(rows="adagrad"),
    train=TrainConfig(shards=8),
)
CATALOGUE = program.Catalogue(items=ITEMS, stations=3, attributes=())


@pytest.fixture
def as_on_a_tpu(monkeypatch):
    monkeypatch.setattr(exchange, "_sorts", lambda mesh: True)


def exchanged(shape, id_BL, few):
    """Rows of ids, tables after rows of ones were sent to them, and the rounds that it took."""
    layout = layouts.Sharded(mesh_of(shape), ITEMS)
    table = jnp.asarray(
        tables.spread(np.random.default_rng(5).normal(size=(ITEMS + 1, 3)).astype(np.float32))
    )

    def both(table, id_BL):
        found, (slot_BL,), route = layout.look({"item_VD": table}, [id_BL], few)
        row_BLD, vjp = jax.vjp(lambda item: tables.lookup(item, slot_BL), found["item_VD"])
        (gradient,) = vjp(1.0 + row_BLD)

        def change(part, row_Q, value_QD):
            return (part.at[row_Q].add(value_QD, mode="drop"),)

        sent = exchange.send(layout.mesh, route, gradient.row_KUX, [table], change)
        return row_BLD, slot_BL, *sent, route.rounds

    return jax.tree.map(np.asarray, jax.jit(both)(table, id_BL))


def test_sorts_give_the_bits_that_scatters_give(monkeypatch):
    id_BL = IDS["crowded on one device"](np.random.default_rng(3), (16, 150)).astype(np.int32)
    by_number = exchanged((2, 4), id_BL, 0)
    monkeypatch.setattr(exchange, "_sorts", lambda mesh: True)
    for one, other in zip(by_number, exchanged((2, 4), id_BL, 0), strict=True):
        np.testing.assert_array_equal(one, other)


def test_more_distinct_ids_than_said_take_more_rounds_and_no_harm():
    id_BL = IDS["uniform"](np.random.default_rng(3), (16, 150)).astype(np.int32)
    as_many, fewer = exchanged((1, 8), id_BL, 0), exchanged((1, 8), id_BL, 160)
    assert as_many[-1] == 1 < fewer[-1]
    np.testing.assert_array_equal(as_many[0], fewer[0])
    # float32 sums of a few numbers, in another order
    np.testing.assert_allclose(as_many[2], fewer[2], rtol=1e-5, atol=1e-5)


def test_keys_before_a_bound_are_counted():
    rng = np.random.default_rng(0)
    for rows in (1, 3):
        key = np.sort(rng.integers(0, 50, rows * messages.LANES).astype(np.uint32))
        bound = np.arange(52, dtype=np.uint32)
        found = messages.before(jnp.asarray(key.reshape(rows, -1)), jnp.asarray(bound))
        np.testing.assert_array_equal(found, np.searchsorted(key, bound, side="left"))


@pytest.mark.parametrize("bits", [1, 5, 19, 32])
def test_mirrored_rows_are_their_bits_from_the_other_end(bits):
    row = np.random.default_rng(0).integers(0, 1 << bits, 50, dtype=np.uint32)
    expected = [int(f"{one:0{bits}b}"[::-1], 2) for one in row]
    np.testing.assert_array_equal(messages.mirrored(jnp.asarray(row), bits), np.array(expected, np.uint32))


def operations(config):
    """What a step on eight devices does: sorts, messages to all, numbers gathered, numbers and rows scattered."""
    config = dataclasses.replace(config, train=TrainConfig(shards=8))
    built = program.build(config, CATALOGUE, sharding.make_mesh(8, 8))
    text = built.update.lower(built.state, built.batch, built.attribute_VA).as_text()
    found = collections.Counter(re.findall(r"stablehlo\.(sort|all_to_all)", text))
    for sides in re.findall(r'"stablehlo\.gather".*?slice_sizes = array<i64: ([\d, ]*)>', text):
        found["numbers gathered"] += set(sides.split(", ")) == {"1"}
    for numbers in re.findall(
        r'"stablehlo\.scatter".*?scatter_dimension_numbers = #stablehlo.scatter<(.*?)>', text
    ):
        found["rows scattered" if "update_window_dims" in numbers else "numbers scattered"] += 1
    return dict(found)


def test_a_step_on_shared_tables_does_no_more_than_it_did(as_on_a_tpu):
    """What a TPU's step costs beside its products; docs/guide/tpu.md says what each is for."""
    found = operations(CONFIG)
    assert found["sort"] == 5  # two for slots, one for distinct ids, and two where rows are summed
    assert found["all_to_all"] == 4  # ids and rows, there and back
    assert found["numbers gathered"] == 1 and found["numbers scattered"] == 1  # a row's sum of squares
    # gradients of items, targets and shared ones; two tables of feedback, one of stations; sums; the table
    assert found["rows scattered"] == 8


def test_scatters_by_number_would_be_seen():
    # another config: programs are kept by theirs
    other = dataclasses.replace(CONFIG, data=dataclasses.replace(CONFIG.data, length=19))
    assert operations(other)["numbers scattered"] == 4


@pytest.mark.slow
def test_a_step_as_on_a_tpu_is_the_step(monkeypatch):
    """Sorts, and rows changed as many at a time as there are as a rule, over three steps."""
    small = dataclasses.replace(
        CONFIG,
        data=dataclasses.replace(CONFIG.data, length=5, batch_size=16, shared_negatives=5),
        model=dataclasses.replace(CONFIG.model, width=8, dropout=0.1),
    )
    catalogue = program.Catalogue(items=V - 1, stations=3, attributes=(3, 3))
    config = dataclasses.replace(small, train=TrainConfig(shards=4))

    def trained():
        # not the one that tests keep by its config
        built = program.build.__wrapped__(config, catalogue, mesh_of((2, 4)))
        state, attribute = built.init(), built.layout.by_row(np.asarray(ATTRIBUTE_VA))
        attribute_VA = jax.device_put(attribute, built.attribute_VA.sharding)
        for seed in range(3):
            batch = make_batch(seed, negatives=0, shared=5)
            state, metrics = built.update(state, sharding.put_fields(batch, built.mesh), attribute_VA)
        return jax.tree.map(np.asarray, (metrics["loss"], state.params, built.layout.by_item(state.tables)))

    expected = trained()
    monkeypatch.setattr(exchange, "_sorts", lambda mesh: True)
    for found, other in zip(jax.tree.leaves(trained()), jax.tree.leaves(expected), strict=True):
        # float32 sums in another order, over three steps
        np.testing.assert_allclose(found, other, rtol=1e-4, atol=1e-5)
