"""An own loss in one file outside the package: focal cross-entropy, which counts what is told apart already for less.

    jaxneg train examples/own_loss.py --data.store STORE --workdir RUN
    jaxneg sweep examples/own_loss.py --data.store STORE --workdir SWEEP --set loss.name=bce,focal

Reference: Lin et al., Focal Loss for Dense Object Detection, 2017, arXiv:1708.02002.
"""

import jax
import jax.numpy as jnp

import jaxneg


def focal(pos_BL, neg_BLN, mask_BL):
    """Mean of (1 - p)^2 * -log p over targets, and of p^2 * -log(1 - p) over their negatives, p = sigmoid(logit)."""
    loss_BL = jax.nn.sigmoid(-pos_BL) ** 2 * jax.nn.softplus(-pos_BL)
    loss_BL += (jax.nn.sigmoid(neg_BLN) ** 2 * jax.nn.softplus(neg_BLN)).sum(-1)
    return jnp.where(mask_BL, loss_BL, 0.0).sum() / jnp.maximum(mask_BL.sum(), 1)


jaxneg.register_loss("focal", focal)


def get_config():
    return jaxneg.Config(loss=jaxneg.LossConfig(name="focal"))
