"""Losses over logits and a mask. Each returns a scalar, works in log space and imports nothing of ours."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def bce(
    pos_BL: Float[Array, "B L"],
    neg_BLN: Float[Array, "B L N"],
    mask_BL: Bool[Array, "B L"],
) -> Float[Array, ""]:
    """Mean binary cross-entropy of each target against its N negatives.

        loss = -log sigmoid(pos) - sum_n log(1 - sigmoid(neg_n)) = softplus(-pos) + sum_n softplus(neg_n)

    Softplus keeps it finite for any float32 logit.

    Args:
      pos_BL: logits of the targets.
      neg_BLN: logits of their negatives, hard and random alike.
      mask_BL: True where a target exists; zero targets give a loss of zero.

    Reference: Kang and McAuley, Self-Attentive Sequential Recommendation, 2018, arXiv:1808.09781.
    """
    loss_BL = jax.nn.softplus(-pos_BL) + jax.nn.softplus(neg_BLN).sum(-1)
    return jnp.where(mask_BL, loss_BL, 0.0).sum() / jnp.maximum(mask_BL.sum(), 1)


LOSSES = {"bce": bce}
