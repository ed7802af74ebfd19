"""What the processes of one job must have alike, before the first step: versions, config and store.

Processes of different configs would train a model that nobody asked for, or wait for each other for ever.
"""

import dataclasses
import platform
from importlib import metadata

import jax

from jaxneg import files
from jaxneg.config import Config
from jaxneg.data import stores
from jaxneg.files import documents
from jaxneg.training import processes, runs

PACKAGES = ("jax", "jaxlib", "numpy", "flax", "optax")
SETTINGS = (
    "jax_enable_x64",
    "jax_default_matmul_precision",
    "jax_default_prng_impl",
    "jax_threefry_partitionable",
)
# What each host may have for itself: where its store lies is no part of what the store is.
OWN = ("data.store",)


def of_config(config: Config) -> dict[str, str]:
    """Versions, settings of JAX and every field of the config that all must share, by name."""
    found = {"jaxneg": documents.VERSION, "Python": ".".join(platform.python_version_tuple()[:2])}
    found |= {name: metadata.version(name) for name in PACKAGES}
    found |= {name: str(getattr(jax.config, name, None)) for name in SETTINGS}
    for part, values in dataclasses.asdict(config).items():
        for name, value in values.items():
            if f"{part}.{name}" not in OWN:
                found[f"--{part}.{name}".replace("_", "-")] = str(value)
    return found


def of_store(store: stores.Store) -> dict[str, str]:
    """Checksums of a store's files, by name; of parts of the large ones."""
    names = sorted({"metadata.json", *store.metadata.files})
    return {f"{name} of the store": files.fingerprint(store.path / name)[:16] for name in names}


def check(config: Config) -> None:
    """Raises UserError on every process unless all have the versions, settings and config of the first one."""
    processes.agree("config", of_config(config))


def check_run(trained: runs.Trained) -> None:
    """Likewise of the run that each has opened, and of its store; whatever they are called there."""
    if processes.many():
        step = {"best step of the run": str(trained.result["best_step"])}
        processes.agree("run", step | of_store(trained.store))
