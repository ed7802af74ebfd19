"""The stages of ``prepare``, from a log to events of rows, each a table that the engine computes once."""

# ibis types its expressions at run time.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false
# pyright: reportCallIssue=false, reportOperatorIssue=false

from typing import Any

import ibis
import ibis.expr.types as ir

from jaxneg import progress
from jaxneg.batch import CODE
from jaxneg.data import engine, events, prepare_config, sessions, split
from jaxneg.data.metadata import Sign
from jaxneg.data.prepare_config import PrepareConfig
from jaxneg.errors import UserError


class Work:
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

    def __enter__(self) -> "Work":
        return self

    def __exit__(self, *error: object) -> None:
        self.drop(*self._tables)


def _one(table: ir.Table) -> dict[str, Any]:
    """The only row of an aggregate; sums over nothing are 0."""
    return {name: value or 0 for name, value in engine.fetch(table).to_pylist()[0].items()}


def resolved(settings: PrepareConfig, raw: ir.Table, total: int) -> PrepareConfig:
    """The settings with nothing left open. Raises UserError if the log lacks what the session rule needs."""
    found = _one(raw.agg(session=raw.session.count(), station=raw.station.count()))
    session = "given" if found["session"] == total else "user"
    settings = prepare_config.with_defaults(settings, session=session, **prepare_config.FALLBACK)
    if settings.session == "given" and found["session"] < total:
        raise UserError(
            "--session given needs a session id in every event, and "
            f"{total - found['session']:,} of {total:,} have none: use --session gap, station or user"
        )
    if settings.session == "station" and found["station"] == 0:
        raise UserError("--session station needs stations, and the log has none: use --session gap or user")
    return prepare_config.check(settings)


def numbered_ids(work: Work, raw: ir.Table, name: str) -> ir.Table:
    """Distinct ids of a column, and ``code``, their number in the order of ids. Station 0 is none."""
    distinct = raw.filter(raw[name].notnull()).group_by(id=raw[name]).agg(events=ibis._.count()).select("id")
    code = ibis.row_number().over(order_by="id") + (1 if name == "station" else 0)
    return work.keep(f"number each {name}", name, distinct.mutate(code=code.cast("int32")))


def attributes_of_items(work: Work, raw: ir.Table) -> ir.Table | None:
    """Attributes of each item, if there are any. An item with several values keeps the smallest."""
    names = events.attribute_names(raw)
    if not names:
        return None
    per_item = raw.group_by("item").agg(**{name: raw[name].min() for name in names})
    return work.keep("describe items", "attributes", per_item)


def coded_events(work: Work, raw: ir.Table, ids: dict[str, ir.Table], settings: PrepareConfig) -> ir.Table:
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


def kept_events(
    work: Work, coded: ir.Table, settings: PrepareConfig, total: int
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


def split_events(
    work: Work, kept: ir.Table, numbered: ir.Table, settings: PrepareConfig
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


def vocabulary(
    work: Work,
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


def final_events(parted: ir.Table, words: ir.Table, stations: ir.Table) -> ir.Table:
    """Events as stored, unordered: with rows, and ``unseen`` where training lacks the station."""
    table = parted.join(words.select(code="code", item_row="row"), [("item", "code")]).drop("code")
    table = table.left_join(stations.select(code="code", station_row="row"), [("station", "code")])
    return table.select(
        *("session", "user", "time", "order", "feedback", "part"),
        item=table.item_row,
        station=table.station_row.fill_null(0),
        unseen=(table.station > 0) & table.station_row.isnull(),
    )


def check_final(final: ir.Table, polarity: dict[str, Sign], settings: PrepareConfig) -> None:
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
