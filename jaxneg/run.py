"""A run directory: what training leaves, and how evaluation and export read it.

config.json         the experiment, as resolved
environment.json    versions, devices, command
store.json          which catalogue it was trained on
metrics.jsonl       figures by step; tensorboard/ holds the same
checkpoints/        by orbax, the two latest and the best
result.json         validation, best step, epochs to convergence: written when training ends
report.md, report.json, plots/   written by evaluate
"""

import hashlib
import json
import pathlib
import platform
import sys
from collections.abc import Callable
from importlib import metadata
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxneg
from jaxneg import checkpoint, config as configs, models, program, sharding, step as steps
from jaxneg.batch import EvalBatch
from jaxneg.config import Config, UserError
from jaxneg.data import store as stores

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")


class Trained(NamedTuple):
    """A trained model, ready to score: the best checkpoint of a run."""

    config: Config
    store: stores.Store
    model: models.Model
    state: steps.State
    result: dict[str, Any]  # contents of result.json


def catalogue_id(store: stores.Store) -> str:
    """A checksum of the catalogue: runs and stores that share it agree on every row."""
    return hashlib.sha256((store.path / "items.parquet").read_bytes()).hexdigest()


def catalogue_of(directory: pathlib.Path) -> str | None:
    """The checksum of the catalogue that a run was trained on; None if it crashed before saying so."""
    path = directory / "store.json"
    return json.loads(path.read_text())["catalogue"] if path.is_file() else None


def environment() -> dict[str, Any]:
    """What a run was made with."""
    return {
        "jaxneg": jaxneg.__version__,
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


def write_json(path: pathlib.Path, values: Any) -> None:
    """Writes a file whole or not at all."""
    partial = path.with_name(path.name + ".tmp")
    try:
        partial.write_text(json.dumps(values, indent=2) + "\n")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def read_config(directory: pathlib.Path) -> Config:
    """The config of a run. Raises UserError if the directory is none."""
    path = directory / "config.json"
    if not path.is_file():
        raise UserError(
            f"{directory} is no run directory (it has no config.json): give the --workdir of jaxneg train"
        )
    return configs.from_json(path.read_text())


def load(directory: pathlib.Path, config: Config | None = None) -> Trained:
    """The best checkpoint of a run with its store. Raises UserError where something is missing or does not fit.

    Args:
      directory: of the run.
      config: instead of the run's own, to evaluate otherwise or to name a store that has moved.
    """
    config = config or read_config(directory)
    if changed := [
        line
        for line in configs.differences(read_config(directory), config)
        if line.startswith(("model.", "data.length", "data.mask", "data.inputs", "optim.average"))
    ]:
        raise UserError(f"{directory} was trained otherwise ({'; '.join(changed)}): leave out these options")
    if not (directory / "result.json").is_file():
        raise UserError(f"run {directory} has not ended: continue it with jaxneg train")
    result = json.loads((directory / "result.json").read_text())
    store = stores.Store.open(config.data.store)
    if catalogue_id(store) != catalogue_of(directory):
        raise UserError(
            f"store {config.data.store} has another catalogue than run {directory} was trained on"
        )
    built = program.build(config, program.catalogue_of(store), sharding.make_mesh(1))
    if not (directory / "checkpoints" / str(result["best_step"])).is_dir():
        raise UserError(
            f"checkpoint {result['best_step']} of {directory} is missing: train again in a new --workdir"
        )
    checkpoints = checkpoint.Checkpointer(directory / "checkpoints", read_only=True)
    try:
        found = checkpoints.restore(built.state, result["best_step"])
    except Exception as error:
        reason = str(error).partition("\n")[0]
        raise UserError(
            f"checkpoint {result['best_step']} of {directory} cannot be read: {reason}"
        ) from error
    finally:
        checkpoints.close()
    assert found is not None  # a step was named
    return Trained(config, store, built.model, found[0], result)


def catalogue_score(trained: Trained) -> Callable[[EvalBatch], np.ndarray]:
    """A score function for evaluate: each example's context against the whole catalogue, scores_BV."""
    model = trained.model
    params, item_tables = steps.evaluated(trained.state)
    attribute_VA = jnp.asarray(trained.store.attribute_VA)
    row_VD, bias_V = jax.jit(lambda *args: steps.catalogue_rows(model, *args))(
        params, item_tables, attribute_VA
    )

    @jax.jit
    def scores(params, item_tables, row_VD, bias_V, attribute_VA, item_BL, feedback_BL, station_BL):
        h_BD = steps.last_hidden(model, params, item_tables, item_BL, feedback_BL, station_BL, attribute_VA)
        return jnp.einsum("BD,VD->BV", h_BD, row_VD) + bias_V[None]

    def score(batch: EvalBatch) -> np.ndarray:
        contexts = (batch.item_BL, batch.feedback_BL, batch.station_BL)
        return np.asarray(scores(params, item_tables, row_VD, bias_V, attribute_VA, *contexts))

    return score
