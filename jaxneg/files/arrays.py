"""Arrays and tables of files that jaxneg wrote, read without believing them: checksums, npy, npz, parquet.

Whatever is wrong with a file, the error is a Damaged of one line. No more memory is asked for than the file, or what
the caller expects to find in it, accounts for.
"""

import errno
import hashlib
import lzma
import math
import os
import pathlib
import stat
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from jaxneg.errors import UserError

BLOCK = 1 << 20  # bytes of a file that are hashed at a time
PASS = 1 << 20  # numbers that are looked at at a time
INFLATES = 200  # how many times a parquet file its contents may be
SEARCHED = 1 << 24  # ids among which doubles are looked for: more take gigabytes

# What the libraries raise on bytes that are not what they should be.
TROUBLES = (
    OSError,
    ValueError,
    TypeError,
    LookupError,
    SyntaxError,
    EOFError,
    OverflowError,
    MemoryError,
    AttributeError,
    RuntimeError,
    struct.error,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    pa.ArrowException,
)
# What the system says of a path where something else lies than was written; all else is no damage.
ELSEWHERE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EISDIR, errno.EINVAL, None)


class Damaged(ValueError):
    """What is wrong with a file, beginning with its name."""


def sha256(path: pathlib.Path, seen: Callable[[int], None] = lambda _: None) -> str:
    """The SHA-256 of a file, read by blocks; ``seen`` is told the bytes of each."""
    found = hashlib.sha256()
    with open(path, "rb", buffering=0) as file:
        while block := file.read(BLOCK):
            found.update(block)
            seen(len(block))
    return found.hexdigest()


def size_of(path: pathlib.Path) -> int:
    """Bytes of a file. Raises Damaged where it is missing, or is something else than a file."""
    try:
        found = path.stat()
    except FileNotFoundError as error:
        raise Damaged(f"{path.name} is missing") from error
    except OSError as error:
        raise _unread(error, path) from error
    if not stat.S_ISREG(found.st_mode):
        raise Damaged(f"{path.name} is no file")
    return found.st_size


def _unread(error: BaseException, path: pathlib.Path, kind: str = "") -> Exception:
    """What to say of a file that could not be read: is it damaged, or is it the system that would not?"""
    if isinstance(error, OSError) and error.errno not in ELSEWHERE:
        return UserError(f"{path} cannot be read: {error.strerror or error}")
    if isinstance(error, Damaged | UserError):
        return error
    return Damaged(f"{path.name} {kind or 'cannot be read'}: {line(error)}")


def mapped(path: pathlib.Path, dtype: Any, shape: Sequence[int | None]) -> np.ndarray:
    """A memory-mapped npy file of a dtype and a shape, None where any length will do. Raises Damaged."""
    size = size_of(path)
    try:
        with open(path, "rb") as file:
            found, fortran, kind = _header(file)
            offset = file.tell()
    except TROUBLES as error:
        raise _unread(error, path, "has no header of a npy file") from error
    if kind != np.dtype(dtype):
        raise Damaged(f"{path.name} holds {kind}, not {np.dtype(dtype)}")
    if fortran and len(found) > 1:
        raise Damaged(f"{path.name} is laid out by columns")
    fits = len(found) == len(shape) and all(a in (None, b) for a, b in zip(shape, found, strict=True))
    if not fits or any(length < 0 for length in found):
        wanted = ", ".join("any" if length is None else str(length) for length in shape)
        raise Damaged(f"{path.name} is of shape {_short(found)}, not ({wanted})")
    if size != offset + math.prod(found) * kind.itemsize:
        raise Damaged(f"{path.name} has {size:,} bytes, which are not those of its shape {_short(found)}")
    try:
        if math.prod(found) == 0:
            return np.load(path, mmap_mode=None, allow_pickle=False)
        return np.memmap(path, kind, mode="r", offset=offset, shape=found)
    except TROUBLES as error:
        raise _unread(error, path) from error


def _header(file: Any) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = np.lib.format.read_magic(file)
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    shape, fortran, kind = readers[version](file)
    if kind.hasobject or not all(type(length) is int for length in shape):
        raise ValueError("a header that is none")
    return shape, fortran, kind


def npz(path: pathlib.Path, largest: int = 1 << 31) -> dict[str, np.ndarray]:
    """Arrays of an npz file by name, of ``largest`` bytes, or some times those of the file, in all. Raises Damaged."""
    largest = max(largest, 8 * size_of(path))
    try:
        total = 0
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            if len(set(names)) < len(names):
                raise Damaged(f"{path.name} holds an array twice")
            for name in names:
                with archive.open(name) as member:
                    shape, _, kind = _header(member)
                    has = archive.getinfo(name).file_size - member.tell()
                asked = math.prod(shape) * kind.itemsize
                if min(shape, default=0) < 0 or has != asked:
                    raise Damaged(
                        f"{path.name}: {name} has {has:,} bytes, not those of {_short(shape)} {kind}"
                    )
                total += asked
            if total > largest:
                raise Damaged(f"{path.name} asks for {total:,} bytes")
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except TROUBLES as error:
        raise _unread(error, path, "is no npz file, or a damaged one") from error


