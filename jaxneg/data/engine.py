"""The query engine behind ibis: connecting, keeping, streaming, errors that a user can read.

DuckDB is embedded; where one machine ends, Spark (``data/spark.py``) gives the same store, bit for bit.
"""

import contextlib
import gzip
import pathlib
import re
from collections.abc import Iterator
from typing import Any, NoReturn

import duckdb
import ibis
import ibis.expr.operations as ops
import ibis.expr.types as ir
import pyarrow as pa
from ibis.common.exceptions import IbisError

from jaxneg.data import spark, staging
from jaxneg.errors import UserError


def connect(
    memory_limit: str = "2GB", threads: int = 0, temp_dir: pathlib.Path | None = None, engine: str = "duckdb"
) -> ibis.BaseBackend:
    """An embedded DuckDB that spills to `temp_dir` beyond its memory limit and never goes to the network; or Spark.

    Args:
      memory_limit: as in "2GB" or "800MB".
      threads: 0 takes one per core.
      temp_dir: where to spill; None takes DuckDB's default, `.tmp` in the working directory.
      engine: "duckdb" or "spark".
    """
    if engine == "spark":
        return spark.connect(memory_limit, threads, temp_dir)
    settings: dict[str, Any] = {"memory_limit": memory_limit, "autoinstall_known_extensions": False}
    if threads:
        settings["threads"] = threads
    if temp_dir is not None:
        settings["temp_directory"] = str(temp_dir)
    try:
        con = ibis.duckdb.connect(**settings)
    except duckdb.Error as error:
        raise UserError(
            f"the query engine does not start with memory limit {memory_limit!r}: {_line(error)}"
        ) from error
    con.raw_sql("SET GLOBAL TimeZone = 'UTC'").fetchall()
    # DuckDB makes a join of every list of words, wherever a query repeats it: half of the time of a small log.
    con.raw_sql("SET GLOBAL disabled_optimizers = 'in_clause'").fetchall()
    return con


@contextlib.contextmanager
def reading(source: object) -> Iterator[None]:
    """Turns errors of the engine into a UserError of one line: the file, line, column and value at fault.

    Tables are lazy: wrap whatever executes them as well as the call of a reader.
    """
    try:
        yield
    except UserError as error:
        if (text := staging.original(str(error))) == str(error):
            raise
        raise UserError(text) from error
    except (
        duckdb.Error,
        IbisError,
        pa.ArrowException,
        EOFError,
        UnicodeDecodeError,
        gzip.BadGzipFile,
    ) as error:
        raise UserError(explain(str(source), error)) from error
    except OSError as error:
        # Arrow streams carry DuckDB's message in an OSError without a number.
        reason = error.strerror if error.errno else None
        line = f"{error.filename or source}: {reason}" if reason else explain(str(source), error)
        raise UserError(staging.original(line)) from error
    except Exception as error:
        if not type(error).__module__.startswith(("pyspark", "py4j")):
            raise
        raise UserError(staging.original(f"{source}: {spark.cause(error)}")) from error


def stream(table: ir.Table, rows: int = 1 << 17, *, apart: bool = False) -> Iterator[pa.RecordBatch]:
    """Record batches of an executed table, never held as a whole.

    The connection is busy until the stream ends or is closed, unless ``apart`` gives the stream one of its own,
    which sees tables but no views.

    Stands in for ibis' to_pyarrow_batches, which calls a method that DuckDB 2.0 no longer has.
    """
    con: Any = table.get_backend()
    if is_spark(con):
        yield from spark.stream(con, table, rows)
        return
    own = con.con.cursor() if apart else con.con
    reader = own.sql(_query(con, table)).to_arrow_reader(rows)
    try:
        yield from reader
    finally:
        reader.close()
        if apart:
            own.close()


def is_spark(con: ibis.BaseBackend) -> bool:
    return con.name == "pyspark"


