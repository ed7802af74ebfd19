"""Events -> sessions, split, vocabulary, store.

The engine groups and sorts, out of core, and arrays are written from its streams, so memory does not grow
with the log. Ids become numbers first; in all that follows events are rows of integers. The order of steps:

    sessions    by the session rule, over all events
    minimums    short sessions go, then users with few events
    split       each event is for training, validation or test
    vocabulary  from training events only; items too rare or unseen in training go, with their events
"""

import contextlib
import dataclasses
import pathlib
from collections.abc import Iterator

import ibis
import ibis.expr.types as ir

from jaxneg import progress
from jaxneg.data import assembly, engine, events, prepare_config, stages
from jaxneg.data.metadata import Metadata
from jaxneg.data.prepare_config import PrepareConfig
from jaxneg.data.writer import StoreWriter
from jaxneg.errors import UserError


def prepare(
    log: ir.Table,
    out: str | pathlib.Path,
    settings: PrepareConfig,
    con: ibis.BaseBackend,
    *,
    reader: str = "",
    source: str = "",
    on_progress: progress.OnProgress = progress.silent,
) -> Metadata:
    """Writes the store ``out`` from a log in EVENT_SCHEMA and returns its metadata.

    The same log and settings give the same bytes. An older store at ``out`` is replaced once the new one is
    complete. Raises UserError, and leaves all as it was, where log and settings do not make a store.

    Args:
      con: the engine that ``log`` belongs to.
      reader: name of the source's format, for the metadata.
      source: where the log comes from, for the metadata and for messages.
      on_progress: told of each stage.
    """
    settings = prepare_config.check(settings)
    polarity = prepare_config.signs(settings)
    work = stages.Work(con, on_progress)
    with engine.reading(source or "the log"), StoreWriter(out) as store, work:
        raw = work.keep("read the log", "log", log)
        total = events.check_events(raw)
        left_out = events.left_out(raw)
        raw = events.kept(raw)
        with _telling(left_out):
            settings = stages.resolved(settings, raw, total)
            ids = {name: stages.numbered_ids(work, raw, name) for name in ("user", "item", "station")}
            attributes = stages.attributes_of_items(work, raw)
            coded = stages.coded_events(work, raw, ids, settings)
            work.drop("log")
            kept, numbered, dropped = stages.kept_events(work, coded, settings, total)
            parted, rule = stages.split_events(work, kept, numbered, settings)
            work.drop("coded", "keyed", "measured", "marked", "sessions", "cut")
            words, stations, missing = stages.vocabulary(work, parted, attributes, ids, settings)
            final = work.keep(
                "number items and stations", "final", stages.final_events(parted, words, stations)
            )
            work.drop("kept")
            stages.check_final(final, polarity, settings)
        written = assembly.assemble(
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
            Metadata(
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
