"""What the directories of runs say at a glance. It needs no JAX, so that hundreds are listed in a second."""

import dataclasses
import errno
import json
import os
import pathlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NotRequired, TypedDict

from jaxneg import errors, figures, files
from jaxneg.config import Config, saved
from jaxneg.errors import UserError
from jaxneg.files import documents, locks
from jaxneg.training import convergence

State = Literal["ended", "stopped", "running", "failed", "damaged"]
AGAIN = "train again in a new --workdir"
WARM = "warm_start.json"
CONTENTS = {"store.json", "environment.json", "metrics.jsonl", "checkpoints"}  # of a run, beside config.json
# What nobody looks for runs in: files of stores and exports say what they are.
OTHERS = {"metadata.json", "manifest.json"}
SHOWN = ("pair_accuracy", "auc")  # beside the figure that decides


class StartedFrom(TypedDict):
    """What warm_start.json, and result.json with it, hold of the run that another one started from."""

    run: str  # its directory, as it was named
    catalogue: str  # a checksum of its catalogue
    step: documents.Count  # of the checkpoint
    monitor: str  # the figure that chose it
    score: float
    optimizer: bool  # whether moments came too
    items: documents.Count  # of the new catalogue
    items_carried: documents.Count
    events_carried: float  # share of the training events, of items that were there


class Result(TypedDict):
    """What result.json holds at least."""

    monitor: str
    best_score: float
    best_step: documents.Count
    steps: documents.Count
    steps_per_epoch: Annotated[int, documents.Range(1)]
    stopped: str
    seconds: float
    history: list[dict[str, float | None]]
    validation_users: NotRequired[documents.Count]
    validation_pairs: NotRequired[documents.Count]
    validation_examples: NotRequired[documents.Count]
    last_score: NotRequired[float | None]
    device_seconds: NotRequired[float]
    compile_seconds: NotRequired[float]
    wall_seconds: NotRequired[float]
    goodput: NotRequired[float]
    time_spent: NotRequired[dict[str, float]]
    hard_share: NotRequired[float]
    false_negatives: NotRequired[float | None]
    hard_also_liked: NotRequired[float | None]
    epochs_to_convergence: NotRequired[float | None]
    steps_to_convergence: NotRequired[float | None]
    sequences_to_convergence: NotRequired[float | None]
    seconds_to_convergence: NotRequired[float | None]
    not_converged: NotRequired[str | None]
    started_from: NotRequired[StartedFrom]


class Failure(TypedDict):
    """What a sweep says of a cell that failed."""

    reason: str
    trace: NotRequired[list[str]]


def failure_path(sweep: pathlib.Path, cell: str) -> pathlib.Path:
    """Where a sweep says why a cell failed."""
    return sweep / "failed" / f"{cell}.json"


def started_from(directory: pathlib.Path) -> StartedFrom | None:
    """Which run that in a directory started from; None where it began anew."""
    path = directory / WARM
    return documents.read(path, StartedFrom, AGAIN, more=True) if os.path.lexists(path) else None


def left(directory: pathlib.Path) -> Result | None:
    """What the end of a run left; None where it has not ended since it last went on. Raises UserError where damaged."""
    path = directory / "result.json"
    return documents.read(path, Result, AGAIN, more=True) if os.path.lexists(path) else None


def stands(result: Result, epochs: int, directory: pathlib.Path) -> bool:
    """Whether the result.json of a run is its end, and it was neither given more epochs nor continued since."""
    short = result["stopped"] == convergence.LIMIT and result["steps"] < epochs * result["steps_per_epoch"]
    later = max(files.numbered(directory / "checkpoints"), default=0) > result["steps"]
    return not (short or later)


@dataclass(frozen=True)
class Summary:
    """A run in a line.

    Attributes:
      path: of its directory.
      state: ended; running, while a process holds its lock; stopped, so that the same command continues it; failed, as
        the sweep says that it belongs to; damaged.
      why: why it ended or failed, who runs it, or what is damaged.
      settings: by name, as "data.p_hard"; empty where they cannot be read.
      epochs: trained.
      seconds: of training.
      history: validations, oldest first: step, epoch, figures, pairs, examples, users.
    """

    path: pathlib.Path
    state: State
    why: str = ""
    settings: documents.Object = dataclasses.field(default_factory=dict[str, object])
    epochs: float = 0.0
    seconds: float = 0.0
    history: tuple[documents.Object, ...] = ()

    @property
    def monitor(self) -> str:
        """The figure by which validation decides; empty where settings cannot be read."""
        return self.settings.get("train.monitor", "")

    @property
    def best(self) -> documents.Object:
        """The validation of the best checkpoint, the first of equal ones; empty before there is one."""
        known = [line for line in self.history if line.get(self.monitor) is not None]
        return max(known, key=lambda line: line[self.monitor]) if known else {}

    @property
    def last(self) -> documents.Object:
        """The latest validation; empty before there is one."""
        return self.history[-1] if self.history else {}

    def to_dict(self) -> documents.Object:
        """All of it for JSON, with the best and the last validation in place of the history."""
        own = {one.name: getattr(self, one.name) for one in dataclasses.fields(self) if one.name != "history"}
        derived = {"monitor": self.monitor, "best": dict(self.best), "last": dict(self.last)}
        return own | {"path": errors.spoken(str(self.path)), "settings": dict(self.settings)} | derived


