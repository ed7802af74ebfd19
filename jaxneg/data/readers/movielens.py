"""MovieLens (ratings.csv or ratings.dat) and MovieTweetings (ratings.dat): ratings that stand for opinions.

Reference: Harper and Konstan, The MovieLens Datasets, TiiS 2015; Dooms et al., MovieTweetings, CrowdRec 2013.
"""

# ibis types its expressions at run time.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false
# pyright: reportCallIssue=false, reportOperatorIssue=false

import pathlib
from dataclasses import dataclass
from typing import Annotated

import ibis
import ibis.expr.types as ir

from jaxneg.config import fields
from jaxneg.data import engine, events, heads, scans, sources
from jaxneg.data.readers import editions
from jaxneg.errors import UserError

RATINGS = ("userId", "movieId", "rating", "timestamp")
SCALES = {5: (4.0, 2.5), 10: (8.0, 5.0)}  # highest rating -> from here a thumb-up, to here a thumb-down

SCALE = fields.Bounds(-1e9, 1e9)  # of ratings


@dataclass(frozen=True)
class Options:
    up: Annotated[float | None, SCALE, fields.option("FLOAT", "4 of 5, 8 of 10")] = None
    """ratings from here are thumbs-up"""
    down: Annotated[float | None, SCALE, fields.option("FLOAT", "2.5 of 5, 5 of 10")] = None
    """ratings up to here are thumbs-down"""


def read(con: ibis.BaseBackend, source: pathlib.Path, options: Options) -> ir.Table:
    """Events of one ratings file, with the first genre as attribute if a file of movies lies beside it.

    Looks at the highest rating at once, to know the scale, unless both thresholds are given.
    """
    mend = "give ratings.csv, ratings.dat or their directory"
    files = sources.find(source, ["ratings.csv", "ratings.dat"], mend)
    file = editions.only(source, files)
    types = {"userId": "VARCHAR", "movieId": "VARCHAR", "rating": "DOUBLE", "timestamp": "BIGINT"}
    if ".dat" in file.suffixes:
        table = scans.read_csv(con, files, types, names=RATINGS, delimiter="::", quote="")
    else:
        table = scans.read_csv(con, files, types, mend=mend)

    up, down = options.up, options.down
    if up is None or down is None:
        highest = engine.fetch(table.agg(highest=table.rating.max()))["highest"][0].as_py()
        default = SCALES[5 if highest is None or highest <= 5 else 10]
        up, down = default[0] if up is None else up, default[1] if down is None else down
    if not down < up:
        raise UserError(f"--down must be below --up, got {down:g} and {up:g}")
    log = events.select(
        table,
        user=table.userId,
        item=table.movieId,
        time=table.timestamp * 1000,
        feedback=ibis.cases(
            (table.rating >= up, "thumb_up"), (table.rating <= down, "thumb_down"), else_="unknown"
        ),
    )
    movies = _movies(con, source, file)
    return log if movies is None else events.with_attributes(log, movies)


def _movies(con: ibis.BaseBackend, source: pathlib.Path, ratings: pathlib.Path) -> ir.Table | None:
    """Columns item and attribute_genre, the first of the genres; None without a file of movies."""
    kind = "movies.dat" if ".dat" in ratings.suffixes else "movies.csv"
    found = editions.neighbours(source, ratings, kind)
    if not found:
        return None
    file = found[0]
    types = dict.fromkeys(("movieId", "title", "genres"), "VARCHAR")
    if kind == "movies.dat":
        encoding = "utf-8" if heads.is_utf8(file) else "latin-1"  # as MovieTweetings, as MovieLens
        movies = scans.read_csv(
            con, [file], types, names=list(types), delimiter="::", quote="", encoding=encoding
        )
    else:
        movies = scans.read_csv(con, [file], types)
    genre = movies.genres.split("|")[0].nullif("").nullif("(no genres listed)")
    return movies.select(item=movies.movieId, attribute_genre=genre)
