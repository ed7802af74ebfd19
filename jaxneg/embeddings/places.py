"""Where the rows of a device lie, numbered in the order of their items, so that chunks of them come in that order."""

import functools
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Int

from jaxneg.embeddings import tables
from jaxneg.embeddings.tables import Tables

Part = int | jax.Array  # which part of the rows, from 0


@runtime_checkable
class Places(Protocol):
    """Rows of a part, numbered from 0. PAD has a number like any item; numbers past the last item's have no item."""

    @property
    def size(self) -> int:
        """Rows of a part."""
        ...

    @property
    def turn(self) -> int:
        """Rows of each part whose items, of all parts together, are as many that follow each other."""
        ...

    def item(self, part: Part, number: Int[Array, "C"]) -> Int[Array, "C"]:
        """The items of rows of a part; past the last item, numbers above it."""
        ...

    def number(self, part: Part, item: Int[Array, "*S"]) -> Int[Array, "*S"]:
        """Numbers of items' rows; -1 where another part has them."""
        ...

    def run(self, part: Part, by_row: Tables, begin: Int[Array, ""], count: int) -> Tables:
        """``count`` rows of a part's tables, from a number on."""
        ...

    def some(self, part: Part, by_row: Tables, number: Int[Array, "C"]) -> Tables:
        """Rows of a part's tables, by number."""
        ...


@dataclass(frozen=True)
class InOrder:
    """All rows are in one part, each at the number of its item."""

    size: int

    @property
    def turn(self) -> int:
        return 1

    def item(self, part: Part, number: Int[Array, "C"]) -> Int[Array, "C"]:
        return number

    def number(self, part: Part, item: Int[Array, "*S"]) -> Int[Array, "*S"]:
        return item

    def run(self, part: Part, by_row: Tables, begin: Int[Array, ""], count: int) -> Tables:
        if count == self.size:
            return by_row
        return {name: lax.dynamic_slice_in_dim(table, begin, count) for name, table in by_row.items()}

    def some(self, part: Part, by_row: Tables, number: Int[Array, "C"]) -> Tables:
        return {name: table[number] for name, table in by_row.items()}


@dataclass(frozen=True)
class Spread:
    """Rows lie by ``tables.place``: a part has some of the buckets, one after the other."""

    rows: int  # of all parts
    parts: int

    @property
    def size(self) -> int:
        return self.rows // self.parts

    @property
    def turn(self) -> int:
        return tables.BUCKETS // self.parts

    @functools.cached_property
    def _first_PK(self) -> np.ndarray:
        """The lowest items of each part, one of each of its buckets, ascending."""
        return np.sort(
            tables.item_at(np.arange(tables.BUCKETS) * self._turns, self.rows).reshape(self.parts, -1)
        )

    @functools.cached_property
    def _at_I(self) -> np.ndarray:
        """The place of each of the lowest items among those of its part."""
        at_I = np.zeros(tables.BUCKETS, np.int32)
        at_I[self._first_PK] = np.arange(self.turn)[None]
        return at_I

    @property
    def _turns(self) -> int:
        return self.rows // tables.BUCKETS

    def item(self, part: Part, number: Int[Array, "C"]) -> Int[Array, "C"]:
        first_K = jnp.asarray(self._first_PK, jnp.int32)[part]
        return number // self.turn * tables.BUCKETS + first_K[number % self.turn]

    def number(self, part: Part, item: Int[Array, "*S"]) -> Int[Array, "*S"]:
        own = tables.place(item, self.rows) // self.size == part
        number = item // tables.BUCKETS * self.turn + jnp.asarray(self._at_I)[item % tables.BUCKETS]
        return jnp.where(own, number, -1)

    def run(self, part: Part, by_row: Tables, begin: Int[Array, ""], count: int) -> Tables:
        return self.some(part, by_row, begin + lax.iota(jnp.int32, count))

    def some(self, part: Part, by_row: Tables, number: Int[Array, "C"]) -> Tables:
        at = tables.place(self.item(part, number), self.rows) - part * self.size
        return {name: table[at] for name, table in by_row.items()}
