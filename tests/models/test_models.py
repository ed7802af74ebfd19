import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxneg import models
from jaxneg.batch import FEEDBACK, MASK
from jaxneg.config import ModelConfig
from jaxneg.models import layers

L, D = 6, 8
CONFIG = ModelConfig(width=D, heads=2, layers=2, dropout=0.0)


def network(config=CONFIG, attributes=(4,), stations=3, cloze=False):
    model = models.build(config, length=L, stations=stations, attributes=attributes, cloze=cloze)
    return model._replace(encode=jax.jit(model.encode)), model.init(jax.random.key(0))


def inputs(seed=0):
    rng = np.random.default_rng(seed)
    return (
        jnp.asarray(rng.normal(size=(2, L, D)), jnp.float32),
        jnp.asarray(rng.integers(1, 6, (2, L)), jnp.int32),
        jnp.asarray(rng.integers(1, 4, (2, L)), jnp.int32),
        jnp.ones((2, L), bool),
    )


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


@pytest.mark.parametrize("encoder", ["sasrec", "bert4rec"])
def test_a_gelu_head_is_gelu_of_a_linear_map_of_any_encoders_states(encoder):
    config = dataclasses.replace(CONFIG, encoder=encoder)
    model, params = network(config)
    headed, more = network(dataclasses.replace(config, head="gelu"))
    assert set(more) - set(params) == {"head.kernel", "head.bias"}
    for name, leaf in params.items():
        np.testing.assert_array_equal(more[name], leaf)  # the head draws after all else
    more["head.bias"] = jnp.linspace(-1.0, 1.0, D)
    x = np.asarray(model.encode(params, *inputs(), None), np.float64)
    z = x @ np.asarray(more["head.kernel"], np.float64) + np.asarray(more["head.bias"], np.float64)
    by_hand = 0.5 * z * (1.0 + np.vectorize(math.erf)(z / math.sqrt(2.0)))
    # float32 against float64; the tanh approximation of GELU would be 5e-4 off.
    np.testing.assert_allclose(headed.encode(more, *inputs(), None), by_hand, atol=2e-5)


def test_cloze_adds_a_position_and_a_mask_and_nothing_else():
    model, params = network()
    cloze, more = network(cloze=True)
    assert (model.cloze, cloze.cloze) == (False, True)
    assert set(more) - set(params) == {"inputs.mask"}
    shapes = {
        name: more[name].shape
        for name in more
        if name not in params or more[name].shape != params[name].shape
    }
    assert shapes == {"inputs.mask": (D,), "inputs.position": (L + 1, D)}
    assert more["inputs.feedback"].shape == (len(FEEDBACK), D)
    assert 0.005 < float(more["inputs.mask"].std()) < 0.05  # 8 draws of standard deviation 0.02
    row, feedback, station, mask = inputs()
    h_BLD = model.encode(
        {name: more[name] for name in params} | {"inputs.position": more["inputs.position"][:L]},
        row,
        feedback,
        station,
        mask,
        None,
    )
    # Where nothing is hidden, they are the same model.
    np.testing.assert_allclose(cloze.encode(more, row, feedback, station, mask, None), h_BLD, rtol=1e-6)


@pytest.mark.parametrize(
    "encoder, feedback_input",
    [
        ("bert4rec", "gate"),
        *(pytest.param("sasrec", name, marks=pytest.mark.slow) for name in ("gate", "add", "none")),
    ],
)
def test_a_hidden_event_shows_station_and_position_only(encoder, feedback_input):
    model, params = network(dataclasses.replace(CONFIG, encoder=encoder, feedback=feedback_input), cloze=True)
    row, feedback, station, mask = (jnp.concatenate([a, a[:, :1]], 1) for a in inputs())  # L + 1 positions
    hidden = jnp.zeros((2, L + 1), bool).at[0, 2].set(True).at[1, L].set(True)
    feedback = jnp.where(hidden, MASK, jnp.minimum(feedback, 4))
    h_BLD = model.encode(params, row, feedback, station, mask, None)

    def encode(params=params, row=row, station=station):
        return model.encode(params, row, feedback, station, mask, None)

    def moved(changed):
        return (np.abs(changed - h_BLD).max((1, 2)) > 1e-5).tolist()

    # Nothing of its row, nor of the feedback tables: the first line serves padding, which is not among these events,
    # and the last is where an index too large ends up.
    np.testing.assert_array_equal(encode(row=jnp.where(hidden[..., None], 1e3, row)), h_BLD)
    tables = {
        name: leaf.at[0].set(7.0).at[-1].set(7.0) for name, leaf in params.items() if "feedback" in name
    }
    tables = {name: leaf for name, leaf in tables.items() if name.startswith("inputs.")}
    assert len(tables) == {"none": 0, "add": 1, "gate": 2}[feedback_input]
    np.testing.assert_array_equal(encode(params | tables), h_BLD)
    gradient = jax.grad(lambda row: (encode(row=row) ** 2).sum())(row)
    assert (np.abs(gradient).max(-1) == 0.0)[np.asarray(hidden)].all()
    assert (np.abs(gradient).max(-1) > 0.0)[:, 1].all()
    # But its station, its position and the learned vector. The shift is no constant, which a layer norm takes out.
    shift_D = jnp.linspace(-1.0, 1.0, D)
    assert moved(encode(station=jnp.where(hidden, station % 3 + 1, station))) == [True, True]
    assert moved(encode(params | {"inputs.mask": params["inputs.mask"] + shift_D})) == [True, True]
    position = params["inputs.position"].at[L].add(shift_D)
    assert moved(encode(params | {"inputs.position": position})) == [True, True]


def test_a_hidden_place_is_the_mask_with_station_and_position_by_hand():
    layer = models.inputs.Inputs(
        CONFIG,
        length=L,
        stations=3,
        attributes=(),
        cloze=True,
        rngs=models.nnx.Rngs(params=jax.random.key(0)),
    )
    row, feedback, station, _ = inputs()
    x_BLD = layer(row, feedback.at[1, 4].set(MASK), station, None)
    by_hand = (
        layer.mask.get_value() + layer.station.get_value()[station[1, 4]] + layer.position.get_value()[4]
    )
    np.testing.assert_allclose(x_BLD[1, 4], by_hand * D**0.5, rtol=1e-6)
    unhidden = layer(row, feedback, station, None)
    np.testing.assert_array_equal(x_BLD.at[1, 4].set(0.0), unhidden.at[1, 4].set(0.0))


def test_padding_may_hold_garbage_in_cloze_training():
    """Padding, hidden and real places side by side, under the true mask: only padding is blind."""
    model, params = network(dataclasses.replace(CONFIG, encoder="bert4rec"), cloze=True)
    row, feedback, station, _ = inputs()
    feedback = feedback.at[:, 1].set(MASK).at[:, 4:].set(0)
    mask = jnp.arange(L)[None] < jnp.array([4, 4])[:, None]
    h_BLD = model.encode(params, row, feedback, station, mask, None)
    changed = model.encode(params, row.at[:, 4:].set(1e3), feedback, station, mask, None)
    np.testing.assert_array_equal(changed[:, :4], h_BLD[:, :4])


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
