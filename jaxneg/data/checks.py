"""Whether the files of a store are what its writer wrote, and whether their numbers can be used as indices.

Files: sizes always; checksums of a small store always, of any with ``jaxneg inspect STORE --verify``.
Numbers: no range leaves what it is a range of and no index what it indexes. Those of events are looked at once in a
small store, and in a large one wherever they are read (``store.Sharded``); all others once, whatever the size.
A process that has found a store sound looks again only once its files have changed.
"""

import pathlib
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa

from jaxneg.batch import FEEDBACK
from jaxneg.files import arrays
from jaxneg.files.arrays import Damaged

SMALL = 64_000_000  # bytes of a store that is verified whenever it is opened
# Of ``store``, which imports this file.
Store: TypeAlias = Any
Metadata: TypeAlias = Any
Seen = Callable[[int, int, str], None]  # bytes done, bytes in all, file

_sound: set[tuple[Any, ...]] = set()  # what this process has found sound


def names(metadata: Metadata) -> None:
    """Raises Damaged unless the metadata tells files of its own directory, each once, with all their checksums."""
    for name in metadata.files:
        if name in ("", ".", "..", "metadata.json") or set(name) & set("/\\\0"):
            raise Damaged(f"metadata.json: files: {name!r} is no name of a file of a store")
    if metadata.version >= 3 and set(metadata.sums) != set(metadata.files):
        raise Damaged("metadata.json: sums: there is not one for each of the files")


def is_small(metadata: Metadata) -> bool:
    return sum(metadata.files.values()) <= SMALL


def sizes(path: pathlib.Path, metadata: Metadata) -> tuple[Any, ...]:
    """Raises Damaged where a file has another size than was written. Returns what changes when a file does."""
    for name, size in metadata.files.items():
        found = arrays.size_of(path / name)
        if found != size:
            raise Damaged(f"{name} has {found:,} of {size:,} bytes")
    return tuple(arrays.identity(path / name) for name in ("metadata.json", *metadata.files))


def sums(path: pathlib.Path, files: Mapping[str, int], wanted: Mapping[str, str], seen: Seen) -> None:
    """Raises Damaged where a file has another checksum than was written."""
    done, total = 0, sum(files.values())
    for name, expected in wanted.items():

        def add(size: int, name: str = name) -> None:
            nonlocal done
            done += size
            seen(done, total, name)

        if arrays.sha256(path / name, add) != expected:
            raise Damaged(f"{name} was changed after it was written (its checksum differs)")


def known(state: tuple[Any, ...]) -> bool:
    return state in _sound


def remember(state: tuple[Any, ...]) -> None:
    _sound.add(state)


def numbers(store: Store, *, events: bool) -> None:
    """Raises Damaged where arrays do not fit together, or hold an index of nothing.

    Args:
      store: to look at.
      events: look at the columns of events too, one number for each of them.
    """
    T, S, U = store.events, store.sessions, store.users
    groups = len(store.negative_indptr) - 1
    for name, column in (
        ("feedback", store.feedback_T),
        ("station", store.station_T),
        ("time", store.time_T),
        ("group", store.group_T),
    ):
        _same(f"event_{name}", len(column), T, "events")
    for name, array in (("train_end", store.session_train_end), ("valid_end", store.session_valid_end)):
        _same(f"session_{name}.npy", len(array), S, "sessions")
    _same("session_indptr.npy", len(store.session_indptr), S + 1, "ends of sessions")
    _same("user_group_indptr.npy", len(store.user_group_indptr), U + 1, "ends of users")
    _same("positive_indptr.npy", len(store.positive_indptr), U + 1, "ends of users")
    if len(store.attribute_VA) < 2:
        raise Damaged("attributes.npy has no row for an item")
    if min(T, S, U) == 0:
        raise Damaged("event_item has no events")
    arrays.check_ranges(store.session_indptr, T, "session_indptr.npy")
    arrays.check_ranges(store.user_indptr, S, "user_indptr.npy")
    arrays.check_ranges(store.user_group_indptr, groups, "user_group_indptr.npy")
    arrays.check_ranges(store.negative_indptr, len(store.negative_item), "negative_indptr.npy")
    arrays.check_ranges(store.positive_indptr, len(store.positive_item), "positive_indptr.npy")
    begin, end = store.session_indptr[:-1], store.session_indptr[1:]
    arrays.check_ascending(begin, store.session_train_end, "session_train_end.npy")
    arrays.check_ascending(store.session_train_end, store.session_valid_end, "session_valid_end.npy")
    arrays.check_ascending(store.session_valid_end, end, "session_valid_end.npy")
    arrays.check_within(store.session_user, U, "session_user.npy", "users")
    for name, array in (
        ("negative_item.npy", store.negative_item),
        ("positive_item.npy", store.positive_item),
    ):
        arrays.check_within(array, store.items + 1, name, "rows of items")
    _attributes(store)
    _counts(store, groups)
    if events:
        for field, (name, limit, of) in limits(store).items():
            column = getattr(store, field)
            for part in getattr(column, "parts", [column]):
                arrays.check_within(part, limit, name, of)


