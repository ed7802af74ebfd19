"""What a model gives for a history: lists of items, and what moved one of them."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from jaxneg.batch.forms import Form
from jaxneg.serve.choice import ANY, Choice
from jaxneg.serve.histories import Event, Seen

RANK = Form()


class Wanted(NamedTuple):
    """A list that is asked for; see ``Scorer.recommend``."""

    history: Sequence[str | Event] | Seen
    k: int = 10
    exclude_seen: bool = False
    form: str | Form = RANK
    choice: Choice = ANY
    station: str | None = None


class Ready(NamedTuple):
    """The same, found sound, by row and code: what ``Scorer.lists`` takes."""

    seen: Seen
    k: int
    form: Form
    choice: Choice
    out_N: np.ndarray  # rows that may not be in the list
    station: int  # row of the listener's station, PAD where none is known


class Best(NamedTuple):
    """Items of a list by row, best first."""

    row_N: np.ndarray
    score_N: np.ndarray  # NaN in a list that is not the model's
    fallback: str | None = None  # as in ``Recommendations``


class Recommendation(NamedTuple):
    item: str
    score: float  # NaN in a list that is not the model's


class Recommendations(list[Recommendation]):
    """A list of items, best first.

    Attributes:
      fallback: None where it is the model's. Where no item of the history is known to it, "station": what is heard
        most at the listener's station and then anywhere; or "popularity": what is heard most anywhere.
    """

    def __init__(self, found: Iterable[Recommendation] = (), fallback: str | None = None):
        super().__init__(found)
        self.fallback = fallback


class Influence(NamedTuple):
    """What an event of a history does to an item."""

    event: Event
    change: float  # of the item's score: with the event less without it
