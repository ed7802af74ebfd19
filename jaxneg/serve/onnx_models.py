"""An export as three graphs of ONNX, which onnxruntime runs without jax or jaxneg.

    query.onnx      item, feedback, station -> query
    scores.onnx     and candidates -> scores, and likes where there is a like head
    top_k.onnx      and k, and beta where there is a like head -> rows, scores, best first

Names and shapes stand in the manifest's signature. The graphs hold no weights: they read params.safetensors and the npy
files of the export, where they lie, and are to be kept beside them.
"""

import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import onnx
from onnx import TensorProto, helper

from jaxneg.errors import UserError
from jaxneg.files import documents
from jaxneg.serve import manifest as manifests, onnx_primitives
from jaxneg.serve.onnx_graph import OPSET, Graph, Value
from jaxneg.serve.signature import HISTORY, Graph as Signed, Tensor

# From 1.29 on it starts a thread, as it is imported, that reports its use to its makers.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
import onnxruntime  # noqa: E402

IR = 10  # version of the file format, for OPSET
QUERY, SCORES, TOP_K = manifests.ONNX
KINDS = {"int32": TensorProto.INT32, "float32": TensorProto.FLOAT}
NUMPY = {"F32": "float32", "I32": "int32", "BOOL": "bool", "I64": "int64", "U8": "uint8", "I8": "int8"}


class Query(NamedTuple):
    """The query of a model as jax traced it."""

    jaxpr: Any  # closed, of the parameters by name and then item, feedback, station
    names: Sequence[str]  # of the parameters, in the order of the jaxpr
    batch: Any  # jax's symbol of it


def write(directory: pathlib.Path, query: Query, signature: Mapping[str, Signed]) -> None:
    """Writes the graphs into the directory of an export, whose arrays are there.

    Raises UserError where a model does what has no counterpart in ONNX.
    """
    for name, build in ((QUERY, _query), (SCORES, _scores), (TOP_K, _top_k)):
        told = signature[name.removesuffix(".onnx")]
        graph = _Model(directory, query)
        results = build(graph, told)
        (directory / name).write_bytes(graph.model(told, results).SerializeToString())


