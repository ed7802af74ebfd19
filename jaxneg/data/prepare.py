"""Events -> sessions, split, vocabulary, store.

The engine groups and sorts, out of core; arrays are written from its streams, so memory does not grow with the log.
Intermediate tables lie as parquet files beside the store until it is finished. Ids become numbers first; in all that
follows events are rows of integers. The order of steps is

    sessions    by the session rule, over all events
    minimums    short sessions go, then users with few events
    split       each event is for training, validation or test
    vocabulary  from training events only; items that are too rare or unseen in training go, with their events
"""

# ibis types its expressions at run time.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false
# pyright: reportCallIssue=false, reportOperatorIssue=false

import dataclasses
import datetime
import pathlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import ibis
import ibis.expr.types as ir
import numpy as np
import pyarrow as pa

from jaxneg.batch import CODE, FEEDBACK
from jaxneg.config import UserError
from jaxneg.data import engine, events, sessions, store as stores

Progress = Callable[[str, int, int], None]  # stage, done, total
BUCKETS = 1 << 16  # of the histogram that finds a quantile of time


@dataclass(frozen=True)
class PrepareConfig:
    """Settings of prepare. None takes what suits the source."""

    session: Literal["given", "station", "gap", "user"] | None = None  # what makes a session: an id in the log, the station, pauses, all of a user
    gap_minutes: float | None = None  # with session gap: a longer pause starts a new session
    polarity: str | None = None  # which feedback counts as liked and disliked: default, plays, explicit, pandora, lenient
    positive: tuple[str, ...] = ()  # feedback kinds that count as liked, whatever the polarity says
    negative: tuple[str, ...] = ()  # feedback kinds that count as disliked, whatever the polarity says
    min_item_count: int = 1  # items with fewer events in the training window are left out
    min_user_events: int = 2  # users with fewer events are left out
    min_session_events: int = 1  # sessions with fewer events are left out
    split: Literal["time", "tail", "leave-last"] | None = None  # what is held out: events after a time, each user's tail, each session's end
    test_from: str | None = None  # with split time: test starts here, as 2024-02-01 or a number; default: the last 10% of events
    valid_from: str | None = None  # with split time: validation starts here; default: the last 1/9 of the events before the test
    test_share: float = 0.2  # with split tail: share of a user's sessions, or events, that is held out for the test
    valid_share: float = 0.1  # with split tail: share before it for validation
    memory_limit: str = "2GB"  # of the query engine; it spills to disk beyond
    # fmt: skip


FALLBACK = {"gap_minutes": 30.0, "polarity": "default", "split": "time"}  # where neither user nor reader says


def with_defaults(settings: PrepareConfig, **defaults: Any) -> PrepareConfig:
    """The settings with ``defaults`` in place of what is None: with_defaults(settings, session="gap", split="time")."""
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
                raise UserError(f"--{option} {kind} is no feedback kind: choose from {', '.join(events.KINDS)}")
    if both := set(settings.positive) & set(settings.negative):
        raise UserError(f"feedback kind {min(both)} cannot be both --positive and --negative")
    polarity = dict(events.PRESETS[name]) | dict.fromkeys(settings.positive, 1) | dict.fromkeys(settings.negative, -1)
    return {kind: polarity[kind] for kind in FEEDBACK if kind in polarity}


def check(settings: PrepareConfig) -> None:
    """Raises UserError naming the first field whose value makes no sense."""
    signs(settings)
    rules = [
        (settings.gap_minutes is None or settings.gap_minutes > 0, "gap_minutes", "above 0"),
        (settings.min_item_count >= 1, "min_item_count", "at least 1"),
        (settings.min_user_events >= 1, "min_user_events", "at least 1"),
        (settings.min_session_events >= 1, "min_session_events", "at least 1"),
        (0 < settings.test_share < 1, "test_share", "above 0 and below 1"),
        (0 <= settings.valid_share, "valid_share", "0 or more"),
        (settings.test_share + settings.valid_share < 1, "test_share", "below 1 together with --valid-share"),
    ]
    for holds, name, rule in rules:
        if not holds:
            raise UserError(f"--{name.replace('_', '-')} must be {rule}, got {getattr(settings, name)}")
    if settings.split in ("tail", "leave-last"):
        for name in ("test_from", "valid_from"):
            if getattr(settings, name) is not None:
                raise UserError(f"--{name.replace('_', '-')} needs --split time, got --split {settings.split}")
    for name in ("test_from", "valid_from"):
        _time(name, getattr(settings, name))


