"""Which session an event belongs to, and which sessions and users are long enough: expressions over coded events.

Coded events have integer columns user, item, station, time, order, feedback.
"""

# ibis types its expressions at run time.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false
# pyright: reportCallIssue=false, reportOperatorIssue=false

import ibis
import ibis.expr.types as ir

ORDER = ("time", "order", "item", "feedback", "station")  # of events within a session; the last three break no real tie
MINUTE = 60_000  # milliseconds
TAIL_LEAST = 5  # events, or sessions, that a user needs to have a tail


def keyed(coded: ir.Table, rule: str, gap_minutes: float) -> ir.Table:
    """The events with a column ``key``: events of one user and key are one session.

    given: column session. station: column station. user: all of a user's events. gap: a session ends where the next
    event starts more than ``gap_minutes`` after the end (time + duration) of the one before it.
    """
    columns = ["user", *ORDER]
    if rule == "given":
        return coded.select(*columns, key=coded.session)
    if rule == "station":
        return coded.select(*columns, key=coded.station)
    if rule == "user":
        return coded.select(*columns, key=ibis.literal(0, "int32"))
    end = coded.time + coded.duration.fill_null(0)
    before = end.lag().over(group_by="user", order_by=ORDER)
    pause = (coded.time - before > round(gap_minutes * MINUTE)).fill_null(False)
    starts = coded.select(*columns, starts=pause.cast("int64"))
    return starts.select(*columns, key=starts.starts.sum().over(group_by="user", order_by=ORDER, rows=(None, 0)))


def measured(events: ir.Table) -> ir.Table:
    """One row per session: user, key, start, and the number of events in it."""
    return events.group_by("user", "key").agg(start=events.time.min(), events=events.count())


def long_enough(sessions: ir.Table, min_session_events: int, min_user_events: int) -> tuple[ir.Table, ir.Table]:
    """Sessions with a column ``dropped``, and users with their events: first short sessions go, then users with few events.

    Returns:
      sessions: those of ``measured`` with dropped = 0 for kept, 1 for too short itself, 2 for the user's too few events.
      users: user, events (in sessions that are long enough), dropped (True if these are too few).
    """
    rest = sessions.filter(sessions.events >= min_session_events)
    users = rest.group_by("user").agg(events=rest.events.sum())
    users = users.mutate(dropped=users.events < min_user_events)
    few = users.filter(users.dropped).select("user", few=ibis.literal(True))
    sessions = sessions.left_join(few, "user").select(*sessions.columns, "few")
    return sessions.mutate(
        dropped=ibis.cases((sessions.events < min_session_events, 1), (sessions.few, 2), else_=0)
    ).drop("few"), users


def numbered(sessions: ir.Table) -> ir.Table:
    """Sessions with ``session``, their number in order of (user, start, key)."""
    return sessions.mutate(session=ibis.row_number().over(order_by=["user", "start", "key"]))


def cut_tail(sessions: ir.Table, test_share: float, valid_share: float) -> ir.Table:
    """Numbered sessions with ``train`` and ``valid``: events before the validation part, and before the test part.

    The end of each user's history is held out: whole sessions if there are five or more, else events, two or more of
    them for the test. A user of fewer than five events is for training only.
    """
    own = {"group_by": "user", "order_by": "session"}
    sessions = sessions.mutate(
        place=ibis.row_number().over(**own),
        before=sessions.events.sum().over(**own, rows=(None, 0)) - sessions.events,  # events of earlier sessions
        total=sessions.events.sum().over(group_by="user"),
        whole=sessions.count().over(group_by="user") >= TAIL_LEAST,
        sessions=sessions.count().over(group_by="user"),
    )
    sessions = sessions.mutate(size=sessions.whole.ifelse(sessions.sessions, sessions.total))
    size = sessions.size
    test = _share(size, test_share, sessions.whole.ifelse(1, 2), size - 2)
    valid = _share(size, valid_share, 1, size - test - 1) if valid_share > 0 else ibis.literal(0)
    few = size < TAIL_LEAST
    sessions = sessions.mutate(test=few.ifelse(size, size - test), valid=few.ifelse(size, size - test - valid))

    def events_before(first: ir.Value) -> ir.Value:
        """Events of a session that precede the user's session, or event, number ``first``."""
        whole = (sessions.place < first).ifelse(sessions.events, 0)
        return sessions.whole.ifelse(whole, (first - sessions.before).clip(0, sessions.events)).cast("int64")

    return sessions.select(
        "user", "key", "session", train=events_before(sessions.valid), valid=events_before(sessions.test)
    )


def cut_last(sessions: ir.Table) -> ir.Table:
    """As ``cut_tail``: the last event of each session is for the test, the one before it for validation.

    Sessions of fewer than three events are for training only.
    """
    size = sessions.events
    return sessions.select(
        "user", "key", "session",
        train=(size >= 3).ifelse(size - 2, size).cast("int64"),
        valid=(size >= 3).ifelse(size - 1, size).cast("int64"),
    )  # fmt: skip


def _share(size: ir.Value, share: float, least: ir.Value | int, most: ir.Value) -> ir.Value:
    """The share of a size, rounded half up, not below ``least`` and, above all, not above ``most``."""
    part = (size.cast("float64") * share + 0.5).floor().cast("int64")
    return ibis.least(ibis.greatest(part, least), most)
