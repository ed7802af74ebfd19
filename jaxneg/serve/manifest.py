"""What an export says of itself, and whether its files are that.

Read before anything is served: the manifest has exactly the known names, types and ranges; its files are exactly those
of an export, with their checksums; what it says agrees with the arrays; the model calls nothing but what exports call.
Checksums find what a disk or a copy changed. They say nothing of who made an export: serve those of people you trust.
"""

import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple, NotRequired, TypedDict

import jax
import numpy as np
import pyarrow as pa
from jax import export as jax_export
from safetensors import SafetensorError, safe_open

from jaxneg import errors
from jaxneg.batch import FEEDBACK
from jaxneg.errors import UserError
from jaxneg.files import arrays, documents
from jaxneg.files.arrays import Damaged
from jaxneg.files.documents import Count, Range
from jaxneg.serve import heard, module_text, precision, signature

FORMAT = 2
WITH_LIKES = 3  # with a like head, which versions that read format 2 alone do not know
CHOSEN = 4  # of formats and types that were asked for; all that is written now
MODEL, PARAMS, EMBEDDINGS = "model.stablehlo", "params.safetensors", "item_embeddings.npy"
LIKES = "like_embeddings.npy"
ONNX = ("query.onnx", "scores.onnx", "top_k.onnx")
INDEX = "index"  # and the name of its library behind a point
ATTRIBUTE = "attribute_"  # before the name of an attribute, in items.parquet
FILES = (MODEL, PARAMS, EMBEDDINGS, "items.parquet", "stations.parquet")
FORMATS = ("stablehlo", "onnx", "safetensors", "index", "triton", "kserve")
Format = Literal["stablehlo", "onnx", "safetensors", "index", "triton", "kserve"]
Library = Literal["faiss", "voyager", "usearch"]
Platform = Literal["cpu", "cuda", "tpu", "rocm"]
Size = Annotated[int, Range(1, 2**31 - 1)]
Kind = Literal["unknown", "thumb_down", "skip", "play", "thumb_up"]


class OfSum(TypedDict):
    beta: Annotated[float, Range(0)]


class OfDemote(TypedDict):
    beta: Annotated[float, Range(0)]
    threshold: float


class Forms(TypedDict):
    """Numbers of serving forms, as validation chose them; see ``jaxneg.batch.forms``."""

    sum: OfSum
    demote: OfDemote


class Kept(TypedDict):
    """What a smaller type or an index leaves of the best items, over so many contexts."""

    recall: Annotated[float, Range(0, 1)]
    k: Size
    contexts: Size
    of: Literal["validation", "random"]


class Searched(Kept):
    library: Library
    effort: Size  # lists, or candidates, that a search looks at


class Source(TypedDict):
    """Where an export comes from."""

    run: str  # directory, as it was given; "" where there was none
    catalogue: str  # checksum
    git: str | None  # commit of the working directory


class Manifest(TypedDict):
    """The shape of manifest.json; see ``documents``."""

    format: Literal[2, 3, 4]
    jaxneg: str
    jax: str
    platforms: Annotated[list[Platform], Range(1)]
    length: Size
    query_params: list[str]
    query_width: Size
    rows: Size
    items: Size
    feedback: dict[str, Annotated[int, Range(0, 127)]]
    inputs: list[Kind]
    polarity: dict[str, Literal[-1, 0, 1]]
    best_step: Count
    validation: dict[str, float | None]
    forms: NotRequired[Forms]  # of a model with a like head
    # Of format 4 alone.
    formats: NotRequired[Annotated[list[Format], Range(1)]]
    dtype: NotRequired[precision.Dtype]
    ranking: NotRequired[Kept]  # of a dtype that is not float32
    index: NotRequired[Searched]
    signature: NotRequired[dict[str, signature.Graph]]
    source: NotRequired[Source]
    files: dict[str, str]  # SHA-256 by name
    texts: NotRequired[dict[str, str]]  # likewise of ``texts``; exports of before have none


