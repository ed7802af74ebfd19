"""A run's best checkpoint as files that other stacks can read.

    model.stablehlo        query(params, item_BL, feedback_BL, station_BL) -> query_BE, any batch size,
                           for CPU, CUDA and TPU
    params.safetensors     its parameters
    item_embeddings.npy    item_VE, float32: a score is the inner product of a query with a row; row 0 pads and
                           scores below every item
    like_embeddings.npy    like_VE, of a model with a like head: the inner product of the same query with a row is the
                           log odds that a listener likes the item if it is shown; row 0 is zero
    items.parquet          row, item id and attributes of every row; stations.parquet likewise, with what is heard
                           most at each station
    manifest.json          versions, signature, feedback codes, a SHA-256 of every other file and one of itself
    README.md              the model card

and, where they are asked for, query.onnx, scores.onnx and top_k.onnx (see ``serve.onnx_models``), an index
(``serve.index``), the directories triton and kserve (``serve.layouts``), and the matrices in fewer bits
(``serve.precision``).

E is the model's width + 1: a query ends in 1, and the last column of a row is the item's bias, 0 in a model that has
none, so that any maximum inner product index serves the model as it is. That of the padding row is ``NEVER``. Leave
row 0 out of an index that quantises rows or joins them by distance, where one so far away makes the others alike.

With a like head one index of rows [v; w], both matrices side by side, serves three forms: the query [q; 0] ranks,
[0; q] judges and [q; beta q] gives their sum. ``serve.demotion`` has the fourth.
"""

import dataclasses
import functools
import importlib.util
import json
import pathlib
import shutil
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow.parquet as pq
from jax import export as jax_export
from safetensors import SafetensorError, numpy as safetensors

from jaxneg import models
from jaxneg.batch import FEEDBACK, PAD, forms
from jaxneg.batch.forms import Form
from jaxneg.embeddings import tables
from jaxneg.errors import UserError
from jaxneg.files import addresses, arrays, documents, locks
from jaxneg.serve import (
    card,
    contexts as measured,
    heard,
    index,
    layouts,
    manifest as manifests,
    precision,
    signature as signatures,
    stations,
)
from jaxneg.training import curves, likes, program, runs, scoring, steps

PLATFORMS = ("cpu", "cuda", "tpu")
ATTRIBUTES = "attribute_VA"  # the catalogue's attributes among the parameters
SCORE = ("output_VD", "bias_V", "like_VD", likes.BIAS, likes.ROW)  # what scores and makes no query
NEVER = -1e18  # score of what is no item; its square still is a finite float32


class Wanted(NamedTuple):
    """What an export is to hold."""

    formats: Sequence[str] = ("stablehlo", "safetensors")  # of manifest.FORMATS
    dtype: str = "float32"  # of the item matrices, one of precision.DTYPES
    library: str = "faiss"  # of the index
    run: pathlib.Path | None = None  # where the model lies, for the manifest and the card


DEFAULT = Wanted()


def export(trained: runs.Trained, out: pathlib.Path, wanted: Wanted = DEFAULT) -> dict:
    """Writes the export to a directory that must not exist yet, whole or not at all; returns the manifest."""
    check(wanted)
    try:
        with (
            addresses.written(out, "--out", addresses.EXPORT) as target,
            locks.new_directory(target, f"--out {out}") as partial,
        ):
            return _write(trained, partial, wanted)
    except FileExistsError as error:
        raise UserError(f"--out {out} was made in the meantime: choose a new directory") from error
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"cannot write {out}: {reason}") from error


def check(wanted: Wanted) -> None:
    """Raises UserError on words that are none, and where what writes a format is not there, before anything is done."""
    for option, given, there in (
        *(("formats", name, manifests.FORMATS) for name in wanted.formats),
        ("dtype", wanted.dtype, precision.DTYPES),
        ("index", wanted.library, tuple(index.KINDS)),
    ):
        if given not in there:
            raise UserError(f"--{option} {given}: there are {', '.join(there)}")
    if {"onnx", "triton", "kserve"} & {*wanted.formats}:
        for package in ("onnx", "onnxruntime"):
            if not importlib.util.find_spec(package):
                raise UserError(f"ONNX needs {package}: pip install 'jaxneg[onnx]'")
    if "index" in wanted.formats:
        index.check(wanted.library)


