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

import contextlib
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

from jaxneg import files, models
from jaxneg.batch import FEEDBACK, PAD, forms
from jaxneg.batch.forms import Form
from jaxneg.embeddings import heads, parts, sharding, tables
from jaxneg.embeddings.layouts import Layout
from jaxneg.errors import UserError
from jaxneg.files import addresses, arrays, documents, locks
from jaxneg.serve import (
    card,
    contexts as measured,
    heard,
    index,
    layouts,
    manifest as manifests,
    parted,
    precision,
    signature as signatures,
    stations,
    writing,
)
from jaxneg.training import curves, likes, parting, processes, program, runs, scoring, steps

PLATFORMS = ("cpu", "cuda", "tpu")
ATTRIBUTES = "attribute_VA"  # the catalogue's attributes among the parameters
SCORE = ("output_VD", "bias_V", "like_VD", likes.BIAS, likes.ROW)  # what scores and makes no query
_ITEMS, _LIKES = "item_VE", "like_VE"  # what is made of the rows of tables
NEVER = -1e18  # score of what is no item; its square still is a finite float32


class Wanted(NamedTuple):
    """What an export is to hold."""

    formats: Sequence[str] = ("stablehlo", "safetensors")  # of manifest.FORMATS
    dtype: str = "float32"  # of the item matrices, one of precision.DTYPES
    library: str = "faiss"  # of the index
    run: pathlib.Path | None = None  # where the model lies, for the manifest and the card


DEFAULT = Wanted()


def export(trained: runs.Trained, out: pathlib.Path, wanted: Wanted = DEFAULT) -> dict:
    """Writes the export to a directory that must not exist yet, whole or not at all; returns the manifest.

    Of many processes each calls it alike, with the run as ``runs.load`` gives it; the first one writes, and all the
    rows that they hold where they share tables.
    """
    check(wanted)
    try:
        with contextlib.ExitStack() as hold:
            at = pathlib.Path()
            with processes.together("export"):
                if processes.first():
                    target = hold.enter_context(addresses.written(out, "--out", addresses.EXPORT))
                    at = hold.enter_context(locks.new_directory(target, f"--out {out}"))
                    if processes.many():
                        processes.publish("export", at.name)
            # Hosts may come to it by other paths.
            partial = at if processes.first() else files.real(out).with_name(processes.published("export", 0))
            content, manifest = _content(trained, partial, wanted), {}
            with processes.together("written", seconds=parting.LONGEST):
                if content is not None:
                    manifest = _write(trained, partial, wanted, content)
        parting.settle()
        return manifest or json.loads((out / "manifest.json").read_text())
    except FileExistsError as error:
        raise UserError(f"--out {out} was made in the meantime: choose a new directory") from error
    except OSError as error:
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


class _Content(NamedTuple):
    """What of a model an export holds, by item; arrays lie on devices, in memory or on the disk."""

    model: models.Model
    params: Mapping[str, jax.Array | np.ndarray]  # those that make queries, and all others
    item_VE: np.ndarray
    like_VE: np.ndarray | None  # of a model with a like head
    numbers: curves.Tuned | None  # likewise
    contexts: measured.Contexts | None  # with their queries, where something is measured by them


def _content(trained: runs.Trained, directory: pathlib.Path, wanted: Wanted) -> _Content | None:
    """What an export of a run holds; None where another process is to write it."""
    layout, shared = trained.layout, trained.layout.mesh.is_multi_process
    if not (processes.first() or shared):
        return None
    model, numbers = _plain(trained), curves.tuned(trained)
    rows = jax.jit(functools.partial(scoring.catalogue_rows, model))
    made = _Made(rows, jax.jit(likes.of_all) if numbers else None)
    weights = runs.evaluated(trained)
    in_one_place = layout.all_rows(made.rows, weights)
    if in_one_place is None:
        found = parted.arrays(directory, parted.Held(layout, weights, made.of))
        by_item = {name: found[name] for name in weights.tables if name in found}
        own = parts.local(weights.params)
    else:
        found = made.of(np.arange(layout.items + 1), weights)
        by_item, own = weights.tables, weights.params
    params: dict[str, jax.Array | np.ndarray] = {f"params.{name}": leaf for name, leaf in own.items()}
    params |= {f"tables.{name}": leaf for name, leaf in by_item.items()}
    params |= {ATTRIBUTES: np.asarray(trained.store.attribute_VA)}
    contexts = None
    if wanted.dtype != "float32" or "index" in wanted.formats:
        contexts = measured.validation(trained)
        contexts = contexts._replace(query_XE=_queries(model, layout, weights, contexts))
    if not processes.first():
        return None
    return _Content(model, params, found[_ITEMS], found.get(_LIKES), numbers, contexts)


