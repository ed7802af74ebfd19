"""Attention by the splash kernel of Pallas, which TPUs have: blocks that a mask hides whole are never computed.

Weights are never in memory, and sequences of a packed row are told apart within the kernel.
"""

import math
from typing import cast

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, Int

from jaxneg.models import layers

LANES = 128  # the kernel takes positions in multiples of these
BLOCK = 4 * LANES  # positions of a block of it, at most
PADDING = -1  # segment of positions that only fill up the last block


def fits(q_BLHK: jax.Array | jax.ShapeDtypeStruct) -> bool:
    """Whether the program is for a TPU, and at most half of what its kernel would read of such queries is padding."""
    return layers.platform() == "tpu" and padded(q_BLHK.shape[1]) < 2 * q_BLHK.shape[1]


def padded(length: int) -> int:
    """Positions with those that fill up the last of the kernel's lanes."""
    return -(-length // LANES) * LANES


def attention(
    q_BLHK: Float[Array, "B L H K"],
    k_BLHK: Float[Array, "B L H K"],
    v_BLHK: Float[Array, "B L H K"],
    segment_BL: Int[Array, "B L"] | None = None,
    *,
    causal: bool = True,
    interpret: bool = False,
) -> Float[Array, "B L H K"]:
    """softmax(q k / sqrt(K)) v of each position over those that it sees, as ``attention.attention`` has it.

    Args:
      segment_BL: which sequence each position is of; None where all are of one.
      causal: whether later positions are hidden.
      interpret: computes what the kernel says by XLA, on any device.
    """
    from jax.experimental.pallas.ops.tpu import splash_attention as kernels

    B, L, H, K = q_BLHK.shape
    P = padded(L)
    block = math.gcd(P, BLOCK)
    mask = kernels.CausalMask((P, P)) if causal else kernels.FullMask((P, P))
    kernel = kernels.make_splash_mha(
        kernels.MultiHeadMask([mask] * H),
        block_sizes=kernels.BlockSizes(
            block_q=block,
            block_kv=block,
            block_q_dkv=block,
            block_kv_dkv=block,
            block_q_dq=block,
            block_kv_dq=block,
        ),
        head_shards=1,
        q_seq_shards=1,
        interpret=interpret,
    )
    if segment_BL is None and P > L and not causal:
        segment_BL = jnp.zeros((B, L), jnp.int32)

    def filled(x_BLHK: jax.Array) -> jax.Array:
        return jnp.pad(jnp.moveaxis(x_BLHK, 2, 1), ((0, 0), (0, 0), (0, P - L), (0, 0)))

    parts = [filled(x_BLHK) for x_BLHK in (q_BLHK * K**-0.5, k_BLHK, v_BLHK)]
    if segment_BL is not None:
        parts.append(jnp.pad(segment_BL, ((0, 0), (0, P - L)), constant_values=PADDING))

    def rows(q_BHLK: jax.Array, k_BHLK: jax.Array, v_BHLK: jax.Array, *segment_BL: jax.Array) -> jax.Array:
        def row(q_HLK: jax.Array, k_HLK: jax.Array, v_HLK: jax.Array, *segment_L: jax.Array) -> jax.Array:
            segments = kernels.SegmentIds(segment_L[0], segment_L[0]) if segment_L else None
            return cast(jax.Array, kernel(q_HLK, k_HLK, v_HLK, segments))

        return jax.vmap(row)(q_BHLK, k_BHLK, v_BHLK, *segment_BL)

    mesh = jax.sharding.get_abstract_mesh()
    if not mesh.empty:
        # Unlike XLA's own operations a kernel is not parted among devices by itself.
        own = PartitionSpec(mesh.axis_names) if B % mesh.size == 0 else PartitionSpec()
        rows = jax.shard_map(rows, in_specs=own, out_specs=own, check_vma=False)
    return jnp.moveaxis(rows(*parts)[:, :, :L], 1, 2)
