"""On a GPU: the step is that of a CPU, bfloat16 trains, and cuDNN's attention is plain attention. Skipped without one.

JAX_PLATFORMS=cuda,cpu python -m pytest -m gpu
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxneg.batch import Form
from jaxneg.config import Config, DataConfig, ModelConfig, OptimConfig
from jaxneg.embeddings import sharding
from jaxneg.models import attention
from jaxneg.training import program

pytestmark = pytest.mark.gpu

CATALOGUE = program.Catalogue(items=500, stations=3, attributes=())
CONFIG = Config(
    data=DataConfig(length=16, batch_size=32),
    model=ModelConfig(width=64, heads=2, layers=2, dropout=0.2),
    optim=OptimConfig(learning_rate=0.01, warmup_steps=0),
)


def form(config):
    return Form(config.data.batch_size, config.data.length, config.data.packed == "always")


def make_batch(config, seed=0):
    """Full rows, of two sequences each where packed; each item has one target, which can be learned."""
    rng, shapes = np.random.default_rng(seed), program.batch_shapes(config, form=form(config))
    B, L = config.data.batch_size, config.data.length
    item_BL = rng.integers(1, 501, (B, L))
    fields = {name: np.zeros(leaf.shape, leaf.dtype) for name, leaf in shapes._asdict().items()}
    fields |= {
        "item_BL": item_BL,
        "feedback_BL": np.full((B, L), 4),
        "target_BL": item_BL % 500 + 1,
        "label_BL": np.ones((B, L)),
        "negative_BLN": rng.integers(1, 501, (B, L, 1)),
    }
    if config.data.packed == "always":
        fields["segment_BL"] = np.broadcast_to(1 + (np.arange(L) >= L // 3), (B, L))
    return type(shapes)(**{name: leaf.astype(getattr(shapes, name).dtype) for name, leaf in fields.items()})


def losses(config, mesh, steps):
    built = program.build(config, CATALOGUE, mesh, form=form(config))
    state, found = built.init(), []
    attribute_VA = jax.device_put(np.zeros((501, 0), np.int32), built.attribute_VA.sharding)
    for step in range(steps):
        batch = sharding.put_fields(make_batch(config, step), mesh)
        state, metrics = built.update(state, batch, attribute_VA)
        found.append(float(metrics["loss"]))
    return np.array(found)


def changed(packed=False, **model):
    data = dataclasses.replace(CONFIG.data, packed="always" if packed else "never")
    return dataclasses.replace(CONFIG, data=data, model=dataclasses.replace(CONFIG.model, **model))


@pytest.mark.parametrize("encoder", ["sasrec", "ligr", "gru4rec"])
def test_steps_on_the_gpu_are_those_of_the_cpu(encoder):
    config = changed(encoder=encoder)
    cpu = sharding.mesh_of(jax.devices("cpu")[:1])
    with jax.default_matmul_precision("highest"):  # else products of float32 take 19 bits of it
        on_gpu = losses(config, sharding.make_mesh(1), 5)
        with jax.default_device(jax.devices("cpu")[0]):
            on_cpu = losses(config, cpu, 5)
    # Dropout draws the same masks on both; sums run in another order.
    np.testing.assert_allclose(on_gpu, on_cpu, rtol=1e-3)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("attention", ["plain", "fused"])
def test_bfloat16_trains(attention, packed):
    config = changed(packed, attention=attention, dtype="bfloat16")
    found = losses(config, sharding.make_mesh(1), 150)
    assert np.isfinite(found).all()
    assert found[-10:].mean() < 0.7 * found[:10].mean()


@pytest.mark.parametrize("masked", [False, True])
def test_attention_of_cudnn_is_plain_attention(masked):
    q, k, v = (jax.random.normal(jax.random.key(n), (4, 64, 2, 32), jnp.bfloat16) for n in range(3))
    assert attention.fused_implementation(q, masked=masked) == "cudnn"
    segment_BL = jnp.broadcast_to(1 + (jnp.arange(64) >= 20), (4, 64)) if masked else None

    def fused(q, k, v):
        return attention.fused_attention(q, k, v, segment_BL).astype(jnp.float32)

    def plain(q, k, v):
        return attention.attention(*(x.astype(jnp.float32) for x in (q, k, v)), segment_BL)

    with jax.default_matmul_precision("highest"):
        for a, b in zip(
            (fused(q, k, v), *gradients(fused, q, k, v)),
            (plain(q, k, v), *gradients(plain, q, k, v)),
            strict=True,
        ):
            # A bfloat16 has 8 bits, and numbers here are near 1.
            np.testing.assert_allclose(a.astype(jnp.float32), b.astype(jnp.float32), atol=0.05)


def gradients(attention, q, k, v):
    return jax.grad(lambda *x: (attention(*x) ** 2).sum() / 64, argnums=(0, 1, 2))(q, k, v)


def test_the_step_is_compiled_for_cudnn_where_it_may_be():
    built = program.build(changed(attention="fused", dtype="bfloat16"), CATALOGUE, sharding.make_mesh(1))
    text = built.update.lower(built.state, built.batch, built.attribute_VA).as_text()
    assert "cudnn" in text
