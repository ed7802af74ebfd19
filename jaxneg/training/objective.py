"""The configured loss of a batch: targets, negatives of all kinds, and further terms."""

# jnp.einsum and jnp.pad leave their arguments untyped.
# pyright: reportUnknownMemberType=false

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxneg import models
from jaxneg.batch import PAD, Batch
from jaxneg.config import Config, LossConfig, parts
from jaxneg.embeddings import layouts, tables
from jaxneg.embeddings.tables import Weights
from jaxneg.errors import UserError
from jaxneg.training import fold_in, full_softmax, likes, losses, scoring

Rows = tuple[jax.Array, jax.Array]  # rows of items as they are scored, and their biases


class Index(NamedTuple):
    """Where the rows of a batch's items are: the items themselves, or the slots of rows looked up already."""

    item_BL: jax.Array
    target_BL: jax.Array
    negative_BLN: jax.Array
    event_BM: jax.Array
    shared_S: jax.Array


def index(batch: Batch) -> Index:
    """The items of a batch, for tables that are whole."""
    return Index(batch.item_BL, batch.target_BL, batch.negative_BLN, batch.event_BM, batch.shared_S)


def named(batch: Batch) -> int:
    """Distinct items that a batch names, as a rule at most: targets and events read again are of its sequences."""
    rows, length = batch.item_BL.shape
    return rows * (length + 1) + batch.negative_BLN.size + batch.shared_S.size


class Task(NamedTuple):
    """What is learned, the same for every batch."""

    config: Config  # with the losses
    model: models.Model
    items: int  # of the catalogue, V - 1


class Catalogue(NamedTuple):
    """All items, for a loss that is over every one."""

    weights: Weights  # tables and attributes by row
    layout: layouts.Layout


def loss(
    task: Task,
    weights: Weights,
    batch: Batch,
    at: Index,
    key: jax.Array | None = None,
    catalogue: Catalogue | None = None,
) -> Float[Array, ""]:
    """The configured loss of a batch, a float32 scalar: the main term, and further ones by their weights.

    Args:
      task: losses and model.
      weights: tables and attributes whole, or looked up.
      batch: of sequences.
      at: where tables and attributes have the rows of the batch.
      key: of dropout, or None.
      catalogue: for ``--loss.name softmax``.
    """
    config, model, items = task
    segment_BL = batch.segment_BL if batch.segment_BL.shape[1] else None  # where rows are packed
    seen = scoring.Seen(at.item_BL, batch.feedback_BL, batch.station_BL, segment_BL)
    h_BLD = scoring.encode(model, weights, seen, key).astype(jnp.float32)

    def rows(id_: jax.Array) -> Rows:
        return scoring.output_rows(model, weights, id_), tables.bias(weights.tables, id_)

    main, target_BL = config.loss, batch.target_BL
    target_BLD, target_bias_BL = rows(at.target_BL)
    score_BL = jnp.einsum("BLD,BLD->BL", h_BLD, target_BLD) + target_bias_BL
    ranked_BL = target_BL != PAD
    if config.data.target != "any":
        ranked_BL &= batch.label_BL > 0
    if main.name == "feedback":
        total = losses.feedback(score_BL, batch.label_BL, target_BL != PAD)
    elif main.name == "softmax":
        assert catalogue is not None
        total = _softmax(model, catalogue, h_BLD, (score_BL, target_BL, ranked_BL))
    else:
        scored = Scored(h_BLD, (target_BLD, target_bias_BL), rows)
        neg_BLC = _negatives(config, batch, at, scored)
        total = _ranking(main, score_BL, neg_BLC, ranked_BL, batch.label_BL, items)
    if main.feedback > 0:
        total += main.feedback * losses.feedback(score_BL, batch.label_BL, target_BL != PAD)
    if config.like.weight > 0:
        total += config.like.weight * _likes(config, weights, batch, at, h_BLD)
    if main.contrastive > 0:
        total += main.contrastive * _contrast(config, batch, h_BLD, rows(at.event_BM)[0], key)
    return total


def _softmax(
    model: models.Model,
    catalogue: Catalogue,
    h_BLD: Float[Array, "B L D"],
    of_targets: tuple[jax.Array, jax.Array, jax.Array],  # scores, items, whether they count
) -> Float[Array, ""]:
    """The main term: targets against all other items."""
    weights, layout = catalogue
    score_BL, target_BL, mask_BL = of_targets
    row_VD, bias_V = scoring.catalogue_rows(model, weights)
    bias_V = jnp.where(layout.there(), bias_V, losses.ABSENT)
    form = full_softmax.on_mesh(target_BL.size, layout.mesh, layout.parted)
    own_BL = layout.place(target_BL)
    return full_softmax.softmax(h_BLD, (row_VD, bias_V), score_BL, own_BL, mask_BL, form)


