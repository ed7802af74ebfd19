"""The Piki music dataset: likes, superlikes and dislikes of song clips, published as a zipped csv.

Reference: github.com/sstoikov/piki-music-dataset.
"""

# ibis types its expressions at run time.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false
# pyright: reportCallIssue=false, reportOperatorIssue=false

import pathlib
from dataclasses import dataclass

import ibis
import ibis.expr.types as ir

from jaxneg.data import events, scans, sources
from jaxneg.data.readers import editions


@dataclass(frozen=True)
class Options:
    random_only: bool = False  # keep only songs shown at random (personalized = 0)


def read(con: ibis.BaseBackend, source: pathlib.Path, options: Options) -> ir.Table:
    """Events of the csv, zipped or not: liked 0 is a thumb-down, 1 and 2 (superlike) are thumbs-up."""
    mend = "give piki_dataset.csv or its zip"
    files = sources.find(source, ["*.csv"], mend)
    file = editions.only(source, files, "give the one to read")
    types = {"user_id": "VARCHAR", "song_id": "VARCHAR", "liked": "BIGINT", "timestamp": "TIMESTAMP"}
    if options.random_only:
        types["personalized"] = "BIGINT"
    table = scans.read_csv(con, [file], types, mend=mend)
    if options.random_only:
        table = table.filter(table.personalized == 0)
    return events.select(
        table,
        user=table.user_id,
        item=table.song_id,
        time=events.milliseconds(table.timestamp),
        feedback=ibis.cases((table.liked == 0, "thumb_down"), (table.liked > 0, "thumb_up"), else_="unknown"),
    )
