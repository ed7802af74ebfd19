"""Spotify's Music Streaming Sessions Dataset: sessions of 10 to 20 tracks with three depths of skip.

Reference: Brost, Mehrotra and Jehan, The Music Streaming Sessions Dataset, WWW 2019, arXiv:1901.09851.
"""

# ibis types its expressions at run time.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false
# pyright: reportCallIssue=false, reportOperatorIssue=false

import pathlib
import re
from dataclasses import dataclass
from typing import Annotated

import ibis
import ibis.expr.types as ir

from jaxneg.config import fields
from jaxneg.data import events, scans, sources
from jaxneg.data.readers import editions

LOG = {
    "session_id": "VARCHAR",
    "session_position": "BIGINT",
    "track_id_clean": "VARCHAR",
    "skip_2": "BOOLEAN",
    "hour_of_day": "BIGINT",
    "date": "DATE",
    "context_type": "VARCHAR",
}
FEATURES = {"track_id": "VARCHAR", "release_year": "BIGINT", "tempo": "DOUBLE"}


@dataclass(frozen=True)
class Options:
    context_type: str = ""  # keep sessions whose rows are all of this context, such as radio; empty keeps all
    features: Annotated[pathlib.Path | None, fields.option("PATH", "those below the source")] = None
    """tf_*.csv with features of tracks, or their directory"""


def read(con: ibis.BaseBackend, source: pathlib.Path, options: Options) -> ir.Table:
    """Events of log_*.csv: skip_2 is a skip, the rest plays. The session stands for the user.

    The time is the session's first date and hour plus one second a position: days and order are right, the
    rest is not in the data. With track features, attributes are the decade of release and the tempo in steps
    of 20 beats a minute.
    """
    mend = "give log_*.csv files as published, or their directory"
    files = sources.find(source, ["log_*.csv"], mend)
    editions.one(source, files, _edition)
    table = scans.read_csv(con, files, LOG, mend=mend)
    session = ibis.window(group_by="session_id", order_by="session_position", preceding=None, following=None)
    if options.context_type:
        same = (table.context_type == options.context_type).all().over(group_by="session_id")
        table = table.mutate(same=same).filter(ibis._.same)
    hour = table.date.cast("timestamp").epoch_seconds().cast("int64") // 3600 + table.hour_of_day
    table = table.mutate(hour=hour)
    table = table.mutate(start=table.hour.first().over(session))
    log = events.select(
        table,
        user=table.session_id,
        session=table.session_id,
        item=table.track_id_clean,
        time=(table.start * 3600 + table.session_position) * 1000,
        feedback=ibis.cases((table.skip_2, "skip"), (~table.skip_2, "play"), else_="unknown"),
    )
    tracks = _features(source, options)
    if not tracks:
        return log
    features = scans.read_csv(con, tracks, FEATURES, mend="give tf_*.csv files as published")
    decade = (features.release_year // 10 * 10).cast("string") + "s"
    tempo = ((features.tempo / 20).round().cast("int64") * 20).cast("string")
    items = features.select(item=features.track_id, attribute_decade=decade, attribute_tempo=tempo)
    return events.with_attributes(log, items)


def _edition(file: pathlib.Path) -> str:
    """The folder of a log, and which one it is: mini, full, or prehistory and input of the test set."""
    kind = re.match(r"log_([a-z]*)", file.name)
    return f"{file.parent}/log_{kind.group(1) if kind else ''}*"


def _features(source: pathlib.Path, options: Options) -> list[pathlib.Path]:
    if options.features is not None:
        return sources.find(options.features, ["tf_*.csv"], "give tf_*.csv files or their directory")
    return sources.beside(source, ["tf_*.csv"])
