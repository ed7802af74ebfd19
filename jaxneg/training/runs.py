"""A run directory: what training leaves, and how evaluation and export read it.

config.json         the experiment, as resolved
environment.json    versions, devices, command
store.json          which catalogue and which preparation of the log it was trained on
raw_ids/            ids of the items, stations and values of attributes behind the rows of its tables
warm_start.json     which run it started from, if from one
metrics.jsonl       figures by step; tensorboard/ holds the same
heartbeat.json      the last sign of life, and how long no process was there: see ``goodput``
profile/            traces of the steps that --train.profile asked for
checkpoints/        by orbax, the two latest and the best
result.json         validation, best step, epochs to convergence: written when training ends
report.html, .md, .json, plots/ written by evaluate
"""

import functools
import hashlib
import json
import os
import pathlib
import platform
import sys
from importlib import metadata
from typing import NamedTuple, NotRequired, TypedDict

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxneg import files, models
from jaxneg.batch.forms import Form
from jaxneg.config import Config, Effect, saved
from jaxneg.data import stores
from jaxneg.embeddings import heads, layouts, sharding, tables
from jaxneg.errors import UserError
from jaxneg.files import documents
from jaxneg.training import catalogue, checkpoint, compiled, program, records, scoring, steps

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")


AGAIN = "train again in a new --workdir"
# What training writes into the directory of a run.
WRITTEN = (
    "config.json",
    "environment.json",
    "store.json",
    "warm_start.json",
    "metrics.jsonl",
    "heartbeat.json",
    "result.json",
)
FOLDERS = ("checkpoints", "tensorboard", "profile", "raw_ids")


class TrainedOn(TypedDict):
    """What store.json holds at least."""

    catalogue: str
    preparation: NotRequired[str]
    store: str


class Trained(NamedTuple):
    """A trained model, ready to score: the best checkpoint of a run."""

    config: Config
    store: stores.Store
    model: models.Model
    state: steps.State  # its tables by item, unless devices share them
    result: records.Result  # contents of result.json
    layout: layouts.Layout
    shared: bool = False  # what ``load`` was asked for


def catalogue_id(store: stores.Store) -> str:
    """A checksum of the catalogue: runs and stores that share it agree on every row."""
    return hashlib.sha256((store.path / "items.parquet").read_bytes()).hexdigest()


def preparation_id(store: stores.Store) -> str:
    """A checksum of all that a store holds: two preparations of a log that differ in anything differ in it."""
    sums = store.metadata.sums or {  # before format version 3 there were none
        name: files.fingerprint(store.path / name) for name in store.metadata.files
    }
    text = json.dumps([sorted(sums.items()), sorted(store.metadata.polarity.items())])
    return hashlib.sha256(text.encode()).hexdigest()


def preparation_of(directory: pathlib.Path) -> str | None:
    """The checksum of the store that a run was trained on; None where it does not say."""
    return _trained_on(directory).get("preparation")


def ended(directory: pathlib.Path) -> records.Result | None:
    """Contents of the result.json of a run; None where it has not ended, or is being continued since."""
    result = records.left(directory)
    if result is None or not records.stands(result, read_config(directory).train.epochs, directory):
        return None
    return result


def catalogue_of(directory: pathlib.Path) -> str | None:
    """The checksum of the catalogue that a run was trained on; None if it crashed before saying so."""
    return _trained_on(directory).get("catalogue")


def _trained_on(directory: pathlib.Path) -> documents.Object:
    path = directory / "store.json"
    return documents.read(path, TrainedOn, AGAIN, more=True) if os.path.lexists(path) else {}


def environment() -> dict[str, object]:
    """What a run was made with."""
    return {
        "jaxneg": documents.VERSION,
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in PACKAGES},
        "platform": platform.platform(),
        "processes": jax.process_count(),
        "devices": [f"{device.platform}:{device.id} {device.device_kind}" for device in jax.devices()],
        "command": sys.argv,
    }


def warn_slow_gpu() -> str | None:
    """One line where this jaxlib takes embedding gradients far too slowly on the GPU it finds, else None."""
    version = tuple(int(part) for part in metadata.version("jaxlib").split(".")[:3])
    if jax.default_backend() == "gpu" and (0, 10, 2) <= version < (0, 11, 1):
        return (
            f"jaxlib {metadata.version('jaxlib')} takes embedding gradients 450 to 2,000 times too slowly on GPUs: "
            "use Python 3.12 or newer with jax 0.11.1 or newer (pip install 'jaxneg[cuda13]')"
        )
    return None


