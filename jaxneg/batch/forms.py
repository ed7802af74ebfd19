"""Serving forms: how the two heads of a model become one score, chosen for each request."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from jaxneg.errors import UserError

RANK, JUDGE, SUM, DEMOTE = NAMES = ("rank", "judge", "sum", "demote")

NUMBERS: dict[str, tuple[str, ...]] = {RANK: (), JUDGE: (), SUM: ("beta",), DEMOTE: ("beta", "threshold")}


class Form(NamedTuple):
    """A form with its numbers.

    With q.v, the score of the head that ranks, and like, the log odds of the other head:

        rank     q.v                                   what is listened to next, and liked
        judge    like                                  what is liked if it is shown
        sum      q.v + beta * like                     one inner product for any beta
        demote   q.v + beta * min(like - usual - threshold, 0)   moves down what is liked less than most

    ``usual`` is the listener's mean of like over the catalogue: some like most of what they hear and some hardly any,
    and a threshold of its own kind is to move as much for all. What demotion adds is never positive, so the best are
    found among those of the highest q.v, with a certificate: see ``serve.demotion``.
    """

    name: str = RANK
    beta: float = 0.0  # of sum and demote, 0 or more; at 0 both are rank
    threshold: float = (
        0.0  # of demote: log odds of a like, less the listener's mean, below which an item moves down
    )

    def __str__(self) -> str:
        return {
            SUM: f"sum, beta {self.beta:g}",
            DEMOTE: f"demote, beta {self.beta:g}, threshold {self.threshold:.3g}",
        }.get(self.name, self.name)


def check(name: object) -> str:
    """The name of a form. Raises UserError on what is none."""
    if name not in NAMES:
        raise UserError(f"form must be one of {', '.join(NAMES)}, got {name!r}")
    return str(name)


def with_numbers(name: str, known: Mapping[str, float], given: Mapping[str, Any]) -> Form:
    """A form with the numbers that are known of it, and in their place those given.

    Raises UserError on a number that the form has not, and on one that makes no sense.
    """
    for key, value in given.items():
        if key not in NUMBERS[name]:
            raise UserError(f"form {name} has no {key}: leave it out")
        plain = isinstance(value, int | float) and not isinstance(value, bool)
        if not plain or not math.isfinite(value) or (key == "beta" and value < 0):
            rule = "0 or more" if key == "beta" else "a finite number"
            raise UserError(f"{key} must be {rule}, got {value!r}")
    return Form(name, **{**known, **{key: float(value) for key, value in given.items()}})
