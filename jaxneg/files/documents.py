"""JSON that jaxneg wrote itself, read back through one door: into a declared shape, or refused in one line.

A shape is a dataclass, a TypedDict or any annotation made of int, float, str, bool, None, Any, Literal, Annotated,
list, tuple and dict. ``Annotated[int, Range(0)]`` bounds a number, ``Range`` of a str, list or dict its length.
Numbers are finite, whole ones fit 64 bits, names come once, values nest LEVELS deep at most.

``sealed`` adds a checksum of all the rest to an object; ``read`` and ``parsed`` check it where there is one. It finds
what a disk, a copy or an editor changed, and not what somebody changes who computes it anew.
"""

import dataclasses
import hashlib
import json
import math
import os
import pathlib
import stat
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, NamedTuple, TypeVar, overload

from jaxneg.errors import UserError

VERSION = "0.2.0"  # of jaxneg, as documents name what wrote them; pyproject.toml reads it here
SEAL = "sha256"
LEVELS = 40  # of lists and objects
LARGEST = 1 << 28  # bytes of a document
LONG = 40  # characters of a wrong value that an error quotes


class Range(NamedTuple):
    """Bounds of a number, both inclusive; of the length of what is no number."""

    low: float = -math.inf
    high: float = math.inf


Count = Annotated[int, Range(0)]
Object = Mapping[str, Any]  # of JSON: what stands under each name whoever wrote it knows
T = TypeVar("T")


class Wrong(ValueError):
    """What is wrong with a document, and where in it: "counts.items: expected ..., found ..."."""


@overload
def read(
    path: str | os.PathLike[str], shape: type[T], mend: str, *, seal: bool = True, more: bool = False
) -> T: ...


@overload
def read(
    path: str | os.PathLike[str], shape: Any, mend: str, *, seal: bool = True, more: bool = False
) -> Any: ...


def read(
    path: str | os.PathLike[str], shape: Any, mend: str, *, seal: bool = True, more: bool = False
) -> Any:
    """A JSON file as a value of a shape. Raises UserError naming the file, the field and the remedy.

    Args:
      path: of the file.
      shape: see the module; of a dataclass an instance comes back, of a TypedDict a dict.
      mend: what to do about a damaged file, as "export again".
      seal: check the checksum within, where there is one.
      more: let names be that a TypedDict lacks.
    """
    path = pathlib.Path(path)
    try:
        return parsed(content(path), shape, seal=seal, more=more)
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing: {mend}") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error
    except Wrong as error:
        raise UserError(f"{path} is damaged: {error}: {mend}") from error


def content(path: pathlib.Path, largest: int = LARGEST) -> bytes:
    """The bytes of a file. Raises Wrong above ``largest``, and on pipes, devices and the like, which may never end."""
    found = path.stat()
    if not stat.S_ISREG(found.st_mode) and not stat.S_ISDIR(found.st_mode):
        raise Wrong("it is no file")
    if found.st_size > largest:
        raise Wrong(f"it has more than {largest:,} bytes")
    return path.read_bytes()


def parsed(text: str | bytes, shape: Any = Any, *, seal: bool = True, more: bool = False) -> Any:
    """JSON text as a value of a shape. Raises Wrong."""
    values = loaded(text)
    told = values.pop(SEAL, None) if isinstance(values, dict) else None
    found = _record(values, shape, "", more) if more else shaped(values, shape)
    if seal and told is not None:
        check_seal(values, told)
    return found


def check_seal(values: Any, seal: Any) -> None:
    """Raises Wrong unless this is the checksum that ``sealed`` gave to the values."""
    if seal is None:
        raise Wrong("its checksum is missing")
    if seal != digest(values):
        raise Wrong("its checksum differs, so something was changed after it was written")


def loaded(text: str | bytes) -> Any:
    """What a JSON text holds, of whatever shape. Raises Wrong on what is no JSON or is beyond the module's limits."""
    try:
        text = text.decode() if isinstance(text, bytes) else text
        values = json.loads(
            text, object_pairs_hook=_once, parse_constant=_constant, parse_float=_finite, parse_int=_whole
        )
        if not all(depth < LEVELS for depth in _depths(values)):
            raise Wrong(f"values nest more than {LEVELS} deep")
        return values
    except RecursionError as error:
        raise Wrong(f"values nest more than {LEVELS} deep") from error
    except UnicodeDecodeError as error:
        raise Wrong(f"byte {error.start} is not UTF-8") from error
    except json.JSONDecodeError as error:
        raise Wrong(f"line {error.lineno}, column {error.colno} is no JSON: {error.msg}") from error


def sealed(values: Object) -> dict[str, Any]:
    """The object with its checksum as last entry, ready for JSON; what is not finite becomes null."""
    plain = _plain(values)
    return {**plain, SEAL: digest(plain)}


