"""LFM-2b and LFM-1b: two, and one, billion plays of Last.fm's listeners, as files of ids and a file of tracks.

Plays only: nothing here says what was skipped or disliked. Good for learning what follows what, with random
negatives; hard negatives need another log.

Reference: Schedl et al., LFM-2b, CHIIR 2022; Schedl, The LFM-1b Dataset, ICMR 2016.
"""

# ibis types its expressions at run time.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false
# pyright: reportCallIssue=false, reportOperatorIssue=false

import pathlib
from dataclasses import dataclass

import ibis
import ibis.expr.types as ir

from jaxneg.data import events, heads, scans, sources
from jaxneg.data.readers import editions
from jaxneg.errors import UserError

EVENTS = ["listening_events*.tsv", "listening-events*.tsv", "LFM-1b_LEs.txt"]
# Files without a header, by their number of columns.
HEADERLESS = {
    3: ("user_id", "track_id", "timestamp"),
    4: ("user_id", "track_id", "album_id", "timestamp"),
    5: ("user_id", "artist_id", "album_id", "track_id", "timestamp"),  # LFM-1b
}
ARTISTS = ("artist_name", "artist")


@dataclass(frozen=True)
class Options:
    pass


def read(con: ibis.BaseBackend, source: pathlib.Path, options: Options) -> ir.Table:
    """Events of listening_events.tsv or LFM-1b_LEs.txt, all of them plays; a play listed twice counts once.

    The item is the track's id. Its artist comes from tracks.tsv beside the log, in LFM-1b from the log. Times are
    dates in LFM-2b, seconds since the epoch in LFM-1b, both in UTC.
    """
    mend = "give listening_events.tsv, LFM-1b_LEs.txt or their directory"
    files = sources.find(source, EVENTS, mend)
    editions.only(source, files)
    lines = heads.first_lines(files[0], 2)
    first = lines[0].split("\t") if lines else []
    names = None if "user_id" in first else HEADERLESS.get(len(first))
    if names is None and "user_id" not in first:
        raise UserError(
            f"{sources.spoken(files[0])}: {len(first)} columns and no header with user_id, track_id and "
            f"timestamp: {mend}"
        )
    header = first if names is None else names
    sources.require(files[0], header, ("user_id", "track_id", "timestamp"), mend)
    example = lines[-1].split("\t")[header.index("timestamp") :][:1]
    seconds = bool(example) and example[0].isdigit()
    types = dict.fromkeys(("user_id", "track_id"), "VARCHAR")
    types["timestamp"] = "BIGINT" if seconds else "TIMESTAMP"
    table = scans.read_csv(con, files, types, names=names, delimiter="\t", quote="", mend=mend)
    log = events.select(
        table,
        user=table.user_id,
        item=table.track_id,
        time=table.timestamp * 1000 if seconds else events.milliseconds(table.timestamp),
        feedback=ibis.literal("play"),
        attributes={"artist": table.artist_id} if "artist_id" in table.columns else {},
        left_out=ibis.cases((editions.repeats(table, "user_id", "track_id", "timestamp"), editions.TWICE)),
    )
    tracks = [] if "artist_id" in table.columns else editions.neighbours(source, files[0], "tracks.tsv")
    if not tracks:
        return log
    described = scans.read_csv(con, tracks[:1], {"track_id": "VARCHAR"}, delimiter="\t", quote="")
    artist = next((name for name in ARTISTS if name in described.columns), None)
    if artist is None:
        return log
    return events.with_attributes(
        log, described.select(item=described.track_id, attribute_artist=described[artist].nullif(""))
    )
