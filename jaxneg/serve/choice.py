"""Which items may be in a list: ids that must not, attributes that all must have, how many of one value may be."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float, Int

from jaxneg.errors import UserError

NONE = 0  # the code of an item that has no value
FIRST = 4  # times as many as are wanted, that are looked at first where values are capped

Top = Callable[
    [int], tuple[Int[np.ndarray, "N"], Float[np.ndarray, "N"]]
]  # n -> rows and scores of the n best


class Choice(NamedTuple):
    """What a list may hold.

    Attributes:
      exclude: ids of items that are left out; those that are not known do no harm.
      where: attribute -> values of which an item must have one. Items without a value are out.
      at_most: attribute -> how many items of one value the list may hold. Items without a value are not counted.

    Examples:
      >>> Choice(exclude=("song_7",), where={"language": ("en", "fr")}, at_most={"artist": 2}).at_most
      {'artist': 2}
    """

    exclude: Sequence[str] = ()
    where: Mapping[str, Sequence[str]] = {}
    at_most: Mapping[str, int] = {}


ANY = Choice()


class Attributes:
    """Attributes of the items of a catalogue."""

    def __init__(self, columns: Mapping[str, pa.Array]):
        """Values of rows 1..items by attribute; null where an item has none."""
        self._columns = {name: _coded(column) for name, column in columns.items()}

    @property
    def names(self) -> list[str]:
        return list(self._columns)

    def allowed(self, choice: Choice) -> Bool[np.ndarray, "V"] | None:
        """Which rows have what ``choice.where`` asks for, the padding row too; None where it asks for nothing.

        Raises UserError on an attribute that there is not.
        """
        allowed_V = None
        for name, values in choice.where.items():
            code_V, codes = self._of(name)
            wanted = [codes[value] for value in _texts(name, values) if value in codes]
            here_V = np.isin(code_V, wanted)
            allowed_V = here_V if allowed_V is None else allowed_V & here_V
        return allowed_V

    def capped(self, top: Top, k: int, choice: Choice, most: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows and scores of the best k items, with no more of a value than ``choice.at_most`` says.

        Taken from the best down, an item whose value is full is passed over.

        Args:
          top: the best n of what may be in the list, fewer where there are not as many.
          k: how many; fewer where there are not as many.
          choice: with caps.
          most: items that there are.
        """
        if not choice.at_most:
            return top(k)
        caps = [(self._of(name)[0], _cap(name, cap)) for name, cap in choice.at_most.items()]
        looked = min(max(FIRST * k, k), most)
        while True:
            row_N, score_N = top(looked)
            at = _walked(row_N, caps, k)
            if len(at) >= k or len(row_N) < looked or looked >= most:
                return row_N[at[:k]], score_N[at[:k]]
            looked = min(FIRST * looked, most)

    def _of(self, name: str) -> tuple[Int[np.ndarray, "V"], dict[str, int]]:
        if name not in self._columns:
            there = f"there are {', '.join(self._columns)}" if self._columns else "the items have none"
            raise UserError(f"no attribute {name!r}: {there}")
        return self._columns[name]


def _coded(column: pa.Array) -> tuple[np.ndarray, dict[str, int]]:
    """A code of each row, the padding row first, and the codes of values."""
    found = column.dictionary_encode()
    code_I = found.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int32) + 1
    return np.append(np.int32(NONE), code_I), {
        value: code for code, value in enumerate(found.dictionary.to_pylist(), start=1)
    }


def _walked(row_N: np.ndarray, caps: Sequence[tuple[np.ndarray, int]], k: int) -> np.ndarray:
    """Places of the first k items that no cap passes over; of several, one is enough."""
    counts: list[dict[int, int]] = [{} for _ in caps]
    kept: list[int] = []
    codes = [code_V[row_N].tolist() for code_V, _ in caps]
    for at, values in enumerate(zip(*codes, strict=True)):
        full = (
            count.get(value, 0) >= cap
            for count, value, (_, cap) in zip(counts, values, caps, strict=True)
            if value != NONE
        )
        if any(full):
            continue
        kept.append(at)
        if len(kept) == k:
            break
        for count, value in zip(counts, values, strict=True):
            count[value] = count.get(value, 0) + 1
    return np.array(kept, np.int64)


def _texts(name: str, values: Any) -> list[str]:
    if isinstance(values, str):
        return [values]
    found = list(values)
    if not all(isinstance(value, str) for value in found):
        raise UserError(f"values of attribute {name!r} are text, got {values!r}")
    return found


def _cap(name: str, cap: Any) -> int:
    if isinstance(cap, bool) or not isinstance(cap, int | np.integer) or cap < 1:
        raise UserError(f"at most how many of one {name!r} must be a whole number from 1 on, got {cap!r}")
    return int(cap)
