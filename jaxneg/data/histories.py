"""What models see of histories: the events of the kinds that are inputs, and of these a run or the last ones.

Kinds that are no inputs (``data.inputs``) are as if they had never been logged: a history is rid of them first and
cut to its length then, in training as in evaluation, and as ``batch.latest`` has it for a listener who is served.
"""

import numpy as np

from jaxneg.batch import FEEDBACK
from jaxneg.config import DataConfig
from jaxneg.data import stores
from jaxneg.data.shards import Events, Sharded

BLOCK = 1 << 22  # events looked at together


def shown_kinds(config: DataConfig) -> np.ndarray:
    """Which feedback codes sequences keep, bool [6]."""
    return np.array([not config.inputs or kind in config.inputs for kind in FEEDBACK])


class Shown:
    """The events of a store that are inputs, numbered from 0 in the order of the log.

    Where all kinds are inputs an event's number is its place in the log. Else it costs 4 bytes an input in memory, 8 in
    logs of more than 2**31 events.
    """

    def __init__(self, store: stores.Store, config: DataConfig):
        shown = shown_kinds(config)
        self.place_S: np.ndarray | None = None  # in the log, of each number
        if not shown[1:].all():
            dtype = np.int32 if store.events < 1 << 31 else np.int64
            parts = [np.zeros(0, dtype)]
            for begin in range(0, store.events, BLOCK):
                among = np.flatnonzero(shown[store.feedback_T[begin : begin + BLOCK]])
                parts.append((begin + among).astype(dtype))
            self.place_S = np.concatenate(parts)

    def before(self, place: np.ndarray) -> np.ndarray:
        """How many inputs lie before places in the log: the number of the first input from there on, int64."""
        if self.place_S is None:
            return np.asarray(place)
        return np.searchsorted(self.place_S, place).astype(np.int64)

    def places(self, number: np.ndarray) -> np.ndarray:
        """Places in the log of numbers, int64; numbers past the end repeat the last place."""
        if self.place_S is None:
            return number
        if not len(self.place_S):
            return np.zeros_like(number)
        return self.place_S[np.minimum(number, len(self.place_S) - 1)].astype(np.int64)

    def windows(self, column_T: Events, start_B: np.ndarray, width: int) -> np.ndarray:
        """Values of ``width`` inputs from each number on; those past the end are anything."""
        if self.place_S is None:
            return windows(column_T, start_B, width)
        return column_T[self.places(start_B[:, None] + np.arange(width))]


def windows(column_T: Events, start_B: np.ndarray, width: int) -> np.ndarray:
    """column_T[start : start + width] for each start; places past the end, or a shard's, repeat the last event."""
    if isinstance(column_T, Sharded):
        if len(column_T.parts) == 1:
            rows = windows(column_T.parts[0], start_B, width)
        else:
            rows = np.empty((len(start_B), width), column_T.dtype)
            for part_T, at, inside in column_T.split(start_B):
                rows[at] = windows(part_T, inside, width)
        column_T.check(rows)
        return rows
    if len(column_T) < width:
        return column_T[np.minimum(start_B[:, None] + np.arange(width), len(column_T) - 1)]
    # Copying runs is several times faster than gathering events one by one.
    runs = np.lib.stride_tricks.sliding_window_view(np.asarray(column_T), width)
    last = len(runs) - 1
    rows = runs[np.minimum(start_B, last)]
    for b in np.flatnonzero(start_B > last):
        rows[b] = column_T[np.minimum(start_B[b] + np.arange(width), len(column_T) - 1)]
    return rows