# What the models of jaxneg are made of, and arithmetic that others may need. Nothing here reaches out of the model.
OPERATIONS = set(
    """func.func func.call func.return abs add and atan2 bitcast_convert broadcast_in_dim case cbrt ceil clamp compare
    concatenate constant convert convolution cosine divide dot_general dynamic_broadcast_in_dim dynamic_gather
    dynamic_iota dynamic_pad dynamic_reshape dynamic_slice dynamic_update_slice exponential
    exponential_minus_one floor gather get_dimension_size if iota is_finite log log_plus_one logistic maximum
    minimum multiply negate not or pad power real_dynamic_slice reduce reduce_window remainder reshape return
    reverse round_nearest_afz round_nearest_even rsqrt scatter select shift_left shift_right_arithmetic
    shift_right_logical sign sine slice sort sqrt subtract tan tanh transpose while xor custom_call""".split()
)
CALLED = {"shape_assertion"}  # custom calls, which are gone once a batch has its size
LARGEST = 1 << 28  # numbers of an array within the model, for one context
OPERATION = re.compile(r'^\s*(?:%[\w:#, %]+ = )?"?([a-z_]+\.[a-zA-Z_0-9.]+)"?', re.MULTILINE)
CALL = re.compile(r'(?:custom_call\s*@"?|call_target_name\s*=\s*")([^\s"(]+)')
TENSOR = re.compile(r"tensor<((?:[0-9?]+x)+)")


class Opened(NamedTuple):
    """The contents of an export, found sound."""

    manifest: Manifest
    model: jax_export.Exported
    params: dict[str, np.ndarray]  # that the model reads
    item_VE: np.ndarray  # memory-mapped
    like_VE: np.ndarray | None  # likewise, of a model with a like head
    item_ids: list[str]  # of rows 1..items
    station_ids: list[str]  # of rows 1..
    attributes: dict[str, pa.Array]  # of rows 1..items, by name
    at_stations: pa.Array | None  # rows of the items heard most at stations 1.., where they were counted


def opened(directory: pathlib.Path) -> Opened:
    """The contents of an export directory.

    Raises UserError where a file is missing, altered or of another format, and where they do not fit together.
    """
    manifest = read(directory)
    try:
        for name, expected in manifest["files"].items():
            path = directory / name
            if not path.is_file() or arrays.sha256(path) != expected:
                raise Damaged(f"{name} is missing or altered (its checksum differs)")
        return _contents(directory, manifest)
    except Damaged as error:
        raise UserError(f"export {directory} is damaged: {error}: export again") from error


def read(directory: pathlib.Path) -> Manifest:
    """The manifest of an export directory. Raises UserError where it is none, or says what cannot be."""
    path = directory / "manifest.json"
    if not path.is_file():
        raise UserError(
            f"{directory} is no export (it has no manifest.json): give the --out of jaxneg export"
        )
    version = _version(path)
    if version not in (FORMAT, WITH_LIKES, CHOSEN):
        raise UserError(
            f"{directory} has export format {version}, this version reads {FORMAT} to {CHOSEN}: export again"
        )
    manifest: Manifest = documents.read(path, Manifest, "export again")
    expected, new = names(manifest), {"formats", "dtype", "signature", "source"}
    written = texts(manifest.get("formats", ()))
    for what, holds in {
        "formats, dtype, signature and source: expected in format 4, and only there": {*manifest} & new
        == (new if version == CHOSEN else set()),
        "ranking: expected with a dtype other than float32, and only then": ("ranking" in manifest)
        == (manifest.get("dtype", "float32") != "float32"),
        "index: expected with an index, and only then": ("index" in manifest)
        == ("index" in manifest.get("formats", ())),
        f"files: expected exactly {', '.join(expected)}": set(manifest["files"]) == set(expected),
        f"texts: expected exactly {', '.join(written)}": {*manifest.get("texts", written)} == {*written},
        "forms: expected with a like head, and only then": version == CHOSEN
        or ("forms" in manifest) == (version == WITH_LIKES),
        "feedback: expected the codes of jaxneg": manifest["feedback"]
        == dict(zip(FEEDBACK, range(6), strict=True)),
        "rows: expected more than there are items": manifest["rows"] > manifest["items"],
        "query_params: expected each once": len(set(manifest["query_params"]))
        == len(manifest["query_params"]),
        "polarity: expected kinds of feedback": set(manifest["polarity"]) <= set(FEEDBACK),
    }.items():
        if not holds:
            raise UserError(f"{path} is damaged: {what}: export again")
    return manifest


