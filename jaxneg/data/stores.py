"""The prepared format on disk, both ends. A store is a directory, read-only once written, and memory-mapped.

    metadata.json           format version, source, settings, counts, the size and SHA-256 of every other file, and
        a checksum of itself
    items.parquet           row (1..items, most frequent first), item, count in training, raw attributes
    stations.parquet        row (from 1), id
    users.parquet           row (from 0), id
    attribute_K.parquet     row (from 1), value of column K of attributes.npy, int32 [V, A], 0 for none
    event_item, event_feedback, event_station, event_time, event_group      one number per event, T in all
        ordered by (user, start of session, session, time); the group numbers (user, station) pairs
        in a large store cut into shards, runs of whole users, of one file each: event_item-00001-of-00004.npy
    session_indptr, session_user, session_train_end, session_valid_end
        session s: [indptr[s], train_end[s]) train, [train_end[s], valid_end[s]) validation, the rest test
    user_indptr, user_group_indptr          ranges of a user's sessions and groups
    negative_indptr, negative_item          a group's negatives of the training window, in order of time
    positive_indptr, positive_item          a user's distinct positives of the training window, ascending

A writer fills a directory beside the target and swaps it in at the end: after a crash the old store or the
new one is there.
"""

import contextlib
import dataclasses
import errno
import functools
import io
import os
import pathlib
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

import jaxneg
from jaxneg import files
from jaxneg.batch import FEEDBACK
from jaxneg.data import checks
from jaxneg.errors import UserError
from jaxneg.files import arrays as guarded, documents, locks
from jaxneg.files.arrays import Damaged

FORMAT = "jaxneg store"
VERSION = 3
READS = (1, 2, 3)  # versions; 1 has no shards, 1 and 2 no checksums
SPLITS = ("train", "validation", "test")
ROW_GROUP = 1 << 17  # rows of a row group of the parquet files
HEADER = 128  # bytes of a npy header, with room for any length

# Field of Store -> file (without .npy) and dtype.
ARRAYS = {
    "item_T": ("event_item", np.int32),
    "feedback_T": ("event_feedback", np.int8),
    "station_T": ("event_station", np.int32),
    "time_T": ("event_time", np.int64),
    "group_T": ("event_group", np.int32),
    "session_indptr": ("session_indptr", np.int64),
    "session_user": ("session_user", np.int32),
    "session_train_end": ("session_train_end", np.int64),
    "session_valid_end": ("session_valid_end", np.int64),
    "user_indptr": ("user_indptr", np.int64),
    "user_group_indptr": ("user_group_indptr", np.int64),
    "negative_indptr": ("negative_indptr", np.int64),
    "negative_item": ("negative_item", np.int32),
    "positive_indptr": ("positive_indptr", np.int64),
    "positive_item": ("positive_item", np.int32),
    "attribute_VA": ("attributes", np.int32),
}
EVENTS = ("item_T", "feedback_T", "station_T", "time_T", "group_T")  # those that may be in shards


@dataclass(frozen=True)
class Metadata:
    """What a store is made of and how it came to be. Also the shape of metadata.json; see ``documents``."""

    reader: str  # name of the source format, "" if prepared from a table
    source: str  # what was read
    settings: dict[str, Any]  # of prepare, defaults filled in
    polarity: dict[str, Literal[-1, 0, 1]]  # feedback kind -> +1, 0, -1
    split: dict[str, Any]  # rule, and its times or shares
    counts: dict[
        str, documents.Count
    ]  # events, items, users, stations, sessions, groups, positives, negatives, out_of_order
    feedback: dict[str, dict[str, documents.Count]]  # split -> feedback kind -> events
    dropped: dict[str, int]  # what was left out, by reason
    attributes: list[dict[str, Any]]  # name and size (number of values) of each column of attribute_VA
    sessions_overlap: bool  # True if a user's sessions overlap in time, so that one may foretell another
    files: dict[str, documents.Count] = dataclasses.field(default_factory=dict)  # bytes of each file
    shards: list[documents.Count] = dataclasses.field(
        default_factory=list
    )  # first events, and the end; [] if one
    sums: dict[str, str] = dataclasses.field(
        default_factory=dict
    )  # SHA-256 of each file; none before version 3
    format: str = FORMAT
    version: int = VERSION
    jaxneg: str = jaxneg.__version__  # that wrote it


