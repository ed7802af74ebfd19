"""HSTU: causal blocks of pointwise attention without a softmax, each gating what it gathers.

Reference: Zhai et al., Actions Speak Louder than Words, 2024, arXiv:2402.17152.
"""

import jax
import jax.numpy as jnp
from flax import nnx

import jaxneg
from jaxneg.models import layers

BUCKETS = 16  # of distances, by their logarithm


class Block(nnx.Module):
    """With u, v, q, k = silu(W norm(x)), per head and causal:

    a_tm = silu(q_t k_m + bias of the distance t - m) / L,   x_t <- x_t + W2 (norm(sum_m a_tm v_m) * u_t)
    """

    def __init__(self, config, *, rngs):
        self.heads, self.rate = config.heads, config.dropout
        width = config.width
        self.norm, self.out_norm = layers.LayerNorm(width, rngs=rngs), layers.LayerNorm(width, rngs=rngs)
        self.into = layers.Linear(width, 4 * width, rngs=rngs)
        self.out = layers.Linear(width, width, rngs=rngs)
        self.distance = nnx.Param(jnp.zeros((BUCKETS, config.heads)))

    def __call__(self, x_BLD, segment_BL=None, key=None, at_B=None):
        del segment_BL, at_B  # one sequence a row, and every position
        B, L, D = x_BLD.shape
        parts = jnp.split(jax.nn.silu(self.into(self.norm(x_BLD))), 4, axis=-1)
        u_BLD, (v_BLHK, q_BLHK, k_BLHK) = parts[0], (part.reshape(B, L, self.heads, -1) for part in parts[1:])
        apart_LM = jnp.arange(L)[:, None] - jnp.arange(L)[None]
        bucket_LM = jnp.floor(jnp.log2(jnp.maximum(apart_LM, 0) + 1.0)).astype(jnp.int32)
        bias_LMH = self.distance[...][jnp.minimum(bucket_LM, BUCKETS - 1)]
        logit_BLMH = jnp.einsum("BLHK,BMHK->BLMH", q_BLHK, k_BLHK) + bias_LMH[None]
        weight_BLMH = jnp.where((apart_LM >= 0)[None, :, :, None], jax.nn.silu(logit_BLMH) / L, 0.0)
        y_BLD = jnp.einsum("BLMH,BMHK->BLHK", weight_BLMH, v_BLHK).reshape(B, L, D)
        return x_BLD + layers.dropout(self.out(self.out_norm(y_BLD) * u_BLD), self.rate, key)


class HSTU(layers.Stack):
    """Causal blocks, then a layer norm. Padding stands on the right, where no real position looks."""

    def __init__(self, config, *, rngs):
        super().__init__(
            [Block(config, rngs=rngs) for _ in range(config.layers)], config, out_norm=True, rngs=rngs
        )

    def __call__(self, x_BLD, mask_BL, key):
        del mask_BL
        return self.through(x_BLD, None, key, None)


jaxneg.register_encoder("hstu", HSTU)
