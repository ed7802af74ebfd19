"""``jaxneg recommend``: a list for a history from the shell, or lists for everybody in a log."""

import functools
import json
import pathlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from jaxneg import progress
from jaxneg.cli import commands
from jaxneg.config import fields
from jaxneg.errors import UserError
from jaxneg.files import addresses

if TYPE_CHECKING:
    from jaxneg.serve import choice, scorer
    from jaxneg.serve.histories import Event

    RecommendMany = Callable[[Sequence[Sequence[Event]]], list[scorer.Recommendations]]


@dataclass(frozen=True)
class Recommend:
    """Recommends next items, from an export: for a history, or for everybody in a log."""

    export: tyro.conf.Positional[Annotated[pathlib.Path, commands.path("DIR")]] = commands.REQUIRED
    """Directory that jaxneg export wrote."""
    items: Annotated[tuple[str, ...], commands.several("ID", "or --users")] = ()
    """Item ids of the history, oldest first."""
    users: Annotated[pathlib.Path | None, fields.option("LOG", "or --items")] = None
    """Log whose users all get a list: one row per event, Parquet, CSV or JSON, with columns user, item, time and, where
    there are some, feedback and station."""
    out: Annotated[pathlib.Path | None, fields.option("FILE", "none")] = None
    """Parquet file for the lists of --users: user, rank, item, score, fallback."""
    feedback: Annotated[tuple[str, ...], commands.several("KIND", "play for each")] = ()
    """Feedback to each: thumb_up, play, skip, thumb_down or unknown."""
    station: Annotated[str, tyro.conf.arg(metavar="ID")] = ""
    """Station that is playing."""
    k: fields.Positive = 10
    """How many to recommend."""
    exclude_seen: commands.Flag = False
    """Leave out items of the history."""
    exclude: Annotated[tuple[str, ...], commands.several("ID", "none")] = ()
    """Item ids to leave out."""
    where: Annotated[tuple[str, ...], commands.several("NAME=VALUE", "all items")] = ()
    """Only items with this value of an attribute; of one name several times, with one of the values."""
    at_most: Annotated[tuple[str, ...], commands.several("NAME=COUNT", "any number")] = ()
    """How many items of one value of an attribute a list may hold, as in artist=2."""
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
    exact: commands.Flag = False
    """Look at all items, also where the export has an index."""
    json: commands.Flag = False
    """Print one JSON object."""

    def run(self) -> None:
        if bool(self.items) == (self.users is not None):
            raise UserError(
                "recommend needs either --items, a history, or --users, a log; "
                "jaxneg recommend --help lists the options"
            )
        if (self.users is None) != (self.out is None):
            raise UserError("--users and --out go together: a log to read, and a file for its lists")
        if self.feedback and len(self.feedback) != len(self.items):
            raise UserError(
                f"--feedback has {len(self.feedback)} values for {len(self.items)} --items: give one for each"
            )
        from jaxneg.serve import scorer

        model = scorer.Scorer.open(self.export, index=not self.exact)
        form = model.form(self.form, self.beta, self.threshold)
        recommend_many = functools.partial(
            model.recommend_many, k=self.k, exclude_seen=self.exclude_seen, form=form, choice=self._choice()
        )
        if self.users and self.out:
            self._for_all(self.users, self.out, recommend_many)
        else:
            self._for_one(model, recommend_many)

    def _choice(self) -> "choice.Choice":
        from jaxneg.serve import choice

        where: dict[str, list[str]] = {}
        for word in self.where:
            name, value = _parted(word, "--where", "artist=NAME")
            where.setdefault(name, []).append(value)
        at_most: dict[str, int] = {}
        for word in self.at_most:
            name, count = _parted(word, "--at-most", "artist=2")
            if not (count.isascii() and count.isdigit() and int(count) > 0):
                raise UserError(f"--at-most {word}: {count!r} is no whole number from 1 on: write artist=2")
            at_most[name] = int(count)
        return choice.Choice(self.exclude, where, at_most)

    def _for_one(self, model: "scorer.Scorer", recommend_many: "RecommendMany") -> None:
        from jaxneg.serve import histories

        feedback = self.feedback or ("play",) * len(self.items)
        station = self.station or None
        history = [histories.Event(i, f, station) for i, f in zip(self.items, feedback, strict=True)]
        unknown = [item for item in self.items if not model.knows(item)]
        if len(unknown) == len(self.items):
            model.seen(history)
            raise UserError(
                "no item of the history is in the catalogue: give ids as they stand in items.parquet"
            )
        best = recommend_many([history])[0]
        if unknown:
            progress.say(f"jaxneg: left out of the history, not in the catalogue: {', '.join(unknown)}")
        if station and not model.knows_station(station):
            progress.say(f"jaxneg: station {station} was not there in training: ranking without a station")
        if len(best) < self.k:
            progress.say(f"jaxneg: {len(best):,} items may be in the list, fewer than --k {self.k:,}")
        if self.json:
            print(json.dumps({"recommendations": [found._asdict() for found in best], "unknown": unknown}))
        else:
            for rank, found in enumerate(best, start=1):
                print(f"{rank:4}  {found.score:8.3f}  {found.item}")

    def _for_all(self, users: pathlib.Path, out: pathlib.Path, recommend_many: "RecommendMany") -> None:
        from jaxneg.data import engine, readers
        from jaxneg.serve import bulk

        users = addresses.local(users, "--users")
        reader, con = readers.READERS["table"], engine.connect()
        with (
            addresses.written(out, "--out") as target,
            engine.reading(users),
            progress.Steps("recommend") as steps,
        ):
            if target.exists():
                raise UserError(f"--out {out} exists: choose another file, or remove it")
            log = engine.keep(con, "log", reader.read(con, users, reader.Options()))
            done, without = bulk.write(log, recommend_many, target, steps)
        popular = (
            f"; {without:,} of them, of whom no item is known, got what is heard most" if without else ""
        )
        progress.say(f"{out}: lists of {self.k:,} for {done:,} users{popular}")


def _parted(word: str, option: str, example: str) -> tuple[str, str]:
    name, mark, value = word.partition("=")
    if not (name and mark and value):
        raise UserError(f"{option} {word}: expected a name and a value: write {option} {example}")
    return name, value


def parse(args: Sequence[str]) -> Recommend:
    return commands.parsed(Recommend, args, "recommend")
