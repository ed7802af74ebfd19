"""The Piki music dataset: likes, superlikes and dislikes of song clips, published as a zipped csv.

Reference: github.com/sstoikov/piki-music-dataset.
"""

# ibis types its expressions at run time.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false
# pyright: reportCallIssue=false, reportOperatorIssue=false

import pathlib
import shutil
import tempfile
import weakref
import zipfile
from dataclasses import dataclass

import ibis
import ibis.expr.types as ir

from jaxneg.data import events, sources
from jaxneg.errors import UserError


@dataclass(frozen=True)
class Options:
    random_only: bool = False  # keep only songs shown at random (personalized = 0)


def read(con: ibis.BaseBackend, source: pathlib.Path, options: Options) -> ir.Table:
    """Events of the csv, zipped or not: liked 0 is a thumb-down, 1 and 2 (superlike) are thumbs-up."""
    mend = "give piki_dataset.csv or its zip"
    files = sources.find(source, ["*.csv", "*.zip"], mend)
    if len(files) > 1:
        raise UserError(f"{source} holds {len(files)} csv or zip files: give the one to read")
    [file] = files
    if file.suffix == ".zip":
        file = _unzip(con, file)
    types = {"user_id": "VARCHAR", "song_id": "VARCHAR", "liked": "BIGINT", "timestamp": "TIMESTAMP"}
    if options.random_only:
        types["personalized"] = "BIGINT"
    table = sources.read_csv(con, [file], types, mend=mend)
    if options.random_only:
        table = table.filter(table.personalized == 0)
    return events.select(
        table,
        user=table.user_id,
        item=table.song_id,
        time=events.milliseconds(table.timestamp),
        feedback=ibis.cases((table.liked == 0, "thumb_down"), (table.liked > 0, "thumb_up"), else_="unknown"),
    )


def _unzip(con: ibis.BaseBackend, archive: pathlib.Path) -> pathlib.Path:
    """The archive's one csv, unpacked to a temporary file that lives as long as the connection."""
    try:
        with zipfile.ZipFile(archive) as opened:
            hidden = ("__MACOSX/", ".")
            names = [
                name for name in opened.namelist() if name.endswith(".csv") and not name.startswith(hidden)
            ]
            if len(names) != 1:
                raise UserError(
                    f"{archive} holds {len(names)} csv files: give a zip with one, or the csv itself"
                )
            folder = tempfile.mkdtemp(prefix="jaxneg-piki-")
            weakref.finalize(con, shutil.rmtree, folder, ignore_errors=True)
            path = pathlib.Path(folder) / "piki.csv"
            with opened.open(names[0]) as packed, path.open("wb") as out:
                shutil.copyfileobj(packed, out)
    except (zipfile.BadZipFile, EOFError) as error:
        raise UserError(f"{archive}: damaged or half-written zip ({error}): fetch the file again") from error
    return path
