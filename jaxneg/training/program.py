"""The training step of a config on a mesh, with the shape and place of all that it takes.

What ``train`` runs and what ``plan`` compiles for machines that are not there is the same program.
"""

# jax.jit and jax.eval_shape leave their arguments untyped.
# pyright: reportUnknownMemberType=false

import functools
from collections.abc import Callable
from typing import NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from jaxneg import models
from jaxneg.batch import Batch, Form
from jaxneg.config import Config
from jaxneg.data import batch_fields, stores
from jaxneg.embeddings import layouts, sharding
from jaxneg.training import objective, steps


class Catalogue(NamedTuple):
    """What of a store decides the shapes of a model."""

    items: int  # V - 1
    stations: int
    attributes: tuple[int, ...]  # number of values of each


def catalogue_of(store: stores.Store) -> Catalogue:
    attributes = tuple(attribute["size"] for attribute in store.metadata.attributes)
    return Catalogue(store.items, store.metadata.counts["stations"], attributes)


@runtime_checkable
class Update(Protocol):
    """A jitted step, or many by batches that are stacked, which donates the state that it is given."""

    def __call__(
        self, state: steps.State, batch: Batch, attribute_VA: jax.Array
    ) -> tuple[steps.State, dict[str, jax.Array]]: ...

    def lower(self, *args: object) -> jax.stages.Lowered: ...


class Program(NamedTuple):
    """A training step, jitted but not compiled yet."""

    model: models.Model
    layout: layouts.Layout  # of the tables
    init: Callable[..., steps.State]  # (what ``beginning.of`` gives) -> the first state, in place
    update: Update
    updates: Update  # the same, a step for each of the batches that are stacked; compiled for their number
    state: steps.State  # of ShapeDtypeStruct, with shardings
    batch: Batch  # likewise: the global batch
    attribute_VA: jax.ShapeDtypeStruct

    @property
    def mesh(self) -> Mesh:
        return self.layout.mesh


def build_model(config: Config, catalogue: Catalogue, mesh: Mesh | None = None) -> models.Model:
    """The model of a config over a store's stations and attributes, for the devices of a mesh or of this process."""
    return models.build(
        config.model,
        length=config.data.length,
        stations=catalogue.stations,
        attributes=catalogue.attributes,
        cloze=config.data.mask > 0,
        mesh=mesh,
    )


def build(
    config: Config, catalogue: Catalogue, mesh: Mesh, total: int = 1, form: Form | None = None
) -> Program:
    """The program of a config.

    Args:
      config: the experiment.
      catalogue: of the store.
      mesh: devices, also ones that can be compiled for and are not there.
      total: steps of the whole run, over which a learning rate may decay.
      form: of the batches; by default a row for each sequence.
    """
    model = build_model(config, catalogue, mesh)
    layout = layouts.of_config(config.optim, mesh, catalogue.items)
    task = objective.Task(config, model, catalogue.items)
    recipe = steps.Recipe(task, layout, layout.optimizer(config.optim, total, config.like))
    init = functools.partial(steps.init_state, recipe)
    state = sharding.placed(jax.eval_shape(init), mesh)
    places = jax.tree.map(_place, state)
    replicated = jax.sharding.NamedSharding(mesh, sharding.spec(""))
    update, updates = (
        jax.jit(functools.partial(step, recipe), donate_argnums=0, out_shardings=(places, replicated))
        for step in (steps.train_step, steps.train_steps)
    )
    attribute_VA = jax.ShapeDtypeStruct((layout.rows, len(catalogue.attributes)), jnp.int32)
    return Program(
        model=model,
        layout=layout,
        init=jax.jit(init, out_shardings=places),
        update=update,
        updates=updates,
        state=state,
        batch=sharding.placed(batch_shapes(config, catalogue.stations, form), mesh),
        attribute_VA=sharding.placed({"attribute_VA": attribute_VA}, mesh)["attribute_VA"],
    )


def _place(leaf: jax.ShapeDtypeStruct) -> jax.sharding.Sharding | None:
    return leaf.sharding


def batch_shapes(config: Config, stations: int = 1, form: Form | None = None) -> Batch:
    """Shapes and dtypes of the global batch of a config, as ``data.pipeline`` makes them of a store with stations.

    Args:
      config: the experiment.
      stations: of the store.
      form: of the batches; by default a row for each sequence.
    """
    data, read = config.data, batch_fields.read(config, stations)
    form = form or Form(data.batch_size, data.positions)
    B, L = form.rows, form.length
    N, S, M = data.negatives, data.shared_negatives, data.length + 1
    if not form.packed:
        read -= {"segment_BL"}
    shapes = {
        "item_BL": (jnp.int32, B, L),
        "feedback_BL": (jnp.int32, B, L),
        "station_BL": (jnp.int32, B, L),
        "target_BL": (jnp.int32, B, L),
        "label_BL": (jnp.int8, B, L),
        "negative_BLN": (jnp.int32, B, L, N),
        "hard_BLN": (jnp.bool_, B, L, N),
        "event_BM": (jnp.int32, B, M),
        "sign_BM": (jnp.int8, B, M),
        "shared_S": (jnp.int32, S),
        "shared_log_q_S": (jnp.float32, S),
        "target_log_q_BL": (jnp.float32, B, L),
        "segment_BL": (jnp.int32, B, L),
    }
    return Batch(
        **{
            name: jax.ShapeDtypeStruct(
                tuple(shape) if name in read else batch_fields.without(tuple(shape)), dtype
            )
            for name, (dtype, *shape) in shapes.items()
        }
    )
