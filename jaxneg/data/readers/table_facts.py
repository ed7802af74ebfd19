"""What all rows of a table say of its columns: how times and ids are written, and what no log should have."""

# ibis types its expressions at run time.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false
# pyright: reportCallIssue=false, reportOperatorIssue=false

import re
from collections.abc import Mapping
from typing import Any

import ibis
import ibis.expr.types as ir

from jaxneg.data import columns as cols, engine, sources, times
from jaxneg.data.columns import Column, Piece
from jaxneg.data.readers.table_options import Options
from jaxneg.errors import UserError

# in small letters: what stands for no value
WORDS = (
    "nan",
    "none",
    "null",
    "\\n",
    "<na>",
    "nat",
    "na",
    "n/a",
    "#n/a",
    "nil",
    "undefined",
    "(null)",
    "[null]",
    "<null>",
)
TRUE = ("true", "t", "yes", "y", "on", "1", "1.0")
FALSE = ("false", "f", "no", "n", "off", "0", "0.0")
WIDEST = 500  # columns of a file in which rows are looked for that a quote has swallowed
IDS = ("user", "item", "session", "station")
# What a column of a role holds that none should, by the fact that counts its rows: the first that is met is told.
TROUBLES = {
    "shapes": "objects or lists in {part}: name one of their fields with a dot, as in {name}.id, or write one row per "
    "event",
    "big": "{some} decimal numbers too large to be exact (above 2^53, or 2^24 where they have 32 bits): write whole "
    "numbers or text",
    "truths": "true or false in {part}: name the column of {role}s with --{role}",
    "short": "{example!r}, a number that a spreadsheet has shortened ({part}): write it out",
    "bytes": "bytes that are no UTF-8 in {part}: write text",
    "breaks": "line breaks beside delimiters in {part}, so a quote is open too long: correct the rows, or give "
    "--quoting none if the file quotes nothing",
    "bad": "{example!r}, which is not {kind} ({part}): correct or remove the rows",
}


