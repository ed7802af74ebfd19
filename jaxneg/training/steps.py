"""What happens on the device: pure functions of a state and a batch."""

# jax.value_and_grad leaves its arguments untyped.
# pyright: reportUnknownMemberType=false

from collections.abc import Callable
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxneg import models
from jaxneg.batch import PAD, Batch
from jaxneg.config import Config
from jaxneg.embeddings import layouts, optim, tables
from jaxneg.embeddings.layouts import Gradients, Trained
from jaxneg.embeddings.tables import Weights
from jaxneg.training import fold_in, likes, objective

Fields = TypeVar("Fields", Batch, objective.Index)
Sums = tuple[tuple[jax.Array, Gradients], jax.Array]  # of value and gradients, weighed, and of the weights


class State(NamedTuple):
    """All that training changes."""

    step: jax.Array  # int32, updates done
    params: models.Params
    tables: tables.Tables
    opt_state: layouts.OptState
    key: jax.Array  # uint32 [2]; randomness of a step is this key folded with the step
    average: Trained | tuple[()] = ()  # moving average of both, where configured


class Recipe(NamedTuple):
    """What stays the same from step to step."""

    task: objective.Task
    layout: layouts.Layout  # of the tables
    optimizer: layouts.Optimizer


def init_state(
    recipe: Recipe,
    bias_V: Float[Array, "V"] | None = None,
    like_bias_V: Float[Array, "V"] | None = None,
    folded: fold_in.First | None = None,
) -> State:
    """The state before the first step, a function of the config's seed and, where given, of what the log says first.

    Args:
      recipe: what is trained.
      bias_V: first biases of items.
      like_bias_V: those of their likes.
      folded: what listeners are folded in with.
    """
    (config, model, _), layout, optimizer = recipe
    key = jax.random.PRNGKey(config.train.seed)
    for_params, for_tables, for_steps = jax.random.split(key, 3)
    params = model.init(for_params)
    item_tables = tables.init_tables(for_tables, config.model, layout.rows, bias_V)
    params |= likes.init_params(config.like, config.model.width)
    item_tables |= tables.init_likes(config.like, config.model.width, layout.rows, like_bias_V)
    if config.like.folds:
        table_VG, numbers = folded or fold_in.nothing(layout.rows)
        item_tables[fold_in.TABLE] = jnp.asarray(table_VG)
        params |= {name: jnp.asarray(value) for name, value in numbers.items()}
    opt_state = optimizer.init((params, item_tables))
    average = jax.tree.map(jnp.array, (params, item_tables)) if config.optim.average > 0 else ()
    return State(jnp.zeros((), jnp.int32), params, item_tables, opt_state, for_steps, average)


def evaluated(state: State, attribute_VA: jax.Array) -> Weights:
    """What is measured and exported: the moving average where there is one."""
    params, item_tables = state.average or (state.params, state.tables)
    return Weights(params, item_tables, attribute_VA)


