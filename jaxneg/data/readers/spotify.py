"""Listening histories that Spotify gives out on request: short (one year) and extended (all years).

Both stamp a play with its end, the short form by the minute. The start is the end less what was played, but
never before the start of the play listed before it: so plays keep their order, and start plus duration is
the end. A play without a connection is stamped when it was sent, which may be days later: where
`offline_timestamp` tells when it began, it is believed if it lies within the DAYS_OFFLINE before that stamp (a
clock may be a day fast), else the stamp is.

Private sessions (`incognito_mode`) and music videos are plays as any other.
"""

# ibis types its expressions at run time.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false
# pyright: reportCallIssue=false, reportOperatorIssue=false

import os
import pathlib
import re
from collections.abc import Mapping
from dataclasses import dataclass

import ibis
import ibis.expr.types as ir

from jaxneg.config import fields
from jaxneg.data import engine, events, heads, scans, sources, times
from jaxneg.data.readers import editions
from jaxneg.errors import UserError

# Copies are called "... (1).json" or "Copy of ...".
SHORT = "*StreamingHistory*.json"
EXTENDED = ("*Streaming_History_Audio*.json", "*Streaming_History_Video*.json", "*endsong*.json")
TYPES = {
    # short form
    "endTime": "VARCHAR",
    "artistName": "VARCHAR",
    "trackName": "VARCHAR",
    "msPlayed": "BIGINT",
    # short form of podcasts and audiobooks
    "podcastName": "VARCHAR",
    "authorName": "VARCHAR",
    # extended form
    "ts": "VARCHAR",
    "username": "VARCHAR",
    "ms_played": "BIGINT",
    "master_metadata_album_artist_name": "VARCHAR",
    "master_metadata_track_name": "VARCHAR",
    "episode_name": "VARCHAR",
    "spotify_episode_uri": "VARCHAR",
    "audiobook_title": "VARCHAR",
    "skipped": "BOOLEAN",
    "reason_end": "VARCHAR",
    "offline": "BOOLEAN",
    "offline_timestamp": "DOUBLE",
}
PODCASTS = ("podcastName", "authorName", "episode_name", "spotify_episode_uri", "audiobook_title")
NAMELESS = ("", "unknown artist", "unknown track")  # what Spotify writes for tracks that it no longer knows
# Folders and archives as Spotify names them, and copies of them: they say nothing about whose they are.
OWN = re.compile(
    r"(my[ _-]?spotify[ _-]?data|my[ _-]?data|spotify[ _-](account[ _-]data|extended[ _-]streaming[ _-]history)"
    r"|spotify[ _-]data|streaming[ _-]?history)([ _-]*(\(\d+\)|\d+|copy))*",
    re.IGNORECASE,
)
DAY = 24 * 3600 * 1000  # milliseconds
DAYS_OFFLINE = 90  # downloads stop playing after 30 days without a connection


@dataclass(frozen=True)
class Options:
    skip_seconds: fields.Weight = 30.0  # played for less is a skip
    forward_seconds: fields.Weight = 60.0
    """extended form: ended by the forward button after less than this is a skip"""
    scroll_seconds: fields.Weight = 0.0
    """played for less is unknown, not a skip; 1 takes out scrolling in a queue"""
    person: str = ""  # name of the one person whose exports these all are; empty goes by directories