def summaries(places: Sequence[pathlib.Path]) -> list[Summary]:
    """The runs in directories and below, those of sweeps too, best first; ones without a figure come last.

    Figures are compared among runs that decide by the same one. Raises UserError on a place that is none, and where
    there is no run at all.
    """
    found: dict[pathlib.Path, Summary] = {}
    for place in places:
        if not place.is_dir():
            raise UserError(f"{place} is no directory" if place.exists() else f"no such directory: {place}")
        for one in _found(place):
            found.setdefault(one.path, one)
    if not found:
        raise UserError(
            f"no run in {', '.join(map(str, places))}: give the --workdir of jaxneg train or sweep"
        )
    deciding = [one.monitor for one in found.values() if one.best]

    def order(one: Summary) -> tuple[object, ...]:
        score = one.best.get(one.monitor)
        return (score is None, -deciding.count(one.monitor), one.monitor, -(score or 0.0), str(one.path))

    return sorted(found.values(), key=order)


def summary(directory: pathlib.Path) -> Summary:
    """What a run's directory says."""
    owner = locks.holder(locks.inside(directory))
    settings: documents.Object = {}
    result, history, epochs, seconds = None, (), 0.0, 0.0
    try:
        settings = _settings(directory)
        result = _result(directory, settings)
        history, epochs, seconds = _logged(directory) if result is None else _told(result)
    except UserError as error:
        cause = error.__cause__
        if isinstance(cause, OSError) and cause.errno in (errno.EMFILE, errno.ENFILE):
            raise  # the fault of no run
        return Summary(directory, "damaged", str(error), settings, epochs, seconds, history)
    if owner is not None:
        state, why = "running", str(owner)
    elif result is not None:
        state, why = "ended", result["stopped"]
    else:
        state, why = "stopped", ""
        if directory.parent.name == "cells":
            path = failure_path(directory.parent.parent, directory.name)
            state, why = ("failed", _reason(path)) if path.is_file() else (state, why)
    return Summary(directory, state, why, settings, epochs, seconds, history)


def differing(runs: Sequence[Summary]) -> list[str]:
    """Names of the settings in which runs differ."""
    return apart([one.settings for one in runs])


def apart(settings: Sequence[documents.Object]) -> list[str]:
    """Names of the settings that differ between some; those that are empty, as they cannot be read, are left out."""
    known = [one for one in settings if one]
    names = dict.fromkeys(name for settings in known for name in settings)
    return [name for name in names if len({json.dumps(one.get(name)) for one in known}) > 1]


def spoken(runs: Sequence[Summary]) -> dict[str, str]:
    """The settings in which runs differ, with what people call them: "data.p_hard" -> "p_hard".

    Of two that have one last name and always one value, as the seeds, the first speaks for both.
    """
    chosen: dict[tuple[str, str], str] = {}
    for name in differing(runs):
        values = json.dumps([one.settings.get(name) for one in runs])
        chosen.setdefault((name.rpartition(".")[2], values), name)
    last = [short for short, _ in chosen]
    return {name: short if last.count(short) == 1 else name for (short, _), name in chosen.items()}


def progressed(
    history: Sequence[documents.Object], best_step: int, monitor: str
) -> tuple[list[tuple[object, ...]], tuple[str, ...]]:
    """Rows and heads of a table: the figures of the first validation, of the best by ``monitor`` and of the last."""
    none: documents.Object = {}
    best = next((line for line in history if line["step"] == best_step), none)
    lines = [history[0], best, history[-1]]
    names = [monitor, *(name for name in SHOWN if name != monitor and name in history[-1])]
    rows: list[tuple[object, ...]] = [("epoch", *(line.get("epoch") for line in lines))]
    rows += [(f"validation {figures.title(name)}", *(line.get(name) for line in lines)) for name in names]
    return rows, ("", "first", "best", "last")


def reached(history: Sequence[documents.Object], figure: str, target: float) -> documents.Object | None:
    """The first validation with a figure of at least ``target``; None of a run that never had it."""
    return next((line for line in history if line.get(figure) is not None and line[figure] >= target), None)


