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
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import ibis
import ibis.expr.types as ir

from jaxneg import config as configs
from jaxneg.config import fields
from jaxneg.data import columns as cols, engine, events, sources, staging, times
from jaxneg.data.columns import Column, Piece
from jaxneg.errors import UserError

FORMATS = {
    ".parquet": "parquet", ".pq": "parquet",
    ".csv": "csv", ".tsv": "csv", ".txt": "csv", ".tab": "csv",
    ".jsonl": "json", ".ndjson": "json", ".json": "json",
}  # fmt: skip
# Kinds of files that hold logs elsewhere, and are not read here.
UNREAD = (
    ".xlsx", ".xls", ".ods", ".avro", ".orc", ".feather", ".arrow", ".ipc", ".sqlite", ".sqlite3", ".db", ".duckdb",
    ".h5", ".hdf5", ".pkl", ".pickle", ".xz", ".lzma", ".7z", ".rar", ".tar", ".tgz", ".lz4", ".br", ".z", ".dat",
)  # fmt: skip
WORDS = ("nan", "none", "null", "\\n", "<na>", "nat")  # in small letters: what stands for no value
TRUE, FALSE = ("true", "t", "yes", "y", "1", "1.0"), ("false", "f", "no", "n", "0", "0.0")
IDS = ("user", "item", "session", "station")


@dataclass(frozen=True)
class Options:
    user: str = "user"  # column of the user
    item: str = "item"  # column of the item
    time: str = "time"  # column of the time, a number or ISO text; empty takes the order of rows
    feedback: str = "feedback"  # column of the feedback; where there is none, `played` decides
    session_id: str = "session"  # column of the session; unless renamed it may be missing
    station: str = "station"  # column of the station; unless renamed it may be missing
    played: str = "played"  # column of the fraction played, 0 to 1; unless renamed it may be missing
    duration: str = "duration"  # column of milliseconds from time to end; unless renamed it may be missing
    liked: Annotated[str, configs.option("COLUMN", "none")] = ""
    """column that is true for a thumb-up, instead of feedback"""
    skipped: Annotated[str, configs.option("COLUMN", "none")] = ""
    """column that is true for a skip and false for a play, instead of feedback; liked comes first"""
    one_user: Annotated[str, configs.option("NAME", "none")] = ""
    """the log is of one person, of this name, and has no column of users"""
    attributes: Annotated[tuple[str, ...], configs.option("COLUMN [COLUMN ...]", "none")] = ()
    """columns that describe the item, such as artist"""
    values: str = ""
    """feedback value=kind pairs, as in "1=thumb_up,0=skip,=unknown"; empty if the column holds kinds"""
    threshold: fields.Weight = 0.5  # without feedback: played at least so far is a play, else a skip
    time_unit: Literal["auto", "s", "ms", "us", "ns", "order"] = "auto"
    """of numbers; auto takes the one unit in which all lie between 1990 and today, or dates such as 20240131"""
    time_format: Annotated[str, configs.option("FORMAT", "ISO, or with a month in letters")] = ""
    """how times are written, as '%d/%m/%Y %H:%M'"""
    missing: Literal["refuse", "leave-out", "keep"] = "refuse"
    """ids that read as no value (nan, None, null, \\\\N): refuse the log, leave their rows out, take them as ids"""
    nested: bool = False  # a name with dots, a.b, is field b of object a even where a column a.b exists
    header: bool = True
    """the first line of delimited text names the columns; else they are column0, column1, ..."""
    columns: Annotated[str, configs.option("A,B,...", "column0,column1,...")] = ""
    """names of the columns of text without header"""
    quoting: Literal["auto", "double", "none"] = "auto"
    """of delimited text: double quotes around values, none, or by a look at the file if it is tab separated"""