def read(con: ibis.BaseBackend, source: pathlib.Path, options: Options) -> ir.Table:
    """Events of one user, whose name is that of the directory, or of one user per sub-directory.

    Directories and archives that bear a name of Spotify's count as part of the one that holds them. Where a directory
    mixes exports of several accounts, or one account's are in several directories, the field `username` names the user.

    Left out: podcasts and audiobooks; tracks without a name; plays without a length; a play that several files list;
    and plays of the short form from the time that the extended form covers. Looks at names and times of all plays at
    once, to know whose they are.
    """
    mend = "give the export as downloaded, its directory, or one with a sub-directory per user"
    files = _files(source, mend)
    if all(re.search("podcast|audiobook", file.name, re.IGNORECASE) for file in files):
        raise UserError(f"{source} holds no music, only podcasts or audiobooks: {mend}")
    for file in files:
        first = heads.first_object(file, lines=False)
        if first is not None:
            form = "extended" if _is_extended(file) else "short"
            sources.require(file, list(first), _needed(form, first), f"is it a {form} streaming history?")
    table = scans.read_json(con, files, TYPES, lines=False)
    table = _named(table, source, files, options.person)
    plays = _plays(table)
    twice = ("user", "extended", "end", "artist", "track", "milliseconds", "nth")
    left_out = ibis.cases(
        (plays.end.isnull(), "no time"),
        (plays.spoken, "podcasts and audiobooks"),
        (plays.artist.isnull() | plays.track.isnull(), "unknown artist or track"),
        (plays.milliseconds.isnull() | (plays.milliseconds < 0), "no length played"),
        (editions.repeats(plays, *twice), editions.TWICE),
        (~plays.extended & plays.covered, "also in the extended history"),
    )
    plays = plays.mutate(left_out=left_out)
    so_far = ibis.cumulative_window(group_by="user", order_by=["end", "order"])
    began = ibis.ifelse(plays.left_out.isnull(), plays.end - plays.milliseconds, ibis.null("int64"))
    start = began.max().over(so_far)
    plays = plays.mutate(start=start).mutate(duration=ibis._.end - ibis._.start)

    seconds = plays.milliseconds / 1000
    forward = (plays.reason_end == "fwdbtn") & (seconds < options.forward_seconds)
    skipped = (seconds < options.skip_seconds) | plays.skipped.fill_null(False) | forward.fill_null(False)
    feedback = ibis.cases((seconds < options.scroll_seconds, "unknown"), (skipped, "skip"), else_="play")
    return events.select(
        plays,
        user=plays.user,
        item=plays.artist + " - " + plays.track,
        time=plays.start,
        feedback=feedback,
        duration=plays.duration,
        attributes={"artist": plays.artist},
        left_out=plays.left_out,
    )


def _files(source: pathlib.Path, mend: str) -> list[pathlib.Path]:
    """Files of histories, each once however many links lead to it."""
    found = sources.find(source, [SHORT, *EXTENDED], mend)
    return list({file.resolve(): file for file in reversed(found)}.values())[::-1]


def _needed(form: str, first: Mapping[str, object]) -> list[str]:
    """Columns without which a file is no history of its form; lengths may be missing in some rows of the extended."""
    if form == "extended":
        return ["ts"]
    return ["endTime", "msPlayed"] if first.keys() & set(PODCASTS) else [*TYPES][:4]


def _is_extended(file: pathlib.Path) -> bool:
    return "streaminghistory" not in file.name.lower()


def _named(table: ir.Table, source: pathlib.Path, files: list[pathlib.Path], person: str) -> ir.Table:
    """The rows with a column ``user``."""
    folders = {os.path.abspath(file): person or _folder(source, file) for file in files}
    table = table.mutate(user=_chosen(table.filename, folders))
    if person or not any(map(_is_extended, files)):
        return table
    pairs = engine.fetch(table.group_by("user", "username").agg(rows=table.count())).to_pylist()
    accounts: dict[str, set[str]] = {}
    for pair in pairs:
        accounts.setdefault(pair["user"], set()).update([pair["username"]] if pair["username"] else [])
    shared = [name for names in accounts.values() for name in names]
    mixed = {
        folder
        for folder, names in accounts.items()
        if len(names) > 1 or any(shared.count(name) > 1 for name in names)
    }
    for folder in sorted(mixed):
        nameless = any(pair["user"] == folder and not pair["username"] for pair in pairs)
        if nameless and len(accounts[folder]) > 1:
            raise UserError(
                f"{source}: {folder} mixes exports of {' and '.join(sorted(accounts[folder]))} with some that do not "
                "say whose they are: put each person's into a directory of their own"
            )
    if not mixed:
        return table
    # of rows without a name, where there is only one
    one = {folder: min(accounts[folder]) for folder in mixed}
    account = table.username.nullif("").fill_null(table.user.substitute(one))
    return table.mutate(user=ibis.ifelse(table.user.isin(sorted(mixed)), account, table.user))


