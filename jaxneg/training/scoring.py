"""Hidden states and scores: pure functions of weights, for training, evaluation and export alike.

Items may be given by slot where tables and attributes are ``tables.Looked``.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxneg import models
from jaxneg.batch import MASK, PAD, EvalBatch
from jaxneg.embeddings import tables, topk
from jaxneg.embeddings.tables import Weights

Host = jax.Array | np.ndarray


class Seen(NamedTuple):
    """Events that a model sees, as in ``batch``."""

    item_BL: Int[Array, "B L"]
    feedback_BL: Int[Array, "B L"]
    station_BL: Int[Array, "B _"]  # without columns where there are no stations
    segment_BL: Int[Array, "B L"] | None = None  # which sequence of a packed row each is of


class Asked(NamedTuple):
    """What is asked of a catalogue for B contexts: how the targets rank among all items but those left out."""

    h_BD: Float[Array, "B D"]  # of ``held_out``
    targets: Sequence[tuple[Host, Host]]  # blocks of items, item_BC, with their scores, score_BC
    seen_BL: Int[Host, "B _"]  # items left out; PAD where there is none


def encode(
    model: models.Model, weights: Weights, seen: Seen, key: jax.Array | None = None
) -> Float[Array, "B L D"]:
    """Hidden states h_BLD of the events seen."""
    params, item_tables, attribute_VA = weights
    item_BL, feedback_BL, station_BL, segment_BL = seen
    real_BL = item_BL != PAD
    row_BLD = tables.lookup(item_tables["item_VD"], item_BL)
    row_BLD = model.item_rows(params, row_BLD, tables.lookup(attribute_VA, item_BL))
    if model.cloze:  # a hidden event has no row of its own, and the padding row stays zero
        row_BLD = jnp.where(real_BL[..., None], row_BLD, 0.0)
        real_BL = real_BL | (feedback_BL == MASK)
    return model.encode(params, row_BLD, feedback_BL, station_BL, real_BL, key, segment_BL)


def output_rows(model: models.Model, weights: Weights, id_: Int[Array, "*S"]) -> Float[Array, "*S D"]:
    """Rows of items as they are scored."""
    row = tables.lookup(tables.output_table(weights.tables), id_)
    return model.output_rows(weights.params, row, tables.lookup(weights.attribute_VA, id_))


def last_hidden(model: models.Model, weights: Weights, seen: Seen) -> Float[Array, "B D"]:
    """h_BD from which the event after each context is scored; without dropout, in float32.

    It stands at the last event, an empty context reads position 0; a model trained on hidden events gets one more.
    """
    item_BL, feedback_BL, station_BL, _ = seen
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
    h_BLD = encode(model, weights, Seen(item_BL, feedback_BL, station_BL))
    return jnp.take_along_axis(h_BLD, at_B[:, None, None], axis=1)[:, 0].astype(jnp.float32)


def score_items(
    model: models.Model, weights: Weights, h_BD: Float[Array, "B D"], item_BC: Int[Array, "B C"]
) -> Float[Array, "B C"]:
    """Scores of C candidates per context, scores_BC."""
    row_BCD = output_rows(model, weights, item_BC)
    return jnp.einsum("BD,BCD->BC", h_BD, row_BCD) + tables.bias(weights.tables, item_BC)


class HeldOut(NamedTuple):
    """What a model says of held-out examples."""

    h_BD: jax.Array  # from which the event after each context is scored
    pair_B2: jax.Array  # scores of the pairs, and of the liked and disliked items
    liked_BC: jax.Array
    disliked_BC: jax.Array


def held_out(
    model: models.Model, layout: tables.Layout | None, weights: Weights, batch: EvalBatch
) -> HeldOut:
    """Scores of the held-out items of a batch, whether tables are whole or their rows shared by devices."""
    ids = (batch.item_BL, batch.pair_B2, batch.liked_BC, batch.disliked_BC)
    feedback_BL, station_BL, size = batch.feedback_BL, batch.station_BL, len(batch.item_BL)
    if layout is not None:
        *ids, feedback_BL, station_BL = map(layout.padded, (*ids, feedback_BL, station_BL))
        _, looked, ids = layout.look(weights.tables | {"attribute_VA": weights.attribute_VA}, ids)
        weights = Weights(weights.params, looked, looked.pop("attribute_VA"))
    item_BL, *items = ids
    h_BD = last_hidden(model, weights, Seen(item_BL, feedback_BL, station_BL))
    scores = (score_items(model, weights, h_BD, item_BC) for item_BC in items)
    pair_B2, liked_BC, disliked_BC = (leaf[:size] for leaf in scores)
    return HeldOut(h_BD[:size], pair_B2, liked_BC, disliked_BC)


def rank_catalogue(
    model: models.Model, layout: tables.Layout, weights: Weights, asked: Asked, k: int = 0
) -> tuple[list[jax.Array], topk.Ranked]:
    """Ranks of each block of targets in a catalogue whose rows devices share, and what ``topk.ranked`` gives.

    Args:
      model: and ``layout``, ``weights``: as in training.
      asked: hidden states, targets and what is left out.
      k: how many leading items to list.
    """

    def score(params, rows, h_BD):
        row_CD = model.output_rows(params, tables.output_table(rows), rows["attribute_VA"])
        logits_BC = jnp.einsum("BD,CD->BC", h_BD, row_CD)
        return logits_BC + rows["bias_V"][None] if "bias_V" in rows else logits_BC

    size, blocks = len(asked.h_BD), [item_BC.shape[1] for item_BC, _ in asked.targets]
    item_BC, score_BC = (jnp.concatenate(leaves, axis=1) for leaves in zip(*asked.targets, strict=True))
    examples = topk.Examples(*map(layout.padded, (asked.h_BD, item_BC, score_BC, jnp.asarray(asked.seen_BL))))
    found = topk.ranked(layout, score, weights, examples, k=k)
    found = topk.Ranked(*(leaf[:size] for leaf in found[:-1]), nan=found.nan)
    ends = np.cumsum(blocks)[:-1].tolist()
    return jnp.split(found.rank_BC, ends, axis=1), found


def catalogue_rows(model: models.Model, weights: Weights) -> tuple[Float[Array, "V D"], Float[Array, "V"]]:
    """Rows of the whole catalogue as they are scored, item_VD, and their biases, bias_V; of tables that are whole."""
    item_V = jnp.arange(weights.attribute_VA.shape[0])
    return output_rows(model, weights, item_V), tables.bias(weights.tables, item_V)
