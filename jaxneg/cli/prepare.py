"""``jaxneg prepare``: a log of listening becomes a store."""

import dataclasses
import math
import pathlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Generic, TypeVar

import tyro

from jaxneg import errors, progress
from jaxneg.cli import commands, endings
from jaxneg.config import fields
from jaxneg.data import ingest, opinions, prepare_config, readers, stores
from jaxneg.data.metadata import Metadata
from jaxneg.data.prepare_config import PrepareConfig
from jaxneg.errors import UserError

O = TypeVar("O")  # options of a reader

COMMON = ("--session", "--gap-minutes", "--polarity", "--split", "--test-from")
# Of a reader with more options than a screen holds.
OWN = {"table": ("--user", "--item", "--time", "--feedback", "--values", "--attributes", "--session-id")}


@dataclass(frozen=True)
class Prepare(Generic[O]):
    """Prepares a store from a log."""

    source: tyro.conf.Positional[Annotated[pathlib.Path, commands.path("SOURCE")]] = commands.REQUIRED
    """File, or directory as published."""
    out: Annotated[pathlib.Path, commands.path("STORE")] = commands.REQUIRED
    """Store to write; one that is there is replaced once the new one is whole."""
    reader: tyro.conf.OmitArgPrefixes[O] = commands.REQUIRED
    settings: tyro.conf.OmitArgPrefixes[PrepareConfig] = commands.REQUIRED
    name: tyro.conf.Suppress[str] = ""

    def run(self) -> None:
        with progress.Steps("prepare") as steps:
            metadata = ingest.ingest(
                self.name, self.source, self.reader, self.out, self.settings, on_progress=steps
            )
        self._say(metadata)

    def _say(self, metadata: Metadata) -> None:
        for name, count in metadata.dropped.items():
            if name.startswith("left out: ") and count:
                progress.say(f"jaxneg: {count:,} row{'s' * (count > 1)} {name}")
        liked = opinions.also_liked(stores.Store.open(self.out))
        if math.isfinite(liked):
            progress.say(
                f"{self.out}: {liked:.1%} of the rejections in training are of songs that their listener likes too; "
                "--data.hard-opinion says what counts of them"
            )
        progress.say(endings.prepared(self.out, metadata))


@dataclass(frozen=True)
class Readers:
    """What ``jaxneg prepare`` says without a reader."""

    def run(self) -> None:
        print("usage: jaxneg prepare READER SOURCE --out STORE [OPTIONS]\n")
        print(
            "Reads a log of listening into a store that training reads. "
            "SOURCE is a file, or the directory as published."
        )
        print("\nReaders:\n")
        for name, reader in readers.READERS.items():
            print(f"  {name:10} {reader.help}")
        print("\njaxneg prepare READER --help lists the options of that reader.")


def parse(args: Sequence[str]) -> "Prepare[object] | Readers":
    if not args or args[0] in ("-h", "--help", "--help-all"):
        return Readers()
    name, *others = args
    if name not in readers.READERS:
        raise UserError(errors.unknown("reader", name, readers.READERS))
    reader = readers.READERS[name]
    asked = commands.parsed(
        Prepare[reader.Options],
        others,
        f"prepare {name}",
        default=Prepare(
            reader=reader.Options(),
            settings=prepare_config.with_defaults(PrepareConfig(), **reader.settings),
            name=name,
        ),
        help=f"Prepares a store from {reader.help}.",
        common=(*OWN.get(name, _own(reader)), *COMMON),
    )
    # Options of a reader are of its own kind, which the annotation of the command cannot say.
    return dataclasses.replace(asked, reader=fields.settled(asked.reader))


def _own(reader: readers.Reader) -> tuple[str, ...]:
    return tuple(f"--{field.name.replace('_', '-')}" for field in dataclasses.fields(reader.Options))
