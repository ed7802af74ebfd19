"""Final tables -> the files of a store, written from streams of the engine.

Events come with integer columns session, user (a code), time, order, feedback, part, item, station (rows) and
the flag unseen (a station that is not in the vocabulary).
"""

# ibis types its expressions at run time.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false
# pyright: reportCallIssue=false, reportOperatorIssue=false

import os
import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Any, NamedTuple

import ibis
import ibis.expr.types as ir
import numpy as np
import pyarrow as pa

from jaxneg import progress
from jaxneg.batch import CODE, FEEDBACK
from jaxneg.data import engine, events, stores
from jaxneg.data.metadata import Sign
from jaxneg.data.writer import StoreWriter

# The part before the time, so that equal times cannot mix parts; columns after the order settle no real tie.
ORDER = ("session", "part", "time", "order", "item", "feedback", "station")


def assemble(
    writer: StoreWriter,
    final: ir.Table,
    words: ir.Table,
    stations: ir.Table,
    users: ir.Table,
    polarity: dict[str, Sign],
    *,
    shard_events: int,
    keep: Callable[[str, str, ir.Table], ir.Table],
    on_progress: progress.OnProgress,
) -> "Written":
    """Writes all files but the metadata, and returns what that has to say of them.

    Args:
      words: code, id, count, row and attributes of each item.
      stations: id and row of each station.
      users: code and id of users, in the order of ids.
      shard_events: most events of a shard, but for the rest of its last user.
      keep: (stage, name, table) -> the table, computed once.
      on_progress: told events written.
    """
    written = Written(writer, final, polarity, keep)
    written.catalogue(words, stations)
    written.users(users)
    written.sessions()
    written.events(shard_events, on_progress)
    written.index()
    return written


