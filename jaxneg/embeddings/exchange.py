"""Rows between the devices that need them and those that own them.

A table's rows lie in equal parts along the mesh axis "model"; each place of the axis "data" holds them all. A device
sends each distinct id that it needs to the owner of its row, in its own replica, and gets the row back, so that what a
chip sends and receives grows with its own ids and not with the number of chips. Messages have a fixed capacity. Where
ids crowd on one owner, further rounds serve the rest: rows are parted among the rounds by their place at the owner, so
that all that is sent to a row meets in one round, where it is summed before the row is updated, once.

Only replicas exchange more as they grow in number: each hears of all updated rows. A catalogue that needs sharding is
best sharded over all chips that a fast network connects.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh, PartitionSpec

from jaxneg.batch import PAD
from jaxneg.embeddings import sharding
from jaxneg.embeddings.sharding import MESH

DATA, MODEL = MESH
SLACK = 1.25  # capacity of a message over the mean; rows are spread, so one round is the rule
SPARE = 16  # and above that, for few ids
NONE = jnp.iinfo(jnp.int32).max  # in place of an id where there is none
EACH, ALL = PartitionSpec(MESH), PartitionSpec()  # a part for each device; the same everywhere

# (part, ..., row_Q, value_QX) -> the parts, changed at these rows
Change = Callable[..., tuple[jax.Array, ...]]


class Route(NamedTuple):
    """Where the ids of a batch travel. K devices with U slots each; all but ``rounds`` is sharded along K."""

    id_KU: jax.Array  # int32, distinct ids of each device: PAD in slot 0, then ascending, then NONE
    row_KU: jax.Array  # int32, place of the row in the part that holds it
    key_KU: jax.Array  # int32, round * owners + owner, ascending
    slot_KU: jax.Array  # int32, slots in the order of the keys
    rounds: jax.Array  # int32, a power of two


def plan(
    mesh: Mesh, part: int, place: Callable[[jax.Array], jax.Array], ids: Sequence[jax.Array]
) -> tuple[Route, list[jax.Array]]:
    """The route of a batch's ids, and for each array of ids its slots, PAD being slot 0.

    Args:
      mesh: of the tables.
      part: rows of a device's part.
      place: from ids to their places in the table, in which part p holds [p * part, (p + 1) * part).
      ids: int32 arrays whose first axis is split over all devices.
    """
    owners = mesh.shape[MODEL]

    def local(*ids: jax.Array) -> tuple[tuple[jax.Array, ...], jax.Array, list[jax.Array]]:
        id_P = jnp.concatenate([jnp.full(1, PAD, jnp.int32), *(id_.ravel() for id_ in ids)])
        id_U, slot_P = _distinct(id_P)
        sizes = [math.prod(id_.shape) for id_ in ids]
        ends = [1]
        for size in sizes:
            ends.append(ends[-1] + size)
        slots = [slot_P[a:b].reshape(id_.shape) for a, b, id_ in zip(ends, ends[1:], ids, strict=False)]
        real_U = id_U != NONE
        place_U = place(jnp.where(real_U, id_U, PAD))
        owner_U, row_U = place_U // part, place_U % part
        key_U, slot_U, rounds = _parted(owner_U, row_U, real_U, owners)
        found = (id_U, row_U, key_U, slot_U)
        return tuple(leaf[None] for leaf in found), rounds, slots

    (id_KU, row_KU, key_KU, slot_KU), rounds, slots = jax.shard_map(
        local,
        mesh=mesh,
        in_specs=(EACH,) * len(ids),
        out_specs=((EACH,) * 4, ALL, [EACH] * len(ids)),
        check_vma=False,
    )(*ids)
    return Route(id_KU, row_KU, key_KU, slot_KU, rounds), slots


def fetch(mesh: Mesh, route: Route, tables: Sequence[jax.Array]) -> list[jax.Array]:
    """Rows of each table for the slots of each device, row_KUX; zeros where there is no id."""
    owners = mesh.shape[MODEL]
    capacity = _capacity(route.id_KU.shape[1], owners)

    def local(leaves: tuple[jax.Array, ...], *parts: jax.Array) -> list[jax.Array]:
        route = _own(leaves)
        if owners == 1:
            row_U = jnp.where(route.id_KU != NONE, route.row_KU, NONE)
            return [_at(part, row_U)[None] for part in parts]

        def serve(state: tuple[jax.Array, list[jax.Array]]) -> tuple[jax.Array, list[jax.Array]]:
            turn, found = state
            slot_MC, row_MC = _message(route, turn, owners, capacity)
            asked_MC = _exchange(row_MC)
            found = [
                rows_UX.at[slot_MC].set(_exchange(_at(part, asked_MC)), mode="drop")
                for rows_UX, part in zip(found, parts, strict=True)
            ]
            return turn + 1, found

        slots = route.id_KU.shape[0]
        empty = [jnp.zeros((slots, *part.shape[1:]), part.dtype) for part in parts]
        start = (jnp.zeros((), jnp.int32), empty)
        _, found = lax.while_loop(lambda state: state[0] < route.rounds, serve, start)
        return [rows_UX[None] for rows_UX in found]

    return jax.shard_map(
        local,
        mesh=mesh,
        in_specs=(_specs(), *(PartitionSpec(MODEL) for _ in tables)),
        out_specs=[EACH] * len(tables),
        check_vma=False,
    )(tuple(route), *tables)


def send(
    mesh: Mesh, route: Route, value_KUX: jax.Array, tables: Sequence[jax.Array], change: Change
) -> tuple[jax.Array, ...]:
    """The tables after ``change``, which is told each row once with the sum of what all devices send to it.

    What is sent to PAD is dropped.

    Args:
      mesh: of the tables.
      route: of the ids.
      value_KUX: what each device has for the rows of its slots.
      tables: a table and whatever lies beside it row by row, as its moments.
      change: (part, ..., row_Q, value_QX) -> parts. row_Q holds distinct rows, and rows past the end to be ignored.
    """
    owners, replicas = mesh.shape[MODEL], mesh.shape[DATA]
    capacity = _capacity(route.id_KU.shape[1], owners)

    def local(
        leaves: tuple[jax.Array, ...], value_1UX: jax.Array, *parts: jax.Array
    ) -> tuple[jax.Array, ...]:
        route, value_UX = _own(leaves), value_1UX[0]
        real_U = (route.id_KU != NONE) & (route.id_KU != PAD)

        def apply(
            row_Q: jax.Array, value_QX: jax.Array, parts: tuple[jax.Array, ...], *, distinct: bool
        ) -> tuple[jax.Array, ...]:
            if replicas > 1:
                row_Q = sharding.all_gather(row_Q, DATA)
                value_QX = sharding.all_gather(value_QX, DATA)
            if not (distinct and replicas == 1):
                row_Q, value_QX = _summed(row_Q, value_QX)
            return change(*parts, row_Q, value_QX)

        if owners == 1:
            row_U = jnp.where(real_U, route.row_KU, NONE - jnp.arange(len(real_U)))
            return apply(row_U, value_UX, parts, distinct=True)

        def serve(state: tuple[jax.Array, tuple[jax.Array, ...]]) -> tuple[jax.Array, tuple[jax.Array, ...]]:
            turn, parts = state
            slot_MC, row_MC = _message(route, turn, owners, capacity)
            row_MC = jnp.where(real_U.at[slot_MC].get(mode="fill", fill_value=False), row_MC, NONE)
            sent_MCX = value_UX.at[slot_MC].get(mode="fill", fill_value=0)
            row_Q, value_QX = _exchange(row_MC).ravel(), _exchange(sent_MCX)
            value_QX = value_QX.reshape(-1, *value_UX.shape[1:])
            return turn + 1, apply(row_Q, value_QX, parts, distinct=False)

        start = (jnp.zeros((), jnp.int32), parts)
        return lax.while_loop(lambda state: state[0] < route.rounds, serve, start)[1]

    part_of = tuple(PartitionSpec(MODEL) for _ in tables)
    return jax.shard_map(
        local, mesh=mesh, in_specs=(_specs(), EACH, *part_of), out_specs=part_of, check_vma=False
    )(tuple(route), value_KUX, *tables)


def take(mesh: Mesh, row_KUX: jax.Array, slot: jax.Array) -> jax.Array:
    """Rows of slots, the slots' first axis being split over all devices: no row travels."""

    def local(row_1UX: jax.Array, slot: jax.Array) -> jax.Array:
        return row_1UX[0].at[slot].get(mode="promise_in_bounds")

    return jax.shard_map(local, mesh=mesh, in_specs=(EACH, EACH), out_specs=EACH, check_vma=False)(
        row_KUX, slot
    )


