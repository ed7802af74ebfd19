"""The columns of an event log, whatever it was read from, and the checks it passes before it is prepared.

A log is a lazy ibis table of one row per event. Feedback stays apart by kind here; which kinds count as
positive or negative is decided by a polarity when the log is prepared.
"""

# ibis types its expressions at run time.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false
# pyright: reportCallIssue=false, reportOperatorIssue=false

from collections.abc import Mapping
from typing import Any

import ibis
import ibis.expr.types as ir

from jaxneg.data import engine
from jaxneg.data.metadata import Sign
from jaxneg.errors import UserError

# unknown: seen, but no opinion can be read from it
KINDS = ("thumb_up", "play", "skip", "thumb_down", "unknown")
ATTRIBUTE = "attribute_"  # prefix of columns that describe the item: text, one value per item
LEFT_OUT = "left_out"  # optional column: why a row is no event, in plain words; null for events

EVENT_SCHEMA = ibis.schema(
    {
        "user": "!string",
        "session": "string",  # null where the source has no sessions
        "station": "string",  # context of play, null where there is none
        "time": "!int64",  # milliseconds since the epoch, or any order number if the source has no clock
        "order": "!int64",  # position in the source: breaks ties of time
        "item": "!string",
        "feedback": "!string",  # one of KINDS
        "played": "float64",  # fraction of the item that was played, in [0, 1]
        "duration": "int64",  # milliseconds from `time` to the end of the event, null where unknown
    }
)

# Sign of each kind. The first is what `prepare` takes unless the reader or the user says otherwise.
PRESETS: dict[str, dict[str, Sign]] = {
    "default": {"thumb_up": 1, "play": 1, "skip": -1, "thumb_down": -1, "unknown": 0},
    # MSSD: a play against a skip
    "plays": {"thumb_up": 1, "play": 1, "skip": -1, "thumb_down": -1, "unknown": 0},
    # Piki: opinions given only
    "explicit": {"thumb_up": 1, "play": 0, "skip": 0, "thumb_down": -1, "unknown": 0},
    # plays alone say nothing
    "pandora": {"thumb_up": 1, "play": 0, "skip": -1, "thumb_down": -1, "unknown": 0},
    # skips alone say nothing
    "lenient": {"thumb_up": 1, "play": 1, "skip": 0, "thumb_down": -1, "unknown": 0},
}


def select(
    table: ir.Table,
    *,
    user: ir.Value,
    item: ir.Value,
    time: ir.Value,
    feedback: ir.Value,
    session: ir.Value | None = None,
    station: ir.Value | None = None,
    played: ir.Value | None = None,
    duration: ir.Value | None = None,
    attributes: Mapping[str, ir.Value] | None = None,
    left_out: ir.Value | None = None,
) -> ir.Table:
    """The log in EVENT_SCHEMA, one row per row of `table`, which brings its own `order` column.

    Values are expressions over `table` and are cast to the type of their column; those left out become null.

    Args:
      attributes: name without prefix -> value, as in {"artist": table.artist_name}.
      left_out: text, null for events. A row with a reason is counted by it, and is not prepared; its other
        values may be null or make no sense.
    """
    values = {
        "user": user,
        "session": session,
        "station": station,
        "time": time,
        "order": table.order,
        "item": item,
        "feedback": feedback,
        "played": played,
        "duration": duration,
    }
    columns = {}
    for name, kind in EVENT_SCHEMA.items():
        value, kind = values[name], kind.copy(nullable=True)
        columns[name] = ibis.null(kind) if value is None else value.cast(kind)
    extra = {ATTRIBUTE + name: value.cast("string") for name, value in (attributes or {}).items()}
    if left_out is not None:
        extra[LEFT_OUT] = left_out.cast("string")
    return table.select(**columns, **extra)


@ibis.udf.scalar.builtin(name="epoch_ns", signature=(("timestamp(9)",), "int64"))
def _nanoseconds(_stamp): ...


def milliseconds(stamp: ir.Value) -> ir.Value:
    """Milliseconds since the epoch of a timestamp (in UTC if it names no zone), rounded down."""
    kind: Any = stamp.type()
    if kind.is_timestamp() and kind.scale == 9 and kind.timezone is None:  # a cast would round up
        whole, million = _nanoseconds(stamp), 1_000_000
        return (whole - ((whole % million) + million) % million) // million
    stamp = stamp.cast("timestamp")  # in UTC, the engine's time zone
    whole = stamp.truncate("s")  # DuckDB rounds the seconds of an epoch, so .6 would be a second late
    return whole.epoch_seconds().cast("int64") * 1000 + stamp.millisecond()


