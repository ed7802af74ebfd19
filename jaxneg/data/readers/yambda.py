"""Yambda (Yandex Music): listens with the share played, likes and dislikes, and both taken back.

Reference: Ploshkin et al., Yambda-5B, 2025, arXiv:2505.22238.
"""

# ibis types its expressions at run time.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false
# pyright: reportCallIssue=false, reportOperatorIssue=false

import pathlib
from dataclasses import dataclass

import ibis
import ibis.expr.types as ir

from jaxneg.config import fields
from jaxneg.data import events, scans, sources
from jaxneg.data.readers import editions

NEEDED = ("uid", "item_id", "timestamp", "event_type", "played_ratio_pct")


@dataclass(frozen=True)
class Options:
    played_pct: fields.Weight = 50.0  # a listen of at least so many percent is a play, else a skip
    organic_only: bool = False  # leave out events that came from a recommendation


def read(con: ibis.BaseBackend, source: pathlib.Path, options: Options) -> ir.Table:
    """Events of multi_event*.parquet of one size; times are seconds from an unnamed start, in steps of 5.

    A like or dislike taken back is unknown: it says that the item was met, not how it was received.
    """
    mend = "give multi_event.parquet of the flat layout"
    files = sources.find(source, ["multi_event*.parquet"], mend)
    editions.one(source, files)
    needed = [*NEEDED, "is_organic"] if options.organic_only else NEEDED
    table = scans.read_parquet(con, files, needed, mend)
    if options.organic_only:
        table = table.filter(table.is_organic.cast("int64") == 1)
    kind = table.event_type.cast("string")
    share = table.played_ratio_pct.cast("float64")
    feedback = ibis.cases(
        (kind == "like", "thumb_up"),
        (kind == "dislike", "thumb_down"),
        ((kind == "listen") & (share >= options.played_pct), "play"),
        ((kind == "listen") & (share < options.played_pct), "skip"),
        (kind.isin(("listen", "unlike", "undislike")), "unknown"),
        else_=kind,  # check_events names it
    )
    played = ibis.ifelse(kind == "listen", (share / 100).clip(lower=0.0, upper=1.0), ibis.null("float64"))
    return events.select(
        table,
        user=table.uid,
        item=table.item_id,
        time=table.timestamp.cast("int64") * 1000,
        feedback=feedback,
        played=played,
    )
