"""What training batches are worth: negatives that are liked after all, and stores that memory does not hold."""

import contextlib
import os
import pathlib
from dataclasses import dataclass

import numpy as np

from jaxneg.batch import Batch
from jaxneg.config import DataConfig
from jaxneg.data import stores


def warn_beyond_memory(store: stores.Store, config: DataConfig) -> str | None:
    """Advice where rows are read from all over a store that takes more than half of the memory; None elsewhere."""
    columns = (store.item_T, store.feedback_T, store.station_T, store.group_T)
    read = sum(
        len(column) * column.dtype.itemsize for column in (*columns, store.negative_item, store.positive_item)
    )
    memory = _memory()
    if config.shuffle_block > 0 or read <= memory / 2:
        return None
    return (
        f"training reads {read / 1e9:.1f} GB of the store in no order, and there are {memory / 1e9:.1f} GB of memory: "
        "with --data.shuffle-block 4096 it reads in runs"
    )


def _memory() -> int:
    """Bytes of memory of this machine or container."""
    sizes = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for limit in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):  # "max" is no limit
            sizes.append(int(pathlib.Path(limit).read_text()))
    return min(sizes)


@dataclass(frozen=True)
class Drawn:
    """Random negatives that were drawn, and those among them that their listener likes somewhere in the log."""

    negatives: int = 0
    false: int = 0

    def __add__(self, other: "Drawn") -> "Drawn":
        return Drawn(self.negatives + other.negatives, self.false + other.false)

    @property
    def share(self) -> float:
        """Of the false ones; NaN of nothing."""
        return self.false / self.negatives if self.negatives else float("nan")


def false_negatives(
    store: stores.Store, batch: Batch, span_BL: np.ndarray, user_W: np.ndarray, *, in_batch: bool
) -> Drawn:
    """Random negatives of a batch, one that all share counted once for each of its sequences.

    Args:
      store: that the batch is of.
      batch: of all processes.
      span_BL: the sequence that each position is of, -1 where there is none.
      user_W: listener of each sequence.
      in_batch: whether the other targets of a batch are negatives too.
    """
    user_BL = np.where(span_BL >= 0, user_W[span_BL], -1)
    hard = batch.hard_BLN if batch.hard_BLN.size else False
    b, t, *_ = at = np.nonzero((batch.negative_BLN > 0) & ~np.asarray(hard))
    users, items = [user_BL[b, t]], [batch.negative_BLN[at]]
    shared_C = batch.shared_S[batch.shared_S > 0]
    if in_batch:
        shared_C = np.concatenate([shared_C, np.unique(batch.target_BL[batch.target_BL > 0])])
    ranked = np.unique(span_BL[batch.target_BL > 0])
    users.append(np.repeat(user_W[ranked], len(shared_C)))
    items.append(np.tile(shared_C, len(ranked)))
    key = np.concatenate(users).astype(np.int64) * (store.items + 1) + np.concatenate(items)
    # What a sequence itself predicts is no negative there.
    own = (user_BL.astype(np.int64) * (store.items + 1) + batch.target_BL)[batch.target_BL > 0]
    key = key[~np.isin(key, own)]
    return Drawn(len(key), int(np.isin(key, _liked(store, np.unique(user_BL[user_BL >= 0]))).sum()))


def _liked(store: stores.Store, user_U: np.ndarray) -> np.ndarray:
    """user * V + item for all that these users like anywhere in the log."""
    begin = np.asarray(store.session_indptr)[np.asarray(store.user_indptr)]
    size = begin[user_U + 1] - begin[user_U]
    event = np.arange(size.sum()) + np.repeat(begin[user_U] - (np.cumsum(size) - size), size)
    user = np.repeat(user_U.astype(np.int64), size)
    liked = store.sign[store.feedback_T[event]] > 0
    return user[liked] * (store.items + 1) + store.item_T[event][liked]
