"""RecBole's atomic files: .inter, tab separated, whose header names the type of each field.

Reference: Zhao et al., RecBole, CIKM 2021, arXiv:2011.01731; recbole.io/docs, "Atomic Files".
"""

# ibis types its expressions at run time.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false
# pyright: reportCallIssue=false, reportOperatorIssue=false

import os
import pathlib
from dataclasses import dataclass
from typing import Annotated

import ibis
import ibis.expr.types as ir

from jaxneg.config import fields
from jaxneg.config.fields import Bounds
from jaxneg.data import engine, events, scans, sources
from jaxneg.data.readers import editions
from jaxneg.errors import UserError

PARTS = ("train", "valid", "validation", "test", "part1", "part2", "part3")  # of a benchmark, in their order
# highest value -> from here liked, up to here disliked
SCALES = {1: (1.0, 0.0), 5: (4.0, 2.5), 10: (8.0, 5.0)}

SCALE = Bounds(-1e9, 1e9)  # of ratings


@dataclass(frozen=True)
class Options:
    user_field: str = "user_id"  # field of the user
    item_field: str = "item_id"  # field of the item
    time_field: str = "timestamp"  # field of the time; without it, unless renamed, the order of rows counts
    rating_field: Annotated[str | None, fields.option("FIELD", "rating, else label, else none")] = None
    """field of the opinion; without one every row is a play, and empty says that there is none"""
    up: Annotated[float | None, SCALE, fields.option("FLOAT", "4 of 5, 8 of 10")] = None
    """ratings from here are thumbs-up"""
    down: Annotated[float | None, SCALE, fields.option("FLOAT", "2.5 of 5, 5 of 10")] = None
    """ratings up to here are thumbs-down"""
    item_fields: Annotated[tuple[str, ...], fields.option("FIELD [FIELD ...]", "none")] = ()
    """fields of the .item file, or of the log, that describe the item, such as artist"""


def read(con: ibis.BaseBackend, source: pathlib.Path, options: Options) -> ir.Table:
    """Events of one data set's .inter file, or of its parts (NAME.train.inter and so on) one after the other.

    A rating is thumb-up, thumb-down or unknown by its thresholds; with values of 0 and 1 (a label) 1 is a play and 0 a
    skip; without an opinion each row is a play. Times are taken for seconds, milliseconds, microseconds or nanoseconds
    by the largest of them, and for order numbers if that is below 1990 in seconds. Looks at times and ratings at once
    to know. Sequences in a row (item_id_list:token_seq) are refused.
    """
    mend = "give one .inter file, with user_id:token, item_id:token and so on in its header"
    files = _parts(source, sources.find(source, ["*.inter"], mend))
    fields = _fields(con, files, mend)

    def column(field: str) -> str:
        if field not in fields:
            raise UserError(
                f"{sources.spoken(files[0])}: no field {field}; it has {', '.join(fields)}: name yours with --*-field"
            )
        name, kind = fields[field]
        if kind.endswith("_seq"):
            raise UserError(
                f"{sources.spoken(files[0])}: {name} holds sequences, and one row an event is needed: {mend}"
            )
        return name

    user, item = column(options.user_field), column(options.item_field)
    wanted = options.time_field if options.time_field != Options.time_field else None
    time = column(options.time_field) if options.time_field in fields or wanted else None
    opinion = options.rating_field
    if opinion is None:
        opinion = next((name for name in ("rating", "label") if name in fields), "")
    rating = column(opinion) if opinion else None
    numbers = {name: "DOUBLE" for name in (time, rating) if name is not None}
    types = dict.fromkeys((user, item), "VARCHAR") | numbers
    table = scans.read_csv(con, files, types, delimiter="\t", quote="", mend=mend)
    most = {"rows": table.count()} | {name: table[name].max() for name in numbers}
    [highest] = engine.fetch(table.agg(**most)).to_pylist()
    own = [name for name in options.item_fields if name in fields]
    log = events.select(
        table,
        user=table[user],
        item=table[item],
        time=table.order if time is None else _milliseconds(table[time], highest[time]),
        feedback=_feedback(files[0], None if rating is None else table[rating], highest.get(rating), options),
        attributes={name: _first(table[fields[name][0]], fields[name][1]) for name in own},
    )
    others = [name for name in options.item_fields if name not in own]
    return _described(con, log, _items(source, files[0], others), others, options) if others else log


