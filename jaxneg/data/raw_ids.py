"""The raw ids behind the rows of a model: of items, stations and the values of attributes.

A run keeps those of its store, so that another run can take over its rows when the store is gone.
"""

import pathlib
import shutil
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from jaxneg import files
from jaxneg.data import events, stores
from jaxneg.errors import UserError
from jaxneg.files import arrays

ITEMS, STATIONS = "items.parquet", "stations.parquet"


@dataclass(frozen=True)
class Ids:
    """Ids by row; that of row r stands at place r - 1."""

    values: Any  # an arrow array of strings

    def __len__(self) -> int:
        return len(self.values)

    def rows(self, new: "Ids") -> np.ndarray:
        """int32 [len(new) + 1]: the row of the id that each row of others has, 0 where there is none; row 0 pads."""
        options = pc.SetLookupOptions(self.values.cast(pa.string()))
        place = pc.call_function("index_in", [new.values.cast(pa.string())], options)
        found = pc.fill_null(place, -1).to_numpy(zero_copy_only=False) + 1
        return np.concatenate([[0], found]).astype(np.int32)

    def first(self, count: int) -> list[str]:
        """The ids of the first rows."""
        return self.values.slice(0, count).to_pylist()


class RawIds(NamedTuple):
    """Of a catalogue."""

    items: Ids
    stations: Ids
    attributes: dict[str, Ids]  # values of each, in the order of the columns of attribute_VA


def keep(store: stores.Store, directory: pathlib.Path) -> None:
    """Copies what ``read`` reads of a store into a directory, whole or not at all; leaves one that is there."""
    if not files.vacant(directory):
        return
    with files.whole_directory(directory) as partial:
        for name in [ITEMS, STATIONS, *map(_values, range(len(store.metadata.attributes)))]:
            shutil.copyfile(store.path / name, partial / name)


def read(directory: pathlib.Path) -> RawIds:
    """The raw ids of a store, of what ``keep`` made of one, or of an export.

    An export has no files of values; there they are numbered as ``prepare`` does, most frequent first. Raises UserError
    where a file is missing or damaged.
    """
    try:
        names = [name for name in arrays.columns(directory / ITEMS) if name.startswith(events.ATTRIBUTE)]
        kinds = {"item": pa.string(), "count": pa.int64(), **dict.fromkeys(names, pa.string())}
        words = arrays.table(directory / ITEMS, kinds, None)
        stations = arrays.table(directory / STATIONS, {"id": pa.string()}, None)["id"]
        for ids, name in ((words["item"], ITEMS), (stations, STATIONS)):
            arrays.check_ids(ids, name)
        attributes = {
            name.removeprefix(events.ATTRIBUTE): _read_values(directory / _values(k), words, name)
            for k, name in enumerate(names)
        }
    except arrays.Damaged as error:
        raise UserError(f"{directory} does not hold the raw ids of a store: {error}") from error
    return RawIds(_ids(words["item"]), _ids(stations), attributes)


def _ids(column: pa.ChunkedArray) -> Ids:
    return Ids(column.combine_chunks())


def _values(number: int) -> str:
    """The file of an attribute's values."""
    return f"{events.ATTRIBUTE}{number}.parquet"


def _read_values(path: pathlib.Path, words: pa.Table, name: str) -> Ids:
    if path.is_file():
        found = arrays.table(path, {"value": pa.string()}, None)["value"]
        arrays.check_ids(found, path.name)
        return _ids(found)
    known = words.filter(words[name].is_valid())
    sums = known.group_by(name).aggregate([("count", "sum")])
    return _ids(sums.sort_by([("count_sum", "descending"), (name, "ascending")])[name])
