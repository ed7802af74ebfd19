"""What is in a store: a dict of plain numbers for scripts, and tables of it for people."""

import dataclasses
import datetime
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import rich.console
import rich.table
import rich.text

from jaxneg import errors
from jaxneg.data import opinions, stores
from jaxneg.data.shards import Events
from jaxneg.errors import UserError
from jaxneg.files import documents

CHUNK = 1 << 20  # numbers read at a time
BAR = 32  # characters of the longest bar


def describe(store: stores.Store) -> dict[str, Any]:
    """Everything that ``render`` shows, ready for JSON.

    ``rejections_also_liked`` is the share of the rejections in training of songs that the same listener also likes in
    training, None without any. Histograms have mean, max and bins, a list of {"from", "to", "count"} over ranges that
    double. Those of sessions and users count all events; all else about items and users is of the training window.
    """
    _check_told(store)
    first, last = _span(store.time_T)
    liked, disliked = _users_with(store)
    users = max(store.users, 1)
    count = store.vocabulary().count
    return {
        "path": errors.spoken(str(store.path)),
        **{name: value for name, value in dataclasses.asdict(store.metadata).items() if name != "files"},
        "bytes": sum(store.metadata.files.values()),
        "time": {"first": first, "last": last},
        "session_length": _histogram(_sizes(store.session_indptr)),
        "events_per_user": _histogram(_user_sizes(store)),
        "events_per_item": _histogram([count]),
        "share_of_top_items": {f"{share:.0%}": _top_share(count, share) for share in (0.01, 0.1)},
        "users_with_positives": float(liked.sum() / users),
        "users_with_negatives": float(disliked.sum() / users),
        "users_with_both": float((liked & disliked).sum() / users),
        "groups_with_negatives": _share_not_empty(store.negative_indptr),
        "rejections_also_liked": _finite(opinions.also_liked(store)),
    }


def render(described: dict[str, Any], console: rich.console.Console | None = None) -> None:
    """Prints what ``describe`` found."""
    console = console or rich.console.Console()
    counts = described["counts"]
    source = " ".join(part for part in (described["reader"], described["source"]) if part)
    console.print(rich.text.Text(f"{described['path']}  {_bytes(described['bytes'])}", style="bold"))
    facts = rich.table.Table.grid(padding=(0, 2))
    for name, value in {
        "from": source or "a table",
        "time": _times(described["time"], counts["out_of_order"]),
        "sessions by": _rule(described["settings"]),
        "held out by": _split(described["split"], described["time"]),
        "liked": ", ".join(kind for kind, sign in described["polarity"].items() if sign > 0),
        "disliked": ", ".join(kind for kind, sign in described["polarity"].items() if sign < 0) or "nothing",
        "holds": ", ".join(
            f"{counts[name]:,} {name}" for name in ("events", "items", "users", "stations", "sessions")
        ),
        "attributes": ", ".join(f"{a['name']} ({a['size']:,} values)" for a in described["attributes"])
        or "none",
        "sessions overlap": "yes: inputs stay within a session" if described["sessions_overlap"] else "no",
        "left out": _dropped(described["dropped"]),
    }.items():
        facts.add_row(name, rich.text.Text(value))
    console.print(facts)
    console.print(_feedback_table(described["feedback"]))
    for title, name in (
        ("Events per session", "session_length"),
        ("Events per user", "events_per_user"),
        ("Training events per item", "events_per_item"),
    ):
        console.print(_histogram_table(title, described[name]))
    top = described["share_of_top_items"]
    users = {name: described[f"users_with_{name}"] for name in ("positives", "negatives", "both")}
    for title, shares in (
        ("Share of training events", {f"on the top {name} of the items": top[name] for name in top}),
        ("Share of users with training", users),
        ("Share of (user, station) pairs with training", {"negatives": described["groups_with_negatives"]}),
        *_contested(described),
    ):
        parts = ", ".join(f"{name} {share:.1%}" for name, share in shares.items())
        console.print(rich.text.Text(f"{title}: {parts}"))


COUNTS = ("events", "items", "users", "stations", "sessions", "out_of_order")
RULES = {"time": {"valid_from": int, "test_from": int}, "tail": {"test_share": float, "valid_share": float}}


def _check_told(store: stores.Store) -> None:
    """Raises UserError unless the metadata holds what ``render`` takes from it; of old stores nothing else vouches."""
    told = store.metadata
    wanted: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
        ("counts", told.counts, dict.fromkeys(COUNTS, int)),
        ("settings", told.settings, {"session": str}),
        ("split", told.split, {"rule": str}),
        ("feedback", told.feedback, dict.fromkeys(stores.SPLITS, dict)),
    ]
    if told.settings.get("session") == "gap":
        wanted.append(("settings", told.settings, {"gap_minutes": float}))
    rule = told.split.get("rule")
    wanted.append(("split", told.split, RULES.get(rule, {}) if isinstance(rule, str) else {}))
    kinds = dict.fromkeys(told.feedback.get("train", {}), int)
    wanted += [(f"feedback.{split}", row, kinds) for split, row in told.feedback.items()]
    try:
        for where, values, shapes in wanted:
            for name, shape in shapes.items():
                if name not in values:
                    raise documents.Wrong(f"{where}.{name} is missing")
                documents.shaped(values[name], shape, f"{where}.{name}")
    except documents.Wrong as error:
        raise UserError(
            f"store {store.path} is damaged: metadata.json: {error}; run jaxneg prepare again"
        ) from error


