"""What bfloat16 may touch, and that fused attention and rematerialisation change how a model is computed, not what."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend import core as jax_core

from jaxneg import config as configs
from jaxneg.config import Config, DataConfig, ModelConfig, OptimConfig, UserError, parts
from jaxneg.embeddings import sharding
from jaxneg.models import attention
from jaxneg.training import program
from tests.marks import rest_system

pytestmark = pytest.mark.slow

BLOCKS = [name for name, row in parts.ENCODERS.items() if row.blocks]
CATALOGUE = program.Catalogue(items=20, stations=3, attributes=(3,))
CONFIG = Config(
    data=DataConfig(length=6, batch_size=4),
    model=ModelConfig(width=8, heads=2, layers=2, window=3, head="gelu", output_attributes=True),
    optim=OptimConfig(average=0.9),
)
# Primitives that add many numbers up, and those of softmax and layer norm.
REDUCTIONS = ("reduce_sum", "reduce_max", "reduce_min", "reduce_prod", "cumsum", "cummax", "scatter-add")
DELICATE = ("exp", "log", "log1p", "rsqrt", "sqrt", "div", "integer_pow")


def changed(config=CONFIG, mask=0.0, packed=False, **model):
    data = dataclasses.replace(config.data, mask=mask, packed="always" if packed else "never")
    return dataclasses.replace(config, data=data, model=dataclasses.replace(config.model, **model))


def equations(jaxpr):
    """Every equation of a jaxpr and of those inside it."""
    for equation in jaxpr.eqns:
        yield equation
        for inner in jax_core.jaxprs_in_params(equation.params):
            yield from equations(inner)


def zeros(abstract):
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), abstract)


NARROW = {name: {"encoder": name} for name in parts.ENCODERS} | {
    "fused": {"attention": "fused"},
    **{f"{name}, residual": {"encoder": name, "residual": "bfloat16"} for name in BLOCKS},
    "post, residual": {"norm": "post", "residual": "bfloat16"},
}


@pytest.mark.parametrize("options", NARROW.values(), ids=NARROW)
def test_in_bfloat16_products_are_16_bits_and_state_softmax_norms_losses_and_sums_32(options):
    mask = 0.3 if parts.ENCODERS[options.get("encoder", "sasrec")].bidirectional else 0.0
    config = changed(dtype="bfloat16", mask=mask, **options)
    built = program.build(config, CATALOGUE, sharding.make_mesh(1))
    traced = jax.make_jaxpr(built.update)(*zeros((built.state, built.batch, built.attribute_VA)))
    found = list(equations(traced.jaxpr))

    def narrow(equation):
        return any(getattr(var.aval, "dtype", None) == jnp.bfloat16 for var in equation.invars)

    assert [e for e in found if e.primitive.name in (*REDUCTIONS, *DELICATE) and narrow(e)] == []
    # Each layer's product runs in bfloat16: forward, to its input and to its kernel.
    products = [e for e in found if e.primitive.name == "dot_general" and narrow(e)]
    kernels = [
        name for name in built.state.params if name.rpartition(".")[2] in ("kernel", "recurrent", "rows")
    ]
    assert len(kernels) >= 2 and len(products) >= 3 * len(kernels)
    for leaf in jax.tree.leaves(built.state):
        # parameters, moments, averages; steps; keys
        assert leaf.dtype in (jnp.float32, jnp.int32, jnp.uint32)
    # Item rows are read from their table and summed with the other inputs in float32.
    gathered = [e for e in found if e.primitive.name == "gather"]
    assert gathered and not any(narrow(e) for e in gathered)


@pytest.mark.parametrize("norm", ["pre", "post"])
@pytest.mark.parametrize("encoder", BLOCKS)
def test_the_residual_stream_is_of_its_dtype_and_the_states_hardly_others(encoder, norm):
    mask = 0.3 if parts.ENCODERS[encoder].bidirectional else 0.0
    wide = changed(encoder=encoder, norm=norm, dtype="bfloat16", mask=mask, head="none")
    narrow = dataclasses.replace(wide, model=dataclasses.replace(wide.model, residual="bfloat16"))
    B, L, D = CONFIG.data.batch_size, wide.data.positions, CONFIG.model.width

    def streams(config):
        """dtypes of the sums x + y of whole activations that are no bias: two a block, and none else of 16 bits."""
        model = program.build_model(config, CATALOGUE)
        shapes = [jnp.zeros((B, L, D)), *(jnp.ones((B, L), kind) for kind in (jnp.int32, jnp.int32, bool))]
        traced = jax.make_jaxpr(lambda *seen: model.encode(*seen, None))(
            model.init(jax.random.key(0)), *shapes
        )
        return [
            equation.outvars[0].aval.dtype
            for equation in equations(traced.jaxpr)
            if equation.primitive.name in ("add", "add_any")
            and all(getattr(var.aval, "shape", ()) == (B, L, D) for var in equation.invars)
        ]

    count = 2 * CONFIG.model.layers
    assert streams(narrow).count(jnp.bfloat16) == count and jnp.bfloat16 not in streams(wide)
    exact, *rounded = (hidden(one) for one in (changed(wide, mask=mask, dtype="float32"), wide, narrow))
    errors = [float(jnp.sqrt(((h - exact) ** 2).mean() / (exact**2).mean())) for h in rounded]
    # Each sum in bfloat16 is off by at most 2^-9 of itself.
    assert errors[0] < errors[1] < math.hypot(errors[0], count * 2**-9)


def hidden(config):
    """Hidden states, at the real positions."""
    total, params, row_BLD = summed(config)
    return jax.jit(total)(params, row_BLD)[1]


def states(config, *, packed=False):
    """Hidden states and their gradients to parameters and rows."""
    total, params, row_BLD = summed(config, packed=packed)
    gradients, h_BLD = jax.jit(jax.grad(total, argnums=(0, 1), has_aux=True))(params, row_BLD)
    return h_BLD, gradients


def summed(config, *, packed=False, seed=0):
    """A function of parameters and rows: a sum of hidden states, and these; and what to give it."""
    model = program.build_model(config, CATALOGUE)
    rng = np.random.default_rng(seed)
    B, L, D = 3, 6, 8
    size_B1 = np.array([[6], [1], [4]])
    mask_BL = jnp.asarray(np.arange(L)[None] < size_B1)
    row_BLD = jnp.asarray(rng.normal(size=(B, L, D)), jnp.float32)
    feedback_BL, station_BL = (jnp.asarray(rng.integers(1, high, (B, L)), jnp.int32) for high in (6, 4))
    segment_BL = jnp.asarray([[1, 1, 1, 2, 2, 3], [1, 0, 0, 0, 0, 0], [1, 2, 2, 2, 0, 0]]) if packed else None
    weight_BLD = jnp.asarray(rng.normal(size=(B, L, D)), jnp.float32) * mask_BL[..., None]
    params = model.init(jax.random.key(2))

    def total(params, row_BLD):
        h_BLD = model.encode(params, row_BLD, feedback_BL, station_BL, mask_BL, None, segment_BL)
        return (h_BLD * weight_BLD).sum(), jnp.where(mask_BL[..., None], h_BLD, 0.0)

    return total, params, row_BLD


@pytest.mark.parametrize("encoder", BLOCKS)
@pytest.mark.parametrize("packed", [False, True])
def test_fused_attention_is_plain_attention(encoder, packed):
    config = changed(
        encoder=encoder, layers=1, dropout=0.0, mask=0.3 if parts.ENCODERS[encoder].bidirectional else 0.0
    )
    plain, fused = (states(changed(config, attention=name), packed=packed) for name in ("plain", "fused"))
    for a, b in zip(jax.tree.leaves(fused), jax.tree.leaves(plain), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("shape", "dtype", "masked", "backend", "capability", "expected"),
    [
        ((2, 50, 2, 64), jnp.bfloat16, False, "gpu", "9.0", "cudnn"),
        ((2, 50, 2, 64), jnp.bfloat16, True, "gpu", "8.0", "cudnn"),
        ((2, 51, 2, 64), jnp.bfloat16, False, "gpu", "9.0", "cudnn"),
        ((2, 51, 2, 64), jnp.bfloat16, True, "gpu", "9.0", "xla"),
        ((2, 50, 2, 64), jnp.float32, False, "gpu", "9.0", "xla"),
        ((2, 50, 2, 12), jnp.bfloat16, False, "gpu", "9.0", "xla"),
        ((2, 50, 2, 256), jnp.bfloat16, False, "gpu", "9.0", "xla"),
        ((2, 50, 2, 64), jnp.bfloat16, False, "gpu", "7.5", "xla"),
        ((2, 50, 2, 64), jnp.bfloat16, False, "cpu", None, "xla"),
        ((2, 50, 2, 64), jnp.bfloat16, False, "tpu", None, "xla"),
    ],
)
def test_cudnn_is_asked_only_for_what_it_does(
    monkeypatch, shape, dtype, masked, backend, capability, expected
):
    class Device:
        device_kind, compute_capability = "NVIDIA of the future", capability

    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    monkeypatch.setattr(jax, "devices", lambda: [Device()])
    assert attention.fused_implementation(jax.ShapeDtypeStruct(shape, dtype), masked=masked) == expected


@pytest.mark.parametrize("encoder", rest_system(BLOCKS, {"sasrec"}))
def test_rematerialisation_gives_the_same_gradients(encoder):
    """With dropout, whose masks must be drawn again alike."""
    config = changed(encoder=encoder, layers=2, mask=0.3 if parts.ENCODERS[encoder].bidirectional else 0.0)
    kept, again = (gradients(changed(config, remat=remat)) for remat in (False, True))
    for a, b in zip(jax.tree.leaves(again), jax.tree.leaves(kept), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


def gradients(config):
    model = program.build_model(config, CATALOGUE)
    rng = np.random.default_rng(3)
    row_BLD = jnp.asarray(rng.normal(size=(3, 6, 8)), jnp.float32)
    code_BL, mask_BL = jnp.asarray(rng.integers(1, 4, (3, 6)), jnp.int32), jnp.ones((3, 6), bool)
    key = jax.random.key(5)
    cubes = jax.jit(
        jax.grad(lambda params: (model.encode(params, row_BLD, code_BL, code_BL, mask_BL, key) ** 3).sum())
    )
    return cubes(model.init(jax.random.key(2)))


def test_rematerialisation_keeps_less_for_the_gradient():
    """What is kept, by its shapes. XLA's own figure says nothing on a CPU, where it merges what is computed again."""

    def kept(remat):
        model = program.build_model(changed(layers=8, remat=remat), CATALOGUE)
        row_BLD, code_BL = jnp.zeros((3, 6, 8)), jnp.ones((3, 6), jnp.int32)

        def backward(params):
            return jax.vjp(
                lambda params: model.encode(
                    params, row_BLD, code_BL, code_BL, code_BL > 0, jax.random.key(5)
                ).sum(),
                params,
            )[1]

        params = jax.eval_shape(model.init, jax.random.key(2))
        return sum(
            leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(jax.eval_shape(backward, params))
        )

    parameters = sum(
        leaf.size * 4
        for leaf in jax.tree.leaves(
            jax.eval_shape(program.build_model(changed(layers=8), CATALOGUE).init, jax.random.key(2))
        )
    )
    assert kept(True) - parameters < 0.2 * (kept(False) - parameters)


def test_what_has_no_blocks_has_no_options_of_blocks():
    for args in (
        ["--model.remat"],
        ["--model.attention", "fused"],
        ["--model.dropout-attention", "0"],
        ["--model.dtype", "bfloat16", "--model.residual", "bfloat16"],
    ):
        for encoder in sorted(set(parts.ENCODERS) - set(BLOCKS)):
            with pytest.raises(UserError, match=f"--model.encoder {encoder} has n") as error:
                configs.override(Config(), ["--model.encoder", encoder, *args])
            assert "\n" not in str(error.value)


def test_a_kernel_is_not_asked_to_drop_weights():
    fused = ["--model.attention", "fused", "--model.dropout-attention"]
    assert configs.override(Config(), [*fused, "0"]).model.weights_dropped == 0
    with pytest.raises(
        UserError, match="--model.dropout-attention 0.1 .*: give 0, or --model.attention plain"
    ):
        configs.override(Config(), [*fused, "0.1"])
