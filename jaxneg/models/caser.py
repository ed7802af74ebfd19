"""Caser: convolutional filters over the last events.

Reference: Tang and Wang, Personalized Top-N Sequential Recommendation via Convolutional Sequence Embedding, 2018,
arXiv:1809.07426.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from jaxneg.config import ModelConfig
from jaxneg.models import layers

CHANNELS = (
    1  # horizontal filters of each height, as in Seshadri et al., RecSys 2024; Caser's authors tried 4 to 64
)


class Caser(nnx.Module):
    """A linear map of what filters find in the window of the last ``config.window`` events, zeros before the first.

    Horizontal filters of heights 2 to the window, with ReLU and the maximum over places, and one vertical filter. There
    is one layer, whatever ``config.layers``, and no vector of the user. Windows look back only, so padding on the right
    needs no mask.
    """

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        self.dropout = config.dropout
        dtype, heights = jnp.dtype(config.dtype), range(2, config.window + 1)
        self.horizontal = layers.HorizontalFilters(
            config.width, config.window, heights, CHANNELS, dtype, rngs=rngs
        )
        self.vertical = layers.VerticalFilter(config.window, rngs=rngs)
        self.out = layers.Linear(config.width + CHANNELS * len(heights), config.width, dtype=dtype, rngs=rngs)

    def __call__(
        self, x_BLD: Float[Array, "B L D"], mask_BL: Bool[Array, "B L"], key: jax.Array | None
    ) -> Float[Array, "B L D"]:
        """Hidden states, each of the window that ends at its position."""
        del mask_BL
        found_BLF = jnp.concatenate([self.horizontal(x_BLD), self.vertical(x_BLD)], axis=-1)
        return layers.dropout(self.out(found_BLF).astype(jnp.float32), self.dropout, key)
