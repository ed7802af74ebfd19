"""Last.fm Dataset 1K: all that about a thousand listeners played until May 2009, by time, artist and track.

Plays only: Last.fm is told of a track once enough of it was heard, so nothing here says what was skipped or
disliked. Good for learning what follows what, with random negatives; hard negatives need another log.

Reference: Celma, Music Recommendation and Discovery in the Long Tail, 2010; ocelma.net/MusicRecommendationDataset.
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

NAMES = ("userid", "timestamp", "artid", "artname", "traid", "traname")


@dataclass(frozen=True)
class Options:
    pass


def read(con: ibis.BaseBackend, source: pathlib.Path, options: Options) -> ir.Table:
    """Events of userid-timestamp-artid-artname-traid-traname.tsv, all of them plays.

    The item is "artist - track", as MusicBrainz ids are missing in many rows. Rows without a name of artist or track
    are left out, and so is a play listed twice at one second.
    """
    mend = "give userid-timestamp-artid-artname-traid-traname.tsv or its directory"
    files = sources.find(source, ["userid-timestamp-*.tsv"], mend)
    editions.only(source, files)
    types = dict.fromkeys(NAMES, "VARCHAR") | {"timestamp": "TIMESTAMP"}
    table = scans.read_csv(con, files, types, names=NAMES, delimiter="\t", quote="", mend=mend)
    artist, track = table.artname.strip().nullif(""), table.traname.strip().nullif("")
    left_out = ibis.cases(
        (artist.isnull() | track.isnull(), "no name of artist or track"),
        (editions.repeats(table, "userid", "timestamp", "artname", "traname"), editions.TWICE),
    )
    return events.select(
        table,
        user=table.userid,
        item=artist + " - " + track,
        time=events.milliseconds(table.timestamp),
        feedback=ibis.literal("play"),
        attributes={"artist": artist},
        left_out=left_out,
    )
