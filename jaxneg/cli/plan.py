"""``jaxneg plan``: what training takes on TPUs and GPUs that are not here."""

import json
import pathlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import tyro

from jaxneg import progress
from jaxneg.cli import commands
from jaxneg.config import fields
from jaxneg.errors import UserError


@dataclass(frozen=True)
class Plan(commands.Configured):
    """Compiles the training step for a TPU slice that is not here, or reckons it for GPUs, and says whether it fits,
    what it sends, how long it takes, between which ends, what bounds it and what it costs: estimates, nothing runs.
    Every field of CONFIG is an option."""

    PLACE: ClassVar[str] = "config"
    COMMON: ClassVar[tuple[str, ...]] = (
        "--topology",
        "--per-chip",
        "--items",
        "--stations",
        "--attributes",
        "--sequences",
        "--tries",
        "--advise",
        "--price",
        "--json",
        "--data.store",
        "--data.batch-size",
        "--model.width",
        "--optim.rows",
        "--train.shards",
    )

    config: tyro.conf.Positional[Annotated[pathlib.Path, commands.path("CONFIG")]] = commands.REQUIRED
    """Python file with get_config() -> Config."""
    topology: tyro.conf.UseAppendAction[
        Annotated[tuple[str, ...], fields.option("NAME", "one is needed")]
    ] = ()
    """Slice, as v5e:16x16, or GPUs, as h100:8 and h100:8x4 (of a host, hosts); give it again for more."""
    per_chip: fields.Natural = 0
    """Sequences a step on each chip; 0 takes --data.batch-size for the whole slice."""
    items: fields.Natural = 0
    """Songs of the catalogue; 0 takes songs, stations, attributes and sequences of --data.store."""
    stations: fields.Natural = 1
    """Stations, with --items."""
    attributes: Annotated[tuple[fields.Positive, ...], commands.several("SIZE", "none")] = ()
    """Values of each attribute of a track, with --items."""
    sequences: fields.Natural = 0
    """Training sequences of an epoch; 0 takes those of the store."""
    tries: fields.Natural = 4
    """Other settings to compile, at most, where it does not fit."""
    advise: fields.Natural = 0
    """Minutes, at most, for compiling changes that may be faster; 0 tries none."""
    price: Annotated[float, fields.Bounds(0.0, 1e6)] = 0.0
    """Of a chip and hour, in any money; 0 leaves out what an epoch costs."""
    json: commands.Flag = False
    """Print one JSON object."""

    def run(self) -> None:
        config = self.experiment
        if not self.topology:
            raise UserError("give a slice to plan for, as --topology v5e:16x16")
        from jaxneg.plan import advice, costs, estimate, places, printed
        from jaxneg.training import program

        found = places.places(self.topology)
        if self.items:
            catalogue = program.Catalogue(self.items, self.stations, self.attributes)
            epoch = costs.Epoch(self.sequences)
        else:
            catalogue, epoch = estimate.of_store(config)
            epoch = epoch._replace(sequences=self.sequences or epoch.sequences)
        plans = [
            advice.planned(
                estimate.per_chip(config, where, self.per_chip),
                catalogue,
                where,
                tries=self.tries,
                minutes=self.advise,
                epoch=epoch,
                price=self.price,
                say=progress.say,
            )
            for where in found
        ]
        if self.json:
            print(json.dumps({"schema": estimate.SCHEMA, "note": printed.NOTE, "plans": plans}))
        else:
            printed.render(plans)


def parse(args: Sequence[str]) -> Plan:
    return commands.with_config(Plan, args, "plan", commands.read_config)
