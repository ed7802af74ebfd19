"""A run directory is claimed for an experiment: made, or found to be one of the same."""

import contextlib
import json
import math
import pathlib
from collections.abc import Generator

from jaxneg import errors, files
from jaxneg.config import Config, Effect, saved
from jaxneg.data import raw_ids, stores
from jaxneg.errors import UserError
from jaxneg.files import addresses, documents
from jaxneg.training import checkpoint, origin, parting, processes, records, runs

# What must stay between the parts of a continued run, as it changes what the run computes.
FIXED = (Effect.DATA, Effect.TRAINING, Effect.MODEL)


@contextlib.contextmanager
def held(workdir: str | pathlib.Path) -> Generator[pathlib.Path]:
    """The local directory of a run, while it is trained; of an address what stands for it there.

    Of many processes the first one holds it, and puts what was written once all are done; the others, which are to be
    on its machine, write to the same.
    """
    if not processes.many() or isinstance(files.given(workdir, "--workdir"), pathlib.Path):
        with addresses.held(workdir, "--workdir") as place:
            yield place
        return
    stopped: processes.Stopped | None = None
    with contextlib.ExitStack() as hold:
        with processes.together("workdir"):
            if processes.first():
                processes.publish("workdir", str(hold.enter_context(addresses.held(workdir, "--workdir"))))
        place = pathlib.Path(processes.published("workdir", 0))
        errors.SPOKEN[str(place)] = str(files.given(workdir, "--workdir"))
        try:
            with processes.together("seen"):
                if not place.is_dir():
                    raise UserError(
                        f"--workdir {workdir} is written to by way of one machine, and this is another: mount the "
                        "bucket where all hosts see it, and give that path"
                    )
            yield place
        except processes.Stopped as error:
            stopped = error  # what was saved is put, as at the end
    parting.settle()  # the first one would miss the others else
    if stopped is not None:
        raise stopped


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
