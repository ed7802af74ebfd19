"""``jaxneg evaluate``: a run is measured on held-out events, beside baselines."""

import json
import pathlib
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import tyro

from jaxneg import files, progress
from jaxneg.cli import commands
from jaxneg.config import fields
from jaxneg.files import addresses


@dataclass(frozen=True)
class Evaluate(commands.Joined, commands.Configured):
    """Measures a run's best checkpoint, and the baselines, on held-out events; writes report.html, .md and
    .json, and plots. Options not given are as in training; --data.store names a store that has moved."""

    PLACE: ClassVar[str] = "directory"
    COMMON: ClassVar[tuple[str, ...]] = (
        "--split",
        "--compare",
        "--baselines",
        "--json",
        "--data.store",
        "--eval.batch-size",
        "--eval.ks",
        "--eval.bootstrap",
        "--eval.exclude-seen",
    )

    directory: tyro.conf.Positional[Annotated[pathlib.Path, commands.path("RUN")]] = commands.REQUIRED
    """Run directory of jaxneg train."""
    split: Literal["test", "validation"] = "test"
    """Which held-out events; tune on validation."""
    compare: Annotated[tuple[fields.Where, ...], commands.several("OTHER", "none")] = ()
    """Further runs on the store, each measured as it would be alone."""
    baselines: Literal["usual", "all"] = "usual"
    """The usual ones, or also WRMF and BPR with their forms and a mean of several factorisations, in minutes."""
    json: commands.Flag = False
    """Print one JSON object."""

    def run(self) -> None:
        from jaxneg.training import processes

        self.join()
        if processes.many():  # all read one directory, and the first writes to it
            files.local(self.directory, "RUN")
        with addresses.held(self.directory, "RUN", "report") as directory:
            self._run(directory)

    def _run(self, directory: pathlib.Path) -> None:
        config = self.experiment
        from jaxneg.cli import endings
        from jaxneg.evaluation import report
        from jaxneg.training import agreement, processes, runs

        with progress.Steps("evaluate") as steps:
            agreement.check(config)
            trained = runs.load(directory, config, shared=True)
            agreement.check_run(trained)
            others = [addresses.run(other, "--compare") for other in self.compare]
            asked = report.Asked(self.split, others, self.baselines)
            on_progress = steps if processes.first() else progress.silent
            found = report.evaluate_run(trained, directory, asked, on_progress)
        if not processes.first():
            return
        if self.json:
            print(json.dumps(found))
            return
        progress.show_markdown((directory / "report.md").read_text(encoding="utf-8"))
        progress.say(endings.evaluated(directory, found))
        progress.say(endings.then(f"jaxneg export {shlex.quote(str(directory))} --out DIR"))


def parse(args: Sequence[str]) -> Evaluate:
    return commands.with_config(Evaluate, args, "evaluate", commands.read_run)
