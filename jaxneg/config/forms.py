"""Serving forms: how the two heads of a model become one score, chosen for each request."""

from typing import NamedTuple

from jaxneg.errors import UserError

RANK, JUDGE, SUM, DEMOTE = NAMES = ("rank", "judge", "sum", "demote")


class Form(NamedTuple):
    """A form with its numbers.

    With q.v, the score of the head that ranks, and like, the log odds of the other head:

        rank     q.v                                   what is listened to next, and liked
        judge    like                                  what is liked if it is shown
        sum      q.v + beta * like                     one inner product for any beta
        demote   q.v + beta * min(like - threshold, 0) moves only what would be rejected

    """

    name: str = RANK
    beta: float = 0.0  # of sum and demote, 0 or more; at 0 both are rank
    threshold: float = 0.0  # of demote: log odds of a like below which an item moves down

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
