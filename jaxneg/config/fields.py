"""Fields of option dataclasses: what values they take, wherever they come from.

A field's annotation says it all: its type, its choices (Literal), and the bounds of its numbers, as in

    p_hard: Annotated[float, Inside(0, 1)] = 0.5

``built`` and ``settled`` hold values to it, be they parsed from options, written in Python or read from JSON. What
means the same becomes the same: lists and vectors become tuples, numpy's scalars Python's, 64.0 in a field of whole
numbers 64, paths text. All else raises UserError in one line that spells the field as its option.
"""

import dataclasses
import difflib
import enum
import functools
import math
import os
import pathlib
import re
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
import tyro

from jaxneg import files
from jaxneg.errors import UserError

T = TypeVar("T")
LONG = 60  # characters of a wrong value that a line quotes


@dataclass(frozen=True)
class Bounds:
    """Of a number, or of each in a tuple of numbers; without any, numbers are finite and fit 32 bits all the same."""

    low: int | float = -(2**31)
    high: int | float = 2**31 - 1
    open_low: bool = False  # low itself is outside
    open_high: bool = False
    spoken: str = ""  # the rule in words; "" makes them of the bound that is broken

    def broken(self, value: int | float) -> str | None:
        """The rule that a value breaks, in words; None if it keeps to the bounds."""
        if not math.isfinite(value):
            return self.spoken or f"a finite number, {self._low()}"
        if value < self.low or (self.open_low and value == self.low):
            return self.spoken or self._low()
        if value > self.high or (self.open_high and value == self.high):
            return self.spoken or f"at most {self.high:,.10g}"
        return None

    def _low(self) -> str:
        if self.open_low:
            return f"above {self.low:g}"
        return "0 or more" if self.low == 0 else f"at least {self.low:,.10g}"


def inside(low: int | float, high: int | float, ends: str = "[]") -> Bounds:
    """An interval that says itself, as "in [0, 1)"; ``ends`` are its brackets."""
    left, right = ends
    return Bounds(low, high, left == "(", right == ")", spoken=f"in {left}{low:g}, {high:g}{right}")


def above(low: int | float, high: int | float) -> Bounds:
    return Bounds(low, high, open_low=True)


@dataclass(frozen=True)
class Pattern:
    """Of text: a regular expression that it matches whole, and in words what is meant."""

    expression: str
    spoken: str


@dataclass(frozen=True, eq=False)
class OneOf:
    """Of text: the name of a part that is known when it is asked for."""

    known: Mapping[str, Any]
    kind: str


class Effect(enum.Enum):
    """What a change of a field changes of a run that is there, the least first."""

    NOTHING = "nothing"  # a run goes on as if it had always been so
    FIGURES = "the figures"  # how a model is measured
    DATA = "the data"  # what is trained and validated on, in which order
    TRAINING = "the training"  # how, from the same data
    MODEL = "the model"  # what it is and sees: checkpoints are of another


class Local:
    """Of text: a path of a file system, an address of a bucket such as gs://bucket/name, or none."""


Where = Annotated[str, Local()]
COUNT = 10**9  # of anything that is counted one by one
Positive = Annotated[int, Bounds(1, COUNT)]
Natural = Annotated[int, Bounds(0, COUNT)]
Seed = Annotated[int, Bounds(0, 2**32 - 1)]
Weight = Annotated[float, Bounds(0.0, 1e9)]
Size = Annotated[float, above(0.0, 1e9)]
Share = Annotated[float, inside(0, 1)]
Part = Annotated[float, inside(0, 1, "[)")]
Proper = Annotated[float, Bounds(0, 1, open_low=True, open_high=True, spoken="above 0 and below 1")]


def option(metavar: str, otherwise: str, *aliases: str) -> Any:
    """Annotation of an option that may stay open; --help says ``otherwise`` as its default.

    Args:
      metavar: of its value.
      otherwise: what happens without it.
      aliases: further names, as "--from".
    """
    return tyro.conf.arg(
        metavar=metavar,
        aliases=aliases,
        help_behavior_hint=lambda default: f"(default: {otherwise if default in ('None', '') else default})",
    )


