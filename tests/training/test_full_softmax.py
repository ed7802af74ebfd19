"""The softmax over the whole catalogue by blocks: against float64 in numpy, and what it holds."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend import core as jex

from jaxneg.embeddings import sharding
from jaxneg.training import full_softmax

B, L, D, C = 3, 4, 5, 37


def example(scale=1.0):
    """Hidden states, rows, biases, targets of which some are none, and a mask that leaves out some more."""
    rng = np.random.default_rng(0)
    h_BLD, row_CD = rng.normal(size=(B, L, D)) * scale, rng.normal(size=(C, D))
    target_BL = rng.integers(1, C + 1, (B, L))
    target_BL[0, :2], target_BL[1, 0], target_BL[2, 3] = 0, 1, C
    mask_BL = target_BL != 0
    mask_BL[1, 2] = False
    return [h_BLD, row_CD, rng.normal(size=C)], target_BL, mask_BL


def oracle(arrays, target_BL, mask_BL):
    """Value and gradients, one position after the other."""
    h_BLD, row_CD, bias_C = (np.asarray(leaf).astype(np.float64) for leaf in arrays)
    value, gradients = 0.0, [np.zeros_like(leaf) for leaf in (h_BLD, row_CD, bias_C)]
    for b, t in zip(*np.nonzero(mask_BL), strict=True):
        logit_C, own = row_CD @ h_BLD[b, t] + bias_C, target_BL[b, t] - 1
        share_C = np.exp(logit_C - logit_C.max())
        total = share_C.sum()
        value += np.log(total) + logit_C.max() - logit_C[own]
        up_C = share_C / total - (np.arange(C) == own)
        gradients[0][b, t] += up_C @ row_CD
        gradients[1] += np.outer(up_C, h_BLD[b, t])
        gradients[2] += up_C
    return value / mask_BL.sum(), [leaf / mask_BL.sum() for leaf in gradients]


def loss(arrays, target_BL, mask_BL, columns=None, form=None):
    """As the objective has it: the target's own logit comes from its row."""
    h_BLD, row_CD, bias_C = arrays
    at_BL = jnp.maximum(target_BL - 1, 0)
    h32_BLD, row_BLD = h_BLD.astype(jnp.float32), row_CD[at_BL].astype(jnp.float32)
    pos_BL = jnp.einsum("BLD,BLD->BL", h32_BLD, row_BLD) + bias_C[at_BL].astype(jnp.float32)
    form = full_softmax.Form(columns) if columns else form
    return full_softmax.softmax(h_BLD, (row_CD, bias_C), pos_BL, target_BL - 1, mask_BL, form)


def near(found, expected, tolerance):
    np.testing.assert_allclose(
        np.asarray(found).astype(np.float64), expected, rtol=0, atol=tolerance * np.abs(expected).max()
    )


# 37 is a multiple of none but 1 and itself; a block past the catalogue is cut to it
@pytest.mark.parametrize("columns", [1, 8, 36, 37, None])
@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_value_and_gradients_are_those_of_the_whole_sum(columns, scale):
    arrays, target_BL, mask_BL = example(scale)
    arrays = [jnp.asarray(leaf, jnp.float32) for leaf in arrays]
    given = jnp.asarray(target_BL, jnp.int32), jnp.asarray(mask_BL)
    value, gradients = jax.jit(jax.value_and_grad(loss), static_argnums=3)(arrays, *given, columns)
    expected, expected_gradients = oracle(arrays, target_BL, mask_BL)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    for found, true in zip(gradients, expected_gradients, strict=True):
        near(found, true, 1e-5 * scale)  # logits are sums of terms up to scale * 3, rounded to 24 bits
    assert not np.asarray(gradients[0])[~mask_BL].any()


def test_sums_of_bfloat16_inputs_are_float32():
    arrays, target_BL, mask_BL = example()
    arrays = [jnp.asarray(leaf, jnp.bfloat16) for leaf in arrays]
    given = jnp.asarray(target_BL, jnp.int32), jnp.asarray(mask_BL)
    value, gradients = jax.value_and_grad(loss)(arrays, *given, 8)
    expected, expected_gradients = oracle(arrays, target_BL, mask_BL)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    for found, true in zip(gradients, expected_gradients, strict=True):
        assert found.dtype == jnp.bfloat16
        near(found, true, 2**-7)  # of 8 bits, and of a sum of two such numbers


def test_extremes_stay_finite():
    """Logits of 1e18, a catalogue of the target alone, and no target at all."""
    yes, no, one = jnp.ones((1, 1), bool), jnp.zeros((1, 1), bool), jnp.ones((1, 1), jnp.int32)

    def found(h, row, mask):
        h_BLD, row_CD = jnp.full((1, 1, 1), h), jnp.asarray(row, jnp.float32)[:, None]
        arrays = [h_BLD, row_CD, jnp.zeros(len(row))]
        return jax.tree.map(np.asarray, jax.value_and_grad(loss)(arrays, one, mask, 2))

    for result in (found(1e18, [-1.0, 1.0, 1.0], yes), found(-1e18, [-1.0, 1.0, 1.0], yes)):
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(result))
    for result in (found(2.0, [3.0], yes), found(2.0, [3.0, 1.0], no)):
        assert not any(leaf.any() for leaf in jax.tree.leaves(result))
    # 1e4 - 8 against 1e4: lost where the target's logit is taken off the logarithm of the sum
    value, _ = found(1.0, [1e4, 1e4 - 8], yes)
    np.testing.assert_allclose(value, np.log1p(np.exp(-8)), rtol=1e-6)


def sizes(jaxpr):
    """Numbers of all arrays that a computation names, inner ones too."""
    for equation in jaxpr.eqns:
        yield from (leaf.aval.size for leaf in (*equation.invars, *equation.outvars))
        for inner in jex.jaxprs_in_params(equation.params):
            yield from sizes(inner)


@pytest.mark.parametrize("shards", [0, 1, 8])
def test_no_array_has_all_logits(shards):
    positions, items, width = (512, 50), 1_000_000, 64
    form = None
    if shards:
        form = full_softmax.on_mesh(
            positions[0] * positions[1], sharding.make_mesh(8, shards), ("model",) if shards > 1 else ()
        )
    arrays = [
        jax.ShapeDtypeStruct(shape, jnp.float32) for shape in [(*positions, width), (items, width), (items,)]
    ]
    given = jax.ShapeDtypeStruct(positions, jnp.int32), jax.ShapeDtypeStruct(positions, jnp.bool_)
    of_all = functools.partial(loss, form=form)
    traced = jax.make_jaxpr(jax.value_and_grad(of_all))(arrays, *given)
    largest = max(sizes(traced.jaxpr))
    assert items * width <= largest < 25_600 * items / 20