def names(manifest: Manifest) -> list[str]:
    """The files that an export is to have, but for the manifest."""
    formats = manifest.get("formats", ["stablehlo", "safetensors"])
    matrices = [EMBEDDINGS, LIKES] if "forms" in manifest else [EMBEDDINGS]
    found = [PARAMS, "items.parquet", "stations.parquet", *matrices]
    if "stablehlo" in formats:
        found.append(MODEL)
    if manifest.get("dtype", "float32") != "float32":
        found += map(scales, matrices)
    if "onnx" in formats:
        found += ONNX
    if "index" in manifest:
        found.append(index_name(manifest["index"]["library"]))
    return sorted(found)


def texts(formats: Sequence[str]) -> list[str]:
    """Files of an export for people and other servers, which ``Scorer`` does not read: paths below it."""
    found = ["README.md"]
    if {"triton", "kserve"} & {*formats}:
        found += [f"triton/{name.removesuffix('.onnx')}/config.pbtxt" for name in ONNX]
    return [*found, "kserve/inference-service.yaml"] if "kserve" in formats else found


def scales(name: str) -> str:
    """The file of the scales and biases of a matrix."""
    return name.replace("_embeddings", "_scales")


def index_name(library: str) -> str:
    """The file of an index."""
    return f"{INDEX}.{library}"


def _version(path: pathlib.Path) -> Any:
    values = documents.read(path, dict, "export again", seal=False)
    if "format" not in values:
        raise UserError(f"{path} is damaged: format is missing: export again")
    return values["format"]


def _contents(directory: pathlib.Path, manifest: Manifest) -> Opened:
    if MODEL not in manifest["files"]:
        raise UserError(f"export {directory} has no {MODEL}: export again with stablehlo in --formats")
    item_VE = matrix(directory, manifest, EMBEDDINGS)
    like_VE = matrix(directory, manifest, LIKES) if "forms" in manifest else None
    params = _params(directory / PARAMS, manifest)
    return Opened(
        manifest,
        _model(directory / MODEL, manifest, params),
        params,
        item_VE,
        like_VE,
        _ids(directory / "items.parquet", "item", manifest["items"]),
        _ids(directory / "stations.parquet", "id", None),
        _attributes(directory / "items.parquet", manifest["items"]),
        _at_stations(directory / "stations.parquet", manifest["items"]),
    )


def matrix(directory: pathlib.Path, manifest: Manifest, name: str) -> np.ndarray:
    """A matrix of an export in float32 [V, E], memory-mapped where that is its type. Raises Damaged."""
    dtype, rows, width = manifest.get("dtype", "float32"), manifest["rows"], manifest["query_width"]
    if dtype == "float32":
        return arrays.mapped(directory / name, np.float32, (rows, width))
    kept = arrays.mapped(directory / name, precision.KEPT[dtype], (rows, width - 1))
    scales_V2 = arrays.mapped(directory / scales(name), np.float32, (rows, 2))
    return precision.unpacked(precision.Packed(np.asarray(kept), np.asarray(scales_V2)))


def ids(path: pathlib.Path, column: str) -> list[str]:
    """The ids of a vocabulary, of rows 1, 2, ... Raises Damaged."""
    return _ids(path, column, None)


def _ids(path: pathlib.Path, column: str, rows: int | None) -> list[str]:
    found = arrays.table(path, {column: pa.string()}, rows)[column]
    arrays.check_ids(found, path.name)
    return found.to_pylist()


def _attributes(path: pathlib.Path, rows: int) -> dict[str, pa.Array]:
    """Attributes of items by name."""
    names = [name for name in arrays.columns(path) if name.startswith(ATTRIBUTE)]
    found = arrays.table(path, dict.fromkeys(names, pa.string()), rows)
    return {name.removeprefix(ATTRIBUTE): found[name].combine_chunks() for name in names}


