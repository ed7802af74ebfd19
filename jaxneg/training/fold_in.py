"""Listeners solved for in closed form from the events seen, against fixed factorisations of the signs.

    p = argmin sum over events of (sign - center - bias_i - x_i . p)^2 + penalty |p|^2,   x_i = [q_i, 1]

for each of the ranks of ``baselines.folding``, whose mean is what is predicted. So shrinkage grows as a history is
short, and a row of an item and a query of a listener are all that a score takes, as of any head.
"""

# jnp.einsum and jax.nn leave their arguments untyped.
# pyright: reportUnknownMemberType=false

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxneg.batch import FEEDBACK, PAD, folds
from jaxneg.embeddings import tables
from jaxneg.embeddings.tables import Weights

TABLE = "fold_VG"
CENTER, PENALTY, SIGN = "fold.center", "fold.penalty_2", "fold.sign_E"
SCALE, OFFSET = "like.scale", "like.offset"  # from a predicted sign to the log odds of a like; learned

RANKS = folds.RANKS
FACTORS = sum(RANKS)
WIDTH = FACTORS + 1  # of queries: factors of all ranks, and what a listener likes of anything
K = max(RANKS) + 1  # unknowns of a rank at most: factors, the bias of the listener last


class First(NamedTuple):
    """What folding begins with, and keeps."""

    table_VG: Any  # float32 [V, folds.WIDTH]
    params: dict[str, np.ndarray]


def first(folded: folds.Folded, sign: np.ndarray) -> First:
    """The table and the parameters of fitted factorisations; ``sign`` is that of each feedback code."""
    values = {
        CENTER: folded.center,
        PENALTY: [folded.l2, folded.l2_bias],
        SIGN: sign,
        SCALE: folded.scale,
        OFFSET: folded.offset,
    }
    return First(folded.row_VG, {name: np.asarray(value, np.float32) for name, value in values.items()})


def nothing(rows: int) -> First:
    """The shapes of ``first``, for ``rows`` rows."""
    one = np.float32(1.0)
    values = {CENTER: one, PENALTY: np.ones(2), SIGN: np.zeros(len(FEEDBACK)), SCALE: one, OFFSET: one}
    table_VG = jnp.zeros((rows, folds.WIDTH), jnp.float32)
    return First(table_VG, {name: np.asarray(value, np.float32) for name, value in values.items()})


def there(weights: Weights) -> bool:
    """Whether listeners are solved for."""
    return TABLE in weights.tables


def of_items(weights: Weights, id_: Int[Array, "*S"]) -> tuple[jax.Array, jax.Array]:
    """Rows of items against queries, [*S, WIDTH], and their biases [*S]."""
    return _head(weights, tables.lookup(weights.tables[TABLE], id_))


def of_all(weights: Weights) -> tuple[jax.Array, jax.Array]:
    """The same of whole tables, or of a part of them."""
    return _head(weights, weights.tables[TABLE])


def mean(weights: Weights, items: int) -> tuple[jax.Array, jax.Array]:
    """Mean over the items of their rows [WIDTH] and biases; rows that are no item's are zero."""
    return _head(weights, weights.tables[TABLE].sum(0) / items)


def _head(weights: Weights, row: jax.Array) -> tuple[jax.Array, jax.Array]:
    bias = weights.params[SCALE] * row[..., FACTORS:].mean(-1) + weights.params[OFFSET]
    return jnp.concatenate([row[..., :FACTORS], jnp.ones_like(row[..., :1])], axis=-1), bias


def queries(
    weights: Weights, item_BL: Int[Array, "B L"], feedback_BL: Int[Array, "B L"]
) -> Float[Array, "B G"]:
    """Queries of listeners from all events seen, by the normal equations."""
    x_BLRK, y_BLR, real_BL = _equations(weights, item_BL, feedback_BL)
    x_BLRK = x_BLRK * real_BL[..., None, None]
    left_BRKK = jnp.einsum("BLRK,BLRJ->BRKJ", x_BLRK, x_BLRK) + _diagonal(weights)[None]
    right_BRK = jnp.einsum("BLRK,BLR->BRK", x_BLRK, y_BLR)
    return _queries(weights, _solved(left_BRKK, right_BRK))


