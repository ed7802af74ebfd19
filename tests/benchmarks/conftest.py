"""A benchmark whose import changes what the package knows."""

import importlib
import pathlib
import sys

import pytest

from jaxneg.config import parts
from jaxneg.training import objective, scoring

BENCHMARKS = str(pathlib.Path(__file__).parents[2] / "benchmarks")
OWN = ("objectives", "two_heads", "real_data", "contenders")


@pytest.fixture(scope="module")
def objectives():
    """benchmarks/objectives.py; what it registers is forgotten again, and so are scripts that were imported with it."""
    before = {kind: dict(rows) for kind, rows in parts.KINDS.items()}
    replaced = objective.loss, scoring.encode, scoring.last_hidden
    sys.path.insert(0, BENCHMARKS)
    try:
        yield importlib.import_module("objectives")
    finally:
        sys.path.remove(BENCHMARKS)
        objective.loss, scoring.encode, scoring.last_hidden = replaced
        for kind, rows in before.items():
            parts.KINDS[kind].clear()
            parts.KINDS[kind].update(rows)
        for name in [name for name in sys.modules if name.partition(".")[0] in OWN]:
            del sys.modules[name]
