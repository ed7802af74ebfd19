"""Any log of one row per event: Parquet, delimited text or JSON, packed or not, columns named by the user.

Columns are matched by name over all files. In columns of ids, 1 and 1.0 are one id: doubles that are whole numbers are
those, and a text column of nothing but whole numbers loses its .0.
"""

# ibis types its expressions at run time.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false
# pyright: reportCallIssue=false, reportOperatorIssue=false

import pathlib
import re
from collections.abc import Mapping
from typing import Any

import ibis
import ibis.expr.types as ir

from jaxneg.data import columns as cols, events, sources, times
from jaxneg.data.columns import Column, Piece
from jaxneg.data.readers import table_files, table_options
from jaxneg.data.readers.table_facts import FALSE, TRUE, WORDS, Facts
from jaxneg.data.readers.table_options import Options
from jaxneg.errors import UserError


def read(con: ibis.BaseBackend, source: pathlib.Path, options: Options) -> ir.Table:
    """Events of all files of the source. Looks at all rows once, to know how times and ids are written.

    Raises UserError where a column is missing, or holds what is no value of its kind.
    """
    table_options.check(options)
    roles = table_options.roles(options)
    files, layout = table_files.find(source, options.encoding, timed=bool(options.time))
    pieces = _pieces(con, files, layout, list(dict.fromkeys(roles.values())), options)
    mend = "name your columns with --user, --item, --time, --feedback and so on; --one-user if there are no users"
    _refuse_folders(source, files, pieces, roles)
    _require(pieces, roles, options, mend)
    where = sources.spoken(files[0]) if len(files) == 1 else str(source)
    found = Facts(con, pieces, roles, options)
    found.refuse(where)
    logs, before = [], 0
    for piece, rows in zip(pieces, found.rows, strict=True):
        if rows or len(pieces) == 1:
            logs.append(_log(piece, roles, options, found, before))
        before += rows
    return (
        ibis.union(*logs) if len(logs) > 1 else logs[0] if logs else _log(pieces[0], roles, options, found, 0)
    )


def _pieces(
    con: ibis.BaseBackend, files: list[pathlib.Path], layout: str, wanted: list[str], options: Options
) -> list[Piece]:
    if layout == "parquet":
        return cols.of_parquet(con, files, wanted, nested=options.nested)
    if layout == "json":
        return cols.of_json(con, files, wanted, nested=options.nested)
    names = [name.strip() for name in options.columns.split(",")] if options.columns else []
    return cols.of_csv(con, files, wanted, header=options.header, names=names, quoting=options.quoting)


def _refuse_folders(
    source: pathlib.Path, files: list[pathlib.Path], pieces: list[Piece], roles: Mapping[str, str]
) -> None:
    """Raises UserError if a column stands in names of folders only, as in user=u1/log.csv."""
    everywhere = {name for piece in pieces for name in piece.columns}
    for name in roles.values() if source.is_dir() else ():
        for file in files if name not in everywhere else ():
            if any(part.startswith(f"{name}=") for part in pathlib.PurePath(sources.spoken(file)).parts[:-1]):
                raise UserError(
                    f"{sources.spoken(file)}: column {name} stands in the name of a folder only: write it into the "
                    "files"
                )


def _require(pieces: list[Piece], roles: Mapping[str, str], options: Options, mend: str) -> None:
    """Users, items and times in every file; columns that were named in one file at least."""
    always = [roles[role] for role in ("user", "item", "time") if role in roles]
    defaults = {
        "feedback": Options.feedback,
        "session": Options.session_id,
        "station": Options.station,
        "played": Options.played,
        "duration": Options.duration,
    }
    named = [name for role, name in roles.items() if name != defaults.get(role)]
    everywhere = {name for piece in pieces for name in piece.columns}
    for piece in pieces:
        missing = [
            name
            for name in dict.fromkeys(named)
            if name not in piece.columns and (name in always or name not in everywhere)
        ]
        if missing:
            hint = mend if options.header else f"{mend}; without header they are column0, column1, ..."
            named = [name for name in piece.have if not re.fullmatch(r"column\d+", name)]
            if options.header and piece.delimiter and len(named) < 2:
                hint = (
                    "the first line of text names the columns, parted by tabs, semicolons, bars or commas: remove what "
                    "stands above it, or write one of these between values"
                )
            first = [column.strip() for column in piece.have[:2]]
            if options.header and any(re.fullmatch(r"[\d.:-]+", name) for name in first):
                hint = "if the first line is an event add --no-header"
            have = [name for name in piece.have if name not in missing]
            sources.require(piece.file, have, missing, hint)