def settled(config: T, kind: type[T] | None = None, prefix: str = "--") -> T:
    """The same dataclass with every value as its field has it; the very same one where nothing changes.

    Args:
      config: the values; of a subclass of ``kind`` those of ``kind``.
      kind: a dataclass; by default that of ``config``.
      prefix: of the options' names.
    """
    kind = kind or type(config)
    if not isinstance(config, kind):
        what = "the config" if prefix == "--" else prefix.removeprefix("--").removesuffix(".")
        raise UserError(f"{what} must be a {kind.__name__}, got {_quoted(config)}")
    values = {one.name: getattr(config, one.name) for one in dataclasses.fields(kind)}  # type: ignore[arg-type]
    found = _values(kind, values, prefix)
    same = type(config) is kind and all(found[name] is value for name, value in values.items())
    return config if same else kind(**found)


def built(kind: type[T], values: Mapping[str, Any], prefix: str = "--") -> T:
    """A dataclass of some of its fields, by name; the others have their defaults. Raises UserError on other names."""
    known = {one.name for one in dataclasses.fields(kind)}  # type: ignore[arg-type]
    for name in values:
        if name not in known:
            near = difflib.get_close_matches(str(name), known, 1)
            hint = f"; perhaps it meant {near[0]}" if near else ""
            raise UserError(f"{prefix.removeprefix('--')}{name} is no field{hint}")
    return kind(**_values(kind, values, prefix))


def unbounded(kind: Any) -> list[str]:
    """Names of the fields that hold numbers and say nothing of their bounds, those of nested dataclasses too."""
    found = []
    for name, hint in _hints(kind).items():
        bare, notes = _parts(hint)
        if isinstance(bare, type) and dataclasses.is_dataclass(bare):
            found += [f"{name}.{inner}" for inner in unbounded(bare)]
        elif {int, float} & set(_leaves(hint)) and not any(isinstance(one, Bounds) for one in notes):
            found.append(name)
    return found


def effects(kind: Any) -> dict[str, Effect]:
    """What a change of each field changes, by name; fields that do not say so are left out."""
    found: dict[str, Effect] = {}
    for name, hint in _hints(kind).items():
        for note in _parts(hint)[1]:
            if isinstance(note, Effect):
                found[name] = note
    return found


def _leaves(hint: Any) -> list[Any]:
    bare, _ = _parts(hint)
    if typing.get_origin(bare) is tuple:
        return [leaf for part in typing.get_args(bare) if part is not ... for leaf in _leaves(part)]
    return [bare]


@functools.cache
def _hints(kind: Any) -> dict[str, Any]:
    """Annotations of a dataclass, or of a generic one of a certain kind, as Prepare[Options]."""
    plain, given = typing.get_origin(kind) or kind, typing.get_args(kind)
    hints = typing.get_type_hints(plain, include_extras=True)
    if given:
        hints = {
            name: hint[given] if getattr(hint, "__parameters__", ()) else hint for name, hint in hints.items()
        }
    return {one.name: hints[one.name] for one in dataclasses.fields(plain)}


def _parts(hint: Any) -> tuple[Any, list[Any]]:
    """The type under Annotated and beside None, and all notes on it and on what a tuple of it holds."""
    notes: list[Any] = []
    while True:
        if typing.get_origin(hint) is Annotated:
            hint, *more = typing.get_args(hint)
            notes += more
        elif typing.get_origin(hint) in (typing.Union, types.UnionType):
            hint = next(part for part in typing.get_args(hint) if part is not type(None))
        else:
            break
    if typing.get_origin(hint) is tuple:
        notes += _parts(typing.get_args(hint)[0])[1]
    return hint, notes


def _optional(hint: Any) -> bool:
    while typing.get_origin(hint) is Annotated:
        hint = typing.get_args(hint)[0]
    return type(None) in typing.get_args(hint)


