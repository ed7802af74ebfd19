"""Models as pure functions over a flat dict of parameters with string keys. Flax NNX is unwrapped here only."""

import contextlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh

from jaxneg.config import ModelConfig, parts
from jaxneg.errors import UserError
from jaxneg.models import inputs, layers

Params = dict[str, jax.Array]


class Model(NamedTuple):
    """A sequence model without its item tables."""

    init: Callable[[jax.Array], Params]
    item_rows: Callable[..., jax.Array]  # (params, row_*D, attribute_*A) -> rows of items as input
    output_rows: Callable[..., jax.Array]  # (params, row_*D, attribute_*A) -> rows of items as scored
    # (params, row_BLD, feedback_BL, station_BL, mask_BL, key or None, segment_BL or None) -> h_BLD; mask_BL: real or
    # hidden events; segment_BL: which sequence of a packed row each position is of, none where a row is one
    encode: Callable[..., jax.Array]
    # (params, row_BLD, feedback_BL, station_BL, mask_BL, at_B) -> h_B1D: of position at_B of each row, nothing dropped
    encode_one: Callable[..., jax.Array]
    cloze: bool  # it knows hidden events, those whose feedback code is batch.MASK, and has a position more for them
    cut: bool  # rows may have fewer positions: no real one minds how much padding follows


class _Network(nnx.Module):
    def __init__(self, config: ModelConfig, taken: inputs.Inputs, rngs: nnx.Rngs):
        self.inputs = taken
        row = parts.ENCODERS[config.encoder]
        self.encoder, self.single = parts.made(row.make)(config, rngs=rngs), row.single
        self.name = config.encoder
        gelu, width, dtype = config.head == "gelu", config.width, jnp.dtype(config.dtype)
        self.head = layers.Linear(width, width, dtype=dtype, rngs=rngs) if gelu else None

    def __call__(
        self,
        row_BLD: jax.Array,
        feedback_BL: jax.Array,
        station_BL: jax.Array,
        mask_BL: jax.Array,
        key: jax.Array | None,
        segment_BL: jax.Array | None = None,
    ) -> jax.Array:
        at_input, at_encoder = layers.split(key, 2)
        x_BLD = self.inputs(row_BLD, feedback_BL, station_BL, at_input, segment_BL)
        return self._headed(self._encoded(x_BLD, mask_BL, at_encoder, segment_BL))

    def one(
        self,
        row_BLD: jax.Array,
        feedback_BL: jax.Array,
        station_BL: jax.Array,
        mask_BL: jax.Array,
        at_B: jax.Array,
    ) -> jax.Array:
        x_BLD = self.inputs(row_BLD, feedback_BL, station_BL, None, None)
        if self.single:
            return self._headed(self.encoder(x_BLD, mask_BL, None, None, at_B))
        return self._headed(layers.taken(self._encoded(x_BLD, mask_BL, None, None), at_B))

    def _encoded(
        self, x_BLD: jax.Array, mask_BL: jax.Array, key: jax.Array | None, segment_BL: jax.Array | None
    ) -> jax.Array:
        h_BLD = self.encoder(x_BLD, mask_BL, key, *(() if segment_BL is None else (segment_BL,)))
        if h_BLD.shape != x_BLD.shape:
            raise UserError(
                f"encoder {self.name} must give an array of shape {x_BLD.shape}, got {h_BLD.shape}"
            )
        return h_BLD

    def _headed(self, h_BLD: jax.Array) -> jax.Array:
        if self.head is None:
            return h_BLD
        return jax.nn.gelu(self.head(h_BLD).astype(jnp.float32), approximate=False)


def build(
    config: ModelConfig,
    *,
    length: int,
    stations: int,
    attributes: tuple[int, ...],
    cloze: bool = False,
    mesh: Mesh | None = None,
) -> Model:
    """The model of a config.

    Args:
      config: widths, depth and which inputs take part.
      length: positions, L.
      stations: number of stations; 0 takes no station input.
      attributes: number of values of each attribute.
      cloze: for training on hidden events, as in BERT4Rec: sequences may have length + 1 positions.
      mesh: that programs are for, which decides whose kernels are asked; by default that of this process.
    """

    def network(key: jax.Array) -> _Network:
        rngs = nnx.Rngs(params=key)
        taken = inputs.Inputs(
            config, length=length, stations=stations, attributes=attributes, cloze=cloze, rngs=rngs
        )
        return _Network(config, taken, rngs)

    graph, abstract = nnx.split(nnx.eval_shape(lambda: network(jax.random.key(0))))
    paths = {_name(path): path for path, _ in nnx.to_flat_state(abstract)}

    def merged(params: Params) -> _Network:
        flat = dict(nnx.to_flat_state(abstract))
        leaves = [(path, flat[path].replace(params[name])) for name, path in paths.items()]
        return nnx.merge(graph, nnx.from_flat_state(leaves))

    def init(key: jax.Array) -> Params:
        state = nnx.state(network(key))
        return {_name(path): leaf.get_value() for path, leaf in nnx.to_flat_state(state)}

    def item_rows(params: Params, row: jax.Array, attribute: jax.Array) -> jax.Array:
        return merged(params).inputs.item_rows(row, attribute)

    def output_rows(params: Params, row: jax.Array, attribute: jax.Array) -> jax.Array:
        return merged(params).inputs.output_rows(row, attribute)

    def placed() -> AbstractContextManager[Any]:
        """XLA parts its own operations among devices by itself; kernels, and what is for TPUs, are told of them."""
        if mesh is None or (config.attention != "fused" and mesh.devices.flat[0].platform != "tpu"):
            return contextlib.nullcontext()
        return jax.sharding.use_abstract_mesh(mesh.abstract_mesh)

    def encode(params: Params, row_BLD: jax.Array, *seen: Any) -> jax.Array:
        with placed():
            return merged(params)(row_BLD, *seen)

    def encode_one(params: Params, row_BLD: jax.Array, *seen: Any) -> jax.Array:
        with placed():
            return merged(params).one(row_BLD, *seen)

    row = parts.ENCODERS[config.encoder]
    cut = row.origin is None or not row.bidirectional  # padding comes last, and ours have a mask for it
    return Model(init, item_rows, output_rows, encode, encode_one, cloze, cut)


def _name(path: tuple[Any, ...]) -> str:
    """Flax types the parts of a path as anything that compares; ours are attribute names."""
    return ".".join(path)