class Written:
    """A store in the making. Methods are called in order, as each needs what those before have found."""

    def __init__(
        self,
        writer: StoreWriter,
        final: ir.Table,
        polarity: dict[str, Sign],
        keep: Callable[[str, str, ir.Table], ir.Table],
    ):
        self._writer, self._final, self._keep = writer, final, keep
        self._polarity = polarity
        self._training = final.part == 0
        self._disliked = self._training & final.feedback.isin(_codes(polarity, -1))
        self._liked = self._training & final.feedback.isin(_codes(polarity, 1))
        self.counts: dict[str, int] = {}
        self.feedback: dict[str, dict[str, int]] = {}  # split -> kind -> events
        self.attributes: list[dict[str, Any]] = []
        self.sessions_overlap = False
        self.shards: list[int] = []  # first event of each, and the end; empty if there is one

    def catalogue(self, words: ir.Table, stations: ir.Table) -> None:
        """items.parquet, stations.parquet, attribute_K.parquet and attributes.npy."""
        names = events.attribute_names(words)
        text = [pa.field(name, pa.string()) for name in names]
        schema = pa.schema([("row", pa.int32()), ("item", pa.string()), ("count", pa.int64()), *text])
        table = words.select("row", "count", *names, item="id").select(*schema.names)
        self.counts["items"] = self._writer.table("items", schema, engine.stream(table.order_by("row")))
        schema = pa.schema([("row", pa.int32()), ("id", pa.string())])
        table = stations.select("row", "id").order_by("row")
        self.counts["stations"] = self._writer.table("stations", schema, engine.stream(table))
        coded = words.select("row", *names)
        for number, name in enumerate(names):
            coded = self._attribute(number, name, words, coded)
        column = self._writer.column("attribute_VA", width=len(names))
        column.append(np.zeros((1, len(names)), np.int32))
        for part in _stream(coded.order_by("row")):
            columns = [part[name] for name in names]
            column.append(np.stack(columns, 1) if names else np.zeros((len(part["row"]), 0)))

    def _attribute(self, number: int, name: str, words: ir.Table, coded: ir.Table) -> ir.Table:
        """Writes the values of an attribute, most frequent first; ``coded`` with their rows in its place.

        Table and file are named by its number: its own name is the user's, and may be anything.
        """
        known = words.filter(words[name].notnull())
        values = known.group_by(value=known[name]).agg(count=known["count"].sum())
        row = ibis.row_number().over(order_by=[ibis.desc("count"), ibis.asc("value")]) + 1
        values = self._keep(
            "number attributes", f"values{number}", values.select("value", code=row.cast("int32"))
        )
        schema = pa.schema([("row", pa.int32()), ("value", pa.string())])
        table = values.select("value", row="code").select("row", "value").order_by("row")
        size = self._writer.table(f"{events.ATTRIBUTE}{number}", schema, engine.stream(table))
        self.attributes.append({"name": name.removeprefix(events.ATTRIBUTE), "size": size})
        joined = coded.left_join(values, [(name, "value")])
        return joined.mutate(**{name: joined.code.fill_null(0)}).drop("code", "value")

    def users(self, users: ir.Table) -> None:
        """users.parquet, and the groups of users with the ranges of their negatives."""
        groups = self._final.group_by("user", "station").agg(negatives=self._disliked.sum().cast("int64"))
        groups = self._keep("group the stations of users", "groups", groups)
        present = users.semi_join(groups, [("code", "user")]).select("code", "id").order_by("code")
        schema = pa.schema([("row", pa.int32()), ("id", pa.string())])
        codes = [np.zeros(0, np.int32)]

        def numbered() -> Iterator[pa.RecordBatch]:
            first = 0
            for batch in engine.stream(present):
                row = pa.array(np.arange(first, first + len(batch), dtype=np.int32))
                codes.append(batch["code"].to_numpy())
                first += len(batch)
                yield pa.RecordBatch.from_arrays([row, batch["id"]], schema=schema)

        self.counts["users"] = self._writer.table("users", schema, numbered())
        self._user_code = np.concatenate(codes)  # ascending
        key, indptr = (
            self._writer.scratch_column("group_key", np.int64),
            self._writer.column("negative_indptr"),
        )
        per_user, negatives = _PerUser(self.counts["users"]), 0
        indptr.append([0])
        for part in _stream(groups.order_by("user", "station")):
            user = self._user_rows(part["user"])
            per_user.add(user)
            key.append(self._group_keys(user, part["station"]))
            indptr.append(negatives + np.cumsum(part["negatives"]))
            negatives += int(part["negatives"].sum())
        key.close()
        self._group_key = np.load(key.path, mmap_mode="r")  # ascending
        self.counts["groups"] = key.length
        self._writer.column("user_group_indptr").append(per_user.indptr())

    def _user_rows(self, code: np.ndarray) -> np.ndarray:
        return np.searchsorted(self._user_code, code)

    def _group_keys(self, user: np.ndarray, station: np.ndarray) -> np.ndarray:
        return user.astype(np.int64) * (self.counts["stations"] + 1) + station

    def sessions(self) -> None:
        """Ranges of sessions, of their parts and of users; whether sessions overlap."""
        final = self._final
        spans = final.group_by("session").agg(
            user=final.user.min(),
            start=final.time.min(),
            end=final.time.max(),
            events=final.count(),
            train=(final.part == 0).sum().cast("int64"),
            valid=(final.part == 1).sum().cast("int64"),
        )
        spans = self._keep("order sessions", "spans", spans)
        self.sessions_overlap = _overlap(spans)
        indptr, owner = self._writer.column("session_indptr"), self._writer.column("session_user")
        train_end, valid_end = (
            self._writer.column("session_train_end"),
            self._writer.column("session_valid_end"),
        )
        per_user, position = _PerUser(self.counts["users"]), 0
        indptr.append([0])
        for part in _stream(spans.order_by("session")):
            end = position + np.cumsum(part["events"])
            train = end - part["events"] + part["train"]
            user = self._user_rows(part["user"])
            per_user.add(user)
            indptr.append(end)
            owner.append(user)
            train_end.append(train)
            valid_end.append(train + part["valid"])
            position = int(end[-1])
        self.counts |= {"sessions": owner.length, "events": position}
        self._user_indptr = per_user.indptr()
        self._writer.column("user_indptr").append(self._user_indptr)
        indptr.close()
        self._session_indptr = np.load(indptr.path, mmap_mode="r")

    def events(self, shard_events: int, on_progress: progress.OnProgress) -> None:
        """The columns of events, in the store's order, a shard per thread; counted on the way."""
        total = self.counts["events"]
        number = -(-total // shard_events)
        end_U = self._session_indptr[self._user_indptr[1:]]
        cut = np.searchsorted(end_U, np.arange(1, number) * total // number) + 1  # behind whole users
        cut = self._user_indptr[np.unique([0, *cut, self.counts["users"]])]  # sessions at which shards begin
        shards = len(cut) - 1
        if shards > 1:
            self.shards = [int(event) for event in self._session_indptr[cut]]
        done, lock = [0], threading.Lock()

        def advance(events: int) -> None:
            with lock:
                done[0] += events
                on_progress(done[0], total, stage="write events")

        advance(0)
        with futures.ThreadPoolExecutor(min(shards, os.cpu_count() or 1)) as pool:
            jobs = [
                pool.submit(self._shard, k, shards, int(cut[k]), int(cut[k + 1]), advance)
                for k in range(shards)
            ]
            try:
                found = [job.result() for job in futures.as_completed(jobs)]
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        counts = np.sum([part.counts for part in found], axis=0)
        self.counts |= {
            "out_of_order": sum(part.unordered for part in found),
            "stations_unseen": sum(part.unseen for part in found),
        }
        for k, split in enumerate(stores.SPLITS):
            self.feedback[split] = {kind: int(counts[k, CODE[kind]]) for kind in self._polarity}

    def _shard(self, k: int, shards: int, first: int, end: int, advance: Callable[[int], None]) -> "_Counted":
        """Writes the events of the sessions [first, end)."""
        names = ("item", "feedback", "station", "time", "group")
        columns = {name: self._writer.column(f"{name}_T", shard=k, shards=shards) for name in names}
        final, apart = self._final, {}
        if shards > 1:
            apart = {"apart": True}  # shards are read at the same time
            final = final.filter((final.session >= first) & (final.session < end))
        counts = np.zeros((len(stores.SPLITS), len(FEEDBACK)), np.int64)
        unordered = unseen = 0
        session = order = np.zeros(0, np.int64)
        for part in _stream(final.order_by(*ORDER), **apart):
            key = self._group_keys(self._user_rows(part["user"]), part["station"])
            part["group"] = np.searchsorted(self._group_key, key)
            for name, column in columns.items():
                column.append(part[name])
            np.add.at(counts, (part["part"], part["feedback"]), 1)
            # Behind the last event of the batch before.
            session = np.concatenate([session[-1:], part["session"]])
            order = np.concatenate([order[-1:], part["order"]])
            unordered += int(((session[1:] == session[:-1]) & (order[1:] < order[:-1])).sum())
            unseen += int(part["unseen"].sum())
            advance(len(key))
        for column in columns.values():
            column.close()
        return _Counted(counts, unordered, unseen)

    def index(self) -> None:
        """Negatives by group and positives by user, from the training window."""
        negative = self._final.filter(self._disliked)
        negative = negative.order_by("user", "station", "time", "order", "item", "feedback").select("item")
        column = self._writer.column("negative_item")
        for part in _stream(negative):
            column.append(part["item"])
        self.counts["negatives"] = column.length
        # Not ibis' distinct, which in Spark takes all columns to count.
        positive = self._final.filter(self._liked).group_by("user", "item").agg(events=ibis._.count())
        positive = positive.select("user", "item")
        column, per_user = self._writer.column("positive_item"), _PerUser(self.counts["users"])
        for part in _stream(positive.order_by("user", "item")):
            column.append(part["item"])
            per_user.add(self._user_rows(part["user"]))
        self.counts["positives"] = column.length
        self._writer.column("positive_indptr").append(per_user.indptr())


class _Counted(NamedTuple):
    """What was met while the events of a shard were written."""

    counts: np.ndarray  # int64 [splits, feedback codes]
    unordered: int
    unseen: int


class _PerUser:
    """Counts, by user, rows that come ordered by user, and turns them into ranges."""

    def __init__(self, users: int):
        self._count = np.zeros(users, np.int64)

    def add(self, user: np.ndarray) -> None:
        count = np.bincount(user - user[0])
        self._count[user[0] : user[0] + len(count)] += count

    def indptr(self) -> np.ndarray:
        return np.concatenate([[0], np.cumsum(self._count)])


def _stream(table: ir.Table, **options: Any) -> Iterator[dict[str, np.ndarray]]:
    """The columns of a table of numbers, some rows, but never none, at a time."""
    for batch in engine.stream(table, **options):
        if len(batch):
            yield {name: batch[name].to_numpy(zero_copy_only=False) for name in batch.schema.names}


def _overlap(spans: ir.Table) -> bool:
    """True if any session starts before one of the same user that started earlier has ended."""
    own = {"group_by": "user", "order_by": "session"}
    spans = spans.mutate(until=spans.end.max().over(**own, rows=(None, 0)))
    spans = spans.mutate(overlaps=spans.start < spans.until.lag().over(**own))
    overlaps = spans.agg(any=spans.overlaps.fill_null(False).any())
    return bool(engine.fetch(overlaps)["any"][0].as_py())


def _codes(polarity: dict[str, Sign], sign: int) -> list[int]:
    return [CODE[kind] for kind, value in polarity.items() if value == sign]
