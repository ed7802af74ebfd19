#!/usr/bin/env python
"""Trains on a Ray cluster by Ray Train's JaxTrainer, which starts a worker per TPU host or GPU and joins them for JAX.

    python launch/ray_train.py CONFIG --workdir /data/runs/mine --workers 4 --tpu TPU-V6E --topology 4x4 -- OPTIONS
    python launch/ray_train.py CONFIG --workdir /data/runs/mine --workers 8 --gpu -- --data.store /data/stores/mine

Needs Ray 2.50 or newer (pip install 'ray[train]') beside jaxneg on every node, and a run directory that all nodes see.
What follows -- are options of jaxneg train. Ray starts all workers again when one fails, and they continue.
"""

import argparse
import pathlib
import sys
from typing import Any


def train(settings: dict[str, Any]) -> None:
    """What each worker runs, once Ray has joined them."""
    import jax

    from jaxneg import config as configs
    from jaxneg.training import loop as training

    config = configs.override(configs.load(settings["config"]), settings["options"])
    result = training.train(config, pathlib.Path(settings["workdir"]))
    if jax.process_index() == 0:
        print(f"{settings['workdir']}: {result['stopped']} after {result['steps']} steps")


def main() -> None:
    parser = argparse.ArgumentParser(description="Trains on a Ray cluster.")
    parser.add_argument("config", help="Python file with get_config() -> Config, as every worker sees it")
    parser.add_argument("--workdir", required=True, help="run directory that all workers see")
    parser.add_argument("--workers", type=int, default=1, help="TPU hosts or GPUs")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--tpu", metavar="TYPE", help="accelerator type as Ray names it, as TPU-V6E")
    where.add_argument("--gpu", action="store_true")
    parser.add_argument("--topology", help="of the TPU slice, as 4x4")
    parser.add_argument("--restarts", type=int, default=10, help="times to start all again when one is lost")
    parser.epilog = "What follows -- are options of jaxneg train."
    words = sys.argv[1:]
    at = (
        words.index("--") if "--" in words else len(words)
    )  # argparse takes no second list of words after options
    asked, options = parser.parse_args(words[:at]), words[at + 1 :]
    # Imported here, so that workers need only what they run.
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.v2.jax import JaxTrainer

    if asked.tpu:
        scaling = ScalingConfig(
            use_tpu=True, num_workers=asked.workers, topology=asked.topology, accelerator_type=asked.tpu
        )
    else:
        scaling = ScalingConfig(use_gpu=True, num_workers=asked.workers)
    settings = {"config": asked.config, "workdir": asked.workdir, "options": options}
    environment = {"env_vars": {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}}
    JaxTrainer(
        train,
        train_loop_config=settings,
        scaling_config=scaling,
        run_config=RunConfig(
            failure_config=FailureConfig(max_failures=asked.restarts), worker_runtime_env=environment
        ),
    ).fit()


if __name__ == "__main__":
    main()