class Sharded:
    """Arrays end to end, read as one array is: by slices, by vectors of places, whole by ``np.asarray``.

    Args:
      parts: the arrays.
      check: called with all that is read; raises what is to be raised where it cannot be.
    """

    def __init__(self, parts: Sequence[np.ndarray], check: Callable[[np.ndarray], None] = lambda _: None):
        self.parts, self.check = [np.asarray(part) for part in parts], check
        self.begin = np.cumsum([0, *map(len, self.parts)])  # of each part, and the end
        self.dtype, self.shape, self.ndim = self.parts[0].dtype, (int(self.begin[-1]),), 1

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, place: Any) -> Any:
        if isinstance(place, slice):
            low, high, step = place.indices(len(self))
            if step != 1:
                raise IndexError("a sharded column has slices of step 1 only")
            first = int(np.searchsorted(self.begin, low, "right")) - 1
            last = max(int(np.searchsorted(self.begin, high, "left")), first + 1)
            within = [
                part[max(low - begin, 0) : max(high - begin, 0)]
                for part, begin in zip(self.parts[first:last], self.begin[first:last], strict=False)
            ]
            found = within[0] if len(within) == 1 else np.concatenate(within or [self.parts[0][:0]])
            self.check(found)
            return found
        place = np.asarray(place)
        if place.ndim == 0:
            return self[place[None]][0]
        found = np.empty(place.shape, self.dtype)
        place = np.where(place < 0, place + len(self), place)
        for part, at, inside in self.split(place):
            found[at] = part[inside]
        self.check(found)
        return found

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        whole = self.parts[0] if len(self.parts) == 1 else np.concatenate(self.parts)
        self.check(whole)
        return whole.astype(dtype or self.dtype, copy=bool(copy))

    def split(self, place: np.ndarray) -> Iterator[tuple[np.ndarray, Any, np.ndarray]]:
        """Each part that holds some of these places, where among them these stand, and their places in the part."""
        if place.size and (place.min() < 0 or place.max() >= len(self)):
            raise IndexError(f"a place is outside a column of {len(self)} events")
        shard = np.searchsorted(self.begin, place, side="right") - 1
        for k in np.unique(shard):
            at = np.nonzero(shard == k)
            yield self.parts[k], at, place[at] - self.begin[k]


Events = np.ndarray | Sharded  # a column of events


@dataclass(frozen=True)
class Vocabulary:
    """Raw ids of the catalogue. Item of row r stands at place r - 1."""

    ids: pa.Array  # of strings
    count: np.ndarray  # int64, events in the training window
    attributes: dict[str, pa.Array]  # name -> raw values, null for none

    def __len__(self) -> int:
        return len(self.ids)

    def rows(self, ids: Iterable[str]) -> np.ndarray:
        """int32 rows of raw ids, 0 for ids that are not in the catalogue."""
        place = pc.call_function("index_in", [pa.array(ids, self.ids.type)], pc.SetLookupOptions(self.ids))
        return (pc.fill_null(place, -1).to_numpy(zero_copy_only=False) + 1).astype(np.int32)

    def names(self, rows: np.ndarray | list[int]) -> list[str]:
        """Raw ids of rows of 1 and above."""
        return self.ids.take(pa.array(np.asarray(rows, np.int64) - 1)).to_pylist()


@dataclass(frozen=True)
class Store:
    """A prepared log. Arrays are memory-mapped; the names are those of the module's docstring."""

    path: pathlib.Path
    metadata: Metadata
    item_T: Events
    feedback_T: Events
    station_T: Events
    time_T: Events
    group_T: Events
    session_indptr: np.ndarray
    session_user: np.ndarray
    session_train_end: np.ndarray
    session_valid_end: np.ndarray
    user_indptr: np.ndarray
    user_group_indptr: np.ndarray
    negative_indptr: np.ndarray
    negative_item: np.ndarray
    positive_indptr: np.ndarray
    positive_item: np.ndarray
    attribute_VA: np.ndarray

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> "Store":
        """The store at ``path``. Raises UserError if there is none, or a damaged one, or another version.

        Its arrays are mapped: a store that is cut short in place while it is open ends the process with SIGBUS, as any
        mapped file does. Write beside it and rename, as ``prepare`` and plain rsync do, and rsync --inplace does not.
        """
        path = files.local(path, "store")
        metadata = _metadata(path)
        try:
            checks.names(metadata)
            state = checks.sizes(path, metadata)
            small, known = checks.is_small(metadata), checks.known(state)
            if small and not known:
                checks.sums(path, metadata.files, metadata.sums, lambda *_: None)
            store = cls(path=path, metadata=metadata, **_arrays(path, metadata))
            if not known:
                checks.numbers(store, events=small)
                checks.tables(store)
                checks.remember(state)
            return store if small else store._guarded()
        except Damaged as error:
            raise _damaged(path, error) from error

    def verify(self, seen: checks.Seen = lambda *_: None) -> int:
        """Reads every file and compares its checksum; returns the number of files.

        Raises UserError where one was changed, and on a store from before checksums.

        Args:
          seen: told (bytes done, bytes in all, file) as it goes.
        """
        if not self.metadata.sums:
            raise UserError(
                f"store {self.path} is of format version {self.metadata.version}, which has no checksums: "
                "run jaxneg prepare again to have them"
            )
        try:
            checks.sums(self.path, self.metadata.files, self.metadata.sums, seen)
            checks.numbers(self, events=True)
            self.vocabulary()
        except Damaged as error:
            raise _damaged(self.path, error) from error
        return len(self.metadata.sums)

    def _guarded(self) -> "Store":
        """The same store with columns of events that look at what is read from them."""
        columns = {}
        for field, (name, limit, of) in checks.limits(self).items():
            column = getattr(self, field)
            check = functools.partial(_check_block, self.path, limit, name, of)
            columns[field] = Sharded(column.parts if isinstance(column, Sharded) else [column], check)
        return dataclasses.replace(self, **columns)

    @property
    def items(self) -> int:
        """Items of the catalogue, V - 1: rows 1..items."""
        return len(self.attribute_VA) - 1

    @property
    def users(self) -> int:
        return len(self.user_indptr) - 1

    @property
    def sessions(self) -> int:
        return len(self.session_user)

    @property
    def events(self) -> int:
        return len(self.item_T)

    @property
    def sign(self) -> np.ndarray:
        """int8 [6], polarity of each feedback code: +1, 0, -1."""
        return np.array([self.metadata.polarity.get(kind, 0) for kind in FEEDBACK], np.int8)

    def vocabulary(self) -> Vocabulary:
        """Raw ids and attributes. Raises UserError where the file is damaged."""
        names = {part["name"]: f"attribute_{part['name']}" for part in self.metadata.attributes}
        columns = {"item": pa.string(), "count": pa.int64(), **dict.fromkeys(names.values())}
        try:
            table = guarded.table(self.path / "items.parquet", columns, self.items)
            guarded.check_ids(table["item"], "items.parquet")
            if table["count"].null_count:
                raise Damaged("items.parquet has rows without a count")
        except Damaged as error:
            raise _damaged(self.path, error) from error
        column = {name: table[name].combine_chunks() for name in columns}
        attributes = {name: column[where] for name, where in names.items()}
        return Vocabulary(column["item"], column["count"].to_numpy(), attributes)


