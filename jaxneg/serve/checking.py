"""Whether an export is what its model is: every file is opened and asked, and answers are compared.

The model is the run that the manifest names, where it is there with the same catalogue; else the first graph of the
export. Answers are those to drawn histories of every length.
"""

import pathlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxneg import errors
from jaxneg.batch.forms import Form
from jaxneg.errors import UserError
from jaxneg.files import addresses, arrays
from jaxneg.files.arrays import Damaged
from jaxneg.serve import contexts, index as indexes, layouts, manifest as manifests, precision, signature
from jaxneg.serve.layouts import Finding
from jaxneg.training import runs

COUNT = 128  # histories
CLOSE = 1e-5  # of float32 sums in another order
NARROW = 0.05  # of models that compute in bfloat16
LOST = 0.02  # of the recall of an index, over other histories than those it was tuned by
FEWER = 0.05  # of the recall of a smaller type, likewise
CANDIDATES = 16


class _Told(NamedTuple):
    """What is right."""

    query_BE: np.ndarray
    of: str
    close: float


def check(directory: str | pathlib.Path) -> Iterator[Finding]:
    """Looks at every file of an export, one after the other.

    Raises UserError where there is no manifest to go by, and OSError on a file that may not be read.
    """
    directory = addresses.local(directory, "directory", addresses.EXPORT)
    manifest = manifests.read(directory)
    whole = True
    sums = {**manifest["files"], **manifest.get("texts", {})}
    for name, expected in sums.items():
        if told := _altered(directory / name, expected):
            whole = False
            yield Finding(name, False, told, damaged=True)
    if not whole:
        return
    yield Finding("manifest.json", True, f"{len(sums)} checksums agree")
    for found in layouts.check(directory, manifest):
        whole = whole and found.holds
        yield found
    if not whole:
        return
    try:
        yield from _answers(directory, manifest)
    except Damaged as error:
        yield Finding(str(error).split()[0], False, str(error), damaged=True)


def _altered(path: pathlib.Path, expected: str) -> str | None:
    """What is wrong with a file that is not as it was written. Raises OSError where it may not be read."""
    if not path.exists():
        return "is missing"
    if not path.is_file():
        return "is no file"
    return None if arrays.sha256(path) == expected else "was altered: its checksum differs"


def _answers(directory: pathlib.Path, manifest: manifests.Manifest) -> Iterator[Finding]:
    items, stations = (
        manifests.ids(directory / name, column)
        for name, column in (("items.parquet", "item"), ("stations.parquet", "id"))
    )
    there = len({*items}) == len(items) == manifest["items"]
    yield Finding("items.parquet", there, f"{len(items):,} ids, each of one row")
    yield Finding("stations.parquet", len({*stations}) == len(stations), f"{len(stations):,} ids")
    history = contexts.drawn(
        np.random.default_rng(7), COUNT, manifest["length"], (manifest["items"], len(stations))
    )
    formats, found = manifest.get("formats", ["stablehlo"]), dict[str, np.ndarray]()
    if "stablehlo" in formats:
        opened = manifests.opened(directory)
        with errors.carried(f"{manifests.MODEL} cannot be run by jax {jax.__version__}", "export again"):
            found[manifests.MODEL] = np.asarray(jax.jit(opened.model.call)(opened.params, *history[:3]))
    if "onnx" in formats:
        found[manifests.ONNX[0]] = _run(directory, manifests.ONNX[0], history, {})[0]
    told, finding = _live(directory, manifest, history)
    yield from finding
    if told is None:
        name, query_BE = next(iter(found.items()))
        told = _Told(query_BE, name, CLOSE)
    for name, query_BE in found.items():
        yield _compared(name, "queries", told.query_BE, query_BE, told)
    yield from _of_arrays(directory, manifest, history, told)