def read(con: ibis.BaseBackend, source: pathlib.Path, options: Options) -> ir.Table:
    """Events of all files of the source. Looks at all rows once, to know how times and ids are written.

    Raises UserError where a column is missing, or holds what is no value of its kind.
    """
    _check(options)
    roles = _roles(options)
    files, layout = _files(source)
    pieces = _pieces(con, files, layout, list(dict.fromkeys(roles.values())), options)
    mend = "name your columns with --user, --item, --time, --feedback and so on; --one-user if there are no users"
    _require(pieces, roles, options, mend)
    where = sources.spoken(files[0]) if len(files) == 1 else str(source)
    found = _Look(con, pieces, roles, options)
    found.refuse(where)
    logs, before = [], 0
    for piece, rows in zip(pieces, found.rows, strict=True):
        if rows or len(pieces) == 1:
            logs.append(_log(piece, roles, options, found, before))
        before += rows
    return (
        ibis.union(*logs) if len(logs) > 1 else logs[0] if logs else _log(pieces[0], roles, options, found, 0)
    )


def _check(options: Options) -> None:
    if not options.user and not options.one_user:
        raise UserError(
            "--user is empty: name the column of users, or, for the log of one person, give --one-user NAME"
        )
    if not options.item:
        raise UserError("--item is empty: name the column of items")
    if (options.liked or options.skipped) and options.feedback != Options.feedback:
        raise UserError("--feedback and --liked or --skipped both say what is liked: give one of them")
    if options.columns and options.header:
        raise UserError("--columns names the columns of files without header: add --no-header")
    lower: dict[str, str] = {}
    for name in options.attributes:
        if (other := lower.setdefault(name.lower(), name)) != name:
            raise UserError(f"--attributes {other} and {name} differ in case only: rename one in the file")
        if not name:
            raise UserError("--attributes has an empty name: name a column")


def _roles(options: Options) -> dict[str, str]:
    """What a column is for -> its name, for all columns that are asked for; attributes are numbered."""
    roles = {
        "user": "" if options.one_user else options.user, "item": options.item, "time": options.time,
        "liked": options.liked, "skipped": options.skipped,
        "feedback": "" if options.liked or options.skipped else options.feedback,
        "session": options.session_id, "station": options.station, "played": options.played,
        "duration": options.duration,
    }  # fmt: skip
    roles |= {f"attribute {number}": name for number, name in enumerate(options.attributes)}
    return {role: name for role, name in roles.items() if name}


def _pieces(
    con: ibis.BaseBackend, files: list[pathlib.Path], layout: str, wanted: list[str], options: Options
) -> list[Piece]:
    if layout == "parquet":
        return cols.of_parquet(con, files, wanted, nested=options.nested)
    if layout == "json":
        return cols.of_json(con, files, wanted, nested=options.nested)
    names = [name.strip() for name in options.columns.split(",")] if options.columns else []
    return cols.of_csv(con, files, wanted, header=options.header, names=names, quoting=options.quoting)


def _require(pieces: list[Piece], roles: Mapping[str, str], options: Options, mend: str) -> None:
    """Users, items and times in every file; columns that were named in one file at least."""
    always = [roles[role] for role in ("user", "item", "time") if role in roles]
    defaults = {"feedback": Options.feedback, "session": Options.session_id, "station": Options.station,
                "played": Options.played, "duration": Options.duration}  # fmt: skip
    named = [name for role, name in roles.items() if name != defaults.get(role)]
    everywhere = {name for piece in pieces for name in piece.columns}
    for piece in pieces:
        missing = [name for name in dict.fromkeys(named) if name not in piece.columns
                   and (name in always or name not in everywhere)]  # fmt: skip
        if missing:
            hint = mend if options.header else f"{mend}; without header they are column0, column1, ..."
            first = [column.strip() for column in piece.have[:2]]
            if options.header and any(re.fullmatch(r"[\d.:-]+", name) for name in first):
                hint = "if the first line is an event add --no-header"
            sources.require(piece.file, [*piece.have, *piece.columns], missing, hint)


