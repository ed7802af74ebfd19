"""Columns that a user names, found in the files of a log, each with its kind; values of every kind as text or number.

Nothing is cast without a look at its kind: NaN and empty values are missing, 1.0 is 1, bytes are UTF-8, and lists,
objects and the like are no values.
"""

# ibis types its expressions at run time.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false
# pyright: reportCallIssue=false, reportOperatorIssue=false

import itertools
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import ibis
import ibis.expr.types as ir
import pyarrow as pa

from jaxneg.data import engine, heads, quotes, scans
from jaxneg.errors import UserError

EXACT = float(1 << 53)  # whole numbers below are exact as doubles
BLANKS = " \t\n\r\v\f\u00a0\u200b\u3000\ufeff"
SHAPES = {
    "list": "lists",
    "object": "objects",
    "map": "maps",
    "duration": "durations",
    "clock": "times of day",
}


class Column(NamedTuple):
    """A column of a piece, as an expression over its table."""

    value: ir.Value
    kind: (
        str  # text, whole, real, decimal, boolean, stamp, bytes, null, a key of SHAPES, or the name of a type
    )
    shape: ir.Value | None = None  # of JSON: the type of each value, BIG for a whole number that is not exact
    milliseconds: float = 0  # of a duration: what one is worth
    exact: float = EXACT  # of real numbers: whole ones below are exact


class Piece(NamedTuple):
    """Files that have the same columns, those of them that were asked for."""

    table: ir.Table  # with `order`
    file: pathlib.Path  # the first
    columns: dict[str, Column]  # by the name that the user gave
    have: list[str]  # all columns, for messages
    delimiter: str = ""
    texts: tuple[
        str, ...
    ] = ()  # of text that may be quoted: all columns of the table, as they stand in a line


def named(name: str, have: Sequence[str]) -> str | None:
    """The column that a user means: of this name, else the one that differs in case and blanks around it only."""
    if name in have:
        return name
    alike = [other for other in have if other.strip().lower() == name.strip().lower()]
    return alike[0] if len(alike) == 1 else None


def of_csv(
    con: ibis.BaseBackend,
    files: Sequence[pathlib.Path],
    wanted: Sequence[str],
    *,
    header: bool,
    names: Sequence[str],
    quoting: str,
) -> list[Piece]:
    """Pieces of delimited text.

    Args:
      header: whether the first line of each file names its columns.
      names: of columns of files without header; empty calls them column0, column1, ...
      quoting: "double", "backslash", "none", or "auto": see ``quotes.of``.
    """
    files = [file for file in files if heads.first_line(file, "utf-8")[1]] or list(files[:1])
    styles = [
        (quotes.of(file, quoting, header=header), quotes.width(file, header, names), file) for file in files
    ]
    found = []
    for (quote, width), run in itertools.groupby(styles, key=lambda style: style[:2]):
        given = None if header else list(names) or [f"column{k}" for k in range(width)]
        for scan in scans.scan_csv(con, [file for *_, file in run], {}, names=given, quote=quote):
            columns, have = {}, list(scan.columns)
            for name in wanted:
                if (column := named(name, have)) is not None:
                    scans.refuse_twice(scan, [column])
                    columns[name] = Column(scan.table[scan.columns[column]], "text")
            texts = tuple(scan.columns.values()) if quote and any(map(quotes.used, scan.files)) else ()
            found.append(Piece(scan.table, scan.files[0], columns, have, scan.delimiter, texts))
    return found


def of_parquet(
    con: ibis.BaseBackend, files: Sequence[pathlib.Path], wanted: Sequence[str], *, nested: bool
) -> list[Piece]:
    """Pieces of Parquet files. A name with dots is a field of an object, where no column has that name.

    Args:
      nested: a name with dots is a field even where a column has that name.
    """
    found = []
    tops = {part.strip().lower() for name in wanted for part in (name, name.split(".")[0])}
    for scan in scans.scan_parquet(con, files, only=lambda name: name.strip().lower() in tops):
        assert scan.schema is not None
        columns = {}
        for name in wanted:
            path = _path(name, scan.schema, nested)
            if not path:
                continue
            scans.refuse_twice(scan, path[:1])
            value, kind = scan.table[scan.columns[path[0]]], scan.schema.field(path[0]).type
            for part in path[1:]:
                value, kind = value[part], kind.field(part).type
            column = _typed(value, kind)
            if column.kind == "real" and len(path) > 1:  # as ``scans.scan_parquet`` does for whole columns
                odd = value.cast("string").lower().isin(("nan", "inf", "-inf", "infinity", "-infinity"))
                column = column._replace(value=ibis.ifelse(odd, ibis.null(value.type()), value))
            columns[name] = column
        found.append(Piece(scan.table, scan.files[0], columns, scan.schema.names))
    return found


