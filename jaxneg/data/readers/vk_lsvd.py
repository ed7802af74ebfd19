"""VK-LSVD: short videos with the seconds watched, likes, dislikes, shares and bookmarks, in weekly Parquet files.

Reference: VK-LSVD, Large Short-Video Dataset, 2026, arXiv:2602.04567; huggingface.co/datasets/deepvk/VK-LSVD.
"""

# ibis types its expressions at run time.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false
# pyright: reportCallIssue=false, reportOperatorIssue=false

import pathlib
import re
from dataclasses import dataclass
from typing import Annotated

import ibis
import ibis.expr.types as ir
import pyarrow.parquet as pq

from jaxneg.config import fields
from jaxneg.data import engine, events, scans, sources
from jaxneg.data.readers import editions
from jaxneg.errors import UserError

NEEDED = ("user_id", "item_id", "timespent", "like", "dislike", "share", "bookmark")
SPLITS = ("train", "validation", "test")
WEEK = 7 * 24 * 3600 * 1000  # milliseconds


@dataclass(frozen=True)
class Options:
    played_share: fields.Share = 0.5  # watched for at least so much of its length is a play, else a skip
    skip_seconds: fields.Weight = 5.0
    """of videos without a known length: watched for less is a skip, else a play"""
    place_station: bool = False  # take the place (feed, search, group and so on) as the station
    metadata: Annotated[
        pathlib.Path | None, fields.option("PATH", "items_metadata.parquet below or above the source")
    ] = None
    """items_metadata.parquet, with length and author of videos, or its directory"""


def read(con: ibis.BaseBackend, source: pathlib.Path, options: Options) -> ir.Table:
    """Events of week_*.parquet of one sample, in order of weeks: train, validation, test.

    dislike is a thumb-down; like, share and bookmark are thumbs-up; the rest goes by the seconds watched. The files
    have no times, only an order: the time here is the week's number times a week, plus the row's place within its
    file spread evenly over the week. So weeks and order are right (``--valid-from 15120000000`` is week 25, in
    milliseconds), and the rest is not in the data. The author is the attribute.
    """
    mend = "give one sample, such as subsamples/ur0.01, or its week_*.parquet files"
    files = sorted(sources.find(source, ["week_*.parquet"], mend), key=lambda file: (_week(file), str(file)))
    editions.one(source, files, _sample)
    weeks = [_week(file) for file in files]
    if len(set(weeks)) < len(weeks):
        twice = next(file for file, before in zip(files[1:], weeks, strict=False) if _week(file) == before)
        raise UserError(f"{source} holds week {_week(twice)} more than once ({twice}): {mend}")
    table = scans.read_parquet(con, files, NEEDED, mend)
    items = _items(con, source, options)
    if items is None:
        table = table.mutate(length=ibis.null("float64"), author=ibis.null("string"))
    else:
        table = table.left_join(items, table.item_id == items.of).drop("of")
    spent, length = table.timespent.cast("float64"), table.length
    liked = _true(table.like) | _true(table.share) | _true(table.bookmark)
    seen = ibis.ifelse(length.notnull(), spent < options.played_share * length, spent < options.skip_seconds)
    feedback = ibis.cases(
        (_true(table.dislike), "thumb_down"),
        (liked, "thumb_up"),
        (seen, "skip"),
        (~seen, "play"),
        else_="unknown",
    )
    return events.select(
        table,
        user=table.user_id,
        item=table.item_id,
        time=_time(table, files),
        feedback=feedback,
        station=table.place if options.place_station else None,
        played=(spent / length).clip(lower=0.0, upper=1.0),
        attributes=None if items is None else {"author": table.author},
    )


def _true(column: ir.Value) -> ir.Value:
    """Booleans, published as such or as 0 and 1; null is false."""
    return column.cast("boolean").fill_null(False)


def _week(file: pathlib.Path) -> int:
    found = re.search(r"week_(\d+)", file.name)
    if found is None:
        raise UserError(
            f"{sources.spoken(file)}: its name has no week, such as week_00.parquet, which is all the time there is"
        )
    return int(found.group(1))


def _sample(file: pathlib.Path) -> str:
    """The directory of a sample, which train, validation and test divide."""
    folder = file.parent
    return str(folder.parent if folder.name in SPLITS else folder)


def _time(table: ir.Table, files: list[pathlib.Path]) -> ir.Value:
    begin, steps = 0, []
    for file in files:
        with engine.reading(file):
            rows = pq.read_metadata(file.absolute()).num_rows
        inside = (table.order - begin) * WEEK // max(rows, 1)  # below 2^63 for 15 billion rows a file
        steps.append((table.order < begin + rows, _week(file) * WEEK + inside))
        begin += rows
    return ibis.cases(*steps)


def _items(con: ibis.BaseBackend, source: pathlib.Path, options: Options) -> ir.Table | None:
    """Columns of (item), length in seconds (null where 0) and author, one row an item; None without the file."""
    name = "items_metadata.parquet"
    if options.metadata is not None:
        found = sources.find(options.metadata, [name], f"give {name} or its directory")
    else:
        below = sorted(source.rglob(name)) if source.is_dir() else []
        above = [parent / "metadata" / name for parent in source.absolute().parents[:4]]
        found = below or [path for path in above if path.is_file()]
    if not found:
        return None
    items = scans.read_parquet(con, found[:1], ("item_id", "author_id", "duration"))
    return items.group_by(of=items.item_id).agg(
        length=items.duration.cast("float64").nullif(0.0).min(), author=items.author_id.min().cast("string")
    )