class _Look:
    """What all rows say of the columns, summed over pieces, and what follows from it.

    Attributes:
      rows: of each piece.
      clock: how times are read; None if they are the order of rows.
      strip: roles whose text is all whole numbers, some with .0.
      feedback: whether there is any; if not, the share played decides.
    """

    def __init__(
        self, con: ibis.BaseBackend, pieces: list[Piece], roles: Mapping[str, str], options: Options
    ):
        self._spark = engine.is_spark(con)
        self._pieces, self._roles, self._options = pieces, roles, options
        found = [self._ask(piece) for piece in pieces]
        self.rows = [one["rows"] for one in found]
        self._found = _summed(found)
        self._clock_found = {name.removeprefix("time "): value for name, value in self._found.items()
                             if name.startswith("time ")}  # fmt: skip
        if times.unfit(self._clock_found, options.time_unit, options.time_format) and not self._spark:
            self._clock_found |= _summed(
                [_asked(piece.table, times.compact(piece.columns[roles["time"]])) for piece in pieces]
            )
        self.strip = self._whole_text()
        self.clock: times.Clock | None = None
        has = [piece for piece in pieces if roles.get("feedback") in piece.columns]
        self.feedback = bool(has) and (
            has[0].columns[roles["feedback"]].shape is None or bool(self._of("some feedback"))
        )

    def _of(self, name: str) -> Any:
        return self._found.get(name) or 0

    def _ask(self, piece: Piece) -> dict[str, Any]:
        """Aggregates over a piece, by what they say of which role."""
        ask: dict[str, ir.Value] = {"rows": piece.table.count()}
        for role, name in self._roles.items():
            column = piece.columns.get(name)
            if column is None:
                continue
            self._refuse_shape(piece, name, role, column)
            if column.shape is not None:
                ask[f"shapes {role}"] = column.shape.isin(("OBJECT", "ARRAY")).sum()
                ask[f"big {role}"] = (column.shape == "BIG").sum()
            if role == "time":
                asked = times.look(column, self._options.time_format, spark=self._spark)
                ask |= {f"time {what}": value for what, value in asked.items()}
            elif role in ("played", "duration"):
                if column.kind == "text":
                    value = cols.text(column).strip().nullif("")
                    bad = value.notnull() & value.lower().notin(times.NOT_TIMES) & cols.number(
                        column._replace(value=value)).isnull()  # fmt: skip
                    ask |= {f"bad {role}": bad.sum(), f"example {role}": value.min(where=bad)}
            elif role in ("liked", "skipped"):
                value = cols.text(column).lower()
                bad = value.notnull() & value.notin((*TRUE, *FALSE, *WORDS))
                ask |= {f"bad {role}": bad.sum(), f"example {role}": value.min(where=bad)}
            else:
                ask |= self._ask_text(piece, role, column)
        return _asked(piece.table, ask)

    def _ask_text(self, piece: Piece, role: str, column: Column) -> dict[str, ir.Value]:
        value, ask = cols.text(column), {}
        if column.kind != "null":
            ask[f"some {role}"] = value.count()
        if role in ("user", "item"):
            ask[f"none {role}"] = (value.isnull() | (value == "")).sum()
        if column.kind == "real" and role != "feedback":
            real = column.value.cast("float64")
            ask[f"big {role}"] = ((real.abs() >= cols.EXACT) & ~real.isnan()).sum()
        if column.kind == "bytes":
            ask[f"bytes {role}"] = cols.undecodable(column).sum()
        if column.kind == "text":
            ask[f"points {role}"] = (value.endswith(".0") | value.endswith(".00")).sum()
            if role in IDS:
                ask[f"words {role}"] = value.lower().isin(WORDS).sum()
                if piece.delimiter:
                    broken = value.contains("\n") & value.contains(piece.delimiter)
                    ask[f"breaks {role}"] = broken.sum()
        return ask

    def _refuse_shape(self, piece: Piece, name: str, role: str, column: Column) -> None:
        kind, where = column.kind, f"{sources.spoken(piece.file)}: column {name}"
        if kind in ("text", "whole", "real", "decimal", "null") or (
            kind == "duration" and role == "duration"
        ):
            return
        if kind == "stamp" and role not in ("played", "duration", "liked", "skipped"):
            return
        if kind == "boolean" and role not in ("time", "played", "duration"):
            return
        if kind == "bytes" and role not in ("time", "played", "duration", "liked", "skipped"):
            return
        mend = {
            "object": f"name one of its fields with a dot, as in {name}.id",
            "list": "write one row per event, with one value in it",
            "duration": "write times as timestamps or as numbers",
        }.get(kind, "write plain values")
        raise UserError(f"{where} holds {cols.SHAPES.get(kind, f'values of type {kind}')}: {mend}")

    def _whole_text(self) -> frozenset[str]:
        roles = [role for role in self._roles if self._of(f"points {role}")]
        if not roles:
            return frozenset()
        found = []
        for piece in self._pieces:
            ask = {}
            for role in roles:
                column = piece.columns.get(self._roles[role])
                if column is not None and column.kind == "text":
                    text = cols.text(column)
                    ask[f"odd {role}"] = (text.notnull() & ~text.re_search(r"^-?[0-9]+(\.0+)?$")).sum()
            found.append(_asked(piece.table, ask))
        odd = _summed(found)
        return frozenset(role for role in roles if not odd.get(f"odd {role}"))

    def refuse(self, where: str) -> None:
        """Raises UserError for the first thing that no log should have; settles how times are read."""
        rows, options = sum(self.rows), self._options
        for role, name in self._roles.items():
            column = f"{where}: column {name}"
            if count := self._of(f"shapes {role}"):
                raise UserError(
                    f"{column} holds objects or lists in {count:,} of {rows:,} rows: name one of their fields with a "
                    f"dot, as in {name}.id, or write one row per event"
                )
            if count := self._of(f"big {role}"):
                raise UserError(
                    f"{column} holds {count:,} decimal numbers above 2^53, which are not exact: write ids as whole "
                    "numbers or text"
                )
            if count := self._of(f"bytes {role}"):
                raise UserError(
                    f"{column} holds bytes that are no UTF-8 in {count:,} of {rows:,} rows: write text"
                )
            if count := self._of(f"breaks {role}"):
                raise UserError(
                    f"{column} holds line breaks beside delimiters in {count:,} of {rows:,} rows, so a quote is open "
                    "too long: correct the rows, or give --quoting none if the file quotes nothing"
                )
            if count := self._of(f"bad {role}"):
                kind = "true or false" if role in ("liked", "skipped") else "a number"
                raise UserError(
                    f"{column} holds {self._of(f'example {role}')!r}, which is not {kind} ({count:,} of {rows:,} "
                    "rows): correct or remove the rows"
                )
        if rows == 0:
            return
        if "feedback" in self._roles and not self.feedback and not self._has_played():
            raise UserError(
                f"{where}: no column {options.feedback} and no column {options.played} to derive it from: "
                "name one of them with --feedback or --played, or with --liked and --skipped"
            )
        if options.missing != "leave-out":
            self._refuse_missing(where, rows)
        if "time" in self._roles:
            present = self._clock_found.get("present") or 0
            column = f"{where}: column {options.time}"
            if present < rows and options.missing != "leave-out":
                raise UserError(
                    f"{column} has no value in {rows - present:,} of {rows:,} rows: fill or remove them"
                )
            self.clock = times.Clock(
                column, self._clock_found, options.time_unit, options.time_format, spark=self._spark
            )

    def _has_played(self) -> bool:
        return any(self._roles.get("played") in piece.columns for piece in self._pieces)

    def _refuse_missing(self, where: str, rows: int) -> None:
        for role in ("user", "item"):
            if count := self._of(f"none {role}"):
                raise UserError(
                    f"{where}: column {self._roles[role]} has no value in {count:,} of {rows:,} rows: fill or remove "
                    "them, or give --missing leave-out"
                )
        for role in IDS if self._options.missing == "refuse" else ():
            if count := self._of(f"words {role}"):
                raise UserError(
                    f"{where}: column {self._roles[role]} holds words for no value (nan, None, null or \\N) in "
                    f"{count:,} of {rows:,} rows: give --missing leave-out, or --missing keep if they are ids"
                )