def table(path: pathlib.Path, columns: Mapping[str, pa.DataType | None], rows: int | None) -> pa.Table:
    """These columns of a parquet file of so many rows, each in one chunk. Raises Damaged on other types and numbers.

    Args:
      path: of the file.
      columns: name -> type, None for any.
      rows: that were written; None for any number.
    """
    size_of(path)
    try:
        with pq.ParquetFile(path.absolute(), thrift_string_size_limit=1 << 24) as file:
            _check_footer(file, path, columns, rows)
            found = file.read(list(columns))
        found.validate(full=True)
    except TROUBLES as error:
        raise _unread(error, path, "is no parquet file, or a damaged one") from error
    if rows is not None and len(found) != rows:
        raise Damaged(f"{path.name} has {len(found):,} rows, and {rows:,} were written")
    # A whole column in one chunk, also when there is no row group.
    arrays = {n: pa.concat_arrays(found[n].chunks or [pa.array([], found[n].type)]) for n in columns}
    return pa.table(arrays)


def columns(path: pathlib.Path) -> list[str]:
    """Names of the columns of a parquet file. Raises Damaged where it is none."""
    size_of(path)
    try:
        with pq.ParquetFile(path.absolute(), thrift_string_size_limit=1 << 24) as file:
            return list(file.schema_arrow.names)
    except TROUBLES as error:
        raise _unread(error, path, "is no parquet file, or a damaged one") from error


def check_footer(path: pathlib.Path, columns: Mapping[str, pa.DataType | None], rows: int) -> None:
    """Raises Damaged unless a parquet file says that it has these columns and rows; does not read them."""
    size_of(path)
    try:
        with pq.ParquetFile(path.absolute(), thrift_string_size_limit=1 << 24) as file:
            _check_footer(file, path, columns, rows)
    except TROUBLES as error:
        raise _unread(error, path, "is no parquet file, or a damaged one") from error


def _check_footer(
    file: pq.ParquetFile, path: pathlib.Path, columns: Mapping[str, Any], rows: int | None
) -> None:
    schema = file.schema_arrow
    for name, kind in columns.items():
        at = schema.get_all_field_indices(name)
        if len(at) != 1:
            raise Damaged(f"{path.name} has {'no' if not at else 'more than one'} column {name}")
        if kind is not None and not _alike(schema.field(at[0]).type, kind):
            raise Damaged(f"{path.name}: column {name} holds {schema.field(at[0]).type}, not {kind}")
    if rows is not None and file.metadata.num_rows != rows:
        raise Damaged(f"{path.name} has {file.metadata.num_rows:,} rows, and {rows:,} were written")
    asked = sum(file.metadata.row_group(k).total_byte_size for k in range(file.metadata.num_row_groups))
    if asked > INFLATES * max(path.stat().st_size, 1 << 20):
        raise Damaged(f"{path.name} asks for {asked:,} bytes")


def check_ids(ids: pa.ChunkedArray, name: str) -> None:
    """Raises Damaged where an id is none, or stands twice."""
    if ids.null_count:
        raise Damaged(f"{name} has rows without an id")
    if len(ids) <= SEARCHED and pc.call_function("count_distinct", [ids]).as_py() < len(ids):
        raise Damaged(f"{name} has an id twice")


def _alike(found: pa.DataType, wanted: pa.DataType) -> bool:
    """The same type; texts may be of the long or the short kind."""
    texts = (pa.types.is_string, pa.types.is_large_string)
    return found == wanted or all(any(one(kind) for one in texts) for kind in (found, wanted))


def check_within(array: np.ndarray, limit: int, name: str, of: str) -> None:
    """Raises Damaged unless all values are in [0, limit).

    Args:
      array: whole numbers.
      limit: one more than the largest.
      name: of the file.
      of: what the values number, as "items".
    """
    worst = outside(array, limit)
    if worst is not None:
        raise Damaged(f"{name} holds {worst}, which is none of the {limit:,} {of}")


def outside(array: np.ndarray, limit: int) -> int | None:
    """A value that is not in [0, limit), or None. One pass, a block at a time."""
    flat = array.reshape(-1)
    unsigned = np.dtype(f"u{array.dtype.itemsize}")
    for start in range(0, len(flat), PASS):
        part = np.ascontiguousarray(flat[start : start + PASS])
        # Read as unsigned, what is below 0 is above everything.
        if int(part.view(unsigned).max()) >= limit:
            return int(part[np.argmax(part.view(unsigned))])
    return None


def check_ranges(indptr: np.ndarray, total: int, name: str) -> None:
    """Raises Damaged unless ``indptr`` ascends from 0 to ``total``, so that all ranges lie within it."""
    if len(indptr) == 0 or indptr[0] != 0 or indptr[-1] != total:
        ends = f"{indptr[0]:,} to {indptr[-1]:,}" if len(indptr) else "nothing"
        raise Damaged(f"{name} goes from {ends}, not from 0 to {total:,}")
    check_ascending(indptr[:-1], indptr[1:], name)


def check_ascending(low: np.ndarray, high: np.ndarray, name: str) -> None:
    """Raises Damaged unless low <= high everywhere."""
    for start in range(0, len(low), PASS):
        wrong = low[start : start + PASS] > high[start : start + PASS]
        if wrong.any():
            raise Damaged(
                f"{name} has a range that ends before it begins, at place {start + int(np.argmax(wrong)):,}"
            )


def _short(shape: tuple[int, ...]) -> str:
    return f"({', '.join(str(length) for length in shape)})"[:60]


def line(error: BaseException) -> str:
    lines = str(error).splitlines()
    return lines[0][:120] if lines else type(error).__name__


def identity(path: pathlib.Path) -> tuple[Any, ...]:
    """What changes when a file does: where it is, its size and times."""
    found = os.stat(path)
    return os.path.realpath(path), found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
