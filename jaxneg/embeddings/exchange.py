"""Rows between the devices that need them and those that own them.

A table's rows lie in equal parts along the mesh axis "model"; each place of the axis "data" holds them all. A device
sends each distinct id that it needs to the owner of its row, in its own replica, and gets the row back, so that what a
chip sends and receives grows with its own ids and not with the number of chips. Messages have a fixed capacity. Where
ids crowd on one owner, further rounds serve the rest: rows are parted among the rounds by their place at the owner, so
that all that is sent to a row meets in one round, where it is summed before the row is updated, once.

Ids are sorted once, by owner and by a number that begins with the round, so that whatever the rounds are, a message is
a run of them. A TPU gathers and scatters single numbers one by one, slower than it sorts them or moves whole rows: what
is by number elsewhere is by sorts and rows there, with the same result.

Only replicas exchange more as they grow in number: each hears of all updated rows. A catalogue that needs sharding is
best sharded over all chips that a fast network connects.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh, PartitionSpec

from jaxneg.batch import PAD
from jaxneg.embeddings import messages, sharding
from jaxneg.embeddings.messages import NO_KEY
from jaxneg.embeddings.sharding import MESH

DATA, MODEL = MESH
SLACK = 1.25  # capacity of a message over the mean; rows are spread, so one round is the rule
# and above that, for few ids: of 256 owners all messages of a step have room where a quarter of its events repeats;
# within 200 plays of a listener a third does
SPARE = 8
DEVIATIONS = 6  # standard ones above the mean, of rows that come to a device in all
NONE = jnp.iinfo(jnp.int32).max  # in place of a row where there is none
SUBLANES = 8  # of a register of a TPU: rows in such numbers are cut and joined without being moved
EACH, ALL = PartitionSpec(MESH), PartitionSpec()  # a part for each device; the same everywhere

# (part, ..., row_Q, value_QX) -> the parts, changed at these rows, which ascend
Change = Callable[..., tuple[jax.Array, ...]]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Route:
    """Where the ids of a batch travel. K devices with U slots each; all but ``rounds`` is sharded along K.

    A key is the owner, then the ``bits`` of the row at its owner: mirrored where owners are many, so that the lowest,
    by which rounds are told apart, come first.
    """

    key_KU: (
        jax.Array
    )  # uint32, of the distinct ids of each device: PAD in slot 0, then ascending, then NO_KEY
    at_KU: jax.Array  # int32, place of the row among all that the owners send in its round
    rounds: jax.Array  # int32, a power of two
    bits: int = field(metadata={"static": True})
    capacity: int = field(metadata={"static": True})  # ids that a device can send to one owner in a round
    usual: int = field(
        metadata={"static": True}
    )  # distinct rows that a device is told to change, as a rule at most


def plan(
    mesh: Mesh, part: int, place: Callable[[jax.Array], jax.Array], ids: Sequence[jax.Array], few: int = 0
) -> tuple[Route, list[jax.Array]]:
    """The route of a batch's ids, and for each array of ids its slots, PAD being slot 0.

    Args:
      mesh: of the tables.
      part: rows of a device's part.
      place: from ids to their places in the table, in which part p holds [p * part, (p + 1) * part).
      ids: int32 arrays whose first axis is split over all devices.
      few: distinct ids among them, as a rule at most; 0 for as many as they are. More take more rounds.
    """
    owners, bits = mesh.shape[MODEL], max((part - 1).bit_length(), 1)
    slots = 1 + sum(math.prod(id_.shape) for id_ in ids) // mesh.size
    distinct = min(slots, 1 + math.ceil(few / mesh.size)) if few else slots
    capacity = _capacity(slots, distinct, owners)
    usual = mesh.shape[DATA] * math.ceil(distinct + DEVIATIONS * math.sqrt(distinct))
    sorts = _sorts(mesh)

    def local(*ids: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array, list[jax.Array]]:
        id_P = jnp.concatenate([jnp.full(1, PAD, jnp.int32), *(id_.ravel() for id_ in ids)])
        place_P = place(id_P)
        row_P = (place_P % part).astype(jnp.uint32)
        row_P = row_P if owners == 1 else messages.mirrored(row_P, bits)
        key_U, slot_P = _distinct((place_P // part).astype(jnp.uint32) << bits | row_P, sorts=sorts)
        sizes = [math.prod(id_.shape) for id_ in ids]
        ends = [1]
        for size in sizes:
            ends.append(ends[-1] + size)
        found = [slot_P[a:b].reshape(id_.shape) for a, b, id_ in zip(ends, ends[1:], ids, strict=False)]
        rank_U, rounds = _parted(key_U, bits, capacity, owners)
        at_U = (key_U >> bits).astype(jnp.int32) * capacity + rank_U
        return key_U[None], jnp.where(key_U == NO_KEY, 0, at_U)[None], rounds, found

    key_KU, at_KU, rounds, found = jax.shard_map(
        local,
        mesh=mesh,
        in_specs=(EACH,) * len(ids),
        out_specs=(EACH, EACH, ALL, [EACH] * len(ids)),
        check_vma=False,
    )(*ids)
    return Route(key_KU, at_KU, rounds, bits, capacity, -(-usual // SUBLANES) * SUBLANES), found


def fetch(mesh: Mesh, route: Route, tables: Sequence[jax.Array]) -> list[jax.Array]:
    """Rows of each table for the slots of each device, row_KUX; zeros where there is no id."""
    owners, bits, capacity = mesh.shape[MODEL], route.bits, route.capacity

    def local(key_1U: jax.Array, at_1U: jax.Array, rounds: jax.Array, *parts: jax.Array) -> list[jax.Array]:
        key_U, at_U = key_1U[0], at_1U[0]
        if owners == 1:
            row_U = jnp.where(key_U == NO_KEY, NONE, key_U.astype(jnp.int32))
            return [_at(part, row_U)[None] for part in parts]

        def serve(state: tuple[jax.Array, list[jax.Array]]) -> tuple[jax.Array, list[jax.Array]]:
            turn, found = state
            key_MC, _ = messages.message(key_U, turn, rounds, (owners, capacity, bits))
            asked_MC = _exchange(jnp.where(key_MC == NO_KEY, NONE, messages.row(key_MC, bits)))
            now_U = (messages.round_of(key_U, rounds, bits) == turn) & (key_U != NO_KEY)
            received = [_exchange(_at(part, asked_MC)) for part in parts]
            received = [leaf.reshape(-1, *leaf.shape[2:]) for leaf in received]
            found = [
                jnp.where(
                    now_U.reshape(-1, *[1] * (rows_UX.ndim - 1)),
                    row_QX.at[at_U].get(mode="promise_in_bounds"),
                    rows_UX,
                )
                for rows_UX, row_QX in zip(found, received, strict=True)
            ]
            return turn + 1, found

        empty = [jnp.zeros((len(key_U), *part.shape[1:]), part.dtype) for part in parts]
        start = (jnp.zeros((), jnp.int32), empty)
        _, found = lax.while_loop(lambda state: state[0] < rounds, serve, start)
        return [rows_UX[None] for rows_UX in found]

    return jax.shard_map(
        local,
        mesh=mesh,
        in_specs=(EACH, EACH, ALL, *(PartitionSpec(MODEL) for _ in tables)),
        out_specs=[EACH] * len(tables),
        check_vma=False,
    )(route.key_KU, route.at_KU, route.rounds, *tables)


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
      change: (part, ..., row_Q, value_QX) -> parts. row_Q holds distinct rows, ascending, the last of them past the
        end to be ignored.
    """
    owners, replicas = mesh.shape[MODEL], mesh.shape[DATA]
    bits, capacity, usual, sorts = route.bits, route.capacity, route.usual, _sorts(mesh)

    def local(
        key_1U: jax.Array, rounds: jax.Array, value_1UX: jax.Array, *parts: jax.Array
    ) -> tuple[jax.Array, ...]:
        key_U, value_UX = key_1U[0], value_1UX[0]

        def apply(
            row_Q: jax.Array, value_QX: jax.Array, parts: tuple[jax.Array, ...], *, distinct: bool
        ) -> tuple[jax.Array, ...]:
            if replicas > 1:
                row_Q = sharding.all_gather(row_Q, DATA)
                value_QX = sharding.all_gather(value_QX, DATA)
            if distinct and replicas == 1:
                return change(*parts, row_Q, value_QX)
            return _changed(parts, change, _summed(row_Q, value_QX, usual, sorts=sorts), usual)

        if owners == 1:
            # PAD has the first slot.
            row_U = jnp.where(key_U == NO_KEY, _past(len(key_U)), key_U.astype(jnp.int32))
            return apply(row_U[1:], value_UX[1:], parts, distinct=True)

        def serve(state: tuple[jax.Array, tuple[jax.Array, ...]]) -> tuple[jax.Array, tuple[jax.Array, ...]]:
            turn, parts = state
            key_MC, slot_MC = messages.message(key_U, turn, rounds, (owners, capacity, bits))
            # PAD alone has key 0.
            row_MC = jnp.where((key_MC == NO_KEY) | (key_MC == 0), NONE, messages.row(key_MC, bits))
            sent_MCX = value_UX.at[slot_MC].get(mode="fill", fill_value=0)
            row_Q, value_QX = _exchange(row_MC).ravel(), _exchange(sent_MCX)
            value_QX = value_QX.reshape(-1, *value_UX.shape[1:])
            return turn + 1, apply(row_Q, value_QX, parts, distinct=False)

        start = (jnp.zeros((), jnp.int32), parts)
        return lax.while_loop(lambda state: state[0] < rounds, serve, start)[1]

    part_of = tuple(PartitionSpec(MODEL) for _ in tables)
    return jax.shard_map(
        local, mesh=mesh, in_specs=(EACH, ALL, EACH, *part_of), out_specs=part_of, check_vma=False
    )(route.key_KU, route.rounds, value_KUX, *tables)


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