class Facts:
    """What all rows say of the columns, summed over pieces, and what follows from it.

    Attributes:
      rows: of each piece.
      clock: how times are read; None if they are the order of rows.
      strip: roles whose text is all numbers, some with .0.
      untidy: roles with blanks around text.
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
        self._clock_found = {
            name.removeprefix("time "): value
            for name, value in self._found.items()
            if name.startswith("time ")
        }
        if times.unfit(self._clock_found, options.time_unit, options.time_format) and not self._spark:
            self._clock_found |= _summed(
                [_asked(piece.table, times.compact(piece.columns[roles["time"]])) for piece in pieces]
            )
        self.strip = self._whole_text()
        self.untidy = frozenset(role for role in roles if self._of(f"untidy {role}"))
        self.clock: times.Clock | None = None
        has = [piece for piece in pieces if roles.get("feedback") in piece.columns]
        json = bool(has) and has[0].columns[roles["feedback"]].shape is not None
        self.feedback = bool(has) and (not (json or self._has_played()) or bool(self._of("some feedback")))

    def _of(self, name: str) -> Any:
        return self._found.get(name) or 0

    def _ask(self, piece: Piece) -> dict[str, Any]:
        """Aggregates over a piece, by what they say of which role."""
        table = piece.table
        ask: dict[str, ir.Value] = {}
        for role, name in self._roles.items():
            column = piece.columns.get(name)
            if column is None:
                continue
            self._refuse_shape(piece, name, role, column)
            if column.shape is not None:
                ask[f"shapes {role}"] = column.shape.isin(("OBJECT", "ARRAY")).sum()
                ask[f"big {role}"] = (column.shape == "BIG").sum()
            if column.kind == "real" and column.exact < cols.EXACT and role == "time":
                ask[f"big {role}"] = self._big(column)
            if role == "time":
                read = times.read(column, self._options.time_format, spark=self._spark)
                names = {what: ibis.util.gen_name(f"jaxneg_time_{what}") for what in read}
                table = (
                    table.mutate(**{names[what]: value for what, value in read.items()}) if read else table
                )
                asked = times.look({what: table[name] for what, name in names.items()})
                ask |= {f"time {what}": value for what, value in asked.items()}
            elif role in ("played", "duration"):
                if column.kind == "text":
                    value = cols.text(column).strip().nullif("")
                    bad = (
                        value.notnull()
                        & value.lower().notin(times.NOT_TIMES)
                        & cols.number(column._replace(value=value)).isnull()
                    )
                    ask |= {f"bad {role}": bad.sum(), f"example {role}": value.min(where=bad)}
            elif role in ("liked", "skipped"):
                value = cols.text(column).strip().lower().nullif("")
                bad = value.notnull() & value.notin((*TRUE, *FALSE, *WORDS))
                ask |= {f"bad {role}": bad.sum(), f"example {role}": value.min(where=bad)}
            else:
                ask |= self._ask_text(piece, role, column)
        if self._options.quoting != "double" and len(piece.texts) <= WIDEST:
            for place, name in enumerate(piece.texts):
                ask[f"spilt {piece.have[place]}"] = _swallowed(piece, place, name).sum()
        return _asked(table, {"rows": table.count()} | ask)

    def _big(self, column: Column) -> ir.Value:
        """Real numbers of which whole ones are not exact."""
        real = column.value.cast("float64")
        return ((real.abs() >= column.exact) & ~real.isnan()).sum()

    def _ask_text(self, piece: Piece, role: str, column: Column) -> dict[str, ir.Value]:
        value, ask = cols.text(column), {}
        if column.kind == "null":
            return {f"none {role}": column.value.isnull().sum()} if role in ("user", "item") else {}
        tidy = cols.tidy(value) if column.kind == "text" else value
        ask[f"some {role}"] = value.count()
        if role in ("user", "item"):
            ask[f"none {role}"] = tidy.isnull().sum()
            if column.shape is not None:
                ask[f"truths {role}"] = (column.shape == "BOOLEAN").sum()
        if column.kind == "real" and role != "feedback":
            ask[f"big {role}"] = self._big(column)
        if column.kind == "bytes":
            ask[f"bytes {role}"] = cols.undecodable(column).sum()
        if column.kind == "text":
            ask[f"points {role}"] = (value.endswith(".0") | value.endswith(".00")).sum()
            if role != "feedback":
                ask[f"untidy {role}"] = (tidy.fill_null("") != value).sum()
            if role in IDS:
                ask[f"words {role}"] = tidy.lower().isin(WORDS).sum()
                short = value.contains("E+") | value.contains("e+")
                short = short & value.re_search(r"^-?[0-9](\.[0-9]+)?[eE]\+[0-9]+$")
                ask |= {f"short {role}": short.sum(), f"example {role}": value.min(where=short)}
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
        if kind in ("stamp", "boolean") and role in ("user", "item"):
            what = "times" if kind == "stamp" else "true and false"
            raise UserError(f"{where} holds {what}: name the column of {role}s with --{role}")
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
                    ask[f"odd {role}"] = (
                        text.notnull() & ~text.re_search(r"^\s*-?[0-9]+(\.[0-9]+)?\s*$")
                    ).sum()
            found.append(_asked(piece.table, ask))
        odd = _summed(found)
        return frozenset(role for role in roles if not odd.get(f"odd {role}"))

    def refuse(self, where: str) -> None:
        """Raises UserError for the first thing that no log should have; settles how times are read."""
        rows, options = sum(self.rows), self._options
        for role, name in self._roles.items():
            for fact, trouble in TROUBLES.items():
                if count := self._of(f"{fact} {role}"):
                    kind = "true or false" if role in ("liked", "skipped") else "a number"
                    said = {"name": name, "role": role, "kind": kind, "example": self._of(f"example {role}")}
                    said |= {"some": f"{count:,}", "part": f"{count:,} of {rows:,} rows"}
                    raise UserError(f"{where}: column {name} holds {trouble.format(**said)}")
        for name in dict.fromkeys(name for piece in self._pieces for name in piece.have):
            if count := self._of(f"spilt {name}"):
                raise UserError(
                    f"{where}: column {name} holds whole lines of the file in {count:,} of {rows:,} rows, so a quote "
                    "there is open too long: correct the rows, give --quoting none if the file quotes nothing, or "
                    "--quoting double if it is right"
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
                column,
                self._clock_found,
                options.time_unit,
                options.time_format,
                spark=self._spark,
                lenient=options.missing == "leave-out",
            )

    def _has_played(self) -> bool:
        return any(self._roles.get("played") in piece.columns for piece in self._pieces)

    def _refuse_missing(self, where: str, rows: int) -> None:
        for role in ("user", "item"):
            if (count := self._of(f"none {role}")) == rows:
                have = dict.fromkeys(name for piece in self._pieces for name in piece.have)
                raise UserError(
                    f"{where}: column {self._roles[role]} has no value in any row; there are {', '.join(have)}: name "
                    f"the column of {role}s with --{role}"
                )
            if count:
                raise UserError(
                    f"{where}: column {self._roles[role]} has no value in {count:,} of {rows:,} rows: fill or remove "
                    "them, or give --missing leave-out"
                )
        for role in IDS if self._options.missing == "refuse" else ():
            if count := self._of(f"words {role}"):
                raise UserError(
                    f"{where}: column {self._roles[role]} holds words for no value (nan, None, null, NA, \\N) "
                    f"in {count:,} of {rows:,} rows: give --missing leave-out, or --missing keep if they are ids"
                )


def _swallowed(piece: Piece, place: int, name: str) -> ir.Value:
    """Whether a value holds what stood between two quotes that are each alone in this column of their lines.

    Then the first of its lines has as many delimiters as follow the column, the last as many as lead to it, and
    those between as many as a line.
    """
    d, width = piece.delimiter, len(piece.texts)
    other = rf"[^{re.escape(d)}\n]*"
    lines = rf"(?:{other}{re.escape(d)}){{COUNT}}{other}"
    some = [lines.replace("COUNT", str(count)) for count in (width - 1 - place, width - 1, place)]
    value = piece.table[name]
    return (value.contains("\n") & value.re_search(rf"^{some[0]}\n(?:{some[1]}\n)*{some[2]}$")).fill_null(
        False
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
