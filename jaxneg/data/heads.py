"""The first lines of text and the first objects of JSON: what has to be known of a file before it is read."""

import codecs
import contextlib
import csv
import io
import itertools
import json
import pathlib
import re
from collections.abc import Iterator
from typing import Any

from jaxneg.data import sources, staging
from jaxneg.errors import UserError

HEAD = 1 << 20  # bytes of a line that may be a header


def is_list(file: pathlib.Path) -> bool:
    """Whether the first character of a JSON file opens a list."""
    with staging.opened(file) as raw:
        while block := raw.read(4096):
            if text := block.removeprefix(staging.BOM).lstrip():
                return text.startswith(b"[")
    return False


def is_spread(file: pathlib.Path) -> bool:
    """Whether the first object of a JSON file is spread over several lines."""
    with _open(file, "utf-8") as text:
        for line in iter(lambda: text.readline(HEAD), ""):
            if line.strip():
                try:
                    json.JSONDecoder().raw_decode(line.strip())
                except (ValueError, RecursionError):
                    return line.lstrip().startswith("{") and first_object(file, lines=True) is not None
                return False
    return False


def first_object(file: pathlib.Path, *, lines: bool) -> dict[str, Any] | None:
    """First object of a JSON list or of JSON lines, None if empty. Raises UserError if it is neither."""
    with _open(file, "utf-8") as text:
        head = text.read(HEAD).strip()
    if not lines:
        if head and not head.startswith("["):
            raise UserError(
                f"{sources.spoken(file)} is no JSON list of objects: give the file as it was exported"
            )
        head = head[1:].strip().removeprefix("]")
    if not head:
        return None
    try:
        value, _ = json.JSONDecoder().raw_decode(head)
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{sources.spoken(file)}: not readable as JSON ({error}): fetch or write the file again"
        ) from error
    if not isinstance(value, dict):
        raise UserError(
            f"{sources.spoken(file)}: holds {type(value).__name__} where JSON objects are expected"
        )
    return value


def first_lines(file: pathlib.Path, count: int, encoding: str = "utf-8") -> list[str]:
    """Up to `count` lines from the start of a text file, without their ends."""
    with _open(file, encoding) as text:
        return [line.rstrip("\r\n") for line in itertools.islice(text, count)]


def is_utf8(file: pathlib.Path) -> bool:
    """Whether a whole file is UTF-8. Reads it all: for small files beside a log."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    with staging.opened(file) as raw:
        try:
            while block := raw.read(1 << 20):
                decoder.decode(block)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            return False
    return True


def first_line(file: pathlib.Path, encoding: str) -> tuple[int, str]:
    """Lines to skip at the start of a file (blank ones, and sep=; of spreadsheets), and the first other; "" if none."""
    skip = 0
    with _open(file, encoding) as text:
        while line := text.readline(HEAD):
            if line.strip() and not re.fullmatch(r"(?i)\s*\"?sep=.\"?\s*", line):
                return skip, line.rstrip("\r\n")
            skip += 1
    return 0, ""


def delimiter_of(line: str) -> str:
    """Tab, semicolon, bar or comma, whichever a line holds most of outside quotes."""
    return max("\t;|,", key=re.sub(r'"[^"]*"', "", line).count)


def split_line(file: pathlib.Path, line: str, delimiter: str, quote: str) -> list[str]:
    """The values of a line that names columns; column2 where the third has none."""
    quotes: Any = {"quotechar": quote[:1]} if quote else {"quoting": csv.QUOTE_NONE}
    if len(quote) > 1:
        quotes |= {"escapechar": quote[1], "doublequote": False}
    try:
        names = next(csv.reader([line], delimiter=delimiter, **quotes), []) if len(delimiter) == 1 else []
    except csv.Error as error:
        raise UserError(
            f"{sources.spoken(file)}: the first line is no header ({error}): {line[:80]!r}"
        ) from error
    if not names or len(line) >= HEAD:
        raise UserError(
            f"{sources.spoken(file)}: the first line is no header with a name for each column: {line.strip()[:80]!r}"
        )
    return [name or f"column{number}" for number, name in enumerate(names)]  # an index often has no name


@contextlib.contextmanager
def _open(file: pathlib.Path, encoding: str) -> Iterator[io.TextIOWrapper]:
    try:
        with (
            staging.opened(file) as raw,
            io.TextIOWrapper(
                raw, encoding="utf-8-sig" if encoding == "utf-8" else encoding, newline=None
            ) as text,
        ):
            yield text
    except UnicodeDecodeError as error:
        raise UserError(
            f"{sources.spoken(file)}: is not {encoding.upper()} text ({error.reason}): convert it, or name its "
            "encoding with --encoding (prepare table)"
        ) from error