def moved(mesh: Mesh, table_VX: jax.Array, at_W: jax.Array) -> jax.Array:
    """Rows of a table at places in it, as the table of another catalogue: both in parts along the axis "model".

    The parts of the new table are asked for one after the other, so that no device has more than two of them.
    """
    owners = mesh.shape[MODEL]

    def local(part: jax.Array, at_P: jax.Array) -> jax.Array:
        size, asked, own = len(part), len(at_P), lax.axis_index(MODEL)
        at_W = sharding.all_gather(at_P, MODEL)

        def turn(owner: jax.Array, found: jax.Array) -> jax.Array:
            at = lax.dynamic_slice_in_dim(at_W, owner * asked, asked) - own * size
            here = jnp.where((at >= 0) & (at < size), at, NONE)
            return jnp.where(owner == own, sharding.psum(_at(part, here), MODEL), found)

        empty = jnp.zeros((asked, *part.shape[1:]), part.dtype)
        return sharding.repeated(jnp.asarray(owners), turn, empty)

    along = PartitionSpec(MODEL)
    return jax.shard_map(local, mesh=mesh, in_specs=(along, along), out_specs=along, check_vma=False)(
        table_VX, at_W
    )


def _specs() -> tuple[PartitionSpec, ...]:
    return EACH, EACH, EACH, EACH, ALL


