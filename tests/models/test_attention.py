"""Each body of attention against the plain square with its mask."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxneg import models
from jaxneg.config import ModelConfig
from jaxneg.embeddings import sharding
from jaxneg.models import attention, splash
from tests.marks import rest_slow

B, H, K = 3, 2, 8
BODIES = {
    "blocks": attention.attention,
    "lanes": attention.lanes_attention,
    "fused": attention.fused_attention,
    "splash": functools.partial(
        splash.attention, interpret=True
    ),  # interpreted: a TPU's own is compiled in tests/plan
}


def square(q_BLHK, k_BLHK, v_BLHK, segment_BL=None, *, causal=True):
    """The whole square of weights in float64, by numpy."""
    q, k, v = (np.asarray(part, np.float64) for part in (q_BLHK, k_BLHK, v_BLHK))
    length = q.shape[1]
    visible = np.tril(np.ones((length, length), bool)) if causal else np.ones((length, length), bool)
    visible = np.broadcast_to(visible, (len(q), 1, length, length))
    if segment_BL is not None:
        visible = visible & (segment_BL[:, None, :, None] == segment_BL[:, None, None, :])
    logits = np.where(visible, np.einsum("BLHK,BMHK->BHLM", q, k) / np.sqrt(q.shape[-1]), -np.inf)
    weight = np.exp(logits - logits.max(-1, keepdims=True))
    return np.einsum("BHLM,BMHK->BLHK", weight / weight.sum(-1, keepdims=True), v)


def plain(q_BLHK, k_BLHK, v_BLHK, segment_BL=None, *, causal=True):
    """The same by jax.numpy, whose gradient is XLA's of plain operations."""
    length = q_BLHK.shape[1]
    visible = jnp.tril(jnp.ones((1, 1, length, length), bool)) | (not causal)
    if segment_BL is not None:
        visible = visible & (segment_BL[:, None, :, None] == segment_BL[:, None, None, :])
    logits = jnp.einsum("BLHK,BMHK->BHLM", q_BLHK, k_BLHK) * q_BLHK.shape[-1] ** -0.5
    weight = jax.nn.softmax(jnp.where(visible, logits, -jnp.inf), axis=-1)
    return jnp.einsum("BHLM,BMHK->BLHK", weight, v_BLHK)


def made(length, *, packed, seed=0):
    rng = np.random.default_rng(seed)
    parts = [jnp.asarray(rng.normal(size=(B, length, H, K)), jnp.float32) for _ in range(3)]
    # Sequences of a row are neighbours, and padding, 0, is at its end.
    ends = np.sort(rng.integers(0, length + 1, (B, 3)), axis=1)
    number = 1 + (np.arange(length)[None, :, None] >= ends[:, None, :]).sum(-1)
    return parts, jnp.asarray(np.where(number > 3, 0, number), jnp.int32) if packed else None


LENGTHS = (
    1,
    7,
    attention.BLOCK,
    attention.BLOCK + 1,
    2 * attention.BLOCK + 30,
    attention.BLOCKS * attention.BLOCK + 9,
)


# Each value of an axis with each of another every time; the rest of the product is slow.
ROWS = [
    (length, packed, causal) for length in LENGTHS for packed in (False, True) for causal in (True, False)
]
TELLING = {(7, False, True), (LENGTHS[-1], True, True), (LENGTHS[-1], False, False)}


@pytest.mark.parametrize("rows", rest_slow(ROWS, TELLING), ids=str)
@pytest.mark.parametrize("body", BODIES)
def test_every_body_is_the_square(body, rows):
    length, packed, causal = rows
    parts, segment_BL = made(length, packed=packed)
    found = jax.jit(BODIES[body], static_argnames="causal")(*parts, segment_BL, causal=causal)
    # Sums of at most 409 terms near 1 in float32.
    np.testing.assert_allclose(found, square(*parts, segment_BL, causal=causal), atol=1e-5)


KINDS = [(packed, causal) for packed in (False, True) for causal in (True, False)]


@pytest.mark.parametrize("kind", rest_slow(KINDS, {(True, True), (False, False)}), ids=str)
@pytest.mark.parametrize("body", BODIES)
def test_every_body_has_the_gradients_of_the_square(body, kind):
    packed, causal = kind
    parts, segment_BL = made(attention.BLOCK + 30, packed=packed)
    rate = jnp.asarray(np.random.default_rng(9).normal(size=parts[0].shape), jnp.float32)

    def gradients(function):
        total = lambda q, k, v: (rate * function(q, k, v, segment_BL, causal=causal)).sum()  # noqa: E731
        return jax.jit(jax.grad(total, argnums=(0, 1, 2)))(*parts)

    for found, expected in zip(gradients(BODIES[body]), gradients(plain), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5 * float(jnp.abs(expected).max()))


