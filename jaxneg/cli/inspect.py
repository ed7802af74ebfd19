"""``jaxneg inspect``: what is in a store."""

import json
import pathlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import tyro

from jaxneg import progress
from jaxneg.cli import commands


@dataclass(frozen=True)
class Inspect:
    """Shows what is in a store."""

    store: tyro.conf.Positional[Annotated[pathlib.Path, commands.path("STORE")]] = commands.REQUIRED
    """Store that jaxneg prepare wrote."""
    json: commands.Flag = False
    """Print one JSON object instead of tables."""
    verify: commands.Flag = False
    """Read all of it first, and compare the checksums and numbers of every file."""

    def run(self) -> None:
        from jaxneg.data import describe, stores

        store = stores.Store.open(self.store)
        files = 0
        if self.verify:
            with progress.Steps("inspect") as steps:
                files = store.verify(
                    lambda done, total, file: steps(done >> 20, total >> 20, stage=f"MB of {file}")
                )
        described = describe.describe(store)
        if self.verify:  # not before all of it was read
            progress.say(f"{self.store}: all {files} files are as they were written")
        if self.json:
            print(json.dumps(described))
        else:
            describe.render(described)


def parse(args: Sequence[str]) -> Inspect:
    return commands.parsed(Inspect, args, "inspect")