def prepare(
    log: ir.Table,
    out: str | pathlib.Path,
    settings: PrepareConfig,
    con: ibis.BaseBackend,
    *,
    reader: str = "",
    source: str = "",
    progress: Progress | None = None,
) -> stores.Metadata:
    """Writes the store ``out`` from a log in EVENT_SCHEMA and returns its metadata.

    The same log and settings give the same bytes. An older store at ``out`` is replaced once the new one is complete.
    Raises UserError, and leaves everything as it was, where the log or the settings do not make a store.

    Args:
      con: the engine that ``log`` belongs to.
      reader, source: where the log comes from, for the metadata and for messages.
      progress: called with (stage, done, total) from time to time.
    """
    check(settings)
    polarity = signs(settings)
    with stores.StoreWriter(out) as writer, engine.reading(source or "the log"):
        work = _Work(con, writer.scratch, progress or (lambda stage, done, total: None))
        raw = work.keep("read the log", "log", log)
        total = events.check_events(raw)
        settings = _resolved(settings, raw, total)
        ids = {name: _ids(work, raw, name) for name in ("user", "item", "station")}
        coded = _coded(work, raw, ids, settings)
        kept, dropped = _kept(work, coded, settings, total)
        parted, split = _split(work, kept, settings)
        words, rows, missing = _vocabulary(work, parted, raw, ids, settings)
        final = work.keep("number the items", "final", _final(parted, words, rows))
        _check_final(final, polarity, settings, missing)
        written = _Written(work, writer, final, polarity)
        attributes = _write_catalogue(written, words, rows, raw)
        _write_users(written, ids["user"])
        _write_sessions(written)
        _write_events(written)
        _write_index(written)
        kept_settings = {k: v for k, v in dataclasses.asdict(settings).items() if k != "memory_limit"}
        return writer.finish(
            stores.Metadata(
                reader=reader,
                source=source,
                settings=kept_settings,
                polarity=polarity,
                split=split,
                counts=written.counts,
                feedback=written.feedback,
                dropped=dropped | missing | written.dropped,
                attributes=attributes,
                sessions_overlap=written.sessions_overlap,
            )
        )


@dataclass(frozen=True)
class _Work:
    """The engine, a place for intermediate tables, and who is told how far it is."""

    con: ibis.BaseBackend
    scratch: pathlib.Path
    progress: Progress

    def keep(self, stage: str, name: str, table: ir.Table) -> ir.Table:
        """The table, computed once. The file of an earlier table of that name is replaced."""
        self.progress(stage, 0, 1)
        path = self.scratch / f"{name}.parquet"
        self.con.to_parquet(table, path)
        self.progress(stage, 1, 1)
        return self.con.read_parquet(path, table_name=f"jaxneg_{name}")

    def drop(self, name: str) -> None:
        (self.scratch / f"{name}.parquet").unlink()


def _one(table: ir.Table) -> dict[str, Any]:
    """The only row of an aggregate; sums over nothing are 0."""
    return {name: value or 0 for name, value in table.to_pyarrow().to_pylist()[0].items()}


def _stream(table: ir.Table) -> Iterator[dict[str, np.ndarray]]:
    """The columns of a table of numbers, some rows at a time."""
    for batch in engine.stream(table):
        yield {name: column.to_numpy(zero_copy_only=False) for name, column in zip(batch.schema.names, batch.columns, strict=True)}


def _resolved(settings: PrepareConfig, raw: ir.Table, total: int) -> PrepareConfig:
    """The settings with nothing left open. Raises UserError if the log has not what the session rule needs."""
    found = _one(raw.agg(session=raw.session.count(), station=raw.station.count()))
    settings = with_defaults(settings, session="given" if found["session"] == total else "user", **FALLBACK)
    if settings.session == "given" and found["session"] < total:
        raise UserError(
            f"--session given needs a session id in every event, and {total - found['session']:,} of {total:,} have none: "
            "use --session gap, station or user"
        )
    if settings.session == "station" and found["station"] == 0:
        raise UserError("--session station needs stations, and the log has none: use --session gap or user")
    return settings


