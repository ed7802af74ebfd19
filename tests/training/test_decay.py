"""What weight decay draws to zero: every parameter of every encoder, by name."""

import fnmatch

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxneg import models
from jaxneg.config import ModelConfig, OptimConfig
from jaxneg.embeddings import optim, tables

pytestmark = pytest.mark.slow

KEPT = ("inputs.feedback", "inputs.feedback_gate")
INPUTS = {"inputs.station", "inputs.position", "inputs.attribute0", "inputs.output_attribute0", "head.kernel"}
ATTENTION = {
    f"encoder.block{n}.attention.{part}.kernel" for n in (0, 1) for part in ("query", "key", "value", "out")
}
FEED = {f"encoder.block{n}.feed_forward.{part}.kernel" for n in (0, 1) for part in ("up", "down")}
GATES = {f"encoder.block{n}.{part}_gate.kernel" for n in (0, 1) for part in ("attention", "feed_forward")}
DECAYS = {
    "sasrec": ATTENTION | FEED,
    "bert4rec": ATTENTION | FEED,
    "gru4rec": {f"encoder.gru{n}.{part}" for n in (0, 1) for part in ("input.kernel", "recurrent")},
    "caser": {"encoder.horizontal.rows", "encoder.out.kernel"},
    "ligr": ATTENTION | FEED | GATES | {f"encoder.block{n}.feed_forward.gate.kernel" for n in (0, 1)},
}
STAYS = {  # patterns of all others
    "sasrec": ("*.bias", "*_norm.scale"),
    "bert4rec": ("*.bias", "*_norm.scale", "inputs.mask"),
    "gru4rec": ("*.bias", "*.candidate_bias"),
    "caser": ("*.bias", "encoder.vertical.weight"),
    "ligr": ("*.bias", "*_norm.scale"),
}


def params_of(encoder):
    config = ModelConfig(
        encoder=encoder, width=8, heads=2, layers=2, output_attributes=True, tied=False, head="gelu"
    )
    model = models.build(config, length=5, stations=3, attributes=(4,), cloze=encoder == "bert4rec")
    item_tables = tables.init_tables(jax.random.key(1), config, 9)
    return model.init(jax.random.key(0)), item_tables


@pytest.mark.parametrize("encoder", DECAYS)
def test_every_parameter_decays_or_stays_as_listed(encoder):
    """A step without gradients moves what decays, by learning rate times decay, and nothing else."""
    trained = jax.tree.map(lambda leaf: leaf + np.float32(0.5), jax.device_get(params_of(encoder)))
    config = OptimConfig(learning_rate=0.1, warmup_steps=0, weight_decay=0.5)
    optimizer = optim.dense_optimizer(config, 10)

    @jax.jit
    def step(trained):
        none = jax.tree.map(jnp.zeros_like, trained)
        return optimizer.update(none, optimizer.init(trained), trained)[0]

    updates = jax.device_get(step(trained))
    moved = {name for part in updates for name, leaf in part.items() if np.abs(leaf).max() > 0}
    assert moved == DECAYS[encoder] | INPUTS | {"item_VD", "output_VD"}
    for part, values in zip(updates, trained, strict=True):
        for name in moved & set(part):
            np.testing.assert_allclose(part[name], -0.05 * values[name], rtol=1e-5)
    rest = {name for part in trained for name in part} - moved
    assert rest >= {*KEPT, "bias_V"}
    for name in rest - {*KEPT, "bias_V"}:
        assert any(fnmatch.fnmatch(name, pattern) for pattern in STAYS[encoder]), name


def test_gates_of_kinds_that_a_log_lacks_stay_where_they_start():
    """A gate that decays forgets that a rejection is the opposite of a like."""
    params, _ = params_of("sasrec")
    optimizer = optim.dense_optimizer(OptimConfig(learning_rate=0.01, warmup_steps=0, weight_decay=3.0), 500)
    start, state = params["inputs.feedback_gate"], optimizer.init(params)

    @jax.jit
    def step(params, state):
        updates, state = optimizer.update(jax.tree.map(jnp.zeros_like, params), state, params)
        return jax.tree.map(jnp.add, params, updates), state

    for _ in range(50):
        params, state = step(params, state)
    np.testing.assert_array_equal(params["inputs.feedback_gate"], start)
    assert np.abs(start).max() == 1.0
    assert np.abs(params["inputs.position"]).max() < 0.05