def _asked(table: ir.Table, ask: Mapping[str, ir.Value]) -> dict[str, Any]:
    """Aggregates of one pass, by names that no engine sees."""
    if not ask:
        return {}
    row = engine.fetch(
        table.aggregate(**{f"a{k}": value for k, value in enumerate(ask.values())})
    ).to_pylist()[0]
    return {name: row[f"a{k}"] for k, name in enumerate(ask)}


def _summed(found: list[dict[str, Any]]) -> dict[str, Any]:
    """Counts of pieces added up; of the least, the most and examples one."""
    total: dict[str, Any] = {}
    for one in found:
        for name, value in one.items():
            if value is None:
                continue
            old = total.get(name)
            if old is None:
                total[name] = value
            elif name.endswith("low"):
                total[name] = min(old, value)
            elif name.endswith("high"):
                total[name] = max(old, value)
            elif not isinstance(value, str):
                total[name] = old + value
    return total


def _log(piece: Piece, roles: Mapping[str, str], options: Options, found: _Look, before: int) -> ir.Table:
    """A piece in EVENT_SCHEMA, its rows behind ``before`` others."""

    def column(role: str) -> Column | None:
        return piece.columns.get(roles.get(role, ""))

    def text(role: str) -> ir.Value | None:
        got = column(role)
        if got is None:
            return None
        return cols.text(got, strip=role in found.strip)

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


