"""A function of arrays as nodes of ONNX, from its jaxpr: the primitives that the queries of jaxneg are made of."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper

from jaxneg.serve import onnx_graph
from jaxneg.serve.onnx_graph import LAST, Dim, Graph, Value

SAME = {
    "add": "Add",
    "sub": "Sub",
    "mul": "Mul",
    "div": "Div",
    "max": "Max",
    "min": "Min",
    "pow": "Pow",
    "and": "And",
    "or": "Or",
    "not": "Not",
    "eq": "Equal",
    "lt": "Less",
    "le": "LessOrEqual",
    "gt": "Greater",
    "ge": "GreaterOrEqual",
    "exp": "Exp",
    "log": "Log",
    "tanh": "Tanh",
    "logistic": "Sigmoid",
    "sqrt": "Sqrt",
    "neg": "Neg",
    "abs": "Abs",
    "erf": "Erf",
}  # element by element, by the operation of ONNX that does the same
REDUCED = {"reduce_sum": "ReduceSum", "reduce_max": "ReduceMax", "reduce_min": "ReduceMin"}
CALLS = ("jit", "pjit", "closed_call", "custom_jvp_call", "custom_vjp_call", "remat", "remat2", "checkpoint")
MOVED = ("stop_gradient", "copy", "copy_p", "optimization_barrier")
RESHAPED = ("reshape", "squeeze", "expand_dims")
# What gives values that were there before, which are rounded already.
ROUNDED = {
    *CALLS,
    *MOVED,
    *RESHAPED,
    "broadcast_in_dim",
    "concatenate",
    "gather",
    "max",
    "min",
    "pad",
    "scan",
} | {"select_n", "slice", "split", "transpose"}


def traced(graph: Graph, closed: Any, inputs: Sequence[Value]) -> list[Value]:
    """The results of a jaxpr, whole, for inputs."""
    return run(graph, closed.jaxpr, closed.consts, inputs)


def run(graph: Graph, jaxpr: Any, consts: Sequence[Any], inputs: Sequence[Value]) -> list[Value]:
    """The results of a jaxpr for its constants and inputs."""
    known: dict[Any, Value] = {}
    known.update(zip(jaxpr.constvars, map(graph.of, consts), strict=True))
    known.update(zip(jaxpr.invars, inputs, strict=True))

    def read(atom: Any) -> Value:
        return graph.of(np.asarray(atom.val, atom.aval.dtype)) if hasattr(atom, "val") else known[atom]

    for eqn in jaxpr.eqns:
        avals = [atom.aval for atom in eqn.invars]
        found = _convert(graph, eqn, [read(atom) for atom in eqn.invars], avals)
        for var, value in zip(eqn.outvars, found, strict=True):
            if onnx_graph.narrow(var.aval.dtype) and eqn.primitive.name not in ROUNDED:
                value = value._replace(name=graph.cast(value.name, np.dtype(np.float32), var.aval.dtype))
            known[var] = value._replace(dtype=np.dtype(var.aval.dtype))
    return [read(atom) for atom in jaxpr.outvars]


def body(graph: Graph, jaxpr: Any, inputs: Sequence[Value], outputs: int) -> onnx.GraphProto:
    """A jaxpr as the graph within a node: its last inputs are those of the graph, ``outputs`` its results."""
    outer, graph.nodes = graph.nodes, []
    consts, jaxpr = getattr(jaxpr, "consts", ()), getattr(jaxpr, "jaxpr", jaxpr)
    own = [Value(graph.fresh(), v.aval.shape, v.aval.dtype) for v in jaxpr.invars[len(inputs) :]]
    results = run(graph, jaxpr, consts, [*inputs, *own])
    # A result must be of a node of its own, and not an input or the result of another.
    names = [
        graph.add("Identity", [graph.full(value, var.aval.shape)])
        for value, var in zip(results, jaxpr.outvars, strict=True)
    ]
    assert len(names) == outputs
    kinds = [onnx_graph.kind(onnx_graph.kept(var.aval.dtype)) for var in jaxpr.outvars]
    found = helper.make_graph(
        graph.nodes,
        "step",
        [helper.make_tensor_value_info(v.name, onnx_graph.kind(onnx_graph.kept(v.dtype)), None) for v in own],
        [helper.make_tensor_value_info(name, kind, None) for name, kind in zip(names, kinds, strict=True)],
    )
    graph.nodes = outer
    return found


def _convert(graph: Graph, eqn: Any, inputs: list[Value], avals: list[Any]) -> list[Value]:
    """The results of an equation."""
    name, params = eqn.primitive.name, eqn.params
    out = [var.aval for var in eqn.outvars]
    if name in CALLS:
        inner = params.get("call_jaxpr", params.get("jaxpr"))
        if hasattr(inner, "consts"):
            return traced(graph, inner, inputs)
        return run(graph, inner, (), inputs)
    if name in MOVED:
        return inputs
    if name == "scan":
        return _scan(graph, params, inputs, avals, out)
    if name == "split":
        parts = graph.constant(np.array(params["sizes"], np.int64))
        names = [graph.full(inputs[0], avals[0].shape), parts]
        found = graph.several("Split", names, len(out), axis=params["axis"])
        return [Value(one, aval.shape, aval.dtype) for one, aval in zip(found, out, strict=True)]
    if name == "unstack":  # of newer jax, for what older ones slice
        parts = graph.constant(np.ones(len(out), np.int64))
        found = graph.several(
            "Split", [graph.full(inputs[0], avals[0].shape), parts], len(out), axis=params.get("axis", 0)
        )
        return [graph.reshaped(Value(one, (None,), out[0].dtype), out[0].shape) for one in found]
    return [_one(graph, name, params, inputs, avals, out[0])]


def _one(
    graph: Graph, name: str, params: Mapping[str, Any], inputs: list[Value], avals: list[Any], out: Any
) -> Value:
    """The one result of an equation of a primitive."""
    x, shape = inputs[0] if inputs else None, out.shape

    def made(operation: str, *names: str, **attributes: Any) -> Value:
        return Value(graph.add(operation, names, **attributes), tuple(shape), out.dtype)

    def whole() -> str:
        return graph.full(inputs[0], avals[0].shape)

    def by_element(operation: str, *values: Value) -> Value:
        lies = np.broadcast_shapes(*[[_stand_in(dim) for dim in value.shape] for value in values])
        found = graph.add(operation, [value.name for value in values])
        return Value(found, _stood_for(lies, [value.shape for value in values]), out.dtype)

    if name in SAME:
        return by_element(SAME[name], *inputs)
    if name == "ne":
        equal = by_element("Equal", *inputs)
        return equal._replace(name=graph.add("Not", [equal.name]))
    if name == "erfc":
        assert x is not None
        return x._replace(
            name=graph.add("Sub", [graph.constant(np.float32(1.0)), graph.add("Erf", [x.name])])
        )
    if name == "select_n" and len(inputs) == 3 and avals[0].dtype == np.bool_:
        return by_element("Where", inputs[0], inputs[2], inputs[1])
    if name == "clamp":
        low, x, high = inputs
        return by_element("Min", by_element("Max", x, low), high)
    if name == "square" or (name == "integer_pow" and params["y"] == 2):
        return by_element("Mul", inputs[0], inputs[0])
    if name == "rsqrt":
        root = by_element("Sqrt", inputs[0])
        return by_element("Reciprocal", root)
    if name == "convert_element_type":
        assert x is not None
        return x._replace(name=graph.cast(x.name, avals[0].dtype, out.dtype))
    if name == "broadcast_in_dim":
        assert x is not None
        lies: list[Dim] = [1] * len(shape)
        for dim, at in zip(x.shape, params["broadcast_dimensions"], strict=True):
            lies[int(at)] = dim
        return graph.reshaped(x, lies)
    if name in RESHAPED and params.get("dimensions") is None or name in ("squeeze", "expand_dims"):
        assert x is not None
        return graph.reshaped(Value(whole(), avals[0].shape, x.dtype), shape)
    if name == "transpose":
        return made("Transpose", whole(), perm=list(params["permutation"]))
    if name == "concatenate":
        names = [graph.full(value, aval.shape) for value, aval in zip(inputs, avals, strict=True)]
        return made("Concat", *names, axis=params["dimension"])
    if name in REDUCED:
        axes = graph.constant(np.array(params["axes"], np.int64))
        return made(REDUCED[name], whole(), axes, keepdims=0)
    if name == "slice":
        return made("Slice", whole(), *_bounds(graph, params, shape))
    if name == "pad":
        config = params["padding_config"]
        if any(low < 0 or high < 0 or inner for low, high, inner in config):
            raise onnx_graph.unknown("a pad that takes away")
        ends = np.array([[low for low, _, _ in config], [high for _, high, _ in config]], np.int64).ravel()
        return made("Pad", whole(), graph.constant(ends), inputs[1].name)
    if name == "iota" and all(isinstance(dim, int) for dim in shape):
        along = [-1 if n == params["dimension"] else 1 for n in range(len(shape))]
        found = np.arange(shape[params["dimension"]], dtype=out.dtype).reshape(along)
        return graph.of(np.broadcast_to(found, shape))
    if name == "dot_general":
        return _product(graph, params, inputs, avals, out)
    if name == "gather":
        return _gathered(graph, params, inputs, avals, out)
    raise onnx_graph.unknown(name)


def _stand_in(dim: Dim) -> int:
    """A number for a dimension, the batch too, that only says whether it is 1."""
    return 1 if isinstance(dim, int) and dim == 1 else 2


def _stood_for(lies: Sequence[int], shapes: Sequence[Sequence[Dim]]) -> tuple[Dim, ...]:
    found: list[Dim] = []
    for back in range(len(lies), 0, -1):
        there = [shape[-back] for shape in shapes if len(shape) >= back]
        found.append(next((dim for dim in there if _stand_in(dim) != 1), 1))
    return tuple(found)


def _bounds(graph: Graph, params: Mapping[str, Any], shape: Sequence[Dim]) -> list[str]:
    axes = list(range(len(shape)))
    ends = [end if isinstance(end, int | np.integer) else LAST for end in params["limit_indices"]]
    steps = params["strides"] or [1] * len(axes)
    found = (params["start_indices"], ends, axes, steps)
    return [graph.constant(np.array([int(n) for n in numbers], np.int64)) for numbers in found]


def _product(
    graph: Graph, params: Mapping[str, Any], inputs: list[Value], avals: list[Any], out: Any
) -> Value:
    """A product of matrices where it is one, else a sum over letters; both in float32."""
    (left_sum, right_sum), (left_batch, right_batch) = params["dimension_numbers"]
    ranks = [len(aval.shape) for aval in avals]
    left_free = [n for n in range(ranks[0]) if n not in (*left_sum, *left_batch)]
    right_free = [n for n in range(ranks[1]) if n not in (*right_sum, *right_batch)]
    names = [graph.full(value, aval.shape) for value, aval in zip(inputs, avals, strict=True)]
    if any(np.issubdtype(aval.dtype, np.integer) for aval in avals):
        raise onnx_graph.unknown("dot_general of whole numbers")
    plain = len(left_sum) == 1 and len(right_free) == 1 and len(left_free) >= 1
    if plain and (not left_batch or len(left_free) == 1):
        orders = [*left_batch, *left_free, *left_sum], [*right_batch, *right_sum, *right_free]
        turned = [
            name if order == sorted(order) else graph.add("Transpose", [name], perm=[int(n) for n in order])
            for name, order in zip(names, orders, strict=True)
        ]
        return Value(graph.add("MatMul", turned), out.shape, out.dtype)
    letters = iter("abcdefghijklmnopqrstuvwxyz")
    left, right = [""] * ranks[0], [""] * ranks[1]
    for n, m in [*zip(left_batch, right_batch, strict=True), *zip(left_sum, right_sum, strict=True)]:
        left[n] = right[m] = next(letters)
    for side, free in ((left, left_free), (right, right_free)):
        for n in free:
            side[n] = next(letters)
    kept = [left[n] for n in (*left_batch, *left_free)] + [right[n] for n in right_free]
    equation = f"{''.join(left)},{''.join(right)}->{''.join(kept)}"
    return Value(graph.add("Einsum", names, equation=equation), out.shape, out.dtype)


def _gathered(
    graph: Graph, params: Mapping[str, Any], inputs: list[Value], avals: list[Any], out: Any
) -> Value:
    """Rows by their number, of one axis; the same for each of the batch; or a piece at one place."""
    numbers, sizes = params["dimension_numbers"], params["slice_sizes"]
    data, at = avals
    axes = tuple(numbers.start_index_map)
    if len(axes) != 1 or at.shape[-1] != 1:
        raise onnx_graph.unknown("gather by several axes")
    axis, batching = int(axes[0]), tuple(numbers.operand_batching_dims)
    table = graph.full(inputs[0], data.shape)
    name = graph.full(inputs[1], at.shape)
    if len(at.shape) == 1:  # a piece that begins at one place
        begin = graph.cast(name, at.dtype, np.dtype(np.int64))
        end = graph.add("Add", [begin, graph.constant(np.array([sizes[axis]], np.int64))])
        piece = graph.add("Slice", [table, begin, end, graph.constant(np.array([axis], np.int64))])
        lies = tuple(sizes[axis] if n == axis else dim for n, dim in enumerate(data.shape))
        return graph.reshaped(Value(piece, lies, out.dtype), out.shape)
    others = [n for n in range(len(data.shape)) if n != axis and n not in batching]
    if tuple(numbers.collapsed_slice_dims) != (axis,) or any(sizes[n] != data.shape[n] for n in others):
        raise onnx_graph.unknown("gather of parts of rows")
    top = np.array(data.shape[axis] - 1, at.dtype)
    zero = graph.constant(np.array(0, at.dtype))
    inside = graph.add("Clip", [name, zero, graph.constant(top)])
    places = [n for n in range(len(out.shape)) if n not in numbers.offset_dims]
    if not batching:
        flat = graph.reshaped(Value(inside, at.shape, at.dtype), at.shape[:-1]).name
        found = graph.add("Gather", [table, flat], axis=axis)
        before = list(numbers.offset_dims[:axis])
        order = [*before, *places, *numbers.offset_dims[axis:]]
    elif batching == tuple(numbers.start_indices_batching_dims) == (0,) and axis == 1:
        whole = graph.cast(inside, at.dtype, np.dtype(np.int64))
        found = graph.add("GatherND", [table, whole], batch_dims=1)
        order = [*places, *numbers.offset_dims]
    else:
        raise onnx_graph.unknown("gather of such a batch")
    if order != sorted(order):
        found = graph.add("Transpose", [found], perm=[order.index(n) for n in range(len(order))])
    if (
        params["fill_value"] is None
        and "FILL" in str(params["mode"])
        and np.issubdtype(out.dtype, np.floating)
    ):
        there = graph.add("Equal", [inside, name])
        wide = [1 if n in numbers.offset_dims else out.shape[n] for n in range(len(out.shape))]
        there = graph.reshaped(Value(there, at.shape, np.dtype(bool)), wide).name
        found = graph.add("Where", [there, found, graph.constant(np.array(np.nan, np.float32))])
    return Value(found, tuple(out.shape), out.dtype)


def _scan(
    graph: Graph, params: Mapping[str, Any], inputs: list[Value], avals: list[Any], out: list[Any]
) -> list[Value]:
    """A loop over the first axis of what comes after the constants and the state."""
    step = getattr(params["jaxpr"], "jaxpr", params["jaxpr"])
    # What is taken and given an event at a time has one dimension more outside; jax names the counts by its version.
    read = sum(len(a.shape) > len(v.aval.shape) for a, v in zip(avals, step.invars, strict=True))
    states = sum(len(a.shape) == len(v.aval.shape) for a, v in zip(out, step.outvars, strict=True))
    consts = len(avals) - read - states
    loop = body(graph, params["jaxpr"], inputs[:consts], len(out))
    rest = [
        graph.full(value, aval.shape) for value, aval in zip(inputs[consts:], avals[consts:], strict=True)
    ]
    events, made = len(rest) - states, len(out) - states
    way = {"scan_input_directions": [1] * events, "scan_output_directions": [1] * made}
    found = graph.several(
        "Scan", rest, len(out), body=loop, num_scan_inputs=events, **(way if params["reverse"] else {})
    )
    return [Value(name, aval.shape, aval.dtype) for name, aval in zip(found, out, strict=True)]