def _values(kind: type, values: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    hints = _hints(kind)
    return {name: _value(value, hints[name], name, prefix) for name, value in values.items()}


def _value(value: Any, hint: Any, name: str, prefix: str) -> Any:
    bare, notes = _parts(hint)
    option = prefix + name.replace("_", "-")
    if value is None and _optional(hint):
        return None
    if isinstance(bare, type) and dataclasses.is_dataclass(bare):
        inner = prefix if tyro.conf.OmitArgPrefixes in notes else f"{option}."
        return settled(value, bare, inner)
    if typing.get_origin(bare) is tuple:
        return _tuple(value, typing.get_args(bare), notes, option)
    if tyro.conf.Positional in notes:
        option = next((n.metavar for n in notes if getattr(n, "metavar", None)), option)
    return _scalar(value, bare, notes, option)


def _tuple(value: Any, parts: tuple[Any, ...], notes: list[Any], option: str) -> tuple[Any, ...]:
    if type(value) is np.ndarray and value.ndim == 1:
        value = list(value)
    if not isinstance(value, Sequence) or isinstance(value, str | bytes):
        raise UserError(f"{option} must be a tuple or a list, got {_quoted(value)}")
    if parts[-1] is not ... and len(value) != len(parts):
        raise UserError(f"{option} must be {len(parts)} values, got {_quoted(value)}")
    of = [parts[0]] * len(value) if parts[-1] is ... else parts
    found = tuple(_scalar(one, _parts(kind)[0], notes, option) for one, kind in zip(value, of, strict=True))
    same = isinstance(value, tuple) and all(a is b for a, b in zip(found, value, strict=True))
    return value if same and type(value) is tuple else found


def _scalar(value: Any, kind: Any, notes: list[Any], option: str) -> Any:
    # Not of kinds of arrays that mean more than their numbers, as masked ones do.
    if isinstance(value, np.generic) or (type(value) is np.ndarray and value.ndim == 0):
        value = value.item()
    # What a subclass says of itself, as that it equals every choice, is not asked for.
    if isinstance(value, str):
        value = str.__str__(value)
    elif isinstance(value, int) and not isinstance(value, bool):
        value = int.__int__(value)
    elif isinstance(value, float):
        value = float.__float__(value)
    if typing.get_origin(kind) is Literal:
        return _choice(value, typing.get_args(kind), option)
    if kind is bool:
        if not isinstance(value, bool):
            raise UserError(f"{option} must be True or False, got {_quoted(value)}")
        return value
    if kind in (int, float):
        return _number(value, kind, notes, option)
    if kind is str or (isinstance(kind, type) and issubclass(kind, pathlib.PurePath)):
        return _text(value, kind, notes, option)
    return value


def _choice(value: Any, choices: tuple[Any, ...], option: str, otherwise: str = "") -> Any:
    for choice in choices:
        if isinstance(value, type(choice)) and value == choice:
            return choice
    known = [str(choice) for choice in choices]
    close = difflib.get_close_matches(str(value).lower().replace("-", "_"), known, 1, cutoff=0.7)
    hint = f"; perhaps you meant {close[0]}" if close else otherwise
    raise UserError(f"{option} must be one of {', '.join(known)}, got {_quoted(value)}{hint}")


def _number(value: Any, kind: type, notes: list[Any], option: str) -> Any:
    bounds = next((one for one in notes if isinstance(one, Bounds)), Bounds())
    what = "a whole number" if kind is int else "a number"
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UserError(f"{option} must be {what}, got {_quoted(value)}")
    if isinstance(value, int) and abs(value) >= 1 << 64:  # beyond any bounds, and perhaps beyond any float
        raise UserError(
            f"{option} must be {bounds.broken(1e30 if value > 0 else -1e30)}, got {_quoted(value)}"
        )
    if rule := bounds.broken(value):
        raise UserError(f"{option} must be {rule}, got {value}")
    if kind is int and not float(value).is_integer():
        raise UserError(f"{option} must be {what}, got {value}")
    return value if type(value) is kind else kind(value)


def _text(value: Any, kind: type, notes: list[Any], option: str) -> Any:
    path = os.fspath(value) if isinstance(value, os.PathLike) else value
    if not isinstance(path, str):
        raise UserError(f"{option} must be text, got {_quoted(value)}")
    if "\0" in path:
        raise UserError(f"{option} must be text without a null character, got {_quoted(path)}")
    for names in (one for one in notes if isinstance(one, OneOf)):
        mend = f"; an own {names.kind} is known once the config file imports what registers it"
        return _choice(path, tuple(names.known), option, mend)
    for pattern in (one for one in notes if isinstance(one, Pattern)):
        if not re.fullmatch(pattern.expression, path):
            raise UserError(f"{option} must be {pattern.spoken}, got {path}")
    if kind is not str or any(isinstance(one, Local) for one in notes):
        files.given(path, option)
    return value if type(value) is kind or (kind is not str and isinstance(value, kind)) else kind(path)


def _quoted(value: Any) -> str:
    """A wrong value as a line can hold it."""
    plain = isinstance(value, str | int | float | bytes | tuple | list | type(None))
    try:
        text = " ".join(repr(value).split()) if plain else type(value).__name__
    except ValueError:  # Python writes no number of thousands of digits
        text = "a number of thousands of digits"
    return text if len(text) <= LONG else f"{text[:LONG]}..."