def _parts(source: pathlib.Path, files: list[pathlib.Path]) -> list[pathlib.Path]:
    """The files of one data set, parts in their order."""

    def part(file: pathlib.Path) -> str:
        found = file.name.split(".inter")[0].rpartition(".")[2]
        return found if found in PARTS else ""

    whole = [file for file in files if not part(file)]
    stems = {str(file)[: -len(file.name)] + file.name.split(".")[0] for file in files}
    if len(whole) > 1 or len(stems) > 1 or (whole and len(files) > 1):
        names = " and ".join(sources.spoken(file).removeprefix(f"{source}{os.sep}") for file in files[:5])
        raise UserError(f"{source} holds {names}: give one data set, whole or in parts")
    return sorted(files, key=lambda file: PARTS.index(part(file)) if part(file) else 0)


def _fields(con: ibis.BaseBackend, files: list[pathlib.Path], mend: str) -> dict[str, tuple[str, str]]:
    """Field -> its column and type, from a header of field:type."""
    fields = {}
    for name in scans.read_csv(con, files, {}, delimiter="\t", quote="").columns:
        field, colon, kind = name.rpartition(":")
        if colon and kind in ("token", "token_seq", "float", "float_seq"):
            fields[field] = (name, kind)
    if not fields:
        raise UserError(f"{sources.spoken(files[0])}: its first line names no fields as field:type: {mend}")
    return fields


def _first(value: ir.Value, kind: str) -> ir.Value:
    """The value, or the first of a sequence, which spaces part."""
    return (value.split(" ")[0] if kind.endswith("_seq") else value).nullif("")


def _milliseconds(time: ir.Value, highest: float | None) -> ir.Value:
    """Times in one unit, by the largest: the same for the whole file."""
    size = highest or 0.0
    if size < 631_152_000:  # 1990 in seconds: no clock
        return time.cast("int64")
    units = {1e11: 1e3, 1e14: 1.0, 1e17: 1e-3, float("inf"): 1e-6}  # seconds, milliseconds and so on
    scale = next(scale for limit, scale in units.items() if size < limit)
    return (time * scale).floor().cast("int64")


def _feedback(
    file: pathlib.Path, value: ir.Value | None, highest: float | None, options: Options
) -> ir.Value:
    if value is None:
        return ibis.literal("play")
    if options.up is None and options.down is None and highest is not None and highest <= 1:
        return ibis.cases((value >= 1, "play"), (value == 0, "skip"), else_="unknown")
    up, down = options.up, options.down
    if up is None or down is None:
        if highest not in SCALES:
            raise UserError(
                f"{sources.spoken(file)}: ratings go up to {highest}, no scale that is known: say with "
                "--up and --down which are liked and which are not"
            )
        up = SCALES[highest][0] if up is None else up
        down = SCALES[highest][1] if down is None else down
    if not down < up:
        raise UserError(f"--down must be below --up, got {down:g} and {up:g}")
    return ibis.cases(
        (value >= up, "thumb_up"), ((value <= down) & (value >= 0), "thumb_down"), else_="unknown"
    )


def _items(source: pathlib.Path, file: pathlib.Path, wanted: list[str]) -> pathlib.Path:
    """The .item file beside the log."""
    name = file.name.split(".")[0] + ".item"
    found = editions.neighbours(source, file, name)
    if not found:
        log = sources.spoken(file)
        raise UserError(f"{log}: no field {wanted[0]}, and no {name} beside it: correct --item-fields")
    return found[0]


def _described(
    con: ibis.BaseBackend, log: ir.Table, file: pathlib.Path, wanted: list[str], options: Options
) -> ir.Table:
    """The log with fields of the .item file."""
    fields = _fields(con, [file], "give it as RecBole has it")
    sources.require(file, list(fields), [options.item_field, *wanted], "correct --item-fields")
    items = scans.read_csv(con, [file], {}, delimiter="\t", quote="")
    named = {events.ATTRIBUTE + name: _first(items[fields[name][0]], fields[name][1]) for name in wanted}
    return events.with_attributes(log, items.select(item=items[fields[options.item_field][0]], **named))
