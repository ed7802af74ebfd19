"""``jaxneg simulate``: a log of simulated listeners, or an online test of exported models on them."""

import pathlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

import tyro

from jaxneg import progress
from jaxneg.cli import commands
from jaxneg.simulation.listeners import SimulateConfig

if TYPE_CHECKING:
    from jaxneg.cli.ab import AB


COMMON = (
    "--users",
    "--items",
    "--sessions",
    "--stations",
    "--artists",
    "--days",
    "--skip-rate",
    "--thumb-rate",
    "--seed",
)


@dataclass(frozen=True)
class Simulate:
    """Writes a log of simulated listeners, for jaxneg prepare table. Or tests exported models on them: jaxneg
    simulate --ab --help."""

    out: Annotated[pathlib.Path, commands.path("FILE")] = commands.REQUIRED
    """Log to write, .parquet or .csv; FILE.truth.npz beside it holds what the listeners like."""
    simulation: tyro.conf.OmitArgPrefixes[SimulateConfig] = field(default_factory=SimulateConfig)

    def run(self) -> None:
        from jaxneg.simulation import simulator

        with progress.Steps("simulate") as steps:
            simulator.write(simulator.simulate(self.simulation), self.out, steps)
        progress.say(f"{self.out}: next, jaxneg prepare table {self.out} --out STORE")


def parse(args: Sequence[str]) -> "Simulate | AB":
    if any(arg.partition("=")[0] == "--ab" for arg in args):
        from jaxneg.cli import ab

        return ab.parse(args)
    return commands.parsed(Simulate, args, "simulate", common=COMMON)
