"""Times of a log: one unit, or one way of writing, a column, decided from all of it.

Numbers that are seconds, milliseconds, microseconds or nanoseconds of one unit between 1990 and tomorrow, or dates
such as 20240115, are read as these; all else is refused unless the user names the unit.
"""

# ibis types its expressions at run time.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false
# pyright: reportCallIssue=false, reportOperatorIssue=false

import datetime
import time
from collections.abc import Mapping
from typing import Any

import ibis
import ibis.expr.types as ir

from jaxneg.data import columns as cols, events
from jaxneg.data.columns import Column
from jaxneg.errors import UserError

DAY = 86_400
EARLIEST = 631_152_000  # 1990-01-01, in seconds: before it nobody logged what people listen to
LATEST = 852_076_800  # 1997-01-01: the oldest logs that are known go on beyond it
LEAST, MOST = -62_135_596_800_000, 253_402_300_799_999  # years 1 to 9999, in milliseconds
UNITS = {"s": 1e3, "ms": 1.0, "us": 1e-3, "ns": 1e-6}  # milliseconds of one
COMPACT = {8: "%Y%m%d", 10: "%Y%m%d%H", 12: "%Y%m%d%H%M", 14: "%Y%m%d%H%M%S", 17: "%Y%m%d%H%M%S%g"}
# Beside ISO: those that can be read in one way only, as the month has a name or the order is that of ISO.
WRITTEN = [
    "%d %b %Y %H:%M:%S", "%d %b %Y %H:%M", "%d %b %Y, %H:%M:%S", "%d %b %Y, %H:%M", "%d %b %Y",
    "%d %B %Y %H:%M:%S", "%d %B %Y %H:%M", "%d %B %Y, %H:%M", "%d %B %Y",
    "%d-%b-%Y %H:%M:%S", "%d-%b-%Y %H:%M", "%d-%b-%Y",
    "%b %d, %Y %H:%M:%S", "%b %d, %Y, %H:%M:%S", "%b %d, %Y %H:%M", "%b %d, %Y, %H:%M", "%b %d, %Y",
    "%Y-%m-%d %I:%M:%S %p", "%Y-%m-%d %I:%M %p", "%b %d, %Y, %I:%M:%S %p UTC",
    "%b %d, %Y %I:%M:%S %p", "%b %d, %Y, %I:%M:%S %p", "%b %d, %Y %I:%M %p", "%b %d, %Y, %I:%M %p",
    "%B %d, %Y %H:%M:%S", "%B %d, %Y %H:%M", "%B %d, %Y",
    "%a %b %d %H:%M:%S %Y", "%a, %d %b %Y %H:%M:%S", "%a, %d %b %Y %H:%M:%S GMT",
    "%Y%m%dT%H%M%S", "%Y%m%dT%H%M%SZ", "%Y.%m.%d %H:%M:%S", "%Y.%m.%d %H:%M", "%Y.%m.%d",
]  # fmt: skip
ZONED = [
    "%Y-%m-%d %H:%M:%S %z",
    "%a %b %d %H:%M:%S %z %Y",
    "%d/%b/%Y:%H:%M:%S %z",
    "%a, %d %b %Y %H:%M:%S %z",
    "%d %b %Y %H:%M:%S %z",
    "%Y%m%dT%H%M%S%z",
]
NOT_TIMES = ("nan", "nat", "none", "null", "\\n", "inf", "-inf", "infinity", "-infinity", "+inf", "<na>")


@ibis.udf.scalar.builtin(name="try_strptime", signature=(("string", "array<string>"), "timestamp"))
def _parsed(_text, _formats): ...


@ibis.udf.scalar.builtin(name="try_strptime", signature=(("string", "array<string>"), "timestamp('UTC')"))
def _parsed_zoned(_text, _formats): ...


