"""Ranks and the top k in a whole catalogue, counted where the rows lie: each device works on its own, and they merge.

The definitions are those of ``metrics.rank``, which sorts all scores of an example. Here scores are made for a chunk of
rows at a time and forgotten: of them remain how many are above each target, and which lead.
"""

# jnp.pad leaves its arguments untyped.
# pyright: reportUnknownMemberType=false

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, Int

from jaxneg.batch import PAD
from jaxneg.embeddings import heads, layouts, sharding, tables
from jaxneg.embeddings.places import Places
from jaxneg.embeddings.sharding import MESH
from jaxneg.metrics import ranking

CHUNK = 1 << 13  # rows that are scored at a time
GROUP = 32  # neighbours of which the best is noted while chunks are gone through; it divides CHUNK
TARGETS = 256  # targets that are counted together
SIDE = 128  # of what is summed up together
EXAMPLES = 8  # examples whose leading groups are looked into together
LAST = jnp.iinfo(jnp.int32).max
LOWEST = float(np.finfo(np.float32).min)

Host = jax.Array | np.ndarray


class Ranked(NamedTuple):
    """Of B examples, padding included."""

    count_BC: jax.Array  # int32, 2 #(other items above a target) + #(others the same); -1 where there is none
    top_Bk: jax.Array  # int32, items of the highest scores, best first; a tie goes to the lower row
    nan: jax.Array  # bool, whether any score is NaN


class Examples(NamedTuple):
    """B examples, and what is asked of each."""

    h_BD: Float[Host, "B D"]
    target_BC: Int[Host, "B C"]  # items, PAD where there is none
    seen_BL: Int[Host, "B _"]  # items left out, though a target is always ranked; PAD where there is none


class Part(NamedTuple):
    """The rows of a device, to be scored against examples."""

    places: Places
    number: jax.Array | int  # which part it is
    rows: tables.Rows
    params: tables.Params
    by_row: tables.Tables
    items: int  # of the whole catalogue

    @property
    def chunk(self) -> int:
        """Rows that are scored at a time."""
        return min(CHUNK, self.places.size)

    def real(self, number: jax.Array, item: jax.Array, start: jax.Array) -> jax.Array:
        """Which rows are items', and in no chunk before the one that begins at ``start``: the last one overlaps."""
        return (number >= start) & (item > PAD) & (item <= self.items)

    def scored(self, h_BD: jax.Array, by_row: tables.Tables) -> Float[Array, "B C"]:
        return heads.scores(h_BD, *self.rows(tables.weights(self.params, by_row)))


class Asked(NamedTuple):
    """Targets of all examples one after the other, those that are none behind; N is a multiple of what is counted
    together, or less."""

    example_N: jax.Array
    number_N: jax.Array  # of the target's row in this part, -1 in another
    score_N: jax.Array
    real: jax.Array  # how many there are


