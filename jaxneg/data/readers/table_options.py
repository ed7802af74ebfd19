"""How a user says which columns of a table are what."""

from dataclasses import dataclass
from typing import Annotated, Literal

from jaxneg.config import fields
from jaxneg.errors import UserError


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
    liked: Annotated[str, fields.option("COLUMN", "none")] = ""
    """column that is true for a thumb-up, instead of feedback"""
    skipped: Annotated[str, fields.option("COLUMN", "none")] = ""
    """column that is true for a skip and false for a play, instead of feedback; liked comes first"""
    one_user: Annotated[str, fields.option("NAME", "none")] = ""
    """the log is of one person, of this name, and has no column of users"""
    attributes: Annotated[tuple[str, ...], fields.option("COLUMN [COLUMN ...]", "none")] = ()
    """columns that describe the item, such as artist"""
    values: str = ""
    """feedback value=kind pairs, as in "1=thumb_up,0=skip,=unknown"; empty if the column holds kinds"""
    threshold: fields.Weight = 0.5  # without feedback: played at least so far is a play, else a skip
    time_unit: Literal["auto", "s", "ms", "us", "ns", "order"] = "auto"
    """of numbers; auto takes the one unit in which all lie between 1990 and today, or dates such as 20240131"""
    time_format: Annotated[str, fields.option("FORMAT", "ISO, or with a month in letters")] = ""
    """how times are written, as '%d/%m/%Y %H:%M'"""
    missing: Literal["refuse", "leave-out", "keep"] = "refuse"
    """ids that read as no value (nan, None, null, \\\\N): refuse the log, leave their rows out, take them as ids"""
    nested: bool = False  # a name with dots, a.b, is field b of object a even where a column a.b exists
    header: bool = True
    """the first line of delimited text names the columns; else they are column0, column1, ..."""
    columns: Annotated[str, fields.option("A,B,...", "column0,column1,...")] = ""
    """names of the columns of text without header"""
    encoding: str = "auto"
    """of text, as latin-1 or utf-16-le; auto is UTF-8, or UTF-16 where a byte order mark says so"""
    quoting: Literal["auto", "double", "backslash", "none"] = "auto"
    """of delimited text: double quotes around values, in which a quote is doubled or stands behind a backslash; none;
    or by a look at the file if tabs or bars separate it"""


def check(options: Options) -> None:
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
    try:
        "".encode("utf-8" if options.encoding == "auto" else options.encoding)
    except (LookupError, ValueError) as error:
        raise UserError(
            f"--encoding {options.encoding!r} is unknown: give one such as utf-8, latin-1, cp1252 or utf-16-le"
        ) from error
    lower: dict[str, str] = {}
    for name in options.attributes:
        if (other := lower.setdefault(name.lower(), name)) != name:
            raise UserError(f"--attributes {other} and {name} differ in case only: rename one in the file")
        if not name:
            raise UserError("--attributes has an empty name: name a column")


def roles(options: Options) -> dict[str, str]:
    """What a column is for -> its name, for all columns that are asked for; attributes are numbered."""
    roles = {
        "user": "" if options.one_user else options.user,
        "item": options.item,
        "time": options.time,
        "liked": options.liked,
        "skipped": options.skipped,
        "feedback": "" if options.liked or options.skipped else options.feedback,
        "session": options.session_id,
        "station": options.station,
        "played": options.played,
        "duration": options.duration,
    }
    roles |= {f"attribute {number}": name for number, name in enumerate(options.attributes)}
    return {role: name for role, name in roles.items() if name}
