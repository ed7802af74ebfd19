"""Layers against numpy in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxneg.models import layers


def norm(x, scale, bias):
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6) * scale + bias


@pytest.mark.parametrize("backend", ["cpu", "gpu", "tpu"])  # what the mean is taken by
@pytest.mark.parametrize("offset", [0.0, 30.0])
def test_layer_norm_and_its_gradients(monkeypatch, backend, offset):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    rng = np.random.default_rng(0)
    x, dy = rng.normal(size=(3, 5, 8)) + offset, rng.normal(size=(3, 5, 8))
    scale, bias = rng.normal(size=8), rng.normal(size=8)
    inputs = [jnp.asarray(each, jnp.float32) for each in (x, scale, bias)]
    y, pull = jax.vjp(layers.layer_norm, *inputs)
    # Float32 holds an offset of 30 to 2e-6, which centring leaves as it is.
    tolerance = 1e-5 if offset else 2e-6
    np.testing.assert_allclose(y, norm(x, scale, bias), rtol=tolerance, atol=tolerance)
    module = layers.LayerNorm(8, rngs=nnx.Rngs(0))
    module.scale.set_value(inputs[1]), module.bias.set_value(inputs[2])
    np.testing.assert_array_equal(module(inputs[0]), y)
    for found, (n, each) in zip(pull(jnp.asarray(dy, jnp.float32)), enumerate((x, scale, bias)), strict=True):
        expected = np.zeros(each.shape)
        for at in np.ndindex(each.shape):
            moved = [[value.copy() for value in (x, scale, bias)] for _ in range(2)]
            moved[0][n][at] += 1e-6
            moved[1][n][at] -= 1e-6
            up, down = (norm(*value) for value in moved)
            expected[at] = (dy * (up - down)).sum() / 2e-6
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=2e-5)


def test_rows_of_a_small_table_are_its_rows_by_products_too():
    table = jax.random.normal(jax.random.key(0), (6, 8))
    code = jax.random.randint(jax.random.key(1), (3, 50), 0, 6)
    dy = jax.random.normal(jax.random.key(2), (3, 50, 8))

    def run(kind):
        with layers.traced_for(kind):
            y, pull = jax.vjp(lambda table: layers.rows(table, code), table)
            return y, pull(dy)[0]

    (y, gradient), (other, others) = run("cpu"), run("tpu")
    np.testing.assert_array_equal(other, y)
    # sums of about 25 numbers near 1 in float32, in another order
    np.testing.assert_allclose(others, gradient, atol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_layers_joined_are_the_layers(dtype):
    parts = [layers.Linear(6, 4, dtype=jnp.dtype(dtype), rngs=nnx.Rngs(seed)) for seed in range(3)]
    for n, part in enumerate(parts):
        part.bias.set_value(jnp.arange(4.0) + n)
    x = jax.random.normal(jax.random.key(0), (2, 3, 6))
    for part, found in zip(parts, layers.joint(parts, x), strict=True):
        expected = np.asarray(x, np.float64) @ np.asarray(part.kernel[...], np.float64)
        expected += np.asarray(part.bias[...])
        # A product of six terms, rounded to float32, or to the 8 bits of bfloat16.
        tolerance = 1e-6 if dtype == "float32" else 4e-2
        np.testing.assert_allclose(found.astype(jnp.float32), expected, rtol=tolerance, atol=tolerance)
        np.testing.assert_array_equal(found, part(x))
