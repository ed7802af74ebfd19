"""Item tables: their rows, biases, and how a step reaches and changes them.

In small catalogues each device has all rows, and gradients are of all rows. In large ones rows lie spread over the
devices: a batch fetches the distinct rows that it names, gradients are with respect to these, and only they are
changed. ``layouts`` has both behind one interface; here is what they have in common, and the places of spread rows.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from jaxneg.config import LikeConfig, ModelConfig
from jaxneg.embeddings import exchange, heads
from jaxneg.errors import UserError

Tables = dict[str, Any]  # by name, jax.Array or Looked


Params = dict[str, jax.Array]  # of a model, by name


class Weights(NamedTuple):
    """All that a score is a function of: what is learned, and what is known of the items."""

    params: Params
    tables: Tables
    attribute_VA: Any  # int32, jax.Array or Looked; as the tables by item, by row, or by slot

    @property
    def by_row(self) -> Tables:
        """The tables, with the attributes as one of them."""
        return self.tables | {"attribute_VA": self.attribute_VA}


# What items of whole tables, or of a part of them, are scored with: row_CD and bias_C, perhaps those of a second head.
Rows = Callable[[Weights], heads.Heads]


def weights(params: Params, by_row: Tables) -> Weights:
    """The inverse of ``Weights.by_row``."""
    return Weights(
        params, {name: by_row[name] for name in by_row if name != "attribute_VA"}, by_row["attribute_VA"]
    )


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
    tables: Tables = {}
    for name in ("item_VD",) if config.tied else ("item_VD", "output_VD"):
        key, draw = jax.random.split(key)
        table_VD = config.row_scale * jax.random.normal(draw, (rows, config.width), jnp.float32)
        tables[name] = table_VD.at[0].set(0.0)
    if config.item_bias != "none":
        tables["bias_V"] = jnp.zeros(rows, jnp.float32) if bias_V is None else bias_V
    return tables


def init_likes(config: LikeConfig, width: int, rows: int, bias_V: jax.Array | None = None) -> Tables:
    """Tables of the like head, none without one: like_bias_V and as configured like_VD.

    Rows start at zero, so that the head begins with what its biases know: those given, by default zero.
    """
    if config.weight == 0:
        return {}
    tables: Tables = {"like_bias_V": jnp.zeros(rows, jnp.float32) if bias_V is None else bias_V}
    if config.rows != "none":
        tables["like_VD"] = jnp.zeros((rows, width), jnp.float32)
    return tables


def lookup(table: jax.Array | Looked, id_: Int[Array, "*S"]) -> Array:
    """Rows of a table, by item, or by slot of rows that are looked up already."""
    if isinstance(table, Looked):
        return exchange.take(table.mesh, table.row_KUX, id_)
    # No row is counted from the end: else XLA would ask so anew for each number of a row.
    return table.at[id_].get(mode="clip", wrap_negative_indices=False)


def output_table(tables: Tables) -> jax.Array | Looked:
    """The table that is scored against: the input rows themselves when tied."""
    return tables[_output_name(tables)]


def scored(tables: Tables) -> Tables:
    """The tables that scores are made of: rows, and biases where there are some."""
    return {name: tables[name] for name in (_output_name(tables), "bias_V") if name in tables}


def _output_name(tables: Tables) -> str:
    return "output_VD" if "output_VD" in tables else "item_VD"


def bias(tables: Tables, id_: Int[Array, "*S"]) -> Float[Array, "*S"]:
    """Biases of items, 0 without a bias table."""
    if "bias_V" not in tables:
        return jnp.zeros(id_.shape, jnp.float32)
    return lookup(tables["bias_V"], id_)


def rows(items: int) -> int:
    """Rows of tables that devices share, a multiple of BUCKETS."""
    return -(-(items + 1) // BUCKETS) * BUCKETS


def place(id_: Any, rows: int) -> Any:
    """Places of items in tables of ``rows`` rows that devices share; numpy and jax alike, in 32 bits."""
    return id_ % BUCKETS * STRIDE % BUCKETS * (rows // BUCKETS) + id_ // BUCKETS


def item_at(place: Any, rows: int) -> Any:
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
