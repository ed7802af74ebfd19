"""Events -> sessions, split, vocabulary, store.

The engine groups and sorts, out of core, and arrays are written from its streams, so memory does not grow
with the log. Ids become numbers first; in all that follows events are rows of integers. The order of steps:

    sessions    by the session rule, over all events
    minimums    short sessions go, then users with few events
    split       each event is for training, validation or test
    vocabulary  from training events only; items too rare or unseen in training go, with their events
"""

# ibis types its expressions at run time.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false
# pyright: reportCallIssue=false, reportOperatorIssue=false

import contextlib
import dataclasses
import pathlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import ibis
import ibis.expr.types as ir

from jaxneg import progress
from jaxneg.batch import CODE, FEEDBACK
from jaxneg.config import options
from jaxneg.config.fields import Bounds, Pattern, Positive, Proper, Share, above, settled
from jaxneg.data import engine, events, sessions, split, stores, writer
from jaxneg.errors import UserError

LONGEST_GAP = 1e9  # minutes, 1,900 years
# A positive number of bytes, as the engines spell it.
MEMORY = r"(?i)\s*(?!0+(?:\.0*)?\s*[kmgt])\d{1,9}(\.\d{1,9})?\s*[kmgt]i?b?\s*"


@dataclass(frozen=True)
class PrepareConfig:
    """What becomes of the log; the defaults are those that suit the source."""

    session: Annotated[
        Literal["given", "station", "gap", "user"] | None,
        options.option("{given,station,gap,user}", "given if every event has a session id, else user"),
    ] = None
    """what makes a session: its id in the log, the station, listening without a long pause, all of a user"""
    gap_minutes: Annotated[float | None, options.option("FLOAT", "30"), above(0.0, LONGEST_GAP)] = None
    """with session gap: a longer pause starts a new session"""
    polarity: Annotated[str | None, options.option("NAME", "default")] = None
    """what is liked and disliked: default, plays, explicit, pandora or lenient"""
    positive: Annotated[tuple[str, ...], options.option("KIND [KIND ...]", "none")] = ()
    """feedback kinds that count as liked, whatever the polarity says"""
    negative: Annotated[tuple[str, ...], options.option("KIND [KIND ...]", "none")] = ()
    """feedback kinds that count as disliked, whatever the polarity says"""
    min_item_count: Positive = 1  # items with fewer events in the training window are left out
    min_user_events: Positive = 2  # users with fewer events are left out
    min_session_events: Positive = 1  # sessions with fewer events are left out
    split: Annotated[
        Literal["time", "tail", "leave-last"] | None, options.option("{time,tail,leave-last}", "time")
    ] = None
    """what is held out: events after a time, the tail of each user, or of each session the last event for the test
    and the one before it for validation"""
    test_from: Annotated[str | None, options.option("TIME", "the last 10% of events")] = None
    """with split time: start of the test, as 2024-02-01 or a number"""
    valid_from: Annotated[
        str | None, options.option("TIME", "the last ninth of the events before the test")
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


def signs(settings: PrepareConfig) -> dict[str, int]:
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
    override = dict.fromkeys(settings.positive, 1) | dict.fromkeys(settings.negative, -1)
    polarity = events.PRESETS[name] | override
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


def prepare(
    log: ir.Table,
    out: str | pathlib.Path,
    settings: PrepareConfig,
    con: ibis.BaseBackend,
    *,
    reader: str = "",
    source: str = "",
    on_progress: progress.OnProgress = progress.silent,
) -> stores.Metadata:
    """Writes the store ``out`` from a log in EVENT_SCHEMA and returns its metadata.

    The same log and settings give the same bytes. An older store at ``out`` is replaced once the new one is
    complete. Raises UserError, and leaves all as it was, where log and settings do not make a store.

    Args:
      con: the engine that ``log`` belongs to.
      reader: name of the source's format, for the metadata.
      source: where the log comes from, for the metadata and for messages.
      on_progress: told of each stage.
    """
    settings = check(settings)
    polarity = signs(settings)
    work = _Work(con, on_progress)
    with engine.reading(source or "the log"), stores.StoreWriter(out) as store, work:
        raw = work.keep("read the log", "log", log)
        total = events.check_events(raw)
        left_out = events.left_out(raw)
        raw = events.kept(raw)
        with _telling(left_out):
            settings = _resolved(settings, raw, total)
            ids = {name: _ids(work, raw, name) for name in ("user", "item", "station")}
            attributes = _attributes(work, raw)
            coded = _coded(work, raw, ids, settings)
            work.drop("log")
            kept, numbered, dropped = _kept(work, coded, settings, total)
            parted, rule = _split(work, kept, numbered, settings)
            work.drop("coded", "keyed", "measured", "marked", "sessions", "cut")
            words, stations, missing = _vocabulary(work, parted, attributes, ids, settings)
            final = work.keep("number items and stations", "final", _final(parted, words, stations))
            work.drop("kept")
            _check_final(final, polarity, settings)
        written = writer.assemble(
            store,
            final,
            words,
            stations,
            ids["user"],
            polarity,
            shard_events=settings.shard_events,
            keep=work.keep,
            on_progress=on_progress,
        )
        counts = {name: value for name, value in written.counts.items() if name != "stations_unseen"}
        return store.finish(
            stores.Metadata(
                reader=reader,
                source=source,
                settings={
                    k: v
                    for k, v in dataclasses.asdict(settings).items()
                    if k not in ("engine", "memory_limit")
                },
                polarity=polarity,
                split=rule,
                counts=counts,
                feedback=written.feedback,
                dropped={f"left out: {reason}": number for reason, number in left_out.items()}
                | dropped
                | missing
                | {"stations_unseen_in_training": written.counts["stations_unseen"]},
                attributes=written.attributes,
                sessions_overlap=written.sessions_overlap,
                shards=written.shards,
            )
        )


@contextlib.contextmanager
def _telling(left_out: dict[str, int]) -> Iterator[None]:
    """A refusal within also tells what the reader left out, which may be why too few events are there."""
    try:
        yield
    except UserError as error:
        if not left_out:
            raise
        counts = ", ".join(f"{number:,} {reason}" for reason, number in left_out.items())
        raise UserError(f"{error} (rows left out: {counts})") from error


class _Work:
    """Intermediate tables, which the engine spills to disk, as a context. Tells ``on_progress`` of each."""

    def __init__(self, con: ibis.BaseBackend, on_progress: progress.OnProgress):
        self._con, self._on_progress = con, on_progress
        self._tables: dict[str, str] = {}

    def keep(self, stage: str, name: str, table: ir.Table) -> ir.Table:
        """The table, computed once."""
        self._on_progress(0, 1, stage=stage)
        unique = ibis.util.gen_name(f"jaxneg_{name}")
        kept = engine.keep(self._con, unique, table)
        self._tables[name] = unique
        self._on_progress(1, 1, stage=stage)
        return kept

    def drop(self, *names: str) -> None:
        """Frees tables that nothing will read again."""
        for name in names:
            if unique := self._tables.pop(name, None):
                engine.drop(self._con, unique)

    def __enter__(self) -> "_Work":
        return self

    def __exit__(self, *error: object) -> None:
        self.drop(*self._tables)


def _one(table: ir.Table) -> dict[str, Any]:
    """The only row of an aggregate; sums over nothing are 0."""
    return {name: value or 0 for name, value in engine.fetch(table).to_pylist()[0].items()}


def _resolved(settings: PrepareConfig, raw: ir.Table, total: int) -> PrepareConfig:
    """The settings with nothing left open. Raises UserError if the log lacks what the session rule needs."""
    found = _one(raw.agg(session=raw.session.count(), station=raw.station.count()))
    settings = with_defaults(settings, session="given" if found["session"] == total else "user", **FALLBACK)
    if settings.session == "given" and found["session"] < total:
        raise UserError(
            "--session given needs a session id in every event, and "
            f"{total - found['session']:,} of {total:,} have none: use --session gap, station or user"
        )
    if settings.session == "station" and found["station"] == 0:
        raise UserError("--session station needs stations, and the log has none: use --session gap or user")
    return check(settings)


def _ids(work: _Work, raw: ir.Table, name: str) -> ir.Table:
    """Distinct ids of a column, and ``code``, their number in the order of ids. Station 0 is none."""
    distinct = raw.filter(raw[name].notnull()).group_by(id=raw[name]).agg(events=ibis._.count()).select("id")
    code = ibis.row_number().over(order_by="id") + (1 if name == "station" else 0)
    return work.keep(f"number each {name}", name, distinct.mutate(code=code.cast("int32")))


def _attributes(work: _Work, raw: ir.Table) -> ir.Table | None:
    """Attributes of each item, if there are any. An item with several values keeps the smallest."""
    names = events.attribute_names(raw)
    if not names:
        return None
    per_item = raw.group_by("item").agg(**{name: raw[name].min() for name in names})
    return work.keep("describe items", "attributes", per_item)


def _coded(work: _Work, raw: ir.Table, ids: dict[str, ir.Table], settings: PrepareConfig) -> ir.Table:
    """Events in integers, with the key of their session."""
    table = raw
    for name in ("user", "item", "station"):
        code = ids[name].select(**{f"{name}_id": "id", f"{name}_code": "code"})
        join = table.left_join if name == "station" else table.join
        table = join(code, [(name, f"{name}_id")])
    extra = {"given": ["session"], "gap": ["duration"]}.get(settings.session, [])
    table = table.select(
        *extra,
        user=table.user_code,
        station=table.station_code.fill_null(0),
        item=table.item_code,
        time=table.time,
        order=table.order,
        feedback=table.feedback.cases(*CODE.items()).cast("int8"),
    )
    coded = work.keep("replace ids by numbers", "coded", table)
    keyed = sessions.keyed(coded, settings.session, settings.gap_minutes)
    return work.keep("find sessions", "keyed", keyed) if settings.session == "gap" else keyed


def _kept(
    work: _Work, coded: ir.Table, settings: PrepareConfig, total: int
) -> tuple[ir.Table, ir.Table, dict[str, int]]:
    """Events and sessions above the minimums, numbered, and what was dropped."""
    stage = "measure sessions"
    measured = work.keep(stage, "measured", sessions.measured(coded))
    marked, users = sessions.long_enough(measured, settings.min_session_events, settings.min_user_events)
    marked = work.keep(stage, "marked", marked)
    few = users.filter(users.dropped)
    short, poor = marked.dropped == 1, marked.dropped == 2
    of_sessions = marked.agg(
        sessions_too_short=short.sum(),
        events_of_short_sessions=marked.events.sum(where=short),
        events_of_users_with_few=marked.events.sum(where=poor),
    )
    of_users = few.agg(users_with_few_events=few.count(), users_with_one_event=(few.events == 1).sum())
    dropped = {name: int(value) for name, value in (_one(of_sessions) | _one(of_users)).items()}
    by_session, by_user = dropped["events_of_short_sessions"], dropped["events_of_users_with_few"]
    if by_session + by_user == total:
        raise UserError(
            f"no event is left: of {total:,}, --min-session-events {settings.min_session_events} removed "
            f"{by_session:,} and --min-user-events {settings.min_user_events} removed {by_user:,}: lower them"
        )
    numbered = work.keep(stage, "sessions", sessions.numbered(marked.filter(marked.dropped == 0)))
    kept = coded.join(numbered.select("user", "key", "session"), ["user", "key"])
    return kept.select("session", "user", *sessions.ORDER), numbered, dropped


def _split(
    work: _Work, kept: ir.Table, numbered: ir.Table, settings: PrepareConfig
) -> tuple[ir.Table, dict[str, Any]]:
    """Kept events with ``part``, 0 for training, 1 for validation, 2 for test; the rule for the metadata."""
    if settings.split == "time":
        kept = work.keep("join sessions", "kept", kept)
        valid, test = split.cut_time(kept, settings.test_from, settings.valid_from)
        part = ibis.cases((kept.time < valid, 0), (kept.time < test, 1), else_=2)
        return kept.mutate(part=part.cast("int8")), {"rule": "time", "valid_from": valid, "test_from": test}
    if settings.split == "tail":
        cut = split.cut_tail(numbered, settings.test_share, settings.valid_share)
        rule = {"rule": "tail", "test_share": settings.test_share, "valid_share": settings.valid_share}
    else:
        cut, rule = split.cut_last(numbered), {"rule": "leave-last"}
    cut = work.keep("cut sessions", "cut", cut)
    placed = kept.mutate(place=ibis.row_number().over(group_by="session", order_by=sessions.ORDER))
    placed = placed.join(cut, "session")
    part = ibis.cases((placed.place < placed.train, 0), (placed.place < placed.valid, 1), else_=2)
    return work.keep("cut sessions", "kept", placed.select(*kept.columns, part=part.cast("int8"))), rule


def _vocabulary(
    work: _Work,
    parted: ir.Table,
    attributes: ir.Table | None,
    ids: dict[str, ir.Table],
    settings: PrepareConfig,
) -> tuple[ir.Table, ir.Table, dict[str, int]]:
    """Words of the catalogue (code, id, count, row, attributes), stations likewise, and what is left out."""
    stage = "count items and stations"
    per_item = parted.group_by("item").agg(
        count=(parted.part == 0).sum().cast("int64"), events=parted.count()
    )
    per_item = work.keep(stage, "counts", per_item)
    count = per_item["count"]
    rare, unseen = (count > 0) & (count < settings.min_item_count), count == 0
    found = _one(
        per_item.agg(
            items_too_rare=rare.sum(),
            events_of_rare_items=per_item.events.sum(where=rare),
            items_unseen_in_training=unseen.sum(),
            events_of_unseen_items=per_item.events.sum(where=unseen),
            most=count.max(),
        )
    )
    missing = {name: int(value) for name, value in found.items() if name != "most"}
    if found["most"] < settings.min_item_count:
        raise UserError(
            f"no item is left: --min-item-count is {settings.min_item_count}, and no item has more than "
            f"{found['most']:,} training events: lower it"
        )
    by_count = [ibis.desc("count"), ibis.asc("id")]
    row = (ibis.row_number().over(order_by=by_count) + 1).cast("int32")
    words = per_item.filter(count >= settings.min_item_count).join(ids["item"], [("item", "code")])
    words = words.select("id", "count", code="item")
    if attributes is not None:
        words = words.left_join(attributes, [("id", "item")]).drop("item")
    words = work.keep(stage, "words", words.mutate(row=row))
    trained = parted.filter((parted.part == 0) & (parted.station > 0))
    trained = (
        trained.group_by("station").agg(count=trained.count()).join(ids["station"], [("station", "code")])
    )
    stations = trained.select("id", "count", code="station").mutate(row=row)
    return words, work.keep(stage, "stations", stations), missing


def _final(parted: ir.Table, words: ir.Table, stations: ir.Table) -> ir.Table:
    """Events as stored, unordered: with rows, and ``unseen`` where training lacks the station."""
    table = parted.join(words.select(code="code", item_row="row"), [("item", "code")]).drop("code")
    table = table.left_join(stations.select(code="code", station_row="row"), [("station", "code")])
    return table.select(
        *("session", "user", "time", "order", "feedback", "part"),
        item=table.item_row,
        station=table.station_row.fill_null(0),
        unseen=(table.station > 0) & table.station_row.isnull(),
    )


def _check_final(final: ir.Table, polarity: dict[str, int], settings: PrepareConfig) -> None:
    """Raises UserError if there is no positive to train on or nothing to test."""
    train = final.part == 0
    kinds = {kind: (final.feedback == CODE[kind]).sum(where=train) for kind in polarity}
    found = _one(final.agg(test=(final.part == 2).sum(), **kinds))
    if not any(found[kind] for kind, sign in polarity.items() if sign > 0):
        positive = " and ".join(kind for kind, sign in polarity.items() if sign > 0) or "nothing"
        have = ", ".join(f"{found[kind]:,} {kind}" for kind in polarity if found[kind])
        raise UserError(
            f"no positive event to train on: {positive} counts as positive, and there are {have} in the "
            "training window: choose another --polarity, or add --positive"
        )
    if not found["test"]:
        least = f"no user has {split.TAIL_LEAST} events or more"
        shortest = "no session has three events or more"
        why = {"tail": f"{least}, or ", "leave-last": f"{shortest}, or ", "time": ""}[settings.split]
        raise UserError(
            f"no event is left for the test: {why}training has none of the held-out items often enough: "
            "choose another --split, or lower the minimums"
        )
