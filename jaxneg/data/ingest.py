"""From a log as it is published to a store: a reader, an engine and a place for what memory cannot hold, together."""

import os
import pathlib
from typing import Any

from jaxneg import errors, files, progress
from jaxneg.data import engine, prepare, readers
from jaxneg.data.metadata import Metadata
from jaxneg.data.prepare_config import PrepareConfig
from jaxneg.data.writer import StoreWriter
from jaxneg.errors import UserError
from jaxneg.files import addresses


def ingest(
    reader: str,
    source: pathlib.Path,
    options: Any,
    out: pathlib.Path,
    settings: PrepareConfig,
    *,
    spoken: str = "",
    on_progress: progress.OnProgress = progress.silent,
) -> Metadata:
    """Reads a log into a store, whole or not at all; returns what the store says of itself.

    Args:
      reader: a name in ``readers.READERS``.
      source: file, or directory as published.
      options: of the reader.
      out: the store; one that is there is replaced once the new one is whole.
      settings: how the log is prepared.
      spoken: the source as the store remembers it; its path unless given.
      on_progress: told of each stage.

    Raises UserError where log and settings do not make a store.
    """
    try:
        os.path.abspath(out).encode()
    except UnicodeEncodeError as error:  # which the engine's place for scratch files would have to be
        raise UserError(f"--out {str(out)!r} must be a path in UTF-8: choose another place") from error
    path = addresses.local(source, "SOURCE")
    if not path.exists():
        raise UserError(f"no such file or directory: {source}")
    with addresses.written(out, "--out", addresses.STORE, replaces=True) as target:
        return _ingest(reader, path, options, target, settings, spoken or str(source), on_progress)


def _ingest(
    reader: str,
    source: pathlib.Path,
    options: Any,
    out: pathlib.Path,
    settings: PrepareConfig,
    spoken: str,
    on_progress: progress.OnProgress,
) -> Metadata:
    place = StoreWriter(out)
    with engine.reading(source), files.unfinished(place.path):
        # What memory cannot hold goes where the store is written, and away with its other scratch files.
        con = engine.connect(settings.memory_limit, temp_dir=place.scratch / "spill", engine=settings.engine)
        return prepare.prepare(
            readers.READERS[reader].read(con, source, options),
            out,
            settings,
            con,
            reader=reader,
            source=errors.spoken(spoken),
            on_progress=on_progress,
        )
