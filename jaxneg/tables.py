"""Item tables: their rows, biases, and the scores they give.

The dense, replicated path. Everything else reaches rows through these functions, so that tables sharded by rows can
take their place without touching encoders, step or evaluation.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxneg.config import ModelConfig

Tables = dict[str, jax.Array]


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


def lookup(table_VD: Float[Array, "V D"], id_: Int[Array, "*S"]) -> Float[Array, "*S D"]:
    """Rows of a table."""
    return table_VD.at[id_].get(mode="clip")


def output_table(tables: Tables) -> Float[Array, "V D"]:
    """The table that is scored against: the input rows themselves when tied."""
    return tables.get("output_VD", tables["item_VD"])


def bias(tables: Tables, id_: Int[Array, "*S"]) -> Float[Array, "*S"]:
    """Biases of items, 0 without a bias table."""
    if "bias_V" not in tables:
        return jnp.zeros(id_.shape, jnp.float32)
    return tables["bias_V"].at[id_].get(mode="clip")