def _ids(work: _Work, raw: ir.Table, name: str) -> ir.Table:
    """Distinct ids of a column with ``code``, their number in the order of ids. 0 is left for no station."""
    distinct = raw.filter(raw[name].notnull()).select(id=raw[name]).distinct()
    first = 1 if name == "station" else 0
    return work.keep(f"number each {name}", name, distinct.mutate(
        code=(ibis.row_number().over(order_by="id") + first).cast("int32")
    ))  # fmt: skip


def _coded(work: _Work, raw: ir.Table, ids: dict[str, ir.Table], settings: PrepareConfig) -> ir.Table:
    """Events in integers, each with the key of its session: user, station, item, time, order, feedback, key."""
    user, item = (ids[name].select(id=ids[name].id, code=ids[name].code) for name in ("user", "item"))
    table = raw.join(user.rename(user_code="code", user_id="id"), raw.user == ibis._.user_id)
    table = table.join(item.rename(item_code="code", item_id="id"), table.item == ibis._.item_id)
    station = ids["station"].rename(station_code="code", station_id="id")
    table = table.left_join(station, table.station == station.station_id)
    own = {"given": ["session"], "gap": ["duration"]}.get(settings.session, [])
    coded = work.keep("replace ids by numbers", "coded", table.select(
        *own,
        user=table.user_code,
        station=table.station_code.fill_null(0),
        item=table.item_code,
        time=table.time,
        order=table.order,
        feedback=table.feedback.cases(*CODE.items()).cast("int8"),
    ))  # fmt: skip
    if settings.session in ("station", "user"):
        return sessions.keyed(coded, settings.session, settings.gap_minutes)
    return work.keep("find sessions", "keyed", sessions.keyed(coded, settings.session, settings.gap_minutes))


def _kept(work: _Work, coded: ir.Table, settings: PrepareConfig, total: int) -> tuple[ir.Table, dict[str, int]]:
    """Events of the sessions and users above the minimums, by number of session, and what was dropped."""
    every = work.keep("measure sessions", "measured", sessions.measured(coded))
    marked, users = sessions.long_enough(every, settings.min_session_events, settings.min_user_events)
    marked = work.keep("measure sessions", "marked", marked)
    few = users.filter(users.dropped)
    of_users = _one(few.agg(users=few.count(), one=(few.events == 1).sum()))
    short, poor = marked.dropped == 1, marked.dropped == 2
    dropped = _one(marked.agg(
        sessions_too_short=short.sum(),
        events_of_short_sessions=marked.events.sum(where=short),
        events_of_users_with_few=marked.events.sum(where=poor),
    )) | {"users_with_few_events": of_users["users"], "users_with_one_event": of_users["one"]}  # fmt: skip
    gone = dropped["events_of_short_sessions"] + dropped["events_of_users_with_few"]
    if gone == total:
        raise UserError(
            f"no event is left: of {total:,}, --min-session-events {settings.min_session_events} removed "
            f"{dropped['events_of_short_sessions']:,} and --min-user-events {settings.min_user_events} removed "
            f"{dropped['events_of_users_with_few']:,}: lower them"
        )
    numbered = work.keep("measure sessions", "sessions", sessions.numbered(marked.filter(marked.dropped == 0)))
    kept = coded.join(numbered.select("user", "key", "session"), ["user", "key"])
    return kept.select("session", "user", *sessions.ORDER, "key"), dropped


def _split(work: _Work, kept: ir.Table, settings: PrepareConfig) -> tuple[ir.Table, dict[str, Any]]:
    """Kept events with ``part``, 0 for training, 1 for validation, 2 for test; and the rule for the metadata."""
    columns = ["session", "user", *sessions.ORDER]
    if settings.split == "time":
        kept = work.keep("join sessions", "kept", kept.select(columns))
        valid_from, test_from = _times(kept, settings)
        part = ibis.cases((kept.time < valid_from, 0), (kept.time < test_from, 1), else_=2)
        return kept.mutate(part=part.cast("int8")), {"rule": "time", "valid_from": valid_from, "test_from": test_from}
    numbered = work.con.table("jaxneg_sessions")
    if settings.split == "tail":
        cut = sessions.cut_tail(numbered, settings.test_share, settings.valid_share)
        rule = {"rule": "tail", "test_share": settings.test_share, "valid_share": settings.valid_share}
    else:
        cut, rule = sessions.cut_last(numbered), {"rule": "leave-last"}
    cut = work.keep("cut sessions", "cut", cut)
    placed = kept.mutate(place=ibis.row_number().over(group_by="session", order_by=sessions.ORDER))
    placed = placed.join(cut.select("session", "train", "valid"), "session")
    part = ibis.cases((placed.place < placed.train, 0), (placed.place < placed.valid, 1), else_=2)
    return work.keep("cut sessions", "kept", placed.select(*columns, part=part.cast("int8"))), rule


