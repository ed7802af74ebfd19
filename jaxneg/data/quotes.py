"""How delimited text quotes, told from the whole file.

In comma separated files a quote at the start of a value opens a quoted one. Tab separated files often quote nothing:
there "Heroes" is a title with its quotes.
"""

import pathlib
from typing import Any

from jaxneg.data import heads, sources, staging
from jaxneg.errors import UserError

QUOTE = '"'
ESCAPED = '"\\'  # a quote, and what stands before one that belongs to the value
LONGEST = 1 << 20  # characters of a quoted value that is looked for


def width(file: pathlib.Path, header: bool, names: Any) -> int:
    """Columns of a file without header; 0 where that does not matter."""
    if header:
        return 0
    _, line = heads.first_line(file, "utf-8")
    found = len(heads.split_line(file, line, heads.delimiter_of(line), QUOTE)) if line else 0
    if names and found and found != len(names):
        raise UserError(
            f"{sources.spoken(file)}: --columns names {len(names)} columns, and the first line has {found}: name each"
        )
    return 0 if names else found


def used(file: pathlib.Path) -> bool:
    """Whether a file holds a quote at all."""
    with staging.opened(file) as raw:
        return any(b'"' in block for block in iter(lambda: raw.read(1 << 20), b""))


def of(file: pathlib.Path, quoting: str, *, header: bool = True) -> str:
    """The quote of a file, or "" if it quotes nothing; see ``ESCAPED``.

    By itself ("auto"), a file with tabs or bars between values quotes if its header is quoted, if all values of a
    column are, or if quotes stand only where a value needs them, because it holds a tab, a line break or a quote.
    Raises UserError where some need them and others do not.
    """
    if quoting != "auto":
        return {"double": QUOTE, "backslash": ESCAPED, "none": ""}[quoting]
    _, line = heads.first_line(file, "utf-8")
    delimiter = heads.delimiter_of(line)
    if delimiter not in "\t|" or (header and line.startswith(QUOTE)):
        return QUOTE
    found = _looked(file, delimiter, header)
    if found is None:
        return ""
    needed, free, whole_columns = found
    if free and not whole_columns:
        if needed:
            raise UserError(
                f"{sources.spoken(file)}: some values look quoted, others just begin and end with a quote: "
                "give --quoting double or --quoting none"
            )
        return ""
    return QUOTE if needed or free else ""


def _looked(file: pathlib.Path, delimiter: str, header: bool) -> tuple[int, int, bool] | None:
    """Values whose quotes are needed, and are not; whether these fill their columns. None if a quote stays open."""
    if not used(file):
        return 0, 0, False
    needed = free = lines = 0
    quoted: dict[int, int] = {}
    with staging.opened(file) as raw:
        waiting = ""
        for number, data in enumerate(raw):
            if not waiting and (number or not header):
                lines += 1
            if not waiting and b'"' not in data:
                continue
            waiting += data.decode("utf-8", "replace")
            fields = _fields(waiting.rstrip("\r\n"), delimiter)
            if fields is None:
                if len(waiting) > LONGEST:
                    return None
                continue
            waiting = ""
            for place, field in enumerate(fields):
                if not field.startswith(QUOTE):
                    continue
                inner = field[1:-1]
                if len(field) < 2 or not field.endswith(QUOTE) or QUOTE in inner.replace(QUOTE * 2, ""):
                    return None
                if QUOTE in inner or delimiter in inner or "\n" in inner:
                    needed += 1
                else:
                    free += 1
                quoted[place] = quoted.get(place, 0) + 1
        if waiting:
            return None
    return needed, free, bool(quoted) and all(count == lines for count in quoted.values())


def _fields(line: str, delimiter: str) -> list[str] | None:
    """Values between delimiters, quoted ones with their quotes; None if the last one is still open."""
    found: list[str] = []
    open_ = ""
    for part in line.split(delimiter):
        open_ = f"{open_}{delimiter}{part}" if open_ else part
        if open_.startswith(QUOTE) and open_.count(QUOTE) % 2:
            continue
        found.append(open_)
        open_ = ""
    return None if open_ else found