def _path(name: str, schema: pa.Schema, nested: bool) -> list[str]:
    """The column, and the fields within it, that a name means; empty if there is none."""
    parts = name.split(".")
    inside: Any = schema.field(parts[0]).type if len(parts) > 1 and parts[0] in _once(schema) else None
    for part in parts[1:]:
        at = inside.get_field_index(part) if inside is not None and pa.types.is_struct(inside) else -1
        inside = inside.field(at).type if inside is not None and at >= 0 else None
    column = named(name, schema.names)
    exact = [] if column is None else [column]
    return (parts if nested else exact or parts) if inside is not None else exact


def _once(schema: pa.Schema) -> set[str]:
    return {name for name in schema.names if schema.names.count(name) == 1}


def _typed(value: ir.Value, kind: Any) -> Column:
    types = pa.types
    if types.is_dictionary(kind):
        kind = kind.value_type
    if isinstance(kind, pa.BaseExtensionType):
        kind = kind.storage_type
    if value.type().is_uuid():
        return Column(value.cast("string"), "text")
    if types.is_duration(kind):
        return Column(value, "duration", milliseconds={"s": 1e3, "ms": 1, "us": 1e-3, "ns": 1e-6}[kind.unit])
    tests = {
        "null": types.is_null,
        "boolean": types.is_boolean,
        "whole": types.is_integer,
        "real": types.is_floating,
        "decimal": types.is_decimal,
        "stamp": lambda t: types.is_timestamp(t) or types.is_date(t),
        "text": lambda t: types.is_string(t) or types.is_large_string(t) or t == pa.string_view(),
        "bytes": lambda t: types.is_binary(t) or types.is_large_binary(t) or types.is_fixed_size_binary(t),
        "list": lambda t: types.is_list(t) or types.is_large_list(t) or types.is_fixed_size_list(t),
        "map": types.is_map,
        "object": types.is_struct,
        "clock": types.is_time,
    }
    exact = (
        {16: float(1 << 11), 32: float(1 << 24)}.get(kind.bit_width, EXACT)
        if types.is_floating(kind)
        else EXACT
    )
    return Column(value, next((name for name, test in tests.items() if test(kind)), str(kind)), exact=exact)


def of_json(
    con: ibis.BaseBackend, files: Sequence[pathlib.Path], wanted: Sequence[str], *, nested: bool
) -> list[Piece]:
    """Pieces of JSON objects; all columns are there, null where no object has such a key. As ``of_parquet``."""
    have = list(next((first for file in files if (first := _first(file))), {}))
    if engine.is_spark(con):
        if any("." in name for name in wanted):
            engine.refuse_spark("fields within objects of JSON")
        lists = {heads.is_list(file) for file in files}
        if len(lists) > 1:
            engine.refuse_spark("JSON lists beside JSON lines")
        table = scans.read_json(con, files, dict.fromkeys(wanted, "VARCHAR"), lines=not lists.pop())
        return [Piece(table, files[0], {name: Column(table[name], "text") for name in wanted}, have)]
    keys = list(dict.fromkeys(part for name in wanted for part in (name, name.split(".")[0])))
    lower: dict[str, str] = {}
    for key in keys:
        if (other := lower.setdefault(key.lower(), key)) != key:
            raise UserError(f"columns {other} and {key} differ in case only: rename one, as engines see one")
    select = []
    for number, name in enumerate(wanted):
        head, *fields = name.split(".")
        value = engine.quoted(name)
        if fields:
            path = "$" + "".join(
                '."' + field.replace("\\", "\\\\").replace('"', '\\"') + '"' for field in fields
            )
            field = f"json_extract({engine.quoted(head)}, {engine.text(path)})"
            value = f"coalesce({field}, {value})" if nested else f"coalesce({value}, {field})"
        text, shape = f"({value} ->> '$')", f"json_type({value})"
        double = f"{shape} = 'DOUBLE'"
        select.append(
            f"CASE WHEN {double} AND {text} IN ('NaN', 'Infinity', '-Infinity') THEN NULL "
            f"WHEN {double} AND suffix({text}, '.0') THEN {text}[:-3] ELSE {text} END AS v{number}, "
            f"CASE WHEN {double} AND suffix({text}, '.0') AND abs(CAST({text} AS DOUBLE)) >= {EXACT:.0f} "
            f"THEN 'BIG' ELSE {shape} END AS t{number}"
        )
    found = []
    for scan in scans.scan_json(con, files, keys, ", ".join(select)):
        columns = {
            name: Column(scan.table[f"v{k}"], "text", scan.table[f"t{k}"]) for k, name in enumerate(wanted)
        }
        found.append(Piece(scan.table, scan.files[0], columns, have))
    return found


