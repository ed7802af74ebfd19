"""Deezer's log of the Data Science Game 2017: a month of tracks, each listened to for 30 seconds or not.

Reference: Data Science Game 2017, online phase (kaggle.com/c/dsg17-online-phase).
"""

# ibis types its expressions at run time.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false
# pyright: reportCallIssue=false, reportOperatorIssue=false

import pathlib
from dataclasses import dataclass

import ibis
import ibis.expr.types as ir

from jaxneg.data import events, scans, sources
from jaxneg.data.readers import editions

NUMBERS = ("ts_listen", "listen_type", "is_listened")
TEXTS = ("user_id", "media_id", "artist_id", "genre_id", "context_type")
DEEZER = 1_187_740_800  # 2007-08-22, when Deezer opened: a few rows have times near 1970


@dataclass(frozen=True)
class Options:
    flow_only: bool = False  # keep only tracks that Flow, Deezer's recommender, chose (listen_type 1)
    context_station: bool = False  # take context_type, from where a track was played, as the station


def read(con: ibis.BaseBackend, source: pathlib.Path, options: Options) -> ir.Table:
    """Events of train.csv: is_listened 1 is a play, 0 a skip within 30 seconds.

    test.csv is not read: it has no labels. Rows from before Deezer opened are left out: their clock was wrong.
    """
    mend = "give train.csv or its directory; test.csv has no labels"
    files = sources.find(source, ["train.csv"], mend)
    editions.only(source, files)
    types = dict.fromkeys(NUMBERS, "BIGINT") | dict.fromkeys(TEXTS, "VARCHAR")
    table = scans.read_csv(con, files, types, mend=mend)
    if options.flow_only:
        table = table.filter(table.listen_type == 1)
    return events.select(
        table,
        user=table.user_id,
        item=table.media_id,
        time=table.ts_listen * 1000,
        feedback=ibis.cases(
            (table.is_listened == 1, "play"), (table.is_listened == 0, "skip"), else_="unknown"
        ),
        station=table.context_type if options.context_station else None,
        attributes={"artist": table.artist_id, "genre": table.genre_id.nullif("0")},  # 0 is all genres
        left_out=ibis.cases((table.ts_listen < DEEZER, "time before Deezer opened")),
    )