def with_attributes(log: ir.Table, items: ir.Table) -> ir.Table:
    """The log with the attribute columns of `items` (item, attribute_...) beside each event, null for others.

    An item listed twice keeps its smallest value, so that no event is doubled.
    """
    names = [name for name in items.columns if name.startswith(ATTRIBUTE)]
    items = items.group_by(item=items.item.cast("string")).agg(**{name: items[name].min() for name in names})
    return log.left_join(items, "item").select(*log.columns, *names)


def attribute_names(log: ir.Table) -> list[str]:
    """Columns of the log that describe items, with their prefix."""
    return [name for name in log.columns if name.startswith(ATTRIBUTE)]


def left_out(log: ir.Table) -> dict[str, int]:
    """Rows of the log that are no events, by the reason that the reader gave, most frequent first."""
    if LEFT_OUT not in log.columns:
        return {}
    counted = log.filter(log[LEFT_OUT].notnull()).group_by(reason=log[LEFT_OUT]).agg(number=ibis._.count())
    found = engine.fetch(counted).to_pylist()
    return {row["reason"]: row["number"] for row in sorted(found, key=lambda r: (-r["number"], r["reason"]))}


def kept(log: ir.Table) -> ir.Table:
    """The rows that are events, without the column ``left_out``."""
    return log.filter(log[LEFT_OUT].isnull()).drop(LEFT_OUT) if LEFT_OUT in log.columns else log


def check_events(log: ir.Table) -> int:
    """Number of events of a log that is in EVENT_SCHEMA, rows that are left out not among them.

    Raises UserError on a missing or mistyped column, then, by one pass over the log, on a log without events, on
    missing users, items, times or feedback, on a feedback value that is no kind, and on played fractions
    outside [0, 1].
    """
    for name, kind in EVENT_SCHEMA.items():
        if name not in log.columns:
            raise UserError(f"events: column {name} is missing; there are {', '.join(log.columns)}")
        _check_type(log, name, kind)
    extra = [name for name in log.columns if name not in EVENT_SCHEMA]
    for name in extra:
        if not name.startswith(ATTRIBUTE) and name != LEFT_OUT:
            raise UserError(f"events: unknown column {name}: extra columns are named {ATTRIBUTE}<name>")
        _check_type(log, name, ibis.dtype("string"))

    reasons, log = left_out(log), kept(log)
    needed = [name for name, kind in EVENT_SCHEMA.items() if not kind.nullable]
    wrong = log.feedback.notin(KINDS)
    outside = (log.played < 0.0) | (log.played > 1.0) | log.played.isnan()
    [found] = engine.fetch(
        log.aggregate(
            rows=log.count(),
            **{f"null_{name}": log[name].isnull().sum() for name in needed},
            blank_user=(log.user == "").sum(),
            blank_item=(log.item == "").sum(),
            wrong=wrong.sum(),
            wrong_example=log.feedback.min(where=wrong),
            outside=outside.sum(),
            outside_example=log.played.max(where=outside),
        )
    ).to_pylist()
    rows = found["rows"]
    if rows == 0 and reasons:
        counts = ", ".join(f"{number:,} {reason}" for reason, number in reasons.items())
        raise UserError(f"events: no row is left to prepare: left out are {counts}")
    if rows == 0:
        raise UserError("events: the log is empty: no row was left to prepare")
    for name in needed:
        missing = (found[f"null_{name}"] or 0) + (found.get(f"blank_{name}") or 0)
        if missing:
            raise UserError(
                f"events: column {name} has no value in {missing:,} of {rows:,} rows: fill or remove them"
            )
    if found["wrong"]:
        raise UserError(
            f"events: column feedback holds {found['wrong_example']!r} ({found['wrong']:,} of {rows:,} "
            f"rows have values that are no kind of feedback): use {', '.join(KINDS)}, or map values to these"
        )
    if found["outside"]:
        raise UserError(
            f"events: column played holds {found['outside_example']} ({found['outside']:,} of {rows:,} "
            "rows are outside 0 to 1): give the fraction of the item that was played"
        )
    return rows


def _check_type(log: ir.Table, name: str, kind: ibis.DataType) -> None:
    if log[name].type().copy(nullable=True) != kind.copy(nullable=True):
        raise UserError(f"events: column {name} must be {kind.copy(nullable=True)}, not {log[name].type()}")
