"""Scaled dot-product attention: one function, with a body for each kind of device.

A position sees positions of its own segment, and of these, where it is causal, itself and what came before. The bodies
differ in speed alone:

    blocks    queries in blocks, each against the keys that it may see: half of a causal square is never computed
    lanes     on a TPU, of rows up to ``WHOLE`` positions: the whole square, heads side by side as they lie
    fused     a kernel, without dropout on weights: cuDNN's on a GPU, splash on a TPU; XLA's own where neither fits
"""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from jaxneg.config import ModelConfig
from jaxneg.models import layers, splash
from jaxneg.models.layers import Linear, dropout, split

BLOCK = 50  # queries of a block, at least: fewer make products slow
ALONE = 100  # of one row without gradients, whose products are over before they have begun
BLOCKS = 8  # at most, so that the program does not grow with the positions
WHOLE = 512  # positions of a square that is computed whole


class Drop(NamedTuple):
    """Dropout: a share, and the key that it is drawn by; without a key nothing is dropped."""

    rate: float = 0.0
    key: jax.Array | None = None


NOTHING = Drop()


def attention(
    q_BLHK: Float[Array, "B L H K"],
    k_BLHK: Float[Array, "B L H K"],
    v_BLHK: Float[Array, "B L H K"],
    segment_BL: Int[Array, "B L"] | None = None,
    *,
    causal: bool = True,
    drop: Drop = NOTHING,
) -> Float[Array, "B L H K"]:
    """What each position gathers from those that it sees: softmax(q k / sqrt(K)) v, the softmax in float32.

    Args:
      segment_BL: which sequence each position is of; None where all are of one.
      causal: whether later positions are hidden.
      drop: which share of the weights is zeroed and the rest scaled up.
    """
    B, L, H, K = q_BLHK.shape
    q_NLK, k_NLK, v_NLK = map(_by_head, (q_BLHK, k_BLHK, v_BLHK))
    done: list[jax.Array] = []
    for start, end, key in _blocks(L, drop.key, causal=causal, alone=B == 1):
        seen = end if causal else L
        own_BP = None if segment_BL is None else segment_BL[:, start:end]
        visible = _visible(jnp.arange(start, end)[None], own_BP, segment_BL, seen, causal=causal)
        done.append(
            _gathered(q_NLK[:, start:end], k_NLK[:, :seen], v_NLK[:, :seen], visible, Drop(drop.rate, key))
        )
    y_NLK = done[0] if len(done) == 1 else jnp.concatenate(done, axis=1)
    return jnp.moveaxis(y_NLK.reshape(B, H, L, K), 1, 2)


def attention_at(
    at_B: Int[Array, "B"],
    q_B1HK: Float[Array, "B 1 H K"],
    x_BLD: Float[Array, "B L D"],
    kernels: tuple[Float[Array, "D H K"], Float[Array, "D H K"]],
    segment_BL: Int[Array, "B L"] | None = None,
    *,
    causal: bool = True,
) -> Float[Array, "B 1 H K"]:
    """The same for one position of each row, at_B, whose query is given; nothing is dropped.

    Keys x W and values x V, by ``kernels`` W and V, are never made: q (x W) = (q W) x, and the sum of w (x V) is (the
    sum of w x) V. A bias of keys would raise all logits alike, and one of values is the caller's to add, as weights
    sum to 1.
    """
    at_B1, (D, K), (key_DHK, value_DHK) = at_B[:, None], (x_BLD.shape[2], q_B1HK.shape[3]), kernels
    own_B1 = None if segment_BL is None else jnp.take_along_axis(segment_BL, at_B1, axis=1)
    visible = _visible(at_B1, own_B1, segment_BL, x_BLD.shape[1], causal=causal)
    # By so much more are logits of width D scaled down than those of width K.
    q_BHD = jnp.einsum("BHK,DHK->BHD", q_B1HK[:, 0] * (D / K) ** 0.5, key_DHK)
    y_BHD = _gathered(q_BHD, x_BLD, x_BLD, visible, NOTHING)
    return jnp.einsum("BHD,DHK->BHK", y_BHD, value_DHK)[:, None]


