"""Items by what their ids and attributes say."""

from collections.abc import Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc


class Search:
    """Ids and attributes of a catalogue, to be searched for words."""

    def __init__(self, ids: Sequence[str], columns: Mapping[str, pa.Array]):
        """Of rows 1..items, and values by attribute; null where an item has none."""
        columns_ = [
            pa.array(ids, pa.large_string()),
            *(one.cast(pa.large_string()) for one in columns.values()),
        ]
        joined = pc.JoinOptions(null_handling="skip")
        line = pa.scalar("\n", pa.large_string())
        self._text: pa.Array = pc.call_function("binary_join_element_wise", [*columns_, line], joined)

    def rows(self, text: str, count: int) -> list[int]:
        """The first rows that hold every word, in any case of letters."""
        if not text.split():
            return list(range(1, 1 + min(count, len(self._text))))
        found = None
        for word in text.split():
            options = pc.MatchSubstringOptions(word, ignore_case=True)
            here = pc.call_function("match_substring", [self._text], options)
            found = here if found is None else pc.call_function("and", [found, here])
        return [at + 1 for at in pc.call_function("indices_nonzero", [found])[:count].to_pylist()]