def _folder(source: pathlib.Path, file: pathlib.Path) -> str:
    """Name of the sub-directory or archive that holds the file, else of the source, Spotify's own names aside."""
    path, root = pathlib.Path(sources.spoken(file)).absolute(), source.absolute()
    inside = path.relative_to(root).parts[:-1] if path.is_relative_to(root) else ()
    above = [root, *root.parents] if path != root else path.parents
    places = [*inside, *(place.name for place in above)]
    names = [re.sub(r"\.zip$", "", name, flags=re.IGNORECASE) for name in places]
    return next((name for name in names if name and not OWN.fullmatch(name)), "me")


def _chosen(value: ir.Value, names: dict[str, str]) -> ir.Value:
    """The name that each value stands for; values without one stay."""
    if len(set(names.values())) == 1:
        return ibis.literal(next(iter(names.values())))
    return value.substitute(names)


def _plays(table: ir.Table) -> ir.Table:
    """One row a play of either form.

    Columns user, artist, track (null where it has no name), milliseconds, skipped, reason_end, order, and

      end: ms since the epoch, when it ended.
      spoken: a podcast or audiobook.
      extended: of the extended form.
      covered: of a time between the first and the last play of the user's extended form.
      nth: 0, or its number among equal plays of its file if it is shorter than a step of the clock: plays that short
        can happen several times at one stamp.
    """
    extended = table.endTime.isnull()
    stamp = ibis.coalesce(
        *(events.milliseconds(table[name].cast("timestamp('UTC')")) for name in ("ts", "endTime"))
    )
    stamp = ibis.ifelse(stamp.between(*times.usual()), stamp, ibis.null("int64"))  # 1970 stands for none
    milliseconds = ibis.coalesce(table.ms_played, table.msPlayed)
    table = table.mutate(
        artist=_name(table.master_metadata_album_artist_name, table.artistName),
        track=_name(table.master_metadata_track_name, table.trackName),
        milliseconds=milliseconds,
        extended=extended,
        stamp=stamp,
        end=_began(table, stamp) + milliseconds,
        short=milliseconds < ibis.ifelse(extended, 1000, 60_000),
    )
    table = table.mutate(end=ibis.coalesce(table.end, table.stamp))
    named = ibis.or_(*(table[name].notnull() for name in PODCASTS))
    within = {"group_by": ["filename", "end", "artist", "track", "milliseconds"], "order_by": "order"}
    of_extended = ibis.ifelse(table.extended, table.stamp, ibis.null("int64"))
    first, last = of_extended.min().over(group_by="user"), of_extended.max().over(group_by="user")
    return table.mutate(
        spoken=table.track.isnull() & named,
        covered=((table.stamp >= first // 60_000 * 60_000) & (table.stamp <= last)).fill_null(False),
        nth=ibis.ifelse(table.short, ibis.row_number().over(**within), 0),
    )


def _name(*columns: ir.Value) -> ir.Value:
    text = ibis.coalesce(*columns)
    return ibis.ifelse(text.strip().lower().isin(NAMELESS), ibis.null("string"), text)


def _began(table: ir.Table, stamp: ir.Value) -> ir.Value:
    """When a play without a connection began, ms since the epoch; null for others and where it cannot be true."""
    raw = table.offline_timestamp
    began = ibis.cases((raw < 1e11, raw * 1000), (raw < 1e14, raw), else_=raw / 1000).round().cast("int64")
    age = stamp - began
    return ibis.ifelse(table.offline & (age <= DAYS_OFFLINE * DAY) & (age >= -DAY), began, ibis.null("int64"))
