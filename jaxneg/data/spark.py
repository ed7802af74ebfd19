"""Apache Spark as the query engine: connecting, files to tables with the position of each row, keeping, streaming.

Tables are kept, and results handed over, as Parquet files in the scratch directory, which all executors have to
reach: give --out a place on a disk that they share. The tasks of a cluster sort; one process writes the store.
"""

# PySpark is an extra, and ibis types its expressions at run time.
# pyright: reportMissingImports=false, reportArgumentType=false, reportAttributeAccessIssue=false

import os
import pathlib
import re
import shutil
import tempfile
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import ibis
import ibis.expr.types as ir
import pyarrow as pa
import pyarrow.parquet as pq

from jaxneg.errors import UserError

LOCAL = "^file:/*"  # Spark writes file:/ here and file:/// there
SCRATCH = "jaxneg.scratch"  # key of the session's configuration
# columns that come and go
URI, PIECE, ROW, FIRST = ("jaxneg_uri", "jaxneg_piece", "jaxneg_row", "jaxneg_first")


def connect(memory_limit: str, threads: int, temp_dir: pathlib.Path | None) -> ibis.BaseBackend:
    """A session of Spark: the one of spark-submit or PYSPARK_SUBMIT_ARGS, else a local one of all cores."""
    try:
        from pyspark.sql import SparkSession
    except ImportError as error:
        raise UserError("--engine spark needs PySpark and Java: pip install 'jaxneg[spark]'") from error
    scratch = pathlib.Path(tempfile.mkdtemp(prefix="jaxneg-spark-") if temp_dir is None else temp_dir)
    builder: Any = SparkSession.builder
    builder = builder.appName("jaxneg prepare").config("spark.ui.showConsoleProgress", "false")
    if not {"PYSPARK_GATEWAY_PORT", "PYSPARK_SUBMIT_ARGS"} & os.environ.keys():
        memory = memory_limit.strip().lower().replace("ib", "").removesuffix("b")
        builder = builder.master(f"local[{threads or '*'}]").config("spark.driver.memory", memory)
        builder = builder.config("spark.ui.enabled", "false").config("spark.driver.host", "localhost")
        builder = builder.config("spark.sql.shuffle.partitions", 4 * (threads or os.cpu_count() or 1))
    try:
        session = builder.getOrCreate()
    except Exception as error:
        line = str(error).strip().splitlines()[0]
        raise UserError(
            f"Spark does not start ({line}): is Java installed, and --memory-limit valid?"
        ) from error
    session.sparkContext.setLogLevel("ERROR")
    for key, value in {
        SCRATCH: str(scratch.absolute()),
        "spark.sql.ansi.enabled": "true",  # a cast that fails is an error, as in DuckDB
        "spark.sql.caseSensitive": "true",
        "spark.sql.parquet.inferTimestampNTZ.enabled": "true",
    }.items():
        session.conf.set(key, value)
    return ibis.pyspark.connect(session)  # sets the time zone to UTC


def keep(con: Any, name: str, table: ir.Table) -> ir.Table:
    """The table, computed once."""
    path = _scratch(con) / name
    _frame(con, table).write.parquet(str(path))
    con._session.read.parquet(str(path)).createOrReplaceTempView(name)
    return con.table(name)


def drop(con: Any, name: str) -> None:
    con._session.catalog.dropTempView(name)
    shutil.rmtree(_scratch(con) / name, ignore_errors=True)


def stream(con: Any, table: ir.Table, rows: int) -> Iterator[pa.RecordBatch]:
    """Record batches of a table: its parts are written in parallel, then read in their order."""
    path = pathlib.Path(tempfile.mkdtemp(prefix="stream-", dir=_scratch(con)))
    try:
        frame = _frame(con, table)
        schema = table.schema().to_pyarrow()
        frame.write.mode("overwrite").parquet(str(path))
        for part in sorted(path.glob("part-*.parquet")):
            with pq.ParquetFile(part) as file:
                for batch in file.iter_batches(rows):
                    yield batch.cast(schema)
    finally:
        shutil.rmtree(path, ignore_errors=True)


def fetch(con: Any, table: ir.Table) -> pa.Table:
    """A small table, whole."""
    return _frame(con, table).toArrow().cast(table.schema().to_pyarrow())


def read_csv(
    con: Any,
    files: Sequence[pathlib.Path],
    types: Mapping[str, str],
    *,
    header: bool,
    delimiter: str,
    quote: str,
    encoding: str,
) -> ir.Table:
    """Delimited text with these columns. A task reads a file, as quoted text may run over lines."""
    from pyspark.sql import functions as F

    schema = ", ".join(f"{_quoted(name)} STRING" for name in types)
    reader = con._session.read.schema(schema).options(
        header=header,
        sep=delimiter,
        quote=quote[:1],
        escape=quote[-1:] or "\\",
        encoding=encoding,
        multiLine=True,
        mode="FAILFAST",
        columnPruning=False,
        maxCharsPerColumn=-1,
    )
    frame = reader.csv([str(file.absolute()) for file in files])
    columns = [
        F.expr(f"CAST(NULLIF({_quoted(name)}, '') AS {_type(kind)})").alias(name)
        for name, kind in types.items()
    ]
    return _view(con, _counted(con, frame, files, columns))


