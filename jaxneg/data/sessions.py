"""Which session an event belongs to, and which sessions and users are long enough.

Expressions over coded events: integer columns user, item, station, time, order, feedback.
"""

# ibis types its expressions at run time.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false
# pyright: reportCallIssue=false, reportOperatorIssue=false

import ibis
import ibis.expr.types as ir

# Of events within a session. The last three only settle what the first two should have.
ORDER = ("time", "order", "item", "feedback", "station")
MINUTE = 60_000  # milliseconds


def keyed(coded: ir.Table, rule: str, gap_minutes: float) -> ir.Table:
    """The events with a column ``key``: events of one user and key are one session.

    given: column session. station: column station. user: all of a user's events. gap: a session ends where
    the next event starts more than ``gap_minutes`` after the end (time + duration) of the one before it.
    """
    columns = ["user", *ORDER]
    if rule == "given":
        return coded.select(*columns, key=coded.session)
    if rule == "station":
        return coded.select(*columns, key=coded.station)
    if rule == "user":
        return coded.select(*columns, key=ibis.literal(0, "int32"))
    end = (coded.time + coded.duration.fill_null(0)).lag().over(group_by="user", order_by=ORDER)
    pause = (coded.time - end > round(gap_minutes * MINUTE)).fill_null(False)
    starts = coded.select(*columns, starts=pause.cast("int64"))
    key = starts.starts.sum().over(group_by="user", order_by=ORDER, rows=(None, 0))
    return starts.select(*columns, key=key)


def measured(events: ir.Table) -> ir.Table:
    """One row per session: user, key, start, and the number of events in it."""
    return events.group_by("user", "key").agg(start=events.time.min(), events=events.count())


def long_enough(
    sessions: ir.Table, min_session_events: int, min_user_events: int
) -> tuple[ir.Table, ir.Table]:
    """First short sessions go, then users with few events.

    Returns:
      sessions: those of ``measured`` with ``dropped``: 0 kept, 1 too short, 2 the user has too few events.
      users: user, events (in sessions that are long enough), dropped (True if these are too few).
    """
    rest = sessions.filter(sessions.events >= min_session_events)
    users = rest.group_by("user").agg(events=rest.events.sum())
    users = users.mutate(dropped=users.events < min_user_events)
    few = users.filter(users.dropped).select("user", few=ibis.literal(True))
    joined = sessions.left_join(few, "user").select(*sessions.columns, "few")
    dropped = ibis.cases((joined.events < min_session_events, 1), (joined.few, 2), else_=0)
    return joined.mutate(dropped=dropped).drop("few"), users


def numbered(sessions: ir.Table) -> ir.Table:
    """Sessions with ``session``, their number in order of (user, start, key)."""
    return sessions.mutate(session=ibis.row_number().over(order_by=["user", "start", "key"]))
