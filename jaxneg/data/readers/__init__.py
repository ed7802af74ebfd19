"""Readers, one per source format: each leaves the quirks of its format behind and returns a lazy table.

A reader module has `Options`, a frozen dataclass that the command line shows as flags, and
`read(con, source, options) -> table in EVENT_SCHEMA`, where source is a file or the directory as published.
"""

import pathlib
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import ibis
import ibis.expr.types as ir

from jaxneg.config import parts
from jaxneg.data.readers import (
    cm100k,
    dsg17,
    kuairand,
    lastfm1k,
    lfm2b,
    listenbrainz,
    movielens,
    mssd,
    piki,
    recbole,
    spotify,
    table,
    vk_lsvd,
    yambda,
)


class Reader(NamedTuple):
    """A source format and what `prepare` does with it unless told otherwise."""

    read: Callable[[ibis.BaseBackend, pathlib.Path, Any], ir.Table]
    Options: type
    help: str
    preset: str  # polarity, a name in events.PRESETS
    session: Literal["given", "station", "gap", "user"] | None  # what makes a session; None goes by the log
    gap_minutes: float  # a pause longer than this ends a session, under the gap rule
    split: Literal["time", "tail", "leave-last"]

    @property
    def settings(self) -> dict[str, Any]:
        """What `prepare` does with this format unless told otherwise, as fields of its PrepareConfig."""
        names = {"session": self.session, "gap_minutes": self.gap_minutes, "split": self.split}
        return names | {"polarity": self.preset}


def _reader(module: Any, help: str, preset: str, session: Any, split: Any) -> Reader:
    return Reader(module.read, module.Options, help, preset, session, 30.0, split)


READERS: dict[str, Reader] = {
    "table": _reader(table, "Parquet, CSV or JSON lines, columns named by you", "default", None, "time"),
    "spotify": _reader(
        spotify, "account export, short or extended, one or more users", "plays", "gap", "tail"
    ),
    "kuairand": _reader(kuairand, "KuaiRand short videos, log csv or parquet", "default", "user", "tail"),
    "piki": _reader(piki, "Piki likes and dislikes, zipped csv or csv", "explicit", "user", "tail"),
    "movielens": _reader(
        movielens, "ratings.csv or ratings.dat, MovieTweetings too", "explicit", "user", "tail"
    ),
    "mssd": _reader(mssd, "Music Streaming Sessions logs, with track features", "plays", "given", "time"),
    "yambda": _reader(yambda, "Yambda multi_event parquet, flat layout", "default", "gap", "time"),
    "cm100k": _reader(cm100k, "CM100k ratings of random songs", "explicit", "user", "tail"),
    "listenbrainz": _reader(
        listenbrainz, "ListenBrainz export with loves and hates, or dump", "default", "gap", "tail"
    ),
    "vk_lsvd": _reader(
        vk_lsvd, "VK-LSVD short videos, weekly parquet of one sample", "default", "user", "time"
    ),
    "dsg17": _reader(dsg17, "Deezer, Data Science Game 2017, train.csv", "default", "gap", "time"),
    "recbole": _reader(recbole, "RecBole atomic files, .inter", "default", "user", "tail"),
    "lastfm1k": _reader(lastfm1k, "Last.fm Dataset 1K, plays only", "default", "gap", "time"),
    "lfm2b": _reader(lfm2b, "LFM-2b and LFM-1b tables, plays only", "default", "gap", "time"),
}
OURS = frozenset(READERS)


def add(name: str, reader: Reader) -> None:
    """Makes a format known by a name. Raises UserError on a name of ours, and on one that is no word."""
    parts.check_name("reader", name, OURS)
    READERS[name] = reader