class _Made(NamedTuple):
    """What matrices are made with."""

    rows: Callable[[tables.Weights], heads.Heads]
    likes: Callable[[tables.Weights], heads.Head] | None  # of a model with a like head

    def of(self, item_C: np.ndarray, weights: tables.Weights) -> dict[str, np.ndarray]:
        """Rows of both matrices of items, by name; the weights are those of these items."""
        row_CD, bias_C = self.rows(weights)
        if self.likes is None:
            return {_ITEMS: searched(row_CD, bias_C, item_C)}
        like_CD, like_bias_C = self.likes(weights)
        row_CD = np.pad(row_CD, ((0, 0), (0, like_CD.shape[1] - row_CD.shape[1])))
        like_CE = np.concatenate([like_CD, like_bias_C[:, None]], axis=1).astype(np.float32)
        like_CE[item_C == PAD] = 0.0
        return {_ITEMS: searched(row_CD, bias_C, item_C), _LIKES: like_CE}


def _write(trained: runs.Trained, directory: pathlib.Path, wanted: Wanted, content: _Content) -> dict:
    config, store = trained.config, trained.store
    formats = [name for name in manifests.FORMATS if name in {"safetensors", *wanted.formats}]
    if {"triton", "kserve"} & {*formats} and "onnx" not in formats:
        formats = [name for name in manifests.FORMATS if name in {"onnx", *formats}]
    model, params, item_VE, like_VE, numbers, contexts = content

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
    writing.safetensors(directory / manifests.PARAMS, params)
    _save(directory, manifests.EMBEDDINGS, item_VE, wanted.dtype)
    if like_VE is not None:
        _save(directory, manifests.LIKES, like_VE, wanted.dtype)
    shutil.rmtree(directory / parted.FOLDER, ignore_errors=True)
    shutil.copyfile(store.path / "items.parquet", directory / "items.parquet")
    told = pq.read_table(store.path / "stations.parquet")
    told = told.append_column(heard.COLUMN, stations.most_heard(store))
    pq.write_table(told, directory / "stations.parquet")
    signature = signatures.of(config.data.length, item_VE.shape[1], likes=like_VE is not None)
    more: dict[str, object] = {}
    if contexts is not None:
        more = _measured(directory, formats, wanted, contexts, (item_VE, like_VE))
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
    return np.pad(h_XD, ((0, 0), (0, 1)), constant_values=1.0), searched(
        row_VD, bias_V, np.arange(len(row_VD))
    )


def _save(directory: pathlib.Path, name: str, item_VE: np.ndarray, dtype: str) -> None:
    """Writes a matrix in a type, and its scales where it has some, some rows at a time."""
    V, E = item_VE.shape
    with contextlib.ExitStack() as hold:
        width = E if dtype == "float32" else E - 1
        put = hold.enter_context(writing.npy(directory / name, (V, width)))
        scales = directory / manifests.scales(name)
        put_scales = None if dtype == "float32" else hold.enter_context(writing.npy(scales, (V, 2)))
        for rows_CE in writing.runs(item_VE):
            found = precision.packed(rows_CE, dtype)
            put(found.matrix)
            if put_scales and found.scales_V2 is not None:
                put_scales(found.scales_V2)


def _queries(
    model: models.Model, layout: Layout, weights: tables.Weights, contexts: measured.Contexts
) -> np.ndarray:
    """query_XE of contexts, a part at a time."""
    hidden = sharding.jit(
        functools.partial(scoring.hidden, model, layout), out_shardings=sharding.replicated(layout.mesh)
    )
    parts = []
    for first in range(0, len(contexts.item_XL), measured.TOGETHER):
        some = [leaf[first : first + measured.TOGETHER] for leaf in contexts[:3]]
        missing = min(measured.TOGETHER, len(contexts.item_XL)) - len(some[0])
        filled = [np.pad(leaf, ((0, missing), (0, 0))) for leaf in some]
        h_BD = np.asarray(hidden(weights, scoring.Seen(*map(jnp.asarray, filled))))[: len(some[0])]
        parts.append(np.pad(h_BD, ((0, 0), (0, 1)), constant_values=1.0))
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


def searched(row_CD, bias_C, item_C: np.ndarray) -> np.ndarray:
    """item_CE of an index: rows as they are scored and then their biases, where that of PAD can win no search."""
    item_CE = np.concatenate([row_CD, bias_C[:, None]], axis=1).astype(np.float32)
    item_CE[item_C == PAD] = 0.0
    item_CE[item_C == PAD, -1] = NEVER
    return item_CE


def _under(flat, prefix):
    return {name.removeprefix(prefix): leaf for name, leaf in flat.items() if name.startswith(prefix)}