def _likes(
    config: Config, weights: Weights, batch: Batch, at: Index, h_BLD: Float[Array, "B L D"]
) -> Float[Array, ""]:
    """The like head's loss: of the feedback that each target got, those that got any."""
    if not config.like.gradient:
        h_BLD = jax.lax.stop_gradient(h_BLD)
    query_BLG = None
    if fold_in.there(weights):
        segment_BL = batch.segment_BL if batch.segment_BL.shape[1] else None
        query_BLG = fold_in.prefixes(weights, at.item_BL, batch.feedback_BL, segment_BL)
    logit_BL = likes.logits(weights, h_BLD, at.target_BL, query_BLG)
    return losses.feedback(logit_BL, batch.label_BL, (batch.target_BL != PAD) & (batch.label_BL != 0))


def _ranking(
    config: LossConfig,
    pos_BL: Float[Array, "B L"],
    neg_BLC: Float[Array, "B L C"],
    mask_BL: Bool[Array, "B L"],
    label_BL: Int[Array, "B _"],  # without columns where the loss reads none
    items: int,
) -> Float[Array, ""]:
    """The main term: targets against their negatives. Raises UserError where a loss of others is no number."""
    if config.name == "not_to_recommend":
        return losses.not_to_recommend(pos_BL, neg_BLC, label_BL, weight=config.rejected)
    if config.log_q == "refined":
        return losses.refined_softmax(pos_BL, neg_BLC, mask_BL)
    call = parts.made(parts.LOSSES[config.name].make)
    given = vars(config) | {"catalogue_size": items, "label_BL": label_BL}
    value = call(pos_BL, neg_BLC, mask_BL, **{name: given[name] for name in parts.keywords(call)})
    if jnp.shape(value) != ():
        raise UserError(f"loss {config.name} must be one number, got an array of shape {jnp.shape(value)}")
    return value


class Scored(NamedTuple):
    """What negatives are scored with."""

    h_BLD: Float[Array, "B L D"]
    targets: Rows  # of each position's target
    rows: Callable[[jax.Array], Rows]  # of items, by where their rows are


def _negatives(config: Config, batch: Batch, at: Index, scored: Scored) -> Float[Array, "B L C"]:
    """Logits of each position's negatives; those that are not there, or are the target itself, are absent.

    With ``loss.log_q`` the sum of exp over shared and in-batch ones estimates, without bias, that over all items but
    the target: each is there once, from whichever list, and weighs 1 over the chance that it is in one of them
    (``data.draws``). Hard negatives of a position's own come on top.
    """
    h_BLD, targets, rows = scored
    main, target_BL1 = config.loss, batch.target_BL[..., None]
    corrected = main.log_q != "none"
    shared_C, log_q_C = batch.shared_S, batch.shared_log_q_S
    row_CD, bias_C = rows(at.shared_S)
    row_CD, bias_C = row_CD[: len(shared_C)], bias_C[: len(shared_C)]  # slots are filled up
    if main.in_batch:
        target_P, order_P = _distinct(batch.target_BL.ravel())
        target_PD, bias_P = (leaf.reshape(len(target_P), *leaf.shape[2:])[order_P] for leaf in targets)
        if corrected:
            log_q_C = jnp.concatenate([log_q_C, batch.target_log_q_BL.ravel()[order_P]])
        shared_C = jnp.concatenate([shared_C, target_P])
        row_CD, bias_C = jnp.concatenate([row_CD, target_PD]), jnp.concatenate([bias_C, bias_P])
        if corrected and len(batch.shared_S):
            shared_C, order_C = _distinct(shared_C)
            log_q_C, row_CD, bias_C = log_q_C[order_C], row_CD[order_C], bias_C[order_C]

    def own(
        h_BLD: jax.Array, row_BLND: jax.Array, bias_BLN: jax.Array, id_BLN: jax.Array
    ) -> Float[Array, "B L N"]:
        logits_BLN = jnp.einsum("BLD,BLND->BLN", h_BLD, row_BLND) + bias_BLN
        return jnp.where((id_BLN != PAD) & (id_BLN != target_BL1), logits_BLN, losses.ABSENT)

    def shared(h_BLD: jax.Array, row_CD: jax.Array, bias_C: jax.Array) -> Float[Array, "B L C"]:
        logits_BLC = jnp.einsum("BLD,CD->BLC", h_BLD, row_CD) + bias_C[None, None]
        if corrected:
            logits_BLC -= log_q_C[None, None]
        there_11C = (shared_C != PAD)[None, None]
        return jnp.where(there_11C & (shared_C[None, None] != target_BL1), logits_BLC, losses.ABSENT)

    # Negatives of a position's own are for targets that are ranked; shared ones serve every target.
    N = batch.negative_BLN.shape[-1]
    if main.hardest == 0:
        row_BLND, bias_BLN = rows(at.negative_BLN)
        parts = [own(h_BLD, row_BLND, bias_BLN, batch.negative_BLN)] if N else []
        parts += [shared(h_BLD, row_CD, bias_C)] if len(shared_C) else []
        return jnp.concatenate(parts, axis=-1)
    # Chosen by score without gradients, which then flow through the chosen alone.
    fixed_BLD, row_BLND, bias_BLN, fixed_CD, fixed_C = jax.lax.stop_gradient(
        (h_BLD, *rows(at.negative_BLN), row_CD, bias_C)
    )
    logits_BLC = own(fixed_BLD, row_BLND, bias_BLN, batch.negative_BLN)
    id_BLC = batch.negative_BLN
    if len(shared_C):
        logits_BLC = jnp.concatenate([logits_BLC, shared(fixed_BLD, fixed_CD, fixed_C)], axis=-1)
        shared_BLC = jnp.broadcast_to(shared_C[None, None], (*target_BL1.shape[:2], len(shared_C)))
        id_BLC = jnp.concatenate([id_BLC, shared_BLC], axis=-1)
    at_BLH = losses.hardest(logits_BLC, min(main.hardest, id_BLC.shape[-1]))
    absent_BLH = jnp.take_along_axis(logits_BLC, at_BLH, axis=-1) == losses.ABSENT
    chosen_BLH = jnp.where(absent_BLH, PAD, jnp.take_along_axis(id_BLC, at_BLH, axis=-1))
    if N == 0:
        return own(h_BLD, row_CD[at_BLH], bias_C[at_BLH], chosen_BLH)
    own_BLH = jnp.take_along_axis(at.negative_BLN, jnp.minimum(at_BLH, N - 1), axis=-1)
    row_BLHD, bias_BLH = rows(own_BLH)
    if len(shared_C):
        from_shared_BLH, at_C = at_BLH >= N, jnp.maximum(at_BLH - N, 0)
        row_BLHD = jnp.where(from_shared_BLH[..., None], row_CD[at_C], row_BLHD)
        bias_BLH = jnp.where(from_shared_BLH, bias_C[at_C], bias_BLH)
    return own(h_BLD, row_BLHD, bias_BLH, chosen_BLH)