def _times(kept: ir.Table, settings: PrepareConfig) -> tuple[int, int]:
    """Where validation and test start. Raises UserError if training or test would be empty."""
    span = _one(kept.agg(first=kept.time.min(), last=kept.time.max(), events=kept.count()))
    log = f"the log runs from {_date(span['first'], span)} to {_date(span['last'], span)}"
    test_from = _time("test_from", settings.test_from)
    if test_from is None:
        test_from = _order_statistic(kept, span, span["events"] * 9 // 10)
    before = int(kept.filter(kept.time < test_from).count().to_pyarrow().as_py())
    valid_from = _time("valid_from", settings.valid_from)
    if valid_from is None and before > 0:
        valid_from = _order_statistic(kept, span, before * 8 // 9)
    if test_from > span["last"]:
        raise UserError(f"no event is left for the test: --test-from is {_date(test_from, span)}, and {log}")
    if before == 0 or (valid_from <= span["first"]):
        start = "--test-from" if before == 0 else "--valid-from"
        at = _date(test_from if before == 0 else valid_from, span)
        raise UserError(f"no event is left for training: {start} is {at}, and {log}: choose later ones, or --split tail")
    if valid_from > test_from:
        raise UserError(f"--valid-from {_date(valid_from, span)} is after --test-from {_date(test_from, span)}")
    return valid_from, test_from


def _order_statistic(table: ir.Table, span: dict[str, int], index: int) -> int:
    """The time at place ``index`` of the sorted times: exact, by histograms that get finer, in bounded memory."""
    low, high, below = span["first"], span["last"], 0
    while low < high:
        width = (high - low) // BUCKETS + 1
        inside = table.filter((table.time >= low) & (table.time <= high))
        counts = inside.group_by(bucket=((inside.time - low) // width).cast("int64")).agg(events=inside.count())
        counts = counts.order_by("bucket").to_pyarrow()
        upto = below + np.cumsum(counts["events"].to_numpy())
        at = int(np.searchsorted(upto, index, side="right"))
        below = int(upto[at - 1]) if at else below
        low += int(counts["bucket"][at].as_py()) * width
        high = min(low + width - 1, high)
    return low


def _time(name: str, text: str | None) -> int | None:
    """Milliseconds since the epoch, or the number itself. Times without a zone are UTC."""
    if text is None:
        return None
    try:
        return int(text)
    except ValueError:
        pass
    try:
        time = datetime.datetime.fromisoformat(text)
    except ValueError as error:
        raise UserError(f"--{name.replace('_', '-')} must be a date such as 2024-02-01 or a whole number, got {text}") from error
    if time.tzinfo is None:
        time = time.replace(tzinfo=datetime.UTC)
    return (time - datetime.datetime.fromtimestamp(0, datetime.UTC)) // datetime.timedelta(milliseconds=1)


def _date(time: int, span: dict[str, int]) -> str:
    """A time as its user would write it: a date if the log has a clock (it ends after 1973), else the number."""
    if span["last"] < 10**11 or not 0 <= time < 2 * 10**14:
        return str(time)
    return datetime.datetime.fromtimestamp(time / 1000, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _vocabulary(
    work: _Work, parted: ir.Table, raw: ir.Table, ids: dict[str, ir.Table], settings: PrepareConfig
) -> tuple[ir.Table, ir.Table, dict[str, int]]:
    """Rows of items (code, id, count, row, attributes) and of stations (code, id, row), and what they leave out."""
    counts = work.keep("count items", "counts", parted.group_by("item").agg(
        count=(parted.part == 0).sum().cast("int64"), events=parted.count()
    ))  # fmt: skip
    rare = (counts["count"] > 0) & (counts["count"] < settings.min_item_count)
    unseen = counts["count"] == 0
    missing = _one(counts.agg(
        items_too_rare=rare.sum(),
        events_of_rare_items=counts.events.sum(where=rare),
        items_unseen_in_training=unseen.sum(),
        events_of_unseen_items=counts.events.sum(where=unseen),
        most=counts["count"].max(),
    ))  # fmt: skip
    most = missing.pop("most")
    if most < settings.min_item_count:
        raise UserError(
            f"no item is left: --min-item-count is {settings.min_item_count}, and no item has more than {most} "
            "training events: lower it"
        )
    frequent = counts.filter(counts["count"] >= settings.min_item_count)
    words = frequent.join(ids["item"], frequent.item == ids["item"].code).select("code", "id", "count")
    if names := events.attribute_names(raw):
        per_item = raw.group_by("item").agg(**{name: raw[name].min() for name in names})
        words = words.left_join(per_item, words.id == per_item.item).select("code", "id", "count", *names)
    by_count = [ibis.desc("count"), ibis.asc("id")]
    words = words.mutate(row=(ibis.row_number().over(order_by=by_count) + 1).cast("int32"))
    words = work.keep("number the items", "words", words)
    trained = parted.filter((parted.part == 0) & (parted.station > 0)).group_by("station").agg(count=ibis._.count())
    rows = trained.join(ids["station"], trained.station == ids["station"].code).select("code", "id", "count")
    rows = rows.mutate(row=(ibis.row_number().over(order_by=by_count) + 1).cast("int32"))
    return words, work.keep("number the items", "stations", rows), missing


def _final(parted: ir.Table, words: ir.Table, rows: ir.Table) -> ir.Table:
    """Events as stored, unordered: item and station are rows; ``unseen`` marks a station that training did not see."""
    table = parted.join(words.select(item="code", row="row"), "item")
    station = rows.select(code="code", station_row="row")
    table = table.left_join(station, table.station == station.code)
    return table.select(
        "session", "user", "time", "order", "feedback", "part",
        item=table.row,
        station=table.station_row.fill_null(0),
        unseen=(table.station > 0) & table.station_row.isnull(),
    )  # fmt: skip


def _check_final(final: ir.Table, polarity: dict[str, int], settings: PrepareConfig, missing: dict[str, int]) -> None:
    """Raises UserError if the store would have no positive to train on or nothing to test."""
    train, test = final.part == 0, final.part == 2
    positive = final.feedback.isin(_codes(polarity, 1))
    found = _one(final.agg(train=train.sum(), test=test.sum(), positive=(train & positive).sum(),
                           **{kind: (final.feedback == CODE[kind]).sum(where=train) for kind in polarity}))  # fmt: skip
    if found["positive"] == 0:
        kinds = [kind for kind, sign in polarity.items() if sign > 0]
        have = ", ".join(f"{found[kind]:,} {kind}" for kind in polarity if found[kind])
        raise UserError(
            f"no positive event to train on: {' and '.join(kinds) or 'nothing'} counts as positive, and the training "
            f"events are {have}: choose --polarity, or --positive"
        )
    if found["test"] == 0:
        why = {
            "time": "its items were not seen in training" if missing["events_of_unseen_items"] else "its items are too rare",
            "tail": f"no user has {sessions.TAIL_LEAST} events or more, or their items are not seen in training",
            "leave-last": "no session has 3 events or more, or their items are not seen in training",
        }[settings.split]
        raise UserError(f"no event is left for the test: {why}: choose another --split or lower the minimums")


def _codes(polarity: dict[str, int], sign: int) -> list[int]:
    return [CODE[kind] for kind, value in polarity.items() if value == sign]


class _Written:
    """What the parts of a store that are written one after the other know of each other."""

    def __init__(self, work: _Work, writer: stores.StoreWriter, final: ir.Table, polarity: dict[str, int]):
        self.work, self.writer, self.final, self.polarity = work, writer, final, polarity
        self.counts: dict[str, int] = {}
        self.feedback: dict[str, dict[str, int]] = {}
        self.dropped: dict[str, int] = {}
        self.sessions_overlap = False
        self.user_code = np.zeros(0, np.int32)  # codes of the users in the store, ascending
        self.group_key = np.zeros(0, np.int64)  # user row * width + station row, ascending
        self.width = 1  # station rows and 0

    def user_rows(self, code: np.ndarray) -> np.ndarray:
        return np.searchsorted(self.user_code, code).astype(np.int32)


class _PerUser:
    """Counts by user of rows that come ordered by user, and the ranges that they make."""

    def __init__(self, users: int):
        self.count = np.zeros(users, np.int64)

    def add(self, user: np.ndarray) -> None:
        if len(user):
            part = np.bincount(user - user[0])
            self.count[user[0] : user[0] + len(part)] += part

    def indptr(self) -> np.ndarray:
        return np.concatenate([[0], np.cumsum(self.count)])


def _write_catalogue(written: _Written, words: ir.Table, rows: ir.Table, raw: ir.Table) -> list[dict[str, Any]]:
    """items.parquet, stations.parquet, attribute_NAME.parquet and attributes.npy; the attributes for the metadata."""
    writer, columns = written.writer, events.attribute_names(raw)
    text = [pa.field(name, pa.string()) for name in columns]
    schema = pa.schema([("row", pa.int32()), ("item", pa.string()), ("count", pa.int64()), *text])
    ordered = words.select("row", "count", *columns, item="id").select(*schema.names).order_by("row")
    written.counts["items"] = writer.table("items", schema, engine.stream(ordered))
    schema = pa.schema([("row", pa.int32()), ("id", pa.string())])
    stations = rows.select("row", "id").order_by("row")
    written.counts["stations"] = writer.table("stations", schema, engine.stream(stations))
    written.width = written.counts["stations"] + 1
    attributes, coded = [], words.select("row", *columns)
    schema = pa.schema([("row", pa.int32()), ("value", pa.string())])
    for name in columns:
        known = words.filter(words[name].notnull())
        values = known.group_by(value=known[name]).agg(count=known["count"].sum())
        order = [ibis.desc("count"), ibis.asc("value")]
        values = values.select("value", row=(ibis.row_number().over(order_by=order) + 1).cast("int32"))
        values = written.work.keep("number attributes", name, values)
        size = writer.table(name, schema, engine.stream(values.select("row", "value").order_by("row")))
        attributes.append({"name": name.removeprefix(events.ATTRIBUTE), "size": size})
        codes = values.select(text="value", code="row")
        coded = coded.left_join(codes, coded[name] == codes.text).drop("text")
        coded = coded.mutate(**{name: coded.code.fill_null(0)}).drop("code")
    column = writer.column("attribute_VA", width=len(columns))
    column.append(np.zeros((1, len(columns)), np.int32))
    for part in _stream(coded.order_by("row")):
        column.append(np.stack([part[name] for name in columns], 1) if columns else np.zeros((len(part["row"]), 0)))
    return attributes


def _write_users(written: _Written, ids: ir.Table) -> None:
    """users.parquet, groups and the ranges of their negatives."""
    writer, final = written.writer, written.final
    disliked = (final.part == 0) & final.feedback.isin(_codes(written.polarity, -1))
    groups = final.group_by("user", "station").agg(negatives=disliked.sum().cast("int64"))
    groups = written.work.keep("group stations of users", "groups", groups)
    users = ids.semi_join(groups, ids.code == groups.user).order_by("code")
    schema, first, codes = pa.schema([("row", pa.int32()), ("id", pa.string())]), 0, []

    def numbered() -> Iterator[pa.RecordBatch]:
        nonlocal first
        for batch in engine.stream(users.select("code", "id")):
            row = pa.array(np.arange(first, first + len(batch), dtype=np.int32))
            codes.append(batch["code"].to_numpy())
            first += len(batch)
            yield pa.RecordBatch.from_arrays([row, batch["id"]], schema=schema)

    written.counts["users"] = writer.table("users", schema, numbered())
    written.user_code = np.concatenate(codes)
    key, indptr = writer.scratch_column("group_key", np.int64), writer.column("negative_indptr")
    per_user, negatives = _PerUser(first), 0
    indptr.append([0])
    for part in _stream(groups.order_by("user", "station")):
        user = written.user_rows(part["user"])
        per_user.add(user)
        key.append(user.astype(np.int64) * written.width + part["station"])
        indptr.append(negatives + np.cumsum(part["negatives"]))
        negatives += int(part["negatives"].sum())
    key.close()
    written.group_key = np.load(key.path, mmap_mode="r")
    written.counts["groups"] = len(written.group_key)
    writer.column("user_group_indptr").append(per_user.indptr())


def _write_sessions(written: _Written) -> None:
    """Ranges of sessions, of their parts, and of users; whether sessions overlap."""
    writer, final = written.writer, written.final
    table = written.work.keep("order sessions", "spans", final.group_by("session").agg(
        user=final.user.min(),
        start=final.time.min(),
        end=final.time.max(),
        events=final.count(),
        train=(final.part == 0).sum().cast("int64"),
        valid=(final.part == 1).sum().cast("int64"),
    ))  # fmt: skip
    earlier = table.end.max().over(group_by="user", order_by="session", rows=(None, 0))
    ends = table.select("user", "session", "start", until=earlier)
    last = ends.until.lag().over(group_by="user", order_by="session")
    overlapping = ends.select(overlaps=(ends.start < last).fill_null(False))
    written.sessions_overlap = _one(overlapping.agg(n=overlapping.overlaps.sum()))["n"] > 0
    indptr, owner = writer.column("session_indptr"), writer.column("session_user")
    train_end, valid_end = writer.column("session_train_end"), writer.column("session_valid_end")
    per_user, position = _PerUser(written.counts["users"]), 0
    indptr.append([0])
    for part in _stream(table.order_by("session")):
        end = position + np.cumsum(part["events"])
        start = end - part["events"]
        user = written.user_rows(part["user"])
        indptr.append(end)
        owner.append(user)
        train_end.append(start + part["train"])
        valid_end.append(start + part["train"] + part["valid"])
        per_user.add(user)
        position = int(end[-1]) if len(end) else position
    written.counts |= {"sessions": owner.length, "events": position}
    writer.column("user_indptr").append(per_user.indptr())


def _write_events(written: _Written) -> None:
    """The columns of events, in the store's order, counted on the way."""
    writer, final, total = written.writer, written.final, written.counts["events"]
    columns = {name: writer.column(f"{name}_T") for name in ("item", "feedback", "station", "time", "group")}
    counts = np.zeros(3 * len(FEEDBACK), np.int64)
    done = unordered = unseen = 0
    before = (-1, 0)  # session and order of the last event
    # The part comes before the time so that equal times cannot mix parts; the columns after the order break no real tie.
    ordered = final.order_by("session", "part", "time", "order", "item", "feedback", "station")
    for part in _stream(ordered):
        for name in ("item", "feedback", "station", "time"):
            columns[name].append(part[name])
        user = written.user_rows(part["user"]).astype(np.int64)
        columns["group"].append(np.searchsorted(written.group_key, user * written.width + part["station"]))
        kinds = part["part"].astype(np.int64) * len(FEEDBACK) + part["feedback"]
        counts += np.bincount(kinds, minlength=len(counts))
        session, order = np.append(before[0], part["session"]), np.append(before[1], part["order"])
        unordered += int(((session[1:] == session[:-1]) & (order[1:] < order[:-1])).sum())
        unseen += int(part["unseen"].sum())
        before = (session[-1], order[-1])
        done += len(user)
        written.work.progress("write events", done, total)
    for split, row in zip(stores.SPLITS, counts.reshape(3, -1), strict=True):
        written.feedback[split] = {kind: int(row[CODE[kind]]) for kind in written.polarity}
    written.counts["out_of_order"] = unordered
    written.dropped["stations_unseen_in_training"] = unseen


def _write_index(written: _Written) -> None:
    """Negatives by group and positives by user, from the training window."""
    writer, final = written.writer, written.final
    train = final.filter(final.part == 0)
    negative = train.filter(train.feedback.isin(_codes(written.polarity, -1)))
    column = writer.column("negative_item")
    for part in _stream(negative.order_by("user", "station", "time", "order", "item", "feedback").select("item")):
        column.append(part["item"])
    written.counts["negatives"] = column.length
    positive = train.filter(train.feedback.isin(_codes(written.polarity, 1))).select("user", "item").distinct()
    column, per_user = writer.column("positive_item"), _PerUser(written.counts["users"])
    for part in _stream(positive.order_by("user", "item")):
        column.append(part["item"])
        per_user.add(written.user_rows(part["user"]))
    written.counts["positives"] = column.length
    writer.column("positive_indptr").append(per_user.indptr())
