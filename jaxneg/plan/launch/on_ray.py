"""What a Ray job of ``jaxneg launch ray`` runs: trains by Ray Train, a worker for each TPU host or GPU.

    JAXNEG_RUN='["mine.py", "--workdir", "/data/runs/mine"]' \\
        python -m jaxneg.plan.launch.on_ray --workers 4 --tpu TPU-V6E --topology 4x4

Ray joins the workers for JAX. Where one is lost all start again, at most --restarts times, and the run goes on; where
one says that a person has to mend something, it ends with 2.
"""

import argparse
import importlib
import json
import os
import pathlib
import sys
from collections.abc import Sequence

from jaxneg import errors, progress
from jaxneg.errors import UserError

MEND = "to be mended by a person: "  # before the text of a UserError on its way from a worker


def work(settings: dict[str, list[str]]) -> None:
    """What each worker runs, once Ray has joined them."""
    import jax

    from jaxneg import config as configs
    from jaxneg.training import loop

    try:
        config, workdir, options = _parts(settings["words"])
        result = loop.train(configs.override(configs.load(config), options), pathlib.Path(workdir))
    except UserError as error:
        raise RuntimeError(
            f"{MEND}{errors.with_remedy(error)}"
        ) from None  # of a type that every process knows
    except Exception as error:
        if (trouble := errors.trouble(error)) is not None:
            raise RuntimeError(f"{MEND}{trouble}") from error
        raise
    if jax.process_index() == 0:
        print(f"{workdir}: {result['stopped']} after {result['steps']} steps")


def _parts(words: Sequence[str]) -> tuple[str, str, list[str]]:
    """Config, run directory and options of a call of train."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--workdir", required=True)
    known, options = parser.parse_known_args(words[1:])
    return words[0], known.workdir, options


def main(words: Sequence[str]) -> int:
    """Exit code of the job."""
    parser = argparse.ArgumentParser(prog="python -m jaxneg.plan.launch.on_ray")
    parser.add_argument("--workers", type=int, required=True)
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--tpu", metavar="TYPE", help="accelerator type as Ray names it")
    where.add_argument("--gpu", metavar="TYPE", help="the same of GPUs; empty for any")
    parser.add_argument("--topology")
    parser.add_argument("--restarts", type=int, default=10)
    asked = parser.parse_args(words)
    ray, trainer = (
        importlib.import_module("ray.train"),
        importlib.import_module("ray.train.v2.jax").JaxTrainer,
    )
    if asked.tpu:
        scaling = ray.ScalingConfig(
            use_tpu=True, num_workers=asked.workers, topology=asked.topology, accelerator_type=asked.tpu
        )
    else:
        kind = {"accelerator_type": asked.gpu} if asked.gpu else {}
        scaling = ray.ScalingConfig(use_gpu=True, num_workers=asked.workers, **kind)
    settings = {"words": json.loads(os.environ["JAXNEG_RUN"])}
    for attempt in range(asked.restarts + 1):
        # Ray's own restarts know no exit code.
        failures = ray.RunConfig(failure_config=ray.FailureConfig(max_failures=0))
        try:
            trainer(work, train_loop_config=settings, scaling_config=scaling, run_config=failures).fit()
            return 0
        except ray.TrainingFailedError as error:
            said = [str(one) for one in (error, *getattr(error, "worker_failures", {}).values())]
            for text in said:
                if MEND in text:
                    progress.say(f"jaxneg: {text.partition(MEND)[2].splitlines()[0]}")
                    return 2
            progress.say(f"jaxneg: workers are lost ({said[0].splitlines()[0]}): start {attempt + 1} is over")
    return 75


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
