"""ListenBrainz: listens with loves and hates, as a user's export (zip or directory) or files of the public dumps.

A listen is sent once enough of a track was heard, so there are no skips, unless `skip_share` infers them; hates are
the hard negatives.

Reference: listenbrainz.readthedocs.io, "JSON documentation", "Feedback" and "Data dumps".
"""

# ibis types its expressions at run time.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false
# pyright: reportCallIssue=false, reportOperatorIssue=false

import json
import os
import pathlib
import re
from dataclasses import dataclass

import ibis
import ibis.expr.types as ir

from jaxneg.config import fields
from jaxneg.data import events, heads, scans, sources
from jaxneg.data.readers import editions
from jaxneg.errors import UserError

FEEDBACK = "feedback.jsonl"
OTHER = (FEEDBACK, "pinned_recording")  # of an export, without listens
LISTENS = {
    "listened_at": "DOUBLE",
    "user_name": "VARCHAR",
    "recording_msid": "VARCHAR",
    "track_metadata": "VARCHAR",
}
OPINIONS = {"recording_msid": "VARCHAR", "recording_mbid": "VARCHAR", "score": "BIGINT", "created": "DOUBLE"}
ARCHIVE = re.compile(r"listenbrainz_(.+)_\d+")  # of an export, before .zip: the user and when it was made


@dataclass(frozen=True)
class Options:
    skip_share: fields.Share = 0.0
    """a listen followed by another before so much of its length is a skip; 0 infers none"""


def read(con: ibis.BaseBackend, source: pathlib.Path, options: Options) -> ir.Table:
    """Events of listens/*/*.jsonl of exports, or of *.listens of a dump: plays, or the opinion that stands.

    The item is the MusicBrainz recording, if the listen was matched to one, else ListenBrainz' own id (msid), else
    "artist - track". The user is `user_name`, else that of user.json, else the name of the export's directory.

    feedback.jsonl tells an opinion (score 1 loved, -1 hated) of a recording, not of a listen, and when it was given:

      - It stands from the last listen before it on: that listen and all later ones are thumbs-up or thumbs-down.
      - Earlier listens stay plays, as the opinion was not known then. If all are later, all carry it.
      - Without `created` it stands for all listens.
      - The latest of several opinions counts, and 0 takes it back.
      - An opinion on a recording without a listen is left out, and counted.

    Played is known where additional_info has ms_played and duration_ms, as imports from Spotify do.
    """
    mend = "give the export as downloaded, its directory, or .listens files of a dump"
    found = sources.find(source, ["*.jsonl", "*.listens"], mend)
    files = [file for file in found if not file.name.startswith(OTHER)]
    if not files:
        raise UserError(f"{source} holds no listens, only {found[0].name}: {mend}")
    for file in files:
        first = heads.first_object(file, lines=True)
        if first is not None:
            sources.require(file, list(first), ("listened_at", "track_metadata"), mend)
    table = scans.read_json(con, files, LISTENS, lines=True)
    user = table.user_name.nullif("").fill_null(_user_of(table, source, files))
    listens = _listens(table.mutate(user=user))
    left_out = ibis.cases(
        (listens.item.isnull(), "no name of artist or track"),
        (listens.time.isnull(), "no time"),
        (editions.repeats(listens, "user", "time", "item"), editions.TWICE),
    )
    listens = listens.mutate(left_out=left_out, opinion=ibis.null("int64"))
    given = [file for file in found if file.name.startswith(FEEDBACK)]
    alone = None
    if given and files != [source]:
        listens, alone = _judged(listens, _opinions(con, source, given, listens))
    skipped = _skipped(listens, options.skip_share)
    log = events.select(
        listens,
        user=listens.user,
        item=listens.item,
        time=listens.time,
        feedback=ibis.cases(
            (listens.opinion > 0, "thumb_up"),
            (listens.opinion < 0, "thumb_down"),
            (skipped, "skip"),
            else_="play",
        ),
        played=(listens.ms_played / listens.length).clip(lower=0.0, upper=1.0),
        duration=ibis.coalesce(listens.ms_played, listens.length).round(),
        attributes={"artist": listens.artist},
        left_out=listens.left_out,
    )
    return log if alone is None else ibis.union(log, alone)


def _listens(table: ir.Table) -> ir.Table:
    """Columns user, item, msid, artist, time (ms), ms_played and length (ms, null where unknown), order."""
    details = table.track_metadata.cast("json")
    extra = details["additional_info"]

    def text(value: ir.Value) -> ir.Value:
        return value.unwrap_as("string").nullif("")

    def number(name: str) -> ir.Value:  # sent by clients, as numbers or as text
        found = extra[name].cast("string").replace('"', "").try_cast("float64")
        return ibis.ifelse((found > 0) & (found < 1e12), found, ibis.null("float64"))

    artist, track = text(details["artist_name"]), text(details["track_name"])
    ids = (details["recording_msid"], extra["recording_msid"])
    msid = ibis.coalesce(table.recording_msid.nullif(""), *map(text, ids))
    table = table.select(
        "user",
        "order",
        artist=artist,
        name=artist + " - " + track,
        msid=msid,
        mbid=ibis.coalesce(text(details["mbid_mapping"]["recording_mbid"]), text(extra["recording_mbid"])),
        time=(table.listened_at * 1000).round().cast("int64").nullif(0),
        ms_played=number("ms_played"),
        length=ibis.coalesce(number("duration_ms"), number("duration") * 1000),
    )
    # A later export may have matched what an older one had not.
    matched = ibis.ifelse(table.msid.notnull(), table.mbid.min().over(group_by="msid"), ibis.null("string"))
    return table.mutate(item=ibis.coalesce(matched, table.mbid, table.msid, table.name))


