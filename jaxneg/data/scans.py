"""Files to lazy tables that lose nothing.

A scan is a table of files that have the same columns. It has a column `order`, the row's position in the scan,
and keeps the columns of the files apart from that: where a file has a column of such a name, or two that an engine
would take for one, the table calls it otherwise and the scan knows how. The row number also keeps DuckDB from
pushing casts into its CSV scan, where a try_cast fails as a cast does.
"""

# ibis types its expressions at run time, and its stubs lack what its DuckDB backend takes.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportOperatorIssue=false

import itertools
import os
import pathlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import ibis
import ibis.expr.types as ir
import pyarrow as pa
import pyarrow.parquet as pq

from jaxneg.data import engine, heads, sources, spark, staging
from jaxneg.errors import UserError

# names of columns that engines or we add
OWN = ("order", "filename", "file_index", "file_row_number", "rowid")
# Layouts of JSON, as DuckDB calls them; SPREAD: objects that go on over several lines.
LISTS, LINES, SPREAD = "array", "newline_delimited", "unstructured"


class Scan(NamedTuple):
    """A table of files that have the same columns."""

    table: ir.Table  # with `order`
    files: list[pathlib.Path]
    columns: dict[str, str]  # name in the files -> name in the table
    twice: frozenset[str] = frozenset()  # names that several columns of a file have
    schema: pa.Schema | None = None  # of Parquet files, as Arrow sees it
    delimiter: str = ""  # of delimited text


# Readers of a fixed format: all files as one table, by the names of their columns.


def read_csv(
    con: ibis.BaseBackend,
    files: Sequence[pathlib.Path],
    types: Mapping[str, str],
    *,
    names: Sequence[str] | None = None,
    delimiter: str | None = None,
    quote: str = '"',
    encoding: str = "utf-8",
    mend: str = "",
) -> ir.Table:
    """Delimited text, packed or not. Columns are text unless `types` says otherwise; a number is finite, or null.

    Args:
      types: DuckDB types of the columns that have to be there; "VARCHAR" for text.
      names: columns of files without header; None reads the header of each file. Columns are matched by name;
        those that only some files have are null in the others.
      delimiter: None takes tab, semicolon, bar or comma, whichever the header holds most of.
      quote: empty for files that quote nothing; behind it what escapes a quote, if that is no quote itself.
    """
    scans = scan_csv(con, files, types, names=names, delimiter=delimiter, quote=quote, encoding=encoding)
    for scan in scans:
        sources.require(scan.files[0], list(scan.columns), list(types), mend)
        refuse_twice(scan, types)
    return _numbers(_union(scans))


def read_json(
    con: ibis.BaseBackend, files: Sequence[pathlib.Path], types: Mapping[str, str], *, lines: bool
) -> ir.Table:
    """JSON objects, one a line or in lists, packed or not.

    Columns are those of `types`, null where an object has no such key or a number that is not finite, and `filename`,
    the absolute path.
    """
    if engine.is_spark(con):
        return _numbers(spark.read_json(con, _plain(files), types, lines=lines))
    columns = _struct(types)
    table = _json_view(con, files, columns, LINES if lines else LISTS, "*")
    return _numbers(table.mutate(order=ibis.row_number()))


def read_parquet(
    con: ibis.BaseBackend, files: Sequence[pathlib.Path], needed: Sequence[str], mend: str = ""
) -> ir.Table:
    """Parquet files, with at least the columns `needed`; columns are matched by name.

    Raises UserError where two files give a column types that do not go together.
    """
    scans = scan_parquet(con, files)
    for scan in scans:
        sources.require(scan.files[0], list(scan.columns), needed, mend)
        refuse_twice(scan, needed)
    return _union(scans)


def refuse_twice(scan: Scan, names: Mapping[str, str] | Sequence[str]) -> None:
    """Raises UserError if one of these names is that of several columns."""
    for name in names:
        if name in scan.twice:
            raise UserError(
                f"{sources.spoken(scan.files[0])}: two columns are named {name}: rename or remove one"
            )


def _union(scans: list[Scan]) -> ir.Table:
    """One table by the names of columns; `order` goes on from file to file."""
    [first, *others] = scans
    if not others:
        back = {name: column for name, column in first.columns.items() if name not in OWN}
        return first.table.select(*("order",), **{name: first.table[column] for name, column in back.items()})
    names = list(dict.fromkeys(name for scan in scans for name in scan.columns if name not in OWN))
    kinds = {name: _common(name, scans) for name in names}
    parts, before = [], 0
    for scan in scans:
        has = scan.columns
        columns = {
            name: scan.table[has[name]].cast(kinds[name]) if name in has else ibis.null(kinds[name])
            for name in names
        }
        parts.append(scan.table.select(order=(scan.table.order + before).cast("int64"), **columns))
        before += engine.count(scan.table)
    return ibis.union(*parts)


