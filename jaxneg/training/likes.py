"""The like head, and what items are scored with in each serving form: see ``jaxneg.batch.forms``.

Where listeners are folded in, hidden states go on with the queries of ``fold_in``, and rows of likes with its rows.
"""

# jnp.einsum and jnp.pad leave their arguments untyped.
# pyright: reportUnknownMemberType=false

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxneg.batch import forms
from jaxneg.config import LikeConfig
from jaxneg.embeddings import heads, tables
from jaxneg.embeddings.tables import Weights
from jaxneg.training import fold_in

ROW = "like.row_D"  # a row that all items share: how much a listener likes of anything
BIAS = "like_bias_V"
TABLE = "like_VD"  # a row of each item
BETA, THRESHOLD = "form.beta", "form.threshold"  # the numbers of a form among the parameters
MEAN_ROW, MEAN_BIAS = "form.mean_D", "form.mean"  # of the like head over the catalogue, likewise


def init_params(config: LikeConfig, width: int) -> tables.Params:
    """Parameters of the like head; none without one."""
    return {ROW: jnp.zeros(width, jnp.float32)} if config.weight > 0 else {}


def there(weights: Weights) -> bool:
    """Whether there is a like head."""
    return BIAS in weights.tables


def of_items(weights: Weights, id_: Int[Array, "*S"]) -> heads.Head:
    """The like head of items: rows [*S, D] and biases [*S]."""
    row_D, bias = weights.params[ROW], tables.lookup(weights.tables[BIAS], id_)
    if TABLE not in weights.tables:
        return jnp.broadcast_to(row_D, (*id_.shape, len(row_D))), bias
    row = tables.lookup(weights.tables[TABLE], id_)
    found = row + jnp.expand_dims(row_D, tuple(range(id_.ndim))), bias
    return _joined(found, fold_in.of_items(weights, id_)) if fold_in.there(weights) else found


def of_all(weights: Weights) -> heads.Head:
    """The like head of whole tables, or of a part of them."""
    row_D, bias_C = weights.params[ROW], weights.tables[BIAS]
    row_CD = weights.tables.get(TABLE, jnp.zeros((len(bias_C), len(row_D)), jnp.float32))
    found = row_CD + row_D[None], bias_C
    return _joined(found, fold_in.of_all(weights)) if fold_in.there(weights) else found


def _joined(own: heads.Head, folded: heads.Head) -> heads.Head:
    return jnp.concatenate([own[0], folded[0]], axis=-1), own[1] + folded[1]


def logits(
    weights: Weights,
    h_BLD: Float[Array, "B L D"],
    item_BL: Int[Array, "B L"],
    query_BLG: Float[Array, "B L G"] | None = None,
) -> Float[Array, "B L"]:
    """Log odds that an item is liked if it is what is shown after a position.

    Args:
      weights: with a like head.
      h_BLD: hidden states.
      item_BL: the items.
      query_BLG: ``fold_in.prefixes``, where listeners are folded in.
    """
    row_BLD, bias_BL = of_items(weights, item_BL)
    if query_BLG is not None:
        h_BLD = jnp.concatenate([h_BLD, query_BLG], axis=-1)
    return jnp.einsum("BLD,BLD->BL", h_BLD, row_BLD) + bias_BL


def with_numbers(weights: Weights, form: forms.Form, items: int) -> Weights:
    """Weights with the numbers of a form, which so need no program of their own; of ``items`` items."""
    row_D, bias_V = weights.params[ROW], weights.tables[BIAS]
    if TABLE in weights.tables:  # rows that are no item's are zero
        row_D = row_D + weights.tables[TABLE].sum(0) / items
    mean = row_D, bias_V.sum() / items
    if fold_in.there(weights):
        mean = _joined(mean, fold_in.mean(weights, items))
    numbers = {BETA: jnp.float32(form.beta), THRESHOLD: jnp.float32(form.threshold)}
    numbers |= dict(zip((MEAN_ROW, MEAN_BIAS), mean, strict=True))
    return weights._replace(params={**weights.params, **numbers})


def combined(form: str, weights: Weights, rank: heads.Head, like: heads.Head) -> heads.Heads:
    """What a form scores with, out of both heads of the same items.

    Args:
      form: its name.
      weights: ``with_numbers`` of the form.
      rank: the head that ranks.
      like: the like head.
    """
    (row, bias), (like_row, like_bias) = rank, like
    if form == forms.JUDGE:
        return like
    if form == forms.RANK:
        return rank
    beta = weights.params[BETA]
    if form == forms.SUM:
        wide = [*[(0, 0)] * (row.ndim - 1), (0, like_row.shape[-1] - row.shape[-1])]
        return jnp.pad(row, wide) + beta * like_row, bias + beta * like_bias
    mean_D, mean = weights.params[MEAN_ROW], weights.params[MEAN_BIAS]
    less = jnp.expand_dims(mean_D, tuple(range(like_bias.ndim)))
    return row, bias, beta * (like_row - less), beta * (like_bias - mean - weights.params[THRESHOLD])