def prefixes(
    weights: Weights,
    item_BL: Int[Array, "B L"],
    feedback_BL: Int[Array, "B L"],
    segment_BL: Int[Array, "B L"] | None = None,
) -> Float[Array, "B L G"]:
    """Queries of listeners from the events up to each position, that one included, of its own sequence alone.

    By recursive least squares, one event after the other. No gradient goes through them but that of their scale.
    """
    x_BLRK, y_BLR, real_BL = jax.lax.stop_gradient(_equations(weights, item_BL, feedback_BL))
    penalty_RK, B = jax.lax.stop_gradient(_penalties(weights)), len(item_BL)
    begins_BL = jnp.zeros(item_BL.shape, bool)
    if segment_BL is not None:
        begins_BL = begins_BL.at[:, 1:].set(segment_BL[:, 1:] != segment_BL[:, :-1])
    inverse_BRKK = jnp.broadcast_to(jax.vmap(jnp.diag)(1.0 / penalty_RK), (B, len(RANKS), K, K))
    none_BRK = jnp.zeros((B, len(RANKS), K), jnp.float32)

    def step(
        state: tuple[jax.Array, jax.Array], event: tuple[jax.Array, ...]
    ) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
        x_BRK, y_BR, real_B, begins_B = event
        left_BRKK = jnp.where(begins_B[:, None, None, None], inverse_BRKK, state[0])
        p_BRK = jnp.where(begins_B[:, None, None], none_BRK, state[1])
        towards_BRK = jnp.einsum("BRKJ,BRJ->BRK", left_BRKK, x_BRK) * real_B[:, None, None]
        gain_BRK = towards_BRK / (1.0 + jnp.einsum("BRK,BRK->BR", towards_BRK, x_BRK))[..., None]
        p_BRK += gain_BRK * (y_BR - jnp.einsum("BRK,BRK->BR", p_BRK, x_BRK))[..., None]
        left_BRKK -= gain_BRK[..., :, None] * towards_BRK[..., None, :]
        return (left_BRKK, p_BRK), p_BRK

    events = tuple(jnp.moveaxis(leaf, 1, 0) for leaf in (x_BLRK, y_BLR, real_BL, begins_BL))
    _, p_LBRK = jax.lax.scan(step, (inverse_BRKK, none_BRK), events)
    return _queries(weights, jnp.moveaxis(p_LBRK, 0, 1))


def _equations(
    weights: Weights, item_BL: Int[Array, "B L"], feedback_BL: Int[Array, "B L"]
) -> tuple[Float[Array, "B L R K"], Float[Array, "B L R"], Bool[Array, "B L"]]:
    """An equation of each event in each rank: what it is linear in, and what is left of its sign to be explained."""
    row_BLG = tables.lookup(weights.tables[TABLE], item_BL)
    ends_BL1 = jnp.ones_like(row_BLG[..., :1])
    # Factors of a rank, nothing up to K - 1, and 1.
    place_RK = np.full((len(RANKS), K), folds.WIDTH)
    for number, rank in enumerate(RANKS):
        place_RK[number, :rank] = np.arange(sum(RANKS[:number]), sum(RANKS[: number + 1]))
    place_RK[:, -1] = folds.WIDTH + 1
    x_BLRK = jnp.concatenate([row_BLG, 0.0 * ends_BL1, ends_BL1], axis=-1)[..., place_RK]
    sign_BL = weights.params[SIGN].at[feedback_BL].get(mode="clip")
    y_BLR = sign_BL[..., None] - weights.params[CENTER] - row_BLG[..., FACTORS:]
    return x_BLRK, y_BLR, item_BL != PAD


def _penalties(weights: Weights) -> Float[Array, "R K"]:
    l2, l2_bias = weights.params[PENALTY]
    last_K = jnp.arange(K) == K - 1
    return jnp.broadcast_to(jnp.where(last_K, l2_bias, l2)[None], (len(RANKS), K))


def _solved(left_BRKK: Float[Array, "B R K K"], right_BRK: Float[Array, "B R K"]) -> Float[Array, "B R K"]:
    """Solutions by elimination without pivots, which positive definite matrices need none of.

    Sums, products and slices alone, so that an export runs wherever those do.
    """
    both = jnp.concatenate([left_BRKK, right_BRK[..., None]], axis=-1)
    for k in range(K):
        row = jax.lax.slice_in_dim(both, k, k + 1, axis=-2)
        column = jax.lax.slice_in_dim(both, k, k + 1, axis=-1)
        row = row / jax.lax.slice_in_dim(row, k, k + 1, axis=-1)
        unit_11K1 = (np.arange(K) == k).astype(np.float32)[None, None, :, None]
        both = both - (column - unit_11K1) * row
    return jax.lax.index_in_dim(both, K, axis=-1, keepdims=False)


def _diagonal(weights: Weights) -> Float[Array, "R K K"]:
    return _penalties(weights)[..., None] * np.eye(K, dtype=np.float32)[None]


def _queries(weights: Weights, p: Float[Array, "*S R K"]) -> Float[Array, "*S G"]:
    """Queries of solutions: factors by their share of the mean, then the mean prediction for an item without any."""
    kept = [number * K + k for number, rank in enumerate(RANKS) for k in range(rank)]
    factors = p.reshape(*p.shape[:-2], len(RANKS) * K)[..., np.asarray(kept)] / len(RANKS)
    level = p[..., -1].mean(-1, keepdims=True) + weights.params[CENTER]
    return weights.params[SCALE] * jnp.concatenate([factors, level], axis=-1)
