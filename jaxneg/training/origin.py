"""The run that another one starts from: whether their models agree, and which rows of its tables are of the same ids.

What both must have alike is the model. Stores, losses, optimisers, devices and all else may differ.
"""

import dataclasses
import pathlib
from typing import NamedTuple

import numpy as np

from jaxneg import errors, figures, files
from jaxneg.config import Config, Effect, saved
from jaxneg.data import raw_ids, stores
from jaxneg.errors import UserError
from jaxneg.files import addresses, arrays
from jaxneg.training import program, records, runs

OPTION = "--from"
# What is of the model and may differ all the same: the arrays that it is made of stay what they are.
FREE = {
    *("model.dropout", "model.dropout_attention", "model.row_scale", "model.bias_prior", "model.dtype"),
    *("model.residual", "model.attention", "model.remat", "data.inputs", "optim.average"),
}
STATION = "inputs.station"
KEPT = "raw_ids"  # directory of a run


class Coded(NamedTuple):
    """Where the rows of a parameter come from."""

    name: str  # of the old parameter
    row_R: np.ndarray  # int32, its row for each row of the new one; 0 for none


class Origin(NamedTuple):
    """A run that has ended, and how another catalogue is made of its own."""

    path: pathlib.Path
    config: Config
    step: int  # of the checkpoint
    catalogue: program.Catalogue
    item_V: np.ndarray  # int32, by new item the item that it was; 0 for none
    coded: dict[str, Coded]  # by parameter that has rows for codes
    told: records.StartedFrom


def of(config: Config, store: stores.Store, workdir: pathlib.Path) -> Origin | None:
    """The run that a config names; None where it names none, or the run in ``workdir`` has begun already.

    Raises UserError where there is no run that has ended, its model is another one, or nobody knows its raw ids.
    """
    if not config.train.warm_start or files.numbered(workdir / "checkpoints"):
        return None
    path = addresses.run(config.train.warm_start, OPTION)
    if files.real(path) == files.real(workdir):
        raise UserError(f"{OPTION} {path} is the --workdir itself: leave it out to continue the run")
    if not path.is_dir():
        raise UserError(f"{OPTION} {path}: no such directory: give the --workdir of a run that has ended")
    old, result = runs.read_config(path), runs.ended(path)
    if result is None:
        raise UserError(f"{OPTION}: run {path} has not ended: continue it with jaxneg train first")
    step = result["best_step"]
    if not (path / "checkpoints" / str(step)).is_dir():
        raise UserError(f"{OPTION}: checkpoint {step} of {path} is missing: start from another run")
    was, now = ids_of(path, old), raw_ids.read(store.path)
    _check(path, (old, was), (config, now))
    item_V = was.items.rows(now.items)
    coded = _coded(config, was, now)
    told = _told((path, result), config, store, item_V)
    if not told["items_carried"]:
        raise UserError(
            f"{OPTION}: no item of {config.data.store} was in the catalogue of {path} (it has items as "
            f"{_some(was.items)}, the store {_some(now.items)}): prepare the log with ids as before"
        )
    catalogue = program.Catalogue(len(was.items), len(was.stations), tuple(map(len, was.attributes.values())))
    return Origin(path, old, step, catalogue, item_V, coded, told)


def ids_of(path: pathlib.Path, config: Config) -> raw_ids.RawIds:
    """The raw ids behind the rows of a run, which it keeps; those of its store, where it is of an earlier version."""
    for place in (path / KEPT, pathlib.Path(config.data.store)):
        items = place / raw_ids.ITEMS
        if items.is_file() and arrays.sha256(items) == runs.catalogue_of(path):
            return raw_ids.read(place)
    raise UserError(
        f"run {path} does not say whose rows its tables have: it keeps no raw ids, and its store {config.data.store} "
        f"is gone, or another: copy {raw_ids.ITEMS} and {raw_ids.STATIONS} of an export of it to {path / KEPT}"
    )


def _check(
    path: pathlib.Path, old: tuple[Config, raw_ids.RawIds], new: tuple[Config, raw_ids.RawIds]
) -> None:
    """Raises UserError where the models of two configs, over logs with such ids, are not alike."""
    (was, its), (now, own) = old, new
    alike = {one.field for one in saved.changes(_essence(was), _essence(now), (Effect.MODEL,))} - FREE
    changed = [str(one) for one in saved.changes(was, now, (Effect.MODEL,)) if one.field in alike]
    names = [", ".join(sorted(ids.attributes)) or "none" for ids in (its, own)]
    if (now.model.attributes or now.model.output_attributes) and names[0] != names[1]:
        changed.append(f"attributes of the log: {names[0]} -> {names[1]}")
    if changed:
        raise UserError(
            f"{OPTION}: run {path} has another model ({'; '.join(changed)}): give the same, or train anew without "
            f"{OPTION}"
        )


def _essence(config: Config) -> Config:
    """The config with one value for all that make the same arrays."""
    model, data, like = config.model, config.data, config.like
    bias = "none" if model.item_bias == "none" else "zero"
    model = dataclasses.replace(model, item_bias=bias, feed_forward=model.feed_forward or model.width)
    data = dataclasses.replace(data, mask=0.5 if data.mask else 0.0)
    like = dataclasses.replace(like, weight=float(like.weight > 0), rows=like.rows if like.weight else "own")
    return dataclasses.replace(config, model=model, data=data, like=like)


def _coded(config: Config, was: raw_ids.RawIds, now: raw_ids.RawIds) -> dict[str, Coded]:
    """Parameters with rows for codes, as ``models.inputs`` names them."""
    found: dict[str, Coded] = {}
    if config.model.station and len(was.stations) and len(now.stations):
        found[STATION] = Coded(STATION, was.stations.rows(now.stations))
    before = list(was.attributes)
    for k, (name, values) in enumerate(now.attributes.items()):
        if name in before:
            row_R = was.attributes[name].rows(values)
            for of in ("attribute", "output_attribute"):
                found[f"inputs.{of}{k}"] = Coded(f"inputs.{of}{before.index(name)}", row_R)
    return found


def _told(
    run: tuple[pathlib.Path, records.Result], config: Config, store: stores.Store, item_V: np.ndarray
) -> records.StartedFrom:
    """What is carried, of what."""
    (path, result), count, carried = run, store.vocabulary().count, item_V[1:] > 0
    return {
        "run": errors.spoken(str(path)),
        "catalogue": runs.catalogue_of(path) or "",
        "step": result["best_step"],
        "monitor": result["monitor"],
        "score": result["best_score"],
        "optimizer": config.train.warm_optimizer,
        "items": store.items,
        "items_carried": int(carried.sum()),
        "events_carried": float(count[carried].sum() / max(count.sum(), 1)),
    }


def _some(ids: raw_ids.Ids) -> str:
    return " ".join(one[:20] for one in ids.first(2))


def spoken(told: records.StartedFrom) -> str:
    """ "runs/monday at step 120 (pair accuracy 0.61): 950 of 1,000 items, 97.2% of the training events"."""
    return (
        f"{told['run']} at step {told['step']:,} (validation {figures.title(told['monitor'])} {told['score']:.4f}); "
        f"{told['items_carried']:,} of {told['items']:,} items were there, with {told['events_carried']:.1%} of the "
        "training events"
    )