def read_json(con: Any, files: Sequence[pathlib.Path], types: Mapping[str, str], *, lines: bool) -> ir.Table:
    """JSON objects, with a column ``filename``."""
    from pyspark.sql import functions as F

    schema = ", ".join(f"{_quoted(name)} {_type(kind)}" for name, kind in types.items())
    reader = con._session.read.schema(schema).options(mode="FAILFAST", multiLine=not lines)
    frame = reader.json([str(file.absolute()) for file in files])
    return _view(con, _counted(con, frame, files, [F.col(_quoted(name)) for name in types], filename=True))


def read_parquet(con: Any, files: Sequence[pathlib.Path]) -> ir.Table:
    """Parquet files of one schema."""
    from pyspark.sql import functions as F

    paths = [str(file.absolute()) for file in files]
    frame = con._session.read.parquet(*paths)
    begin, position = {}, 0
    for path in paths:
        begin[path] = position
        position += pq.read_metadata(path).num_rows
    begins = con._session.createDataFrame(
        [(re.sub(LOCAL, "/", uri), begin[_path(uri)]) for uri in frame.inputFiles()],
        f"`{URI}` STRING, `{FIRST}` BIGINT",
    )
    columns = [F.col(_quoted(name)) for name in frame.columns]
    index = F.col("_metadata.row_index").alias(ROW)
    uri = F.regexp_replace("_metadata.file_path", LOCAL, "/").alias(URI)
    frame = frame.select(*columns, uri, index)
    order = (F.col(_quoted(FIRST)) + F.col(_quoted(ROW))).alias("order")
    return _view(con, frame.join(F.broadcast(begins), URI).select(*columns, order))


def cause(error: Any) -> str:
    """One line out of the many of an error of Spark."""
    text = str(getattr(error, "java_exception", None) or error).strip()
    causes = re.findall(r"^(?:Caused by: )?[\w.$]+(?:Exception|Error): (.+)$", text, re.M)
    return (causes[-1] if causes else text.splitlines()[0] if text else type(error).__name__)[:300]


def _counted(
    con: Any, frame: Any, files: Sequence[pathlib.Path], columns: list[Any], filename: bool = False
) -> Any:
    """The columns, and ``order``, the position of a row in all files; and the file, if asked.

    A task reads its pieces of files line by line, so numbers that rise within each task say where a row stands in
    its piece; one pass counts the rows of the pieces.
    """
    from pyspark.sql import functions as F

    piece = F.col("_metadata.file_path").alias(URI), F.col("_metadata.file_block_start").alias(PIECE)
    names = [_quoted(name) for name in frame.columns]
    frame = frame.select(*frame.columns, *piece, F.monotonically_increasing_id().alias(ROW))
    counted = frame.groupBy(URI, PIECE).agg(F.min(ROW), F.count("*"), *map(F.count, names)).collect()
    number = {str(file.absolute()): k for k, file in enumerate(files)}
    begins, position = [], 0
    for uri, start, first, rows, *_ in sorted(counted, key=lambda row: (number[_path(row[0])], row[1])):
        begins.append((uri, start, position - first, str(files[number[_path(uri)]])))
        position += rows
    schema = f"`{URI}` STRING, `{PIECE}` BIGINT, `{FIRST}` BIGINT, filename STRING"
    begins = F.broadcast(con._session.createDataFrame(begins, schema))
    order = (F.col(_quoted(FIRST)) + F.col(_quoted(ROW))).alias("order")
    return frame.join(begins, [URI, PIECE]).select(*columns, order, *["filename"] * filename)


def _view(con: Any, frame: Any) -> ir.Table:
    name = ibis.util.gen_name("jaxneg_read")
    frame.createOrReplaceTempView(name)
    return con.table(name)


def _frame(con: Any, table: ir.Table) -> Any:
    return con._session.sql(ibis.to_sql(table, dialect="pyspark"))


def _scratch(con: Any) -> pathlib.Path:
    path = pathlib.Path(con._session.conf.get(SCRATCH))
    path.mkdir(parents=True, exist_ok=True)
    return path


def _path(uri: str) -> str:
    return urllib.parse.unquote(urllib.parse.urlsplit(uri).path)


def _type(kind: str) -> str:
    """The name that Spark has for a type of DuckDB."""
    return {"VARCHAR": "STRING"}.get(kind, kind)


def _quoted(name: str) -> str:
    return "`" + name.replace("`", "``") + "`"
