"""Models as pure functions over a flat dict of parameters with string keys. Flax NNX is unwrapped here only."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from flax import nnx

from jaxneg.config import ModelConfig
from jaxneg.models import inputs, layers, sasrec

Params = dict[str, jax.Array]

ENCODERS: dict[str, Callable[..., nnx.Module]] = {"sasrec": sasrec.SASRec}


class Model(NamedTuple):
    """A sequence model without its item tables."""

    init: Callable[[jax.Array], Params]
    item_rows: Callable[..., jax.Array]  # (params, row_*D, attribute_*A) -> rows of items as input
    output_rows: Callable[..., jax.Array]  # (params, row_*D, attribute_*A) -> rows of items as scored
    encode: Callable[
        ..., jax.Array
    ]  # (params, row_BLD, feedback_BL, station_BL, mask_BL, key or None) -> h_BLD


class _Network(nnx.Module):
    def __init__(self, config: ModelConfig, *, length, stations, attributes, rngs):
        self.inputs = inputs.Inputs(
            config, length=length, stations=stations, attributes=attributes, rngs=rngs
        )
        self.encoder = ENCODERS[config.encoder](config, rngs=rngs)


def build(config: ModelConfig, *, length: int, stations: int, attributes: tuple[int, ...]) -> Model:
    """The model of a config.

    Args:
      config: widths, depth and which inputs take part.
      length: positions, L.
      stations: number of stations; 0 takes no station input.
      attributes: number of values of each attribute.
    """

    def network(key: jax.Array) -> _Network:
        rngs = nnx.Rngs(params=key)
        return _Network(config, length=length, stations=stations, attributes=attributes, rngs=rngs)

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

    def encode(params: Params, row_BLD, feedback_BL, station_BL, mask_BL, key: jax.Array | None) -> jax.Array:
        net = merged(params)
        at_input, at_encoder = layers.split(key, 2)
        return net.encoder(net.inputs(row_BLD, feedback_BL, station_BL, at_input), mask_BL, at_encoder)

    return Model(init, item_rows, output_rows, encode)


def _name(path: tuple[Any, ...]) -> str:
    """Flax types the parts of a path as anything that compares; ours are attribute names."""
    return ".".join(path)
