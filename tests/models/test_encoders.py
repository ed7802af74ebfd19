"""Every encoder behind the one interface: what they share as properties, what each computes against slow numpy."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxneg import models
from jaxneg.config import ModelConfig, fields, parts
from jaxneg.models import caser, layers

B, L, D = 3, 6, 8
WINDOW = 4  # below L, so that early windows reach before the first event and late ones forget it
CONFIG = ModelConfig(width=D, heads=2, layers=2, feed_forward=12, dropout=0.0, window=WINDOW)
CAUSAL = [name for name in parts.ENCODERS if not parts.ENCODERS[name].bidirectional]
VARIANTS = [(name, "pre") for name in parts.ENCODERS] + [("sasrec", "post"), ("bert4rec", "post")]


def variants(quick):
    """All variants, those of encoders that are not named, and of norms after a block, marked slow."""
    return pytest.mark.parametrize(
        "encoder, norm",
        [
            pytest.param(*v, marks=[] if v[0] in quick and v[1] == "pre" else pytest.mark.slow)
            for v in VARIANTS
        ],
    )


# What an encoder computes and what it may not see is asked of each every time, other properties of two.
each, every = variants(tuple(parts.ENCODERS)), variants(("sasrec", "gru4rec"))


@functools.cache
def network(encoder, norm="pre", **options):
    """A model and its parameters, biases and scales moved off 0 and 1 so that none can be left out unseen."""
    chosen = dataclasses.replace(CONFIG, encoder=encoder, norm=norm, **options)
    model = models.build(chosen, length=L, stations=3, attributes=())
    rng = np.random.default_rng(1)
    params = {
        name: leaf + jnp.asarray(0.2 * rng.normal(size=leaf.shape), jnp.float32) if leaf.ndim == 1 else leaf
        for name, leaf in model.init(jax.random.key(0)).items()
    }
    # Without jit the operations compiled for one encoder serve all. Only a scan would be compiled anew at each call.
    return jax.jit(model.encode) if encoder == "gru4rec" else model.encode, params


def hidden(encode, params, row, feedback, station, mask, key=None):
    """Hidden states as numpy, of numpy events, whose every cut of another shape would be compiled in jax."""
    return np.asarray(encode(params, *(jnp.asarray(a) for a in (row, feedback, station, mask)), key))


def events(seed=0, length=L):
    rng = np.random.default_rng(seed)
    return (
        rng.normal(size=(B, length, D)).astype(np.float32),
        rng.integers(1, 6, (B, length), np.int32),
        rng.integers(1, 4, (B, length), np.int32),
        np.ones((B, length), bool),
    )


def test_all_encoders_of_the_config_exist():
    for name, row in parts.ENCODERS.items():
        assert ModelConfig(encoder=name) == fields.settled(ModelConfig(encoder=name))
        assert issubclass(parts.made(row.make), models.nnx.Module)


@every
@pytest.mark.parametrize(
    ("depth", "dtype"), [pytest.param(1, "float32", marks=pytest.mark.slow), (3, "bfloat16")]
)
def test_shapes_and_dtypes(encoder, norm, depth, dtype):
    model = models.build(
        dataclasses.replace(CONFIG, encoder=encoder, norm=norm, dtype=dtype, layers=depth),
        length=L,
        stations=3,
        attributes=(),
    )
    params = jax.eval_shape(model.init, jax.random.key(0))
    assert all(leaf.dtype == jnp.float32 for leaf in params.values())
    h_BLD = jax.eval_shape(model.encode, params, *events(), jax.random.key(1))
    assert (h_BLD.shape, h_BLD.dtype) == ((B, L, D), jnp.float32)
    shorter = jax.eval_shape(model.encode, params, *events(length=2), None)
    assert shorter.shape == (B, 2, D)


@each
def test_a_position_sees_nothing_after_it_unless_bidirectional(encoder, norm):
    encode, params = network(encoder, norm)
    row, feedback, station, mask = events()
    h_BLD = hidden(encode, params, row, feedback, station, mask)
    for t in range(L - 1):
        later = np.arange(L)[None] > t
        other = (
            np.where(later[..., None], row[::-1], row),
            np.where(later, feedback % 5 + 1, feedback),
            np.where(later, station % 3 + 1, station),
        )
        moved_BL = np.abs(hidden(encode, params, *other, mask) - h_BLD).max(-1)
        assert (moved_BL[:, t + 1 :] > 1e-4).all()  # far above the rounding of float32 values near 1
        if encoder in CAUSAL:
            assert (moved_BL[:, : t + 1] == 0.0).all()
        else:
            assert (moved_BL[:, : t + 1] > 1e-4).all()


@every
def test_one_position_of_each_row_is_that_of_all(encoder, norm):
    """Whoever asks for one hidden state a row, as serving does, gets that of the whole row."""
    encode, params = network(encoder, norm)
    chosen = dataclasses.replace(CONFIG, encoder=encoder, norm=norm)
    encode_one = models.build(chosen, length=L, stations=3, attributes=()).encode_one
    row, feedback, station, _ = events(4)
    mask = np.arange(L) < np.array([[6], [4], [5]])
    seen = [jnp.asarray(part) for part in (row, feedback * mask, station * mask, mask)]
    whole = np.asarray(encode(params, *seen, None))
    for at in ([0, 3, 4], [5, 1, 0]):
        one = jax.jit(encode_one)(params, *seen, jnp.asarray(at, jnp.int32))
        assert one.shape == (B, 1, D) and one.dtype == whole.dtype
        # The same float32 terms, some summed in another order.
        np.testing.assert_allclose(one[:, 0], whole[np.arange(B), at], rtol=1e-5, atol=1e-6)


@every
def test_the_first_event_reaches_every_position_that_it_should(encoder, norm):
    encode, params = network(encoder, norm)
    row, feedback, station, mask = events()
    h_BLD = hidden(encode, params, row, feedback, station, mask)
    other = np.where(np.arange(L)[:, None] == 0, row[::-1], row)
    moved_L = np.abs(hidden(encode, params, other, feedback, station, mask) - h_BLD).max((0, 2))
    reach = WINDOW if encoder == "caser" else L
    assert (moved_L[:reach] > 1e-5).all()
    assert (moved_L[reach:] == 0.0).all()


@each
def test_blind_to_what_stands_in_padding_and_to_how_much_there_is(encoder, norm):
    encode, params = network(encoder, norm)
    row, feedback, station, _ = events()
    mask = np.arange(L)[None] < np.array([4, 1, 3])[:, None]
    h_BLD = hidden(encode, params, row, feedback, station, mask)
    garbage = np.where(mask[..., None], row, 1e3), np.where(mask, feedback, 3), np.where(mask, station, 2)
    changed = hidden(
        encode,
        params,
        *(a.astype(b.dtype) for a, b in zip(garbage, (row, feedback, station), strict=True)),
        mask,
    )
    np.testing.assert_array_equal(changed[mask], h_BLD[mask])
    shorter = hidden(encode, params, row[:, :4], feedback[:, :4], station[:, :4], mask[:, :4])
    # Products of other shapes are summed in another order.
    np.testing.assert_allclose(shorter[mask[:, :4]], h_BLD[mask], atol=1e-5)


@every
def test_fully_padded_rows_stay_finite_and_so_do_gradients(encoder, norm):
    """In bfloat16, where it is hardest."""
    encode, params = network(encoder, norm, dtype="bfloat16")
    kept = [a * (np.arange(B) == 0).reshape(B, *[1] * (a.ndim - 1)) for a in events()]
    row, *others = (jnp.asarray(a.astype(b.dtype)) for a, b in zip(kept, events(), strict=True))

    def total(params, row):
        h_BLD = encode(params, row, *others, None)
        return (h_BLD**2).sum(), h_BLD

    gradients, h_BLD = jax.jit(jax.grad(total, argnums=(0, 1), has_aux=True))(params, row)
    assert np.isfinite(h_BLD).all()
    assert {name for name, leaf in gradients[0].items() if not np.isfinite(leaf).all()} == set()
    assert np.isfinite(gradients[1]).all()


@every
def test_every_parameter_learns(encoder, norm):
    encode, params = network(encoder, norm, head="gelu")
    inputs = [jnp.asarray(a) for a in events()]
    weight_BLD = jnp.asarray(np.random.default_rng(3).normal(size=(B, L, D)), jnp.float32)
    gradients = jax.jit(jax.grad(lambda params: (encode(params, *inputs, None) * weight_BLD).sum()))(params)
    largest = {name: np.abs(leaf).max() for name, leaf in gradients.items()}
    # A key bias adds one number to all of a query's logits, which softmax takes out again.
    unused = {name for name in largest if name.endswith("attention.key.bias")}
    assert all(largest[name] < 1e-5 for name in unused)
    assert {name: size for name, size in largest.items() if size < 1e-3 and name not in unused} == {}


@every
def test_each_layer_has_parameters_of_its_own(encoder, norm):
    def size(depth):
        chosen = dataclasses.replace(CONFIG, encoder=encoder, norm=norm, layers=depth)
        model = models.build(chosen, length=L, stations=3, attributes=())
        return sum(leaf.size for leaf in jax.eval_shape(model.init, jax.random.key(0)).values())

    added = size(2) - size(1)
    assert size(3) - size(2) == added
    assert added == 0 if encoder == "caser" else added > 0  # Caser has one layer


@every
def test_dropout_needs_a_key_and_follows_it(encoder, norm):
    encode, params = network(encoder, norm)
    dropping, _ = network(encoder, norm, dropout=0.5)
    inputs = events()
    h_BLD = hidden(encode, params, *inputs)
    np.testing.assert_array_equal(hidden(dropping, params, *inputs), h_BLD)
    # Up to rounding: in training queries, keys and values are one product.
    np.testing.assert_allclose(hidden(encode, params, *inputs, jax.random.key(1)), h_BLD, rtol=0, atol=1e-5)
    first = hidden(dropping, params, *inputs, jax.random.key(1))
    np.testing.assert_array_equal(hidden(dropping, params, *inputs, jax.random.key(1)), first)
    assert not np.allclose(hidden(dropping, params, *inputs, jax.random.key(2)), first)
    assert not np.allclose(first, h_BLD)


@pytest.mark.parametrize("encoder", list(parts.ENCODERS))
def test_an_encoder_drops_inside_too(encoder):
    """Dropout beyond that of the inputs, which all encoders share."""
    chosen = dataclasses.replace(CONFIG, encoder=encoder, dropout=0.5)
    module = parts.made(parts.ENCODERS[encoder].make)(chosen, rngs=models.nnx.Rngs(params=jax.random.key(0)))
    row, *_, mask = events()
    x_BLD, mask_BL = jnp.asarray(row), jnp.asarray(mask)
    assert not np.allclose(module(x_BLD, mask_BL, jax.random.key(1)), module(x_BLD, mask_BL, None))


@every
def test_bfloat16_stays_near_float32(encoder, norm):
    encode, params = network(encoder, norm)
    low, _ = network(encoder, norm, dtype="bfloat16")
    h_BLD = hidden(encode, params, *events())
    difference = hidden(low, params, *events()) - h_BLD
    # 8 bits of mantissa, a few roundings deep, relative to the spread of the hidden states; and not all float32.
    assert 0 < np.abs(difference).max() < 0.1 * max(h_BLD.std(), 1.0)


# Each encoder against its equations, written out with loops in float64.


class Slow:
    """Parameters under a prefix as float64, and the layers that the oracles share."""

    def __init__(self, params, prefix="encoder."):
        self.params = {name: np.asarray(leaf, np.float64) for name, leaf in params.items()}
        self.prefix = prefix

    def __getitem__(self, name):
        return self.params[self.prefix + name]

    def linear(self, name, x):
        bias = self.params.get(f"{self.prefix}{name}.bias", 0.0)
        return x @ self[f"{name}.kernel"] + bias

    def norm(self, name, x):
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
        return x * self[f"{name}.scale"] + self[f"{name}.bias"]

    def attention(self, name, x, seen):
        """``seen(b, t)``: the positions that position t of sequence b attends to."""
        q, k, v = (self.linear(f"{name}.{part}", x) for part in ("query", "key", "value"))
        y = np.zeros_like(x)
        for b in range(len(x)):
            for head in (slice(0, D // 2), slice(D // 2, D)):
                for t in range(x.shape[1]):
                    logits = [q[b, t, head] @ k[b, m, head] / (D / 2) ** 0.5 for m in seen(b, t)]
                    weights = np.exp(logits) / np.exp(logits).sum()
                    y[b, t, head] = sum(w * v[b, m, head] for w, m in zip(weights, seen(b, t), strict=True))
        return self.linear(f"{name}.out", y)


def sigmoid(x):
    return 1.0 / (1.0 + np.exp(-x))


def embedded(params, row, feedback, station):
    """What the encoder gets, from the definition of the inputs."""
    slow = Slow(params, "inputs.")
    rows = np.asarray(row, np.float64) * slow["feedback_gate"][feedback]
    rows = (
        rows + slow["feedback"][feedback] + slow["station"][station] + slow["position"][None, : row.shape[1]]
    )
    return rows * D**0.5


def slow_transformer(params, x, seen, norm):
    for n in range(CONFIG.layers):
        slow = Slow(params, f"encoder.block{n}.")

        def attend(x, slow=slow):
            return slow.attention("attention", x, seen)

        def feed(x, slow=slow):
            return slow.linear("feed_forward.down", np.maximum(slow.linear("feed_forward.up", x), 0.0))

        for name, part in (("attention_norm", attend), ("feed_forward_norm", feed)):
            x = x + part(slow.norm(name, x)) if norm == "pre" else slow.norm(name, x + part(x))
    return Slow(params).norm("out_norm", x) if norm == "pre" else x


def slow_ligr(params, x, seen):
    for n in range(CONFIG.layers):
        slow = Slow(params, f"encoder.block{n}.")
        y = slow.attention("attention", slow.norm("attention_norm", x), seen)
        x = x + sigmoid(slow.linear("attention_gate", x)) * y
        y = slow.norm("feed_forward_norm", x)
        gate = slow.linear("feed_forward.gate", y)
        y = slow.linear("feed_forward.down", gate * sigmoid(gate) * slow.linear("feed_forward.up", y))
        x = x + sigmoid(slow.linear("feed_forward_gate", x)) * y
    return Slow(params).norm("out_norm", x)


def slow_gru(params, x):
    for n in range(CONFIG.layers):
        slow = Slow(params, f"encoder.gru{n}.")
        W_r, W_z, W_n = np.split(slow["input.kernel"], 3, axis=1)
        b_r, b_z, b_n = np.split(slow["input.bias"], 3)
        U_r, U_z, U_n = np.split(slow["recurrent"], 3, axis=1)
        out = np.zeros_like(x)
        for b in range(len(x)):
            h = np.zeros(D)
            for t in range(x.shape[1]):
                r = sigmoid(x[b, t] @ W_r + h @ U_r + b_r)
                z = sigmoid(x[b, t] @ W_z + h @ U_z + b_z)
                candidate = np.tanh(x[b, t] @ W_n + b_n + r * (h @ U_n + slow["candidate_bias"]))
                h = (1 - z) * candidate + z * h
                out[b, t] = h
        x = out
    return x


def slow_caser(params, x):
    slow, out = Slow(params), np.zeros_like(x)
    channels, heights = caser.CHANNELS, range(2, WINDOW + 1)
    for b in range(len(x)):
        for t in range(x.shape[1]):
            window = np.stack([x[b, t - back] if t >= back else np.zeros(D) for back in range(WINDOW)][::-1])
            found, first = [], 0
            for n, height in enumerate(heights):
                for channel in range(channels):
                    columns = [first + row * channels + channel for row in range(height)]
                    kernel = slow["horizontal.rows"][:, columns].T  # [height, D]
                    bias = slow["horizontal.bias"][n * channels + channel]
                    places = range(WINDOW - height + 1)
                    responses = [(window[p : p + height] * kernel).sum() + bias for p in places]
                    found.append(max(max(response, 0.0) for response in responses))
                first += height * channels
            found.extend(slow["vertical.weight"] @ window)
            out[b, t] = slow.linear("out", np.array(found))
    return out


@each
def test_equals_slow_loops(encoder, norm):
    encode, params = network(encoder, norm)
    row, feedback, station, _ = events(seed=5)
    real = (6, 2, 5)
    mask = np.arange(L)[None] < np.array(real)[:, None]
    x = embedded(params, row, feedback, station)
    by_hand = {
        "sasrec": lambda: slow_transformer(params, x, lambda b, t: range(t + 1), norm),
        "bert4rec": lambda: slow_transformer(params, x, lambda b, t: range(real[b]), norm),
        "gru4rec": lambda: slow_gru(params, x),
        "caser": lambda: slow_caser(params, x),
        "ligr": lambda: slow_ligr(params, x, lambda b, t: range(t + 1)),
    }[encoder]()
    h_BLD = hidden(encode, params, row, feedback, station, mask)
    # float32 against float64, values up to about 10.
    np.testing.assert_allclose(h_BLD[mask], by_hand[mask], atol=5e-5)


@pytest.mark.parametrize("channels", [1, 3])
def test_horizontal_filters_of_many_channels_equal_a_convolution(channels):
    filters = layers.HorizontalFilters(
        D, 5, (2, 5), channels, jnp.float32, rngs=models.nnx.Rngs(params=jax.random.key(0))
    )
    x_BLD = jnp.asarray(events(length=9)[0])
    rows_DF = np.asarray(filters.rows.get_value())
    by_hand, first = [], 0
    for height in (2, 5):
        kernel_WDF = rows_DF[:, first : first + height * channels].reshape(D, height, channels).swapaxes(0, 1)
        first += height * channels
        padded = jnp.pad(x_BLD, ((0, 0), (4, 0), (0, 0)))
        at_place = jax.lax.conv_general_dilated(
            padded, jnp.asarray(kernel_WDF), (1,), "VALID", dimension_numbers=("NWC", "WIO", "NWC")
        )
        places = 5 - height + 1
        highest = jax.lax.reduce_window(at_place, -jnp.inf, jax.lax.max, (1, places, 1), (1, 1, 1), "VALID")
        by_hand.append(jax.nn.relu(highest))
    np.testing.assert_allclose(filters(x_BLD), jnp.concatenate(by_hand, -1), atol=1e-5)  # sums in other order