def keep(con: Any, name: str, table: ir.Table) -> ir.Table:
    """The table, computed once and kept under a name."""
    if is_spark(con):
        return spark.keep(con, name, table)
    # Not a temporary one, which other connections would not see; nor ibis' own, which asks four things more.
    schema = table.schema()
    columns = ", ".join(column.sql("duckdb") for column in schema.to_sqlglot_column_defs("duckdb"))
    con.con.execute(f"CREATE TABLE {quoted(name)} ({columns})")
    con.con.execute(f"INSERT INTO {quoted(name)} {_query(con, table)}").fetchall()
    return ops.DatabaseTable(name, schema=schema, source=con).to_expr()


def drop(con: Any, name: str) -> None:
    """Frees a table that was kept."""
    if is_spark(con):
        spark.drop(con, name)
    else:
        # Not ibis' drop_table: it writes a statement that DuckDB 2.0 rejects.
        con.raw_sql(f"DROP TABLE IF EXISTS {quoted(name)}")


def fetch(table: ir.Table) -> pa.Table:
    """A small table, whole."""
    con: Any = table.get_backend()
    if is_spark(con):
        return spark.fetch(con, table)
    # Not as Arrow, for which the engine plans the query twice.
    rows, schema = con.con.execute(_query(con, table)).fetchall(), table.schema().to_pyarrow()
    columns = zip(*rows, strict=True) if rows else [() for _ in schema]
    arrays = [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)]
    return pa.table(arrays, schema=schema)


def _query(con: Any, table: ir.Table) -> str:
    """A table as SQL; what it holds of memory is made known to the engine."""
    con._run_pre_execute_hooks(table)
    return con.compile(table)


def count(table: ir.Table) -> int:
    """Rows of a table."""
    return fetch(table.agg(rows=table.count()))["rows"][0].as_py()


def view(con: Any, query: str) -> ir.Table:
    """A query of DuckDB as a table, computed anew each time it is read."""
    name = ibis.util.gen_name("jaxneg_view")
    con.con.execute(f"CREATE TEMP VIEW {name} AS {query}")
    return con.table(name)


def columns(con: Any, source: str) -> list[str]:
    """The names that DuckDB gives to the columns of a source."""
    return [row[0] for row in con.con.execute(f"DESCRIBE SELECT * FROM {source}").fetchall()]


def literal(path: str) -> str:
    """A path as a pattern that no other file matches."""
    return re.sub(r"([*?[])", r"[\1]", path)


def text(value: str) -> str:
    """A constant of SQL."""
    return "'" + value.replace("'", "''") + "'"


def quoted(name: str) -> str:
    """A name of SQL."""
    return '"' + name.replace('"', '""') + '"'


def refuse_spark(what: str) -> NoReturn:
    """Raises UserError: what DuckDB reads and Spark does not."""
    raise UserError(f"--engine spark does not read {what}: use --engine duckdb")


def _line(error: BaseException) -> str:
    text = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return re.sub(r"^(\w+ )*Error: ", "", text)


def explain(source: str, error: BaseException, *, parquet: bool = False) -> str:
    """One line for the user out of the many of an engine's error; ``parquet`` says what the file is."""
    return " ".join(staging.original(_explained(source, error, parquet)).split())