def file_names(name: str, shards: int) -> list[str]:
    """Files of a column: NAME.npy, or, of several shards, NAME-00000-of-00004.npy and so on."""
    if shards == 1:
        return [f"{name}.npy"]
    return [f"{name}-{k:05}-of-{shards:05}.npy" for k in range(shards)]


def _damaged(path: pathlib.Path, error: Damaged) -> UserError:
    return UserError(f"store {path} is damaged: {error}; run jaxneg prepare again")


def _check_block(path: pathlib.Path, limit: int, name: str, of: str, values: np.ndarray) -> None:
    try:
        checks.check_block(values, limit, name, of)
    except Damaged as error:
        raise _damaged(path, error) from error


def _arrays(path: pathlib.Path, metadata: Metadata) -> dict[str, Any]:
    """Field of Store -> array. Raises Damaged where a file is not there or no such array."""
    found: dict[str, Any] = {}
    for field, (name, dtype) in ARRAYS.items():
        shards = max(len(metadata.shards) - 1, 1) if field in EVENTS else 1
        files = file_names(name, shards)
        if absent := [file for file in files if file not in metadata.files]:
            raise Damaged(f"metadata.json: files: {absent[0]} is missing")
        parts = [guarded.mapped(path / file, dtype, checks.shape(field)) for file in files]
        found[field] = parts[0] if len(parts) == 1 else Sharded(parts)
        if len(parts) > 1 and found[field].begin.tolist() != metadata.shards:
            raise Damaged(f"shards of {name} differ")
    return found


def _metadata(path: pathlib.Path) -> Metadata:
    if not path.is_dir():
        raise UserError(f"no store at {path}: jaxneg prepare writes one")
    values = _values(path)
    if values is None:
        raise UserError(f"{path} is no jaxneg store, or a half-written one: jaxneg prepare writes one")
    if values.get("version") not in READS:
        raise UserError(
            f"store {path} is of format version {values.get('version')}, and jaxneg {jaxneg.__version__} "
            f"reads versions {READS[0]} to {READS[-1]}: run jaxneg prepare again"
        )
    seal = values.pop(documents.SEAL, None)
    try:
        metadata = documents.shaped(values, Metadata)
        if metadata.version >= 3:
            documents.check_seal(values, seal)
        return metadata
    except documents.Wrong as error:
        raise _damaged(path, Damaged(f"metadata.json: {error}")) from error


def _values(path: pathlib.Path) -> dict[str, Any] | None:
    """The metadata of a store, of whatever version; None if ``path`` is none."""
    try:
        values = documents.loaded(documents.content(path / "metadata.json"))
        return values if values["format"] == FORMAT else None
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None
    except (ValueError, KeyError, TypeError):
        return None
    except OSError as error:
        if error.errno in guarded.ELSEWHERE:
            return None
        raise UserError(f"{path / 'metadata.json'} cannot be read: {error.strerror or error}") from error


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
    if not files.vacant(out) and _values(out) is None:
        raise UserError(f"{out} exists and is no jaxneg store, so it stays: give --out another directory")
