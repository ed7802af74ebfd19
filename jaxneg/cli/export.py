"""``jaxneg export``: a run is written for serving."""

import dataclasses
import pathlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated

import tyro

from jaxneg import progress
from jaxneg.cli import commands
from jaxneg.config import fields, rules


@dataclass(frozen=True)
class Moved:
    """Where the data of a run is now."""

    store: Annotated[fields.Where, fields.option("STORE", "that of the run")] = ""
    """Prepared store, where it has moved since training."""


@dataclass(frozen=True)
class Export:
    """Writes a run's best checkpoint for serving: StableHLO for CPU, CUDA and TPU, safetensors, item matrix,
    vocabulary."""

    directory: tyro.conf.Positional[Annotated[pathlib.Path, commands.path("RUN")]] = commands.REQUIRED
    """Run directory of jaxneg train."""
    out: Annotated[pathlib.Path, commands.path("DIR")] = commands.REQUIRED
    """Directory to write; must not exist yet."""
    data: Moved = field(default_factory=Moved)

    def run(self) -> None:
        config = commands.read_run(self.directory)
        if self.data.store:
            data = dataclasses.replace(config.data, store=self.data.store)
            config = rules.check(dataclasses.replace(config, data=data))
        from jaxneg.serve import export
        from jaxneg.training import runs

        manifest = export.export(runs.load(self.directory, config), self.out)
        progress.say(
            f"{self.out}: {manifest['items']:,} items; next, jaxneg recommend {self.out} --items ID ID"
        )


def parse(args: Sequence[str]) -> Export:
    return commands.parsed(Export, args, "export")