def _explained(source: str, error: BaseException, parquet: bool) -> str:
    text, again = str(error), "fetch or write the file again"
    places = (r"^\s*file ?= ?(.+)$", r"[Ff]ile ['\"]([^'\"\n]+)['\"]", r"GZIP stream: (.+)$")
    path = next((found for place in places if (found := re.search(place, text, re.M))), None)
    file = path.group(1).strip() if path else source
    if isinstance(error, duckdb.OutOfMemoryException):
        if re.search(r"temp_directory|temp_dir|disk", text, re.I):
            return (
                f"{source}: the disk for temporary files is full or limited ({_line(error)}): free some space"
            )
        return f"{source}: the query engine is out of memory ({_line(error)}): give it a larger memory limit"
    if "No space left" in text:
        return f"{source}: the disk is full ({_line(error)}): free some space"
    if "GZIP" in text or isinstance(error, EOFError | gzip.BadGzipFile):
        reason = _line(error).split(": ")[0]
        return f"{file}: its gzip stream is cut off or damaged ({reason}): {again}"
    if isinstance(error, UnicodeDecodeError):
        return f"{file}: is not UTF-8 text ({error.reason} at byte {error.start}): convert it"
    line = re.search(r"CSV Error on Line: (\d+)", text)
    where = f"{file}, line {line.group(1)}" if line else file
    if "state machine reached an invalid state" in text:
        return (
            f"{file}: its lines end in different ways (line feed here, carriage return there), or a quoted value "
            "goes on behind its quote: write it with one kind of line end"
        )
    if line and "unterminated quote" in text:
        return (
            f"{where}: a value opens a quote that does not close: if the file quotes nothing give --quoting none, if "
            'it writes quotes as \\" give --quoting backslash, else correct or remove the row'
        )
    if line and "Invalid unicode" in text:
        return f"{where}: is not UTF-8 text: convert it"
    if line and "aximum line size" in text:
        return (
            f"{where}: a line is longer than 2 MB (a quote that does not close?): correct or remove the row"
        )
    if wrong := re.search(r'column "(.*?)"\. Could not convert string "(.*?)" to \'(.*?)\'', text, re.S):
        name, value, kind = wrong.groups()
        return (
            f"{where}: column {name} holds {value!r}, which is not {_spoken(kind)}: correct or remove the row"
        )
    if counts := re.search(r"Expected Number of Columns: (\d+) Found: (\d+)", text):
        wanted, found = counts.groups()
        return f"{where}: has {found} columns instead of {wanted} (cut off?): correct or remove the row"
    if line:
        reason = next(
            (part for part in text.splitlines()[1:] if part and not part.startswith("Original")), "unreadable"
        )
        return f"{where}: {reason}: correct or remove the row"
    if wrong := re.search(
        r"Could not convert string ['\"](.*?)['\"] to (\w+)(?:.*source column (\w+))?", text, re.S
    ):
        value, kind, name = wrong.groups()
        what = f"{_column(name)} holds {value!r}, which is not {_spoken(kind)}"
        return f"{where}: {what}: correct or remove the row"
    if wrong := re.search(
        r'timestamp field (?:format|value out of range).*?"(.*?)"(?:.*source column (\w+))?', text, re.S
    ):
        value, name = wrong.groups()
        return (
            f"{where}: {_column(name)} holds {value!r}, which is no time: use numbers or YYYY-MM-DD HH:MM:SS"
        )
    if wrong := re.search(
        r"JSON transform error in file .*?, in (.*?): Failed to cast value to (.*?): (.*)", text
    ):
        place, kind, value = wrong.groups()
        return f"{file}, {place}: value {value} is not {kind}: correct or remove the record"
    if wrong := re.search(r"Expected OBJECT, but got (\w+)", text):
        place = re.search(r"in line (\d+)", text)
        where = f"{file}, line {place[1]}" if place else file
        return (
            f"{where}: holds {wrong[1].lower()} where a JSON object is expected: correct or remove the record"
        )
    if (
        parquet
        or "Malformed JSON" in text
        or "parquet" in text.lower()
        or "magic bytes" in text
        or "don't know what type" in text
    ):
        return f"{file}: damaged or half-written ({_line(error).rstrip('. ')}): {again}"
    return f"{where}: {_line(error)}"


def _column(name: str | None) -> str:
    return f"column {name}" if name else "a column"


def _spoken(kind: str) -> str:
    kind = kind.upper()
    spoken = {
        "INT": "a whole number",
        "DOUBLE": "a number",
        "FLOAT": "a number",
        "BOOL": "true or false",
        "TIME": "a time",
    }
    return next((word for name, word in spoken.items() if name in kind), kind)
