"""Heads: rows of items with their biases, and the scores of hidden states with them.

What items are scored with is one head, or two: then the second one's score, where it is below 0, comes on top of the
first one's, so that it can only move items down. Rows that are narrower than the hidden states are scored with what
these begin with.
"""

# jnp.einsum leaves its arguments untyped.
# pyright: reportUnknownMemberType=false

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Head = tuple[jax.Array, jax.Array]  # rows of items, and their biases
Heads = tuple[jax.Array, ...]  # a head, or two one after the other


def scores(h_BD: Float[Array, "B D"], *heads: jax.Array) -> Float[Array, "B C"]:
    """Of each hidden state with each item, whose rows are row_CD and biases bias_C."""
    row_CD, bias_C, *second = heads
    score_BC = jnp.einsum("BD,CD->BC", h_BD[:, : row_CD.shape[1]], row_CD) + bias_C[None]
    return score_BC + jnp.minimum(scores(h_BD, *second), 0.0) if second else score_BC


def own_scores(h_BD: Float[Array, "B D"], *heads: jax.Array) -> Float[Array, "B C"]:
    """Of each hidden state with items of its own, whose rows are row_BCD and biases bias_BC."""
    row_BCD, bias_BC, *second = heads
    score_BC = jnp.einsum("BD,BCD->BC", h_BD[:, : row_BCD.shape[2]], row_BCD) + bias_BC
    return score_BC + jnp.minimum(own_scores(h_BD, *second), 0.0) if second else score_BC