def _own(leaves: tuple[jax.Array, ...]) -> Route:
    """The route of this device alone."""
    id_KU, row_KU, key_KU, slot_KU, rounds = leaves
    return Route(id_KU[0], row_KU[0], key_KU[0], slot_KU[0], rounds)


def _capacity(slots: int, owners: int) -> int:
    """Ids that a device can send to one owner in a round."""
    return min(slots, math.ceil(SLACK * slots / owners) + SPARE)


def _distinct(id_P: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The distinct ids, ascending and filled up with NONE, and the slot of each id among them."""
    sorted_P, at_P = lax.sort_key_val(id_P, lax.iota(jnp.int32, len(id_P)))
    first_P = jnp.concatenate([jnp.ones(1, bool), sorted_P[1:] != sorted_P[:-1]])
    slot_P = jnp.cumsum(first_P) - 1
    id_U = jnp.full_like(id_P, NONE).at[slot_P].set(sorted_P, indices_are_sorted=True)
    return id_U, jnp.zeros_like(at_P).at[at_P].set(slot_P, unique_indices=True)


def _parted(
    owner_U: jax.Array, row_U: jax.Array, real_U: jax.Array, owners: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Ids in the order of their rounds and owners, in the fewest rounds, doubling, in which no message overflows."""
    slots = len(owner_U)
    capacity = _capacity(slots, owners)

    def ordered(rounds: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        key_U = jnp.where(real_U, row_U % rounds * owners + owner_U, NONE)
        key_U, slot_U = lax.sort_key_val(key_U, lax.iota(jnp.int32, slots))
        new_U = jnp.concatenate([jnp.ones(1, bool), key_U[1:] != key_U[:-1]])
        place_U = lax.iota(jnp.int32, slots)
        rank_U = place_U - lax.cummax(jnp.where(new_U, place_U, 0))
        crowd = jnp.max(jnp.where(key_U == NONE, 0, rank_U + 1))
        return key_U, slot_U, sharding.pmax(crowd, MESH)

    def more(state: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        rounds = 2 * state[3]
        return *ordered(rounds), rounds

    one = jnp.ones((), jnp.int32)
    if owners == 1:
        place_U = lax.iota(jnp.int32, slots)
        return jnp.where(real_U, 0, NONE), place_U, one
    found = lax.while_loop(lambda state: state[2] > capacity, more, (*ordered(one), one))
    return found[0], found[1], found[3]


def _message(route: Route, turn: jax.Array, owners: int, capacity: int) -> tuple[jax.Array, jax.Array]:
    """Slots and rows that go to each owner in a turn; past the last slot, and NONE, where there is no more."""
    key_M = turn * owners + lax.iota(jnp.int32, owners)
    start_M = jnp.searchsorted(route.key_KU, key_M, side="left")
    end_M = jnp.searchsorted(route.key_KU, key_M, side="right")
    at_MC = start_M[:, None] + lax.iota(jnp.int32, capacity)[None]
    slots = route.slot_KU.shape[0]
    there_MC = at_MC < end_M[:, None]
    slot_MC = jnp.where(there_MC, route.slot_KU.at[at_MC].get(mode="clip"), slots)
    row_MC = jnp.where(there_MC, route.row_KU.at[slot_MC].get(mode="clip"), NONE)
    return slot_MC, row_MC


def _exchange(sent_MCX: jax.Array) -> jax.Array:
    """What each owner sent to this device, in the order of the owners."""
    return sharding.all_to_all(sent_MCX, MODEL)


def _at(part: jax.Array, row: jax.Array) -> jax.Array:
    """Rows of a part; zeros past its end."""
    return part.at[row].get(mode="fill", fill_value=0)


def _summed(row_Q: jax.Array, value_QX: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Distinct rows, then rows past any end, with the sum of the values of each."""
    row_Q, at_Q = lax.sort_key_val(row_Q, lax.iota(jnp.int32, len(row_Q)))
    first_Q = jnp.concatenate([jnp.ones(1, bool), row_Q[1:] != row_Q[:-1]])
    place_Q = jnp.cumsum(first_Q) - 1
    sum_QX = jax.ops.segment_sum(value_QX[at_Q], place_Q, len(row_Q), indices_are_sorted=True)
    past_Q = NONE - lax.iota(jnp.int32, len(row_Q))[::-1]  # ascending too, so that all are distinct
    distinct_Q = past_Q.at[place_Q].set(row_Q, indices_are_sorted=True)
    return distinct_Q, sum_QX
