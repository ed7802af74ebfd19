"""SASRec: a causal transformer over the events seen.

Reference: Kang and McAuley, Self-Attentive Sequential Recommendation, 2018, arXiv:1808.09781.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from jaxneg.config import ModelConfig
from jaxneg.models import layers
from jaxneg.models.attention import Attention


class Block(nnx.Module):
    """Attention, then feed-forward, each with a residual and layer norm before (pre) or after (post) it."""

    def __init__(self, config: ModelConfig, *, causal: bool = True, rngs: nnx.Rngs):
        self.config = config
        dtype, hidden = jnp.dtype(config.dtype), config.feed_forward or config.width
        self.attention = Attention(config, causal=causal, rngs=rngs)
        self.feed_forward = layers.FeedForward(config.width, hidden, config.dropout, dtype, rngs=rngs)
        self.attention_norm = layers.LayerNorm(config.width, rngs=rngs)
        self.feed_forward_norm = layers.LayerNorm(config.width, rngs=rngs)

    def __call__(
        self,
        x_BLD: jax.Array,
        segment_BL: jax.Array | None,
        key: jax.Array | None,
        at_B: jax.Array | None = None,
    ) -> jax.Array:
        inner, after_attention, hidden, after_hidden = layers.split(key, 4)
        rate = self.config.dropout

        def attend(x_BLD: jax.Array) -> jax.Array:
            return layers.dropout(self.attention(x_BLD, segment_BL, inner, at_B), rate, after_attention)

        def feed(x_BLD: jax.Array) -> jax.Array:
            return layers.dropout(self.feed_forward(x_BLD, hidden), rate, after_hidden)

        if self.config.norm == "pre":
            x_BLD = layers.taken(x_BLD, at_B) + attend(self.attention_norm(x_BLD))
            return x_BLD + feed(self.feed_forward_norm(x_BLD))
        x_BLD = self.attention_norm(layers.taken(x_BLD, at_B) + attend(x_BLD)).astype(self.config.residual)
        return self.feed_forward_norm(x_BLD + feed(x_BLD))


class SASRec(layers.Stack):
    """Causal blocks. Padding stands on the right, where no real position looks, so it needs no mask."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        blocks = [Block(config, rngs=rngs) for _ in range(config.layers)]
        super().__init__(blocks, config, out_norm=config.norm == "pre", rngs=rngs)

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
