"""BERT4Rec: a transformer in which every event sees every other, trained to fill in hidden ones.

Reference: Sun et al., BERT4Rec, 2019, arXiv:1904.06690.
"""

import jax
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from jaxneg.config import ModelConfig
from jaxneg.models import layers, sasrec


class BERT4Rec(layers.Stack):
    """SASRec's blocks under a mask that hides nothing but padding."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        blocks = [sasrec.Block(config, rngs=rngs) for _ in range(config.layers)]
        pre = config.norm == "pre"
        super().__init__(blocks, config.width, out_norm=pre, remat=config.remat, rngs=rngs)

    def __call__(
        self,
        x_BLD: Float[Array, "B L D"],
        mask_BL: Bool[Array, "B L"],
        key: jax.Array | None,
        segment_BL: Int[Array, "B L"] | None = None,
    ) -> Float[Array, "B L D"]:
        """Hidden states, each of all real positions, before and after."""
        mask_B11M = mask_BL[:, None, None, :]
        if segment_BL is None:
            return self.through(x_BLD, mask_B11M, key)
        return self.through(x_BLD, mask_B11M & layers.within(segment_BL), key)
