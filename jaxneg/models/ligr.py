"""LiGR: a causal transformer whose layers gate what they add, as in eSASRec.

References: Borisyuk et al., From Features to Transformers, 2025, arXiv:2502.03417;
Tikhonovich et al., eSASRec, 2025, arXiv:2508.06450.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from jaxneg.config import ModelConfig
from jaxneg.models import layers
from jaxneg.models.attention import Attention


class Block(nnx.Module):
    """Attention, then a SwiGLU feed-forward part, each scaled by a gate that reads the residual stream:

    x <- x + sigmoid(W1 x + b1) * attention(norm(x))
    x <- x + sigmoid(W2 x + b2) * feed_forward(norm(x))
    """

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        self.dropout = config.dropout
        dtype, width = jnp.dtype(config.dtype), config.width
        self.attention = Attention(config, rngs=rngs)
        self.feed_forward = layers.SwiGLU(
            width, config.feed_forward or width, config.dropout, dtype, rngs=rngs
        )
        self.attention_norm = layers.LayerNorm(width, rngs=rngs)
        self.feed_forward_norm = layers.LayerNorm(width, rngs=rngs)
        self.attention_gate = layers.Linear(width, width, dtype=dtype, rngs=rngs)
        self.feed_forward_gate = layers.Linear(width, width, dtype=dtype, rngs=rngs)

    def __call__(
        self,
        x_BLD: jax.Array,
        segment_BL: jax.Array | None,
        key: jax.Array | None,
        at_B: jax.Array | None = None,
    ) -> jax.Array:
        inner, after_attention, hidden, after_hidden = layers.split(key, 4)
        y_BLD = self.attention(self.attention_norm(x_BLD), segment_BL, inner, at_B)
        x_BLD = layers.taken(x_BLD, at_B)
        y_BLD = layers.dropout(y_BLD, self.dropout, after_attention)
        x_BLD = x_BLD + jax.nn.sigmoid(self.attention_gate(x_BLD)) * y_BLD
        y_BLD = self.feed_forward(self.feed_forward_norm(x_BLD), hidden)
        y_BLD = layers.dropout(y_BLD, self.dropout, after_hidden)
        return x_BLD + jax.nn.sigmoid(self.feed_forward_gate(x_BLD)) * y_BLD


class LiGR(layers.Stack):
    """Causal blocks, then a layer norm. The norm stands before each part, whatever ``config.norm``."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        blocks = [Block(config, rngs=rngs) for _ in range(config.layers)]
        super().__init__(blocks, config, out_norm=True, rngs=rngs)

    def __call__(
        self,
        x_BLD: Float[Array, "B L D"],
        mask_BL: Bool[Array, "B L"],
        key: jax.Array | None,
        segment_BL: Int[Array, "B L"] | None = None,
        at_B: Int[Array, "B"] | None = None,
    ) -> Float[Array, "B P D"]:
        """Hidden states, each of the events up to and including its position."""
        del mask_BL
        return self.through(x_BLD, segment_BL, key, at_B)