def _first(file: pathlib.Path) -> dict[str, Any] | None:
    return heads.first_object(file, lines=not heads.is_list(file))


@ibis.udf.scalar.builtin(name="decode", signature=(("binary",), "string"))
def _decode(_value): ...


@ibis.udf.scalar.builtin(name="try", signature=(("string",), "string"))
def _try(_value): ...


def tidy(value: ir.Value) -> ir.Value:
    """Text without blanks around it, null if empty."""
    return value.re_replace(rf"^[{BLANKS}]+|[{BLANKS}]+$", "").nullif("")


def text(column: Column, *, strip: bool = False, neat: bool = False) -> ir.Value:
    """The values as text, null where there is none. Bytes that are no UTF-8 are null too: see ``undecodable``.

    Args:
      strip: numbers in text lose their .0: for columns that hold nothing but numbers.
      neat: text goes through ``tidy``.
    """
    value, kind = column.value, column.kind
    if kind == "real":
        value = value.cast("float64")
        exact = rounded(ibis.ifelse(value.abs() < EXACT, value, ibis.null("float64")))
        shown = ibis.ifelse(exact.cast("float64") == value, exact.cast("string"), value.cast("string"))
        return ibis.ifelse(value.isnan() | value.isinf(), ibis.null("string"), shown)
    if kind == "decimal":
        return value.cast("string").re_replace(r"(\.[0-9]*[1-9])0+$|\.0+$", r"\1")
    if kind == "bytes":
        return _try(_decode(value)).nullif("")
    if kind == "null":
        return ibis.null("string")
    value = value.cast("string")
    if kind == "text" and neat:
        value = tidy(value)
    if kind == "text" and strip:
        value = value.re_replace(r"\.0+$", "")
    return value.nullif("") if kind == "text" else value


def undecodable(column: Column) -> ir.Value:
    """True for bytes that are no text in UTF-8."""
    found = _try(_decode(column.value))
    return column.value.notnull() & (found.isnull() | found.re_search(r"[\x00-\x08]"))


def number(column: Column) -> ir.Value:
    """The values as doubles, null where there is none or it is not finite."""
    value = column.value
    if column.kind == "null":
        return ibis.null("float64")
    value = value.try_cast("float64") if column.kind == "text" else value.cast("float64")
    return scans.finite(value)


def rounded(value: ir.Value) -> ir.Value:
    """Doubles as whole numbers, null where they have none in 64 bits."""
    fits = value.abs() < 2.0**62  # NaN counts as greatest
    return ibis.ifelse(fits, value, ibis.null("float64")).round().cast("int64")


def whole(column: Column) -> ir.Value:
    """The values as whole numbers, rounded; exact where they are whole, null where they do not fit."""
    value = column.value
    if column.kind == "null":
        return ibis.null("int64")
    if column.kind == "text":
        return ibis.coalesce(value.try_cast("int64"), rounded(number(column)))
    return value.try_cast("int64") if column.kind == "whole" else rounded(number(column))
