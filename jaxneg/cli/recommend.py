"""``jaxneg recommend``: an export is tried from the shell."""

import json
import pathlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from jaxneg import progress
from jaxneg.cli import commands
from jaxneg.config import fields
from jaxneg.errors import UserError


@dataclass(frozen=True)
class Recommend:
    """Recommends next items for a history, from an export."""

    export: tyro.conf.Positional[Annotated[pathlib.Path, commands.path("DIR")]] = commands.REQUIRED
    """Directory that jaxneg export wrote."""
    items: Annotated[tuple[str, ...], commands.several("ID")] = commands.REQUIRED
    """Item ids of the history, oldest first."""
    feedback: Annotated[tuple[str, ...], commands.several("KIND", "play for each")] = ()
    """Feedback to each: thumb_up, play, skip, thumb_down or unknown."""
    station: Annotated[str, tyro.conf.arg(metavar="ID")] = ""
    """Station that is playing."""
    k: fields.Positive = 10
    """How many to recommend."""
    exclude_seen: commands.Flag = False
    """Leave out items of the history."""
    form: Literal["rank", "judge", "sum", "demote"] = "rank"
    """How both heads of a model make one score: what is listened to next, what is liked if shown, their sum, or the
    first with what would be rejected moved down."""
    beta: Annotated[float | None, fields.Bounds(0.0, 1e9), fields.option("FLOAT", "that of the export")] = (
        None
    )
    """Weight of the like head in form sum and demote."""
    threshold: Annotated[
        float | None, fields.Bounds(-1e9, 1e9), fields.option("FLOAT", "that of the export")
    ] = None
    """Log odds of a like below which form demote moves an item down."""
    json: commands.Flag = False
    """Print one JSON object."""

    def run(self) -> None:
        if self.feedback and len(self.feedback) != len(self.items):
            raise UserError(
                f"--feedback has {len(self.feedback)} values for {len(self.items)} --items: give one for each"
            )
        from jaxneg.serve import scorer

        model = scorer.Scorer.open(self.export)
        feedback = self.feedback or ("play",) * len(self.items)
        station = self.station or None
        history = [scorer.Event(i, f, station) for i, f in zip(self.items, feedback, strict=True)]
        form = model.form(self.form, self.beta, self.threshold)
        best = model.recommend(history, self.k, exclude_seen=self.exclude_seen, form=form)
        if unknown := [item for item in self.items if not model.knows(item)]:
            progress.say(f"jaxneg: left out of the history, not in the catalogue: {', '.join(unknown)}")
        if station and not model.knows_station(station):
            progress.say(f"jaxneg: station {station} was not there in training: ranking without a station")
        if self.json:
            print(json.dumps({"recommendations": [found._asdict() for found in best], "unknown": unknown}))
        else:
            for rank, found in enumerate(best, start=1):
                print(f"{rank:4}  {found.score:8.3f}  {found.item}")


def parse(args: Sequence[str]) -> Recommend:
    return commands.parsed(Recommend, args, "recommend")