def _log(piece: Piece, roles: Mapping[str, str], options: Options, found: Facts, before: int) -> ir.Table:
    """A piece in EVENT_SCHEMA, its rows behind ``before`` others."""

    def column(role: str) -> Column | None:
        return piece.columns.get(roles.get(role, ""))

    def text(role: str) -> ir.Value | None:
        got = column(role)
        if got is None:
            return None
        return cols.text(got, strip=role in found.strip, neat=role in found.untidy)

    leave, reasons = options.missing == "leave-out", []

    def identity(role: str) -> ir.Value | None:
        value = text(role)
        if value is not None and leave:
            reasons.append((value.isnull() | value.lower().isin(WORDS), f"no {role}"))
        return value

    def context(role: str) -> ir.Value | None:
        value = text(role)
        if value is None or not leave:
            return value
        return ibis.ifelse(value.lower().isin(WORDS), ibis.null("string"), value)

    user = ibis.literal(options.one_user) if options.one_user else identity("user")
    item = identity("item")
    moment = piece.table.order + before
    if "time" in roles:
        got = column("time")
        moment = ibis.null("int64") if got is None or found.clock is None else found.clock.milliseconds(got)
        if leave:
            reasons.append((moment.isnull(), "no time"))
            if found.clock is not None and found.clock.usual:
                reasons.append((~moment.between(*times.usual()), "time before 1990 or after today"))
    played, duration = column("played"), column("duration")
    attributes = {
        name: value if (value := text(f"attribute {number}")) is not None else ibis.null("string")
        for number, name in enumerate(options.attributes)
    }
    log = events.select(
        piece.table,
        user=user,
        item=item,
        time=moment,
        feedback=_feedback(column, options, found),
        session=context("session"),
        station=context("station"),
        played=None if played is None else cols.number(played),
        duration=None if duration is None else _duration(duration),
        attributes=attributes,
        left_out=ibis.cases(*reasons, else_=ibis.null("string")) if reasons else None,
    )
    return log.mutate(order=(log.order + before).cast("int64")) if before else log


def _feedback(column: Any, options: Options, found: Facts) -> ir.Value:
    if options.liked or options.skipped:
        liked, skipped = column("liked"), column("skipped")
        pairs = []
        if liked is not None:
            pairs.append((cols.text(liked).strip().lower().isin(TRUE), "thumb_up"))
        if skipped is not None:
            said = cols.text(skipped).strip().lower()
            pairs += [(said.isin(TRUE), "skip"), (said.isin(FALSE), "play")]
        return ibis.cases(*pairs, else_="unknown")
    feedback, played = column("feedback"), column("played")
    if found.feedback and feedback is not None:
        return _kind(cols.text(feedback, strip="feedback" in found.strip), options.values)
    if found.feedback or played is None:
        return _kind(ibis.null("string"), options.values)
    share = cols.number(played)
    return ibis.cases(
        (share >= options.threshold, "play"), (share < options.threshold, "skip"), else_="unknown"
    )


def _duration(column: Column) -> ir.Value:
    if column.kind == "duration":
        return cols.rounded(column.value.cast("int64").cast("float64") * column.milliseconds)
    return cols.whole(column)


def _kind(text: ir.Value, values: str) -> ir.Value:
    """Kind of each raw value; values without a pair stay as they are, for check_events to name."""
    if not values:
        plain = text.strip().lower()
        return ibis.ifelse(plain.isin(events.KINDS), plain, text)
    pairs = []
    for part in values.split(","):
        value, found, kind = (piece.strip() for piece in part.rpartition("="))
        if not found or kind not in events.KINDS:
            raise UserError(
                f'--values {values!r}: {part.strip()!r} is no value=kind: write "1=thumb_up,0=skip" with '
                f"{', '.join(events.KINDS)}"
            )
        same = text.fill_null("").strip().lower() == value.lower()
        if _is_number(value):  # so that 1 also matches 1.0
            same = same | (text.try_cast("float64") == float(value)).fill_null(False)
        pairs.append((same, kind))
    return ibis.cases(*pairs, else_=text)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
