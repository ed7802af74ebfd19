"""``jaxneg export``: a run is written for serving."""

import dataclasses
import pathlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal

import tyro

from jaxneg import files, progress
from jaxneg.cli import commands
from jaxneg.config import fields, rules
from jaxneg.errors import UserError
from jaxneg.files import addresses


@dataclass(frozen=True)
class Moved:
    """Where the data of a run is now."""

    store: Annotated[fields.Where, fields.option("STORE", "that of the run")] = ""
    """Prepared store, where it has moved since training."""


@dataclass(frozen=True)
class Export(commands.Joined):
    """Writes a run's best checkpoint for serving: StableHLO for CPU, CUDA and TPU, safetensors, item matrix, vocabulary
    and model card; on request ONNX, an index, layouts of Triton and KServe. Or checks an export against its run."""

    directory: tyro.conf.Positional[Annotated[pathlib.Path | None, fields.option("RUN", "or --check")]] = None
    """Run directory of jaxneg train."""
    out: Annotated[pathlib.Path | None, fields.option("DIR", "with RUN")] = None
    """Directory to write; must not exist yet."""
    formats: Annotated[tuple[str, ...], commands.several("FORMAT", "stablehlo safetensors")] = ()
    """What to write: stablehlo, onnx, safetensors, index, triton, kserve; also as one word with commas. Parameters are
    always written as safetensors, and triton and kserve are of onnx."""
    dtype: Literal["float32", "bfloat16", "int8"] = "float32"
    """Type of the item matrices; the best items that a smaller one keeps are counted."""
    index: Literal["faiss", "voyager", "usearch"] = "faiss"
    """Library of the index."""
    check: Annotated[pathlib.Path | None, fields.option("DIR", "or RUN")] = None
    """Export to check: checksums, and what each file answers beside its run. Exit code 2 where a file is missing or
    damaged, 1 where answers differ."""
    data: Moved = field(default_factory=Moved)

    def run(self) -> None:
        if self.check is not None:
            if self.directory or self.out:
                raise UserError(
                    "--check goes alone: jaxneg export --check DIR, or jaxneg export RUN --out DIR"
                )
            return _check(self.check)
        if self.directory is None or self.out is None:
            raise UserError(
                "export needs a run and --out: jaxneg export RUN --out DIR; --check DIR checks an export"
            )
        formats = tuple(part for word in self.formats for part in word.split(",") if part)
        from jaxneg.serve import export
        from jaxneg.training import agreement, processes, runs

        self.join()
        if processes.many():  # all see one directory
            files.local(self.out, "--out")
        wanted = export.Wanted(formats or export.DEFAULT.formats, self.dtype, self.index, self.directory)
        export.check(wanted)
        config = commands.read_run(self.directory)
        if self.data.store:
            data = dataclasses.replace(config.data, store=self.data.store)
            config = rules.check(dataclasses.replace(config, data=data))
        directory = addresses.run(self.directory, "RUN")
        agreement.check(config)
        trained = runs.load(directory, config, shared=processes.many())
        agreement.check_run(trained)
        manifest = export.export(trained, self.out, wanted)
        if not processes.first():
            return
        for what, of in ((self.dtype, "ranking"), (f"the index by {self.index}", "index")):
            if found := manifest.get(of):
                kept = f"{found['recall']:.2%} of the best {found['k']}"
                progress.say(
                    f"jaxneg: {what} keeps {kept}, over {found['contexts']:,} {found['of']} contexts"
                )
        progress.say(
            f"{self.out}: {manifest['items']:,} items; next, jaxneg recommend {self.out} --items ID ID"
        )


def _check(directory: pathlib.Path) -> None:
    from jaxneg.serve import checking

    damaged, differs = [], []
    for found in checking.check(directory):
        word = "ok" if found.holds else "DAMAGED" if found.damaged else "DIFFERS"
        print(f"{word:8} {found.name}: {found.text}", flush=True)
        if not found.holds:
            (damaged if found.damaged else differs).append(found.name)
    if damaged:
        raise UserError(f"export {directory} is damaged: {', '.join(damaged)}: export again")
    if differs:
        progress.say(f"jaxneg: {directory} differs in {', '.join(differs)}: export again")
        sys.exit(1)


def parse(args: Sequence[str]) -> Export:
    return commands.parsed(Export, args, "export")
