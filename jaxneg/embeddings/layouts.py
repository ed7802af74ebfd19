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
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Array, Float, Int

from jaxneg.batch import EvalBatch
from jaxneg.config import OptimConfig
from jaxneg.embeddings import exchange, optim, sharding, tables, topk
from jaxneg.embeddings.sharding import MESH
from jaxneg.embeddings.tables import Looked, Params, Tables, Weights
from jaxneg.metrics import ranking, scores

Trained = tuple[Params, Tables]  # what gradients are with respect to
OptState = Any  # of optax; with the moments of the tables where touched rows alone are changed
Targets = tuple[np.ndarray, ...]  # blocks of items side by side, 0 where there is none
Compared = jax.Array | topk.Ranked  # of ``Layout.compare``: scores_BV, or what devices that share rows found


class Found(NamedTuple):
    """Rows of the items that a batch names."""

    tables: Tables  # whole, or of ``Looked``
    ids: list[jax.Array]  # where the rows of each array of items are: the items themselves, or slots
    route: exchange.Route | None  # that changes of the rows take; None where they need none


class Updated(NamedTuple):
    """What an update leaves."""

    trained: Trained
    opt_state: OptState
    gradient_norm: Float[Array, ""]  # of what is clipped by norm


class Optimizer(NamedTuple):
    """Of parameters and item tables together."""

    init: Callable[[Trained], OptState]  # the first state
    # (step, trained, state, gradients, route of what was looked up) -> Updated
    update: Callable[[jax.Array, Trained, OptState, Trained, exchange.Route | None], Updated]


class HeldOut(NamedTuple):
    """What a model says of held-out examples."""

    h_BD: jax.Array  # from which the event after each context is scored
    pair_B2: jax.Array  # scores of the pairs, and of the liked and disliked items
    liked_BC: jax.Array
    disliked_BC: jax.Array


class Scoring(NamedTuple):
    """What scores of a catalogue take of a model."""

    held_out: Callable[[Weights, EvalBatch], HeldOut]
    rows: topk.Rows


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

    def by_row(self, value_V: np.ndarray) -> np.ndarray:
        """Values of items, padding row first, in the order of the rows."""
        ...

    def by_item(self, by_row: Tables) -> Tables:
        """Whole tables in the order of the items, V = items + 1."""
        ...

    def padded(self, ids: Array) -> Array:
        """The array, its first axis filled up with PAD where ``look`` has to split it over all devices."""
        ...

    def look(self, by_row: Tables, ids: Sequence[jax.Array]) -> Found:
        """The rows that a batch names.

        Args:
          by_row: any arrays whose rows lie as those of the tables.
          ids: int32 arrays of items, each ``padded``.
        """
        ...

    def optimizer(self, config: OptimConfig, steps: int) -> Optimizer:
        """The optimiser of a config.

        Args:
          config: rates, clipping and the optimiser of rows.
          steps: of the whole run, over which a learning rate may decay.
        """
        ...

    def compare(self, rows: topk.Rows, weights: Weights, examples: topk.Examples, *, k: int = 0) -> Compared:
        """What ``ranking`` needs, on the devices: traced within a jitted function.

        Args:
          rows: as they are scored.
          weights: by row.
          examples: and the targets to rank.
          k: how many leading items to list.
        """
        ...

    def ranking(
        self, compared: Compared, targets: Targets, *, k: int = 0, seen_BL: np.ndarray | None = None
    ) -> ranking.Ranking:
        """Where targets stand in the catalogue, as ``metrics.ranking`` defines it; on the host.

        Args:
          compared: of ``compare``, which had the blocks of targets side by side; rows past the targets' are ignored.
          targets: to be ranked.
          k: and ``seen_BL``: as given there.
        """
        ...

    def score(self, scoring: Scoring, weights: Weights) -> scores.Score:
        """A score function for ``metrics``: to scores_BV, or to ``scores.Scored`` where no one place holds
        them."""
        ...

    def all_rows(self, rows: topk.Rows, weights: Weights) -> tuple[jax.Array, jax.Array] | None:
        """Rows and biases of all items, item_VD and bias_V; None where no one place holds them."""
        ...


