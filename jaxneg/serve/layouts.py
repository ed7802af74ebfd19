"""An export's graphs of ONNX as other servers lay them out: a model repository of Triton, a service of KServe.

    triton/NAME/config.pbtxt, triton/NAME/1/model.onnx and the arrays that it reads, for each of query, scores, top_k
    kserve/inference-service.yaml

Triton's onnxruntime back end reads the first, https://github.com/triton-inference-server/server; KServe serves the same
repository by its Triton runtime, https://github.com/kserve/kserve. Files are hard links to those of the export where
the disk has them, so that they take no room.
"""

import os
import pathlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from jaxneg.files import arrays
from jaxneg.serve import manifest as manifests, signature


class Finding(NamedTuple):
    """What was seen of a file of an export."""

    name: str
    holds: bool
    text: str
    damaged: bool = False  # not the file that was written, so that it cannot be asked what it answers


TRITON, KSERVE = "triton", "kserve"
BATCH = 256  # listeners that Triton may take together
WAIT = 500  # microseconds that it may wait for them
TYPES = {"int32": "TYPE_INT32", "float32": "TYPE_FP32"}
SERVICE = """\
# kubectl apply -f inference-service.yaml, once storageUri names where the directory triton/ of this export lies.
apiVersion: serving.kserve.io/v1beta1
kind: InferenceService
metadata:
  name: jaxneg
spec:
  predictor:
    model:
      modelFormat:
        name: triton
      protocolVersion: v2
      runtime: kserve-tritonserver
      storageUri: pvc://models/triton
      resources:
        requests:
          cpu: "1"
          memory: 2Gi
        limits:
          cpu: "2"
          memory: 4Gi
"""


def write(directory: pathlib.Path, formats: Sequence[str], graphs: Mapping[str, signature.Graph]) -> None:
    """Writes what is asked for into the directory of an export, whose graphs are there."""
    if TRITON in formats or KSERVE in formats:
        for name, graph in graphs.items():
            version = directory / TRITON / name / "1"
            version.mkdir(parents=True)
            model = directory / f"{name}.onnx"
            (version.parent / "config.pbtxt").write_text(config(name, graph))
            _link(model, version / "model.onnx")
            for file in _outside(model):
                _link(directory / file, version / file)
    if KSERVE in formats:
        (directory / KSERVE).mkdir()
        (directory / KSERVE / "inference-service.yaml").write_text(SERVICE)


def config(name: str, graph: signature.Graph) -> str:
    """The config.pbtxt of a graph; the batch is not among its dimensions, as Triton has it."""

    def tensors(kind: str, of: Sequence[signature.Tensor]) -> str:
        lines = [
            f'  {{ name: "{one["name"]}" data_type: {TYPES[one["dtype"]]} dims: [ {_dims(one)} ] }}'
            for one in of
        ]
        return f"{kind} [\n" + ",\n".join(lines) + "\n]\n"

    return (
        f'name: "{name}"\nbackend: "onnxruntime"\ndefault_model_filename: "model.onnx"\nmax_batch_size: {BATCH}\n'
        + tensors("input", graph["inputs"])
        + tensors("output", graph["outputs"])
        + f"dynamic_batching {{ max_queue_delay_microseconds: {WAIT} }}\n"
        + "instance_group [ { kind: KIND_CPU count: 1 } ]\n"
    )


def _dims(tensor: signature.Tensor) -> str:
    return ", ".join("-1" if isinstance(dim, str) else str(dim) for dim in tensor["shape"][1:])


def _outside(model: pathlib.Path) -> list[str]:
    """Files that a graph reads its arrays from."""
    import onnx

    graph = onnx.load(model, load_external_data=False).graph
    found = {
        entry.value
        for tensor in graph.initializer
        for entry in tensor.external_data
        if entry.key == "location"
    }
    return sorted(found)


def _link(source: pathlib.Path, target: pathlib.Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def check(directory: pathlib.Path, manifest: manifests.Manifest) -> Iterator[Finding]:
    """Whether the repository of Triton holds the files of the export."""
    if TRITON not in manifest.get("formats", ()) and KSERVE not in manifest.get("formats", ()):
        return
    for name, graph in manifest.get("signature", {}).items():
        there = directory / TRITON / name
        model = directory / f"{name}.onnx"
        pairs = [(model, there / "1" / "model.onnx")]
        pairs += [(directory / file, there / "1" / file) for file in _outside(model)]
        same = all(_same(*pair) for pair in pairs)
        told = there / "config.pbtxt"
        same = same and told.is_file() and told.read_bytes() == config(name, graph).encode()
        text = (
            "is that of the export"
            if same
            else "is not the graph of the export: a file is missing or altered"
        )
        yield Finding(f"{TRITON}/{name}", same, text, damaged=not same)


def _same(one: pathlib.Path, other: pathlib.Path) -> bool:
    return other.is_file() and (os.path.samefile(one, other) or arrays.sha256(one) == arrays.sha256(other))
