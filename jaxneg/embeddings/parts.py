"""The rows of tables that this process holds, a run at a time in the order of their items: for what is written of them.

A run is on one device, and nothing travels. P are the parts of the tables.
"""

# jax.jit leaves its arguments untyped.
# pyright: reportUnknownMemberType=false

from collections.abc import Callable, Iterator
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np

from jaxneg.embeddings.layouts import Layout
from jaxneg.embeddings.places import Places
from jaxneg.embeddings.tables import Params, Tables

RUN = 1 << 16  # rows of a run, at most


class Run(NamedTuple):
    """Rows of a part that follow each other."""

    part: int
    first: int  # of them, counted from the first row of the part
    total: int  # rows of the part that are items', or pad
    item_C: np.ndarray  # their items, ascending; row 0 pads
    by_row: Tables  # their rows


def held(layout: Layout, by_row: Tables) -> Iterator[Run]:
    """The runs of all parts that this process holds, one part after the other; of copies of a part one process has it.

    Args:
      layout: of the tables.
      by_row: arrays whose rows lie as those of the tables.
    """
    size = layout.places.size
    shards = {name: cast(jax.Array, table).addressable_shards for name, table in by_row.items()}
    for shard in next(iter(shards.values())):
        if shard.replica_id:
            continue
        own = {name: next(s.data for s in of if s.device == shard.device) for name, of in shards.items()}
        part = (shard.index[0].start or 0) // size
        total = len(items(layout, part, 0, size))
        for first in range(0, total, RUN):
            count = min(RUN, size - first)
            item_C = items(layout, part, first, count)
            rows = _rows(own, part, first, places=layout.places, count=count)
            yield Run(part, first, total, item_C, {name: row[: len(item_C)] for name, row in rows.items()})


def items(layout: Layout, part: int, first: int, count: int) -> np.ndarray:
    """The items of rows of a part, those past the last item left out."""
    item_C = np.asarray(layout.places.item(part, jnp.arange(first, first + count, dtype=jnp.int32)))
    return item_C[: np.searchsorted(item_C, layout.items, side="right")]


def local(params: Params) -> Params:
    """Parameters that all devices have alike, on the first one of this process."""
    return {name: leaf.addressable_data(0) for name, leaf in params.items()}


def _some(by_row: Tables, part: jax.Array, first: jax.Array, *, places: Places, count: int) -> Tables:
    return places.run(part, by_row, first, count)


_rows: Callable[..., Tables] = jax.jit(_some, static_argnames=("places", "count"))
