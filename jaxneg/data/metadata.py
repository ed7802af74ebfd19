"""What stands in a store's metadata.json, and which files and dtypes its arrays have."""

import contextlib
import dataclasses
import pathlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from jaxneg.errors import UserError
from jaxneg.files import arrays as guarded, documents
from jaxneg.files.arrays import Damaged

FORMAT = "jaxneg store"
VERSION = 3
READS = (1, 2, 3)  # versions; 1 has no shards, 1 and 2 no checksums

Sign = Literal[-1, 0, 1]  # of a kind of feedback

# Field of Store -> file (without .npy) and dtype.
ARRAYS = {
    "item_T": ("event_item", np.int32),
    "feedback_T": ("event_feedback", np.int8),
    "station_T": ("event_station", np.int32),
    "time_T": ("event_time", np.int64),
    "group_T": ("event_group", np.int32),
    "session_indptr": ("session_indptr", np.int64),
    "session_user": ("session_user", np.int32),
    "session_train_end": ("session_train_end", np.int64),
    "session_valid_end": ("session_valid_end", np.int64),
    "user_indptr": ("user_indptr", np.int64),
    "user_group_indptr": ("user_group_indptr", np.int64),
    "negative_indptr": ("negative_indptr", np.int64),
    "negative_item": ("negative_item", np.int32),
    "positive_indptr": ("positive_indptr", np.int64),
    "positive_item": ("positive_item", np.int32),
    "attribute_VA": ("attributes", np.int32),
}
EVENTS = ("item_T", "feedback_T", "station_T", "time_T", "group_T")  # those that may be in shards


@dataclass(frozen=True)
class Metadata:
    """What a store is made of and how it came to be. Also the shape of metadata.json; see ``documents``."""

    reader: str  # name of the source format, "" if prepared from a table
    source: str  # what was read
    settings: dict[str, Any]  # of prepare, defaults filled in
    polarity: dict[str, Sign]  # feedback kind -> +1, 0, -1
    split: dict[str, Any]  # rule, and its times or shares
    # events, items, users, stations, sessions, groups, positives, negatives, out_of_order
    counts: dict[str, documents.Count]
    feedback: dict[str, dict[str, documents.Count]]  # split -> feedback kind -> events
    dropped: dict[str, int]  # what was left out, by reason
    attributes: list[dict[str, Any]]  # name and size (number of values) of each column of attribute_VA
    sessions_overlap: bool  # True if a user's sessions overlap in time, so that one may foretell another
    files: dict[str, documents.Count] = dataclasses.field(default_factory=dict)  # bytes of each file
    # first events of the shards, and the end; [] if there is one
    shards: list[documents.Count] = dataclasses.field(default_factory=list)
    # SHA-256 of each file; none before version 3
    sums: dict[str, str] = dataclasses.field(default_factory=dict)
    format: str = FORMAT
    version: int = VERSION
    jaxneg: str = documents.VERSION  # that wrote it


class NoStore(UserError):
    """No store is at ``path``."""

    path: pathlib.Path


@contextlib.contextmanager
def named(where: str) -> Iterator[None]:
    """Says of a store that is not there where its path stands, as in "config.py or --data.store says so"."""
    try:
        yield
    except NoStore as error:
        path = error.path
        full = "" if path.is_absolute() else f" ({path.absolute()})"
        mend = "give its place with --data.store, or write one with jaxneg prepare"
        raise _none(path, f"no store at {path}{full}: {where}: {mend}") from error


def _none(path: pathlib.Path, text: str) -> NoStore:
    error = NoStore(text)
    error.path = path
    return error


def file_names(name: str, shards: int) -> list[str]:
    """Files of a column: NAME.npy, or, of several shards, NAME-00000-of-00004.npy and so on."""
    if shards == 1:
        return [f"{name}.npy"]
    return [f"{name}-{k:05}-of-{shards:05}.npy" for k in range(shards)]


def read(path: pathlib.Path) -> Metadata:
    """The metadata of the store at ``path``. Raises UserError if there is none, a damaged one, or another version."""
    if not path.is_dir():
        raise _none(path, f"no store at {path}: jaxneg prepare writes one")
    values = values_of(path)
    if values is None:
        raise UserError(f"{path} is no jaxneg store, or a half-written one: jaxneg prepare writes one")
    if values.get("version") not in READS:
        raise UserError(
            f"store {path} is of format version {values.get('version')}, and jaxneg {documents.VERSION} "
            f"reads versions {READS[0]} to {READS[-1]}: run jaxneg prepare again"
        )
    seal = values.pop(documents.SEAL, None)
    try:
        metadata = documents.shaped(values, Metadata)
        if metadata.version >= 3:
            documents.check_seal(values, seal)
        return metadata
    except documents.Wrong as error:
        raise damaged(path, Damaged(f"metadata.json: {error}")) from error


def values_of(path: pathlib.Path) -> dict[str, Any] | None:
    """The metadata of a store, of whatever version; None if ``path`` is none."""
    try:
        values = documents.loaded(documents.content(path / "metadata.json"))
        return values if values["format"] == FORMAT else None
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None
    except (ValueError, KeyError, TypeError):
        return None
    except OSError as error:
        if error.errno in guarded.ELSEWHERE:
            return None
        raise UserError(f"{path / 'metadata.json'} cannot be read: {error.strerror or error}") from error


def damaged(path: pathlib.Path, error: Damaged) -> UserError:
    """What a user is told of a store that is not as it was written."""
    return UserError(f"store {path} is damaged: {error}; run jaxneg prepare again")