def digest(values: Any) -> str:
    """SHA-256 of a value of JSON: the same however it is laid out in a file."""
    return hashlib.sha256(json.dumps(values, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def shaped(values: Any, shape: Any, where: str = "") -> Any:
    """A value of JSON as a value of a shape; see the module. Raises Wrong."""
    if shape is Any:
        return values
    origin, parts = typing.get_origin(shape), typing.get_args(shape)
    if origin in (typing.Required, typing.NotRequired):
        return shaped(values, parts[0], where)
    if origin is Annotated:
        found = shaped(values, parts[0], where)
        for bounds in (part for part in parts[1:] if isinstance(part, Range)):
            _check_range(found, bounds, where)
        return found
    if origin is typing.Literal:
        if not any(values == choice and type(values) is type(choice) for choice in parts):
            raise _wrong(where, f"one of {', '.join(map(str, parts))}", values)
        return values
    if origin in (typing.Union, types.UnionType):
        return _one_of(values, parts, where)
    if dataclasses.is_dataclass(shape) or typing.is_typeddict(shape):
        return _record(values, shape, where)
    if shape is list or origin is list:
        if not isinstance(values, list):
            raise _wrong(where, "a list", values)
        of = parts[0] if parts else Any
        return [shaped(value, of, f"{where}[{k}]") for k, value in enumerate(values)]
    if shape is tuple or origin is tuple:
        return _tuple(values, parts, where)
    if shape is dict or origin in (dict, Mapping):
        if not isinstance(values, dict):
            raise _wrong(where, "an object", values)
        of = parts[1] if parts else Any
        return {name: shaped(value, of, _inside(where, name)) for name, value in values.items()}
    return _scalar(values, shape, where)


def _scalar(values: Any, shape: Any, where: str) -> Any:
    if shape is None or shape is type(None):
        if values is not None:
            raise _wrong(where, "null", values)
        return None
    if shape is float and type(values) is int:
        return float(values)
    if type(values) is not shape:
        raise _wrong(where, NAMES[shape], values)
    return values


NAMES = {
    int: "a whole number",
    float: "a number",
    str: "a text",
    bool: "true or false",
    type(None): "null",
    None: "null",
}


def _one_of(values: Any, shapes: tuple[Any, ...], where: str) -> Any:
    troubles = []
    for shape in shapes:
        if shape is float and type(values) is int and int in shapes:
            continue  # the whole number that it is
        try:
            return shaped(values, shape, where)
        except Wrong as error:
            troubles.append(error)
    # The shape that the value could be, not one that it clearly is none of.
    raise troubles[-1] if values is None else troubles[0]


def _record(values: Any, shape: Any, where: str, more: bool = False) -> Any:
    if not isinstance(values, dict):
        raise _wrong(where, "an object", values)
    hints = typing.get_type_hints(shape, include_extras=True)
    if dataclasses.is_dataclass(shape):
        fields = {field.name: field for field in dataclasses.fields(shape)}
        missing = dataclasses.MISSING
        required = {n for n, f in fields.items() if f.default is missing and f.default_factory is missing}
        names = list(fields)
    else:
        required, names = shape.__required_keys__, list(hints)
    for name in values:
        if name not in names and not more:
            raise Wrong(f"{_inside(where, name)}: no such name is known")
    for name in names:
        if name in required and name not in values:
            raise Wrong(f"{_inside(where, name)} is missing")
    found = {
        name: shaped(value, hints.get(name, Any), _inside(where, name)) for name, value in values.items()
    }
    if dataclasses.is_dataclass(shape):
        assert isinstance(shape, type)
        return shape(**found)
    return found


def _tuple(values: Any, parts: tuple[Any, ...], where: str) -> tuple[Any, ...]:
    if not isinstance(values, list):
        raise _wrong(where, "a list", values)
    if not parts or parts[-1] is Ellipsis:
        of = parts[0] if parts else Any
        return tuple(shaped(value, of, f"{where}[{k}]") for k, value in enumerate(values))
    if len(values) != len(parts):
        raise Wrong(f"{where or 'the document'}: expected {len(parts)} values, found {len(values)}")
    return tuple(shaped(v, of, f"{where}[{k}]") for k, (v, of) in enumerate(zip(values, parts, strict=True)))


def _check_range(found: Any, bounds: Range, where: str) -> None:
    number = isinstance(found, int | float)
    size = found if number else len(found)
    if not bounds.low <= size <= bounds.high:
        low = f"at least {bounds.low:,}" if bounds.low > -math.inf else ""
        high = f"at most {bounds.high:,}" if bounds.high < math.inf else ""
        unit = "" if number else "a length of "
        raise _wrong(where, unit + " and ".join(part for part in (low, high) if part), found)


def _wrong(where: str, expected: str, found: Any) -> Wrong:
    text = json.dumps(found, default=str)
    text = text if len(text) <= LONG else f"{text[:LONG]}..."
    return Wrong(f"{where or 'the document'}: expected {expected}, found {text}")


def _inside(where: str, name: str) -> str:
    short = name if len(name) <= LONG else f"{name[:LONG]}..."
    return f"{where}.{short}" if where else short


def _depths(values: Any) -> Iterator[int]:
    """How deep each value lies; no recursion, whatever the depth."""
    waiting = [(values, 0)]
    while waiting:
        value, depth = waiting.pop()
        yield depth
        if isinstance(value, dict | list):
            inner = value.values() if isinstance(value, dict) else value
            waiting += [(one, depth + 1) for one in inner if isinstance(one, dict | list)]


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        double = next(name for name in names if names.count(name) > 1)
        raise Wrong(f"{_inside('', double)} is there twice")
    return found


def _constant(text: str) -> float:
    raise Wrong(f"{text} is no number of JSON")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise Wrong(f"{text[:LONG]} is beyond what a number can hold")
    return number


def _whole(text: str) -> int:
    if len(text) > 20 or not -(1 << 63) <= int(text) < 1 << 64:
        raise Wrong(f"{text[:LONG]} is beyond what a whole number can hold")
    return int(text)


def _plain(values: Any) -> Any:
    """As JSON will give it back; null for what is not finite."""
    if isinstance(values, Mapping):
        return {str(name): _plain(value) for name, value in values.items()}
    if isinstance(values, list | tuple):
        return [_plain(value) for value in values]
    if isinstance(values, float) and not math.isfinite(values):
        return None
    return values