def _common(name: str, scans: list[Scan]) -> Any:
    """A type that holds a column of all scans without loss."""
    types = [
        (scan.table[scan.columns[name]].type().copy(nullable=True), scan)
        for scan in scans
        if name in scan.columns
    ]
    known = [(kind, scan) for kind, scan in types if not kind.is_null()]
    if not known:
        return ibis.dtype("string")
    first, by = known[0]
    for kind, scan in known[1:]:
        if kind == first:
            continue
        if kind.is_integer() and first.is_integer():
            first = ibis.dtype("int64")
        elif kind.is_floating() and first.is_floating():
            first = ibis.dtype("float64")
        elif kind.is_timestamp() and first.is_timestamp():
            first = ibis.dtype("timestamp('UTC')")
        else:
            raise UserError(
                f"column {name} is {first} in {sources.spoken(by.files[0])} and {kind} in "
                f"{sources.spoken(scan.files[0])}: write it as one type"
            )
    return first


# Scans: runs of files that have the same columns.


def scan_csv(
    con: ibis.BaseBackend,
    files: Sequence[pathlib.Path],
    types: Mapping[str, str],
    *,
    names: Sequence[str] | None = None,
    delimiter: str | None = None,
    quote: str = '"',
    encoding: str = "utf-8",
) -> list[Scan]:
    """Scans of delimited text; the arguments are those of ``read_csv``. Empty files are passed over."""
    found = []
    for file in files:
        skip, line = heads.first_line(file, encoding)
        if line or names is not None:
            by = delimiter or heads.delimiter_of(line)
            found.append((tuple(names or heads.split_line(file, line, by, quote)), by, skip, file))
    if not found:
        raise UserError(f"{sources.spoken(files[0])} is empty: give the log itself")
    scans = []
    for (header, by, skip), run in itertools.groupby(found, key=lambda head: head[:3]):
        group = [file for *_, file in run]
        columns, twice = _named(header)
        engine_names = _distinct(header)
        kinds = {
            engine_name: types.get(name, "VARCHAR")
            for name, engine_name in zip(header, engine_names, strict=True)
        }
        if engine.is_spark(con):
            how: Any = {"header": names is None, "delimiter": by, "quote": quote, "encoding": encoding}
            table = spark.read_csv(con, _plain(group), kinds, **how)
        else:
            table = _csv_view(con, group, kinds, by, quote, encoding, names is None, skip)
        scans.append(Scan(table, group, columns, twice, delimiter=by))
    return scans


def _csv_view(
    con: Any,
    files: Sequence[pathlib.Path],
    kinds: Mapping[str, str],
    delimiter: str,
    quote: str,
    encoding: str,
    header: bool,
    skip: int,
) -> ir.Table:
    options = [
        f"columns = {_struct(kinds)}",
        f"delim = {_text(delimiter)}",
        f"quote = {_text(quote[:1])}",
        f"escape = {_text(quote[-1:])}",
        f"header = {header}",
        f"skip = {skip}",
        "auto_detect = false",
        "hive_partitioning = false",
    ]
    if encoding != "utf-8":
        options.append(f"encoding = {_text(encoding)}")
    paths = ", ".join(_text(engine.literal(staging.link(file, ".csv"))) for file in files)
    return _numbered(engine.view(con, f"SELECT * FROM read_csv([{paths}], {', '.join(options)})"))


def scan_parquet(
    con: ibis.BaseBackend, files: Sequence[pathlib.Path], only: Callable[[str], bool] | None = None
) -> list[Scan]:
    """Scans of Parquet files, by their schemas; with the columns of names that are ``only`` these, where given."""
    schemas = []
    for file in files:
        staging.refuse_kind(file, text=False)
        try:
            # Arrow takes the relative path a:/b for an address.
            schemas.append(pq.read_schema(file.absolute()).remove_metadata())
        except (pa.ArrowException, OSError, ValueError) as error:
            raise UserError(engine.explain(sources.spoken(file), error, parquet=True)) from error
    scans = []
    for _, run in itertools.groupby(range(len(files)), key=lambda k: schemas[k]):
        places = list(run)
        schema, group = schemas[places[0]], [files[k] for k in places]
        columns, twice = _named(schema.names)
        if engine.is_spark(con):
            if list(columns.values()) != schema.names:
                engine.refuse_spark(
                    f"columns named {' or '.join(OWN)}, or alike but for case, in Parquet files"
                )
            table = spark.read_parquet(con, _plain(group))
        else:
            paths = ", ".join(_text(engine.literal(staging.link(file, ".parquet"))) for file in group)
            source = f"read_parquet([{paths}], hive_partitioning = false)"
            found = engine.columns(con, source)  # by place: the engine gives names that occur twice another
            own = zip(found, _distinct(schema.names), schema, strict=True)
            parts = [
                f"{_finite(engine.quoted(name), field.type)} AS {engine.quoted(new)}"
                for name, new, field in own
                if only is None or only(field.name)
            ]
            select = ", ".join(parts) or "1 AS nothing"
            table = _numbered(engine.view(con, f"SELECT {select} FROM {source}"))
        scans.append(Scan(table, group, columns, twice, schema=schema))
    return scans


