"""Histories of listeners: as they are told, and as rows and codes."""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxneg.batch import PAD
from jaxneg.errors import UserError

STATION = {str, type(None)}  # types of an event's


class Event(NamedTuple):
    """One past event of a listener, oldest first in a history."""

    item: str
    feedback: str = "play"
    station: str | None = None


class Seen(NamedTuple):
    """The events of a history, oldest first."""

    row_T: np.ndarray  # int32, PAD of an item that the catalogue does not know
    code_T: np.ndarray  # int32, of feedback
    station_T: np.ndarray  # int32, PAD where there is none that is known


def events(history: Any) -> list[Event]:
    """A history as events: an id alone was played. Raises UserError on all else."""
    if isinstance(history, str):
        raise UserError(f"a history is a list of items, got {history!r}: write [{history!r}]")
    if not isinstance(history, Iterable):
        raise UserError(f"a history is a list of items, got {type(history).__name__}")
    found = [Event(one) if isinstance(one, str) else one for one in history]
    for event in found:
        if not isinstance(event, Event) or not isinstance(event.item, str):
            raise UserError(f"a history holds ids, as text, or Event(id, feedback, station), got {event!r}")
        if not isinstance(event.station, str | None) or not isinstance(event.feedback, str):
            raise UserError(f"feedback and station of an event are text, got {event!r}")
    return found


class Known:
    """Items, stations and kinds of feedback that a model knows."""

    def __init__(self, items: Sequence[str], stations: Sequence[str], codes: Mapping[str, int]):
        """Ids of rows 1.., and codes of feedback."""
        self.items = {id_: row for row, id_ in enumerate(items, start=1)}
        self.stations: dict[str | None, int] = {id_: row for row, id_ in enumerate(stations, start=1)}
        self._codes, self._play_1 = codes, np.array([codes.get("play", PAD)], np.int32)

    def seen(self, history: Any) -> Seen:
        """A history by row and code, or what this gave of one. Raises UserError on what is none, and on a feedback kind
        that does not exist."""
        if isinstance(history, Seen):
            return history
        kinds = {*map(type, history)} if type(history) in (list, tuple) else None
        if kinds == {str}:
            row_T = self.rows(history)
            return Seen(row_T, self._play_1.repeat(len(row_T)), np.zeros(len(row_T), np.int32))
        found = history if kinds == {Event} else events(history)
        if not found:
            return Seen(*np.zeros((3, 0), np.int32))
        items, feedback, stations = zip(*found, strict=True)
        if {*map(type, items), *map(type, feedback)} != {str} or not {*map(type, stations)} <= STATION:
            events(found)  # says what is wrong
        if not self._codes.keys() >= {*feedback}:
            item, kind = next((one.item, one.feedback) for one in found if one.feedback not in self._codes)
            kinds = ", ".join(self._codes)
            raise UserError(f"unknown feedback {kind!r} of item {item!r}: use one of {kinds}")
        code_T = np.fromiter(map(self._codes.__getitem__, feedback), np.int32, len(feedback))
        of_stations = map(self.stations.get, stations, itertools.repeat(PAD))
        return Seen(self.rows(items), code_T, np.fromiter(of_stations, np.int32, len(stations)))

    def rows(self, items: Sequence[str]) -> np.ndarray:
        """Rows of items; PAD of one that is not known."""
        return np.fromiter(map(self.items.get, items, itertools.repeat(PAD)), np.int32, len(items))

    def station(self, seen: Seen, station: Any = None) -> int:
        """Row of a listener's station: that named, else the last of the history that is known, else PAD."""
        if station is not None and not isinstance(station, str):
            raise UserError(f"a station is text, got {station!r}")
        known = seen.station_T[seen.station_T.nonzero()[0]]
        return self.stations.get(station, int(known[-1]) if len(known) else PAD)
