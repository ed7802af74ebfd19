"""Time to target: what training had cost when a run first was as good as another ever was, by validation."""

import json
import math
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypedDict

from jaxneg import figures, metrics
from jaxneg.config import saved
from jaxneg.errors import UserError
from jaxneg.files import documents
from jaxneg.training import convergence, records

UNITS = convergence.UNITS  # of cost: where a validation's line has it
SEEDS = ("data.seed", "train.seed")
# What neither changes training nor which validation is meant.
MEASURED = {f"eval.{name}" for name in ("batch_size", "bands", "bootstrap", "ks")}
FREE = {*saved.FREE, *SEEDS, "train.stuck_after", *MEASURED}
LEAST = 3  # seeds from which on an interval over them is given

Cost = dict[str, float | None]  # by unit; None where a run of an earlier version does not say


class Trace(NamedTuple):
    """What a run left of its training."""

    seed: tuple[Any, ...]  # by which runs pair
    monitor: str  # the figure that decided
    history: Sequence[documents.Object]  # validations, oldest first
    settings: documents.Object  # by field, as "data.p_hard"
    stopped: str = convergence.PATIENCE  # why it ended
    preparation: str | None = None  # checksum of its store, where it says so
    devices: tuple[str, ...] = ()  # kinds of those that it was trained on, where it says so


class Side(NamedTuple):
    """Runs that differ by their seeds alone, and what a sentence calls them."""

    name: str
    runs: Sequence[Trace]


class Passage(TypedDict):
    """One run against one other."""

    seed: list[Any]
    target: float  # the other's best figure
    other_cost: Cost  # when it first had that
    cost: Cost | None  # when the run first had that; None where it never did
    within: Cost  # what the whole run cost
    best: float  # the run's best figure
    other_to_best: Cost | None  # when the other first had the run's best; None where it never did


class Comparison(TypedDict):
    """A side against another, whose best figures are the targets."""

    name: str
    other: str
    figure: str
    why_not: str | None  # they cannot be compared; the fields below are then empty
    differs: list[str]  # settings, as "data.p_hard: 0 -> 0.5", from the other's to its own
    notes: list[str]  # sentences on what else is unequal
    passages: list[Passage]  # of each pair of seeds
    reached: int  # of them
    # Costs over the other's costs by unit: geometric mean and 95% t-interval of its logarithm over seeds.
    # None where a run never reached its target: a mean of those that did would flatter.
    ratio: dict[str, metrics.Spread] | None


def trace(directory: pathlib.Path) -> Trace:
    """What a run's directory says. Raises UserError where it is none, is damaged or has not ended."""
    if not (directory / "config.json").is_file():
        raise UserError(
            f"{directory} is no run directory (it has no config.json): give the --workdir of jaxneg train"
        )
    one = records.summary(directory)
    if one.state in ("damaged", "failed"):
        raise UserError(one.why)
    if one.state != "ended":
        raise UserError(f"run {directory} has not ended: continue it with jaxneg train")
    found: dict[str, documents.Object] = {}
    for name in ("store", "environment"):
        path = directory / f"{name}.json"
        found[name] = documents.read(path, dict[str, Any], records.AGAIN) if os.path.lexists(path) else {}
    seed = tuple(one.settings[name] for name in SEEDS)
    devices = kinds(found["environment"].get("devices", ()))
    return Trace(
        seed, one.monitor, one.history, one.settings, one.why, found["store"].get("preparation"), devices
    )


def kinds(devices: Sequence[str]) -> tuple[str, ...]:
    """Devices as environment.json names them, without their numbers: "gpu:0 NVIDIA H200" -> "gpu NVIDIA H200"."""
    parts = [one.partition(" ") for one in devices]
    return tuple(sorted(f"{place.partition(':')[0]} {kind}" for place, _, kind in parts))


def sides(own: tuple[str, Trace], others: Mapping[str, Trace]) -> tuple[Side, list[Side]]:
    """A run's side, with those of the others that are it with other seeds, and the sides of the rest.

    Where all others are such, each is a side of its own. A side is called by the names of its runs.
    """
    groups: dict[str, list[str]] = {}
    for name, one in others.items():
        groups.setdefault(_experiment(one), []).append(name)
    name, run = own
    twins = groups.get(_experiment(run), [])
    its = [run]
    if 0 < len(twins) < len(others) and run.seed not in [others[twin].seed for twin in twins]:
        del groups[_experiment(run)]
        its += [others[twin] for twin in twins]
    rest = [group for group in groups.values()]
    if len(rest) == 1 and twins == rest[0]:
        rest = [[twin] for twin in twins]
    found = [
        Side(f"run{'s' * (len(names) > 1)} {', '.join(names)}", [others[one] for one in names])
        for names in rest
    ]
    return Side(name, its), found


def _experiment(run: Trace) -> str:
    return json.dumps(
        {name: value for name, value in run.settings.items() if name not in FREE}, sort_keys=True
    )


