"""What happens on the device: pure functions of a state and a batch."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from jaxneg import models
from jaxneg.batch import PAD, Batch
from jaxneg.config import Config
from jaxneg.embeddings import optim, tables
from jaxneg.embeddings.tables import Weights
from jaxneg.training import objective

Trained = tuple[models.Params, tables.Tables]  # what gradients are with respect to


class State(NamedTuple):
    """All that training changes."""

    step: jax.Array  # int32, updates done
    params: models.Params
    tables: tables.Tables
    opt_state: Any  # of optax; with the moments of the tables where touched rows alone are changed
    key: jax.Array  # uint32 [2]; randomness of a step is this key folded with the step
    average: Trained | tuple[()] = ()  # moving average of both, where configured


class Shared(NamedTuple):
    """How tables are trained whose touched rows alone are changed."""

    layout: tables.Layout
    optimizer: optim.RowOptimizer


class Recipe(NamedTuple):
    """What stays the same from step to step."""

    task: objective.Task
    optimizer: optax.GradientTransformation
    shared: Shared | None
    rows: int  # of the tables


def init_state(recipe: Recipe, bias_V: Float[Array, "V"] | None = None) -> State:
    """The state before the first step, a function of the config's seed and, where given, of first item biases."""
    (config, model, _), optimizer, shared, rows = recipe
    key = jax.random.PRNGKey(config.train.seed)
    for_params, for_tables, for_steps = jax.random.split(key, 3)
    params = model.init(for_params)
    item_tables = tables.init_tables(for_tables, config.model, rows, bias_V)
    if shared is None:
        opt_state = optimizer.init((params, item_tables))
    else:
        opt_state = (optimizer.init(params), shared.optimizer.init(item_tables))
    average = jax.tree.map(jnp.array, (params, item_tables)) if config.optim.average > 0 else ()
    return State(jnp.zeros((), jnp.int32), params, item_tables, opt_state, for_steps, average)


def evaluated(state: State, attribute_VA: jax.Array) -> Weights:
    """What is measured and exported: the moving average where there is one."""
    params, item_tables = state.average or (state.params, state.tables)
    return Weights(params, item_tables, attribute_VA)


def train_step(
    recipe: Recipe, state: State, batch: Batch, attribute_VA: Int[Array, "V A"]
) -> tuple[State, dict[str, jax.Array]]:
    """The state after one update, and sums over the batch: loss, targets, negatives, hard negatives, gradient norm.

    Where devices share the rows of the tables, or only touched rows are to be changed, the gradients are with respect
    to the rows that the batch names, and clipping and the norm are of the other parameters alone.
    """
    task, optimizer, shared, _ = recipe
    config = task.config
    key = jax.random.fold_in(state.key, state.step)
    route = None
    if shared is None:
        within, attributes, at = state.tables, attribute_VA, objective.index(batch)
    else:
        ids = objective.index(batch)._replace(shared_S=shared.layout.padded(batch.shared_S))
        route, within, slots = shared.layout.look(state.tables | {"attribute_VA": attribute_VA}, ids)
        attributes, at = within.pop("attribute_VA"), objective.Index(*slots)

    def value_and_gradients(part: Batch, at: objective.Index, key):
        return jax.value_and_grad(
            lambda trained: objective.loss(task, Weights(trained[0], trained[1], attributes), part, at, key)
        )((state.params, within))

    value, gradients = accumulated(config, value_and_gradients, (state.params, within), batch, at, key)
    if shared is None or route is None:
        updates, opt_state = optimizer.update(gradients, state.opt_state, (state.params, state.tables))
        updated = optax.apply_updates((state.params, state.tables), updates)
        params, item_tables = cast(tuple[models.Params, tables.Tables], updated)  # of the same structure
    else:
        gradients, row_gradients = gradients
        opt_state, moments = state.opt_state
        updates, opt_state = optimizer.update(gradients, opt_state, state.params)
        params = cast(models.Params, optax.apply_updates(state.params, updates))
        change = functools.partial(shared.optimizer.change, state.step)
        item_tables, moments = shared.layout.update(state.tables, moments, route, row_gradients, change)
        opt_state = (opt_state, moments)
    average = state.average
    if config.optim.average > 0:
        # The first averages forget the initial weights: 2/11, 3/12, 4/13, ... of the old one at most.
        decay = jnp.minimum(config.optim.average, (2.0 + state.step) / (11.0 + state.step))
        average = jax.tree.map(
            lambda old, new: decay * old + (1.0 - decay) * new, average, (params, item_tables)
        )
    metrics = {
        "loss": value,
        "targets": (batch.target_BL != PAD).sum(),
        "negatives": (batch.negative_BLN != PAD).sum(),
        "hard": batch.hard_BLN.sum(),
        "gradient_norm": optax.tree.norm(gradients),
    }
    return State(state.step + 1, params, item_tables, opt_state, state.key, average), metrics


def accumulated(
    config: Config,
    value_and_gradients: Callable[[Batch, objective.Index, jax.Array], tuple[jax.Array, Trained]],
    trained: Trained,
    batch: Batch,
    at: objective.Index,
    key: jax.Array,
) -> tuple[jax.Array, Trained]:
    """Value and gradients of a batch taken in ``optim.accumulate`` parts, one after the other, as if it were whole.

    A part counts by the positions that its loss is a mean over. ``trained`` is what gradients are with respect to.
    """
    parts = config.optim.accumulate
    if parts == 1:
        return value_and_gradients(batch, at, key)

    def of(part, fields):
        """Rows part, part + parts, ...: as many from each device."""
        size = config.data.batch_size // parts
        own = {name: leaf.reshape(size, parts, *leaf.shape[1:])[:, part] for name, leaf in fields._asdict().items()
               if not name.endswith("_S")}  # fmt: skip
        return fields._replace(**own)

    def add(total, part):
        found = value_and_gradients(of(part, batch), of(part, at), jax.random.fold_in(key, part))
        weight = objective.counted(config, of(part, batch))
        return jax.tree.map(lambda so_far, leaf: so_far + weight * leaf, total, (found, jnp.ones(()))), None

    none = ((jnp.zeros(()), jax.tree.map(jnp.zeros_like, trained)), jnp.zeros(()))
    (found, weight), _ = jax.lax.scan(add, none, jnp.arange(parts))
    return jax.tree.map(lambda leaf: leaf / jnp.maximum(weight, 1.0), found)
