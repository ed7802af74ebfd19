"""What is heard most, for listeners of whom nothing is known: at their station first, then anywhere."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Int

from jaxneg.batch import PAD
from jaxneg.data import opinions, stores
from jaxneg.files import arrays

COLUMN = "most_heard"  # of stations.parquet: rows of items, most heard first
KIND = pa.list_(pa.int32())
MOST = 500  # items of a station
TOGETHER = 1 << 24  # pairs of station and item that are added up together

POPULARITY, STATION = "popularity", "station"  # why a list is not the model's


def at_stations(store: stores.Store, most: int = MOST) -> pa.Array:
    """Rows of the items heard most at each station in the training window, most often first; of equal ones the more
    frequent anywhere. Events that reject an item do not count."""
    stations = len(pq.read_table(store.path / "stations.parquet", columns=["id"]))
    key_P, count_P = np.zeros(0, np.int64), np.zeros(0, np.int64)
    waiting: list[np.ndarray] = []
    for place in opinions.training_runs(store):
        station_T, item_T = store.station_T[place], store.item_T[place]
        heard = (station_T != PAD) & (store.sign[store.feedback_T[place]] >= 0)
        waiting.append(station_T[heard].astype(np.int64) * (1 + store.items) + item_T[heard])
        if sum(map(len, waiting)) > TOGETHER:
            key_P, count_P = _added(key_P, count_P, waiting)
            waiting.clear()
    key_P, count_P = _added(key_P, count_P, waiting)
    station_P, item_P = key_P // (1 + store.items), key_P % (1 + store.items)
    order_P = np.lexsort((item_P, -count_P, station_P))
    begin = np.searchsorted(station_P[order_P], np.arange(1, stations + 2))
    first = [
        item_P[order_P[low : min(low + most, high)]] for low, high in zip(begin, begin[1:], strict=False)
    ]
    return pa.array(first, KIND)


def _added(
    key_P: np.ndarray, count_P: np.ndarray, more: Sequence[np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Distinct keys, ascending, and how often each is there."""
    keys = np.concatenate([key_P, *more])
    weights = np.concatenate([count_P, np.ones(len(keys) - len(key_P), np.int64)])
    found_P, at = np.unique(keys, return_inverse=True)
    return found_P, np.bincount(at, weights, len(found_P)).astype(np.int64)


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

    def order(self, station: int = PAD) -> Int[np.ndarray, "I"]:
        """Rows of all items, those heard most at a station first, then those heard most anywhere."""
        row_I = np.arange(1, 1 + self._items, dtype=np.int64)
        here_N = self._here(station)
        return np.concatenate([here_N, np.delete(row_I, here_N - 1)]) if len(here_N) else row_I

    def why(self, station: int = PAD) -> str:
        """ "station" where its items lead, else "popularity"."""
        return STATION if len(self._here(station)) else POPULARITY

    def _here(self, station: int) -> Int[np.ndarray, "N"]:
        if station == PAD or self._at_station is None:
            return np.zeros(0, np.int64)
        return self._at_station[station - 1].values.to_numpy().astype(np.int64)


def among(row_I: Int[np.ndarray, "I"], out_N: Int[np.ndarray, "N"]) -> Int[np.ndarray, "..."]:
    """Those rows, in their order, that are not left out."""
    allowed_V = np.ones(1 + len(row_I), bool)
    allowed_V[out_N] = False
    return row_I[allowed_V[row_I]]
