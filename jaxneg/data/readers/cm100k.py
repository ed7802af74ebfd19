"""CM100k: songs drawn uniformly at random and rated 1 to 4 after a clip, so exposure carries no bias.

There is no clock; rows are in order of arrival. Reference: Canamares and Castells, SIGIR 2018.
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
    unknown_only: bool = False  # keep only songs that the listener did not know before


def read(con: ibis.BaseBackend, source: pathlib.Path, options: Options) -> ir.Table:
    """Events of ratings.txt: 3 and 4 are thumbs-up, 1 is a thumb-down, 2 unknown.

    The artist, an attribute, comes from items.txt beside it.
    """
    files = sources.find(source, ["ratings.txt"], "give ratings.txt or its directory")
    editions.one(source, files, str)
    types = {"user": "VARCHAR", "track": "VARCHAR", "rating": "BIGINT", "known": "BIGINT"}
    table = scans.read_csv(con, files, types, names=list(types), delimiter="\t", quote="")
    if options.unknown_only:
        table = table.filter(table.known == 0)
    log = events.select(
        table,
        user=table.user,
        item=table.track,
        time=table.order,
        feedback=ibis.cases(
            (table.rating >= 3, "thumb_up"), (table.rating == 1, "thumb_down"), else_="unknown"
        ),
    )
    found = editions.neighbours(source, files[0], "items.txt")
    if not found:
        return log
    types = {"Item": "VARCHAR", "Artist": "VARCHAR"}
    items = scans.read_csv(con, found[:1], types, delimiter="\t", quote="")
    return events.with_attributes(
        log, items.select(item=items.Item, attribute_artist=items.Artist.nullif(""))
    )
