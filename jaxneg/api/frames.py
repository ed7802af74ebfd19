"""Frames of pandas, polars, arrow and others that speak their protocols, as files that readers read."""

import pathlib
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import interchange

from jaxneg.errors import UserError

SPEAKS = ("__arrow_c_stream__", "__arrow_c_array__", "__dataframe__")


def is_frame(log: Any) -> bool:
    """Whether a log is a frame in memory, and no path."""
    return isinstance(log, pa.Table | pa.RecordBatch | pa.RecordBatchReader) or any(
        hasattr(log, name) for name in SPEAKS
    )


def write(frame: Any, path: pathlib.Path) -> None:
    """Writes a frame as Parquet. Raises UserError where it holds what no column can, and on columns of one name."""
    found = _table(frame)
    if repeated := [name for name in found.column_names if found.column_names.count(name) > 1]:
        raise UserError(f"the frame has several columns {repeated[0]}: rename one")
    try:
        pq.write_table(found, path)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise UserError(f"the frame cannot be read: {_line(error)}") from error


def _table(frame: Any) -> pa.Table:
    try:
        if isinstance(frame, pa.Table):
            return frame
        if isinstance(frame, pa.RecordBatchReader):
            return frame.read_all()
        if any(hasattr(frame, name) for name in SPEAKS[:2]):
            return _plain(pa.table(frame))
        return _plain(interchange.from_dataframe(frame))
    except (pa.ArrowException, TypeError, ValueError, NotImplementedError, RuntimeError) as error:
        raise UserError(f"the frame cannot be read: {_line(error)}") from error


def _plain(table: pa.Table) -> pa.Table:
    """Without the index that pandas brings along where rows were left out, which is no column of the log."""
    names = [name for name in table.column_names if not name.startswith("__index_level_")]
    return table.select(names)


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())
