"""The softmax over the whole catalogue, a block of items at a time: no array has all its logits.

Logits of a block are computed, folded into a running maximum and sum, and forgotten; the gradient computes them again.
P are positions, C all items, E the items of a block.
"""

# jnp.einsum leaves its arguments untyped.
# pyright: reportUnknownMemberType=false

from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from jaxneg.training import losses

LOGITS = 1 << 22  # of a block, about; they and what is made of them should stay in a cache
COLUMNS = 128, 4096  # least and most items of a block

Pair = tuple[jax.Array, jax.Array]
Triple = tuple[jax.Array, jax.Array, jax.Array]


class Given(NamedTuple):
    """What scores of positions for items are made of, and each position's target."""

    h_PD: jax.Array
    row_CD: jax.Array
    bias_C: jax.Array
    pos_P: jax.Array  # logit of the target
    own_P: jax.Array  # place of the target among the items


class Block(NamedTuple):
    """Some items, and the scores of all positions for them."""

    start: jax.Array  # its first item
    row_ED: jax.Array
    there_PE: jax.Array  # False at a position's own target, and where the block before had the item
    above_PE: jax.Array  # logits less the target's, ABSENT where not there


def softmax(
    h_BLD: Float[Array, "B L D"],
    items: tuple[Float[Array, "C D"], Float[Array, "C"]],
    pos_BL: Float[Array, "B L"],
    target_BL: Int[Array, "B L"],
    mask_BL: Bool[Array, "B L"],
    *,
    columns: int | None = None,
) -> Float[Array, ""]:
    """Mean cross-entropy of each target among all items.

        loss = -log(exp(pos) / (exp(pos) + sum over other items of exp(h row + bias)))

    Args:
      h_BLD: hidden states.
      items: rows of the items 1 to C, in their order, and their biases.
      pos_BL: logits of the targets.
      target_BL: items; of 0, which is none, all C are others.
      mask_BL: True where a target exists.
      columns: items of a block, as many as suit the number of positions by default.

    Reference: Milakov and Gimelshein, Online normalizer calculation for softmax, 2018, arXiv:1805.02867; Wijmans et
    al., Cut Your Losses in Large-Vocabulary Language Models, ICLR 2025, arXiv:2411.09009.
    """
    columns = min(columns or block_size(mask_BL.size), len(items[1]))
    h_PD = h_BLD.reshape(-1, h_BLD.shape[-1])
    odds_P = _odds(columns, h_PD, *items, pos_BL.ravel(), target_BL.ravel() - 1)
    return losses.mean(jax.nn.softplus(odds_P), mask_BL.ravel())


def block_size(positions: int) -> int:
    """Items of a block for so many positions: a power of two.

    Examples:
      >>> block_size(25_600), block_size(2_048), block_size(64)
      (128, 2048, 4096)
    """
    least, most = COLUMNS
    return min(max(1 << (max(LOGITS // positions, 1).bit_length() - 1), least), most)


def _log_odds(
    columns: int, h_PD: jax.Array, row_CD: jax.Array, bias_C: jax.Array, pos_P: jax.Array, own_P: jax.Array
) -> jax.Array:
    """Log odds of all other items against the target, whose place among the items is ``own_P``."""
    h_PD, pos_P = h_PD.astype(jnp.float32), pos_P.astype(jnp.float32)
    given = Given(h_PD, row_CD, bias_C, pos_P, own_P)

    def fold(so_far: Pair, turn: jax.Array) -> tuple[Pair, None]:
        most_P, sum_P = so_far
        above_PE = _block(columns, turn, given).above_PE
        new_P = jnp.maximum(most_P, above_PE.max(-1))
        sum_P = sum_P * jnp.exp(most_P - new_P) + jnp.exp(above_PE - new_P[:, None]).sum(-1)
        return (new_P, sum_P), None

    start = jnp.full_like(pos_P, losses.ABSENT), jnp.zeros_like(pos_P)
    (most_P, sum_P), _ = lax.scan(fold, start, jnp.arange(-(-len(bias_C) // columns)))
    return most_P + jnp.log(sum_P)


def _forward(columns: int, *given: jax.Array) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    odds_P = _log_odds(columns, *given)
    return odds_P, (odds_P, *given)


def _backward(columns: int, kept: tuple[jax.Array, ...], up_P: jax.Array) -> tuple[jax.Array | None, ...]:
    odds_P, h_PD, row_CD, bias_C, pos_P, own_P = kept
    like = h_PD.dtype, row_CD.dtype, bias_C.dtype, pos_P.dtype
    h_PD, pos_P = h_PD.astype(jnp.float32), pos_P.astype(jnp.float32)
    given = Given(h_PD, row_CD, bias_C, pos_P, own_P)

    def add(so_far: Triple, turn: jax.Array) -> tuple[Triple, None]:
        of_h_PD, of_row_CD, of_bias_C = so_far
        start, row_ED, there_PE, above_PE = _block(columns, turn, given)
        weight_PE = jnp.where(there_PE, jnp.exp(above_PE - odds_P[:, None]), 0.0) * up_P[:, None]
        # The last block may begin within the one before, whose items have a weight of 0 in it.
        row_gradient_ED = _part(of_row_CD, start, columns) + jnp.einsum("PE,PD->ED", weight_PE, h_PD)
        bias_gradient_E = _part(of_bias_C, start, columns) + weight_PE.sum(0)
        return (
            of_h_PD + jnp.einsum("PE,ED->PD", weight_PE, row_ED),
            lax.dynamic_update_slice_in_dim(of_row_CD, row_gradient_ED, start, 0),
            lax.dynamic_update_slice_in_dim(of_bias_C, bias_gradient_E, start, 0),
        ), None

    zeros = jnp.zeros_like(h_PD), jnp.zeros(row_CD.shape), jnp.zeros(bias_C.shape)
    of_items, _ = lax.scan(add, zeros, jnp.arange(-(-len(bias_C) // columns)))
    found = *of_items, -up_P
    return *(leaf.astype(dtype) for leaf, dtype in zip(found, like, strict=True)), None


# Its own types are partial.
_odds = cast(Any, jax.custom_vjp)(_log_odds, nondiff_argnums=(0,))
_odds.defvjp(_forward, _backward)


def _block(columns: int, turn: jax.Array, given: Given) -> Block:
    h_PD, row_CD, bias_C, pos_P, own_P = given
    start = jnp.minimum(turn * columns, len(bias_C) - columns)
    item_E = start + jnp.arange(columns)
    row_ED = _part(row_CD, start, columns).astype(jnp.float32)
    bias_E = _part(bias_C, start, columns).astype(jnp.float32)
    there_PE = (item_E >= turn * columns)[None] & (item_E[None] != own_P[:, None])
    above_PE = jnp.einsum("PD,ED->PE", h_PD, row_ED) + bias_E[None] - pos_P[:, None]
    return Block(start, row_ED, there_PE, jnp.where(there_PE, above_PE, losses.ABSENT))


def _part(leaf_CX: jax.Array, start: jax.Array, columns: int) -> jax.Array:
    return lax.dynamic_slice_in_dim(leaf_CX, start, columns)
