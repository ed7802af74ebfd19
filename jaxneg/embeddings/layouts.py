"""Where the rows of a catalogue lie: whole on each device, or spread over devices that share them.

Whoever is outside of this folder holds a ``Layout`` and does not ask which. K are devices and U their slots, as in
``exchange``.
"""

# jnp.pad leaves its arguments untyped.
# pyright: reportUnknownMemberType=false

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float

from jaxneg.config import LikeConfig, OptimConfig
from jaxneg.embeddings import exchange, heads, optim, places, sharding, tables
from jaxneg.embeddings.sharding import MESH
from jaxneg.embeddings.tables import Looked, Params, Rows, Tables, Weights

Trained = tuple[Params, Tables]
OptState = Any  # of optax; with the moments of the tables where touched rows alone are changed


class Found(NamedTuple):
    """Rows of the items that a batch names."""

    tables: Tables  # whole, or of ``Looked``
    ids: list[jax.Array]  # where the rows of each array of items are: the items themselves, or slots
    route: exchange.Route | None  # that changes of the rows take; None where they need none


class Gradients(NamedTuple):
    """With respect to all that a loss reads."""

    params: Params
    tables: Tables  # of what was looked up
    catalogue: Tables  # of whole tables, where a loss read rows beyond those; else none


class Updated(NamedTuple):
    """What an update leaves."""

    trained: Trained
    opt_state: OptState
    gradient_norm: Float[Array, ""]  # of what is clipped by norm


class Optimizer(NamedTuple):
    """Of parameters and item tables together."""

    init: Callable[[Trained], OptState]  # the first state
    # (step, trained, state, gradients, route of what was looked up) -> Updated
    update: Callable[[jax.Array, Trained, OptState, Gradients, exchange.Route | None], Updated]


@runtime_checkable
class Layout(Protocol):
    """Where rows lie, and all that depends on it. Row 0 pads, and keeps its place."""

    @property
    def mesh(self) -> Mesh: ...

    @property
    def items(self) -> int:
        """V - 1"""
        ...

    @property
    def rows(self) -> int:
        """Rows of a table, those of the items and what fills it up."""
        ...

    @property
    def places(self) -> places.Places:
        """Where the rows of a part of the tables lie."""
        ...

    @property
    def parted(self) -> tuple[str, ...]:
        """Axes of the mesh along which rows lie in parts; along the others each place has them all."""
        ...

    def place(self, id_: Array) -> Array:
        """Places of items' rows among all rows."""
        ...

    def there(self) -> Bool[Array, "V"]:
        """Which rows are items'; the padding row is none's, nor is what fills a table up."""
        ...

    def by_row(self, value_V: np.ndarray) -> np.ndarray:
        """Values of items, padding row first, in the order of the rows."""
        ...

    def by_item(self, by_row: Tables) -> Tables:
        """Whole tables in the order of the items, V = items + 1."""
        ...

    def padded(self, ids: Array) -> Array:
        """The array, its first axis filled up with PAD where ``look`` has to split it over all devices."""
        ...

    def look(self, by_row: Tables, ids: Sequence[jax.Array], few: int = 0) -> Found:
        """The rows that a batch names.

        Args:
          by_row: any arrays whose rows lie as those of the tables.
          ids: int32 arrays of items, each ``padded``.
          few: distinct ones among them, as a rule at most; 0 for as many as they are.
        """
        ...

    def optimizer(self, config: OptimConfig, steps: int, like: LikeConfig = optim.NO_LIKES) -> Optimizer:
        """The optimiser of a config.

        Args:
          config: rates, clipping and the optimiser of rows.
          steps: of the whole run, over which a learning rate may decay.
          like: of a head with an optimiser of its own.
        """
        ...

    def all_rows(self, rows: Rows, weights: Weights) -> heads.Heads | None:
        """What all items are scored with, as item_VD and bias_V; None where no one place holds it."""
        ...


@dataclass(frozen=True)
class Whole:
    """Each device has all rows, in the order of the items, and an update is of all."""

    mesh: Mesh
    items: int

    @property
    def rows(self) -> int:
        return self.items + 1

    @property
    def places(self) -> places.Places:
        return places.InOrder(self.items + 1)

    @property
    def parted(self) -> tuple[str, ...]:
        return ()

    def place(self, id_: Array) -> Array:
        return id_

    def there(self) -> Bool[Array, "V"]:
        return jnp.arange(self.rows) > 0

    def by_row(self, value_V: np.ndarray) -> np.ndarray:
        return value_V

    def by_item(self, by_row: Tables) -> Tables:
        return by_row

    def padded(self, ids: Array) -> Array:
        return ids

    def look(self, by_row: Tables, ids: Sequence[jax.Array], few: int = 0) -> Found:
        return Found(by_row, list(ids), None)

    def optimizer(self, config: OptimConfig, steps: int, like: LikeConfig = optim.NO_LIKES) -> Optimizer:
        dense = optim.dense_optimizer(config, steps, like)

        def update(
            step: jax.Array,
            trained: Trained,
            state: OptState,
            gradients: Gradients,
            route: exchange.Route | None,
        ) -> Updated:
            found = gradients.params, gradients.tables
            updates, state = dense.update(found, state, trained)
            return Updated(optax.apply_updates(trained, updates), state, optax.tree.norm(found))

        return Optimizer(dense.init, update)

    def all_rows(self, rows: Rows, weights: Weights) -> heads.Heads | None:
        return sharding.jit(rows)(weights)


