"""The softmax over the whole catalogue, a block of items at a time: no array has all its logits.

Logits of a block are computed, folded into a running maximum and sum, and forgotten; the gradient computes them again.
Where devices share the rows each sums over its own for the positions of all that share them, and the sums meet.
P are positions, C all rows, E the rows of a block.
"""

# jnp.einsum leaves its arguments untyped.
# pyright: reportUnknownMemberType=false

import math
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Bool, Float, Int

from jaxneg.embeddings import sharding
from jaxneg.embeddings.sharding import MESH
from jaxneg.training import losses

LOGITS = 1 << 22  # of a block, about; they and what is made of them should stay in a cache
COLUMNS = 128, 4096  # least and most items of a block

Pair = tuple[jax.Array, jax.Array]
Triple = tuple[jax.Array, jax.Array, jax.Array]
EACH = PartitionSpec(MESH)  # a part for each device


class Given(NamedTuple):
    """What scores of positions for items are made of, and each position's target."""

    h_PD: jax.Array
    row_CD: jax.Array
    bias_C: jax.Array
    pos_P: jax.Array  # logit of the target
    own_P: jax.Array  # place of the target among the rows; any other number where it is not among them


class Block(NamedTuple):
    """Some rows, and the scores of all positions for them."""

    start: jax.Array  # its first row
    row_ED: jax.Array
    there_PE: jax.Array  # False at a position's own target, and where the block before had the row
    above_PE: jax.Array  # logits less the target's, ABSENT where not there


class Form(NamedTuple):
    """How the sum is taken."""

    columns: int  # rows of a block
    mesh: Mesh | None = None  # whose devices each have a part of the positions
    # Its axes along which rows lie in parts; along the others each place has them all.
    parted: tuple[str, ...] = ()


def softmax(
    h_BLD: Float[Array, "B L D"],
    rows: tuple[Float[Array, "C D"], Float[Array, "C"]],
    pos_BL: Float[Array, "B L"],
    own_BL: Int[Array, "B L"],
    mask_BL: Bool[Array, "B L"],
    form: Form | None = None,
) -> Float[Array, ""]:
    """Mean cross-entropy of each target among all items.

        loss = -log(exp(pos) / (exp(pos) + sum over other items of exp(h row + bias)))

    Args:
      h_BLD: hidden states.
      rows: of the items in any order, and their biases, ABSENT for a row that is no item's.
      pos_BL: logits of the targets.
      own_BL: where the rows of the targets are; -1 has all as others.
      mask_BL: True where a target exists.
      form: by default all in one place, in blocks that suit the number of positions.

    Reference: Milakov and Gimelshein, Online normalizer calculation for softmax, 2018, arXiv:1805.02867; Wijmans et
    al., Cut Your Losses in Large-Vocabulary Language Models, ICLR 2025, arXiv:2411.09009.
    """
    form = form or Form(block_size(mask_BL.size))
    h_PD = h_BLD.reshape(-1, h_BLD.shape[-1])
    odds_P = _odds(form, h_PD, *rows, pos_BL.ravel(), own_BL.ravel())
    return losses.mean(jax.nn.softplus(odds_P), mask_BL.ravel())


def on_mesh(positions: int, mesh: Mesh, parted: tuple[str, ...]) -> Form:
    """The form for so many positions, each device having as many of them, and rows parted along some axes."""
    together = positions // mesh.size * math.prod(mesh.shape[axis] for axis in parted)
    return Form(block_size(max(together, 1)), mesh if mesh.size > 1 else None, parted)


