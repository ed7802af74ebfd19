"""How a log becomes a store: the settings of ``prepare``, and what they say of likes and dislikes."""

import dataclasses
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from jaxneg.batch import FEEDBACK
from jaxneg.config import fields
from jaxneg.config.fields import Bounds, Pattern, Positive, Proper, Share, above, settled
from jaxneg.data import events, split
from jaxneg.data.metadata import Sign
from jaxneg.errors import UserError

LONGEST_GAP = 1e9  # minutes, 1,900 years
# A positive number of bytes, as the engines spell it.
MEMORY = r"(?i)\s*(?!0+(?:\.0*)?\s*[kmgt])\d{1,9}(\.\d{1,9})?\s*[kmgt]i?b?\s*"


@dataclass(frozen=True)
class PrepareConfig:
    """What becomes of the log; the defaults are those that suit the source."""

    session: Annotated[
        Literal["given", "station", "gap", "user"] | None,
        fields.option("{given,station,gap,user}", "given if every event has a session id, else user"),
    ] = None
    """what makes a session: its id in the log, the station, listening without a long pause, all of a user"""
    gap_minutes: Annotated[float | None, fields.option("FLOAT", "30"), above(0.0, LONGEST_GAP)] = None
    """with session gap: a longer pause starts a new session"""
    polarity: Annotated[str | None, fields.option("NAME", "default")] = None
    """what is liked and disliked: default, plays, explicit, pandora or lenient"""
    positive: Annotated[tuple[str, ...], fields.option("KIND [KIND ...]", "none")] = ()
    """feedback kinds that count as liked, whatever the polarity says"""
    negative: Annotated[tuple[str, ...], fields.option("KIND [KIND ...]", "none")] = ()
    """feedback kinds that count as disliked, whatever the polarity says"""
    min_item_count: Positive = 1  # items with fewer events in the training window are left out
    min_user_events: Positive = 2  # users with fewer events are left out
    min_session_events: Positive = 1  # sessions with fewer events are left out
    split: Annotated[
        Literal["time", "tail", "leave-last"] | None, fields.option("{time,tail,leave-last}", "time")
    ] = None
    """what is held out: events after a time, the tail of each user, or of each session the last event for the test
    and the one before it for validation"""
    test_from: Annotated[str | None, fields.option("TIME", "the last 10% of events")] = None
    """with split time: start of the test, as 2024-02-01 or a number"""
    valid_from: Annotated[
        str | None, fields.option("TIME", "the last ninth of the events before the test")
    ] = None
    """with split time: start of validation"""
    test_share: Proper = 0.2  # with split tail: share of a user's sessions (or events, if few) for the test
    valid_share: Share = 0.1  # with split tail: share before these for validation
    shard_events: Annotated[int, Bounds(1, 1 << 40)] = 1 << 25
    """events of a shard, a file of each column; shards are written in parallel"""
    engine: Literal["duckdb", "spark"] = "duckdb"  # that groups and sorts; the store is the same
    memory_limit: Annotated[str, Pattern(MEMORY, "a size such as 2GB or 800MB")] = "2GB"
    """of the query engine, which uses the disk beyond it"""


# Where neither the user nor the reader says.
FALLBACK = {"gap_minutes": 30.0, "polarity": "default", "split": "time"}


def with_defaults(settings: PrepareConfig, **defaults: Any) -> PrepareConfig:
    """The settings with ``defaults`` for what is None: ``with_defaults(settings, session="gap")``."""
    missing = {name: value for name, value in defaults.items() if getattr(settings, name) is None}
    return dataclasses.replace(settings, **missing)


def signs(settings: PrepareConfig) -> dict[str, Sign]:
    """Polarity: feedback kind -> +1, 0, -1. Raises UserError on unknown names and contradictions."""
    name = settings.polarity or FALLBACK["polarity"]
    if name not in events.PRESETS:
        raise UserError(f"--polarity {name} is unknown: choose one of {', '.join(events.PRESETS)}")
    for option, kinds in (("positive", settings.positive), ("negative", settings.negative)):
        for kind in kinds:
            if kind not in events.KINDS:
                known = ", ".join(events.KINDS)
                raise UserError(f"--{option} {kind} is no feedback kind: choose from {known}")
    if both := set(settings.positive) & set(settings.negative):
        raise UserError(f"feedback kind {min(both)} cannot be both --positive and --negative")
    polarity = dict(events.PRESETS[name])
    polarity.update((kind, 1) for kind in settings.positive)
    polarity.update((kind, -1) for kind in settings.negative)
    return {kind: polarity[kind] for kind in FEEDBACK if kind in polarity}


def check(settings: PrepareConfig) -> PrepareConfig:
    """The settings with every value as its field has it. Raises UserError naming the first that makes no sense."""
    settings = settled(settings, PrepareConfig)
    signs(settings)
    if settings.test_share + settings.valid_share >= 1:
        raise UserError(
            f"--test-share must be below 1 together with --valid-share {settings.valid_share}, "
            f"got {settings.test_share}"
        )
    for name in ("test_from", "valid_from"):
        split.moment(name, getattr(settings, name))
        if settings.split in ("tail", "leave-last") and getattr(settings, name) is not None:
            option = f"--{name.replace('_', '-')}"
            raise UserError(f"{option} needs --split time, and the split is {settings.split}")
    return settings
