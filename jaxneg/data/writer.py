"""Writes a store: columns that grow at their end, tables, and at last the metadata and the swap."""

import contextlib
import dataclasses
import errno
import io
import os
import pathlib
import shutil
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from jaxneg import files
from jaxneg.data.metadata import ARRAYS, Metadata, file_names, values_of
from jaxneg.errors import UserError
from jaxneg.files import arrays as guarded, documents, locks

ROW_GROUP = 1 << 17  # rows of a row group of the parquet files
HEADER = 128  # bytes of a npy header, with room for any length


class Column:
    """A npy file that grows at its end. No memory map, so that a full disk is an error and not a crash."""

    def __init__(self, path: pathlib.Path, dtype: Any, width: int | None = None):
        self.path, self.dtype, self.tail = path, np.dtype(dtype), () if width is None else (width,)
        self.length = 0
        self._file = open(path, "wb")
        self._file.write(self._header())

    def append(self, values: Any) -> None:
        """Adds the values, one by one or, in a column with a width, row by row."""
        values = np.ascontiguousarray(values, self.dtype)
        if values.shape[1:] != self.tail:
            raise ValueError(f"{self.path.name} takes rows of shape {self.tail}, got {values.shape[1:]}")
        self._file.write(values.data if values.size else b"")
        self.length += len(values)

    def close(self) -> None:
        """Completes the file. Closed already: does nothing."""
        if not self._file.closed:
            self._file.seek(0)
            self._file.write(self._header())
            self._file.close()

    def discard(self) -> None:
        """Lets go of the file as it is, which is then worth nothing."""
        try:
            self._file.close()
        except OSError:  # the disk is full: what is buffered cannot be written either
            pass

    def _header(self) -> bytes:
        buffer = io.BytesIO()
        shape = (self.length, *self.tail)
        np.lib.format.write_array_header_1_0(
            buffer, {"descr": self.dtype.str, "fortran_order": False, "shape": shape}
        )
        assert len(buffer.getvalue()) == HEADER
        return buffer.getvalue()


class StoreWriter:
    """Writes a store, as a context. Without ``finish`` nothing remains of it and an older store stays.

    with StoreWriter(out) as writer:
        writer.column("event_item").append(rows)
        ...
        writer.finish(metadata)
    """

    def __init__(self, out: str | os.PathLike):
        self.out = files.local(out, "--out")
        self._target = files.real(out)  # a link keeps pointing to where the store is
        self.path = files.scratch(self._target)
        self.scratch = self.path / "scratch"  # for files that are gone once the store is finished
        self._columns: list[Column] = []
        self._hold = contextlib.ExitStack()

    def __enter__(self) -> "StoreWriter":
        _check_target(self._target)
        with contextlib.ExitStack() as hold:
            try:
                hold.enter_context(locks.held(locks.beside(self._target), f"--out {self.out}"))
                files.clean_beside(self._target)
                _check_target(self._target)
                hold.enter_context(files.unfinished(self.path))
                self.scratch.mkdir(parents=True, exist_ok=True)  # the engine may spill there already
            except OSError as error:
                raise UserError(f"cannot write beside {self.out}: {error.strerror}") from error
            self._hold = hold.pop_all()
        return self

    def __exit__(self, kind, error, trace) -> None:
        for column in self._columns:
            column.discard()
        self._hold.close()
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(f"the disk is full while writing {self.out}: free some space") from error

    def column(self, field: str, width: int | None = None, *, shard: int = 0, shards: int = 1) -> Column:
        """The file of a field of Store, or of one of its shards, to be appended to."""
        name, dtype = ARRAYS[field]
        return self._column(self.path / file_names(name, shards)[shard], dtype, width)

    def scratch_column(self, name: str, dtype: Any) -> Column:
        """A file that is gone once the store is finished."""
        return self._column(self.scratch / f"{name}.npy", dtype, None)

    def _column(self, path: pathlib.Path, dtype: Any, width: int | None) -> Column:
        column = Column(path, dtype, width)
        self._columns.append(column)
        return column

    def table(self, name: str, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> int:
        """Writes a parquet file, the same bytes however the rows come in batches; returns their number."""
        rows = 0
        with pq.ParquetWriter(self.path / f"{name}.parquet", schema) as file:
            for part in _regrouped(batches, schema):
                file.write_table(part, row_group_size=ROW_GROUP)
                rows += len(part)
        return rows

    def finish(self, metadata: Metadata) -> Metadata:
        """Completes the store and puts it in place of an older one. Returns the metadata with file sizes."""
        for column in self._columns:
            column.close()
        shutil.rmtree(self.scratch)
        sizes = {path.name: path.stat().st_size for path in sorted(self.path.iterdir())}
        sums = {name: guarded.sha256(self.path / name) for name in sizes}
        metadata = dataclasses.replace(metadata, files=sizes, sums=sums)
        files.write_json(self.path / "metadata.json", documents.sealed(dataclasses.asdict(metadata)))
        _check_target(self._target)  # hours may have passed
        files.put(self.path, self._target, replace=True)
        return metadata


def _regrouped(batches: Iterable[pa.RecordBatch], schema: pa.Schema) -> Iterator[pa.Table]:
    """The same rows in tables of ROW_GROUP rows, the last one shorter."""
    waiting = schema.empty_table()
    for batch in batches:
        waiting = pa.concat_tables([waiting, pa.Table.from_batches([batch]).cast(schema)])
        while len(waiting) >= ROW_GROUP:
            yield waiting.slice(0, ROW_GROUP).combine_chunks()
            waiting = waiting.slice(ROW_GROUP)
    if len(waiting):
        yield waiting.combine_chunks()


def _check_target(out: pathlib.Path) -> None:
    """Raises UserError if writing ``out`` would destroy anything but a store."""
    if not files.vacant(out) and values_of(out) is None:
        raise UserError(f"{out} exists and is no jaxneg store, so it stays: give --out another directory")
