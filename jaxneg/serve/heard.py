"""What is heard most, for listeners of whom nothing is known: at their station first, then anywhere."""

from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Int

from jaxneg.batch import PAD
from jaxneg.files import arrays

COLUMN = "most_heard"  # of stations.parquet: rows of items, most heard first
KIND = pa.list_(pa.int32())

POPULARITY, STATION = "popularity", "station"  # why a list is not the model's


def check(column: pa.Array, items: int, name: str) -> None:
    """Raises Damaged where a station's items are none of so many."""
    item_N = column.flatten()
    if column.null_count or item_N.null_count:
        raise arrays.Damaged(f"{name}: {COLUMN} has nothing where rows of items stand")
    row_N = item_N.to_numpy()
    arrays.check_within(row_N, 1 + items, name, "items")
    station_N = column.value_parent_indices().to_numpy()
    if (row_N == PAD).any() or len(np.unique(station_N.astype(np.int64) * (1 + items) + row_N)) < len(row_N):
        raise arrays.Damaged(f"{name}: {COLUMN} holds an item twice, or what is none")


class Heard:
    """The order of items by how often they are heard."""

    def __init__(self, items: int, at_station: Any = None):
        """Of so many items, in the order of their rows, and rows by station where they were counted."""
        self._items, self._at_station = items, at_station

    def best(self, n: int, out_N: Int[np.ndarray, "_"], station: int = PAD) -> Int[np.ndarray, "N"]:
        """Rows of the n heard most, at a station first and then anywhere, of those that are not left out; fewer where
        there are not as many. A catalogue of any size takes no longer."""
        here_N = self._here(station)
        led_N = here_N[~np.isin(here_N, out_N)][:n]
        more = n - len(led_N)
        row_N = np.arange(1, 1 + min(self._items, more + len(here_N) + len(out_N)), dtype=np.int64)
        row_N = row_N[~np.isin(row_N, np.concatenate([here_N, out_N]))]
        return np.concatenate([led_N, row_N[:more]])

    def ordered(self, row_N: Int[np.ndarray, "N"], station: int = PAD) -> Int[np.ndarray, "N"]:
        """Rows, each there once, in the same order."""
        here_N = self._here(station)
        place = {row: at for at, row in enumerate(here_N.tolist())}
        place_N = np.array([place.get(row, len(here_N) + row) for row in row_N.tolist()], np.int64)
        return row_N[np.argsort(place_N)]

    def why(self, station: int = PAD) -> str:
        """ "station" where its items lead, else "popularity"."""
        return STATION if len(self._here(station)) else POPULARITY

    def _here(self, station: int) -> Int[np.ndarray, "N"]:
        if station == PAD or self._at_station is None:
            return np.zeros(0, np.int64)
        return self._at_station[station - 1].values.to_numpy().astype(np.int64)
