"""What is heard most at each station of a store, for its export."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from jaxneg.batch import PAD
from jaxneg.data import opinions, stores
from jaxneg.serve import heard

MOST = 500  # items of a station
TOGETHER = 1 << 24  # pairs of station and item that are added up together


def most_heard(store: stores.Store, most: int = MOST) -> pa.Array:
    """Rows of the items heard most at each station in the training window, most often first; of equal ones the more
    frequent anywhere. Events that reject an item do not count."""
    stations = len(pq.read_table(store.path / "stations.parquet", columns=["id"]))
    key_P, count_P = np.zeros(0, np.int64), np.zeros(0, np.int64)
    waiting: list[np.ndarray] = []
    for place in opinions.training_runs(store):
        station_T, item_T = store.station_T[place], store.item_T[place]
        counted = (station_T != PAD) & (store.sign[store.feedback_T[place]] >= 0)
        waiting.append(station_T[counted].astype(np.int64) * (1 + store.items) + item_T[counted])
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
    return pa.array(first, heard.KIND)


def _added(
    key_P: np.ndarray, count_P: np.ndarray, more: Sequence[np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Distinct keys, ascending, and how often each is there."""
    keys = np.concatenate([key_P, *more])
    weights = np.concatenate([count_P, np.ones(len(keys) - len(key_P), np.int64)])
    found_P, at = np.unique(keys, return_inverse=True)
    return found_P, np.bincount(at, weights, len(found_P)).astype(np.int64)
