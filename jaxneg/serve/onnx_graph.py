"""Nodes of ONNX that grow into a graph.

Of dimensions one, the batch, has no size until the model runs. A broadcast is left to whoever reads its result, where
that is arithmetic, which broadcasts by itself. bfloat16, which onnxruntime computes on few devices, is float32 here,
rounded to it after each operation.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import onnx
from onnx import helper, numpy_helper

from jaxneg.errors import UserError

OPSET = 18
LAST = np.iinfo(np.int64).max  # where a slice ends that goes to the end


Dim = Any  # an int, or a multiple of the batch


class Value(NamedTuple):
    """A tensor of the graph."""

    name: str
    shape: tuple[Dim, ...]  # as it lies there: 1 where it is yet to be broadcast
    dtype: np.dtype  # as jax has it


class Graph:
    """Nodes that grow, and the constants that they read."""

    def __init__(self, batch: Dim):
        """``batch`` is the symbol of jax for it. Before the first node of a batched shape, give ``like``."""
        self.batch, self.initializers = batch, list[onnx.TensorProto]()
        self._root = self.nodes = list[onnx.NodeProto]()
        self._constants: dict[tuple, str] = {}
        self._sizes: dict[int, str] = {}
        self._count = 0

    def add(self, operation: str, inputs: Sequence[str], **attributes: Any) -> str:
        """The result of a new node."""
        return self.several(operation, inputs, 1, **attributes)[0]

    def several(self, operation: str, inputs: Sequence[str], count: int, **attributes: Any) -> list[str]:
        """Its results, of a node that has more of them."""
        outputs = [self.fresh() for _ in range(count)]
        self.nodes.append(helper.make_node(operation, list(inputs), outputs, **attributes))
        return outputs

    def fresh(self) -> str:
        self._count += 1
        return f"t{self._count}"

    def constant(self, array: Any) -> str:
        found = np.asarray(array)
        key = found.dtype.str, found.shape, found.tobytes()
        if key not in self._constants:
            self._constants[key] = self.fresh()
            self.initializers.append(numpy_helper.from_array(found, self._constants[key]))
        return self._constants[key]

    def of(self, array: Any) -> Value:
        """A constant as jax has it."""
        found = np.asarray(array)
        return Value(self.constant(_physical(found)), found.shape, found.dtype)

    def batched(self, like: str) -> None:
        """Takes the batch from the first dimension of an input."""
        size = self.add("Shape", [like], start=0, end=1)
        self._sizes[1] = size

    def sizes(self, shape: Sequence[Dim]) -> str:
        """A shape as a tensor."""
        if all(isinstance(dim, int | np.integer) for dim in shape):
            return self.constant(np.array(shape, np.int64))
        parts = [self._size(dim) for dim in shape]
        self._root.append(helper.make_node("Concat", parts, [name := self.fresh()], axis=0))
        return name

    def _size(self, dim: Dim) -> str:
        if isinstance(dim, int | np.integer):
            return self.constant(np.array([dim], np.int64))
        times = int(dim // self.batch)
        if times not in self._sizes:
            parts = [self._sizes[1], self.constant(np.array([times], np.int64))]
            self._root.append(helper.make_node("Mul", parts, [name := self.fresh()]))
            self._sizes[times] = name
        return self._sizes[times]

    def reshaped(self, value: Value, shape: Sequence[Dim]) -> Value:
        """A tensor in another shape; ``value`` as it lies."""
        if tuple(shape) == value.shape:
            return value
        free = [n for n, dim in enumerate(shape) if not isinstance(dim, int | np.integer)]
        if len(free) > 1:
            raise unknown(f"reshape to {tuple(shape)}")
        target = np.array([-1 if n in free else dim for n, dim in enumerate(shape)], np.int64)
        name = self.add("Reshape", [value.name, self.constant(target)])
        return Value(name, tuple(shape), value.dtype)

    def full(self, value: Value, shape: Sequence[Dim]) -> str:
        """A tensor broadcast to all of its shape."""
        if tuple(shape) == value.shape:
            return value.name
        return self.add("Expand", [value.name, self.sizes(shape)])

    def cast(self, name: str, found: np.dtype, wanted: np.dtype) -> str:
        """A tensor as another type of jax."""
        if wanted != np.dtype(bool) and narrow(wanted):
            name = self.cast(name, found, np.dtype(np.float32))
            return self.add("Cast", [self.add("Cast", [name], to=kind(wanted))], to=onnx.TensorProto.FLOAT)
        if kept(found) == kept(wanted):
            return name
        return self.add("Cast", [name], to=kind(kept(wanted)))


def narrow(dtype: Any) -> bool:
    """Whether it is bfloat16 or its like."""
    return np.dtype(dtype).itemsize == 2 and jax.numpy.issubdtype(dtype, jax.numpy.floating)


def kept(dtype: Any) -> np.dtype:
    """The type that a value has in the graph."""
    return np.dtype(np.float32) if narrow(dtype) else np.dtype(dtype)


def _physical(array: np.ndarray) -> np.ndarray:
    return array.astype(kept(array.dtype))


def kind(dtype: Any) -> int:
    """The number of a type in ONNX."""
    return helper.np_dtype_to_tensor_dtype(np.dtype(dtype))


def unknown(what: str) -> UserError:
    """What to say of an operation that is not converted."""
    return UserError(f"no ONNX for {what}, which this model does: export without onnx in --formats")
