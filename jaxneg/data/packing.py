"""Which training sequences share a row, where rows hold several: ``data.packed`` and ``data.row``.

Short sequences leave most of a row to padding. Rows are planned once for a store and a seed, and each epoch permutes
the rows as it would sequences. A batch stays a function of (seed, step), and all epochs have the same number of steps.
That the same sequences meet in a row each epoch is no matter: they do not see each other, and the loss is a mean over
positions, so a row is to them a place in the batch and no more.
"""

import math
from typing import NamedTuple

import numpy as np

from jaxneg.batch import Batch

FULL = 0.9  # share of positions that hold events, or of rows that packing leaves, from which on it is not worth it
WINDOW = 1 << 16  # neighbours in the store among which rows are made up, so that a row is read from nearby


class Rows(NamedTuple):
    """R rows of W sequences, each sequence in one row."""

    indptr_R: np.ndarray  # int64 [R + 1], ranges of sequence_W
    sequence_W: np.ndarray  # int32 or int64, the sequences of each row

    def sequences(self, row_B: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What P sequences stand in these rows: each one's number, its place in the batch, and its number there from 0.

        Rows below 0 have none.
        """
        real_B = row_B >= 0
        begin_B = self.indptr_R[np.where(real_B, row_B, 0)]
        count_B = np.where(real_B, self.indptr_R[np.where(real_B, row_B, 0) + 1] - begin_B, 0)
        place_P = np.repeat(np.arange(len(row_B)), count_B)
        number_P = np.arange(len(place_P)) - np.repeat(np.cumsum(count_B) - count_B, count_B)
        return self.sequence_W[begin_B[place_P] + number_P], place_P, number_P


def worthwhile(size_W: np.ndarray, length: int, seed: int) -> Rows | None:
    """A plan of rows of ``length`` positions that saves more than a tenth of them; None where there is none.

    There is none where rows of one sequence are nearly full, nor where hardly any two sequences find room in one.
    """
    if float(size_W.mean()) >= FULL * length:
        return None
    found = plan(size_W, length, seed)
    return found if len(found.indptr_R) - 1 < FULL * len(size_W) else None


def rows_of_batch(batch_size: int, per_row: float, blocks: int = 1) -> int:
    """Rows that hold about ``batch_size`` sequences: the same for any number of devices.

    The number has a divisor of ``batch_size`` in it, as large as a sixteenth of the rows allows, so that most devices
    share them evenly. It is 3% off at most where rows are many and ``blocks`` few.

    Args:
      batch_size: sequences.
      per_row: sequences that a row holds on average.
      blocks: a divisor of ``batch_size`` that must divide the rows.
    """
    wanted = batch_size / per_row
    even = max((n for n in range(1, int(wanted) // 16 + 1) if batch_size % n == 0), default=1)
    step = math.lcm(even, blocks)
    return step * max(1, round(wanted / step))


def plan(size_W: np.ndarray, capacity: int, seed: int) -> Rows:
    """Rows of at most ``capacity`` positions, by best fit, longest first, within windows of the store.

    Each sequence goes where it leaves the least room, in an order of the seed among those of one size. All that have
    one size and find one room are placed together, so that the work grows with the sizes and hardly with the sequences.

    Args:
      size_W: positions of each sequence, from 1 to ``capacity``.
      capacity: positions of a row.
      seed: of which sequences meet.
    """
    kind = np.int32 if len(size_W) < 1 << 31 else np.int64
    counts, members = [np.zeros(1, np.int64)], []
    for begin in range(0, len(size_W), WINDOW):
        rng = np.random.default_rng((seed, begin, len(size_W)))
        row_W, rows = _best_fit(size_W[begin : begin + WINDOW], capacity, rng)
        members.append((begin + np.argsort(row_W, kind="stable")).astype(kind))
        counts.append(np.bincount(row_W, minlength=rows))
    return Rows(np.cumsum(np.concatenate(counts)), np.concatenate([np.zeros(0, kind), *members]))


def _best_fit(size_W: np.ndarray, capacity: int, rng: np.random.Generator) -> tuple[np.ndarray, int]:
    """The row of each sequence, and the number of rows."""
    order_W = rng.permutation(len(size_W))
    order_W = order_W[np.argsort(-size_W[order_W], kind="stable")]
    row_W, rows = np.zeros(len(size_W), np.int64), 0
    room: list[list[np.ndarray]] = [[] for _ in range(capacity + 1)]  # rows by the positions that are left
    sizes, firsts = np.unique(-size_W[order_W], return_index=True)
    for size, waiting in zip((-sizes).tolist(), np.split(order_W, firsts[1:]), strict=True):
        left = size
        while len(waiting):
            while left <= capacity and not room[left]:
                left += 1
            if left > capacity:  # as many new rows as will be filled, whole but the last
                new = -(-len(waiting) // (capacity // size))
                found, rows, left = np.arange(rows, rows + new), rows + new, capacity
            else:
                found = np.concatenate(room[left])
            taken, kept = found[: len(waiting)], found[len(waiting) :]
            room[left] = [kept] if len(kept) else []
            row_W[waiting[: len(taken)]] = taken
            room[left - size].append(taken)
            waiting, left = waiting[len(taken) :], size
    return row_W, rows


def packed(batch: Batch, place_P: np.ndarray, number_P: np.ndarray, rows: int, row: int) -> Batch:
    """A batch of P sequences, each padded on the right, with the sequences of a row one after the other in it.

    Args:
      batch: one sequence a row.
      place_P: row of each sequence, ascending.
      number_P: what it is called there, from 0.
      rows: of the result.
      row: positions of each.
    """
    length = batch.item_BL.shape[1]
    seen = np.flatnonzero(batch.feedback_BL)  # hidden events too, whose item is PAD
    size_P = (batch.feedback_BL > 0).sum(1)
    before_P = np.cumsum(size_P) - size_P
    offset_P = before_P - before_P[np.searchsorted(place_P, place_P)]
    to = np.repeat(place_P * row + offset_P - before_P, size_P) + np.arange(len(seen))

    def moved(leaf: np.ndarray) -> np.ndarray:
        result = np.zeros((rows * row, *leaf.shape[2:]), leaf.dtype)
        result[to] = leaf.reshape(len(size_P) * length, *leaf.shape[2:])[seen]
        return result.reshape(rows, row, *leaf.shape[2:])

    segment_PL = np.broadcast_to((number_P[:, None] + 1).astype(np.int32), batch.item_BL.shape)
    batch = batch._replace(segment_BL=segment_PL)
    own = {name: moved(leaf) for name, leaf in batch._asdict().items() if name.endswith(("_BL", "_BLN"))}
    none = {name: getattr(batch, name)[:0].reshape(rows, 0) for name in ("event_BM", "sign_BM")}
    return batch._replace(**own, **none)
