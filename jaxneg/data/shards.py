"""A column in several files, read as one array is."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np


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
