"""``jaxneg sweep``: a grid of options is trained and measured over seeds."""

import dataclasses
import pathlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import tyro

from jaxneg import progress
from jaxneg.cli import commands
from jaxneg.config import fields
from jaxneg.errors import UserError
from jaxneg.files import addresses


@dataclass(frozen=True)
class Sweep(commands.Configured):
    """Trains and measures a grid of options, each with several seeds, and writes one table with plots; or continues
    it. The grid is that of get_sweep() in CONFIG and of --set; other options hold for all cells."""

    PLACE: ClassVar[str] = "config"
    COMMON: ClassVar[tuple[str, ...]] = (
        "--jobs",
        "--seeds",
        "--set",
        "--split",
        "--baselines",
        "--data.store",
        "--train.epochs",
        "--train.patience",
        "--train.monitor",
    )

    config: tyro.conf.Positional[Annotated[pathlib.Path, commands.path("CONFIG")]] = commands.REQUIRED
    """Python file with get_config() -> Config, and get_sweep() -> Sweep."""
    workdir: Annotated[pathlib.Path, commands.path("SWEEP")] = commands.REQUIRED
    """Directory of the sweep: made if new, continued if not."""
    jobs: Annotated[int, fields.Bounds(0, 4096)] = 0
    """Cells at the same time; 0 takes one per core, or per GPU."""
    seeds: Annotated[int, fields.Bounds(0, 10_000)] = 0
    """Seeds of each cell; 0 takes those of get_sweep(), else 3."""
    set: tyro.conf.UseAppendAction[Annotated[tuple[str, ...], fields.option("NAME=V1,V2,...", "none")]] = ()
    """An axis of the grid, as data.p-hard=0,0.4; give it again for more axes."""
    split: Literal["test", "validation"] = "test"
    """Which held-out events; tune on validation."""
    baselines: commands.Flag = False
    """Measure the baselines on the same events."""

    def run(self) -> None:
        config = self.experiment
        from jaxneg.cli import endings
        from jaxneg.data import stores
        from jaxneg.sweep import grids, runner

        spec = grids.with_axes(grids.load(addresses.local(self.config, "CONFIG")), self.set)
        spec = dataclasses.replace(spec, seeds=self.seeds or spec.seeds)
        grids.refuse_swept(commands.read_config(self.config), config, spec)
        store = stores.named(f"{self.config} or --data.store says so")
        with store, progress.Steps("sweep") as steps:
            table = runner.sweep(
                config,
                spec,
                self.workdir,
                jobs=self.jobs,
                split=self.split,
                baselines=self.baselines,
                on_progress=steps,
                say=progress.say,
            )
        progress.say(endings.swept(self.workdir, table))
        if failed := runner.failures(table):
            raise UserError(
                f"{len(failed)} failed ({'; '.join(failed)}): the same command tries them again, and no others"
            )


def parse(args: Sequence[str]) -> Sweep:
    return commands.with_config(Sweep, args, "sweep", commands.read_config)
