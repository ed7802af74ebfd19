"""KuaiRand, short videos with clicks, likes, hates and long views: csv as published, or parquet alike.

Reference: Gao et al., KuaiRand, CIKM 2022, arXiv:2208.08696.
"""

# ibis types its expressions at run time.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false
# pyright: reportCallIssue=false, reportOperatorIssue=false

import pathlib
import re
from dataclasses import dataclass

import ibis
import ibis.expr.types as ir

from jaxneg.data import events, scans, sources
from jaxneg.data.readers import editions
from jaxneg.errors import UserError

THUMBS = ("is_like", "is_follow", "is_comment", "is_forward")
NUMBERS = ("time_ms", "is_click", *THUMBS, "is_hate", "long_view", "play_time_ms", "duration_ms")
NEEDED = ("user_id", "video_id", *NUMBERS, "tab")


@dataclass(frozen=True)
class Options:
    randomised: bool = False  # read log_random_*.csv, videos shown at random, beside the standard log
    tab_station: bool = False  # take the tab of the app where a video was shown as the station


def read(con: ibis.BaseBackend, source: pathlib.Path, options: Options) -> ir.Table:
    """Events of all files of the log, with author and first tag of a video as attributes.

    These come from the rows if they have them, else from video_features_basic*.csv.
    """
    mend = "give the directory of log_standard_*.csv, or parquet files of these columns"
    patterns = ["log_standard*.csv", "*.parquet"] + ["log_random*.csv"] * options.randomised
    files = sources.find(source, patterns, mend)
    editions.one(source, files, _edition)
    parquet = files[0].suffix in (".parquet", ".pq")
    if any((file.suffix == ".parquet") != parquet for file in files):
        raise UserError(f"{source} holds both csv and parquet: give the directory of one of them")
    if parquet:
        files.sort(key=lambda file: file.name.startswith("test"))  # train, val, test are consecutive weeks
        table = scans.read_parquet(con, files, NEEDED, mend)
    else:
        table = scans.read_csv(
            con, files, dict.fromkeys(NEEDED, "VARCHAR") | dict.fromkeys(NUMBERS, "BIGINT"), mend=mend
        )

    number = {name: table[name].cast("int64") for name in NUMBERS}  # parquet has them in whatever width
    feedback = ibis.cases(
        (number["is_hate"] > 0, "thumb_down"),
        (ibis.or_(*((number[name] > 0).fill_null(False) for name in THUMBS)), "thumb_up"),
        (number["long_view"] > 0, "play"),
        (number["is_click"] == 0, "skip"),
        else_="unknown",
    )
    length = number["duration_ms"].nullif(0).cast("float64")
    log = events.select(
        table,
        user=table.user_id,
        item=table.video_id,
        time=number["time_ms"],
        feedback=feedback,
        station=table.tab if options.tab_station else None,
        played=(number["play_time_ms"] / length).clip(lower=0.0, upper=1.0),
        attributes=_attributes(table),
    )
    features = [] if parquet or files == [source] else sources.beside(source, ["video_features_basic*.csv"])
    if not features:
        return log
    videos = scans.read_csv(con, features, dict.fromkeys(("video_id", "author_id", "tag"), "VARCHAR"))
    named = {events.ATTRIBUTE + name: value for name, value in _attributes(videos).items()}
    return events.with_attributes(log, videos.select(item=videos.video_id, **named))


def _edition(file: pathlib.Path) -> str:
    """The folder of a log, and its size (pure, 1k or 27k) where the name tells."""
    size = re.search(r"_(pure|1k|27k)\b|_(27k)_part\d", file.name, re.IGNORECASE)
    return f"{file.parent}/*_{(size.group(1) or size.group(2)).lower()}" if size else str(file.parent)


def _attributes(table: ir.Table) -> dict[str, ir.Value]:
    found = {}
    if "author_id" in table.columns:
        found["author"] = table.author_id.cast("string").nullif("")
    if "tag" in table.columns:  # several tags are joined by commas; some files fill gaps with a word
        first = table.tag.cast("string").split(",")[0]
        found["tag"] = first.nullif("").nullif("unknown").nullif("UNKNOWN")
    return found