def _write(trained: runs.Trained, directory: pathlib.Path, wanted: Wanted) -> dict:
    config, store = trained.config, trained.store
    formats = [name for name in manifests.FORMATS if name in {"safetensors", *wanted.formats}]
    if {"triton", "kserve"} & {*formats} and "onnx" not in formats:
        formats = [name for name in manifests.FORMATS if name in {"onnx", *formats}]
    model = _plain(trained)
    weights = steps.evaluated(trained.state, jnp.asarray(store.attribute_VA))
    params = {f"params.{name}": leaf for name, leaf in weights.params.items()}
    params |= {f"tables.{name}": leaf for name, leaf in weights.tables.items()}
    params |= {ATTRIBUTES: weights.attribute_VA}

    def query(flat, item_BL, feedback_BL, station_BL):
        weights = tables.Weights(_under(flat, "params."), _under(flat, "tables."), flat[ATTRIBUTES])
        h_BD = scoring.last_hidden(model, weights, scoring.Seen(item_BL, feedback_BL, station_BL))
        return jnp.concatenate([h_BD, jnp.ones_like(h_BD[:, :1])], axis=1)

    (batch,) = jax_export.symbolic_shape("b")
    history = jax.ShapeDtypeStruct((batch, config.data.length), jnp.int32)
    # The output table, the biases and the like head score; the query does not read them.
    read = [name for name in params if name.partition(".")[2] not in SCORE]
    shapes = {name: jax.ShapeDtypeStruct(params[name].shape, params[name].dtype) for name in read}
    if "stablehlo" in formats:
        exported = jax_export.export(jax.jit(query), platforms=PLATFORMS)(shapes, history, history, history)
        (directory / manifests.MODEL).write_bytes(exported.serialize())
    safetensors.save_file(
        {name: np.asarray(leaf) for name, leaf in params.items()}, directory / manifests.PARAMS
    )

    row_VD, bias_V = jax.jit(functools.partial(scoring.catalogue_rows, model))(weights)
    numbers, like = curves.tuned(trained), None
    if numbers:
        like = jax.jit(likes.of_all)(weights)
        row_VD = np.pad(row_VD, ((0, 0), (0, like[0].shape[1] - row_VD.shape[1])))
    item_VE, like_VE = searched(row_VD, bias_V), None
    _save(directory, manifests.EMBEDDINGS, item_VE, wanted.dtype)
    if like:
        like_VE = np.concatenate([like[0], like[1][:, None]], axis=1).astype(np.float32)
        like_VE[PAD] = 0.0
        _save(directory, manifests.LIKES, like_VE, wanted.dtype)
    shutil.copyfile(store.path / "items.parquet", directory / "items.parquet")
    told = pq.read_table(store.path / "stations.parquet")
    told = told.append_column(heard.COLUMN, stations.most_heard(store))
    pq.write_table(told, directory / "stations.parquet")
    # safetensors writes for the owner alone; the umask decides, as it did for the files before.
    shutil.copymode(directory / manifests.EMBEDDINGS, directory / manifests.PARAMS)

    signature = signatures.of(config.data.length, item_VE.shape[1], likes=like_VE is not None)
    more: dict[str, object] = {}
    if wanted.dtype != "float32" or "index" in formats:
        contexts = measured.validation(trained)
        of_BE = _queries(jax.jit(query), {name: params[name] for name in read}, contexts)
        more = _measured(directory, formats, wanted, contexts._replace(query_XE=of_BE), (item_VE, like_VE))
    if "onnx" in formats:
        from jaxneg.serve import onnx_models

        traced = jax.jit(query).trace(shapes, history, history, history)
        onnx_models.write(directory, onnx_models.Query(traced.jaxpr, sorted(read), batch), signature)

    manifest = {
        "format": manifests.CHOSEN,
        "jaxneg": documents.VERSION,
        "jax": jax.__version__,
        "platforms": PLATFORMS,
        "length": config.data.length,
        "query_params": read,
        "query_width": item_VE.shape[1],
        "rows": item_VE.shape[0],
        "items": store.items,
        "feedback": {kind: code for code, kind in enumerate(FEEDBACK)},
        "inputs": config.data.inputs,
        "polarity": store.metadata.polarity,
        "best_step": trained.result["best_step"],
        "validation": {trained.result["monitor"]: trained.result["best_score"]},
        **({"forms": _numbers(numbers.points)} if numbers else {}),
        "formats": formats,
        "dtype": wanted.dtype,
        **more,
        "signature": signature,
        "source": {"run": str(wanted.run or ""), "catalogue": runs.catalogue_id(store), "git": card.commit()},
        "files": {path.name: arrays.sha256(path) for path in sorted(directory.iterdir())},
    }
    layouts.write(directory, formats, signature)
    (directory / "README.md").write_text(card.text(trained, manifest, wanted.run))
    texts = {name: arrays.sha256(directory / name) for name in manifests.texts(formats)}
    manifest = documents.sealed({**manifest, "texts": texts})
    (directory / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")
    return manifest


def _plain(trained: runs.Trained) -> models.Model:
    """The model with plain attention, which has the same parameters and runs anywhere; fused may be a kernel of the
    machine at hand."""
    config = trained.config
    plain = dataclasses.replace(config, model=dataclasses.replace(config.model, attention="plain"))
    return program.build_model(plain, program.catalogue_of(trained.store))


def live(trained: runs.Trained, history: measured.Contexts) -> tuple[np.ndarray, np.ndarray]:
    """Queries query_XE of histories and the item matrix item_VE, of the run itself and not of what was written."""
    model = _plain(trained)
    weights = steps.evaluated(trained.state, jnp.asarray(trained.store.attribute_VA))
    seen = scoring.Seen(*map(jnp.asarray, history[:3]))
    h_XD = jax.jit(functools.partial(scoring.last_hidden, model))(weights, seen)
    row_VD, bias_V = jax.jit(functools.partial(scoring.catalogue_rows, model))(weights)
    row_VD = np.pad(row_VD, ((0, 0), (0, h_XD.shape[1] - row_VD.shape[1])))
    return np.pad(h_XD, ((0, 0), (0, 1)), constant_values=1.0), searched(row_VD, bias_V)


def _save(directory: pathlib.Path, name: str, item_VE: np.ndarray, dtype: str) -> None:
    """Writes a matrix in a type, and its scales where it has some."""
    found = precision.packed(item_VE, dtype)
    np.save(directory / name, found.matrix)
    if found.scales_V2 is not None:
        np.save(directory / manifests.scales(name), found.scales_V2)


def _queries(query: Callable[..., jax.Array], params: dict, contexts: measured.Contexts) -> np.ndarray:
    """query_XE of contexts, a part at a time."""
    parts = []
    for first in range(0, len(contexts.item_XL), measured.TOGETHER):
        some = [leaf[first : first + measured.TOGETHER] for leaf in contexts[:3]]
        missing = min(measured.TOGETHER, len(contexts.item_XL)) - len(some[0])
        filled = [np.pad(leaf, ((0, missing), (0, 0))) for leaf in some]
        parts.append(np.asarray(query(params, *filled))[: len(some[0])])
    return np.concatenate(parts)


def _measured(
    directory: pathlib.Path,
    formats: Sequence[str],
    wanted: Wanted,
    contexts: measured.Contexts,
    matrices: tuple[np.ndarray, np.ndarray | None],
) -> dict[str, object]:
    """What is left of the best items by a smaller type, and by an index, which is written."""
    (item_VE, like_VE), query_XE, found = matrices, contexts.query_XE, dict[str, object]()
    k = index.counted(len(item_VE) - 1)
    told = {"k": k, "contexts": len(query_XE), "of": contexts.of}
    if wanted.dtype != "float32":
        smaller_VE = precision.unpacked(precision.packed(item_VE, wanted.dtype))
        best = [precision.best(query_XE, matrix, k) for matrix in (item_VE, smaller_VE)]
        found["ranking"] = {"recall": precision.recall(*best), **told}
    if "index" in formats:
        form_BW = index.queries(query_XE, Form(), likes=like_VE is not None)
        built = index.build(wanted.library, index.rows(item_VE, like_VE), form_BW)
        built.found.save(directory / manifests.index_name(wanted.library))
        found["index"] = {
            "library": wanted.library,
            "effort": built.found.effort,
            "recall": built.recall,
            **told,
        }
    return found


def _numbers(points: Mapping[str, curves.Point]) -> dict:
    """The numbers of the forms that have some."""
    of_sum, of_demote = points[forms.SUM].form, points[forms.DEMOTE].form
    return {
        forms.SUM: {"beta": of_sum.beta},
        forms.DEMOTE: {"beta": of_demote.beta, "threshold": of_demote.threshold},
    }


def searched(row_VD, bias_V) -> np.ndarray:
    """item_VE of an index: rows as they are scored and then their biases, where row 0 can win no search."""
    item_VE = np.concatenate([row_VD, bias_V[:, None]], axis=1).astype(np.float32)
    item_VE[PAD] = 0.0
    item_VE[PAD, -1] = NEVER
    return item_VE


def _under(flat, prefix):
    return {name.removeprefix(prefix): leaf for name, leaf in flat.items() if name.startswith(prefix)}