def ranked(
    layout: layouts.Layout, rows: tables.Rows, weights: tables.Weights, examples: Examples, *, k: int = 0
) -> Ranked:
    """Where targets stand among all items, and which items lead; traced within a jitted function.

        rank = 1 + #(other items scored above) + 0.5 * #(other items scored the same)

    Args:
      layout: of the tables.
      rows: as they are scored.
      weights: tables and attributes by row, parameters the same on all devices.
      examples: whose targets are ranked.
      k: how many leading items to list.
    """
    parts, size = layout.mesh.shape[MESH[1]], len(examples.h_BD)
    fill = -size % layout.mesh.size
    filled = (jnp.pad(jnp.asarray(leaf), ((0, fill), (0, 0))) for leaf in examples)

    def local(params: tables.Params, by_row: tables.Tables, *shared: jax.Array) -> tuple[jax.Array, ...]:
        # Every part of a replica ranks the examples of all of them.
        h_BD, target_BC, seen_BL = (sharding.all_gather(leaf, MESH[1]) for leaf in shared)
        number, B = lax.axis_index(MESH[1]), len(h_BD)
        part = Part(layout.places, number, rows, params, by_row, layout.items)
        seen_BL = part.places.number(number, seen_BL)
        if part.chunk == part.places.size:
            found = _at_once(part, h_BD, target_BC, seen_BL, k)
        else:
            found = _in_chunks(part, h_BD, target_BC, seen_BL, k)
        count_BC, (score_Bk, top_Bk), nan = found
        count_BC = jnp.where(target_BC != PAD, sharding.psum(count_BC, MESH[1]), -1)
        if k and parts > 1:
            score_Bk, top_Bk = (sharding.all_gather(leaf, MESH[1], along=1) for leaf in (score_Bk, top_Bk))
            negated_Bk, top_Bk = lax.sort((-score_Bk, top_Bk), dimension=1, num_keys=2)
            score_Bk, top_Bk = -negated_Bk[:, :k], top_Bk[:, :k]
        top_Bk = jnp.where(score_Bk > -jnp.inf, top_Bk, PAD)
        # Each device gives the examples that it was given.
        own = number * (B // parts)
        given = (lax.dynamic_slice_in_dim(leaf, own, B // parts) for leaf in (count_BC, top_Bk))
        return *given, sharding.pmax(nan, MESH)

    each, shared = PartitionSpec(MESH), PartitionSpec(MESH[1])
    merged = jax.shard_map(
        local,
        mesh=layout.mesh,
        in_specs=(
            {name: PartitionSpec() for name in weights.params},
            {name: shared for name in weights.by_row},
            *(each,) * 3,
        ),
        out_specs=(each, each, PartitionSpec()),
        check_vma=False,
    )
    count_BC, top_Bk, nan = merged(dict(weights.params), weights.by_row, *filled)
    return Ranked(count_BC[:size], top_Bk[:size], nan)


Leading = tuple[Float[Array, "B k"], Int[Array, "B k"]]  # scores, -inf where there are no more, and items
Found = tuple[Int[Array, "B C"], Leading, jax.Array]  # counts, what leads, whether any score is NaN


def _at_once(part: Part, h_BD: jax.Array, target_BC: jax.Array, seen_BL: jax.Array, k: int) -> Found:
    """Of a part that is no more than a chunk."""
    score_BC, nan = _some(part, h_BD, jnp.int32(0))
    asked = _asked(part, target_BC)
    asked = asked._replace(score_N=_of_targets(asked, score_BC))
    score_BC = _without(score_BC, seen_BL)
    count_N = _counted(jnp.zeros_like(asked.example_N), asked, score_BC, jnp.int32(0))
    item_C = part.places.item(part.number, lax.iota(jnp.int32, part.chunk))
    return _placed(count_N, target_BC), _leading(score_BC, item_C[None], k), nan


def _in_chunks(part: Part, h_BD: jax.Array, target_BC: jax.Array, seen_BL: jax.Array, k: int) -> Found:
    """Of a part of several chunks. Of the scores of a group of neighbours the highest is kept; as many groups as items
    are wanted have these among them, and are scored again in the end."""
    B, size, chunk = len(h_BD), part.places.size, part.chunk
    asked = _asked(part, target_BC)
    asked = asked._replace(score_N=_gathered(part, h_BD, asked))

    def scan(
        state: tuple[jax.Array, jax.Array], start: jax.Array
    ) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
        count_N, nan = state
        score_BC, new = _some(part, h_BD, start)
        begin = jnp.minimum(start, size - chunk)  # the last chunk overlaps
        at_BL = jnp.where(seen_BL >= start, seen_BL - begin, -1)
        score_BC = _without(score_BC, at_BL)
        count_N = _counted(count_N, asked, score_BC, begin)
        if not k:
            return (count_N, nan | new), jnp.zeros((B, 0))
        return (count_N, nan | new), _ordered(score_BC).reshape(B, -1, GROUP).max(-1)

    none = jnp.zeros_like(asked.example_N), jnp.zeros((), bool)
    (count_N, nan), best_SBG = lax.scan(scan, none, jnp.arange(0, size, chunk))
    leading = jnp.zeros((B, 0)), jnp.zeros((B, 0), jnp.int32)
    if k:
        best_BG = jnp.moveaxis(best_SBG, 0, 1).reshape(B, -1)
        _, group_Bk = lax.top_k(best_BG, min(k, best_BG.shape[1]))
        # In order, a tie goes to the lower row.
        leading = _of_groups(part, h_BD, jnp.sort(group_Bk), seen_BL, k)
    return _placed(count_N, target_BC), leading, nan


def _some(part: Part, h_BD: jax.Array, start: jax.Array) -> tuple[Float[Array, "B C"], jax.Array]:
    """Scores of a chunk of rows, NaN of what is no item or in an earlier chunk; and whether an item's is NaN."""
    begin = jnp.minimum(start, part.places.size - part.chunk)
    number_C = begin + lax.iota(jnp.int32, part.chunk)
    id_C = part.places.item(part.number, number_C)
    real_C = part.real(number_C, id_C, start)
    some = part.places.run(part.number, part.by_row, begin, part.chunk)
    score_BC = part.scored(h_BD, some)
    nan = (jnp.isnan(score_BC) & real_C[None]).any()
    return jnp.where(real_C[None], score_BC, jnp.nan), nan


def _without(score_BC: jax.Array, at_BL: jax.Array) -> Float[Array, "B C"]:
    """Scores with NaN, which neither is above anything nor leads, at some columns; negative ones are of none."""
    at_BL = jnp.where(at_BL < 0, score_BC.shape[1], at_BL)
    return score_BC.at[jnp.arange(len(at_BL))[:, None], at_BL].set(jnp.nan, mode="drop")


def _asked(part: Part, target_BC: jax.Array) -> Asked:
    """The targets, without their scores. Most examples have few where one has many: only those that are count."""
    size, C = target_BC.size, target_BC.shape[1]
    N = -(-size // TARGETS) * TARGETS if size > TARGETS else size
    target_N, before_N = target_BC.reshape(-1), _before(target_BC)
    at_N = jnp.where(target_N != PAD, before_N, N)
    at_N = jnp.zeros(N, jnp.int32).at[at_N].set(lax.iota(jnp.int32, size), mode="drop")
    number_N = part.places.number(part.number, target_N[at_N])
    return Asked(at_N // C, number_N, jnp.zeros(N), (target_N != PAD).sum())


def _placed(count_N: jax.Array, target_BC: jax.Array) -> Int[Array, "B C"]:
    """Counts of targets where the targets stand; anything elsewhere."""
    return count_N[_before(target_BC)].reshape(target_BC.shape)


def _before(target_BC: jax.Array) -> Int[Array, "N"]:
    """How many targets stand before each place."""
    real_N = (target_BC != PAD).astype(jnp.float32).reshape(-1)
    return (_sums(real_N) - real_N).astype(jnp.int32)


def _sums(count_N: jax.Array) -> Float[Array, "N"]:
    """Running sums of small counts, by products with triangles: jnp.cumsum compiles for longer than all else here."""
    side = min(len(count_N), SIDE)
    count_RS = jnp.pad(count_N, (0, -len(count_N) % side)).reshape(-1, side)
    sum_RS = jnp.dot(count_RS, jnp.triu(jnp.ones((side, side))), precision=lax.Precision.HIGHEST)
    if len(sum_RS) > 1:
        sum_RS = sum_RS.at[1:].add(_sums(sum_RS[:-1, -1])[:, None])
    return sum_RS.reshape(-1)[: len(count_N)]


def _of_targets(asked: Asked, score_BC: jax.Array) -> Float[Array, "N"]:
    """Scores of the targets, out of those of all rows of all parts."""
    own_N = asked.number_N >= 0
    return sharding.psum(
        jnp.where(own_N, score_BC[asked.example_N, jnp.maximum(asked.number_N, 0)], 0.0), MESH[1]
    )


def _gathered(part: Part, h_BD: jax.Array, asked: Asked) -> Float[Array, "N"]:
    """The same by products of the shape of a chunk's, which round as it does: what ties in one ties in the other."""
    N, chunk = len(asked.number_N), part.chunk
    filled_N = jnp.pad(asked.number_N, (0, -N % chunk), constant_values=-1)
    example_N = jnp.pad(asked.example_N, (0, -N % chunk))

    def scan(_: None, both: tuple[jax.Array, jax.Array]) -> tuple[None, jax.Array]:
        example_C, number_C = both
        some = part.places.some(part.number, part.by_row, jnp.maximum(number_C, 0))
        score_BC = part.scored(h_BD, some)
        return None, jnp.where(number_C >= 0, score_BC[example_C, jnp.arange(chunk)], 0.0)

    _, score_SC = lax.scan(scan, None, (example_N.reshape(-1, chunk), filled_N.reshape(-1, chunk)))
    return sharding.psum(score_SC.reshape(-1)[:N], MESH[1])


def _counted(count_N: jax.Array, asked: Asked, score_BC: jax.Array, begin: jax.Array) -> Int[Array, "N"]:
    """Counts with those of a chunk, 2 #(above) + #(the same), of all rows but the target's own."""
    N, C = len(count_N), score_BC.shape[1]
    together = min(TARGETS, N)

    def more(block: jax.Array, count_N: jax.Array) -> jax.Array:
        example_P, number_P, score_P, count_P = (
            lax.dynamic_slice_in_dim(leaf, block * together, together)
            for leaf in (asked.example_N, asked.number_N, asked.score_N, count_N)
        )

        def twice(score: jax.Array, of: jax.Array) -> jax.Array:
            return (score > of).astype(jnp.int32) + (score >= of)

        own_P = number_P - begin
        inside_P = (number_P >= 0) & (own_P >= 0) & (own_P < C)
        own_score_P = score_BC[example_P, jnp.clip(own_P, 0, C - 1)]
        count_P += twice(score_BC[example_P], score_P[:, None]).sum(-1)
        count_P -= jnp.where(inside_P, twice(own_score_P, score_P), 0)
        return lax.dynamic_update_slice_in_dim(count_N, count_P, block * together, 0)

    return sharding.repeated(-(-asked.real // together), more, count_N)


def _leading(score_BC: jax.Array, item_BC: jax.Array, k: int) -> Leading:
    """The k highest scores that are not NaN with their items, which ascend, so that a tie goes to the lower one."""
    fill = max(k - score_BC.shape[1], 0)
    score_Bk, at_Bk = lax.top_k(_ordered(score_BC), k - fill)
    item_BC = jnp.broadcast_to(item_BC, score_BC.shape)
    top_Bk = jnp.where(score_Bk > -jnp.inf, jnp.take_along_axis(item_BC, at_Bk, axis=1), LAST)
    return (
        jnp.pad(score_Bk, ((0, 0), (0, fill)), constant_values=-jnp.inf),
        jnp.pad(top_Bk, ((0, 0), (0, fill)), constant_values=LAST),
    )


def _ordered(score_BC: jax.Array) -> Float[Array, "B C"]:
    """Scores as lax.top_k is to order them: -inf where they are NaN, and there alone, and no -0."""
    lifted_BC = jnp.maximum(jnp.where(score_BC == 0.0, 0.0, score_BC), LOWEST)
    return jnp.where(jnp.isnan(score_BC), -jnp.inf, lifted_BC)


def _of_groups(part: Part, h_BD: jax.Array, group_BG: jax.Array, seen_BL: jax.Array, k: int) -> Leading:
    """What leads in ascending groups of neighbours, each counted by its chunk and its place there."""
    size, chunk = part.places.size, part.chunk
    groups = chunk // GROUP

    def of(_: None, some: tuple[jax.Array, ...]) -> tuple[None, Leading]:
        h_ED, group_EG, seen_EL = some
        start_EG = group_EG // groups * chunk
        first_EG = jnp.minimum(start_EG, size - chunk) + group_EG % groups * GROUP
        number_EC = (first_EG[:, :, None] + jnp.arange(GROUP)[None, None]).reshape(len(h_ED), -1)
        item_EC = part.places.item(part.number, number_EC.reshape(-1)).reshape(number_EC.shape)
        real_EC = part.real(number_EC, item_EC, jnp.repeat(start_EG, GROUP, axis=1))
        rows = part.places.some(part.number, part.by_row, number_EC.reshape(-1))
        found = part.rows(tables.weights(part.params, rows))
        own = (leaf.reshape(*number_EC.shape, *leaf.shape[1:]) for leaf in found)
        score_EC = heads.own_scores(h_ED, *own)
        # Where a seen item is: in which of the groups, and where in it.
        start_EL = jnp.maximum(seen_EL, 0) // chunk * chunk
        inside_EL = seen_EL - jnp.minimum(start_EL, size - chunk)
        of_EL = start_EL // chunk * groups + inside_EL // GROUP
        slot_EL = jax.vmap(jnp.searchsorted)(group_EG, of_EL)
        found_EL = jnp.take_along_axis(group_EG, jnp.minimum(slot_EL, group_EG.shape[1] - 1), axis=1) == of_EL
        at_EL = jnp.where(found_EL & (seen_EL >= 0), slot_EL * GROUP + inside_EL % GROUP, -1)
        score_EC = _without(jnp.where(real_EC, score_EC, jnp.nan), at_EL)
        return None, _leading(score_EC, item_EC, k)

    B = len(h_BD)
    fill = -B % EXAMPLES
    parts = (
        jnp.pad(leaf, ((0, fill), (0, 0))).reshape(-1, EXAMPLES, leaf.shape[1])
        for leaf in (h_BD, group_BG, seen_BL)
    )
    _, (score_SEk, top_SEk) = lax.scan(of, None, tuple(parts))
    return score_SEk.reshape(-1, k)[:B], top_SEk.reshape(-1, k)[:B]


def on_host(found: Ranked, targets: tuple[np.ndarray, ...]) -> ranking.Ranking:
    """What was found of blocks of targets that stood side by side, as ``metrics.rank`` gives it.

    Rows past the targets' are ignored. Raises ValueError where a score was NaN.
    """
    if bool(found.nan):
        raise ValueError(ranking.NAN)
    size = len(targets[0])
    ends = np.cumsum([item_BC.shape[1] for item_BC in targets])[:-1]
    count_BC = np.asarray(found.count_BC, np.float64)[:size]
    rank_BC = np.where(count_BC < 0, np.nan, 1 + 0.5 * count_BC)
    return ranking.Ranking(tuple(np.split(rank_BC, ends, axis=1)), np.asarray(found.top_Bk, np.int64)[:size])
