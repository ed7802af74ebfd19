"""An own encoder in one file outside the package: each event beside a fading mean of those before it.

    jaxneg train examples/own_encoder.py --data.store STORE --workdir RUN

It is causal: h at t is of the events up to and including t.
"""

import jax.numpy as jnp
from flax import nnx

import jaxneg


class Fading(nnx.Module):
    """h_t = W [x_t, m_t], with m_t = sum_s decay^(t - s) x_s / sum_s decay^(t - s) and a learned decay per channel."""

    def __init__(self, config, *, rngs):
        self.decay = nnx.Param(jnp.full(config.width, 1.0))
        self.out = nnx.Linear(2 * config.width, config.width, rngs=rngs)

    def __call__(self, x_BLD, mask_BL, key):
        del mask_BL, key  # padding stands on the right, where no real position looks; nothing is dropped out
        L = x_BLD.shape[1]
        age_LM = jnp.arange(L)[:, None] - jnp.arange(L)[None]
        log_DLM = nnx.log_sigmoid(self.decay[...])[:, None, None] * jnp.maximum(age_LM, 0)[None]
        weight_DLM = jnp.where(age_LM[None] >= 0, jnp.exp(log_DLM), 0.0)
        weight_DLM = weight_DLM / weight_DLM.sum(-1, keepdims=True)
        mean_BLD = jnp.einsum("DLM,BMD->BLD", weight_DLM, x_BLD)
        return self.out(jnp.concatenate([x_BLD, mean_BLD], axis=-1))


jaxneg.register_encoder("fading", Fading)


def get_config():
    return jaxneg.Config(model=jaxneg.ModelConfig(encoder="fading"))
