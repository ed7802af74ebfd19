"""``jaxneg simulate --ab``: an online test of exported models on simulated listeners."""

import pathlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated

import tyro

from jaxneg import progress
from jaxneg.cli import commands
from jaxneg.config import fields, options
from jaxneg.simulation import ab_test


@dataclass(frozen=True)
class AB:
    """Tests models as online: each chooses songs for the simulated listeners in the week after their log, beside a
    control without negative feedback, random choice and an oracle."""

    ab: Annotated[tuple[fields.Where, ...], commands.several("EXPORT")] = commands.REQUIRED
    """Directories that jaxneg export wrote, of models trained on the log's store."""
    truth: Annotated[pathlib.Path, commands.path("FILE.truth.npz")] = commands.REQUIRED
    """What jaxneg simulate left beside its log."""
    store: Annotated[pathlib.Path, commands.path("STORE")] = commands.REQUIRED
    """Store of that log; the control is fitted to its training events."""
    out: Annotated[pathlib.Path, commands.path("DIR")] = commands.REQUIRED
    """Directory to write ab.md and ab.json to; must not exist yet."""
    config: tyro.conf.OmitArgPrefixes[ab_test.ABConfig] = field(default_factory=ab_test.ABConfig)

    def run(self) -> None:
        with progress.Steps("simulate --ab") as steps:
            exports = [pathlib.Path(export) for export in self.ab]
            ab_test.ab(exports, self.truth, self.store, self.out, self.config, steps)
        progress.show_markdown((self.out / "ab.md").read_text(encoding="utf-8"))
        progress.say(f"{self.out / 'ab.md'}: this report, and ab.json beside it")


def parse(args: Sequence[str]) -> AB:
    asked = [arg for arg in args if arg != "--ab"] if set(options.HELP) & set(args) else args
    return commands.parsed(AB, asked, "simulate")