def session(path: pathlib.Path) -> onnxruntime.InferenceSession:
    """A graph of an export, on the CPU. Raises UserError where onnxruntime will not have it."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # it warns of what it simplifies
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # a class of its own for each status
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"{path} cannot be read by onnxruntime: {reason}: export again") from error


def call(run: onnxruntime.InferenceSession, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """Results of a graph."""
    return [np.asarray(one) for one in run.run(None, dict(inputs))]


class _Model:
    """A graph that begins with the query."""

    def __init__(self, directory: pathlib.Path, query: Query):
        self.directory, self.weights = directory, list[TensorProto]()
        graph = self.graph = Graph(query.batch)
        avals = query.jaxpr.in_avals
        places = _places(directory / manifests.PARAMS)
        params = [self._param(name, places) for name in query.names]
        history = [
            Value(name, aval.shape, np.dtype(aval.dtype))
            for name, aval in zip(HISTORY, avals[len(params) :], strict=True)
        ]
        graph.batched(history[0].name)
        (found,) = onnx_primitives.traced(graph, query.jaxpr, [*params, *history])
        self.query = graph.full(found, query.jaxpr.out_avals[0].shape)

    def _param(self, name: str, places: Mapping[str, Any]) -> Value:
        kind, shape, offset, length = places[name]
        self._outside(name, (helper.np_dtype_to_tensor_dtype(kind), shape), manifests.PARAMS, offset, length)
        return Value(name, tuple(shape), kind)

    def _outside(self, name: str, kind: tuple[int, Sequence[int]], file: str, offset: int, length: int):
        """A constant whose numbers lie in a file."""
        tensor = TensorProto(name=name, data_type=kind[0], dims=kind[1], data_location=TensorProto.EXTERNAL)
        for key, value in (("location", file), ("offset", offset), ("length", length)):
            tensor.external_data.add(key=key, value=str(value))
        self.weights.append(tensor)
        return name

    def array(self, file: str) -> str:
        """The array of a npy file; the bits of bfloat16 as such."""
        with open(self.directory / file, "rb") as opened:
            np.lib.format.read_magic(opened)
            shape, _, kind = np.lib.format.read_array_header_1_0(opened)
            offset = opened.tell()
        to = TensorProto.BFLOAT16 if kind == np.uint16 else helper.np_dtype_to_tensor_dtype(kind)
        length = int(np.prod(shape)) * kind.itemsize
        return self._outside(file.removesuffix(".npy"), (to, shape), file, offset, length)

    def products(self, file: str, row: str | None = None) -> str:
        """Scores of all rows of a matrix, or of those named, by the query."""
        add, constant = self.graph.add, self.graph.constant
        matrix, query, scales = self.array(file), self.query, manifests.scales(file)
        pack = (self.directory / scales).is_file()
        if pack:
            query = add("Slice", [query, *(constant(np.array([n], np.int64)) for n in (0, -1, 1))])
        if row is not None:
            matrix = add("Gather", [matrix, row], axis=0)
        if pack:
            matrix = add("Cast", [matrix], to=TensorProto.FLOAT)
        if row is None:
            found = add("Gemm", [query, matrix], transB=1)
        else:
            last = constant(np.array([2], np.int64))
            found = add("MatMul", [matrix, add("Unsqueeze", [query, last])])
            found = add("Squeeze", [found, last])
        if not pack:
            return found
        scale_V2, axis = self.array(scales), 1 if row is None else 2
        if row is not None:
            scale_V2 = add("Gather", [scale_V2, row], axis=0)
        scale, bias = (add("Gather", [scale_V2, constant(np.array(n, np.int64))], axis=axis) for n in (0, 1))
        return add("Add", [add("Mul", [found, scale]), bias])

    def model(self, told: Signed, results: Sequence[str]) -> onnx.ModelProto:
        graph = self.graph
        for name, tensor in zip(results, told["outputs"], strict=True):
            graph.nodes.append(helper.make_node("Identity", [name], [tensor["name"]]))
        nodes = _needed(graph.nodes, [tensor["name"] for tensor in told["outputs"]])
        read = _read(nodes)
        kept = [one for one in (*graph.initializers, *self.weights) if one.name in read]
        made = helper.make_graph(nodes, "jaxneg", _infos(told["inputs"]), _infos(told["outputs"]), kept)
        return helper.make_model(
            made,
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR,
            producer_name="jaxneg",
            producer_version=documents.VERSION,
        )


def _query(model: _Model, told: Signed) -> list[str]:
    del told
    return [model.query]


def _scores(model: _Model, told: Signed) -> list[str]:
    files = (manifests.EMBEDDINGS, manifests.LIKES)[: len(told["outputs"])]
    return [model.products(file, "candidates") for file in files]


def _top_k(model: _Model, told: Signed) -> list[str]:
    add, constant = model.graph.add, model.graph.constant
    score = model.products(manifests.EMBEDDINGS)
    if any(tensor["name"] == "beta" for tensor in told["inputs"]):
        score = add("Add", [score, add("Mul", ["beta", model.products(manifests.LIKES)])])
    items = np.load(model.directory / manifests.EMBEDDINGS, mmap_mode="r").shape[0] - 1
    k = add("Cast", [add("ReduceMax", ["k", constant(np.array([0, 1], np.int64))], keepdims=0)], to=7)
    k = add("Reshape", [k, constant(np.array([1], np.int64))])
    k = add("Min", [k, constant(np.array([items], np.int64))])
    best, row = model.graph.several("TopK", [score, k], 2)
    return [add("Cast", [row], to=TensorProto.INT32), best]


def _infos(tensors: Sequence[Tensor]) -> list[onnx.ValueInfoProto]:
    return [
        helper.make_tensor_value_info(one["name"], KINDS[one["dtype"]], list(one["shape"])) for one in tensors
    ]


def _needed(nodes: Sequence[onnx.NodeProto], results: Sequence[str]) -> list[onnx.NodeProto]:
    """Those that a result takes, in their order."""
    wanted, kept = set(results), list[onnx.NodeProto]()
    for node in reversed(nodes):
        if wanted & set(node.output):
            wanted |= _read([node])
            kept.append(node)
    return kept[::-1]


def _read(nodes: Sequence[onnx.NodeProto]) -> set[str]:
    """Names that nodes read, those within them too."""
    found: set[str] = set()
    for node in nodes:
        found |= {*node.input}
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                found |= _read(attribute.g.node)
    return found


def _places(path: pathlib.Path) -> dict[str, tuple[np.dtype, list[int], int, int]]:
    """Type, shape, first byte and bytes of each tensor of a safetensors file."""
    with open(path, "rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
    header.pop("__metadata__", None)
    found = {}
    for name, one in header.items():
        begin, end = one["data_offsets"]
        found[name] = (np.dtype(NUMPY[one["dtype"]]), one["shape"], 8 + size + begin, end - begin)
    return found
