import math

import jax
import jax.numpy as jnp
import numpy as np

from jaxneg import losses


def softplus(x):
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


def test_bce_by_hand():
    pos_BL = jnp.array([[0.7, -1.2, 9.0]])
    neg_BLN = jnp.array([[[-0.2, 1.3], [0.4, -3.0], [5.0, 5.0]]])
    by_hand = (
        softplus(-0.7) + softplus(-0.2) + softplus(1.3) + softplus(1.2) + softplus(0.4) + softplus(-3.0)
    ) / 2  # the third position is masked
    loss = losses.bce(pos_BL, neg_BLN, jnp.array([[True, True, False]]))
    np.testing.assert_allclose(loss, by_hand, rtol=1e-6)  # float32 rounding


def test_bce_without_targets_is_zero_with_zero_gradient():
    mask_BL = jnp.zeros((2, 3), bool)
    value, gradient = jax.value_and_grad(lambda pos: losses.bce(pos, jnp.ones((2, 3, 1)), mask_BL))(
        jnp.ones((2, 3))
    )
    assert value == 0.0
    assert (gradient == 0.0).all()


def test_bce_is_finite_at_extreme_logits():
    pos_BL, neg_BLN = jnp.array([[-1e30, 1e30]]), jnp.array([[[1e30], [-1e30]]])
    value, gradients = jax.value_and_grad(losses.bce, argnums=(0, 1))(pos_BL, neg_BLN, jnp.ones((1, 2), bool))
    assert jnp.isfinite(value)
    assert all(jnp.isfinite(gradient).all() for gradient in gradients)


def test_gradient_of_bce_is_sigmoid_minus_label():
    pos_BL, neg_BLN = jnp.array([[0.3, -2.0]]), jnp.array([[[1.0], [0.0]]])
    pos, neg = jax.grad(losses.bce, argnums=(0, 1))(pos_BL, neg_BLN, jnp.ones((1, 2), bool))
    np.testing.assert_allclose(pos, (1 / (1 + np.exp(-np.array([[0.3, -2.0]]))) - 1) / 2, rtol=1e-6)
    np.testing.assert_allclose(neg, 1 / (1 + np.exp(-np.array([[[1.0], [0.0]]]))) / 2, rtol=1e-6)