def _feedback_table(feedback: dict[str, dict[str, int]]) -> rich.table.Table:
    table = rich.table.Table(title="Events by split and feedback", title_justify="left")
    kinds = [kind for kind in feedback["train"] if any(row[kind] for row in feedback.values())]
    table.add_column("split")
    for kind in [*kinds, "all"]:
        table.add_column(kind, justify="right")
    for split, row in feedback.items():
        table.add_row(split, *(f"{row[kind]:,}" for kind in kinds), f"{sum(row.values()):,}")
    return table


def _histogram_table(title: str, histogram: dict[str, Any]) -> rich.table.Table:
    about = f"{title}: mean {histogram['mean']:.1f}, most {histogram['max']:,}"
    table = rich.table.Table(title=about, title_justify="left", box=None, show_header=False, padding=(0, 1))
    table.add_column(justify="right", no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(no_wrap=True)
    longest = max((row["count"] for row in histogram["bins"]), default=1)
    for row in histogram["bins"]:
        size = f"{row['from']:,}" if row["from"] == row["to"] else f"{row['from']:,} to {row['to']:,}"
        bar = "█" * -(-BAR * row["count"] // longest)  # rounded up: what is there can be seen
        table.add_row(size, f"{row['count']:,}", bar)
    return table


def _histogram(sizes: Iterator[np.ndarray] | list[np.ndarray]) -> dict[str, Any]:
    """Counts of sizes in ranges that double: 0, 1, 2 to 3, 4 to 7, ..."""
    bins, total, number, most = np.zeros(65, np.int64), 0, 0, 0
    for size in sizes:
        # frexp gives the bit length exactly: 0 -> 0, 1 -> 1, 2 and 3 -> 2.
        bins += np.bincount(np.frexp(size.astype(np.float64))[1], minlength=65)
        total, number = total + int(size.sum()), number + len(size)
        most = max(most, int(size.max(initial=0)))
    rows = [
        {"from": (1 << k) >> 1, "to": (1 << k) - 1, "count": int(bins[k])}
        for k in range(int(bins.nonzero()[0].min(initial=most.bit_length())), most.bit_length() + 1)
    ]
    return {"mean": total / max(number, 1), "max": most, "bins": rows}


def _chunks(array: Events, overlap: int = 0) -> Iterator[np.ndarray]:
    for start in range(0, len(array) - overlap, CHUNK):
        yield np.asarray(array[start : start + CHUNK + overlap])


def _sizes(indptr: np.ndarray) -> Iterator[np.ndarray]:
    """Sizes of ranges, some at a time."""
    return (np.diff(part) for part in _chunks(indptr, overlap=1))


def _user_sizes(store: stores.Store) -> Iterator[np.ndarray]:
    """Events of each user, some users at a time."""
    return (np.diff(store.session_indptr[part]) for part in _chunks(store.user_indptr, overlap=1))


def _users_with(store: stores.Store) -> tuple[np.ndarray, np.ndarray]:
    """Per user, whether there are positives and negatives in training, bool [users]."""
    liked = np.diff(store.positive_indptr) > 0
    disliked = [
        np.diff(store.negative_indptr[part]) > 0 for part in _chunks(store.user_group_indptr, overlap=1)
    ]
    return liked, np.concatenate([np.zeros(0, bool), *disliked])


def _contested(described: dict[str, Any]) -> list[tuple[str, dict[str, float]]]:
    share = described["rejections_also_liked"]
    return (
        []
        if share is None
        else [("Share of training rejections of songs", {"that the listener likes too": share})]
    )


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _share_not_empty(indptr: np.ndarray) -> float:
    return sum(int((size > 0).sum()) for size in _sizes(indptr)) / max(len(indptr) - 1, 1)


def _top_share(count: np.ndarray, share: float) -> float:
    """Share of the events that the most frequent items have; counts come in descending order."""
    top = max(1, round(share * len(count)))
    return float(count[:top].sum() / max(count.sum(), 1))


def _span(time: Events) -> tuple[int, int]:
    parts = [(int(part.min()), int(part.max())) for part in _chunks(time)]
    return min(first for first, _ in parts), max(last for _, last in parts)


def _moment(time: int, span: dict[str, int]) -> str:
    """A date if the log has a clock, which shows in its ending after 1973; else the number."""
    if not 10**11 < span["last"] < 2 * 10**14:
        return f"{time:,}"
    return f"{datetime.datetime.fromtimestamp(time / 1000, datetime.UTC):%Y-%m-%d %H:%M}"


def _times(time: dict[str, int], out_of_order: int) -> str:
    note = f", {out_of_order:,} events were out of order" if out_of_order else ""
    return f"{_moment(time['first'], time)} to {_moment(time['last'], time)}{note}"


def _rule(settings: dict[str, Any]) -> str:
    pause = f", pauses above {settings['gap_minutes']:g} minutes" if settings["session"] == "gap" else ""
    return f"{settings['session']}{pause}"


def _split(split: dict[str, Any], span: dict[str, int]) -> str:
    if split["rule"] == "time":
        valid, test = _moment(split["valid_from"], span), _moment(split["test_from"], span)
        return f"time: validation from {valid}, test from {test}"
    if split["rule"] == "tail":
        shares = f"the last {split['test_share']:.0%} test, {split['valid_share']:.0%} before validation"
        return f"tail of each user: {shares}"
    return split["rule"]


def _dropped(dropped: dict[str, int]) -> str:
    return (
        ", ".join(
            f"{count:,} row{'s' * (count > 1)} ({name.removeprefix('left out: ')})"
            if name.startswith("left out: ")
            else f"{count:,} {name.replace('_', ' ')}"
            for name, count in dropped.items()
            if count
        )
        or "nothing"
    )


def _bytes(size: int) -> str:
    for power, unit in enumerate(("bytes", "kB", "MB")):
        if size < 1000 ** (power + 1):
            return f"{size / 1000**power:.3g} {unit}"
    return f"{size / 1000**3:,.1f} GB"
