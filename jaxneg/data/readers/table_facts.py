"""What all rows of a table say of its columns: how times and ids are written, and what no log should have."""

# ibis types its expressions at run time.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false
# pyright: reportCallIssue=false, reportOperatorIssue=false

from collections.abc import Mapping
from typing import Any

import ibis
import ibis.expr.types as ir

from jaxneg.data import columns as cols, engine, sources, times
from jaxneg.data.columns import Column, Piece
from jaxneg.data.readers.table_options import Options
from jaxneg.errors import UserError

WORDS = ("nan", "none", "null", "\\n", "<na>", "nat")  # in small letters: what stands for no value
TRUE, FALSE = ("true", "t", "yes", "y", "1", "1.0"), ("false", "f", "no", "n", "0", "0.0")
IDS = ("user", "item", "session", "station")


class Facts:
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
