"""Which of a device's ids go to which owner in which round, by sorted keys.

A key is the owner, then the bits of the row at its owner, mirrored, so that the lowest, by which rounds are told apart,
come first: whatever the rounds are, a message is a run of keys. Numbers are found by rows of them, which a TPU gathers
faster than single ones.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

NO_KEY = np.uint32(0xFFFFFFFF)  # in place of a key where there is none
LANES = 128  # numbers in a row of a register of a TPU


def mirrored(row_P: jax.Array, bits: int) -> jax.Array:
    """The lowest bits of numbers of uint32 in the opposite order."""
    for shift, mask in ((1, 0x55555555), (2, 0x33333333), (4, 0x0F0F0F0F), (8, 0x00FF00FF), (16, 0x0000FFFF)):
        row_P = (row_P >> shift) & np.uint32(mask) | (row_P & np.uint32(mask)) << shift
    return row_P >> (32 - bits)


def row(key: jax.Array, bits: int) -> jax.Array:
    """Places of keys' rows at their owners, where these are many."""
    return mirrored(key & np.uint32((1 << bits) - 1), bits).astype(jnp.int32)


def round_of(key: jax.Array, rounds: jax.Array, bits: int) -> jax.Array:
    """The rounds of keys."""
    within = key & np.uint32((1 << bits) - 1)
    return (within >> below(rounds, bits)).astype(jnp.int32)


def below(rounds: jax.Array, bits: int) -> jax.Array:
    """Bits of a row below those that tell its round."""
    return (bits - lax.population_count(rounds - 1)).astype(jnp.uint32)


def message(
    key_U: jax.Array, turn: jax.Array, rounds: jax.Array, sizes: tuple[int, int, int]
) -> tuple[jax.Array, jax.Array]:
    """Keys and slots that go to each owner in a turn; NO_KEY, and past the last slot, where there is no more.

    Args:
      key_U: of a device, ascending.
      turn: the round.
      rounds: of all.
      sizes: owners, capacity of a message and bits of a key that are the row's.
    """
    owners, capacity, bits = sizes
    low = below(rounds, bits)
    begin_M = lax.iota(jnp.uint32, owners) << bits | turn.astype(jnp.uint32) << low
    end_M = begin_M + (jnp.ones((), jnp.uint32) << low)
    more = math.ceil(capacity / LANES) + 1
    rows = math.ceil(len(key_U) / LANES) + more
    filling = jnp.full(rows * LANES - len(key_U), NO_KEY)
    key_RS = jnp.concatenate([key_U, filling]).reshape(rows, LANES)
    start_M, stop_M = jnp.split(before(key_RS, jnp.concatenate([begin_M, end_M])), 2)
    # A run of keys begins within a row: it is taken with the rows that follow, and drawn to the front by powers of two.
    row_MR = (start_M // LANES)[:, None] + lax.iota(jnp.int32, more)[None]
    key_MW = key_RS.at[row_MR].get(mode="promise_in_bounds").reshape(owners, more * LANES)
    ahead_M1 = (start_M % LANES)[:, None]
    for power in range(LANES.bit_length() - 1):
        drawn = jnp.roll(key_MW, -(1 << power), axis=1)
        key_MW = jnp.where((ahead_M1 >> power) & 1 == 1, drawn, key_MW)
    place_1C = lax.iota(jnp.int32, capacity)[None]
    there_MC = place_1C < (stop_M - start_M)[:, None]
    slot_MC = jnp.where(there_MC, start_M[:, None] + place_1C, len(key_U))
    return jnp.where(there_MC, key_MW[:, :capacity], NO_KEY), slot_MC


def before(key_RS: jax.Array, bound_M: jax.Array) -> jax.Array:
    """How many keys, ascending row by row, are below each bound."""
    row_M = jnp.maximum((key_RS[:, 0][None] < bound_M[:, None]).sum(1, dtype=jnp.int32) - 1, 0)
    within_MS = key_RS.at[row_M].get(mode="promise_in_bounds") < bound_M[:, None]
    return row_M * LANES + within_MS.sum(1, dtype=jnp.int32)