def block_size(positions: int) -> int:
    """Items of a block for so many positions: a power of two.

    Examples:
      >>> block_size(25_600), block_size(2_048), block_size(64)
      (128, 2048, 4096)
    """
    least, most = COLUMNS
    return min(max(1 << (max(LOGITS // positions, 1).bit_length() - 1), least), most)


def _log_odds(form: Form, *given: jax.Array) -> jax.Array:
    """Log odds of all other items against the target, of what ``Given`` has."""
    if form.mesh is None:
        return _sum(form.columns, Given(*given))

    def local(*parts: jax.Array) -> jax.Array:
        odds_P = _sum(form.columns, _met(form, Given(*parts)))
        if not form.parted:
            return odds_P
        most_P = sharding.pmax(odds_P, form.parted)
        sum_P = sharding.psum(jnp.exp(odds_P - most_P), form.parted)
        return _own(form, most_P + jnp.log(sum_P))

    return _mapped(form, local, _places(form), EACH)(*given)


def _sum(columns: int, given: Given) -> jax.Array:
    """Log odds of the others among some rows."""
    columns = min(columns, len(given.bias_C))
    given = _in_float32(given)

    def fold(so_far: Pair, turn: jax.Array) -> tuple[Pair, None]:
        most_P, sum_P = so_far
        above_PE = _block(columns, turn, given).above_PE
        new_P = jnp.maximum(most_P, above_PE.max(-1))
        sum_P = sum_P * jnp.exp(most_P - new_P) + jnp.exp(above_PE - new_P[:, None]).sum(-1)
        return (new_P, sum_P), None

    start = jnp.full_like(given.pos_P, losses.ABSENT), jnp.zeros_like(given.pos_P)
    (most_P, sum_P), _ = lax.scan(fold, start, jnp.arange(-(-len(given.bias_C) // columns)))
    return most_P + jnp.log(sum_P)


def _forward(form: Form, *given: jax.Array) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    odds_P = _log_odds(form, *given)
    return odds_P, (odds_P, *given)


def _backward(form: Form, kept: tuple[jax.Array, ...], up_P: jax.Array) -> tuple[jax.Array | None, ...]:
    odds_P, *rest = kept
    given = Given(*rest)
    if form.mesh is None:
        found = _gradients(form.columns, given, odds_P, up_P)
    else:

        def local(odds_P: jax.Array, up_P: jax.Array, *parts: jax.Array) -> Triple:
            odds_P, up_P = (_gathered(form, leaf) for leaf in (odds_P, up_P))
            of_h_PD, *of_rows = _gradients(form.columns, _met(form, Given(*parts)), odds_P, up_P)
            if form.parted:
                of_h_PD = _own(form, sharding.psum(of_h_PD, form.parted))
            apart = tuple(axis for axis in MESH if axis not in form.parted)
            of_row_CD, of_bias_C = (sharding.psum(leaf, apart) for leaf in of_rows)
            return of_h_PD, of_row_CD, of_bias_C

        places = _places(form)
        found = _mapped(form, local, (EACH, EACH, *places), places[:3])(odds_P, up_P, *given)
    # The last is an integer, which has no gradient.
    of_floats = zip((*found, -up_P), given, strict=False)
    return *(leaf.astype(like.dtype) for leaf, like in of_floats), None


def _gradients(columns: int, given: Given, odds_P: jax.Array, up_P: jax.Array) -> Triple:
    """Of hidden states, some rows and their biases."""
    columns = min(columns, len(given.bias_C))
    given = _in_float32(given)

    def add(so_far: Triple, turn: jax.Array) -> tuple[Triple, None]:
        of_h_PD, of_row_CD, of_bias_C = so_far
        start, row_ED, there_PE, above_PE = _block(columns, turn, given)
        weight_PE = jnp.where(there_PE, jnp.exp(above_PE - odds_P[:, None]), 0.0) * up_P[:, None]
        # The last block may begin within the one before, whose rows have a weight of 0 in it.
        row_gradient_ED = _part(of_row_CD, start, columns) + jnp.einsum("PE,PD->ED", weight_PE, given.h_PD)
        bias_gradient_E = _part(of_bias_C, start, columns) + weight_PE.sum(0)
        return (
            of_h_PD + jnp.einsum("PE,ED->PD", weight_PE, row_ED),
            lax.dynamic_update_slice_in_dim(of_row_CD, row_gradient_ED, start, 0),
            lax.dynamic_update_slice_in_dim(of_bias_C, bias_gradient_E, start, 0),
        ), None

    zeros = jnp.zeros_like(given.h_PD), jnp.zeros(given.row_CD.shape), jnp.zeros(given.bias_C.shape)
    return lax.scan(add, zeros, jnp.arange(-(-len(given.bias_C) // columns)))[0]


# Its own types are partial.
_odds = cast(Any, jax.custom_vjp)(_log_odds, nondiff_argnums=(0,))
_odds.defvjp(_forward, _backward)


def _block(columns: int, turn: jax.Array, given: Given) -> Block:
    h_PD, row_CD, bias_C, pos_P, own_P = given
    start = jnp.minimum(turn * columns, len(bias_C) - columns)
    at_E = start + jnp.arange(columns)
    row_ED = _part(row_CD, start, columns).astype(jnp.float32)
    bias_E = _part(bias_C, start, columns).astype(jnp.float32)
    there_PE = (at_E >= turn * columns)[None] & (at_E[None] != own_P[:, None])
    above_PE = jnp.einsum("PD,ED->PE", h_PD, row_ED) + bias_E[None] - pos_P[:, None]
    return Block(start, row_ED, there_PE, jnp.where(there_PE, above_PE, losses.ABSENT))


def _part(leaf_CX: jax.Array, start: jax.Array, columns: int) -> jax.Array:
    return lax.dynamic_slice_in_dim(leaf_CX, start, columns)


def _in_float32(given: Given) -> Given:
    """Hidden states and targets' logits as they are summed; rows follow block by block."""
    return given._replace(h_PD=given.h_PD.astype(jnp.float32), pos_P=given.pos_P.astype(jnp.float32))


def _places(form: Form) -> tuple[PartitionSpec, ...]:
    """Where on the mesh the arrays of ``Given`` are."""
    rows = PartitionSpec(form.parted or None)
    return EACH, rows, rows, EACH, EACH


def _mapped(form: Form, local: Any, given: Any, found: Any) -> Any:
    return jax.shard_map(local, mesh=form.mesh, in_specs=given, out_specs=found, check_vma=False)


def _met(form: Form, given: Given) -> Given:
    """The positions of all devices that share rows, and where targets are in the part of this device."""
    h_PD, pos_P, own_P = (_gathered(form, leaf) for leaf in (given.h_PD, given.pos_P, given.own_P))
    part = lax.axis_index(form.parted) if form.parted else 0
    return given._replace(h_PD=h_PD, pos_P=pos_P, own_P=own_P - part * len(given.bias_C))


def _gathered(form: Form, leaf_P: jax.Array) -> jax.Array:
    for axis in reversed(form.parted):
        leaf_P = sharding.all_gather(leaf_P, axis)
    return leaf_P


def _own(form: Form, leaf_P: jax.Array) -> jax.Array:
    """The positions of this device, of those of all that share rows with it."""
    size = len(leaf_P) // lax.axis_size(form.parted)
    return lax.dynamic_slice_in_dim(leaf_P, lax.axis_index(form.parted) * size, size)