@dataclass(frozen=True)
class Whole:
    """Each device has all rows, in the order of the items, and an update is of all."""

    mesh: Mesh
    items: int

    @property
    def rows(self) -> int:
        return self.items + 1

    def by_row(self, value_V: np.ndarray) -> np.ndarray:
        return value_V

    def by_item(self, by_row: Tables) -> Tables:
        return by_row

    def padded(self, ids: Array) -> Array:
        return ids

    def look(self, by_row: Tables, ids: Sequence[jax.Array]) -> Found:
        return Found(by_row, list(ids), None)

    def optimizer(self, config: OptimConfig, steps: int) -> Optimizer:
        dense = optim.dense_optimizer(config, steps)

        def update(
            step: jax.Array,
            trained: Trained,
            state: OptState,
            gradients: Trained,
            route: exchange.Route | None,
        ) -> Updated:
            updates, state = dense.update(gradients, state, trained)
            return Updated(optax.apply_updates(trained, updates), state, optax.tree.norm(gradients))

        return Optimizer(dense.init, update)

    def compare(
        self, rows: topk.Rows, weights: Weights, examples: topk.Examples, *, k: int = 0
    ) -> Float[Array, "B V"]:
        return topk.scores(examples.h_BD, *rows(weights))

    def ranking(
        self, compared: Compared, targets: Targets, *, k: int = 0, seen_BL: np.ndarray | None = None
    ) -> ranking.Ranking:
        score_BV = np.asarray(compared)[: len(targets[0])]
        return ranking.rank(score_BV, targets, k=k, seen_BL=seen_BL)

    def score(self, scoring: Scoring, weights: Weights) -> Callable[[EvalBatch], np.ndarray]:
        row_VD, bias_V = sharding.jit(scoring.rows)(weights)

        @sharding.jit
        def scores(
            weights: Weights, row_VD: Float[Array, "V D"], bias_V: Float[Array, "V"], batch: EvalBatch
        ) -> Float[Array, "B V"]:
            return topk.scores(scoring.held_out(weights, batch).h_BD, row_VD, bias_V)

        def score(batch: EvalBatch) -> np.ndarray:
            none_B0 = np.zeros((len(batch.item_BL), 0), np.int32)
            alone = batch._replace(pair_B2=none_B0, liked_BC=none_B0, disliked_BC=none_B0)
            return np.asarray(scores(weights, row_VD, bias_V, alone))

        return score

    def all_rows(self, rows: topk.Rows, weights: Weights) -> tuple[jax.Array, jax.Array] | None:
        return sharding.jit(rows)(weights)


