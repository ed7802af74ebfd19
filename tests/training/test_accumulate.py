"""A batch taken in parts updates as the whole batch does, however unevenly its targets fall into the parts."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxneg import config as configs
from jaxneg.batch import Form
from jaxneg.config import Config, DataConfig, LossConfig, ModelConfig, OptimConfig, UserError
from jaxneg.embeddings import sharding
from jaxneg.training import program

pytestmark = pytest.mark.slow

CATALOGUE = program.Catalogue(items=30, stations=3, attributes=(3,))
CONFIG = Config(
    data=DataConfig(length=5, batch_size=16),
    model=ModelConfig(width=8, layers=1, dropout=0.0),
    optim=OptimConfig(learning_rate=0.05, warmup_steps=0, weight_decay=0.1),
)
CASES = {
    "positives": CONFIG,
    "any target, packed": dataclasses.replace(
        CONFIG, data=dataclasses.replace(CONFIG.data, target="any", packed="always")
    ),
    "shared negatives and rejected targets": dataclasses.replace(
        CONFIG,
        data=dataclasses.replace(CONFIG.data, shared_negatives=6),
        loss=LossConfig(name="not_to_recommend"),
    ),
    "feedback alone": dataclasses.replace(CONFIG, loss=LossConfig(name="feedback")),
}


def form(config):
    return Form(config.data.batch_size, config.data.length, config.data.packed == "always")


def make_batch(config, seed=0):
    """A batch of the config's shapes, in which rows hold from no event to all; the first rows have no target."""
    rng, shapes = np.random.default_rng(seed), program.batch_shapes(config, form=form(config))
    seen_BL = (
        np.arange(config.data.length)
        < rng.integers(0, config.data.length + 1, config.data.batch_size)[:, None]
    )
    target_BL = rng.integers(1, 31, seen_BL.shape) * seen_BL * (np.arange(len(seen_BL)) > 4)[:, None]
    label_BL = rng.integers(-1, 2, seen_BL.shape) * (target_BL > 0)
    fields = {name: np.zeros(leaf.shape, leaf.dtype) for name, leaf in shapes._asdict().items()}
    fields |= {
        "item_BL": rng.integers(1, 31, seen_BL.shape) * seen_BL,
        "feedback_BL": rng.integers(1, 6, seen_BL.shape) * seen_BL,
        "target_BL": target_BL,
        "label_BL": label_BL,
        "negative_BLN": rng.integers(1, 31, (*seen_BL.shape, 1)) * (label_BL > 0)[..., None],
        "shared_S": rng.integers(1, 31, fields["shared_S"].shape),
    }
    if config.data.packed == "always":
        fields["segment_BL"] = seen_BL * (1 + (np.arange(config.data.length) > 1))
    return type(shapes)(
        **{name: jnp.asarray(leaf, getattr(shapes, name).dtype) for name, leaf in fields.items()}
    )


def updated(config, parts, devices=1, batch=None):
    """Metrics of a step, and the first moments after it, which are linear in its gradients."""
    config = dataclasses.replace(config, optim=dataclasses.replace(config.optim, accumulate=parts))
    built = program.build(config, CATALOGUE, sharding.make_mesh(devices), form=form(config))
    batch = sharding.put_fields(batch or make_batch(config), built.mesh)
    attribute_VA = jax.device_put(np.arange(31, dtype=np.int32)[:, None] % 4, built.attribute_VA.sharding)
    state, metrics = built.update(built.init(), batch, attribute_VA)
    return {name: float(value) for name, value in metrics.items()}, optax.tree.get(state.opt_state, "mu")


@pytest.mark.parametrize("case", CASES)
def test_a_batch_in_parts_gives_the_update_of_the_whole(case):
    (whole, expected), (parts, found) = (updated(CASES[case], parts) for parts in (1, 4))
    assert whole["loss"] > 0.1
    assert parts == pytest.approx(whole, rel=1e-5)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-7)


def test_parts_are_spread_over_the_devices():
    """Eight devices that take two parts of 16 rows each give what one device does in one."""
    (whole, expected), (parts, found) = updated(CONFIG, 1), updated(CONFIG, 2, devices=8)
    assert parts == pytest.approx(whole, rel=1e-5)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-7)


@pytest.mark.system
def test_rows_that_devices_share_are_changed_once_for_all_parts():
    """Looked up once for the whole batch; their gradients are summed over the parts."""
    config = dataclasses.replace(
        CASES["shared negatives and rejected targets"],
        optim=dataclasses.replace(CONFIG.optim, rows="sgd", weight_decay=0.0, clip=0.0),
        train=dataclasses.replace(CONFIG.train, shards=2),
    )

    def updated(parts):
        own = dataclasses.replace(config, optim=dataclasses.replace(config.optim, accumulate=parts))
        built = program.build(own, CATALOGUE, sharding.make_mesh(4, 2))
        attribute_VA = built.layout.by_row(np.arange(31, dtype=np.int32)[:, None] % 4)
        attribute_VA = sharding.put(attribute_VA, built.mesh, "VA")
        batch = sharding.put_fields(make_batch(config), built.mesh)
        first = built.init()
        before = {name: np.asarray(leaf) for name, leaf in first.tables.items()}
        state, metrics = built.update(first, batch, attribute_VA)
        return float(metrics["loss"]), {
            name: np.asarray(state.tables[name]) - before[name] for name in before
        }

    (whole, expected), (parts, found) = updated(1), updated(4)
    assert parts == pytest.approx(whole, rel=1e-5)
    for name, moved in expected.items():
        assert np.abs(moved).max() > 1e-4
        # Differences of float32 values near 0.1.
        np.testing.assert_allclose(found[name], moved, rtol=1e-3, atol=1e-7)


def test_a_batch_without_targets_moves_nothing_but_by_decay():
    batch = make_batch(CONFIG)
    none = batch._replace(
        target_BL=batch.target_BL * 0, label_BL=batch.label_BL * 0, negative_BLN=batch.negative_BLN * 0
    )
    metrics, found = updated(CONFIG, 4, batch=none)
    assert metrics["loss"] == 0.0
    assert all((leaf == 0.0).all() for leaf in jax.tree.leaves(found))


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--optim.accumulate", "3"], "--optim.accumulate must be a divisor of the batch size 128, got 3"),
        (["--optim.accumulate", "0"], "--optim.accumulate must be at least 1, got 0"),
        (
            ["--optim.accumulate", "2", "--loss.in-batch"],
            "--loss.in-batch takes negatives from the whole batch",
        ),
        (["--optim.accumulate", "2", "--loss.contrastive", "0.1"], "are means over other events"),
    ],
)
def test_parts_that_would_change_the_loss_are_refused_in_one_line(args, message):
    with pytest.raises(UserError, match=message) as error:
        configs.override(Config(), args)
    assert "\n" not in str(error.value)
