"""Files to lazy tables: which files a source holds, their headers, and one table for all of them.

Each table has a column `order`, the row's position in the source. The row number also keeps DuckDB from
pushing casts into its CSV scan, where a try_cast fails as a cast does.
"""

# pyright: reportArgumentType=false
# (ibis' stubs lack what its DuckDB backend takes)

import codecs
import contextlib
import csv
import fnmatch
import gzip
import io
import itertools
import json
import pathlib
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import ibis
import ibis.expr.types as ir

from jaxneg.data import engine, spark
from jaxneg.errors import UserError


def find(source: pathlib.Path, patterns: Sequence[str], mend: str) -> list[pathlib.Path]:
    """Files to read: `source` if it is a file, else those below it whose name matches, gzipped or not.

    Order of names, with numbers by value (9 before 10). Raises UserError, ending in `mend`, if there is none.
    """
    if source.is_file():
        return [source]
    if not source.is_dir():
        raise UserError(f"no file or directory {source}: give the path of the log")
    found = [
        path
        for path in source.rglob("*")
        if path.is_file()
        and any(fnmatch.fnmatchcase(path.name.removesuffix(".gz"), name) for name in patterns)
    ]
    if not found:
        raise UserError(f"{source} holds no file named {' or '.join(patterns)} (or .gz): {mend}")
    return sorted(found, key=natural_key)


def natural_key(path: pathlib.Path) -> list[Any]:
    """Sort key of a path in which numbers count by value."""
    return [
        (int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", str(path)) if part
    ]


def require(file: pathlib.Path, columns: Sequence[str], needed: Sequence[str], mend: str = "") -> None:
    """Raises UserError naming the columns that a file lacks and those that it has."""
    missing = [name for name in needed if name not in columns]
    if missing:
        plural = "s" if len(missing) > 1 else ""
        have = ", ".join(columns[:30]) or "none"
        raise UserError(
            f"{file}: column{plural} {', '.join(missing)} missing; it has {have}"
            + (f": {mend}" if mend else "")
        )


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
    """Delimited text, gzipped or not. Columns are text unless `types` says otherwise.

    Args:
      types: DuckDB types of the columns that have to be there; "VARCHAR" for text.
      names: columns of files without header; None reads the header of each file, which must be the same.
      delimiter: None takes tab, semicolon or comma, whichever the header holds most of.
      quote: empty for files that quote nothing.
    """
    header = names is None
    if names is None:
        with _open(files[0], encoding) as first:
            line = first.readline()
        delimiter = delimiter or max("\t;,", key=line.count)
        names = _split(line, delimiter, quote)
        if not names or len(set(names)) < len(names):
            raise UserError(
                f"{files[0]}: the first line is no header with a name for each column: {line.strip()[:80]!r}"
            )
        require(files[0], names, list(types), mend)
        for file in files[1:]:
            with _open(file, encoding) as other:
                if _split(other.readline(), delimiter, quote) != names:
                    raise UserError(f"{file}: its header is not that of {files[0]}: give files of one kind")
    columns = {name: types.get(name, "VARCHAR") for name in names}
    if engine.is_spark(con):
        assert delimiter is not None
        how: Any = {"header": header, "delimiter": delimiter, "quote": quote, "encoding": encoding}
        return spark.read_csv(con, files, columns, **how)
    options: dict[str, Any] = {"header": header, "delim": delimiter, "quote": quote, "escape": quote}
    if encoding != "utf-8":
        options["encoding"] = encoding
    table = con.read_csv([str(file) for file in files], columns=columns, **options)
    return table.mutate(order=ibis.row_number())


def read_json(
    con: ibis.BaseBackend, files: Sequence[pathlib.Path], types: Mapping[str, str], *, lines: bool
) -> ir.Table:
    """JSON objects, one a line or in lists, gzipped or not.

    Columns are those of `types`, null where an object has no such key, and `filename`.
    """
    if engine.is_spark(con):
        return spark.read_json(con, files, types, lines=lines)
    layout = "newline_delimited" if lines else "array"
    table = con.read_json([str(file) for file in files], columns=dict(types), format=layout, filename=True)
    return table.mutate(order=ibis.row_number())


def read_parquet(
    con: ibis.BaseBackend, files: Sequence[pathlib.Path], needed: Sequence[str], mend: str = ""
) -> ir.Table:
    """Parquet files of one schema, with at least the columns `needed`."""
    if engine.is_spark(con):
        table = spark.read_parquet(con, files)
    else:
        table = con.read_parquet([str(file) for file in files]).mutate(order=ibis.row_number())
    require(files[0], table.columns, needed, mend)
    return table


def first_object(file: pathlib.Path, *, lines: bool) -> dict[str, Any] | None:
    """First object of a JSON list or of JSON lines, None if empty. Raises UserError if it is neither."""
    with _open(file, "utf-8-sig") as text:
        head = (text.readline() if lines else text.read(1 << 20)).strip()
    if not lines:
        if head and not head.startswith("["):
            raise UserError(f"{file} is no JSON list of objects: give the file as it was exported")
        head = head[1:].strip().removeprefix("]")
    if not head:
        return None
    try:
        value, _ = json.JSONDecoder().raw_decode(head)
    except ValueError as error:
        raise UserError(f"{file}: not readable as JSON ({error}): fetch or write the file again") from error
    if not isinstance(value, dict):
        raise UserError(f"{file}: holds {type(value).__name__} where JSON objects are expected")
    return value


def first_lines(file: pathlib.Path, count: int, encoding: str = "utf-8") -> list[str]:
    """Up to `count` lines from the start of a text file, without their ends."""
    with _open(file, encoding) as text:
        return [line.rstrip("\r\n") for line in itertools.islice(text, count)]


def is_utf8(file: pathlib.Path) -> bool:
    """Whether a whole file is UTF-8. Reads it all: for small files beside a log."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    with gzip.open(file, "rb") if file.suffix == ".gz" else file.open("rb") as raw:
        try:
            while block := raw.read(1 << 20):
                decoder.decode(block)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            return False
    return True


@contextlib.contextmanager
def _open(file: pathlib.Path, encoding: str) -> Iterator[io.TextIOWrapper]:
    encoding = "utf-8-sig" if encoding == "utf-8" else encoding
    try:
        with gzip.open(file, "rb") if file.suffix == ".gz" else file.open("rb") as raw:
            yield io.TextIOWrapper(raw, encoding=encoding)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        again = "fetch or write the file again"
        raise UserError(f"{file}: its gzip stream is cut off or damaged ({error}): {again}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: is not {encoding} text ({error.reason}): convert it") from error


def _split(line: str, delimiter: str, quote: str) -> list[str]:
    line = line.rstrip("\r\n")
    quotes = {"quotechar": quote} if quote else {"quoting": csv.QUOTE_NONE}
    names = next(csv.reader([line], delimiter=delimiter, **quotes), [])
    return [name or f"column{number}" for number, name in enumerate(names)]  # an index often has no name