def _feedback(column: Any, options: Options, found: _Look) -> ir.Value:
    if options.liked or options.skipped:
        liked, skipped = column("liked"), column("skipped")
        pairs = []
        if liked is not None:
            pairs.append((cols.text(liked).lower().isin(TRUE), "thumb_up"))
        if skipped is not None:
            said = cols.text(skipped).lower()
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


def _files(source: pathlib.Path) -> tuple[list[pathlib.Path], str]:
    """Files of the source and their common layout."""
    patterns = [f"*{suffix}" for suffix in FORMATS]
    files = sources.find(source, patterns, "give Parquet, CSV or JSON lines")
    if source.is_dir():
        _refuse_unread(source, sources.all_files(source))
    kinds = {file: FORMATS.get(pathlib.PurePath(staging.bare(file.name)).suffix) for file in files}
    if None in kinds.values():
        raise UserError(
            f"{source}: kind of file not known by its name: use {', '.join(patterns)}, or these with "
            f"{', '.join(staging.PACKED)}, or in a .zip"
        )
    layouts = {str(kind) for kind in kinds.values()}
    if len(layouts) > 1:
        raise UserError(f"{source} holds {' and '.join(sorted(layouts))} files: give files of one kind")
    if layouts == {"parquet"} and any(staging.packing(file) for file in files):
        raise UserError(f"{source}: Parquet is compressed inside: unpack what is packed around it first")
    return files, layouts.pop()


def _refuse_unread(source: pathlib.Path, files: list[pathlib.Path]) -> None:
    """Raises UserError if a folder holds what may be part of the log, and would be passed over."""
    for name in ("_delta_log", ".hoodie"):
        if any(path.is_dir() for path in source.rglob(name)):
            raise UserError(
                f"{source} is a table with versions ({name}), whose files are not all of the log: export it as "
                "plain Parquet"
            )
    for file in files:
        name = pathlib.PurePath(staging.bare(file.name))
        unpacked = not name.suffix and (staging.packing(file) or name.name.startswith("part-"))
        if name.suffix in UNREAD or unpacked:
            raise UserError(
                f"{sources.spoken(file)} may be part of the log, and is of a kind that is not read: unpack or "
                "convert it, name it by its kind (as .csv), or move it away"
            )


def _kind(text: ir.Value, values: str) -> ir.Value:
    """Kind of each raw value; values without a pair stay as they are, for check_events to name."""
    if not values:
        return text
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
