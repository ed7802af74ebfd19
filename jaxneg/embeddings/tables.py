"""Item tables: their rows, biases, and how a step reaches and changes them.

On the dense path of small catalogues each device has all rows, and gradients are of all rows. In large ones rows lie
spread over the devices by a ``Layout``: a batch fetches the distinct rows that it names (``routes``), gradients are
with respect to these, and only they are changed.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from jaxneg.config import ModelConfig
from jaxneg.embeddings import exchange, optim
from jaxneg.embeddings.sharding import MESH
from jaxneg.errors import UserError

Tables = dict[str, Any]  # by name, jax.Array or Looked


class Weights(NamedTuple):
    """All that a score is a function of: what is learned, and what is known of the items."""

    params: Mapping[str, jax.Array]  # of the model, by name
    tables: Tables
    attribute_VA: Any  # int32, jax.Array or Looked; as the tables by item, by row, or by slot


# Rows are dealt to this many buckets of equal size, whose number must be a multiple of the devices that share a table:
# 3 * 2**10. So their places do not depend on the number of devices.
BUCKETS = 3072
STRIDE = 1901  # coprime to it, about its golden section: buckets that follow each other land far apart


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Looked:
    """The distinct rows of a table that a batch names, by slot instead of by item; PAD has slot 0."""

    row_KUX: jax.Array  # of each device, sharded along K
    mesh: Mesh = field(metadata={"static": True})


def init_tables(key: jax.Array, config: ModelConfig, rows: int, bias_V: jax.Array | None = None) -> Tables:
    """Tables of a catalogue with ``rows`` rows, padding row 0 included: item_VD, and as configured output_VD, bias_V.

    Rows are normal with standard deviation ``config.row_scale``, the padding row is zero, biases are those given, by
    default zero.
    """
    tables = {}
    for name in ("item_VD",) if config.tied else ("item_VD", "output_VD"):
        key, draw = jax.random.split(key)
        table_VD = config.row_scale * jax.random.normal(draw, (rows, config.width), jnp.float32)
        tables[name] = table_VD.at[0].set(0.0)
    if config.item_bias != "none":
        tables["bias_V"] = jnp.zeros(rows, jnp.float32) if bias_V is None else bias_V
    return tables


def lookup(table: jax.Array | Looked, id_: Int[Array, "*S"]) -> Array:
    """Rows of a table, by item, or by slot of rows that are looked up already."""
    if isinstance(table, Looked):
        return exchange.take(table.mesh, table.row_KUX, id_)
    return table.at[id_].get(mode="clip")


def output_table(tables: Tables) -> jax.Array | Looked:
    """The table that is scored against: the input rows themselves when tied."""
    return tables.get("output_VD", tables["item_VD"])


def bias(tables: Tables, id_: Int[Array, "*S"]) -> Float[Array, "*S"]:
    """Biases of items, 0 without a bias table."""
    if "bias_V" not in tables:
        return jnp.zeros(id_.shape, jnp.float32)
    return lookup(tables["bias_V"], id_)


class Layout(NamedTuple):
    """Where the rows of a catalogue that devices share lie. Row 0 keeps its place."""

    mesh: Mesh
    items: int  # V - 1

    @property
    def rows(self) -> int:
        """Rows of the tables, V: those of the items and the padding row, rounded up to the buckets."""
        return rows(self.items)

    def place(self, id_):
        """The place of an item's row. Items that follow each other in popularity land on different devices."""
        return place(id_, self.rows)

    def look(
        self, tables: Tables, ids: Sequence[jax.Array]
    ) -> tuple[exchange.Route, Tables, list[jax.Array]]:
        """The distinct rows of items: their route, tables of ``Looked``, and for each array of ids its slots.

        Args:
          tables: any arrays whose rows lie by ``place``.
          ids: int32 arrays whose first axis is split over all devices.
        """
        part = self.rows // self.mesh.shape[MESH[1]]
        route, slots = exchange.plan(self.mesh, part, self.place, ids)
        some = {name: table for name, table in tables.items() if math.prod(table.shape[1:])}
        found = dict(zip(some, exchange.fetch(self.mesh, route, list(some.values())), strict=True))
        devices, width = route.id_KU.shape
        none = {
            name: jnp.zeros((devices, width, *table.shape[1:]), table.dtype)
            for name, table in tables.items()
            if name not in some
        }
        return route, {name: Looked(row, self.mesh) for name, row in (found | none).items()}, slots

    def update(
        self, tables: Tables, moments: optim.Moments, route: exchange.Route, gradients: Tables, change
    ) -> tuple[Tables, optim.Moments]:
        """Tables and moments after ``change`` of the rows on the route; others keep their bits.

        Args:
          tables: by ``place``; those without gradients stay.
          moments: of each table that has gradients.
          route: of ``look``.
          gradients: of ``Looked``, with respect to what ``look`` gave.
          change: of a RowOptimizer, its step filled in.
        """
        tables, moments = dict(tables), dict(moments)
        for name, gradient in gradients.items():
            names = list(moments[name])
            beside = [tables[name], *moments[name].values()]
            tables[name], *new = exchange.send(self.mesh, route, gradient.row_KUX, beside, change)
            moments[name] = dict(zip(names, new, strict=True))
        return tables, moments

    def padded(self, ids: jax.Array) -> jax.Array:
        """The array, its first axis filled up with PAD so that it can be split over all devices."""
        missing = -len(ids) % math.prod(self.mesh.shape.values())
        return jnp.pad(ids, ((0, missing), *[(0, 0)] * (ids.ndim - 1)))


def rows(items: int) -> int:
    """Rows of tables that devices share, a multiple of BUCKETS."""
    return -(-(items + 1) // BUCKETS) * BUCKETS


def place(id_, rows: int):
    """Places of items in tables of ``rows`` rows that devices share; numpy and jax alike, in 32 bits."""
    return id_ % BUCKETS * STRIDE % BUCKETS * (rows // BUCKETS) + id_ // BUCKETS


def item_at(place, rows: int):
    """The item whose row lies at a place: the inverse of ``place``. Past the last item, a number above it."""
    bucket, turn = place // (rows // BUCKETS), place % (rows // BUCKETS)
    return turn * BUCKETS + bucket * pow(STRIDE, -1, BUCKETS) % BUCKETS


def spread(value_V: np.ndarray) -> np.ndarray:
    """Values by item in the order of the places of their rows, zeros between."""
    size = rows(len(value_V) - 1)
    result = np.zeros((size, *value_V.shape[1:]), value_V.dtype)
    result[place(np.arange(len(value_V)), size)] = value_V
    return result


def gathered(tables: Tables, items: int) -> Tables:
    """Tables whose rows lie by ``place`` as tables by item, V = items + 1."""
    at_V = place(np.arange(items + 1, dtype=np.int32), rows(items))
    return {name: table[at_V] for name, table in tables.items()}


def check_shards(shards: int) -> None:
    """Raises UserError where rows cannot lie on so many devices."""
    if BUCKETS % shards:
        raise UserError(f"--train.shards must divide {BUCKETS} = 3 * 2**10, got {shards}")
