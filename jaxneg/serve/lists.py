"""What a model gives for a history: lists of items, and what moved one of them."""

from collections.abc import Iterable
from typing import NamedTuple

from jaxneg.serve.histories import Event


class Recommendation(NamedTuple):
    item: str
    score: float  # NaN in a list that is not the model's


class Recommendations(list[Recommendation]):
    """A list of items, best first.

    Attributes:
      fallback: None where it is the model's; "popularity" where no item of the history is known to it, and the list is
        of what is heard most.
    """

    def __init__(self, found: Iterable[Recommendation] = (), fallback: str | None = None):
        super().__init__(found)
        self.fallback = fallback


class Influence(NamedTuple):
    """What an event of a history does to an item."""

    event: Event
    change: float  # of the item's score: with the event less without it
