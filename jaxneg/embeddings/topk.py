"""Ranks and the top k in a whole catalogue whose rows devices share: each works on its own rows, and they merge.

The definitions are those of ``metrics.rank``, which needs all scores of an example in one place.
"""

# jnp.einsum leaves its arguments untyped.
# pyright: reportUnknownMemberType=false

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float, Int

from jaxneg.batch import PAD
from jaxneg.embeddings import sharding, tables
from jaxneg.embeddings.sharding import MESH

CHUNK = 1 << 13  # rows that are scored at a time
LAST = jnp.iinfo(jnp.int32).max


Host = jax.Array | np.ndarray


class Ranked(NamedTuple):
    """Of B examples, padding included."""

    rank_BC: jax.Array  # float32, of the targets; 0 where there is none
    score_Bk: jax.Array  # float32, the highest scores, best first; -inf where the catalogue ends
    top_Bk: jax.Array  # int32, their items; a tie goes to the lower row
    nan: jax.Array  # bool, whether any score is NaN


class Examples(NamedTuple):
    """B examples, a multiple of the devices, and what is asked of each."""

    h_BD: Float[Array, "B D"]
    target_BC: Int[Host, "B C"]  # items, PAD where there is none
    score_BC: Float[Array, "B C"]  # of the targets
    seen_BL: Int[Host, "B _"]  # items left out, though a target is always ranked; PAD where there is none


# Rows of whole tables, or of a part of them, as they are scored, row_CD, and their biases, bias_C.
Rows = Callable[[tables.Weights], tuple[jax.Array, jax.Array]]


def ranked(
    mesh: Mesh, items: int, rows: Rows, weights: tables.Weights, examples: Examples, *, k: int
) -> Ranked:
    """Where targets stand among all items, and which items lead.

        rank = 1 + #(other items scored above) + 0.5 * #(other items scored the same)

    Args:
      mesh: of the tables.
      items: of the catalogue, V - 1.
      rows: as they are scored.
      weights: tables and attributes by ``tables.place``, parameters the same on all devices.
      examples: whose targets are ranked.
      k: how many leading items to list.
    """
    parts, V = mesh.shape[MESH[1]], tables.rows(items)
    size = V // parts
    chunk = min(CHUNK, size)

    def local(
        params: tables.Params, item_tables: tables.Tables, *of_examples: jax.Array
    ) -> tuple[jax.Array, ...]:
        # Every part of a replica ranks the examples of all of them.
        h_BD, target_BC, target_score_BC, seen_BL = (
            sharding.all_gather(leaf, MESH[1]) for leaf in of_examples
        )
        B, first = len(h_BD), lax.axis_index(MESH[1]) * size

        def scan(state: tuple[jax.Array, ...], start: jax.Array) -> tuple[tuple[jax.Array, ...], None]:
            above_BC, tied_BC, score_Bk, top_Bk, nan = state
            begin = jnp.minimum(start, size - chunk)
            some = {
                name: lax.dynamic_slice_in_dim(table, begin, chunk) for name, table in item_tables.items()
            }
            at_C = begin + lax.iota(jnp.int32, chunk)
            id_C = tables.item_at(first + at_C, V)
            real_C = (at_C >= start) & (id_C > PAD) & (id_C <= items)  # the last chunk overlaps
            row_CD, bias_C = rows(tables.weights(params, some))
            score_BC = scores(h_BD, row_CD, bias_C)
            nan |= (jnp.isnan(score_BC) & real_C[None]).any()
            kept_BC = real_C[None] & ~(seen_BL[:, :, None] == id_C[None, None]).any(1)
            other = kept_BC[:, None] & (target_BC[:, :, None] != id_C[None, None])
            above_BC += (other & (score_BC[:, None] > target_score_BC[:, :, None])).sum(-1)
            tied_BC += (other & (score_BC[:, None] == target_score_BC[:, :, None])).sum(-1)
            if k:
                score_BC = jnp.where(kept_BC, score_BC, -jnp.inf)
                item_BC = jnp.where(kept_BC, id_C[None], LAST)
                score_Bk, top_Bk = _best([score_Bk, score_BC], [top_Bk, item_BC], k)
            return (above_BC, tied_BC, score_Bk, top_Bk, nan), None

        none_BC = jnp.zeros(target_BC.shape, jnp.int32)
        empty = jnp.full((B, k), -jnp.inf), jnp.full((B, k), LAST)
        start = (none_BC, none_BC, *empty, jnp.zeros((), bool))
        state, _ = lax.scan(scan, start, jnp.arange(0, size, chunk))
        above_BC, tied_BC, score_Bk, top_Bk, nan = state
        rank_BC = 1.0 + sharding.psum(above_BC, MESH[1]) + 0.5 * sharding.psum(tied_BC, MESH[1])
        rank_BC = jnp.where(target_BC != PAD, rank_BC, 0.0)
        if k and parts > 1:
            score_Bk, top_Bk = (sharding.all_gather(leaf, MESH[1], along=1) for leaf in (score_Bk, top_Bk))
            score_Bk, top_Bk = _best([score_Bk], [top_Bk], k)
        top_Bk = jnp.where(top_Bk == LAST, PAD, top_Bk)
        # Each device gives the examples that it was given.
        own = lax.axis_index(MESH[1]) * (B // parts)
        found = (lax.dynamic_slice_in_dim(leaf, own, B // parts) for leaf in (rank_BC, score_Bk, top_Bk))
        return *found, sharding.pmax(nan, MESH)

    each, shared = PartitionSpec(MESH), PartitionSpec(MESH[1])
    merged = jax.shard_map(
        local,
        mesh=mesh,
        in_specs=(
            {name: PartitionSpec() for name in weights.params},
            {name: shared for name in weights.by_row},
            *(each,) * 4,
        ),
        out_specs=(each, each, each, PartitionSpec()),
        check_vma=False,
    )
    rank_BC, score_Bk, top_Bk, nan = merged(dict(weights.params), weights.by_row, *map(jnp.asarray, examples))
    return Ranked(rank_BC, score_Bk, top_Bk, nan)


def scores(
    h_BD: Float[Array, "B D"], row_CD: Float[Array, "C D"], bias_C: Float[Array, "C"]
) -> Float[Array, "B C"]:
    """Of each hidden state with each row, the row's bias added."""
    return jnp.einsum("BD,CD->BC", h_BD, row_CD) + bias_C[None]


def _best(scores: Sequence[jax.Array], items: Sequence[jax.Array], k: int) -> tuple[jax.Array, jax.Array]:
    """The k highest scores with their items, ties by item."""
    order = (-jnp.concatenate(scores, 1), jnp.concatenate(items, 1))
    negated_BC, item_BC = lax.sort(order, dimension=1, num_keys=2)
    return -negated_BC[:, :k], item_BC[:, :k]
