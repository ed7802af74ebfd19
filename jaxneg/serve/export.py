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
    manifest.json          versions, shapes, feedback codes, a SHA-256 of every other file and one of itself

E is the model's width + 1: a query ends in 1, and the last column of a row is the item's bias, 0 in a model that has
none, so that any maximum inner product index serves the model as it is. That of the padding row is ``NEVER``. Leave
row 0 out of an index that quantises rows or joins them by distance, where one so far away makes the others alike.

With a like head one index of rows [v; w], both matrices side by side, serves three forms: the query [q; 0] ranks,
[0; q] judges and [q; beta q] gives their sum. ``serve.demotion`` has the fourth.
"""

import dataclasses
import functools
import json
import pathlib
import shutil
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow.parquet as pq
from jax import export as jax_export
from safetensors import SafetensorError, numpy as safetensors

from jaxneg import files
from jaxneg.batch import FEEDBACK, PAD, forms
from jaxneg.embeddings import tables
from jaxneg.errors import UserError
from jaxneg.files import arrays, documents, locks
from jaxneg.serve import heard, manifest as manifests, stations
from jaxneg.training import curves, likes, program, runs, scoring, steps

PLATFORMS = ("cpu", "cuda", "tpu")
ATTRIBUTES = "attribute_VA"  # the catalogue's attributes among the parameters
SCORE = ("output_VD", "bias_V", "like_VD", likes.BIAS, likes.ROW)  # what scores and makes no query
NEVER = -1e18  # score of what is no item; its square still is a finite float32


def export(trained: runs.Trained, out: pathlib.Path) -> dict:
    """Writes the export to a directory that must not exist yet, whole or not at all; returns the manifest."""
    target = files.local(out, "--out")
    try:
        with locks.new_directory(target, f"--out {out}") as partial:
            return _write(trained, partial)
    except FileExistsError as error:
        raise UserError(f"--out {out} was made in the meantime: choose a new directory") from error
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"cannot write {out}: {reason}") from error


def _write(trained: runs.Trained, directory: pathlib.Path) -> dict:
    config, store = trained.config, trained.store
    # Plain attention, with the same parameters, runs anywhere; fused may be a kernel of the machine at hand.
    plain = dataclasses.replace(config, model=dataclasses.replace(config.model, attention="plain"))
    model = program.build_model(plain, program.catalogue_of(store))
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
    exported = jax_export.export(jax.jit(query), platforms=PLATFORMS)(shapes, history, history, history)
    (directory / "model.stablehlo").write_bytes(exported.serialize())
    safetensors.save_file(
        {name: np.asarray(leaf) for name, leaf in params.items()}, directory / "params.safetensors"
    )
    # safetensors writes for the owner alone; the umask decides, as it did for the file before.
    shutil.copymode(directory / "model.stablehlo", directory / "params.safetensors")

    row_VD, bias_V = jax.jit(functools.partial(scoring.catalogue_rows, model))(weights)
    numbers, like = curves.tuned(trained), None
    if numbers:
        like = jax.jit(likes.of_all)(weights)
        row_VD = np.pad(row_VD, ((0, 0), (0, like[0].shape[1] - row_VD.shape[1])))
    item_VE = searched(row_VD, bias_V)
    np.save(directory / manifests.EMBEDDINGS, item_VE)
    if like:
        like_VE = np.concatenate([like[0], like[1][:, None]], axis=1).astype(np.float32)
        like_VE[PAD] = 0.0
        np.save(directory / manifests.LIKES, like_VE)
    shutil.copyfile(store.path / "items.parquet", directory / "items.parquet")
    told = pq.read_table(store.path / "stations.parquet")
    told = told.append_column(heard.COLUMN, stations.most_heard(store))
    pq.write_table(told, directory / "stations.parquet")

    manifest = {
        "format": manifests.WITH_LIKES if numbers else manifests.FORMAT,
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
        "files": {path.name: arrays.sha256(path) for path in sorted(directory.iterdir())},
    }
    manifest = documents.sealed(manifest)
    (directory / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")
    return manifest


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