def limits(store: Store) -> dict[str, tuple[str, int, str]]:
    """Field of the columns of events that index something -> file, one more than the largest, what it numbers."""
    stations = store.metadata.counts.get("stations", 0)
    return {
        "item_T": ("event_item", store.items + 1, "rows of items"),
        "feedback_T": ("event_feedback", len(FEEDBACK), "kinds of feedback"),
        "station_T": ("event_station", stations + 1, "rows of stations"),
        "group_T": ("event_group", len(store.negative_indptr) - 1, "groups"),
    }


def _same(name: str, found: int, expected: int, of: str) -> None:
    if found != expected:
        raise Damaged(f"{name} has {found:,} of {expected:,} {of}")


def _attributes(store: Store) -> None:
    told = store.metadata.attributes
    _same("metadata.json: attributes", len(told), store.attribute_VA.shape[1], "columns of attributes.npy")
    for column, attribute in enumerate(told):
        name, size = attribute.get("name"), attribute.get("size")
        if type(name) is not str or type(size) is not int or not 0 <= size < 1 << 31:
            raise Damaged(f"metadata.json: attributes[{column}] has no name and size")
        arrays.check_within(store.attribute_VA[:, column], size + 1, "attributes.npy", f"values of {name}")


def _counts(store: Store, groups: int) -> None:
    held = {
        "events": store.events,
        "items": store.items,
        "users": store.users,
        "sessions": store.sessions,
        "groups": groups,
        "negatives": len(store.negative_item),
        "positives": len(store.positive_item),
    }
    for name, number in held.items():
        told = store.metadata.counts.get(name, number)
        if told != number:
            raise Damaged(f"metadata.json counts {told:,} {name}, and the arrays hold {number:,}")


def tables(store: Store) -> None:
    """Raises Damaged where a vocabulary has other columns or another number of rows than were written."""
    counts, files = store.metadata.counts, store.metadata.files
    for name, column, rows in (
        ("items", "item", store.items),
        ("stations", "id", counts.get("stations", 0)),
        ("users", "id", store.users),
    ):
        if f"{name}.parquet" in files:
            arrays.check_footer(store.path / f"{name}.parquet", {column: pa.string()}, rows)


def shape(field: str) -> tuple[int | None, ...]:
    """The shape that an array of a store must have, None where any length will do."""
    return (None, None) if field == "attribute_VA" else (None,)


def check_block(values: np.ndarray, limit: int, name: str, of: str) -> None:
    """Raises Damaged unless all values of a block that was gathered are in [0, limit)."""
    if values.size and int(values.view(f"u{values.itemsize}").max()) >= limit:
        arrays.check_within(np.ascontiguousarray(values), limit, name, of)
