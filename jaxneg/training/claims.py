"""A run directory is claimed for an experiment: made, or found to be one of the same."""

import json
import math
import pathlib

from jaxneg import files
from jaxneg.config import Config, Effect, saved
from jaxneg.data import raw_ids, stores
from jaxneg.errors import UserError
from jaxneg.files import documents
from jaxneg.training import checkpoint, origin, records, runs

# What must stay between the parts of a continued run, as it changes what the run computes.
FIXED = (Effect.DATA, Effect.TRAINING, Effect.MODEL)


def claim(
    config: Config,
    store: stores.Store,
    workdir: pathlib.Path,
    per_epoch: int,
    start: records.StartedFrom | None = None,
) -> None:
    """Makes a run directory of the config, or checks that it is one of the same experiment.

    Args:
      config: the experiment.
      store: that it trains on.
      workdir: the directory.
      per_epoch: steps of an epoch.
      start: what is told of the run that a new one starts from.
    """
    files.check_free(workdir, runs.WRITTEN, runs.FOLDERS)
    catalogue = runs.catalogue_id(store)
    if (workdir / "config.json").is_file():
        old = runs.read_config(workdir)
        changed = [str(change) for change in saved.changes(old, config, FIXED)]
        if old.train.epochs != config.train.epochs and config.optim.decay != "constant":
            changed.append(
                f"train.epochs: {old.train.epochs} -> {config.train.epochs} (the learning rate decays over it)"
            )
        if changed:
            raise UserError(
                f"{workdir} holds another experiment ({'; '.join(changed)}): choose a new --workdir"
            )
        if runs.catalogue_of(workdir) not in (None, catalogue):
            raise UserError(
                f"{workdir} was trained on another catalogue than {config.data.store}: choose a new --workdir"
            )
        if runs.preparation_of(workdir) not in (None, runs.preparation_id(store)):
            raise UserError(
                f"{workdir} was trained on another preparation of the log than {config.data.store} now is: give "
                "--data.store the one of before, or choose a new --workdir"
            )
        trained = checkpoint.latest(workdir / "checkpoints") / per_epoch
        if config.train.epochs < trained:
            raise UserError(
                f"--train.epochs {config.train.epochs} is fewer than the {trained:.4g} epochs that {workdir} was "
                f"trained for: give {math.ceil(trained)} or more, or choose a new --workdir"
            )
        _check_start(config, workdir)
    check_vacant(workdir)
    # First, as it makes the claim: what stops it leaves nothing, or a run that can be continued.
    files.write_json(workdir / "config.json", documents.sealed(json.loads(saved.to_json(config))))
    identity = {"catalogue": catalogue, "preparation": runs.preparation_id(store), "store": config.data.store}
    files.write_json(workdir / "store.json", documents.sealed(identity))
    if start is not None:
        files.write_json(workdir / records.WARM, documents.sealed(start))
    elif not config.train.warm_start:  # perhaps one is left that did not come to its first checkpoint
        (workdir / records.WARM).unlink(missing_ok=True)
    raw_ids.keep(store, workdir / origin.KEPT)
    files.write_json(workdir / "environment.json", runs.environment())


def _check_start(config: Config, workdir: pathlib.Path) -> None:
    """Raises UserError where a run that has begun did not start from the run that the config names."""
    told, asked = records.started_from(workdir), config.train.warm_start
    if not files.numbered(workdir / "checkpoints"):
        return
    if told is None and asked:
        raise UserError(
            f"{workdir} holds a run that began anew: leave out {origin.OPTION}, or choose a new --workdir"
        )
    if told is not None and files.real(told["run"]) != files.real(asked or workdir):
        instead = f", not from {asked}" if asked else ""
        raise UserError(
            f"{workdir} was started from {told['run']}{instead}: give {origin.OPTION} {told['run']}, or choose a new "
            "--workdir"
        )


def check_vacant(workdir: pathlib.Path) -> None:
    """Raises UserError on a directory that is neither new nor a run's."""
    if not (workdir / "config.json").is_file() and not files.vacant(workdir):
        raise UserError(f"--workdir {workdir} exists and is no run directory: choose a new one")


def check_shared(workdir: pathlib.Path) -> None:
    """Raises UserError where this process does not see the run that the first one has claimed."""
    if not (workdir / "store.json").is_file():
        raise UserError(f"--workdir {workdir} is not there: give one on a file system that all hosts share")