def compare(side: Side, other: Side) -> Comparison:
    """When each run of a side had the best figure of the run of the other side that has its seed.

    The figure is the one that decided for the side. Runs pair by seed; two runs alone pair whatever their seeds.
    """
    mine, its = ({one.seed: one for one in reversed(of.runs)} for of in (side, other))
    figure, first, against = side.runs[0].monitor, side.runs[0], other.runs[0]
    pairs = [(one, its[seed]) for seed, one in sorted(mine.items()) if seed in its]
    notes: list[str] = []
    if not pairs and len(mine) == len(its) == 1:
        pairs = [(first, against)]
        notes.append("Their seeds differ, so part of it is chance.")
    found: Comparison = {
        "name": side.name,
        "other": other.name,
        "figure": figure,
        "why_not": _why_not(pairs, figure, other.name),
        "differs": differing(against, first),
        "notes": notes,
        "passages": [],
        "reached": 0,
        "ratio": None,
    }
    if found["why_not"] is not None:
        return found
    if any(theirs.stopped != convergence.PATIENCE for _, theirs in pairs):
        notes.append(f"{upper(other.name)} stopped at its limit: it might have become better than its best.")
    alike = first.devices == against.devices or not (first.devices and against.devices)
    if not alike:
        notes.append(
            f"They were trained on other devices ({_spoken(first.devices)} and {_spoken(against.devices)}), so that "
            "seconds do not compare."
        )
    found["passages"] = [_passage(one, theirs, figure) for one, theirs in pairs]
    found["reached"] = sum(one["cost"] is not None for one in found["passages"])
    if any(_at_once(one, passage) for (one, _), passage in zip(pairs, found["passages"], strict=True)):
        notes.append(f"{upper(side.name)} had that at the first validation in training, so maybe sooner.")
    if found["reached"] == len(pairs):
        units = [unit for unit in UNITS if alike or unit != "seconds"]
        found["ratio"] = {unit: _ratio(found["passages"], unit) for unit in units}
    return found


def _why_not(pairs: Sequence[tuple[Trace, Trace]], figure: str, other: str) -> str | None:
    """Why such runs cannot be compared by a figure."""
    title = figures.title(figure)
    if not pairs:
        return "they have no seed in common"
    for one, theirs in pairs:
        if one.preparation != theirs.preparation and None not in (one.preparation, theirs.preparation):
            return "they are of different stores"
        lines = [known(run.history, figure) for run in (one, theirs)]
        if not all(lines):
            return f"not both have a validation {title}"
        counts = [[line[-1].get(name) for name in ("pairs", "examples", "users")] for line in lines]
        if counts[0] != counts[1]:
            return "they are validated on different examples"
        if changed := [name for name in differing(theirs, one) if name.startswith("eval.")]:
            return f"they are validated otherwise ({'; '.join(changed)})"
        first, best = lines[1][0], max(line[figure] for line in lines[1])
        if first["step"] == 0 and best <= first[figure]:
            return f"no validation {title} of {other} is above the one before training"
    return None


def known(history: Sequence[documents.Object], figure: str) -> list[documents.Object]:
    """The validations that have a figure."""
    return [line for line in history if line.get(figure) is not None]


def differing(old: Trace, new: Trace) -> list[str]:
    """Settings in which two runs differ, as "data.p_hard: 0 -> 0.5"; seeds, and what changes nothing, are left out."""
    names = [name for name in records.apart([old.settings, new.settings]) if name not in FREE]
    return [f"{name}: {_value(old.settings.get(name))} -> {_value(new.settings.get(name))}" for name in names]


def _value(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _passage(run: Trace, other: Trace, figure: str) -> Passage:
    target, best = (max(line[figure] for line in known(of.history, figure)) for of in (other, run))
    found = [
        _cost(records.reached(of.history, figure, least))
        for of, least in ((other, target), (run, target), (other, best))
    ]
    its, own, other_to_best = found
    within = _cost(run.history[-1])
    assert its is not None and within is not None
    return {
        "seed": list(run.seed),
        "target": target,
        "other_cost": its,
        "cost": own,
        "within": within,
        "best": best,
        "other_to_best": other_to_best,
    }


def _at_once(run: Trace, passage: Passage) -> bool:
    """Whether no validation in training came before the one that had the target."""
    steps = [line["step"] for line in run.history if line["step"] > 0]
    return passage["cost"] is not None and bool(steps) and passage["cost"]["steps"] == steps[0]


def _cost(line: documents.Object | None) -> Cost | None:
    return None if line is None else {unit: line.get(key) for unit, key in UNITS.items()}


def _ratio(passages: Sequence[Passage], unit: str) -> metrics.Spread:
    """Geometric mean of a run's cost over its other's, with the t-interval of the logarithm over seeds."""
    ratios: list[float] = []
    for one in passages:
        own, its = (one["cost"] or {}).get(unit), one["other_cost"].get(unit)
        if own is None or not its:
            return metrics.spread([])
        ratios.append(own / its)
    if min(ratios) <= 0:  # before training
        return {"mean": 0.0, "sd": None, "low": None, "high": None, "n": len(ratios)}
    found = metrics.spread([math.log(one) for one in ratios])
    enough = len(ratios) >= LEAST

    def power(value: float | None) -> float | None:
        return None if value is None or value > 700 else math.exp(value)

    return {
        "mean": power(found["mean"]),
        "sd": found["sd"],  # of the logarithm
        "low": power(found["low"]) if enough else None,
        "high": power(found["high"]) if enough else None,
        "n": len(ratios),
    }


def _spoken(devices: Sequence[str]) -> str:
    return ", ".join(f"{devices.count(one)} {one}" for one in dict.fromkeys(devices))


def upper(text: str) -> str:
    """With a capital, but for names of settings."""
    return text[:1].upper() + text[1:] if text.startswith(("the ", "run")) else text
