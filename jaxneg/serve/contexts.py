"""Histories that an export is measured by: held-out ones, and drawn ones of every length and kind."""

from typing import NamedTuple

import numpy as np

from jaxneg.batch import FEEDBACK, MASK, PAD
from jaxneg.data import held_out
from jaxneg.errors import UserError
from jaxneg.training import runs

MOST = 1_000
TOGETHER = 256  # whose queries are made at a time


class Contexts(NamedTuple):
    """Histories as a model sees them, int32 [X, L], and where they are from."""

    item_XL: np.ndarray
    feedback_XL: np.ndarray
    station_XL: np.ndarray
    of: str  # "validation" or "random"
    query_XE: np.ndarray = np.zeros((0, 0), np.float32)  # once they are made


def validation(trained: runs.Trained, most: int = MOST) -> Contexts:
    """Contexts of the validation events; drawn ones where there are none."""
    config, store = trained.config, trained.store
    try:
        batches = held_out.EvalBatches(store, config.data, config.eval, "validation")
    except UserError:  # there is no example
        sizes = store.items, store.metadata.counts["stations"]
        return drawn(np.random.default_rng(0), most, config.data.length, sizes)
    parts: list[tuple[np.ndarray, ...]] = []
    for batch in batches:
        parts.append(tuple(leaf[batch.real_B] for leaf in batch[:3]))
        if sum(len(part[0]) for part in parts) >= most:
            break
    item, feedback, station = (np.concatenate(leaves)[:most] for leaves in zip(*parts, strict=True))
    return Contexts(item, feedback, station, "validation")


def drawn(rng: np.random.Generator, count: int, length: int, sizes: tuple[int, int]) -> Contexts:
    """Histories of every length from none to L, of all items, kinds and stations.

    Args:
      rng: that they are drawn by.
      count: how many.
      length: of the longest, L.
      sizes: items and stations that there are.
    """
    size_X1 = (np.arange(count) % (length + 1))[:, None]
    there_XL = np.arange(length)[None] < size_X1
    kinds = [code for code, kind in enumerate(FEEDBACK) if kind != "pad" and code not in (PAD, MASK)]
    item, feedback, station = (
        rng.integers(1, 1 + sizes[0], there_XL.shape),
        rng.choice(kinds, there_XL.shape),
        rng.integers(0, 1 + sizes[1], there_XL.shape),
    )
    item, feedback, station = ((leaf * there_XL).astype(np.int32) for leaf in (item, feedback, station))
    return Contexts(item, feedback, station, "random")
