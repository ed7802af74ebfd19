"""Listening histories that Spotify gives out on request: short (one year) and extended (all years).

Both stamp a play with its end, the short form by the minute. The start is the end less what was played, but
never before the start of the play listed before it: so plays keep their order, and start plus duration is
the end.
"""

# ibis types its expressions at run time.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false
# pyright: reportCallIssue=false, reportOperatorIssue=false

import fnmatch
import os
import pathlib
from dataclasses import dataclass

import ibis
import ibis.expr.types as ir

from jaxneg.data import events, sources
from jaxneg.errors import UserError

SHORT = ("StreamingHistory*.json",)
OTHER = ("StreamingHistory_podcast*.json", "StreamingHistory_audiobook*.json")
EXTENDED = ("Streaming_History_Audio*.json", "endsong*.json")
SHORT_TYPES = {"endTime": "VARCHAR", "artistName": "VARCHAR", "trackName": "VARCHAR", "msPlayed": "BIGINT"}
EXTENDED_TYPES = {
    "ts": "VARCHAR",
    "master_metadata_album_artist_name": "VARCHAR",
    "master_metadata_track_name": "VARCHAR",
    "ms_played": "BIGINT",
    "skipped": "BOOLEAN",
    "reason_end": "VARCHAR",
}


@dataclass(frozen=True)
class Options:
    skip_seconds: float = 30.0  # played for less is a skip
    forward_seconds: float = 60.0  # extended form: ended by the forward button after less than this is a skip
    scroll_seconds: float = 0.0  # played for less is unknown, not a skip; 1 takes out scrolling in a queue


def read(con: ibis.BaseBackend, source: pathlib.Path, options: Options) -> ir.Table:
    """Events of one user, whose name is that of the directory, or of one user per sub-directory.

    A user with both forms is read from the extended one. Podcasts, which have no track there, are left out.
    """
    mend = "give the directory of the export, or one with a sub-directory per user"
    files = sources.find(source, [*SHORT, *EXTENDED], mend)
    files = [file for file in files if not _matches(file, OTHER)]
    if not files:
        raise UserError(f"{source} holds no music, only podcasts or audiobooks: {mend}")
    users = {file: _user(source, file) for file in files}
    extended = [file for file in files if _matches(file, EXTENDED)]
    has_extended = {users[file] for file in extended}
    short = [file for file in files if file not in extended and users[file] not in has_extended]

    plays = [
        _plays(con, group, users, form) for group, form in ((short, "short"), (extended, "extended")) if group
    ]
    table = ibis.union(*plays) if len(plays) > 1 else plays[0]
    so_far = ibis.cumulative_window(group_by="user", order_by=["end", "order"])
    start = (table.end - table.milliseconds).max().over(so_far)
    table = table.mutate(start=start).mutate(duration=ibis._.end - ibis._.start)

    seconds = table.milliseconds / 1000
    forward = (table.reason_end == "fwdbtn") & (seconds < options.forward_seconds)
    skipped = (seconds < options.skip_seconds) | table.skipped.fill_null(False) | forward.fill_null(False)
    feedback = ibis.cases((seconds < options.scroll_seconds, "unknown"), (skipped, "skip"), else_="play")
    return events.select(
        table,
        user=table.user,
        item=table.artist + " - " + table.track,
        time=table.start,
        feedback=feedback,
        duration=table.duration,
        attributes={"artist": table.artist},
    )


def _plays(
    con: ibis.BaseBackend, files: list[pathlib.Path], users: dict[pathlib.Path, str], form: str
) -> ir.Table:
    """Columns user, artist, track, end (ms since the epoch), milliseconds, skipped, reason_end, order."""
    types = SHORT_TYPES if form == "short" else EXTENDED_TYPES
    for file in files:
        first = sources.first_object(file, lines=False)
        if first is not None:
            sources.require(file, list(first), list(types), f"is it a {form} streaming history?")
    table = sources.read_json(con, files, types, lines=False)
    if form == "short":
        table = table.rename(ts="endTime", artist="artistName", track="trackName", milliseconds="msPlayed")
        table = table.mutate(skipped=ibis.null("boolean"), reason_end=ibis.null("string"))
    else:
        table = table.rename(
            artist="master_metadata_album_artist_name",
            track="master_metadata_track_name",
            milliseconds="ms_played",
        )
    return table.filter(table.artist.notnull(), table.track.notnull()).select(
        "artist",
        "track",
        "milliseconds",
        "skipped",
        "reason_end",
        "order",
        user=_user_of(table.filename, files, users),
        end=table.ts.cast("timestamp('UTC')").epoch_seconds().cast("int64") * 1000,
    )


def _user_of(filename: ir.Value, files: list[pathlib.Path], users: dict[pathlib.Path, str]) -> ir.Value:
    named = {users[file] for file in files}
    if len(named) == 1:
        return ibis.literal(named.pop())
    return filename.substitute({os.path.abspath(file): users[file] for file in files})


def _user(source: pathlib.Path, file: pathlib.Path) -> str:
    """The sub-directory of the source that holds the file, else the directory itself."""
    parts = file.relative_to(source).parts if source.is_dir() else ()
    return parts[0] if len(parts) > 1 else file.resolve().parent.name


def _matches(file: pathlib.Path, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatchcase(file.name.removesuffix(".gz"), pattern) for pattern in patterns)
