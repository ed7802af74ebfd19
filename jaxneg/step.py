"""What happens on the device: pure functions of a state and a batch."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxneg import losses, models, optim, ranks, tables
from jaxneg.batch import MASK, PAD, Batch, EvalBatch
from jaxneg.config import Config, LossConfig

Weights = tuple[models.Params, tables.Tables]


class State(NamedTuple):
    """All that training changes."""

    step: jax.Array  # int32, updates done
    params: models.Params
    tables: tables.Tables
    opt_state: Any  # of optax; with the moments of the tables where touched rows alone are changed
    key: jax.Array  # uint32 [2]; randomness of a step is this key folded with the step
    average: Weights | tuple[()] = ()  # moving average of both, where configured


class Shared(NamedTuple):
    """How tables are trained whose touched rows alone are changed."""

    layout: tables.Layout
    optimizer: optim.RowOptimizer


def init_state(
    config: Config,
    model: models.Model,
    optimizer: optax.GradientTransformation,
    shared: Shared | None,
    rows: int,
    bias_V: jax.Array | None = None,
) -> State:
    """The state before the first step, a function of the config's seed and, where given, of first item biases."""
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


def evaluated(state: State) -> Weights:
    """Parameters and tables that are measured and exported: the moving average where there is one."""
    return state.average or (state.params, state.tables)


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
    """Hidden states h_BLD of the events seen; of packed rows where ``segment_BL`` parts them.

    Here and below, items may be given by slot where tables and attributes are ``tables.Looked``.
    """
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
    h_BLD = encode(model, params, item_tables, *seen, attribute_VA, key, segment_BL).astype(jnp.float32)

    def rows(id_):
        return output_rows(model, params, item_tables, id_, attribute_VA), tables.bias(item_tables, id_)

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
    """Logits of each position's negatives; those that are not there, or are the target itself, are absent."""
    main, target_BL1 = config.loss, batch.target_BL[..., None]
    if main.name == "softmax":
        id_C = jnp.arange(1, items + 1)
        row_CD, bias_C = rows(id_C)
        logits_BLC = jnp.einsum("BLD,CD->BLC", h_BLD, row_CD) + bias_C[None, None]
        return jnp.where(id_C[None, None] != target_BL1, logits_BLC, losses.ABSENT)
    shared_C, log_q_C = batch.shared_S, batch.shared_log_q_S
    row_CD, bias_C = rows(at.shared_S)
    row_CD, bias_C = row_CD[: len(shared_C)], bias_C[: len(shared_C)]  # slots are filled up
    if main.in_batch:
        target_P, order_P, log_q_P = _distinct(batch.target_BL.ravel(), batch.target_log_q_BL.ravel())
        target_PD, bias_P = (leaf.reshape(len(target_P), *leaf.shape[2:])[order_P] for leaf in targets)
        shared_C, log_q_C = jnp.concatenate([shared_C, target_P]), jnp.concatenate([log_q_C, log_q_P])
        row_CD, bias_C = jnp.concatenate([row_CD, target_PD]), jnp.concatenate([bias_C, bias_P])

    def own(h_BLD, row_BLND, bias_BLN, id_BLN):
        logits_BLN = jnp.einsum("BLD,BLND->BLN", h_BLD, row_BLND) + bias_BLN
        return jnp.where((id_BLN != PAD) & (id_BLN != target_BL1), logits_BLN, losses.ABSENT)

    def shared(h_BLD, row_CD, bias_C):
        logits_BLC = jnp.einsum("BLD,CD->BLC", h_BLD, row_CD) + bias_C[None, None]
        if main.log_q:
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


def _distinct(id_P, value_P):
    """Each id once, PAD in place of repetitions; the places that they are from; the value of each, else 0."""
    order_P = jnp.argsort(id_P)
    id_P, value_P = id_P[order_P], value_P[order_P]
    first_P = jnp.concatenate([jnp.ones(1, bool), id_P[1:] != id_P[:-1]])
    return jnp.where(first_P, id_P, PAD), order_P, jnp.where(first_P, value_P, 0.0)


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


def train_step(
    config: Config,
    model: models.Model,
    optimizer: optax.GradientTransformation,
    shared: Shared | None,
    state: State,
    batch: Batch,
    attribute_VA,
) -> tuple[State, dict[str, jax.Array]]:
    """The state after one update, and sums over the batch: loss, targets, negatives, hard negatives, gradient norm.

    Where devices share the rows of the tables, or only touched rows are to be changed, the gradients are with respect
    to the rows that the batch names, and clipping and the norm are of the other parameters alone.
    """
    key = jax.random.fold_in(state.key, state.step)
    if shared is None:

        def value_and_gradients(part: Batch, at: Index, key):
            return jax.value_and_grad(
                lambda trained: loss(
                    config, model, trained[0], trained[1], part, at, attribute_VA, len(attribute_VA) - 1, key
                ),
            )((state.params, state.tables))

        value, gradients = accumulated(
            config, value_and_gradients, (state.params, state.tables), batch, index(batch), key
        )
        updates, opt_state = optimizer.update(gradients, state.opt_state, (state.params, state.tables))
        updated = optax.apply_updates((state.params, state.tables), updates)
        params, item_tables = cast(tuple[models.Params, tables.Tables], updated)  # of the same structure
    else:
        ids = index(batch)._replace(shared_S=shared.layout.padded(batch.shared_S))
        route, looked, slots = shared.layout.look(state.tables | {"attribute_VA": attribute_VA}, ids)
        attributes, items = looked.pop("attribute_VA"), shared.layout.items

        def value_and_gradients(part: Batch, at: Index, key):
            return jax.value_and_grad(
                lambda trained: loss(config, model, trained[0], trained[1], part, at, attributes, items, key),
            )((state.params, looked))

        found = accumulated(config, value_and_gradients, (state.params, looked), batch, Index(*slots), key)
        value, (gradients, row_gradients) = found
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
) -> tuple[list[jax.Array], ranks.Ranked]:
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
    found = ranks.ranked(layout, score, params, by_row, *examples, k=k)
    found = ranks.Ranked(*(leaf[:size] for leaf in found[:-1]), nan=found.nan)
    ends = np.cumsum(blocks)[:-1].tolist()
    return jnp.split(found.rank_BC, ends, axis=1), found


def catalogue_rows(model: models.Model, params, item_tables, attribute_VA):
    """Rows of the whole catalogue as they are scored, item_VD, and their biases, bias_V; of tables that are whole."""
    item_V = jnp.arange(attribute_VA.shape[0])
    row_VD = output_rows(model, params, item_tables, item_V, attribute_VA)
    return row_VD, tables.bias(item_tables, item_V)


def accumulated(config: Config, value_and_gradients, trained, batch: Batch, at: Index, key):
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
        weight = counted(config, of(part, batch))
        return jax.tree.map(lambda so_far, leaf: so_far + weight * leaf, total, (found, jnp.ones(()))), None

    none = ((jnp.zeros(()), jax.tree.map(jnp.zeros_like, trained)), jnp.zeros(()))
    (found, weight), _ = jax.lax.scan(add, none, jnp.arange(parts))
    return jax.tree.map(lambda leaf: leaf / jnp.maximum(weight, 1.0), found)


def counted(config: Config, batch: Batch):
    """Number of positions that the main term is a mean over, float32."""
    there_BL = batch.target_BL != PAD
    if config.loss.name == "not_to_recommend":
        there_BL &= batch.label_BL != 0
    elif config.loss.name != "feedback" and config.data.target != "any":
        there_BL &= batch.label_BL > 0
    return there_BL.sum().astype(jnp.float32)
