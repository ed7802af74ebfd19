"""The prepared format on disk. A store is a directory, read-only once written, and memory-mapped.

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

A writer (see ``writer``) fills a directory beside the target and swaps it in at the end: after a crash the old
store or the new one is there.
"""

import dataclasses
import functools
import os
import pathlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from jaxneg.batch import FEEDBACK
from jaxneg.data import checks
from jaxneg.data.metadata import ARRAYS, EVENTS, Metadata, damaged, file_names, named as named, read
from jaxneg.data.shards import Events, Sharded
from jaxneg.errors import UserError
from jaxneg.files import addresses, arrays as guarded
from jaxneg.files.arrays import Damaged

SPLITS = ("train", "validation", "test")


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
        path = addresses.local(path, "store", addresses.STORE)
        metadata = read(path)
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
            raise damaged(path, error) from error

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
            raise damaged(self.path, error) from error
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
            raise damaged(self.path, error) from error
        column = {name: table[name].combine_chunks() for name in columns}
        attributes = {name: column[where] for name, where in names.items()}
        return Vocabulary(column["item"], column["count"].to_numpy(), attributes)


def _check_block(path: pathlib.Path, limit: int, name: str, of: str, values: np.ndarray) -> None:
    try:
        checks.check_block(values, limit, name, of)
    except Damaged as error:
        raise damaged(path, error) from error


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