def lanes_attention(
    q_BLHK: Float[Array, "B L H K"],
    k_BLHK: Float[Array, "B L H K"],
    v_BLHK: Float[Array, "B L H K"],
    segment_BL: Int[Array, "B L"] | None = None,
    *,
    causal: bool = True,
    drop: Drop = NOTHING,
) -> Float[Array, "B L H K"]:
    """The same, what is dropped included, of the whole square and without a copy for each head.

    A TPU's registers and products are ``splash.LANES`` numbers wide. As many heads as these hold, W, stay side by side:
    queries are zero but for one head's, so that a product over all of them is that head's.
    """
    B, L, H, K = q_BLHK.shape
    beside = next(count for count in range(H, 0, -1) if H % count == 0 and count * K <= max(splash.LANES, K))
    groups, wide = H // beside, beside * K
    q_NLW, k_NLW, v_NLW = (
        _by_head(x_BLHK.reshape(B, L, groups, wide)) for x_BLHK in (q_BLHK, k_BLHK, v_BLHK)
    )
    visible = _visible(jnp.arange(L)[None], segment_BL, segment_BL, L, causal=causal)
    y_NLW = jnp.zeros_like(v_NLW)
    for head in range(beside):
        own_11W = (jnp.arange(wide) // K == head)[None, None]
        logits_NLM = jnp.einsum(
            "NLW,NMW->NLM", jnp.where(own_11W, q_NLW, 0), k_NLW, preferred_element_type=jnp.float32
        )
        weight_NLM = _weights(logits_NLM * K**-0.5, visible).astype(v_NLW.dtype)
        if drop.key is not None and drop.rate > 0.0:
            at_N = jnp.arange(B * groups, dtype=jnp.uint32) * np.uint32(beside) + np.uint32(head)
            index_NLM, seed = _block_masks(at_N, L, drop.key, causal=causal)
            weight_NLM = layers.dropped(weight_NLM, index_NLM, seed, drop.rate)
        y_NLW += jnp.where(own_11W, jnp.einsum("NLM,NMW->NLW", weight_NLM, v_NLW), 0)
    return jnp.moveaxis(y_NLW.reshape(B, groups, L, wide), 1, 2).reshape(B, L, H, K)


def _block_masks(
    at_N: jax.Array, length: int, key: jax.Array, *, causal: bool
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    """Indices NLM, and words 1L1, of the masks by which ``attention`` drops weights block by block.

    Args:
      at_N: uint32, places among all heads of all rows.
    """
    starts, ends, keys = zip(*_blocks(length, key, causal=causal), strict=True)
    word_S2 = jnp.stack([layers.words(one) for one in keys])
    start_S, end_S = np.array(starts, np.uint32), np.array(ends, np.uint32)
    block_L = np.repeat(np.arange(len(starts)), end_S - start_S)
    queries_L = (end_S - start_S)[block_L]
    keys_L = end_S[block_L] if causal else np.full(length, length, np.uint32)
    within_L = (np.arange(length, dtype=np.uint32) - start_S[block_L]) * keys_L
    index_NL1 = at_N[:, None, None] * (queries_L * keys_L)[None, :, None] + within_L[None, :, None]
    index_NLM = index_NL1 + jnp.arange(length, dtype=jnp.uint32)[None, None]
    word_L2 = word_S2[block_L]
    return index_NLM, (word_L2[None, :, 0, None], word_L2[None, :, 1, None])


def _by_head(x_BLHK: Float[Array, "B L H K"]) -> Float[Array, "N L K"]:
    """Heads as part of the batch, N = B H: behind positions they have XLA copy every operand on a CPU."""
    B, L, H, K = x_BLHK.shape
    return jnp.moveaxis(x_BLHK, 2, 1).reshape(B * H, L, K)


def _gathered(
    q_NPK: Float[Array, "N P K"],
    k_NMK: Float[Array, "N M K"],
    v_NMK: Float[Array, "N M K"],
    visible: Bool[Array, "#B 1 #P M"] | None,
    drop: Drop,
) -> Float[Array, "N P K"]:
    """softmax(q k / sqrt(K)) v of the queries of a block over what is visible to them."""
    logits_NPM = jnp.einsum("NPK,NMK->NPM", q_NPK, k_NMK, preferred_element_type=jnp.float32)
    weight_NPM = _weights(logits_NPM * q_NPK.shape[-1] ** -0.5, visible).astype(v_NMK.dtype)
    weight_NPM = dropout(weight_NPM, drop.rate, drop.key)
    return jnp.einsum("NPM,NMK->NPK", weight_NPM, v_NMK)


def _weights(
    logits_NPM: Float[Array, "N P M"], visible: Bool[Array, "#B 1 #P M"] | None
) -> Float[Array, "N P M"]:
    """The softmax over what is visible, N being rows with their heads."""
    if visible is not None:
        (N, P, M), B = logits_NPM.shape, visible.shape[0]
        shown = jnp.broadcast_to(visible, (B, N // B, P, M)).reshape(logits_NPM.shape)
        logits_NPM = jnp.where(shown, logits_NPM, jnp.finfo(jnp.float32).min)
    return jax.nn.softmax(logits_NPM, axis=-1)


def _blocks(
    length: int, key: jax.Array | None, *, causal: bool, alone: bool = False
) -> list[tuple[int, int, jax.Array | None]]:
    """Where each block of queries begins and ends, and what it drops weights by."""
    size = block_size(length, alone=alone and key is None) if causal else length
    starts = range(0, length, size)
    keys = [key] if len(starts) == 1 else split(key, len(starts))
    return [(start, min(start + size, length), own) for start, own in zip(starts, keys, strict=True)]


def block_size(length: int, *, alone: bool = False) -> int:
    """Queries of a block, of rows with so many positions, or of one that is ``alone`` and not trained."""
    return max(ALONE if alone else BLOCK, -(-length // BLOCKS))


def _visible(
    at_BP: Int[Array, "#B P"],
    own_BP: Int[Array, "B P"] | None,
    segment_BL: Int[Array, "B L"] | None,
    seen: int,
    *,
    causal: bool,
) -> Bool[Array, "#B 1 P M"] | None:
    """Which of the first ``seen`` positions those at at_BP, of the segments own_BP, see; None: all."""
    visible = None
    if causal:
        visible = at_BP[:, None, :, None] >= jnp.arange(seen)[None, None, None, :]
    if segment_BL is not None and own_BP is not None:
        same = own_BP[:, None, :, None] == segment_BL[:, None, None, :seen]
        visible = same if visible is None else visible & same
    return visible


def fused_attention(
    q_BLHK: Float[Array, "B L H K"],
    k_BLHK: Float[Array, "B L H K"],
    v_BLHK: Float[Array, "B L H K"],
    segment_BL: Int[Array, "B L"] | None = None,
    *,
    causal: bool = True,
) -> Float[Array, "B L H K"]:
    """The same by the kernel of the device that the program is for, else by ``jax.nn.dot_product_attention``."""
    if splash.fits(q_BLHK):
        return splash.attention(q_BLHK, k_BLHK, v_BLHK, segment_BL, causal=causal)
    length = q_BLHK.shape[1]
    # Rows without segments are causal by themselves, which cuDNN makes use of; a mask is read whole, as JAX does not
    # offer the offsets of segments that cuDNN could be given.
    mask = (
        None
        if segment_BL is None
        else _visible(jnp.arange(length)[None], segment_BL, segment_BL, length, causal=causal)
    )
    implementation = fused_implementation(q_BLHK, masked=mask is not None)
    return jax.nn.dot_product_attention(
        q_BLHK, k_BLHK, v_BLHK, mask=mask, is_causal=causal and mask is None, implementation=implementation
    )


def fused_implementation(
    q_BLHK: jax.Array | jax.ShapeDtypeStruct, *, masked: bool
) -> Literal["cudnn", "xla"]:
    """Whose attention: cuDNN's on a GPU where it takes such queries, else XLA's, which is fused as far as XLA goes.

    cuDNN takes 16 bits, GPUs from Ampere on, heads whose width is a multiple of 8 up to 128 and, under a mask that is
    more than causal, an even number of positions.
    """
    L, K = q_BLHK.shape[1], q_BLHK.shape[3]
    fits = q_BLHK.dtype == jnp.bfloat16 and K % 8 == 0 and K <= 128 and not (masked and L % 2)
    if not fits or jax.default_backend() != "gpu":
        return "xla"
    device = jax.devices()[0]
    ampere = device.device_kind.startswith("NVIDIA") and float(device.compute_capability) >= 8.0
    return "cudnn" if ampere else "xla"


class Attention(nnx.Module):
    """Multi-head attention with its projections. With ``config.attention`` "fused" a kernel does what is between."""

    def __init__(self, config: ModelConfig, *, causal: bool = True, rngs: nnx.Rngs):
        width, dtype = config.width, jnp.dtype(config.dtype)
        self.heads, self.dropout, self.causal = config.heads, config.weights_dropped, causal
        self.fused = config.attention == "fused"
        self.query = Linear(width, width, dtype=dtype, rngs=rngs)
        self.key = Linear(width, width, dtype=dtype, rngs=rngs)
        self.value = Linear(width, width, dtype=dtype, rngs=rngs)
        self.out = Linear(width, width, dtype=dtype, rngs=rngs)

    def __call__(
        self,
        x_BLD: Float[Array, "B L D"],
        segment_BL: Int[Array, "B L"] | None,
        key: jax.Array | None,
        at_B: Int[Array, "B"] | None = None,
    ) -> Float[Array, "B P D"]:
        """What each position, or the one at at_B, gathers from its segment and, where it is causal, not after it."""
        if at_B is not None:
            return self._at(at_B, x_BLD, segment_BL)
        B, _, D = x_BLD.shape
        parts = [self.query, self.key, self.value]
        # Without a gradient, for which one product is faster, each by itself saves joining and cutting.
        made = [part(x_BLD) for part in parts] if key is None else layers.joint(parts, x_BLD)
        q_BLHK, k_BLHK, v_BLHK = (part.reshape(B, -1, self.heads, D // self.heads) for part in made)
        if self.fused:
            y_BLHK = fused_attention(q_BLHK, k_BLHK, v_BLHK, segment_BL, causal=self.causal)
        else:
            drop = Drop(self.dropout, key)
            body = lanes_attention if layers.platform() == "tpu" and q_BLHK.shape[1] <= WHOLE else attention
            y_BLHK = body(q_BLHK, k_BLHK, v_BLHK, segment_BL, causal=self.causal, drop=drop)
        return self.out(y_BLHK.reshape(B, -1, D))

    def _at(self, at_B: jax.Array, x_BLD: jax.Array, segment_BL: jax.Array | None) -> Float[Array, "B 1 D"]:
        """What the position at at_B gathers."""
        B, _, D = x_BLD.shape
        dtype, heads = self.query.dtype, (D, self.heads, D // self.heads)
        q_B1HK = self.query(layers.taken(x_BLD, at_B)).reshape(B, 1, *heads[1:])
        key_DHK, value_DHK = (
            part.kernel.get_value().astype(dtype).reshape(heads) for part in (self.key, self.value)
        )
        x_BLD = x_BLD.astype(dtype)
        y_B1HK = attention_at(at_B, q_B1HK, x_BLD, (key_DHK, value_DHK), segment_BL, causal=self.causal)
        y_B1D = y_B1HK.reshape(B, 1, D).astype(jnp.float32)
        if self.value.bias is not None:
            y_B1D += self.value.bias.get_value()[None, None]
        return self.out(y_B1D.astype(dtype))