def read_config(directory: pathlib.Path) -> Config:
    """The config of a run. Raises UserError if the directory is none."""
    path = directory / "config.json"
    if not path.is_file():
        raise UserError(
            f"{directory} is no run directory (it has no config.json): give the --workdir of jaxneg train"
        )
    try:
        config = saved.from_json(json.dumps(documents.read(path, dict, AGAIN, seal=False)), directory)
        documents.read(path, dict, AGAIN)
    except UserError as error:
        raise error if str(path) in str(error) else UserError(f"{path}: {error}") from error
    return config


def load(
    directory: pathlib.Path, config: Config | None = None, *, shared: bool = False, step: int | None = None
) -> Trained:
    """The best checkpoint of a run, or another, with its store.

    Raises UserError where something is missing or does not fit.

    Args:
      directory: of the run.
      config: instead of the run's own, to evaluate otherwise or to name a store that has moved.
      shared: leave tables whose rows devices shared in training on as many devices, where there are; else they come
        whole, for one device of this process.
      step: of the checkpoint, instead of the best one.
    """
    config = config or read_config(directory)
    if changed := saved.changes(read_config(directory), config, (Effect.MODEL,)):
        told = "; ".join(map(str, changed))
        raise UserError(f"{directory} was trained otherwise ({told}): leave out these options")
    result = ended(directory)
    if result is None:
        raise UserError(f"run {directory} has not ended: continue it with jaxneg train")
    with stores.named(f"run {directory} was trained on it"):
        store = stores.Store.open(config.data.store)
    if catalogue_id(store) != catalogue_of(directory):
        raise UserError(
            f"store {config.data.store} has another catalogue than run {directory} was trained on"
        )
    compiled.keep()
    mesh = _mesh(config, shared)
    asked, shared = shared, mesh is not None
    mesh = mesh or sharding.mesh_of(jax.local_devices()[:1])
    built = program.build(config, program.catalogue_of(store), mesh)
    state = restored(directory, built.state, result["best_step"] if step is None else step)
    layout = built.layout
    if not shared:
        by_item = jax.tree.map(jnp.asarray, layout.by_item(state.tables))
        state, layout = state._replace(tables=by_item), layouts.Whole(mesh, store.items)
    return Trained(config, store, built.model, state, result, layout, asked)


def _mesh(config: Config, shared: bool) -> Mesh | None:
    """Devices that share the rows of tables as in training; None where one of this process is to have them whole.

    Of many processes each has devices of its own where these can share the rows, else all share theirs.
    """
    shards, devices, local = config.train.shards, jax.devices(), jax.local_devices()
    if not shared or shards == 1:
        return None
    if len(devices) > len(local):
        found = local if len(local) % shards == 0 else devices
        return sharding.mesh_of(found, shards) if len(found) % shards == 0 else None
    count = config.train.devices or len(devices)
    fits = count <= len(devices) and count % shards == 0
    return sharding.make_mesh(count, shards) if fits else None


def restored(directory: pathlib.Path, abstract: steps.State, step: int) -> steps.State:
    """The state in a checkpoint of a run. Raises UserError where it is missing or damaged.

    Args:
      directory: of the run, which is left as it is.
      abstract: shapes, dtypes and shardings.
      step: of the checkpoint.
    """
    if not (directory / "checkpoints" / str(step)).is_dir():
        raise UserError(f"checkpoint {step} of {directory} is missing: train again in a new --workdir")
    checkpoints = checkpoint.Checkpointer(directory / "checkpoints", read_only=True)
    try:
        found = checkpoints.restore(abstract, step)
    except UserError as error:
        raise UserError(f"{error}: {AGAIN}") from error
    finally:
        checkpoints.close()
    assert found is not None  # a step was named
    if found[1].get("step") != step:
        raise UserError(f"checkpoint {step} of {directory} is of another step: {AGAIN}")
    return found[0]


def evaluated(trained: Trained) -> tables.Weights:
    """The weights that are measured, as they lie on the devices."""
    by_row_VA = trained.layout.by_row(np.asarray(trained.store.attribute_VA))
    return steps.evaluated(trained.state, sharding.put(by_row_VA, trained.layout.mesh, "VA"))


def catalogue_score(trained: Trained, form: Form = catalogue.RANK) -> catalogue.CatalogueScore:
    """A score function for evaluate: each example's context against the whole catalogue, in a serving form.

    Raises UserError where the form needs a like head and the model has none.
    """
    return catalogue.CatalogueScore(trained.model, trained.layout, evaluated(trained), form)


def catalogue_rows(trained: Trained) -> heads.Heads | None:
    """Rows of the items as they are ranked, item_VD, and their biases; None where no one place holds them."""
    rows = functools.partial(scoring.catalogue_rows, trained.model)
    return trained.layout.all_rows(rows, evaluated(trained))