def _at_stations(path: pathlib.Path, items: int) -> pa.Array | None:
    """What is heard most at each station; None in an export from before it was counted."""
    if heard.COLUMN not in arrays.columns(path):
        return None
    found = arrays.table(path, {heard.COLUMN: heard.KIND}, None)[heard.COLUMN].combine_chunks()
    heard.check(found, items, path.name)
    return found


def _params(path: pathlib.Path, manifest: Manifest) -> dict[str, np.ndarray]:
    try:
        with safe_open(path, framework="numpy") as file:
            names = set(file.keys())
            if lacks := [name for name in manifest["query_params"] if name not in names]:
                raise Damaged(f"{path.name} lacks {lacks[0]}, which query_params names")
            return {name: file.get_tensor(name) for name in manifest["query_params"]}
    except (SafetensorError, ValueError, TypeError, KeyError, OSError, OverflowError) as error:
        if isinstance(error, Damaged) or errors.refused(error):
            raise
        raise Damaged(f"{path.name} cannot be read: {arrays.line(error)}") from error


def _model(path: pathlib.Path, manifest: Manifest, params: Mapping[str, np.ndarray]) -> jax_export.Exported:
    """The model, once its calls, shapes and platforms are those of the manifest."""
    try:
        model = jax_export.deserialize(bytearray(path.read_bytes()))
        text = module_text.text(bytes(model.mlir_module_serialized))
    except Exception as error:  # flatbuffers, jax and MLIR raise what they like
        if errors.refused(error):
            raise
        made = f", it was made by jax {manifest['jax']}" if manifest["jax"] != jax.__version__ else ""
        told = f"{path.name} cannot be read by jax {jax.__version__}{made}"
        raise Damaged(f"{told}: {arrays.line(error)}") from error
    check_operations(text, path.name)
    if tuple(model.platforms) != tuple(manifest["platforms"]):
        raise Damaged(f"{path.name} is for {', '.join(model.platforms)}, and platforms says otherwise")
    if jax.default_backend() not in ("gpu", *model.platforms):
        raise UserError(
            f"{path} is for {', '.join(model.platforms)}, and JAX runs on {jax.default_backend()} here"
        )
    history = jax.ShapeDtypeStruct((1, manifest["length"]), np.int32)
    wanted, tree = jax.tree.flatten(((dict(params), history, history, history), {}))
    (found,) = model.out_avals if len(model.out_avals) == 1 else (None,)
    if model.in_tree != tree or found is None:
        raise Damaged(f"{path.name} takes and gives other things than query_params says")
    if model.nr_devices != 1 or model.ordered_effects or model.unordered_effects:
        raise Damaged(f"{path.name} has effects beyond its result")
    for k, (has, told) in enumerate(zip(model.in_avals, wanted, strict=True)):
        free = 1 if k >= len(params) else 0  # the batch may be of any size
        if has.dtype != told.dtype or tuple(map(str, has.shape[free:])) != tuple(map(str, told.shape[free:])):
            what = "length" if free else "the arrays"
            raise Damaged(
                f"{path.name} takes {has.str_short()} where {what} of the export say {told.shape[free:]}"
            )
    if tuple(map(str, found.shape[1:])) != (str(manifest["query_width"]),) or found.dtype != np.float32:
        raise Damaged(
            f"{path.name} gives {found.str_short()}, and query_width says {manifest['query_width']}"
        )
    return model


def check_operations(text: str, name: str) -> None:
    """Raises Damaged where a model's text does what no export of jaxneg does, or asks for vast arrays.

    Args:
      text: of the module, by MLIR.
      name: of the file.
    """
    for operation in set(OPERATION.findall(text)):
        if operation.removeprefix("stablehlo.") not in OPERATIONS:
            raise Damaged(f"{name} has the operation {operation}, which no export has")
    if other := set(CALL.findall(text)) - CALLED:
        raise Damaged(f"{name} calls {min(other)}, which no export does")
    for shape in set(TENSOR.findall(text)):
        size = 1
        for length in shape.split("x")[:-1]:
            size *= 1 if length == "?" else int(length)
        if size > LARGEST:
            raise Damaged(f"{name} asks for an array of {size:,} numbers")