@dataclass(frozen=True)
class Sharded:
    """Rows lie spread along the mesh axis "model", and an update is of those that a batch names."""

    mesh: Mesh
    items: int

    @property
    def rows(self) -> int:
        """Those of the items and the padding row, rounded up to the buckets."""
        return tables.rows(self.items)

    def place(self, id_: Array) -> Array:
        """The place of an item's row. Items that follow each other in popularity land on different devices."""
        return tables.place(id_, self.rows)

    def by_row(self, value_V: np.ndarray) -> np.ndarray:
        return tables.spread(value_V)

    def by_item(self, by_row: Tables) -> Tables:
        return tables.gathered(by_row, self.items)

    def padded(self, ids: Array) -> Array:
        missing = -len(ids) % math.prod(self.mesh.shape.values())
        return jnp.pad(ids, ((0, missing), *[(0, 0)] * (ids.ndim - 1)))

    def look(self, by_row: Tables, ids: Sequence[jax.Array]) -> Found:
        """The distinct rows that a batch names: tables of ``Looked``, and for each array of ids its slots."""
        part = self.rows // self.mesh.shape[MESH[1]]
        route, slots = exchange.plan(self.mesh, part, self.place, ids)
        some = {name: table for name, table in by_row.items() if math.prod(table.shape[1:])}
        found = dict(zip(some, exchange.fetch(self.mesh, route, list(some.values())), strict=True))
        devices, width = route.id_KU.shape
        none = {
            name: jnp.zeros((devices, width, *table.shape[1:]), table.dtype)
            for name, table in by_row.items()
            if name not in some
        }
        looked = {name: Looked(row, self.mesh) for name, row in (found | none).items()}
        return Found(looked, slots, route)

    def optimizer(self, config: OptimConfig, steps: int) -> Optimizer:
        """Clipping and the norm are of the parameters alone: the tables have an optimiser of their own."""
        dense, of_rows = optim.dense_optimizer(config, steps), optim.row_optimizer(config, steps)

        def init(trained: Trained) -> OptState:
            params, by_row = trained
            return dense.init(params), of_rows.init(by_row)

        def update(
            step: jax.Array,
            trained: Trained,
            state: OptState,
            gradients: Trained,
            route: exchange.Route | None,
        ) -> Updated:
            assert route is not None
            (params, by_row), (of_params, moments) = trained, state
            updates, of_params = dense.update(gradients[0], of_params, params)
            change = functools.partial(of_rows.change, step)
            by_row, moments = self.changed((by_row, moments), route, gradients[1], change)
            norm = optax.tree.norm(gradients[0])
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

    def compare(
        self, rows: topk.Rows, weights: Weights, examples: topk.Examples, *, k: int = 0
    ) -> topk.Ranked:
        size, filled = (
            len(examples.h_BD),
            topk.Examples(*(self.padded(jnp.asarray(leaf)) for leaf in examples)),
        )
        found = topk.ranked(self.mesh, self.items, rows, weights, filled, k=k)
        return topk.Ranked(*(leaf[:size] for leaf in found[:-1]), nan=found.nan)

    def ranking(
        self, compared: Compared, targets: Targets, *, k: int = 0, seen_BL: np.ndarray | None = None
    ) -> ranking.Ranking:
        assert isinstance(compared, topk.Ranked)
        if bool(compared.nan):
            raise ValueError(ranking.NAN)
        size = len(targets[0])
        ends = np.cumsum([item_BC.shape[1] for item_BC in targets])[:-1]
        blocks = np.split(np.asarray(compared.rank_BC)[:size], ends, axis=1)
        ranks = (
            np.where(item_BC > 0, rank_BC, np.nan) for item_BC, rank_BC in zip(targets, blocks, strict=True)
        )
        return ranking.Ranking(tuple(ranks), np.asarray(compared.top_Bk, np.int64)[:size])

    def score(self, scoring: Scoring, weights: Weights) -> Callable[[EvalBatch], "_Scored"]:
        everywhere = NamedSharding(self.mesh, sharding.spec(""))
        jitted = (
            sharding.jit(scoring.held_out, out_shardings=everywhere),
            sharding.jit(
                functools.partial(self.compare, scoring.rows), static_argnames="k", out_shardings=everywhere
            ),
        )
        return functools.partial(_Scored, self, jitted, weights)

    def all_rows(self, rows: topk.Rows, weights: Weights) -> tuple[jax.Array, jax.Array] | None:
        return None


class _Scored:
    """Scores of a batch's examples against a catalogue whose rows devices share."""

    def __init__(
        self,
        layout: Sharded,
        jitted: tuple[Callable[..., HeldOut], Callable[..., topk.Ranked]],
        weights: Weights,
        batch: EvalBatch,
    ):
        self._layout, self._weights, self._batch = layout, weights, batch
        self._held_out, self._compare = jitted

    def of(self, item_BC: Int[np.ndarray, "B C"]) -> Float[np.ndarray, "B C"]:
        return np.asarray(self._held(item_BC).pair_B2)

    def rank(self, targets: Targets, *, k: int, seen_BL: np.ndarray | None) -> ranking.Ranking:
        item_BC = np.concatenate(targets, axis=1)
        found = self._held(item_BC)
        seen = np.zeros((len(item_BC), 1), np.int32) if seen_BL is None else seen_BL
        examples = topk.Examples(found.h_BD, item_BC, found.pair_B2, seen)
        compared = self._compare(self._weights, examples, k=k)
        return self._layout.ranking(compared, targets, k=k)

    def _held(self, item_BC: Int[np.ndarray, "B C"]) -> HeldOut:
        """Hidden states, with scores of items in place of the pairs'."""
        none_BC = np.zeros((len(item_BC), 1), np.int32)
        batch = self._batch._replace(pair_B2=item_BC, liked_BC=none_BC, disliked_BC=none_BC)
        return self._held_out(self._weights, batch)


def of_config(config: OptimConfig, mesh: Mesh, items: int) -> Layout:
    """The layout that a config trains tables in. Raises UserError where rows cannot lie on the mesh."""
    if config.rows == "dense":
        return Whole(mesh, items)
    tables.check_shards(mesh.shape[MESH[1]])
    return Sharded(mesh, items)
