"""Hidden states and scores: pure functions of weights, for training, evaluation and export alike.

Items may be given by slot where tables and attributes are ``tables.Looked``.
"""

# jnp.einsum and jnp.pad leave their arguments untyped.
# pyright: reportUnknownMemberType=false

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxneg import models
from jaxneg.batch import MASK, PAD, EvalBatch, forms
from jaxneg.embeddings import heads, layouts, tables
from jaxneg.embeddings.tables import Weights
from jaxneg.training import fold_in, likes


class HeldOut(NamedTuple):
    """What a model says of held-out examples."""

    h_BD: jax.Array  # from which the event after each context is scored
    pair_B2: jax.Array  # scores of the pairs, and of the liked and disliked items
    liked_BC: jax.Array
    disliked_BC: jax.Array
    likes: tuple[jax.Array, ...] = ()  # the same three of the like head, where there is one


class Seen(NamedTuple):
    """Events that a model sees, as in ``batch``."""

    item_BL: Int[Array, "B L"]
    feedback_BL: Int[Array, "B L"]
    station_BL: Int[Array, "B _"]  # without columns where there are no stations
    segment_BL: Int[Array, "B L"] | None = None  # which sequence of a packed row each is of


def encode(
    model: models.Model, weights: Weights, seen: Seen, key: jax.Array | None = None
) -> Float[Array, "B L D"]:
    """Hidden states h_BLD of the events seen."""
    row_BLD, real_BL = _rows(model, weights, seen)
    return model.encode(
        weights.params, row_BLD, seen.feedback_BL, seen.station_BL, real_BL, key, seen.segment_BL
    )


def _rows(
    model: models.Model, weights: Weights, seen: Seen
) -> tuple[Float[Array, "B L D"], Bool[Array, "B L"]]:
    """Rows of the events seen, as input, and where there are events, hidden ones too."""
    real_BL = seen.item_BL != PAD
    row_BLD = tables.lookup(weights.tables["item_VD"], seen.item_BL)
    row_BLD = model.item_rows(weights.params, row_BLD, tables.lookup(weights.attribute_VA, seen.item_BL))
    if model.cloze:  # a hidden event has no row of its own, and the padding row stays zero
        row_BLD = jnp.where(real_BL[..., None], row_BLD, 0.0)
        real_BL = real_BL | (seen.feedback_BL == MASK)
    return row_BLD, real_BL


def output_rows(model: models.Model, weights: Weights, id_: Int[Array, "*S"]) -> Float[Array, "*S D"]:
    """Rows of items as they are scored."""
    row = tables.lookup(tables.output_table(weights.tables), id_)
    return model.output_rows(weights.params, row, tables.lookup(weights.attribute_VA, id_))


def last_hidden(model: models.Model, weights: Weights, seen: Seen) -> Float[Array, "B D"]:
    """h_BD from which the event after each context is scored; without dropout, in float32.

    It stands at the last event, an empty context reads position 0; a model trained on hidden events gets one more.
    Where listeners are folded in, their queries follow it, so that D is the width of both.
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
    row_BLD, real_BL = _rows(model, weights, Seen(item_BL, feedback_BL, station_BL))
    h_B1D = model.encode_one(weights.params, row_BLD, feedback_BL, station_BL, real_BL, at_B)
    h_BD = h_B1D[:, 0].astype(jnp.float32)
    if fold_in.there(weights):
        h_BD = jnp.concatenate([h_BD, fold_in.queries(weights, item_BL, feedback_BL)], axis=1)
    return h_BD


def score_items(
    model: models.Model,
    weights: Weights,
    h_BD: Float[Array, "B D"],
    item_BC: Int[Array, "B C"],
    form: str = forms.RANK,
) -> Float[Array, "B C"]:
    """Scores of C candidates per context in a form, scores_BC."""
    found = output_rows(model, weights, item_BC), tables.bias(weights.tables, item_BC)
    if form != forms.RANK:
        found = likes.combined(form, weights, found, likes.of_items(weights, item_BC))
    return heads.own_scores(h_BD, *found)


def held_out(model: models.Model, layout: layouts.Layout, weights: Weights, batch: EvalBatch) -> HeldOut:
    """Scores of the held-out items of a batch."""
    ids = (batch.item_BL, batch.pair_B2, batch.liked_BC, batch.disliked_BC)
    *ids, feedback_BL, station_BL = map(layout.padded, (*ids, batch.feedback_BL, batch.station_BL))
    found, size = layout.look(weights.by_row, ids), len(batch.item_BL)
    weights = tables.weights(weights.params, found.tables)
    item_BL, *items = found.ids
    h_BD = last_hidden(model, weights, Seen(item_BL, feedback_BL, station_BL))
    by_form = [forms.RANK, forms.JUDGE] if likes.there(weights) else [forms.RANK]
    scores = (score_items(model, weights, h_BD, item_BC, form) for form in by_form for item_BC in items)
    pair_B2, liked_BC, disliked_BC, *of_likes = (leaf[:size] for leaf in scores)
    return HeldOut(h_BD[:size], pair_B2, liked_BC, disliked_BC, tuple(of_likes))


def hidden(model: models.Model, layout: layouts.Layout, weights: Weights, seen: Seen) -> Float[Array, "B D"]:
    """``last_hidden`` of contexts given by item."""
    item_BL, feedback_BL, station_BL = map(layout.padded, seen[:3])
    found = layout.look(weights.by_row, [item_BL])
    weights = tables.weights(weights.params, found.tables)
    return last_hidden(model, weights, Seen(found.ids[0], feedback_BL, station_BL))[: len(seen.item_BL)]


def catalogue_items(
    model: models.Model,
    layout: layouts.Layout,
    weights: Weights,
    h_BD: Float[Array, "B D"],
    item_BC: Int[Array, "B C"],
    form: str = forms.RANK,
) -> Float[Array, "B C"]:
    """``score_items`` of items given as such."""
    found = layout.look(weights.by_row, [layout.padded(item_BC)])
    weights = tables.weights(weights.params, found.tables)
    return score_items(model, weights, layout.padded(h_BD), found.ids[0], form)[: len(item_BC)]


def catalogue_rows(model: models.Model, weights: Weights, form: str = forms.RANK) -> heads.Heads:
    """What items of whole tables, or of a part of them, are scored with: row_CD and bias_C, in some forms twice."""
    row_CD = model.output_rows(weights.params, tables.output_table(weights.tables), weights.attribute_VA)
    none_C = jnp.zeros(len(weights.attribute_VA), jnp.float32)
    found = row_CD, weights.tables.get("bias_V", none_C)
    if form == forms.RANK:
        return found
    return likes.combined(form, weights, found, likes.of_all(weights))
