"""Histories of listeners: as they are told, and as rows and codes."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from jaxneg.errors import UserError


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
