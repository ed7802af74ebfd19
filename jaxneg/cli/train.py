"""``jaxneg train``: a model is trained on a store, or a run continued."""

import contextlib
import logging
import pathlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import tyro

from jaxneg import callbacks, progress
from jaxneg.cli import commands
from jaxneg.config import Config, fields
from jaxneg.errors import UserError
from jaxneg.files import addresses
from jaxneg.training import records


@dataclass(frozen=True)
class Train(commands.Joined, commands.Configured):
    """Trains a model on a store, or continues a run. Every field of CONFIG is an option; its values are the
    defaults."""

    PLACE: ClassVar[str] = "config"
    COMMON: ClassVar[tuple[str, ...]] = (
        "--data.store",
        "--data.length",
        "--data.batch-size",
        "--data.p-hard",
        "--data.negatives",
        "--model.encoder",
        "--model.width",
        "--model.layers",
        "--loss.name",
        "--optim.learning-rate",
        "--optim.warmup-steps",
        "--train.epochs",
        "--train.patience",
        "--train.monitor",
        "--train.seed",
        "--from",
    )

    config: tyro.conf.Positional[Annotated[pathlib.Path, commands.path("CONFIG")]] = commands.REQUIRED
    """Python file with get_config() -> Config."""
    workdir: Annotated[pathlib.Path, commands.path("RUN")] = commands.REQUIRED
    """Run directory: made if new, continued exactly if not."""
    log: Annotated[
        tuple[Literal["tensorboard", "wandb", "mlflow"], ...], fields.option("LOGGER ...", "none")
    ] = ()
    """Where figures go beside metrics.jsonl: tensorboard, wandb, mlflow; TensorBoard's file is also written unasked."""

    def run(self) -> None:
        from jaxneg.training import logs

        told = callbacks.Callbacks(self.log)
        with told.around(), logs.also(told):
            self._run(told)

    def _run(self, told: callbacks.Callbacks) -> None:
        config = self.experiment
        from jaxneg.data import stores
        from jaxneg.embeddings import sharding
        from jaxneg.training import goodput, loop, processes, runs

        self.join()
        sharding.share_cores(config.train.devices)
        _quiet()
        _warn(config)
        try:
            before = None
            with contextlib.suppress(UserError):  # training says it
                before = runs.ended(addresses.listed(self.workdir, "--workdir"))
            store = stores.named(f"{self.config} or --data.store says so")
            with store, progress.Steps("train") as steps, processes.Terminate() as stop:
                on_progress = steps if processes.first() else progress.silent
                result = loop.train(config, self.workdir, on_progress, stop, progress.say, goodput.launched())
        except processes.Stopped as stopped:
            if processes.first():
                progress.say(f"{self.workdir}: {stopped} and saved; the same command continues")
            if processes.many():
                processes.leave(stopped.code)
            sys.exit(stopped.code)
        except processes.Differs as error:
            if error.here:
                progress.say(
                    f"jaxneg: {error}: start all again, and they continue from the last checkpoint; without that host "
                    "where it is named again"
                )
            processes.leave(processes.LOST, by_all=True)
        told.end(result)
        if processes.first():
            self._say(result, before)

    def _say(self, result: records.Result, before: records.Result | None) -> None:
        from jaxneg.cli import endings

        if liked := result.get("hard_also_liked"):  # older results lack it
            progress.say(
                f"{self.workdir}: {liked:.1%} of the hard negatives are songs that their listener likes elsewhere in "
                "training; --data.hard-opinion says what counts of them"
            )
        progress.say(endings.trained(addresses.listed(self.workdir, "--workdir"), result, before))


def _quiet() -> None:
    """What orbax raises it logs as well, traceback and all; its event loop tells of what was then undone."""
    for name in ("absl", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


def _warn(config: Config) -> None:
    """Of what makes training slow, once for all processes."""
    from jaxneg.data import audit, stores
    from jaxneg.training import processes, runs

    if not processes.first():
        return
    if warning := runs.warn_slow_gpu():
        progress.say(f"jaxneg: {warning}")
    # Of a store that is not there training says it.
    with contextlib.suppress(UserError):
        store = stores.Store.open(config.data.store)
        if warning := audit.warn_beyond_memory(store, config.data):
            progress.say(f"jaxneg: {warning}")


def parse(args: Sequence[str]) -> Train:
    return commands.with_config(Train, args, "train", commands.read_config)
