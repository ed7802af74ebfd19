"""What happens on the device: pure functions of a state and a batch."""

from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
import optax

from jaxneg import losses, models, tables
from jaxneg.batch import PAD, Batch
from jaxneg.config import Config


class State(NamedTuple):
    """All that training changes."""

    step: jax.Array  # int32, updates done
    params: models.Params
    tables: tables.Tables
    opt_state: optax.OptState
    key: jax.Array  # uint32 [2]; randomness of a step is this key folded with the step


def init_state(
    config: Config,
    model: models.Model,
    optimizer: optax.GradientTransformation,
    rows: int,
    bias_V: jax.Array | None = None,
) -> State:
    """The state before the first step, a function of the config's seed and, where given, of first item biases."""
    key = jax.random.PRNGKey(config.train.seed)
    for_params, for_tables, for_steps = jax.random.split(key, 3)
    params = model.init(for_params)
    item_tables = tables.init_tables(for_tables, config.model, rows, bias_V)
    opt_state = optimizer.init((params, item_tables))
    return State(jnp.zeros((), jnp.int32), params, item_tables, opt_state, for_steps)


def encode(
    model: models.Model, params, item_tables, item_BL, feedback_BL, station_BL, attribute_VA, key=None
):
    """Hidden states h_BLD of the events seen."""
    row_BLD = tables.lookup(item_tables["item_VD"], item_BL)
    row_BLD = model.item_rows(params, row_BLD, attribute_VA[item_BL])
    return model.encode(params, row_BLD, feedback_BL, station_BL, item_BL != PAD, key)


def output_rows(model: models.Model, params, item_tables, id_, attribute_VA):
    """Rows of items as they are scored."""
    return model.output_rows(params, tables.lookup(tables.output_table(item_tables), id_), attribute_VA[id_])


def loss(config: Config, model: models.Model, params, item_tables, batch: Batch, attribute_VA, key):
    """The configured loss of a batch, a float32 scalar."""
    h_BLD = encode(
        model, params, item_tables, batch.item_BL, batch.feedback_BL, batch.station_BL, attribute_VA, key
    ).astype(jnp.float32)
    target_BLD = output_rows(model, params, item_tables, batch.target_BL, attribute_VA)
    negative_BLND = output_rows(model, params, item_tables, batch.negative_BLN, attribute_VA)
    pos_BL = jnp.einsum("BLD,BLD->BL", h_BLD, target_BLD) + tables.bias(item_tables, batch.target_BL)
    neg_BLN = jnp.einsum("BLD,BLND->BLN", h_BLD, negative_BLND) + tables.bias(item_tables, batch.negative_BLN)
    return losses.LOSSES[config.loss.name](pos_BL, neg_BLN, batch.target_BL != PAD)


def train_step(
    config: Config,
    model: models.Model,
    optimizer: optax.GradientTransformation,
    state: State,
    batch: Batch,
    attribute_VA,
) -> tuple[State, dict[str, jax.Array]]:
    """The state after one update, and sums over the batch: loss, targets, negatives, hard negatives, gradient norm."""
    key = jax.random.fold_in(state.key, state.step)
    value, gradients = jax.value_and_grad(
        lambda trained: loss(config, model, trained[0], trained[1], batch, attribute_VA, key),
    )((state.params, state.tables))
    updates, opt_state = optimizer.update(gradients, state.opt_state, (state.params, state.tables))
    updated = optax.apply_updates((state.params, state.tables), updates)
    params, item_tables = cast(tuple[models.Params, tables.Tables], updated)  # of the same structure
    targets = (batch.target_BL != PAD).sum()
    metrics = {
        "loss": value,
        "targets": targets,
        "negatives": targets * batch.negative_BLN.shape[-1],
        "hard": batch.hard_BLN.sum(),
        "gradient_norm": optax.tree.norm(gradients),
    }
    return State(state.step + 1, params, item_tables, opt_state, state.key), metrics


def last_hidden(model: models.Model, params, item_tables, item_BL, feedback_BL, station_BL, attribute_VA):
    """h_BD at the last event of each context; without dropout, in float32. An empty context reads position 0."""
    h_BLD = encode(model, params, item_tables, item_BL, feedback_BL, station_BL, attribute_VA)
    last_B = jnp.maximum((item_BL != PAD).sum(1) - 1, 0)
    return jnp.take_along_axis(h_BLD, last_B[:, None, None], axis=1)[:, 0].astype(jnp.float32)


def score_items(model: models.Model, params, item_tables, h_BD, item_BC, attribute_VA):
    """Scores of C candidates per context, scores_BC."""
    row_BCD = output_rows(model, params, item_tables, item_BC, attribute_VA)
    return jnp.einsum("BD,BCD->BC", h_BD, row_BCD) + tables.bias(item_tables, item_BC)


def catalogue_rows(model: models.Model, params, item_tables, attribute_VA):
    """Rows of the whole catalogue as they are scored, item_VD, and their biases, bias_V."""
    item_V = jnp.arange(attribute_VA.shape[0])
    row_VD = output_rows(model, params, item_tables, item_V, attribute_VA)
    return row_VD, tables.bias(item_tables, item_V) + jnp.zeros(len(item_V))