def _written(text: ir.Value, formats: list[str]) -> ir.Value:
    """Milliseconds of text in one of these formats, null if it is in none."""
    parse = _parsed_zoned if any("%z" in form.lower() for form in formats) else _parsed
    return events.milliseconds(parse(text, ibis.array(formats)))


def _text(column: Column) -> ir.Value:
    text = cols.text(column).strip().nullif("")
    return ibis.ifelse(text.lower().isin(NOT_TIMES), ibis.null("string"), text)


def _iso(text: ir.Value) -> ir.Value:
    year = text.length() > 4
    dated = ibis.ifelse(year & text.substr(4, 1).isin(("-", "/")), text, ibis.null("string"))
    return events.milliseconds(dated.try_cast("timestamp('UTC')"))


def _dated(text: ir.Value, spark: bool) -> ir.Value:
    """Milliseconds of dates in text, null for what is none."""
    if spark:
        return _iso(text)
    return ibis.coalesce(_iso(text), _written(text, WRITTEN), _written(text, ZONED))


def usual() -> tuple[int, int]:
    """From 1990 to tomorrow, in milliseconds."""
    return EARLIEST * 1000, int((time.time() + DAY) * 1000)


def read(column: Column, form: str, *, spark: bool) -> dict[str, ir.Value]:
    """What ``look`` goes by, as columns to add to the table of a piece: an engine takes an expression apart anew
    wherever it stands."""
    if column.kind == "null":
        return {}
    if column.kind == "stamp":
        # An infinite time has no milliseconds.
        return {"date": events.milliseconds(column.value)}
    if form:
        text = _text(column if column.kind == "text" else Column(cols.text(column), "text"))
        return {"text": text, "date": _formatted(text, form)}
    if column.kind != "text":
        return {"number": cols.number(column)}
    text = _text(column)
    number = cols.number(column._replace(value=text))
    date = ibis.ifelse(number.isnull(), _dated(text, spark), ibis.null("int64"))
    return {"text": text, "number": number, "date": date, "iso": _iso(text), "short": _shortened(text)}


def look(have: Mapping[str, ir.Value]) -> dict[str, ir.Value]:
    """What ``Clock`` has to know of a column of a piece, as aggregates over the columns of ``read``."""
    if not have:
        return {}
    low, high = usual()
    found = {"present": next(iter(have.values())).notnull().sum()}
    if "date" in have:
        date = have["date"]
        found |= {"dates": date.notnull().sum(), "date_low": date.min(), "date_high": date.max()}
        found["dates_usual"] = date.between(low, high).sum()
    if "text" in have:
        text = have["text"]
        none = have["date"].isnull()
        none = none & have["number"].isnull() if "number" in have else none
        found["example"] = text.min(where=text.notnull() & none)
    if "iso" in have:
        short = have["short"]
        found |= {"iso": have["iso"].notnull().sum(), "short": short.sum()}
        found["short_example"] = have["text"].min(where=short)
    if "number" in have:
        number = have["number"]
        found |= {"numbers": number.notnull().sum(), "low": number.min(), "high": number.max()}
        for unit, scale in UNITS.items():
            found[f"usual_{unit}"] = (number * scale).between(low, high).sum()
    return found


def _shortened(text: ir.Value) -> ir.Value:
    """Whether a number was written with fewer digits than it has, as spreadsheets do: 1.7041E+12."""
    digits = text.re_extract(r"\.([0-9]*)[eE]\+", 1).length()
    power = text.re_extract(r"[eE]\+([0-9]+)$", 1).try_cast("int64")
    return ((text.contains("E+") | text.contains("e+")) & (digits < power)).fill_null(False)


def compact(column: Column) -> dict[str, ir.Value]:
    """Numbers that are dates of each length of COMPACT, as aggregates: the second look, where no unit fits."""
    if column.kind == "null":
        return {}
    return {f"compact_{size}": _compact(column, size).notnull().sum() for size in COMPACT}