def table(
    runs: Sequence[Summary], figure: str = "", *, full: bool = False
) -> tuple[list[str], list[list[object]]]:
    """Heads and rows of runs: settings that differ, the figure at the best checkpoint and at the last, n, state.

    Args:
      runs: in the order of the rows.
      figure: of validation; else each run's own, with a column that names it where they differ.
      full: the whole names of settings, and a row's reason, as for programs.
    """
    names = {name: name for name in differing(runs)} if full else spoken(runs)
    several = not figure and len({one.monitor for one in runs if one.best}) > 1
    heads = ["run", *names.values(), *(["figure"] if several or full else [])]
    heads += ["best", "at epoch", "last", "n", "epochs", "state", *(["why"] if full else [])]
    rows: list[list[object]] = []
    for one in runs:
        name = figure or one.monitor
        row: list[object] = [errors.spoken(str(one.path)), *(one.settings.get(setting) for setting in names)]
        row += [name if full else figures.title(name)] if several or full else []
        n = one.best.get("pairs" if name in figures.OF_PAIRS else "examples")
        row += [one.best.get(name), one.best.get("epoch"), one.last.get(name)]
        row += [None if n is None else int(n), one.epochs, one.state]
        rows.append([*row, one.why] if full else row)
    return heads, rows


def _found(place: pathlib.Path) -> Iterator[Summary]:
    for name, directories, names in os.walk(place):
        path, there = pathlib.Path(name), {*directories, *names}
        if "config.json" in there or len(there & CONTENTS) > 1:
            yield summary(path)
            directories.clear()
        elif there & OTHERS:
            directories.clear()
        elif "sweep.json" in names:  # cells may fail before they have a directory
            for failed in (path / "failed").glob("*.json"):
                if not (path / "cells" / failed.stem).is_dir():
                    yield Summary(path / "cells" / failed.stem, "failed", _reason(failed))
        directories[:] = sorted(one for one in directories if not one.startswith("."))


def _reason(path: pathlib.Path) -> str:
    try:
        return documents.read(path, Failure, "start the sweep again", more=True)["reason"]
    except UserError as error:
        return str(error)


def _settings(directory: pathlib.Path) -> documents.Object:
    """Settings by name; those that an older version did not have yet are at their defaults."""
    values = documents.read(directory / "config.json", dict[str, Any], AGAIN)
    found: dict[str, object] = {}
    for part, fields in dataclasses.asdict(Config()).items():
        own = values.get(part, {} if part in saved.ADDED else None)
        if not isinstance(own, dict):
            raise UserError(f"{directory / 'config.json'} is damaged: {part} is no object: {AGAIN}")
        found |= {f"{part}.{name}": value for name, value in (fields | own).items()}
    return found


def _result(directory: pathlib.Path, settings: documents.Object) -> Result | None:
    result, epochs = left(directory), settings["train.epochs"]
    if result is None or not isinstance(epochs, int):
        return result
    return result if stands(result, epochs, directory) else None


def outcome(result: documents.Object) -> dict[str, float]:
    """Epochs that a run that has ended was trained for, that of its best checkpoint, and its figure there and last."""
    each = result["steps_per_epoch"]
    return {
        "epochs": result["steps"] / each,
        "best_epoch": result["best_step"] / each,
        "best_validation": result["best_score"],
        "last_validation": result["history"][-1][result["monitor"]],
    }


def _told(result: Result) -> tuple[tuple[documents.Object, ...], float, float]:
    return tuple(result["history"]), result["steps"] / result["steps_per_epoch"], result["seconds"]


def _logged(directory: pathlib.Path) -> tuple[tuple[documents.Object, ...], float, float]:
    """Validations, epochs and seconds of a run that has not ended, out of its metrics.jsonl."""
    path = directory / "metrics.jsonl"
    if not path.is_file():
        return (), 0.0, 0.0
    history: list[documents.Object] = []
    last = b""
    try:
        with path.open("rb") as file:
            for line in file:
                if not line.endswith(b"\n"):
                    break  # being written, or cut short by a crash
                last = line
                if f'"{figures.VALIDATION}'.encode() in line:
                    values = documents.parsed(line, dict[str, Any])
                    history.append(
                        {name.removeprefix(figures.VALIDATION): value for name, value in values.items()}
                    )
        epoch = documents.parsed(last, dict[str, Any]).get("epoch", 0.0) if last else 0.0
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error
    except documents.Wrong as error:
        raise UserError(f"{path} is damaged: {error}") from error
    return tuple(history), epoch, history[-1].get("seconds", 0.0) if history else 0.0