def check_nothing_crosses(body, *, causal):
    """Other segments hold what would win every softmax, and end or begin within a block."""
    parts, segment_BL = made(2 * attention.BLOCK + 30, packed=True)
    rate = jnp.asarray(np.random.default_rng(9).normal(size=parts[0].shape), jnp.float32)

    @jax.jit
    def run(own, *parts):
        """What a segment gathers, and the gradients of that."""
        y, pull = jax.vjp(lambda *parts: body(*parts, segment_BL, causal=causal), *parts)
        return [jnp.where(own, found, 0) for found in (y, *pull(jnp.where(own, rate, 0)))]

    for number in (0, 1, 2, 3):
        own = (segment_BL == number)[..., None, None]
        with_others, alone = run(own, *(jnp.where(own, part, 1e4) for part in parts)), run(own, *parts)
        for a, b in zip(with_others, alone, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("causal", rest_slow([True, False], [False]))
@pytest.mark.parametrize("body", BODIES)
def test_no_weight_crosses_a_segment(body, causal):
    check_nothing_crosses(BODIES[body], causal=causal)


@pytest.mark.parametrize("body", BODIES)
def test_a_body_that_minds_no_segments_would_be_seen(body):
    with pytest.raises(AssertionError, match="Arrays are not equal"):
        check_nothing_crosses(lambda q, k, v, _, causal: BODIES[body](q, k, v, causal=causal), causal=True)


@pytest.mark.parametrize("rows", [8, 3])
def test_devices_share_the_rows_of_a_kernel(rows):
    """Where rows are as many as devices or more each has its own, else all have all."""
    mesh = sharding.make_mesh(4)
    (q_BLHK, k_BLHK, v_BLHK), segment_BL = made(40, packed=True)
    at_B = np.arange(rows) % B
    taken = [part[at_B] for part in (q_BLHK, k_BLHK, v_BLHK, segment_BL)]
    placed = sharding.put(taken, mesh, "B" if rows % 4 == 0 else "")

    def run(*parts):
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return splash.attention(*parts, interpret=True)

    compiled = jax.jit(run).lower(*placed).compile()
    np.testing.assert_array_equal(compiled(*placed), jax.jit(BODIES["splash"])(*taken))
    assert "all-gather" not in compiled.as_text()


@pytest.mark.parametrize(
    ("length", "platform", "fits"),
    [(64, "tpu", False), (65, "tpu", True), (128, "tpu", True), (129, "tpu", True), (200, "gpu", False)],
)
def test_splash_is_asked_for_tpus_and_rows_that_are_half_full(length, platform, fits, monkeypatch):
    q_BLHK = jax.ShapeDtypeStruct((B, length, H, K), jnp.float32)
    assert not splash.fits(q_BLHK)  # on a CPU
    kind = jax.sharding.AbstractDevice(device_kind=platform, num_cores=None, platform=platform)
    mesh = jax.sharding.AbstractMesh((2,), ("data",), abstract_device=kind)
    with jax.sharding.use_abstract_mesh(mesh):
        assert splash.fits(q_BLHK) is fits
    monkeypatch.setattr(jax, "default_backend", lambda: platform)
    assert splash.fits(q_BLHK) is fits


def test_dropped_weights_are_a_share_and_the_rest_is_scaled_up():
    """Of values that are 1 everywhere the mean stays 1, and no two blocks of queries drop alike."""
    length, rate = 2 * attention.BLOCK, 0.25
    q = jnp.zeros((64, length, 1, 4))
    v = jnp.ones_like(q)

    @functools.partial(jax.jit, static_argnames="causal")
    def dropped(q, v, key, causal=True):
        return attention.attention(q, q, v, causal=causal, drop=attention.Drop(rate, key))

    found = dropped(q, v, jax.random.key(0), causal=False)
    # Each is the mean of as many draws of 0 or 4/3 as there are positions: 4 standard errors.
    assert abs(float(found.mean()) - 1) < 4 * (rate / (1 - rate) / length / (64 * length)) ** 0.5
    causal = np.asarray(dropped(q, v, jax.random.key(0)))[:, :, 0, 0]
    first, second = causal[:, : attention.BLOCK] != 1, causal[:, attention.BLOCK :] != 1
    assert not np.array_equal(first, second)
    whole = jax.jit(attention.attention)(q, q, v)
    np.testing.assert_allclose(whole, 1.0, atol=1e-6)


@pytest.mark.parametrize("causal", [True, False])
def test_lanes_drop_what_blocks_drop(causal):
    """Both heads of both groups: four heads of which two are side by side."""
    rng = np.random.default_rng(1)
    parts = [jnp.asarray(rng.normal(size=(2, 130, 4, 64)), jnp.float32) for _ in range(3)]

    def run(body):
        drop = attention.Drop(0.3, jax.random.key(2))
        return jax.jit(functools.partial(body, causal=causal, drop=drop))(*parts)

    found, expected = run(attention.lanes_attention), run(attention.attention)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert (
        float(jnp.abs(found - jax.jit(attention.lanes_attention)(*parts)).max()) > 0.1
    )  # or nothing dropped


@pytest.mark.slow
def test_what_is_traced_for_a_tpu_is_the_same_model(monkeypatch):
    """In training, dropout on: hidden states, and gradients of all parameters."""
    config = ModelConfig(width=16, heads=2, layers=1, dropout=0.2)
    model = models.build(config, length=60, stations=3, attributes=())
    params = model.init(jax.random.key(0))
    rng = np.random.default_rng(0)
    row_BLD, rate_BLD = (jnp.asarray(rng.normal(size=(3, 60, 16)), jnp.float32) for _ in range(2))
    code_BL = jnp.asarray(rng.integers(0, 4, (3, 60)), jnp.int32)

    def run():
        def encode(params):
            return model.encode(params, row_BLD, code_BL, code_BL, code_BL > 0, jax.random.key(1))

        y, pull = jax.vjp(encode, params)
        return y, pull(rate_BLD)[0]

    y, gradients = jax.jit(run)()
    asked = []
    body = attention.lanes_attention
    monkeypatch.setattr(attention, "lanes_attention", lambda *a, **k: asked.append(1) or body(*a, **k))
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    other, others = jax.jit(lambda: run())()
    assert len(asked) == config.layers
    # sums of up to 180 numbers near 1 in float32, in another order
    np.testing.assert_allclose(other, y, atol=2e-4)
    for name, found in others.items():
        np.testing.assert_allclose(found, gradients[name], atol=2e-5 * (1 + float(jnp.abs(found).max())))


def weights(**options):
    """The weights of a layer in training: with the identity for values, of positions that are unit vectors."""
    length = 64
    config = ModelConfig(width=length, **options)
    layer = attention.Attention(config, causal=False, rngs=nnx.Rngs(0))
    for name in ("value", "out"):
        getattr(layer, name).kernel.set_value(jnp.eye(length))
    x_BLD = jnp.broadcast_to(jnp.eye(length), (16, length, length))
    drawn = jax.jit(lambda x_BLD, key: layer(x_BLD, None, key))(x_BLD, jax.random.key(4))
    q, k = (np.asarray(getattr(layer, name).kernel.get_value(), np.float64) for name in ("query", "key"))
    logits = q @ k.T / np.sqrt(length)
    expected = np.exp(logits - logits.max(-1, keepdims=True))
    return np.asarray(drawn), np.broadcast_to(expected / expected.sum(-1, keepdims=True), drawn.shape)


@pytest.mark.parametrize(
    ("options", "rate"),
    [
        ({"dropout": 0.3}, 0.3),
        ({"dropout": 0.3, "dropout_attention": 0.1}, 0.1),
        ({"dropout": 0.0, "dropout_attention": 0.3}, 0.3),
        ({"dropout": 0.3, "dropout_attention": 0.0}, 0.0),
        ({"dropout": 0.3, "attention": "fused"}, 0.0),
        ({"dropout": 0.3, "dropout_attention": 0.0, "attention": "fused"}, 0.0),
    ],
)
def test_weights_have_a_dropout_of_their_own(options, rate):
    found, expected = weights(**options)
    kept = found != 0
    # A mean of as many draws of 0 or 1 as there are weights: 4 standard errors.
    assert abs(1 - kept.mean() - rate) <= 4 * (rate * (1 - rate) / found.size) ** 0.5
    np.testing.assert_allclose(found[kept], expected[kept] / (1 - rate), rtol=1e-5)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("packed", [False, True])
def test_one_query_a_row_is_its_row_of_the_square(packed, causal):
    """Keys and values are made of the same positions here; there it is given what makes them."""
    (q_BLHK, x_BLHK, _), segment_BL = made(37, packed=packed)
    x_BLD, rng = x_BLHK.reshape(*x_BLHK.shape[:2], -1), np.random.default_rng(3)
    D = x_BLD.shape[-1]
    key_DHK, value_DHK = rng.normal(size=(2, D, *q_BLHK.shape[2:])).astype(np.float32) * D**-0.5
    k_BLHK, v_BLHK = (np.einsum("BLD,DHK->BLHK", x_BLD, part) for part in (key_DHK, value_DHK))
    for at in ([0, 5, 36], [36, 0, 11]):
        at_B = np.array(at, np.int32)
        q_B1HK = jnp.asarray(np.asarray(q_BLHK)[np.arange(B), at_B][:, None])
        found = jax.jit(attention.attention_at, static_argnames="causal")(
            jnp.asarray(at_B), q_B1HK, x_BLD, (key_DHK, value_DHK), segment_BL, causal=causal
        )
        expected = square(q_BLHK, k_BLHK, v_BLHK, segment_BL, causal=causal)[np.arange(B), at_B][:, None]
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
