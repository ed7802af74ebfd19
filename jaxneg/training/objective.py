"""The configured loss of a batch: targets, negatives of all kinds, and further terms."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxneg import models
from jaxneg.batch import PAD, Batch
from jaxneg.config import Config, LossConfig
from jaxneg.embeddings import tables
from jaxneg.training import losses, scoring


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


def loss(
    config: Config,
    model: models.Model,
    params,
    item_tables,
    batch: Batch,
    at: Index,
    attribute_VA,
    items,
    key,
):
    """The configured loss of a batch, a float32 scalar: the main term, and further ones by their weights.

    Args:
      config: with the losses.
      model: that is trained.
      params: of the model.
      item_tables: whole, or looked up.
      batch: of sequences.
      at: where ``item_tables`` and ``attribute_VA`` have the rows of the batch.
      attribute_VA: of the items, likewise.
      items: of the catalogue, V - 1.
      key: of dropout, or None.
    """
    seen = (at.item_BL, batch.feedback_BL, batch.station_BL)
    segment_BL = batch.segment_BL if config.data.packed else None
    h_BLD = scoring.encode(model, params, item_tables, *seen, attribute_VA, key, segment_BL).astype(
        jnp.float32
    )

    def rows(id_):
        return scoring.output_rows(model, params, item_tables, id_, attribute_VA), tables.bias(
            item_tables, id_
        )

    main, target_BL = config.loss, batch.target_BL
    target_BLD, target_bias_BL = rows(at.target_BL)
    score_BL = jnp.einsum("BLD,BLD->BL", h_BLD, target_BLD) + target_bias_BL
    ranked_BL = target_BL != PAD
    if config.data.target != "any":
        ranked_BL &= batch.label_BL > 0
    if main.name == "feedback":
        total = losses.feedback(score_BL, batch.label_BL, target_BL != PAD)
    else:
        targets = target_BLD, target_bias_BL
        neg_BLC = _negatives(config, batch, at, h_BLD, rows, targets, items)
        total = _ranking(main, score_BL, neg_BLC, ranked_BL, batch.label_BL, items)
    if main.feedback > 0:
        total += main.feedback * losses.feedback(score_BL, batch.label_BL, target_BL != PAD)
    if main.contrastive > 0:
        total += main.contrastive * _contrast(config, batch, h_BLD, rows(at.event_BM)[0], key)
    return total


def _ranking(config: LossConfig, pos_BL, neg_BLC, mask_BL, label_BL, items: int):
    """The main term: targets against their negatives."""
    match config.name:
        case "bce":
            return losses.bce(pos_BL, neg_BLC, mask_BL)
        case "gbce":
            return losses.gbce(pos_BL, neg_BLC, mask_BL, catalogue_size=items, calibration=config.calibration)
        case "sampled_softmax" if config.log_q == "refined":
            return losses.refined_softmax(pos_BL, neg_BLC, mask_BL)
        case "sampled_softmax" | "softmax":
            return losses.sampled_softmax(pos_BL, neg_BLC, mask_BL)
        case "bpr_max":
            return losses.bpr_max(pos_BL, neg_BLC, mask_BL, penalty=config.penalty)
        case "top1_max":
            return losses.top1_max(pos_BL, neg_BLC, mask_BL)
        case "not_to_recommend":
            return losses.not_to_recommend(pos_BL, neg_BLC, label_BL, weight=config.rejected)
    raise ValueError(config.name)


def _negatives(config: Config, batch: Batch, at: Index, h_BLD, rows, targets, items: int):
    """Logits of each position's negatives; those that are not there, or are the target itself, are absent.

    With ``loss.log_q`` the sum of exp over shared and in-batch ones estimates, without bias, that over all items but
    the target: each is there once, from whichever list, and weighs 1 over the chance that it is in one of them
    (``data.draws``). Hard negatives of a position's own come on top.
    """
    main, target_BL1 = config.loss, batch.target_BL[..., None]
    if main.name == "softmax":
        id_C = jnp.arange(1, items + 1)
        row_CD, bias_C = rows(id_C)
        logits_BLC = jnp.einsum("BLD,CD->BLC", h_BLD, row_CD) + bias_C[None, None]
        return jnp.where(id_C[None, None] != target_BL1, logits_BLC, losses.ABSENT)
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

    def own(h_BLD, row_BLND, bias_BLN, id_BLN):
        logits_BLN = jnp.einsum("BLD,BLND->BLN", h_BLD, row_BLND) + bias_BLN
        return jnp.where((id_BLN != PAD) & (id_BLN != target_BL1), logits_BLN, losses.ABSENT)

    def shared(h_BLD, row_CD, bias_C):
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


def _distinct(id_P):
    """Each id once, PAD in place of repetitions, and the places that they are from."""
    order_P = jnp.argsort(id_P)
    id_P = id_P[order_P]
    first_P = jnp.concatenate([jnp.ones(1, bool), id_P[1:] != id_P[:-1]])
    return jnp.where(first_P, id_P, PAD), order_P


def _contrast(config: Config, batch: Batch, h_BLD, event_BMD, key):
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


def counted(config: Config, batch: Batch):
    """Number of positions that the main term is a mean over, float32."""
    there_BL = batch.target_BL != PAD
    if config.loss.name == "not_to_recommend":
        there_BL &= batch.label_BL != 0
    elif config.loss.name != "feedback" and config.data.target != "any":
        there_BL &= batch.label_BL > 0
    return there_BL.sum().astype(jnp.float32)