def _compact(column: Column, size: int) -> ir.Value:
    digits = cols.whole(column).cast("string")
    digits = ibis.ifelse(digits.length() == size, digits, ibis.null("string"))
    ms = _written(digits, [COMPACT[size]])
    return ibis.ifelse(ms.between(*usual()), ms, ibis.null("int64"))


def _formatted(text: ir.Value, form: str) -> ir.Value:
    return _written(text, [form])


class Clock:
    """How the times of a log are read: by a unit, as compact dates of a length, or as written.

    Args:
      where: the log and the column, for messages.
      found: sums, least and most of what ``look`` and ``compact`` say of all pieces.
      unit: of numbers; "auto" goes by what is found.
      form: strptime format, or "".
      lenient: a few times outside 1990 to today are no reason to refuse; ``usual`` says whether to leave them out.
    """

    def __init__(
        self,
        where: str,
        found: Mapping[str, Any],
        unit: str,
        form: str,
        *,
        spark: bool = False,
        lenient: bool = False,
    ):
        self.unit, self.form, self.spark = unit, form, spark
        self.usual = lenient and unit == "auto"
        self.size, self.dates = 0, bool(found.get("dates"))
        # Most are: other ways of writing cost a lot to try.
        self.iso = found.get("iso") == found.get("dates")
        present, numbers, dates = (found.get(name) or 0 for name in ("present", "numbers", "dates"))
        rest = present - numbers - dates
        if rest > 0:
            how = f"is not written as {form}" if form else "is no time"
            mend = (
                "correct it"
                if form
                else (
                    "use numbers or YYYY-MM-DD HH:MM:SS, or say how it is written with --time-format '%d/%m/%Y %H:%M'"
                )
            )
            raise UserError(
                f"{where} holds {found['example']!r}, which {how} ({rest:,} of {present:,} rows): {mend}"
            )
        if found.get("short"):
            raise UserError(
                f"{where} holds {found['short_example']!r}, a number that a spreadsheet has shortened "
                f"({found['short']:,} of {present:,} rows): write all of its digits"
            )
        if numbers and dates:
            raise UserError(
                f"{where} holds numbers in {numbers:,} rows and dates in {dates:,}: write all in one way"
            )
        if dates:
            self._check_dates(where, found, dates)
        elif numbers:
            self._check_numbers(where, found, numbers)

    def _check_dates(self, where: str, found: Mapping[str, Any], dates: int) -> None:
        low, high = found["date_low"], found["date_high"]
        if not LEAST <= low <= high <= MOST:
            raise UserError(f"{where} holds a time outside the years 1 to 9999: correct or remove the row")
        outside = dates - (found["dates_usual"] or 0)
        if self.unit == "auto" and 0 < outside < dates and not self._few(outside, dates):
            raise UserError(
                f"{where} runs from {_shown(low)} to {_shown(high)}, and {outside:,} of {dates:,} rows lie before "
                "1990 or after today: correct or remove them, give --missing leave-out, or --time-unit order if they "
                "are right"
            )
        if self.unit == "auto" and not self.form and not found["dates_usual"]:
            raise UserError(
                f"{where} runs from {_shown(low)} to {_shown(high)}, all of it before 1990 or after today: a number "
                "taken for a date? If it is right, give --time-unit order"
            )

    def _check_numbers(self, where: str, found: Mapping[str, Any], numbers: int) -> None:
        low, high = found["low"], found["high"]
        runs = f"{where} runs from {low:.10g} to {high:.10g}"
        names = "--time-unit s, ms, us or ns, or --time-unit order if it just counts"
        if self.unit == "order":
            if not -(2.0**63) < low <= high < 2.0**63:
                raise UserError(f"{runs}, which is beyond 64 bits: give smaller numbers")
            return
        if self.unit != "auto":
            if not LEAST <= low * UNITS[self.unit] <= high * UNITS[self.unit] <= MOST:
                raise UserError(
                    f"{runs}, which in {self.unit} is outside the years 1 to 9999: give another --time-unit"
                )
            return
        fits = {unit: found[f"usual_{unit}"] or 0 for unit in UNITS}
        best = max(fits, key=lambda unit: fits[unit])
        if fits[best] == numbers or self._few(numbers - fits[best], numbers):
            if high * UNITS[best] < LATEST * 1000:
                first, last = (_shown(int(value * UNITS[best])) for value in (low, high))
                count = (
                    "seconds since 2001, as Apple's? Add 978307200"
                    if best == "s"
                    else "a count from another day?"
                )
                raise UserError(
                    f"{runs}, in {best} from {first} to {last}, before anybody streamed ({count}): if it is right give "
                    f"--time-unit {best}, else write dates as YYYY-MM-DD HH:MM:SS"
                )
            self.unit = best
            return
        if not fits[best] and "compact_8" in found:
            self.size = next((size for size in COMPACT if found[f"compact_{size}"] == numbers), 0)
            if self.size:
                return
        if fits[best]:
            raise UserError(
                f"{runs}, and {numbers - fits[best]:,} of {numbers:,} rows lie outside 1990 to today in {best}: "
                f"remove them, give --missing leave-out, or {names}"
            )
        raise UserError(
            f"{runs}, which is no time between 1990 and today in s, ms, us or ns, nor dates such as 20240131 "
            f"(days of a spreadsheet? a counter?): give {names}, or write dates as YYYY-MM-DD HH:MM:SS"
        )

    def _few(self, outside: int, rows: int) -> bool:
        """Whether times outside the usual are few, and are to be left out."""
        return self.usual and 0 < outside < rows / 2

    def milliseconds(self, column: Column) -> ir.Value:
        """Milliseconds since the epoch, rounded down."""
        if column.kind == "null":
            return ibis.null("int64")
        if column.kind == "stamp":
            return events.milliseconds(column.value)
        if self.form:
            return _formatted(_text(Column(cols.text(column), "text")), self.form)
        if column.kind != "text":
            return self._scaled(column)
        # On the bare column where that will do: an engine computes an expression anew wherever it stands.
        if self.dates and self.iso:
            value = column.value.strip()
            dated = ibis.ifelse(value.lower().contains("inf"), ibis.null("string"), value)
            return events.milliseconds(dated.try_cast("timestamp('UTC')"))
        return _dated(_text(column), self.spark) if self.dates else self._scaled(column)

    def _scaled(self, column: Column) -> ir.Value:
        if self.size:
            return _compact(column, self.size)
        if self.unit in ("order", "ms"):
            return cols.whole(column)
        whole = _exactly(column)
        if self.unit in ("auto", "s"):  # auto: there are no numbers
            broken = cols.rounded(cols.number(column) * 1000)
            exact = whole * ibis.literal(1000, "int64")
        else:
            by = {"us": 1000, "ns": 1_000_000}[self.unit]
            broken = (cols.number(column) / by).floor().cast("int64")
            exact = (whole - ((whole % by) + by) % by) // by
        return broken if column.kind in ("real", "decimal") else ibis.coalesce(exact, broken)


def _exactly(column: Column) -> ir.Value:
    """Whole numbers; null for text with a fraction, which the engine would round."""
    if column.kind != "text":
        return cols.whole(column)
    return ibis.ifelse(column.value.contains("."), ibis.null("int64"), column.value.try_cast("int64"))


def unfit(found: Mapping[str, Any], unit: str, form: str) -> bool:
    """Whether numbers fit no unit, so that the second look is worth it."""
    if unit != "auto" or form or not found.get("numbers"):
        return False
    return not any(found[f"usual_{name}"] for name in UNITS)


def _shown(ms: int) -> str:
    return f"{datetime.datetime.fromtimestamp(ms / 1000, datetime.UTC):%Y-%m-%d}"
