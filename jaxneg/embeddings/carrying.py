"""Rows of tables carried over into those of another catalogue, whichever way either lie, and rows for what is new.

V are the rows of the new tables of items, R those of any table.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxneg.embeddings import exchange, sharding
from jaxneg.embeddings.layouts import Layout


class Rows(NamedTuple):
    """What is known of the rows of new tables, by their place."""

    at_V: jax.Array  # int32, the place of the same item's row in the old tables
    known_V: jax.Array  # bool, whether there was one
    new_V: jax.Array  # bool, whether it is that of an item that was not there
    attribute_VA: jax.Array  # int32


def rows(old: Layout, new: Layout, item_V: np.ndarray, attribute_VA: np.ndarray) -> Rows:
    """Where the rows of new tables come from.

    Args:
      old: layout of the old tables.
      new: layout of the new ones.
      item_V: int32, by new item, the item that it was before; 0 for none.
      attribute_VA: of the new items.
    """
    was_V = new.by_row(item_V)
    new_V = np.asarray(new.there()) & (was_V == 0)
    at_V = np.asarray(old.place(jnp.asarray(was_V)))
    found = at_V, was_V > 0, new_V, new.by_row(attribute_VA)
    return Rows(*(sharding.put(leaf, new.mesh, "V") for leaf in found))


def moved(old: Layout, table: jax.Array, known: Rows) -> jax.Array:
    """The rows of an old table at the places of the new one, zeros where there was none."""
    at_places = exchange.moved(old.mesh, table, known.at_V) if old.parted else table[known.at_V]
    return jnp.where(_beside(known.known_V, table.ndim), at_places, 0)


def filled(
    moved: Float[Array, "V *X"], first: Float[Array, "V *X"], known: Rows, sizes: Sequence[int]
) -> Float[Array, "V *X"]:
    """A new table: the rows that there were, and for a new item the mean of those that share an attribute with it.

    Each of its attributes has a mean, of the items that were there, and they count alike. Where there is none, it is
    the first row of all, scaled as the others have grown. Biases differ: what is carried is how far they have moved
    from where they began, so that the odds of the new log count.

    Args:
      moved: what ``moved`` gave.
      first: the table before the first step.
      known: ``rows`` of the tables.
      sizes: number of values of each attribute.
    """
    known_VX = _beside(known.known_V, moved.ndim)
    begun = first if moved.ndim == 1 else jnp.zeros_like(first)
    change = jnp.where(known_VX, moved - begun, 0)
    total, means = jnp.zeros_like(moved), jnp.zeros(len(moved), moved.dtype)
    for k, size in enumerate(sizes):
        value_V = known.attribute_VA[:, k]
        of_known_V = jnp.where(known.known_V, value_V, 0)
        count_V = _sums(jnp.where(of_known_V > 0, 1.0, 0.0), of_known_V, size)[value_V]
        sum_VX = _sums(change, of_known_V, size)[value_V]
        has_V = (value_V > 0) & (count_V > 0)
        mean_VX = sum_VX / jnp.maximum(_beside(count_V, moved.ndim), 1)
        total += jnp.where(_beside(has_V, moved.ndim), mean_VX, 0)
        means += has_V
    means_VX = _beside(means, moved.ndim)
    if moved.ndim == 1:
        otherwise = change.sum() / jnp.maximum(known.known_V.sum(), 1)
    else:
        otherwise = grown(moved, first, known.known_V)
    guess = jnp.where(means_VX > 0, total / jnp.maximum(means_VX, 1), otherwise)
    new_VX = _beside(known.new_V, moved.ndim)
    return jnp.where(known_VX, moved, jnp.where(new_VX, begun + guess, first))


def renumbered(
    old: Float[Array, "_ X"], first: Float[Array, "R X"], row_R: Int[Array, "R"]
) -> Float[Array, "R X"]:
    """A table of codes, such as stations, from that of other codes; new ones have first rows as ``filled`` has.

    Args:
      old: the table that there was.
      first: the new table before the first step.
      row_R: the old row of each code, 0 for none.
    """
    moved = old[row_R]
    return jnp.where(_beside(row_R > 0, 2), moved, grown(moved, first, row_R > 0))


def grown(
    moved: Float[Array, "R *X"], first: Float[Array, "R *X"], known_R: Bool[Array, "R"]
) -> Float[Array, "R *X"]:
    """First rows, scaled to the root mean square of those that were there."""
    known_RX = _beside(known_R, moved.ndim)
    was, begun = (jnp.where(known_RX, jnp.square(leaf), 0).sum() for leaf in (moved, first))
    return first * jnp.where(begun > 0, jnp.sqrt(was / jnp.maximum(begun, 1e-30)), 1.0)


def _sums(value_VX: Float[Array, "V *X"], of_V: Int[Array, "V"], size: int) -> jax.Array:
    """Sums by value of an attribute, from 0 for none."""
    return jax.ops.segment_sum(value_VX, of_V, size + 1)


def _beside(value_V: jax.Array, ndim: int) -> jax.Array:
    return value_V.reshape(-1, *[1] * (ndim - 1))
