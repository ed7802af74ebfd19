"""What stands in a sweep's directory: where its files are, and what they hold.

SWEEP/sweep.json                 what was asked for last
SWEEP/cells/<labels,seed>/       a run directory each, with figures_<split>.json once measured
SWEEP/failed/<labels,seed>.json  why a cell failed; the next call tries it again
SWEEP/baselines_<split>.json     with --baselines
SWEEP/table.json, .csv, .md, .html, plots/
"""

import pathlib
from typing import Any, TypedDict

from jaxneg import files
from jaxneg.errors import UserError
from jaxneg.files import documents
from jaxneg.sweep import tables
from jaxneg.training import records


def stands(path: pathlib.Path) -> bool:
    """Whether something was measured, by a version that kept whose example each is, and is as it was written."""
    try:
        return path.is_file() and bool(tables.load_values(path.with_suffix(".npz")))
    except UserError:
        return False


def figures_path(directory: pathlib.Path, split: str) -> pathlib.Path:
    return directory / f"figures_{split}.json"


def baselines_path(workdir: pathlib.Path, split: str) -> pathlib.Path:
    return workdir / f"baselines_{split}.json"


class Baselines(TypedDict):
    """What baselines_<split>.json holds."""

    catalogue: str
    config: dict[str, Any]
    baselines: dict[str, dict[str, Any]]


def figures(path: pathlib.Path) -> dict[str, Any]:
    """What a cell measured."""
    return documents.read(path, dict[str, Any], f"remove {path} to measure again")


def reason(path: pathlib.Path) -> str:
    """Why a cell failed."""
    return documents.read(path, records.Failure, "start the sweep again")["reason"]


def write_failure(workdir: pathlib.Path, name: str, reason: str, trace: str = "") -> None:
    path = records.failure_path(workdir, name)
    path.parent.mkdir(exist_ok=True)
    files.write_json(path, {"reason": reason, **({"trace": trace.splitlines()} if trace else {})})