def _sorts(mesh: Mesh) -> bool:
    """Whether single numbers are better moved by sorts than one by one."""
    return mesh.devices.flat[0].platform == "tpu"


def _capacity(slots: int, ids: int, owners: int) -> int:
    """Ids that a device with so many slots can send to one owner in a round, where it has so many as a rule."""
    size = math.ceil(SLACK * ids / owners) + SPARE
    return min(slots, -(-size // SUBLANES) * SUBLANES)


def _past(size: int) -> jax.Array:
    """Rows past any end, ascending and distinct."""
    return NONE - lax.iota(jnp.int32, size)[::-1]


def _distinct(key_P: jax.Array, *, sorts: bool) -> tuple[jax.Array, jax.Array]:
    """The distinct keys, ascending and filled up with NO_KEY, and the slot of each key among them."""
    sorted_P, at_P = lax.sort((key_P, lax.iota(jnp.int32, len(key_P))), is_stable=False, num_keys=1)
    first_P, slot_P = _places(sorted_P)
    if sorts:
        _, slot_P = lax.sort((at_P, slot_P), is_stable=False, num_keys=1)
        return lax.sort(jnp.where(first_P, sorted_P, NO_KEY), is_stable=False), slot_P
    key_U = jnp.full_like(key_P, NO_KEY).at[slot_P].set(sorted_P, indices_are_sorted=True)
    return key_U, jnp.zeros_like(at_P).at[at_P].set(slot_P, unique_indices=True)


def _places(sorted_P: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Which of sorted numbers are the first of their like, and the place of each among the distinct ones."""
    first_P = jnp.concatenate([jnp.ones(1, bool), sorted_P[1:] != sorted_P[:-1]])
    return first_P, jnp.cumsum(first_P) - 1


def _parted(key_U: jax.Array, bits: int, capacity: int, owners: int) -> tuple[jax.Array, jax.Array]:
    """The place of each key in its message, in the fewest rounds, doubling, in which no message overflows."""
    one = jnp.ones((), jnp.int32)
    if owners == 1:
        return jnp.zeros(len(key_U), jnp.int32), one

    def ranked(rounds: jax.Array) -> tuple[jax.Array, jax.Array]:
        message_U = key_U >> messages.below(rounds, bits)
        new_U = jnp.concatenate([jnp.ones(1, bool), message_U[1:] != message_U[:-1]])
        place_U = lax.iota(jnp.int32, len(key_U))
        rank_U = place_U - lax.cummax(jnp.where(new_U, place_U, 0))
        crowd = jnp.max(jnp.where(key_U == NO_KEY, 0, rank_U + 1))
        return rank_U, sharding.pmax(crowd, MESH)

    def more(state: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        rounds = 2 * state[2]
        return *ranked(rounds), rounds

    found = lax.while_loop(lambda state: state[1] > capacity, more, (*ranked(one), one))
    return found[0], found[2]


def _exchange(sent_MCX: jax.Array) -> jax.Array:
    """What each owner sent to this device, in the order of the owners."""
    return sharding.all_to_all(sent_MCX, MODEL)


def _at(part: jax.Array, row: jax.Array) -> jax.Array:
    """Rows of a part; zeros past its end."""
    return part.at[row].get(mode="fill", fill_value=0)


def _summed(
    row_Q: jax.Array, value_QX: jax.Array, usual: int, *, sorts: bool
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Distinct rows, ascending, then rows past any end, with the sum of the values of each; and how many are distinct.

    They are filled up to a multiple of ``usual``, or to as many as there are where that is less.
    """
    row_Q, at_Q = lax.sort((row_Q, lax.iota(jnp.int32, len(row_Q))), is_stable=False, num_keys=2)
    first_Q, place_Q = _places(row_Q)
    size = max(-(-len(row_Q) // usual), 1) * usual if usual < len(row_Q) else len(row_Q)
    sum_QX = jax.ops.segment_sum(value_QX[at_Q], place_Q, size, indices_are_sorted=True)
    past_Q = _past(size)
    if sorts:
        filling = jnp.full(size - len(row_Q), NONE, jnp.int32)
        distinct_Q = jnp.concatenate([lax.sort(jnp.where(first_Q, row_Q, NONE), is_stable=False), filling])
        distinct_Q = jnp.where(distinct_Q == NONE, past_Q, distinct_Q)
    else:
        # what is no row is sent as NONE, which is the last past the end already
        real_Q = jnp.where(row_Q == NONE, size, place_Q)
        distinct_Q = past_Q.at[real_Q].set(row_Q, mode="drop", indices_are_sorted=True)
    return distinct_Q, sum_QX, (first_Q & (row_Q != NONE)).sum(dtype=jnp.int32)


def _changed(
    parts: tuple[jax.Array, ...], change: Change, summed: tuple[jax.Array, jax.Array, jax.Array], usual: int
) -> tuple[jax.Array, ...]:
    """The parts after a change of distinct rows, as many at a time as there are as a rule: once."""
    row_Q, value_QX, count = summed
    if usual >= len(row_Q):
        return change(*parts, row_Q, value_QX)

    def some(state: tuple[jax.Array, tuple[jax.Array, ...]]) -> tuple[jax.Array, tuple[jax.Array, ...]]:
        begin, parts = state
        own_C = lax.dynamic_slice_in_dim(row_Q, begin, usual)
        return begin + usual, change(*parts, own_C, lax.dynamic_slice_in_dim(value_QX, begin, usual))

    start = (jnp.zeros((), jnp.int32), parts)
    return lax.while_loop(lambda state: state[0] < count, some, start)[1]
