"""Feed-forward, recurrent and convolutional layers that encoders are built of, and dropout."""

import contextlib
import contextvars
import functools
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from jaxneg.config import ModelConfig
from jaxneg.models import products

EPSILON = 1e-6  # added to the variance of a layer norm


_told: contextvars.ContextVar[str] = contextvars.ContextVar("platform", default="")


@contextlib.contextmanager
def traced_for(kind: str) -> Iterator[None]:
    """What is traced within takes the forms for a kind of device, whichever there are."""
    token = _told.set(kind)
    try:
        yield
    finally:
        _told.reset(token)


def platform() -> str:
    """Of the devices that what is traced is for: as told, those of the mesh in context, or those of this process."""
    if told := _told.get():
        return told
    mesh = jax.sharding.get_abstract_mesh()
    return jax.default_backend() if mesh.empty else getattr(mesh.abstract_device, "platform", "")


def dropout(x: jax.Array, rate: float, key: jax.Array | None) -> jax.Array:
    """x with a share ``rate`` of its elements zeroed and the rest scaled up; x itself without a key.

    The mask hashes each element's index with two random words: a tenth of the cost of drawing random bits on a CPU,
    and the same mask for any sharding of x.
    """
    if key is None or rate == 0.0:
        return x
    seed = words(key)
    index = jnp.zeros(x.shape, jnp.uint32)
    stride = 1
    for axis in reversed(range(x.ndim)):
        index += jax.lax.broadcasted_iota(jnp.uint32, x.shape, axis) * jnp.uint32(stride % (1 << 32))
        stride *= x.shape[axis]
    return dropped(x, index, (seed[0], seed[1]), rate)


def words(key: jax.Array) -> jax.Array:
    """The two random words of a mask, uint32."""
    return jax.random.bits(key, (2,), jnp.uint32)


def dropped(x: jax.Array, index: jax.Array, seed: tuple[jax.Array, jax.Array], rate: float) -> jax.Array:
    """What ``dropout`` leaves of elements with these indices, by the words of their masks."""
    bits = (index ^ seed[0]) * jnp.uint32(0x85EBCA6B)
    bits = (bits ^ (bits >> 15) ^ seed[1]) * jnp.uint32(0xC2B2AE35)
    bits ^= bits >> 16
    keep = bits >= jnp.uint32(int(rate * (1 << 32)))
    # In float32: as a bfloat16, 1 - rate would be off by up to 1 in 500 and shift the mean.
    scaled = (x.astype(jnp.float32) / jnp.float32(1.0 - rate)).astype(x.dtype)
    return jnp.where(keep, scaled, jnp.zeros((), x.dtype))


class Linear(nnx.Linear):
    """x W + b: the product in ``dtype``, the bias added in float32, so that its gradient is summed in float32 too."""

    def __call__(self, x: Float[Array, "*S D"]) -> Float[Array, "*S F"]:  # pyright: ignore
        bias_F = None if self.bias is None else self.bias.get_value()
        return _affine(x, self.kernel.get_value(), bias_F, self.dtype)


def joint(parts: Sequence[Linear], x: Float[Array, "*S D"]) -> list[Float[Array, "*S F"]]:
    """What layers of one size, with biases, make of the same x: in one product, on a TPU in one for each.

    There a product is as fast by itself, and cutting and joining what it gives is not.
    """
    if platform() == "tpu":
        return [part(x) for part in parts]
    kernel = jnp.concatenate([part.kernel.get_value() for part in parts], axis=1)
    bias_F = jnp.concatenate([part.bias.get_value() for part in parts if part.bias is not None])
    return jnp.split(_affine(x, kernel, bias_F, parts[0].dtype), len(parts), axis=-1)


def _affine(
    x: Float[Array, "*S D"],
    kernel_DF: Float[Array, "D F"],
    bias_F: Float[Array, "F"] | None,
    dtype: DTypeLike | None,
) -> Float[Array, "*S F"]:
    # Of two dimensions, so that the gradient of the kernel sums over one: over more, XLA transposes x first.
    y_NF = jnp.dot(x.reshape(-1, x.shape[-1]).astype(dtype), kernel_DF.astype(dtype))
    if bias_F is not None:
        y_NF = (y_NF.astype(jnp.float32) + bias_F[None]).astype(dtype)
    return y_NF.reshape(*x.shape[:-1], -1)


