"""Lists for everybody in a log, a group of listeners at a time: neither log nor lists are ever held as a whole."""

import itertools
import math
import pathlib
from collections.abc import Callable, Iterator, Sequence

import ibis.expr.types as ir
import pyarrow as pa
import pyarrow.parquet as pq

from jaxneg import files, progress
from jaxneg.data import engine
from jaxneg.serve.histories import Event
from jaxneg.serve.lists import Recommendations

TOGETHER = 1024  # listeners whose lists are made and written together
SCHEMA = pa.schema(
    [
        pa.field("user", pa.string(), nullable=False),
        pa.field("rank", pa.int32(), nullable=False),  # from 1
        pa.field("item", pa.string(), nullable=False),
        pa.field("score", pa.float32()),  # null in a list that is not the model's
        pa.field("fallback", pa.string()),  # null where it is
    ]
)
History = tuple[str, list[Event]]  # a user's, oldest event first


def histories(log: ir.Table) -> Iterator[History]:
    """The history of each user of an event log, in the order of their ids."""
    ordered = log.order_by("user", "time", "order").select("user", "item", "feedback", "station")
    rows = (
        row
        for batch in engine.stream(ordered)
        for row in zip(*(column.to_pylist() for column in batch.columns), strict=True)
    )
    for user, of_user in itertools.groupby(rows, key=lambda row: row[0]):
        yield user, [Event(item, feedback, station) for _, item, feedback, station in of_user]


def write(
    log: ir.Table,
    recommend_many: Callable[[Sequence[Sequence[Event]]], list[Recommendations]],
    out: pathlib.Path,
    on_progress: progress.OnProgress = progress.silent,
) -> tuple[int, int]:
    """Writes lists of all users as Parquet, whole or not at all: user, rank, item, score, fallback.

    Args:
      log: of events, as ``data.events`` has them.
      recommend_many: as of ``Scorer``, its settings filled in.
      out: file to write.
      on_progress: told of users.

    Returns: users, and how many of them got what is heard most.
    """
    total, done, without = engine.count(log.select("user").distinct()), 0, 0
    rest = histories(log)
    with files.whole(out) as partial, pq.ParquetWriter(partial, SCHEMA) as writer:
        while some := list(itertools.islice(rest, TOGETHER)):
            found = recommend_many([history for _, history in some])
            writer.write_table(_rows([user for user, _ in some], found))
            without += sum(one.fallback is not None for one in found)
            done += len(some)
            on_progress(done, total)
    return done, without


def _rows(users: Sequence[str], lists: Sequence[Recommendations]) -> pa.Table:
    sizes = [len(one) for one in lists]
    every = [one for each in lists for one in each]
    fallbacks = [[one.fallback] * size for one, size in zip(lists, sizes, strict=True)]
    columns: list[list[object]] = [
        list(itertools.chain.from_iterable([user] * size for user, size in zip(users, sizes, strict=True))),
        list(itertools.chain.from_iterable(range(1, size + 1) for size in sizes)),
        [one.item for one in every],
        [None if math.isnan(one.score) else one.score for one in every],
        list(itertools.chain.from_iterable(fallbacks)),
    ]
    return pa.table(
        [pa.array(column, kind.type) for column, kind in zip(columns, SCHEMA, strict=True)], SCHEMA
    )
