"""Tables that no host holds whole, as arrays on a disk: each process writes its rows, and the first joins them.

Processes share the directory, but never write to one file: file systems between hosts promise no more.
"""

import pathlib
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from jaxneg.embeddings import parts, tables
from jaxneg.embeddings.layouts import Layout
from jaxneg.training import parting, processes

FOLDER = ".parts"  # of an export that is being written
MOST = 1 << 16  # rows that are joined at a time


class Held(NamedTuple):
    """What is to be written of a model whose tables devices share."""

    layout: Layout
    weights: tables.Weights
    # What is made of rows and goes into a file of its own: (items, weights of these) -> arrays by name.
    made: Callable[[np.ndarray, tables.Weights], Mapping[str, np.ndarray]]


def arrays(directory: pathlib.Path, held: Held) -> dict[str, np.ndarray]:
    """Tables and what is made of them by item, mapped from files below the directory; on the first process alone.

    All processes that share the tables call it alike, with the same directory.
    """
    folder, layout = directory / FOLDER, held.layout
    shared = layout.mesh.is_multi_process
    if processes.first() or shared:
        folder.mkdir(exist_ok=True)
        _write(folder, held)
    if shared:
        parting.settle()
    if not processes.first():
        return {}
    names = sorted({path.stem for path in folder.iterdir()})
    return {name: _joined(folder, name, layout) for name in names}


def _write(folder: pathlib.Path, held: Held) -> None:
    """The rows of this process, a file for each part of each array."""
    params = parts.local(held.weights.params)
    files: dict[tuple[str, int], np.memmap] = {}
    for run in parts.held(held.layout, held.weights.by_row):
        weights = tables.weights(params, run.by_row)
        found = {name: np.asarray(table) for name, table in weights.tables.items()}
        for name, rows in {**found, **held.made(run.item_C, weights)}.items():
            if (at := (name, run.part)) not in files:
                path, shape = folder / f"{name}.{run.part:06}", (run.total, *rows.shape[1:])
                files[at] = np.lib.format.open_memmap(path, "w+", rows.dtype, shape)
            files[at][run.first : run.first + len(rows)] = rows
    for file in files.values():
        file.flush()


def _joined(folder: pathlib.Path, name: str, layout: Layout) -> np.ndarray:
    """The parts of an array by item, mapped; their files are gone."""
    found = {int(path.suffix[1:]): path for path in folder.glob(f"{name}.*")}
    own = {part: np.load(path, mmap_mode="r") for part, path in found.items()}
    like = next(iter(own.values()))
    whole = np.lib.format.open_memmap(
        folder / f"{name}.npy", "w+", like.dtype, (layout.items + 1, *like.shape[1:])
    )
    turn, among = layout.places.turn, layout.rows // layout.places.size
    step = max(MOST // (turn * among), 1) * turn  # rows of each part, whose items follow each other
    for first in range(0, layout.places.size, step):
        begin = first * among
        if begin > layout.items:
            break
        rows = np.empty_like(whole[begin : begin + step * among])
        for part, array in own.items():
            item_C = parts.items(layout, part, first, min(step, layout.places.size - first))
            rows[item_C - begin] = array[first : first + len(item_C)]
        whole[begin : begin + len(rows)] = rows
    whole.flush()
    for path in found.values():
        path.unlink()
    return whole