def _opinions(
    con: ibis.BaseBackend, source: pathlib.Path, files: list[pathlib.Path], listens: ir.Table
) -> ir.Table:
    """The latest opinion of each user on each item: columns user, item, score (1, -1), created (ms), order."""
    table = scans.read_json(con, files, OPINIONS, lines=True)
    table = table.mutate(user=_user_of(table, source, files))
    known = listens.filter(listens.msid.notnull()).group_by(of=listens.msid).agg(known=listens.item.min())
    table = table.left_join(known, table.recording_msid == known.of)
    item = ibis.coalesce(table.known, table.recording_mbid.nullif(""), table.recording_msid.nullif(""))
    table = table.select(
        "user", "score", "order", item=item, created=(table.created * 1000).round().cast("int64")
    )
    latest = [table.created.fill_null(-1).desc(), table.order.desc()]
    table = table.mutate(back=ibis.row_number().over(group_by=["user", "item"], order_by=latest))
    return table.filter(table.back == 0, table.score != 0, table.item.notnull()).drop("back")


def _judged(listens: ir.Table, opinions: ir.Table) -> tuple[ir.Table, ir.Table]:
    """The listens with ``opinion``, the score that stands; and the opinions without a listen, as rows left out."""
    of = opinions.select(of_user="user", of_item="item", score="score", created="created")
    rows = listens.left_join(of, [listens.user == of.of_user, listens.item == of.of_item])
    before = ibis.ifelse((rows.time <= rows.created) & rows.left_out.isnull(), rows.time, ibis.null("int64"))
    rows = rows.mutate(last=before.max().over(group_by=["user", "item"]))
    stands = rows.last.isnull() | (rows.time >= rows.last)
    rows = rows.mutate(opinion=ibis.ifelse(stands, rows.score, ibis.null("int64")))
    heard = listens.filter(listens.left_out.isnull())
    alone = opinions.anti_join(heard, ["user", "item"])
    alone = events.select(
        alone,
        user=alone.user,
        item=alone.item,
        time=alone.created,
        feedback=ibis.literal("unknown"),
        attributes={"artist": ibis.null("string")},
        left_out=ibis.literal("opinions on recordings without a listen"),
    )
    return rows.select(*listens.columns), alone


def _skipped(listens: ir.Table, share: float) -> ir.Value:
    """Listens that the user's next one follows before ``share`` of their length."""
    if share <= 0:
        return ibis.literal(False)
    later = ibis.window(group_by="user", order_by=["time", "order"], following=(1, None))
    times = ibis.ifelse(listens.left_out.isnull(), listens.time, ibis.null("int64"))
    return (times.min().over(later) - listens.time < share * listens.length).fill_null(False)


def _user_of(table: ir.Table, source: pathlib.Path, files: list[pathlib.Path]) -> ir.Value:
    accounts = {_place(file).parent: _username(file) for file in sources.beside(source, ["user.json"])}
    users = {os.path.abspath(file): _user(source, file, accounts) for file in files}
    if len(set(users.values())) == 1:
        return ibis.literal(next(iter(users.values())))
    return table.filename.substitute(users)


def _user(source: pathlib.Path, file: pathlib.Path, accounts: dict[pathlib.Path, str]) -> str:
    """User of the export that a file is of: from user.json, else the name of its directory or archive."""
    folders = list(_place(file).parents)
    if files := [accounts[folder] for folder in folders if folder in accounts]:
        return files[0]
    if _place(file) == source.absolute():  # one file of an export, whose user.json is above
        above = [folder / "user.json" for folder in folders[:3]]
        if found := [path for path in above if path.is_file()]:
            return _username(found[0])
    names = [folder.name for folder in folders if not folder.name.isdigit() and folder.name != "listens"]
    name = re.sub(r"\.zip$", "", names[0], flags=re.IGNORECASE)
    return found.group(1) if (found := ARCHIVE.fullmatch(name)) else name


def _place(file: pathlib.Path) -> pathlib.Path:
    return pathlib.Path(sources.spoken(file)).absolute()


def _username(file: pathlib.Path) -> str:
    try:
        return str(json.loads("\n".join(heads.first_lines(file, 1000)))["username"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{sources.spoken(file)}: holds no username ({error}): download the export again"
        ) from error
