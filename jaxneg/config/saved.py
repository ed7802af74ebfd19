"""Configs as JSON beside what they made, and what tells two of them apart."""

import dataclasses
import json
import pathlib
from collections.abc import Collection
from typing import Any, NamedTuple

from jaxneg.config import fields, parts
from jaxneg.config.fields import Effect, built
from jaxneg.config.schema import Config
from jaxneg.errors import UserError
from jaxneg.files import documents

# Parts that earlier versions had not.
ADDED = ("like",)
# Fields of earlier versions that changed nothing.
GONE = [("data", "prefetch"), ("train", "compilation_cache")]
# Fields that earlier versions had as flags, and what they meant.
WERE_BOOL = [("loss", "log_q", ("none", "plain")), ("data", "packed", ("never", "always"))]
# What may differ between runs without changing what is measured.
FREE = ("data.store", "train.log_every", "train.devices")


class Change(NamedTuple):
    """A field in which a config differs from an older one. As text "data.length: 50 -> 20"."""

    field: str  # "data.length"
    old: Any
    new: Any
    effect: Effect

    def __str__(self) -> str:
        return f"{self.field}: {self.old} -> {self.new}"

    @property
    def option(self) -> str:
        """What makes the change on a command line: "--data.length 20"."""
        return f"--{self.field.replace('_', '-')} {self.new}"


def to_json(config: Config) -> str:
    """The config, and which files or modules registered what it names beyond ours."""
    registered = parts.saved(config)
    return json.dumps(
        dataclasses.asdict(config) | ({"registered": registered} if registered else {}), indent=2
    )


def from_json(text: str, beside: pathlib.Path | None = None) -> Config:
    """The config that ``to_json`` wrote, once what it names is known; see ``parts.recalled``.

    Raises UserError on unknown names, missing parts and wrong values.

    Args:
      text: JSON.
      beside: a directory in which files that register something may be.
    """
    try:
        values = documents.loaded(text)
        if isinstance(values, dict) and "registered" in values:
            parts.recalled(values.pop("registered"), beside)
        kinds: dict[str, Any] = {one.name: one.default_factory for one in dataclasses.fields(Config)}
        if not isinstance(values, dict) or set(values) | set(ADDED) != set(kinds):
            raise UserError(f"it is no object of {', '.join(kinds)}")
        values = dict.fromkeys(ADDED, {}) | values
        for name, part in values.items():
            if not isinstance(part, dict):
                raise UserError(f"{name} is no object")
        for part, name in GONE:
            values[part].pop(name, None)
        for part, name, meant in WERE_BOOL:
            if isinstance(value := values[part].get(name), bool):
                values[part][name] = meant[value]
        return Config(**{name: built(kind, values[name], f"--{name}.") for name, kind in kinds.items()})
    except (UserError, documents.Wrong) as error:
        raise UserError(f"not a config that this version saved: {error}") from error


def parts_of(config: Config) -> dict[str, Any]:
    """The parts of a config by name, without what a command adds to them."""
    return {part.name: getattr(config, part.name) for part in dataclasses.fields(Config)}


def flat(config: Config) -> dict[str, Any]:
    """Values by field: "data.p_hard"."""
    return {
        f"{part}.{name}": value
        for part, values in dataclasses.asdict(config).items()
        for name, value in values.items()
    }


def changes(old: Config, new: Config, of: Collection[Effect] = tuple(Effect)) -> list[Change]:
    """Fields in which two configs differ, those alone that have such an effect."""
    found = []
    for part in dataclasses.fields(Config):
        before, after = getattr(old, part.name), getattr(new, part.name)
        for name, effect in fields.effects(type(after)).items():
            values = getattr(before, name), getattr(after, name)
            if values[0] != values[1] and effect in of:
                found.append(Change(f"{part.name}.{name}", *values, effect))
    return found