def _live(
    directory: pathlib.Path, manifest: manifests.Manifest, history: contexts.Contexts
) -> tuple[_Told | None, list[Finding]]:
    """Queries of the run, where it is there; and what its matrices say of those of the export."""
    source: Mapping[str, Any] = manifest.get("source", {})
    run = pathlib.Path(source.get("run", ""))
    if not source.get("run") or not (run / "result.json").is_file():
        return None, []
    try:
        trained = runs.load(run)
    except UserError as error:
        return None, [Finding("run", True, f"{run} is not compared: {error}")]
    if (
        runs.catalogue_id(trained.store) != source["catalogue"]
        or trained.result["best_step"] != manifest["best_step"]
    ):
        return None, [Finding("run", True, f"{run} is not compared: it went on, or its store is another")]
    from jaxneg.serve import export

    close = CLOSE if trained.config.model.dtype == "float32" else NARROW
    query_BE, item_VE = export.live(trained, history)
    kept_VE = manifests.matrix(directory, manifest, manifests.EMBEDDINGS)
    told = _Told(query_BE, str(run), close)
    if manifest.get("dtype", "float32") == "float32":
        wanted, found = query_BE @ item_VE[1:].T, query_BE @ kept_VE[1:].T
        return told, [_compared(manifests.EMBEDDINGS, "scores", wanted, found, told)]
    k = indexes.counted(manifest["items"])
    recall = precision.recall(precision.best(query_BE, item_VE, k), precision.best(query_BE, kept_VE, k))
    text = f"{manifest.get('dtype')} keeps {recall:.2%} of the best {k} of {run}"
    holds = recall >= manifest.get("ranking", {"recall": 1.0})["recall"] - FEWER
    return told, [Finding(manifests.EMBEDDINGS, holds, text)]


def _of_arrays(
    directory: pathlib.Path, manifest: manifests.Manifest, history: contexts.Contexts, told: _Told
) -> Iterator[Finding]:
    """What stands on the item matrices."""
    item_VE = manifests.matrix(directory, manifest, manifests.EMBEDDINGS)
    likes = "forms" in manifest
    like_VE = manifests.matrix(directory, manifest, manifests.LIKES) if likes else None
    score_BV, k = told.query_BE @ item_VE.T, indexes.counted(manifest["items"])
    if "onnx" in manifest.get("formats", ()):
        row_BC = np.random.default_rng(8).integers(1, len(item_VE), (COUNT, CANDIDATES)).astype(np.int32)
        (score_BC, *more) = _run(directory, manifests.ONNX[1], history, {"candidates": row_BC})
        exact = [score_BV] if like_VE is None else [score_BV, told.query_BE @ like_VE.T]
        wanted = [np.take_along_axis(one, row_BC, axis=1) for one in exact]
        yield _compared(manifests.ONNX[1], "scores", np.stack(wanted), np.stack([score_BC, *more]), told)
        beta = {"beta": np.zeros((COUNT, 1), np.float32)} if likes else {}
        asked = {"k": np.full((COUNT, 1), k, np.int32), **beta}
        row_Bk, best_Bk = _run(directory, manifests.ONNX[2], history, asked)
        finding = _compared(manifests.ONNX[2], "scores", -np.sort(-score_BV[:, 1:])[:, :k], best_Bk, told)
        own_Bk = np.take_along_axis(score_BV, row_Bk, axis=1)
        yield _compared(manifests.ONNX[2], "scores", own_Bk, best_Bk, told) if finding.holds else finding
    if "index" in manifest:
        known, name = manifest["index"], manifests.index_name(manifest["index"]["library"])
        index = indexes.opened(known["library"], directory / name, known["effort"])
        query_BW = indexes.queries(told.query_BE, Form(), likes=likes)
        row_IW = indexes.rows(item_VE, like_VE)
        exact_Bk = precision.best(query_BW, np.pad(row_IW, ((1, 0), (0, 0))), k)
        recall = precision.recall(exact_Bk, index.search(query_BW, k))
        text = f"finds {recall:.2%} of the best {k}, {known['recall']:.2%} when it was made"
        yield Finding(
            name, recall >= known["recall"] - LOST - (manifest.get("dtype") != "float32") * LOST, text
        )


def _run(
    directory: pathlib.Path, name: str, history: contexts.Contexts, more: Mapping[str, np.ndarray]
) -> list[np.ndarray]:
    try:
        from jaxneg.serve import onnx_models
    except ImportError as error:
        raise UserError(f"{name} needs {error.name}: pip install 'jaxneg[onnx]'") from error
    told = dict(zip(signature.HISTORY, history[:3], strict=True))
    with errors.carried(f"{directory / name} cannot be run by onnxruntime", "export again"):
        return onnx_models.call(onnx_models.session(directory / name), {**told, **more})


def _compared(name: str, what: str, wanted: np.ndarray, found: np.ndarray, told: _Told) -> Finding:
    if wanted.shape != found.shape:
        return Finding(name, False, f"{what} are of shape {found.shape}, those of {told.of} {wanted.shape}")
    off = float(np.abs(wanted - found).max(initial=0.0))
    holds = bool(np.allclose(found, wanted, rtol=told.close, atol=told.close))
    return Finding(name, holds, f"{what} differ from those of {told.of} by at most {off:.1e}")