class LayerNorm(nnx.LayerNorm):
    """(x - mean) / sqrt(variance + 1e-6) over the last axis, in float32, then a scale and a shift of each feature.

    Reference: Ba et al., Layer Normalization, 2016, arXiv:1607.06450.
    """

    def __call__(self, x: Float[Array, "*S D"]) -> Float[Array, "*S D"]:  # pyright: ignore
        assert self.scale is not None and self.bias is not None
        return layer_norm(x.astype(jnp.float32), self.scale.get_value(), self.bias.get_value())


def layer_norm(
    x: Float[Array, "*S D"], scale_D: Float[Array, "D"], bias_D: Float[Array, "D"]
) -> Float[Array, "*S D"]:
    """What ``LayerNorm`` does, of float32."""
    return _layer_norm(x, scale_D, bias_D, platform())


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _layer_norm(x: jax.Array, scale_D: jax.Array, bias_D: jax.Array, device: str) -> jax.Array:
    """For a kind of device: gradients are traced where no mesh is in context any more."""
    return _normed(x, scale_D, bias_D, device)[0]


def _normed(
    x: jax.Array, scale_D: jax.Array, bias_D: jax.Array, device: str
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    """The output, and what its gradient needs: features normalised, 1 / sqrt(variance + 1e-6), and the scale."""
    x_ND = x.reshape(-1, x.shape[-1])
    centred_ND = x_ND - _mean(x_ND, device)
    inverse_N1 = jax.lax.rsqrt(_mean(centred_ND**2, device) + EPSILON)
    unit_ND = centred_ND * inverse_N1
    y = (unit_ND * scale_D[None] + bias_D[None]).reshape(x.shape)
    return y, (unit_ND, inverse_N1, scale_D)


def _normed_back(
    device: str, saved: tuple[jax.Array, ...], dy: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    unit_ND, inverse_N1, scale_D = saved
    dy_ND = dy.reshape(unit_ND.shape)
    dunit_ND = dy_ND * scale_D[None]
    mean_N1, along_N1 = _mean(dunit_ND, device), _mean(dunit_ND * unit_ND, device)
    dx_ND = (dunit_ND - mean_N1 - unit_ND * along_N1) * inverse_N1
    return dx_ND.reshape(dy.shape), (dy_ND * unit_ND).sum(0), dy_ND.sum(0)


_layer_norm.defvjp(_normed, _normed_back)


def _mean(x_ND: Float[Array, "N D"], device: str) -> Float[Array, "N 1"] | Float[Array, "N D"]:
    """Over features. On a CPU as a product, at which XLA is twice as fast as at reductions along rows.

    On a TPU too, for widths up to 256, one mean beside each feature: reductions leave a number a row, which must be
    laid out anew to be taken from features. The product takes bfloat16, so x goes in three parts that add up to it.
    """
    width = x_ND.shape[-1]
    if device == "cpu":
        return jnp.dot(x_ND, jnp.full((width, 1), 1.0 / width), precision=jax.lax.Precision.HIGHEST)
    if device != "tpu" or width > 256:
        return x_ND.mean(axis=-1, keepdims=True)
    ones_DD = jnp.ones((width, width), jnp.bfloat16)
    return (
        sum((products.product(part_ND, ones_DD) for part_ND in products.parts(x_ND)), jnp.zeros_like(x_ND))
        / width
    )


FEW = 16  # rows of a table that a TPU takes by products: it would change them one position after the other


def rows(table_CD: Float[Array, "C D"], code: Int[Array, "*S"]) -> Float[Array, "*S D"]:
    """Rows of a small table of codes."""
    if platform() != "tpu" or len(table_CD) > FEW:
        return table_CD[code]
    return products.few_rows(table_CD, code.ravel()).reshape(*code.shape, -1)


class FeedForward(nnx.Module):
    """Two linear layers with a ReLU between, at each position by itself."""

    def __init__(self, width: int, hidden: int, dropout: float, dtype: DTypeLike, *, rngs: nnx.Rngs):
        self.dropout = dropout
        self.up = Linear(width, hidden, dtype=dtype, rngs=rngs)
        self.down = Linear(hidden, width, dtype=dtype, rngs=rngs)

    def __call__(self, x_BLD: Float[Array, "B L D"], key: jax.Array | None) -> Float[Array, "B L D"]:
        return self.down(dropout(jax.nn.relu(self.up(x_BLD)), self.dropout, key))


class SwiGLU(nnx.Module):
    """A feed-forward part with a gate in place of the ReLU: W3 (silu(W1 x) * W2 x), without biases.

    Reference: Shazeer, GLU Variants Improve Transformer, 2020, arXiv:2002.05202.
    """

    def __init__(self, width: int, hidden: int, dropout: float, dtype: DTypeLike, *, rngs: nnx.Rngs):
        self.dropout = dropout
        self.gate = Linear(width, hidden, use_bias=False, dtype=dtype, rngs=rngs)
        self.up = Linear(width, hidden, use_bias=False, dtype=dtype, rngs=rngs)
        self.down = Linear(hidden, width, use_bias=False, dtype=dtype, rngs=rngs)

    def __call__(self, x_BLD: Float[Array, "B L D"], key: jax.Array | None) -> Float[Array, "B L D"]:
        return self.down(dropout(jax.nn.silu(self.gate(x_BLD)) * self.up(x_BLD), self.dropout, key))


class GRU(nnx.Module):
    """A gated recurrent unit of the width of its input, scanned over positions from a state of zeros.

        r = sigmoid(W_r x + U_r h + b_r)            reset
        z = sigmoid(W_z x + U_z h + b_z)            update
        n = tanh(W_n x + b_n + r * (U_n h + c))     candidate
        h <- (1 - z) * n + z * h

    The reset gate stands after the product with U_n, as in cuDNN, so that a step takes one matrix product. The state
    and the gates are float32.

    Reference: Cho et al., 2014, arXiv:1406.1078.
    """

    def __init__(self, width: int, dtype: DTypeLike, *, rngs: nnx.Rngs):
        self.dtype = dtype
        self.input = Linear(width, 3 * width, dtype=dtype, rngs=rngs)  # W and b: reset, update, candidate
        orthogonal = jax.nn.initializers.orthogonal()
        self.recurrent = nnx.Param(jnp.hstack([orthogonal(rngs.params(), (width, width)) for _ in range(3)]))
        self.candidate_bias = nnx.Param(jnp.zeros(width))

    def __call__(
        self, x_BLD: Float[Array, "B L D"], first_BL: Bool[Array, "B L"] | None = None
    ) -> Float[Array, "B L D"]:
        """The state after each position; where given, ``first_BL`` is true where it starts from zeros again."""
        recurrent_DF = self.recurrent.get_value().astype(self.dtype)
        candidate_bias_1D = self.candidate_bias.get_value()[None]

        def step(h_BD: jax.Array, inputs: tuple[jax.Array, jax.Array | None]) -> tuple[jax.Array, jax.Array]:
            from_x_BF, first_B = inputs
            if first_B is not None:
                h_BD = jnp.where(first_B[:, None], 0.0, h_BD)
            from_h_BF = jnp.dot(h_BD.astype(self.dtype), recurrent_DF, preferred_element_type=jnp.float32)
            (xr_BD, xz_BD, xn_BD), (hr_BD, hz_BD, hn_BD) = (
                jnp.split(part_BF, 3, axis=-1) for part_BF in (from_x_BF, from_h_BF)
            )
            reset_BD, update_BD = jax.nn.sigmoid(xr_BD + hr_BD), jax.nn.sigmoid(xz_BD + hz_BD)
            candidate_BD = jnp.tanh(xn_BD + reset_BD * (hn_BD + candidate_bias_1D))
            h_BD = (1.0 - update_BD) * candidate_BD + update_BD * h_BD
            return h_BD, h_BD

        # What depends on the input alone is one product for all positions, outside the scan.
        from_x_LBF = self.input(x_BLD).astype(jnp.float32).swapaxes(0, 1)
        start_BD = jnp.zeros((x_BLD.shape[0], x_BLD.shape[2]), jnp.float32)
        first_LB = None if first_BL is None else first_BL.swapaxes(0, 1)
        _, h_LBD = jax.lax.scan(step, start_BD, (from_x_LBF, first_LB))
        return h_LBD.swapaxes(0, 1)


class HorizontalFilters(nnx.Module):
    """Convolutions over windows of the last events: for each height, ReLU and the maximum over places in the window.

    A filter of height k spans k neighbouring events in all their dimensions, so it has ``window`` - k + 1 places.
    """

    def __init__(
        self,
        width: int,
        window: int,
        heights: Sequence[int],
        channels: int,
        dtype: DTypeLike,
        *,
        rngs: nnx.Rngs,
    ):
        self.window, self.heights, self.dtype = window, tuple(heights), dtype
        # The rows of all filters side by side, so that one matrix product serves all heights.
        self.rows = nnx.Param(
            jnp.hstack(
                [
                    jax.random.normal(rngs.params(), (width, height * channels)) * (height * width) ** -0.5
                    for height in self.heights
                ]
            )
        )
        self.bias = nnx.Param(jnp.zeros(len(self.heights) * channels))

    def __call__(self, x_BLD: Float[Array, "B L D"]) -> Float[Array, "B L F"]:
        """Responses of all filters, heights one after the other, to the window that ends at each position."""
        length, rows_DF = x_BLD.shape[1], self.rows.get_value().astype(self.dtype)
        at_row_BLF = jnp.dot(x_BLD.astype(self.dtype), rows_DF, preferred_element_type=jnp.float32)
        columns = iter(jnp.split(before(at_row_BLF, self.window - 1), sum(self.heights), axis=-1))
        found = []
        for height in self.heights:
            places = self.window - height + 1
            rows = [next(columns)[:, row : row + length + places - 1] for row in range(height)]
            at_place_BPF = functools.reduce(jnp.add, rows)
            at_places = [at_place_BPF[:, place : place + length] for place in range(places)]
            found.append(functools.reduce(jnp.maximum, at_places))
        return jax.nn.relu(jnp.concatenate(found, -1) + self.bias.get_value()[None, None])


class VerticalFilter(nnx.Module):
    """A weighted sum of the last ``window`` events, the weights shared by all dimensions."""

    def __init__(self, window: int, *, rngs: nnx.Rngs):
        self.weight = nnx.Param(jax.random.normal(rngs.params(), (window,)) * window**-0.5)

    def __call__(self, x_BLD: Float[Array, "B L D"]) -> Float[Array, "B L D"]:
        weight_W, length = self.weight.get_value(), x_BLD.shape[1]
        padded_BPD = before(x_BLD, len(weight_W) - 1)
        terms = [weight_W[w] * padded_BPD[:, w : w + length] for w in range(len(weight_W))]
        return functools.reduce(jnp.add, terms)


class Stack(nnx.Module):
    """Blocks of attention one after the other, with a layer norm after the last if asked.

    With ``config.remat`` only the input of each block is kept for its gradient, and the block is computed again. What
    goes from block to block is of the dtype ``config.residual``; norms compute in float32 whatever it is.
    """

    def __init__(self, blocks: Sequence[nnx.Module], config: ModelConfig, *, out_norm: bool, rngs: nnx.Rngs):
        self.layers, self.remat, self.residual = len(blocks), config.remat, config.residual
        for n, block in enumerate(blocks):
            setattr(self, f"block{n}", block)
        self.out_norm = LayerNorm(config.width, rngs=rngs) if out_norm else None

    def through(
        self,
        x_BLD: Float[Array, "B L D"],
        segment_BL: Int[Array, "B L"] | None,
        key: jax.Array | None,
        at_B: Int[Array, "B"] | None = None,
    ) -> Float[Array, "B P D"]:
        """x_BLD after all blocks, in which a position sees positions of its own segment only.

        With ``at_B`` that of one position of each row, P = 1, without a key: what the last block does for others is
        left out.
        """
        x_BLD = x_BLD.astype(self.residual)
        for n, block_key in enumerate(split(key, self.layers)):
            block = getattr(self, f"block{n}")
            last = at_B if n == self.layers - 1 else None
            x_BLD = (jax.checkpoint(block) if self.remat else block)(x_BLD, segment_BL, block_key, last)
            x_BLD = x_BLD.astype(self.residual)
        return x_BLD if self.out_norm is None else self.out_norm(x_BLD)


def taken(x_BLD: Float[Array, "B L D"], at_B: Int[Array, "B"] | None) -> Float[Array, "B P D"]:
    """Of each row the position at_B, P = 1; all where none is named."""
    return x_BLD if at_B is None else jnp.take_along_axis(x_BLD, at_B[:, None, None], axis=1)


def positions(segment_BL: Int[Array, "B L"]) -> Int[Array, "B L"]:
    """Place of each position in its segment, from 0. A segment's positions are neighbours."""
    first_BL = jnp.pad(segment_BL[:, 1:] != segment_BL[:, :-1], ((0, 0), (1, 0)), constant_values=True)
    at_1L = jnp.arange(segment_BL.shape[1], dtype=jnp.int32)[None]
    return at_1L - jax.lax.cummax(jnp.where(first_BL, at_1L, 0), axis=1)


def before(x_BLD: Float[Array, "B L D"], count: int) -> Float[Array, "B P D"]:
    """x_BLD with ``count`` positions of zeros before its first."""
    return jnp.pad(x_BLD, ((0, 0), (count, 0), (0, 0)))


def split(key: jax.Array | None, count: int) -> list[jax.Array | None]:
    """Keys of a layer's parts; no key gives none, which switches dropout off."""
    return [None] * count if key is None else list(jax.random.split(key, count))
