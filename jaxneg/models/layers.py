"""Attention, feed-forward and dropout that encoders are built of."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float


def dropout(x: jax.Array, rate: float, key: jax.Array | None) -> jax.Array:
    """x with a share ``rate`` of its elements zeroed and the rest scaled up; x itself without a key.

    The mask hashes each element's index with two random words: a tenth of the cost of drawing random bits on a CPU,
    and the same mask for any sharding of x.
    """
    if key is None or rate == 0.0:
        return x
    seed = jax.random.bits(key, (2,), jnp.uint32)
    index = jnp.zeros(x.shape, jnp.uint32)
    stride = 1
    for axis in reversed(range(x.ndim)):
        index += jax.lax.broadcasted_iota(jnp.uint32, x.shape, axis) * jnp.uint32(stride % (1 << 32))
        stride *= x.shape[axis]
    bits = (index ^ seed[0]) * jnp.uint32(0x85EBCA6B)
    bits = (bits ^ (bits >> 15) ^ seed[1]) * jnp.uint32(0xC2B2AE35)
    bits ^= bits >> 16
    keep = bits >= jnp.uint32(int(rate * (1 << 32)))
    return jnp.where(keep, x / jnp.asarray(1.0 - rate, x.dtype), jnp.zeros((), x.dtype))


class Attention(nnx.Module):
    """Multi-head scaled dot-product attention; softmax in float32."""

    def __init__(self, width: int, heads: int, dropout: float, dtype, *, rngs: nnx.Rngs):
        self.heads, self.dropout = heads, dropout
        self.query = nnx.Linear(width, width, dtype=dtype, rngs=rngs)
        self.key = nnx.Linear(width, width, dtype=dtype, rngs=rngs)
        self.value = nnx.Linear(width, width, dtype=dtype, rngs=rngs)
        self.out = nnx.Linear(width, width, dtype=dtype, rngs=rngs)

    def __call__(
        self, x_BLD: Float[Array, "B L D"], mask_11LM: Bool[Array, "1 1 L M"], key: jax.Array | None
    ) -> Float[Array, "B L D"]:
        """What each position gathers from the positions its mask row allows."""
        B, L, D = x_BLD.shape
        q_BLHK, k_BMHK, v_BMHK = (
            layer(x_BLD).reshape(B, L, self.heads, D // self.heads)
            for layer in (self.query, self.key, self.value)
        )
        logits_BHLM = jnp.einsum("BLHK,BMHK->BHLM", q_BLHK, k_BMHK, preferred_element_type=jnp.float32)
        logits_BHLM = logits_BHLM * (D // self.heads) ** -0.5
        logits_BHLM = jnp.where(mask_11LM, logits_BHLM, jnp.finfo(jnp.float32).min)
        weight_BHLM = jax.nn.softmax(logits_BHLM, axis=-1).astype(v_BMHK.dtype)
        weight_BHLM = dropout(weight_BHLM, self.dropout, key)
        y_BLHK = jnp.einsum("BHLM,BMHK->BLHK", weight_BHLM, v_BMHK)
        return self.out(y_BLHK.reshape(B, L, D))


class FeedForward(nnx.Module):
    """Two linear layers with a ReLU between, at each position by itself."""

    def __init__(self, width: int, hidden: int, dropout: float, dtype, *, rngs: nnx.Rngs):
        self.dropout = dropout
        self.up = nnx.Linear(width, hidden, dtype=dtype, rngs=rngs)
        self.down = nnx.Linear(hidden, width, dtype=dtype, rngs=rngs)

    def __call__(self, x_BLD: Float[Array, "B L D"], key: jax.Array | None) -> Float[Array, "B L D"]:
        return self.down(dropout(jax.nn.relu(self.up(x_BLD)), self.dropout, key))


def split(key: jax.Array | None, count: int) -> list[jax.Array | None]:
    """Keys of a layer's parts; no key gives none, which switches dropout off."""
    return [None] * count if key is None else list(jax.random.split(key, count))