def _distinct(id_P: Int[Array, "P"]) -> tuple[Int[Array, "P"], Int[Array, "P"]]:
    """Each id once, PAD in place of repetitions, and the places that they are from."""
    order_P = jnp.argsort(id_P)
    id_P = id_P[order_P]
    first_P = jnp.concatenate([jnp.ones(1, bool), id_P[1:] != id_P[:-1]])
    return jnp.where(first_P, id_P, PAD), order_P


def _contrast(
    config: Config,
    batch: Batch,
    h_BLD: Float[Array, "B L D"],
    event_BMD: Float[Array, "B M D"],
    key: jax.Array | None,
) -> Float[Array, ""]:
    """InfoNCE of what follows an event against the skips of its sequence, MuRS'23 and RecSys'24.

    c is the hidden state at a liked event, or that event's row; what follows is the next liked event. In cloze training
    the hidden state stands at a hidden event and predicts that one.
    """
    main, M = config.loss, batch.event_BM.shape[1]
    liked_BM, skipped_BM = batch.sign_BM > 0, batch.sign_BM < 0
    if main.skips_kept < 1.0 and key is not None:
        kept_BM = jax.random.uniform(jax.random.fold_in(key, 1), skipped_BM.shape) < main.skips_kept
        skipped_BM &= kept_BM
    if config.data.mask > 0 and main.contrastive_context == "predicted":
        context_BMD, positive_BMD = h_BLD, event_BMD
        query_BM = (batch.target_BL != PAD) & liked_BM
    else:
        next_BM = losses.next_positive(liked_BM)
        query_BM = liked_BM & (next_BM < M)
        at_BM1 = jnp.minimum(next_BM, M - 1)[..., None]
        positive_BMD = jnp.take_along_axis(event_BMD, at_BM1, axis=1)
        context_BMD = event_BMD
        if (
            main.contrastive_context == "predicted"
        ):  # nothing follows the last event, which has no hidden state
            context_BMD = jnp.pad(h_BLD, ((0, 0), (0, M - h_BLD.shape[1]), (0, 0)))
    term = {"paper": losses.info_nce, "released": losses.info_nce_released}[main.contrastive_form]
    return term(context_BMD, positive_BMD, event_BMD, query_BM, skipped_BM, temperature=main.temperature)


def counted(config: Config, batch: Batch) -> Float[Array, ""]:
    """Number of positions that the main term is a mean over, float32."""
    there_BL = batch.target_BL != PAD
    if config.loss.name == "feedback":
        return there_BL.sum().astype(jnp.float32)
    if parts.LOSSES[config.loss.name].signed:
        there_BL &= batch.label_BL != 0
    elif config.data.target != "any":
        there_BL &= batch.label_BL > 0
    return there_BL.sum().astype(jnp.float32)