def scan_json(
    con: ibis.BaseBackend, files: Sequence[pathlib.Path], keys: Sequence[str], select: str
) -> list[Scan]:
    """Scans of JSON objects in lists, in lines or over several: expressions ``select`` over values of ``keys``."""
    layouts = [
        (LISTS if heads.is_list(file) else SPREAD if heads.is_spread(file) else LINES, file) for file in files
    ]
    scans = []
    for layout, run in itertools.groupby(layouts, key=lambda pair: pair[0]):
        group = [file for _, file in run]
        table = _json_view(con, group, _struct(dict.fromkeys(keys, "JSON")), layout, select)
        scans.append(Scan(_numbered(table), group, {}))
    return scans


def _json_view(con: Any, files: Sequence[pathlib.Path], columns: str, layout: str, select: str) -> ir.Table:
    paths = [staging.link(file, ".json", strip_bom=True) for file in files]
    names = "[" + ", ".join(_text(os.path.abspath(file)) for file in files) + "]"
    listed = ", ".join(_text(engine.literal(path)) for path in paths)
    options = f"columns = {columns}, format = {_text(layout)}, records = true, hive_partitioning = false"
    # List literals are constants: a lookup a row, however many files there are.
    file = f"{names}[CAST(file_index AS BIGINT) + 1] AS filename" if select == "*" else ""
    parts = ", ".join(part for part in (select, file) if part)
    return engine.view(con, f"SELECT {parts} FROM read_json([{listed}], {options})")


def _finite(name: str, kind: Any) -> str:
    """A column without NaN and infinities, which the statistics of Parquet leave out, so that the engine, which goes
    by these, takes isnan for false."""
    return f"CASE WHEN isfinite({name}) THEN {name} END" if pa.types.is_floating(kind) else name


def _numbers(table: ir.Table) -> ir.Table:
    """The table with finite numbers: text may hold others, which are no rating, time or share."""
    numbers = {name: finite(table[name]) for name, kind in table.schema().items() if kind.is_floating()}
    return table.mutate(**numbers) if numbers else table


def finite(value: Any) -> ir.Value:
    """Doubles, with null for NaN and infinities. Of Parquet see ``_finite``: there the engine is not to be asked."""
    return ibis.ifelse(value.isnan() | value.isinf(), ibis.null("float64"), value)


def _numbered(table: ir.Table) -> ir.Table:
    return table.mutate(order=ibis.row_number())


def _struct(types: Mapping[str, str]) -> str:
    if "" in types:
        raise UserError("a column has an empty name: name it")
    return "{" + ", ".join(f"{_text(name)}: {_text(kind)}" for name, kind in types.items()) + "}"


def _text(value: str) -> str:
    return engine.text(value)


def _named(names: Sequence[str]) -> tuple[dict[str, str], frozenset[str]]:
    """Names of the files -> names of the table; and the names that occur twice."""
    twice = (
        frozenset(name for name in names if list(names).count(name) > 1)
        if len(set(names)) < len(names)
        else ()
    )
    return dict(zip(names, _distinct(names), strict=True)), frozenset(twice)


def _distinct(names: Sequence[str]) -> list[str]:
    """The names, changed where they are those of our columns, or differ from others in case only."""
    found, taken = [], set(OWN)
    for name in names:
        new, number = name, 2
        while new.lower() in taken or not new:
            new, number = f"{name}_{number}", number + 1
        taken.add(new.lower())
        found.append(new)
    return found


def _plain(files: Sequence[pathlib.Path]) -> list[pathlib.Path]:
    """The files, for Spark, which gets them by their names. Raises UserError where it would take one for a pattern."""
    for file in files:
        if re.search(r"[\[\]{}*?\\\n]", str(file.absolute())) or staging.packing(file) == ".zst":
            engine.refuse_spark(f"{sources.spoken(file)}: names with any of []{{}}*?\\, and .zst")
    return list(files)