def train_step(
    recipe: Recipe, state: State, batch: Batch, attribute_VA: Int[Array, "V A"]
) -> tuple[State, dict[str, jax.Array]]:
    """The state after one update, and sums over the batch: loss, positions, negatives, hard negatives, gradient norm.

    Where devices share the rows of the tables, or only touched rows are to be changed, the gradients are with respect
    to the rows that the batch names, and clipping and the norm are of the other parameters alone.
    """
    task, layout, optimizer = recipe
    config = task.config
    key = jax.random.fold_in(state.key, state.step)
    ids = objective.index(batch)
    ids = ids._replace(shared_S=layout.padded(ids.shared_S))
    found = layout.look(Weights(state.params, state.tables, attribute_VA).by_row, ids, objective.named(batch))
    _, within, attributes = tables.weights(state.params, found.tables)
    at = objective.Index(*found.ids)
    # Tables that are whole are what is looked up in, so that gradients are of all rows already.
    apart = config.loss.name == "softmax" and found.route is not None
    read = Gradients(state.params, within, tables.scored(state.tables) if apart else {})

    def value_and_gradients(part: Batch, at: objective.Index, key: jax.Array) -> tuple[jax.Array, Gradients]:
        def value(read: Gradients) -> jax.Array:
            weights = Weights(read.params, read.tables, attributes)
            whole = Weights(read.params, read.catalogue, attribute_VA) if apart else weights
            return objective.loss(task, weights, part, at, key, objective.Catalogue(whole, layout))

        return jax.value_and_grad(value)(read)

    value, gradients = accumulated(config, value_and_gradients, read, batch, at, key)
    trained = state.params, state.tables
    (params, item_tables), opt_state, norm = optimizer.update(
        state.step, trained, state.opt_state, gradients, found.route
    )
    average = state.average
    if config.optim.average > 0:
        # The first averages forget the initial weights: 2/11, 3/12, 4/13, ... of the old one at most. Weights that have
        # been trained before are not initial ones.
        count = optim.updates(state.opt_state)
        decay = jnp.minimum(config.optim.average, (2.0 + count) / (11.0 + count))

        def moved(old: jax.Array, new: jax.Array) -> jax.Array:
            return decay * old + (1.0 - decay) * new

        average = jax.tree.map(moved, average, (params, item_tables))
    metrics = {
        "loss": value,
        "positions": ((batch.item_BL != PAD) | (batch.target_BL != PAD)).sum(),
        "negatives": (batch.negative_BLN != PAD).sum(),
        "hard": batch.hard_BLN.sum(),
        "gradient_norm": norm,
    }
    return State(state.step + 1, params, item_tables, opt_state, state.key, average), metrics


def train_steps(
    recipe: Recipe, state: State, batches: Batch, attribute_VA: Int[Array, "V A"]
) -> tuple[State, dict[str, jax.Array]]:
    """The state after an update by each of many batches, which are stacked, and the sums over each, in their order."""

    def step(state: State, batch: Batch) -> tuple[State, dict[str, jax.Array]]:
        return train_step(recipe, state, batch, attribute_VA)

    return jax.lax.scan(step, state, batches)


def accumulated(
    config: Config,
    value_and_gradients: Callable[[Batch, objective.Index, jax.Array], tuple[jax.Array, Gradients]],
    read: Gradients,
    batch: Batch,
    at: objective.Index,
    key: jax.Array,
) -> tuple[jax.Array, Gradients]:
    """Value and gradients of a batch taken in ``optim.accumulate`` parts, one after the other, as if it were whole.

    A part counts by the positions that its loss is a mean over. ``read`` is what gradients are with respect to.
    """
    parts = config.optim.accumulate
    if parts == 1:
        return value_and_gradients(batch, at, key)

    def of(part: jax.Array, fields: Fields) -> Fields:
        """Rows part, part + parts, ...: as many from each device."""
        size = len(batch.item_BL) // parts
        own = {
            name: leaf.reshape(size, parts, *leaf.shape[1:])[:, part]
            for name, leaf in fields._asdict().items()
            if not name.endswith("_S")
        }
        return fields._replace(**own)

    def add(total: Sums, part: jax.Array) -> tuple[Sums, None]:
        found = value_and_gradients(of(part, batch), of(part, at), jax.random.fold_in(key, part))
        weight = objective.counted(config, of(part, batch))

        def with_leaf(so_far: jax.Array, leaf: jax.Array) -> jax.Array:
            return so_far + weight * leaf

        return jax.tree.map(with_leaf, total, (found, jnp.ones(()))), None

    none = ((jnp.zeros(()), jax.tree.map(jnp.zeros_like, read)), jnp.zeros(()))
    (found, weight), _ = jax.lax.scan(add, none, jnp.arange(parts))

    def mean(leaf: jax.Array) -> jax.Array:
        return leaf / jnp.maximum(weight, 1.0)

    return jax.tree.map(mean, found)
