"""Which events are for training, validation and test.

time        training before one time, test from another on, validation between
tail        the end of each user's history is held out
leave-last  the last two events of each session are held out
"""

# ibis types its expressions at run time.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false
# pyright: reportCallIssue=false, reportOperatorIssue=false

import datetime

import ibis
import ibis.expr.types as ir
import numpy as np

from jaxneg.data import engine
from jaxneg.errors import UserError

TAIL_LEAST = 5  # events, or sessions, that a user needs to have a tail
BUCKETS = 1 << 16  # of the histogram that finds a quantile of time


def cut_tail(sessions: ir.Table, test_share: float, valid_share: float) -> ir.Table:
    """Numbered sessions with ``train`` and ``valid``: their events before validation, and before the test.

    The end of each user's history is held out: whole sessions if there are five or more, else events, two or
    more of them for the test. A user of fewer than five events is for training only.
    """
    own = {"group_by": "user", "order_by": "session"}
    sessions = sessions.mutate(
        place=ibis.row_number().over(**own),
        before=sessions.events.sum().over(**own, rows=(None, 0)) - sessions.events,
        total=sessions.events.sum().over(group_by="user"),
        sessions=sessions.count().over(group_by="user"),
    )
    sessions = sessions.mutate(whole=sessions.sessions >= TAIL_LEAST)
    sessions = sessions.mutate(size=sessions.whole.ifelse(sessions.sessions, sessions.total))
    size = sessions.size
    test = _share(size, test_share, sessions.whole.ifelse(1, 2), size - 2)
    valid = _share(size, valid_share, 1, size - test - 1) if valid_share > 0 else ibis.literal(0)
    few = size < TAIL_LEAST
    sessions = sessions.mutate(
        test=few.ifelse(size, size - test), valid=few.ifelse(size, size - test - valid)
    )

    def events_before(first: ir.Value) -> ir.Value:
        """Events of a session that precede the user's session, or event, number ``first``."""
        whole = (sessions.place < first).ifelse(sessions.events, 0)
        return sessions.whole.ifelse(whole, (first - sessions.before).clip(0, sessions.events)).cast("int64")

    return sessions.select("session", train=events_before(sessions.valid), valid=events_before(sessions.test))


def cut_last(sessions: ir.Table) -> ir.Table:
    """As ``cut_tail``: the last event of each session is for the test, the one before it for validation.

    Sessions of fewer than three events are for training only.
    """
    size, long = sessions.events, sessions.events >= 3
    return sessions.select(
        "session",
        train=long.ifelse(size - 2, size).cast("int64"),
        valid=long.ifelse(size - 1, size).cast("int64"),
    )


def _share(size: ir.Value, share: float, least: ir.Value | int, most: ir.Value) -> ir.Value:
    """The share of a size, rounded half up, not below ``least`` and, above all, not above ``most``."""
    part = (size.cast("float64") * share + 0.5).floor().cast("int64")
    return ibis.least(ibis.greatest(part, least), most)


def cut_time(events: ir.Table, test_from: str | None, valid_from: str | None) -> tuple[int, int]:
    """Times at which validation and test start. By default 80% of the events precede both, 90% the test.

    Raises UserError if training or test would be empty.
    """
    table = events.agg(first=events.time.min(), last=events.time.max(), events=events.count())
    [span] = engine.fetch(table).to_pylist()
    log = f"the log runs from {_spoken(span['first'], span)} to {_spoken(span['last'], span)}"
    test = moment("test_from", test_from)
    if test is None:
        test = order_statistic(events, span["first"], span["last"], span["events"] * 9 // 10)
    elif test > span["last"]:
        raise UserError(f"no event is left for the test: --test-from is {_spoken(test, span)}, and {log}")
    early = events.filter(events.time < test)
    before = engine.fetch(early.agg(events=early.count()))["events"][0].as_py()
    if before == 0:
        raise UserError(
            f"no event is left for training: the test starts at {_spoken(test, span)}, and {log}: "
            "give a later --test-from, or use --split tail"
        )
    valid = moment("valid_from", valid_from)
    if valid is None:
        valid = order_statistic(events, span["first"], span["last"], before * 8 // 9)
    if valid <= span["first"]:
        raise UserError(
            f"no event is left for training: validation starts at {_spoken(valid, span)}, and {log}: "
            "give a later --valid-from, or use --split tail"
        )
    if valid > test:
        raise UserError(
            f"--valid-from {_spoken(valid, span)} is after the test's start {_spoken(test, span)}"
        )
    return valid, test


def order_statistic(events: ir.Table, low: int, high: int, index: int) -> int:
    """The time at place ``index`` of the sorted times, all in [low, high].

    Exact, by histograms that get finer, so in bounded memory.
    """
    below = 0
    while low < high:
        width = (high - low) // BUCKETS + 1
        inside = events.filter((events.time >= low) & (events.time <= high))
        counts = inside.group_by(bucket=((inside.time - low) // width).cast("int64")).agg(
            events=inside.count()
        )
        counts = engine.fetch(counts.order_by("bucket"))
        upto = below + np.cumsum(counts["events"].to_numpy())
        at = int(np.searchsorted(upto, index, side="right"))
        below = int(upto[at - 1]) if at else below
        low += counts["bucket"][at].as_py() * width
        high = min(low + width - 1, high)
    return low


def moment(name: str, text: str | None) -> int | None:
    """Milliseconds since the epoch of an ISO date, UTC unless it says otherwise; a whole number as it is."""
    if text is None:
        return None
    try:
        number = int(text)
    except ValueError:
        number = None
    if number is not None:
        if abs(number) >= 1 << 62:
            raise UserError(f"--{name.replace('_', '-')} must be below 2^62, got {text[:40]}")
        return number
    try:
        time = datetime.datetime.fromisoformat(text)
    except ValueError as error:
        option = f"--{name.replace('_', '-')}"
        raise UserError(
            f"{option} must be a date such as 2024-02-01, or a whole number, got {text}"
        ) from error
    if time.tzinfo is None:
        time = time.replace(tzinfo=datetime.UTC)
    return (time - datetime.datetime.fromtimestamp(0, datetime.UTC)) // datetime.timedelta(milliseconds=1)


def _spoken(time: int, span: dict[str, int]) -> str:
    """A date if the log has a clock, which shows in its ending after 1973; else the number."""
    if not (span["last"] > 10**11 and 0 <= time < 2 * 10**14):
        return str(time)
    return f"{datetime.datetime.fromtimestamp(time / 1000, datetime.UTC):%Y-%m-%d %H:%M:%S}"
