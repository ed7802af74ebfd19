"""Hidden states and scores: pure functions of weights, for training, evaluation and export alike.

Items may be given by slot where tables and attributes are ``tables.Looked``.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxneg import models
from jaxneg.batch import MASK, PAD, EvalBatch
from jaxneg.embeddings import tables, topk


def encode(
    model: models.Model,
    params,
    item_tables,
    item_BL,
    feedback_BL,
    station_BL,
    attribute_VA,
    key=None,
    segment_BL=None,
):
    """Hidden states h_BLD of the events seen; of packed rows where ``segment_BL`` parts them."""
    real_BL = item_BL != PAD
    row_BLD = tables.lookup(item_tables["item_VD"], item_BL)
    row_BLD = model.item_rows(params, row_BLD, tables.lookup(attribute_VA, item_BL))
    if model.cloze:  # a hidden event has no row of its own, and the padding row stays zero
        row_BLD = jnp.where(real_BL[..., None], row_BLD, 0.0)
        real_BL = real_BL | (feedback_BL == MASK)
    return model.encode(params, row_BLD, feedback_BL, station_BL, real_BL, key, segment_BL)


def output_rows(model: models.Model, params, item_tables, id_, attribute_VA):
    """Rows of items as they are scored."""
    row = tables.lookup(tables.output_table(item_tables), id_)
    return model.output_rows(params, row, tables.lookup(attribute_VA, id_))


def last_hidden(model: models.Model, params, item_tables, item_BL, feedback_BL, station_BL, attribute_VA):
    """h_BD from which the event after each context is scored; without dropout, in float32.

    It stands at the last event, an empty context reads position 0; a model trained on hidden events gets one more.
    """
    size_B = (item_BL != PAD).sum(1)
    at_B = jnp.maximum(size_B - 1, 0)
    if model.cloze:
        at_B = size_B
        station_B1 = jnp.take_along_axis(station_BL, jnp.maximum(size_B - 1, 0)[:, None], axis=1)
        hidden_BL = jnp.arange(item_BL.shape[1] + 1)[None] == size_B[:, None]
        item_BL, feedback_BL, station_BL = (
            jnp.pad(code_BL, ((0, 0), (0, 1))) for code_BL in (item_BL, feedback_BL, station_BL)
        )
        feedback_BL = jnp.where(hidden_BL, MASK, feedback_BL)
        station_BL = jnp.where(hidden_BL, station_B1, station_BL)
    h_BLD = encode(model, params, item_tables, item_BL, feedback_BL, station_BL, attribute_VA)
    return jnp.take_along_axis(h_BLD, at_B[:, None, None], axis=1)[:, 0].astype(jnp.float32)


def score_items(model: models.Model, params, item_tables, h_BD, item_BC, attribute_VA):
    """Scores of C candidates per context, scores_BC."""
    row_BCD = output_rows(model, params, item_tables, item_BC, attribute_VA)
    return jnp.einsum("BD,BCD->BC", h_BD, row_BCD) + tables.bias(item_tables, item_BC)


class HeldOut(NamedTuple):
    """What a model says of held-out examples."""

    h_BD: jax.Array  # from which the event after each context is scored
    pair_B2: jax.Array  # scores of the pairs, and of the liked and disliked items
    liked_BC: jax.Array
    disliked_BC: jax.Array


def held_out(
    model: models.Model, layout: tables.Layout | None, params, item_tables, attribute_VA, batch: EvalBatch
) -> HeldOut:
    """Scores of the held-out items of a batch, whether tables are whole or their rows shared by devices."""
    ids = (batch.item_BL, batch.pair_B2, batch.liked_BC, batch.disliked_BC)
    feedback_BL, station_BL, size = batch.feedback_BL, batch.station_BL, len(batch.item_BL)
    if layout is not None:
        *ids, feedback_BL, station_BL = map(layout.padded, (*ids, feedback_BL, station_BL))
        _, looked, ids = layout.look(item_tables | {"attribute_VA": attribute_VA}, ids)
        attribute_VA, item_tables = looked.pop("attribute_VA"), looked
    item_BL, *items = ids
    h_BD = last_hidden(model, params, item_tables, item_BL, feedback_BL, station_BL, attribute_VA)
    scores = (score_items(model, params, item_tables, h_BD, item_BC, attribute_VA) for item_BC in items)
    pair_B2, liked_BC, disliked_BC = (leaf[:size] for leaf in scores)
    return HeldOut(h_BD[:size], pair_B2, liked_BC, disliked_BC)


def rank_catalogue(
    model: models.Model,
    layout: tables.Layout,
    params,
    item_tables,
    attribute_VA,
    h_BD,
    targets: Sequence[tuple[jax.Array, jax.Array]],
    seen_BL,
    k: int = 0,
) -> tuple[list[jax.Array], topk.Ranked]:
    """Ranks of each block of targets in a catalogue whose rows devices share, and what ``ranks.ranked`` gives.

    Args:
      model: and ``layout``, ``params``, ``item_tables``, ``attribute_VA``: as in training.
      h_BD: of ``held_out``.
      targets: blocks of items with their scores.
      seen_BL: items left out.
      k: how many leading items to list.
    """

    def score(params, rows, h_BD):
        row_CD = model.output_rows(params, tables.output_table(rows), rows["attribute_VA"])
        logits_BC = jnp.einsum("BD,CD->BC", h_BD, row_CD)
        return logits_BC + rows["bias_V"][None] if "bias_V" in rows else logits_BC

    size, blocks = len(h_BD), [item_BC.shape[1] for item_BC, _ in targets]
    item_BC, score_BC = (jnp.concatenate(leaves, axis=1) for leaves in zip(*targets, strict=True))
    examples = map(layout.padded, (h_BD, item_BC, score_BC, seen_BL))
    by_row = item_tables | {"attribute_VA": attribute_VA}
    found = topk.ranked(layout, score, params, by_row, *examples, k=k)
    found = topk.Ranked(*(leaf[:size] for leaf in found[:-1]), nan=found.nan)
    ends = np.cumsum(blocks)[:-1].tolist()
    return jnp.split(found.rank_BC, ends, axis=1), found


def catalogue_rows(model: models.Model, params, item_tables, attribute_VA):
    """Rows of the whole catalogue as they are scored, item_VD, and their biases, bias_V; of tables that are whole."""
    item_V = jnp.arange(attribute_VA.shape[0])
    row_VD = output_rows(model, params, item_tables, item_V, attribute_VA)
    return row_VD, tables.bias(item_tables, item_V)
