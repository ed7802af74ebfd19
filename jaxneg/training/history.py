"""What a run knows of itself between steps: how far it is, what validations found, how long it took."""

import dataclasses
from dataclasses import dataclass, field

from jaxneg.files import documents
from jaxneg.training import convergence

Line = dict[str, float | int]  # figures of a validation, by name


@dataclass
class Progress:
    """What checkpoints hold beside the state of the devices; all of it is of the whole run, whatever its parts."""

    step: int = 0  # of the latest checkpoint
    best_score: float | None = None  # of the figure that decides; None before the first validation
    best_step: int = 0
    since_best: int = 0  # validations without a better one, once warm-up is over
    history: list[Line] = field(default_factory=list[Line])  # of each validation, oldest first
    seconds: float = 0.0
    device_seconds: float = 0.0  # of steps alone
    compile_seconds: float = 0.0
    hard: int = 0  # hard negatives drawn
    negatives: int = 0  # negatives in all
    spent: dict[str, float] = field(
        default_factory=dict[str, float]
    )  # seconds by what is no step: see ``goodput``
    began: float = 0.0  # when the run did, in seconds since 1970
    away: float = 0.0  # seconds in which no process was there

    @classmethod
    def from_json(cls, values: documents.Object) -> "Progress":
        """Of what ``to_json`` gave, also to an earlier version that knew less or more."""
        known = {one.name for one in dataclasses.fields(cls)}
        return cls(**{name: value for name, value in values.items() if name in known})

    def to_json(self) -> dict[str, object]:
        """A copy that JSON can hold."""
        return dataclasses.asdict(self)

    def validated(self, line: Line, score: float, *, warming: bool) -> None:
        """Takes in a validation. The first of equal scores is the best; patience counts after warm-up.

        Args:
          line: figures, with the step, epoch, sequences and seconds.
          score: what decides.
          warming: whether the learning rate still rises.
        """
        better = self.best_score is None or score > self.best_score
        if better:
            self.best_score, self.best_step = score, int(line["step"])
        self.since_best = 0 if better or warming else self.since_best + 1
        self.history.append(line)

    def result(self, monitor: str, stopped: str) -> dict[str, object]:
        """What a run has come to, for ``result.json``.

        Args:
          monitor: the figure that decides.
          stopped: why it ends.
        """
        return {
            "monitor": monitor,
            "best_score": self.best_score,
            "best_step": self.best_step,
            "last_score": self.history[-1][monitor],
            "stopped": stopped,
            "seconds": self.seconds,
            "device_seconds": self.device_seconds,
            "compile_seconds": self.compile_seconds,
            "hard_share": self.hard / max(self.negatives, 1),
            **convergence.convergence(self.history, monitor, stopped),
            "history": self.history,
        }