@dataclass(frozen=True)
class Sharded:
    """Rows lie spread along the mesh axis "model", and an update is of those that a batch names, or a loss reads."""

    mesh: Mesh
    items: int

    @property
    def rows(self) -> int:
        """Those of the items and the padding row, rounded up to the buckets."""
        return tables.rows(self.items)

    @property
    def places(self) -> places.Places:
        return places.Spread(self.rows, self.mesh.shape[MESH[1]])

    @property
    def parted(self) -> tuple[str, ...]:
        return MESH[1:]

    def place(self, id_: Array) -> Array:
        """The place of an item's row. Items that follow each other in popularity land on different devices."""
        return tables.place(id_, self.rows)

    def there(self) -> Bool[Array, "V"]:
        item_V = tables.item_at(jnp.arange(self.rows, dtype=jnp.int32), self.rows)
        return (item_V > 0) & (item_V <= self.items)

    def by_row(self, value_V: np.ndarray) -> np.ndarray:
        return tables.spread(value_V)

    def by_item(self, by_row: Tables) -> Tables:
        return tables.gathered(by_row, self.items)

    def padded(self, ids: Array) -> Array:
        missing = -len(ids) % math.prod(self.mesh.shape.values())
        return jnp.pad(ids, ((0, missing), *[(0, 0)] * (ids.ndim - 1)))

    def look(self, by_row: Tables, ids: Sequence[jax.Array], few: int = 0) -> Found:
        """The distinct rows that a batch names: tables of ``Looked``, and for each array of ids its slots."""
        part = self.rows // self.mesh.shape[MESH[1]]
        route, slots = exchange.plan(self.mesh, part, self.place, ids, few)
        some = {name: table for name, table in by_row.items() if math.prod(table.shape[1:])}
        found = dict(zip(some, exchange.fetch(self.mesh, route, list(some.values())), strict=True))
        devices, width = route.key_KU.shape
        none = {
            name: jnp.zeros((devices, width, *table.shape[1:]), table.dtype)
            for name, table in by_row.items()
            if name not in some
        }
        looked = {name: Looked(row, self.mesh) for name, row in (found | none).items()}
        return Found(looked, slots, route)

    def optimizer(self, config: OptimConfig, steps: int, like: LikeConfig = optim.NO_LIKES) -> Optimizer:
        """Clipping and the norm are of the parameters alone: the tables have an optimiser of their own."""
        dense, of_rows = optim.dense_optimizer(config, steps, like), optim.row_optimizer(config, steps)

        def init(trained: Trained) -> OptState:
            params, by_row = trained
            return dense.init(params), of_rows.init(by_row)

        def update(
            step: jax.Array,
            trained: Trained,
            state: OptState,
            gradients: Gradients,
            route: exchange.Route | None,
        ) -> Updated:
            assert route is not None
            (params, by_row), (of_params, moments) = trained, state
            count = optim.updates(of_params)
            updates, of_params = dense.update(gradients.params, of_params, params)
            change = functools.partial(of_rows.change, step, count=count)
            touched = {name: of for name, of in gradients.tables.items() if name in moments}
            touched = {name: of for name, of in touched.items() if name not in gradients.catalogue}
            by_row, moments = self.changed((by_row, moments), route, touched, change)
            for name, of_all in gradients.catalogue.items():
                total = exchange.send(
                    self.mesh, route, gradients.tables[name].row_KUX, [of_all], optim.add_to_rows
                )
                found = of_rows.change_all(step, by_row[name], *moments[name].values(), *total, count=count)
                by_row[name], *new = found
                moments[name] = dict(zip(moments[name], new, strict=True))
            norm = optax.tree.norm(gradients.params)
            return Updated((optax.apply_updates(params, updates), by_row), (of_params, moments), norm)

        return Optimizer(init, update)

    def changed(
        self,
        before: tuple[Tables, optim.Moments],
        route: exchange.Route,
        gradients: Tables,
        change: exchange.Change,
    ) -> tuple[Tables, optim.Moments]:
        """Tables and moments after ``change`` of the rows on the route; others keep their bits.

        Args:
          before: tables by ``place``, those without gradients stay; and moments of each table that has gradients.
          route: of ``look``.
          gradients: of ``Looked``, with respect to what ``look`` gave.
          change: of a RowOptimizer, its step filled in.
        """
        by_row, moments = dict(before[0]), dict(before[1])
        for name, gradient in gradients.items():
            names = list(moments[name])
            beside = [by_row[name], *moments[name].values()]
            by_row[name], *new = exchange.send(self.mesh, route, gradient.row_KUX, beside, change)
            moments[name] = dict(zip(names, new, strict=True))
        return by_row, moments

    def all_rows(self, rows: Rows, weights: Weights) -> heads.Heads | None:
        return None


def mesh_for(config: OptimConfig, mesh: Mesh) -> Mesh:
    """A mesh of the same devices on which the tables of a config can lie, whatever those of the mesh are."""
    return sharding.mesh_of(mesh.devices.flat) if config.rows == "dense" else mesh


def of_config(config: OptimConfig, mesh: Mesh, items: int) -> Layout:
    """The layout that a config trains tables in. Raises UserError where rows cannot lie on the mesh."""
    if config.rows == "dense":
        return Whole(mesh, items)
    tables.check_shards(mesh.shape[MESH[1]])
    return Sharded(mesh, items)
