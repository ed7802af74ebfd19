"""One edition of a data set at a time, and each play once: what exports and downloads get wrong together."""

# ibis types its expressions at run time.
# pyright: reportArgumentType=false, reportCallIssue=false, reportOperatorIssue=false

import os
import pathlib
from collections.abc import Callable, Iterable, Sequence

import ibis
import ibis.expr.types as ir

from jaxneg.data import sources
from jaxneg.errors import UserError

TWICE = "listed twice"  # reason of a row that repeats another one


def folder(file: pathlib.Path) -> str:
    """The directory of a file: editions that lie in directories of their own."""
    return str(file.parent)


def one(
    source: pathlib.Path, files: Iterable[pathlib.Path], edition: Callable[[pathlib.Path], str] = folder
) -> str:
    """The edition that all files are of.

    Sizes, samples and layouts of one data set hold the same events: read together, these would count several times.
    Raises UserError that names the editions if there is more than one.
    """
    found = {edition(pathlib.Path(sources.spoken(file))): None for file in files}
    if len(found) > 1:
        names = sorted(name.removeprefix(f"{source}{os.sep}") for name in found)
        raise UserError(f"{source} holds several editions of the data ({_listed(names)}): give one of them")
    return next(iter(found))


def neighbours(source: pathlib.Path, file: pathlib.Path, name: str) -> list[pathlib.Path]:
    """Files of this name, packed or not, in the directory or archive that holds a file of the source."""
    folder = pathlib.Path(sources.spoken(file)).parent
    return [
        path for path in sources.beside(source, [name]) if pathlib.Path(sources.spoken(path)).parent == folder
    ]


def only(source: pathlib.Path, files: Sequence[pathlib.Path], mend: str = "give one") -> pathlib.Path:
    """The file of a data set that is one file. Raises UserError, ending in `mend`, if there are several."""
    if len(files) > 1:
        names = [sources.spoken(file).removeprefix(f"{source}{os.sep}") for file in files]
        raise UserError(f"{source} holds {_listed(names)}: {mend}")
    return files[0]


def _listed(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def repeats(table: ir.Table, *columns: str) -> ir.Value:
    """True for each row that agrees in all columns with a row that stands before it."""
    same = [table[name] for name in columns]
    return ibis.row_number().over(group_by=same, order_by=table.order) > 0
