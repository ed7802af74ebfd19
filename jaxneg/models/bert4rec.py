"""BERT4Rec: a transformer in which every event sees every other, trained to fill in hidden ones.

Reference: Sun et al., BERT4Rec, 2019, arXiv:1904.06690.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from jaxneg.config import ModelConfig
from jaxneg.models import layers, sasrec


class BERT4Rec(layers.Stack):
    """SASRec's blocks, in which nothing is hidden but padding."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        blocks = [sasrec.Block(config, causal=False, rngs=rngs) for _ in range(config.layers)]
        super().__init__(blocks, config, out_norm=config.norm == "pre", rngs=rngs)

    def __call__(
        self,
        x_BLD: Float[Array, "B L D"],
        mask_BL: Bool[Array, "B L"],
        key: jax.Array | None,
        segment_BL: Int[Array, "B L"] | None = None,
        at_B: Int[Array, "B"] | None = None,
    ) -> Float[Array, "B P D"]:
        """Hidden states, each of all real positions, before and after."""
        # Padding is a segment of its own, 0, which no real position sees.
        own_BL = jnp.ones_like(mask_BL, jnp.int32) if segment_BL is None else segment_BL
        return self.through(x_BLD, jnp.where(mask_BL, own_BL, 0), key, at_B)
