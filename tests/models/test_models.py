import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxneg import models
from jaxneg.config import ModelConfig
from jaxneg.models import layers

L, D = 6, 8
CONFIG = ModelConfig(width=D, heads=2, layers=2, dropout=0.0)


def network(config=CONFIG, attributes=(4,), stations=3):
    model = models.build(config, length=L, stations=stations, attributes=attributes)
    return model, model.init(jax.random.key(0))


def inputs(seed=0):
    rng = np.random.default_rng(seed)
    return (
        jnp.asarray(rng.normal(size=(2, L, D)), jnp.float32),
        jnp.asarray(rng.integers(1, 6, (2, L)), jnp.int32),
        jnp.asarray(rng.integers(1, 4, (2, L)), jnp.int32),
        jnp.ones((2, L), bool),
    )


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_a_position_sees_nothing_after_it(norm):
    model, params = network(dataclasses.replace(CONFIG, norm=norm))
    row, feedback, station, mask = inputs()
    h_BLD = model.encode(params, row, feedback, station, mask, None)
    for t in range(L - 1):
        later = (
            row.at[:, t + 1 :].add(1.0),
            feedback.at[:, t + 1 :].set(2),
            station.at[:, t + 1 :].set(1),
        )
        changed = model.encode(params, *later, mask, None)
        np.testing.assert_array_equal(changed[:, : t + 1], h_BLD[:, : t + 1])
        assert not np.allclose(changed[:, t + 1], h_BLD[:, t + 1])


def test_each_input_matters_and_each_can_be_switched_off():
    row, feedback, station, mask = inputs()
    other = {"feedback": (row, 7 - feedback - 1, station), "station": (row, feedback, 4 - station)}
    for name, changed in other.items():
        model, params = network()
        assert f"inputs.{name}" in params
        before = model.encode(params, row, feedback, station, mask, None)
        assert not np.allclose(model.encode(params, *changed, mask, None), before)
        model, params = network(
            dataclasses.replace(CONFIG, **{name: "none" if name == "feedback" else False})
        )
        assert f"inputs.{name}" not in params
        before = model.encode(params, row, feedback, station, mask, None)
        np.testing.assert_array_equal(model.encode(params, *changed, mask, None), before)


def test_without_positions_one_layer_sees_the_past_as_a_set():
    model, params = network(dataclasses.replace(CONFIG, position=False, layers=1))
    row, feedback, station, mask = inputs()
    swapped = jnp.array([1, 0, 2, 3, 4, 5])
    before = model.encode(params, row, feedback, station, mask, None)[:, -1]
    after = model.encode(params, row[:, swapped], feedback[:, swapped], station[:, swapped], mask, None)[
        :, -1
    ]
    np.testing.assert_allclose(after, before, atol=1e-5)  # sums in another order


def test_attribute_rows_are_added_and_attribute_0_adds_none():
    model, params = network(dataclasses.replace(CONFIG, output_attributes=True), attributes=(4, 2))
    row = jnp.ones((3, D))
    attribute = jnp.array([[0, 0], [3, 0], [4, 2]])
    by_hand = np.ones((3, D))
    by_hand[1] += params["inputs.attribute0"][3]
    by_hand[2] += params["inputs.attribute0"][4] + params["inputs.attribute1"][2]
    np.testing.assert_allclose(model.item_rows(params, row, attribute), by_hand, rtol=1e-6)
    np.testing.assert_allclose(model.output_rows(params, row, attribute), by_hand, rtol=1e-6)
    model, params = network()
    np.testing.assert_array_equal(model.output_rows(params, row, attribute[:, :1]), row)


def test_attention_equals_a_slow_loop():
    config = dataclasses.replace(CONFIG, layers=1, norm="post")
    model, params = network(config)
    params = {name: np.asarray(leaf, np.float64) for name, leaf in params.items()}
    row, feedback, station, mask = inputs()
    scale = D**0.5
    gate = params["inputs.feedback_gate"][feedback]
    x = np.asarray(row, np.float64) * gate * scale + scale * (
        params["inputs.feedback"][feedback]
        + params["inputs.station"][station]
        + params["inputs.position"][None]
    )

    def linear(name, x):
        return x @ params[f"encoder.block0.{name}.kernel"] + params[f"encoder.block0.{name}.bias"]

    def norm(name, x):
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
        return x * params[f"encoder.block0.{name}.scale"] + params[f"encoder.block0.{name}.bias"]

    q, k, v = (linear(f"attention.{name}", x) for name in ("query", "key", "value"))
    y = np.zeros_like(x)
    for b in range(2):
        for head in (slice(0, 4), slice(4, 8)):
            for t in range(L):
                logits = [q[b, t, head] @ k[b, m, head] / 2.0 for m in range(t + 1)]  # sqrt(K) = 2
                weights = np.exp(logits) / np.exp(logits).sum()
                y[b, t, head] = sum(w * v[b, m, head] for m, w in enumerate(weights))
    x = norm("attention_norm", x + linear("attention.out", y))
    hidden = np.maximum(linear("feed_forward.up", x), 0.0)
    by_hand = norm("feed_forward_norm", x + linear("feed_forward.down", hidden))
    h_BLD = model.encode(
        {k: jnp.asarray(v, jnp.float32) for k, v in params.items()}, row, feedback, station, mask, None
    )
    np.testing.assert_allclose(h_BLD, by_hand, atol=2e-5)  # float32 against float64


def test_bfloat16_stays_near_float32():
    row, feedback, station, mask = inputs()
    model, params = network()
    low, _ = network(dataclasses.replace(CONFIG, dtype="bfloat16"))
    h_BLD = model.encode(params, row, feedback, station, mask, None)
    assert all(leaf.dtype == jnp.float32 for leaf in params.values())
    # 8 bits of mantissa through two blocks of unit-variance activations.
    np.testing.assert_allclose(low.encode(params, row, feedback, station, mask, None), h_BLD, atol=0.1)


def test_dropout_keeps_the_mean_and_the_rate_and_differs_by_key():
    x = jnp.ones((400, 500))
    rate = 0.3
    y = layers.dropout(x, rate, jax.random.key(1))
    kept = np.asarray(y > 0)
    # 200,000 draws: a standard deviation of 0.001; rows and columns of a few hundred draws: 0.025.
    assert abs(kept.mean() - 0.7) < 0.005
    assert np.abs(kept.mean(0) - 0.7).max() < 0.125
    assert np.abs(kept.mean(1) - 0.7).max() < 0.125
    np.testing.assert_allclose(y[kept], 1 / 0.7, rtol=1e-6)
    again = np.asarray(layers.dropout(x, rate, jax.random.key(2)) > 0)
    assert abs((kept & again).mean() - 0.49) < 0.01  # independent masks agree to keep in 0.7 squared
    for shift in (1, 2, 500):  # neighbours, along both axes, are independent
        flat = kept.ravel()
        assert abs((flat[shift:] & flat[:-shift]).mean() - 0.49) < 0.01
    assert layers.dropout(x, rate, None) is x


def test_dropout_is_the_same_for_any_sharding():
    x = jax.random.normal(jax.random.key(0), (16, 10))
    whole = jax.jit(lambda x: layers.dropout(x, 0.5, jax.random.key(3)))(x)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    placed = jax.device_put(x, jax.NamedSharding(mesh, jax.sharding.PartitionSpec("data")))
    np.testing.assert_array_equal(jax.jit(lambda x: layers.dropout(x, 0.5, jax.random.key(3)))(placed), whole)
