"""Any log of one row per event: Parquet, CSV (comma, tab or semicolon, with header) or JSON lines."""

# ibis types its expressions at run time.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false
# pyright: reportCallIssue=false, reportOperatorIssue=false

import pathlib
from dataclasses import dataclass
from typing import Annotated, Literal

import ibis
import ibis.expr.types as ir

from jaxneg import config as configs, fields
from jaxneg.data import events, sources
from jaxneg.errors import UserError

FORMATS = {
    ".parquet": "parquet", ".pq": "parquet",
    ".csv": "csv", ".tsv": "csv", ".txt": "csv",
    ".jsonl": "json", ".ndjson": "json", ".json": "json",
}  # fmt: skip


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
    attributes: Annotated[tuple[str, ...], configs.option("COLUMN [COLUMN ...]", "none")] = ()
    """columns that describe the item, such as artist"""
    values: str = ""  # feedback value=kind pairs, as in "1=thumb_up,0=skip"; empty if the column holds kinds
    threshold: fields.Weight = 0.5  # without feedback: played at least so far is a play, else a skip
    time_unit: Literal["auto", "s", "ms", "us", "ns", "order"] = "auto"  # of numbers; auto goes by their size


def read(con: ibis.BaseBackend, source: pathlib.Path, options: Options) -> ir.Table:
    files, layout = _files(source)
    optional = [options.feedback, options.session_id, options.station, options.played, options.duration]
    defaults = [Options.feedback, Options.session_id, Options.station, Options.played, Options.duration]
    renamed = [column for column, default in zip(optional, defaults, strict=True) if column != default]
    fixed = [options.user, options.item, options.time, *options.attributes]
    needed = [column for column in (*fixed, *renamed) if column]
    mend = "name your columns with --user, --item, --time, --feedback and so on"

    if layout == "parquet":
        table = sources.read_parquet(con, files, needed, mend)
    elif layout == "csv":
        table = sources.read_csv(con, files, dict.fromkeys(needed, "VARCHAR"), mend=mend)
    else:
        first = sources.first_object(files[0], lines=True) or {}
        sources.require(files[0], list(first), needed, mend)
        wanted = [*needed, *(column for column in optional if column in first)]
        table = sources.read_json(con, files, dict.fromkeys(wanted, "VARCHAR"), lines=True)

    def column(name: str) -> ir.Value | None:
        return table[name] if name and name in table.columns else None

    feedback, played = column(options.feedback), column(options.played)
    if feedback is not None:
        kind = _kind(feedback, options.values)
    elif played is not None:
        share = played.cast("float64")
        kind = ibis.cases(
            (share >= options.threshold, "play"), (share < options.threshold, "skip"), else_="unknown"
        )
    else:
        raise UserError(
            f"{files[0]}: no column {options.feedback} and no column {options.played} to derive it from: "
            "name one of them with --feedback or --played"
        )
    return events.select(
        table,
        user=table[options.user],
        item=table[options.item],
        time=_milliseconds(table[options.time], options.time_unit) if options.time else table.order,
        feedback=kind,
        session=column(options.session_id),
        station=column(options.station),
        played=played,
        duration=column(options.duration),
        attributes={name: table[name] for name in options.attributes},
    )


def _files(source: pathlib.Path) -> tuple[list[pathlib.Path], str]:
    """Files of the source and their common layout."""
    patterns = [f"*{suffix}" for suffix in FORMATS]
    files = sources.find(source, patterns, "give Parquet, CSV or JSON lines")
    layouts = {FORMATS.get(pathlib.Path(file.name.removesuffix(".gz")).suffix.lower()) for file in files}
    if None in layouts:
        raise UserError(
            f"{source}: kind of file not known by its name: use {', '.join(patterns)}, or these with .gz"
        )
    if len(layouts) > 1:
        raise UserError(
            f"{source} holds {' and '.join(sorted(map(str, layouts)))} files: give files of one kind"
        )
    if layouts == {"parquet"} and any(file.suffix == ".gz" for file in files):
        raise UserError(f"{source}: Parquet is compressed inside: unpack the .gz first")
    return files, str(layouts.pop())


def _kind(raw: ir.Value, values: str) -> ir.Value:
    """Kind of each raw value; values without a pair stay as they are, for check_events to name."""
    text = raw.cast("string")
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
        same = text.lower() == value.lower()
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


def _milliseconds(time: ir.Value, unit: str) -> ir.Value:
    """Milliseconds since the epoch of numbers, timestamps, dates and ISO text (UTC if it names no zone)."""
    if time.type().is_temporal():
        return events.milliseconds(time)
    if time.type().is_numeric():
        return _scaled(time, unit)
    number = time.try_cast("float64")
    iso = events.milliseconds(time.cast("timestamp('UTC')"))
    return ibis.cases((number.notnull(), _scaled(number, unit)), else_=iso)


def _scaled(number: ir.Value, unit: str) -> ir.Value:
    """Numbers below 1e11 are seconds (to the year 5138), below 1e14 milliseconds, below 1e17 microseconds."""

    def whole(value: ir.Value) -> ir.Value:
        return value.round().cast("int64")

    scaled = {
        "s": lambda: whole(number * 1000),
        "ms": lambda: whole(number),
        "us": lambda: whole(number / 1000),
        "ns": lambda: whole(number / 1_000_000),
        "order": lambda: whole(number),
    }
    if unit != "auto":
        return scaled[unit]()
    size = number.abs()
    return ibis.cases(
        (size < 1e11, scaled["s"]()),
        (size < 1e14, scaled["ms"]()),
        (size < 1e17, scaled["us"]()),
        else_=scaled["ns"](),
    )
