"""GRU4Rec: gated recurrent units over the events seen.

Reference: Hidasi et al., Session-based Recommendations with Recurrent Neural Networks, 2016, arXiv:1511.06939.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from jaxneg.config import ModelConfig
from jaxneg.models import layers


class GRU4Rec(nnx.Module):
    """``config.layers`` GRUs of the model's width, with dropout between them. Padding on the right needs no mask."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        self.layers, self.dropout = config.layers, config.dropout
        for n in range(config.layers):
            setattr(self, f"gru{n}", layers.GRU(config.width, jnp.dtype(config.dtype), rngs=rngs))

    def __call__(
        self,
        x_BLD: Float[Array, "B L D"],
        mask_BL: Bool[Array, "B L"],
        key: jax.Array | None,
        segment_BL: Int[Array, "B L"] | None = None,
    ) -> Float[Array, "B L D"]:
        """Hidden states, each of the events up to and including its position."""
        del mask_BL
        first_BL = None if segment_BL is None else layers.positions(segment_BL) == 0
        for n, layer_key in enumerate(layers.split(key, self.layers)):
            x_BLD = x_BLD if n == 0 else layers.dropout(x_BLD, self.dropout, layer_key)
            x_BLD = getattr(self, f"gru{n}")(x_BLD, first_BL)
        return x_BLD
