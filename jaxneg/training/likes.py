"""The like head, and what items are scored with in each serving form: see ``jaxneg.batch.forms``."""

# jnp.einsum leaves its arguments untyped.
# pyright: reportUnknownMemberType=false

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxneg.batch import forms
from jaxneg.config import LikeConfig
from jaxneg.embeddings import heads, tables
from jaxneg.embeddings.tables import Weights

ROW = "like.row_D"  # a row that all items share: how much a listener likes of anything
BIAS = "like_bias_V"
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
    if "like_VD" not in weights.tables:
        return jnp.broadcast_to(row_D, (*id_.shape, len(row_D))), bias
    row = tables.lookup(weights.tables["like_VD"], id_)
    return row + jnp.expand_dims(row_D, tuple(range(id_.ndim))), bias


def of_all(weights: Weights) -> heads.Head:
    """The like head of whole tables, or of a part of them."""
    row_D, bias_C = weights.params[ROW], weights.tables[BIAS]
    row_CD = weights.tables.get("like_VD", jnp.zeros((len(bias_C), len(row_D)), jnp.float32))
    return row_CD + row_D[None], bias_C


def logits(weights: Weights, h_BLD: Float[Array, "B L D"], item_BL: Int[Array, "B L"]) -> Float[Array, "B L"]:
    """Log odds that an item is liked if it is what is shown after a position."""
    row_BLD, bias_BL = of_items(weights, item_BL)
    return jnp.einsum("BLD,BLD->BL", h_BLD, row_BLD) + bias_BL


def with_numbers(weights: Weights, form: forms.Form, items: int) -> Weights:
    """Weights with the numbers of a form, which so need no program of their own; of ``items`` items."""
    row_D, bias_V = weights.params[ROW], weights.tables[BIAS]
    if "like_VD" in weights.tables:  # rows that are no item's are zero
        row_D = row_D + weights.tables["like_VD"].sum(0) / items
    numbers = {BETA: jnp.float32(form.beta), THRESHOLD: jnp.float32(form.threshold)}
    numbers |= {MEAN_ROW: row_D, MEAN_BIAS: bias_V.sum() / items}
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
        return row + beta * like_row, bias + beta * like_bias
    mean_D, mean = weights.params[MEAN_ROW], weights.params[MEAN_BIAS]
    less = jnp.expand_dims(mean_D, tuple(range(like_bias.ndim)))
    return row, bias, beta * (like_row - less), beta * (like_bias - mean - weights.params[THRESHOLD])
