"""Which training sequences make up which batch: a function of (seed, step) alone.

Rows are permuted over the whole store, or, where it is larger than memory, block by block:

    blocks  runs of sequences that lie together on disk, permuted anew each epoch
    lanes   the permuted blocks in as many equal parts; each lane gives every batch the same number of rows
    pools   what a lane holds in memory at a time, some blocks; rows are permuted within it

So disks read runs and random access is to memory. A host whose rows come from some of the lanes reads the blocks of
these only, and the global batch does not depend on the number of hosts.
"""

import math
import threading
from collections.abc import Callable

import numpy as np

ROUNDS = 4  # of the Feistel network behind a permutation
LANES = 64  # or the largest power of two below it that divides the batch; part of what a seed means


def permuted(index: np.ndarray, size: int, seed: int | tuple[int, ...]) -> np.ndarray:
    """Places of ``index`` under the seed's permutation of range(size), without storing it.

    A Feistel network over the pairs below ``side``, the root of the size rounded up, walked until it lands inside the
    range; side * side is hardly more than size, so few walk twice.
    """
    side = np.uint64(math.isqrt(max(size - 1, 0)) + 1)
    seeds = seed if isinstance(seed, tuple) else (seed,)
    keys = np.random.default_rng((*seeds, size)).integers(1, 1 << 62, size=ROUNDS, dtype=np.uint64)
    result = np.asarray(index, np.uint64).copy()
    walking = np.arange(len(result))
    while len(walking):
        left, right = np.divmod(result[walking], side)
        for key in keys:
            mixed = (right + key) * np.uint64(0xD6E8FEB86659FD93)
            mixed ^= mixed >> np.uint64(32)
            mixed *= np.uint64(0xD6E8FEB86659FD93)
            mixed >>= np.uint64(40)
            mixed += left
            mixed %= side
            left, right = right, mixed
        result[walking] = left * side + right
        walking = walking[result[walking] >= size]
    return result.astype(np.int64)


class Order:
    """Source whose element k is (spans of step k's global batch, -1 where it only fills up)."""

    def __init__(self, spans: int, batch_size: int, seed: int, empty: int = 0, blocks: int = 1):
        """Of ``batch_size`` rows ``empty`` only fill up, as many at the end of each of the blocks."""
        self.spans, self.batch_size, self.seed = spans, batch_size, seed
        self.held, self.blocks = batch_size - empty, blocks
        self.steps_per_epoch = -(-spans // self.held)

    def __len__(self) -> int:
        return 1 << 40

    def __getitem__(self, index: int) -> np.ndarray:
        epoch, step = divmod(int(index), self.steps_per_epoch)
        place = np.arange(step * self.held, (step + 1) * self.held)
        span = np.full(self.held, -1)
        inside = place < self.spans
        span[inside] = permuted(place[inside], self.spans, self.seed + epoch)
        empty = (self.batch_size - self.held) // self.blocks
        return np.pad(span.reshape(self.blocks, -1), ((0, 0), (0, empty)), constant_values=-1).ravel()


class BlockOrder(Order):
    """The same, block by block. Row b of a batch is of lane b * lanes // batch_size."""

    def __init__(self, spans: int, batch_size: int, seed: int, block: int, pool: int):
        """``block`` is in spans, ``pool`` in blocks, of all lanes together."""
        super().__init__(spans, batch_size, seed)
        self.block, self.lanes = block, math.gcd(batch_size, LANES)
        self.pool = max(1, pool // self.lanes) * block  # spans of a pool of one lane
        self._begin = np.arange(self.lanes + 1) * spans // self.lanes  # of lanes, in places of the epoch
        self._blocks: tuple[int, np.ndarray, np.ndarray] = (-1, np.zeros(0), np.zeros(0))

    def __getitem__(self, index: int) -> np.ndarray:
        epoch, step = divmod(int(index), self.steps_per_epoch)
        rows = self.batch_size // self.lanes
        own = np.arange(step * rows, (step + 1) * rows)  # places within a lane, the same in all
        place = np.full((self.lanes, rows), -1)
        sizes = np.diff(self._begin)
        for size in np.unique(sizes).tolist():  # two at most
            lanes, inside = np.flatnonzero(sizes == size), own < size
            place[np.ix_(lanes, inside)] = self._begin[lanes, None] + self._mixed(own[inside], size, epoch)
        place_B = place.ravel()
        span_B = np.full(self.batch_size, -1)
        span_B[place_B >= 0] = self._span(place_B[place_B >= 0], epoch)
        return span_B

    def pool_of(self, index: int) -> tuple[int, int]:
        """Epoch and number of the last pool that a step takes rows from."""
        epoch, step = divmod(int(index), self.steps_per_epoch)
        last = min((step + 1) * (self.batch_size // self.lanes), int(np.diff(self._begin).max())) - 1
        return epoch, last // self.pool

    def after(self, epoch: int, pool: int) -> tuple[int, int]:
        """The pool that follows."""
        more = (pool + 1) * self.pool < int(np.diff(self._begin).max())
        return (epoch, pool + 1) if more else (epoch + 1, 0)

    def runs(self, epoch: int, pool: int, rows: slice) -> np.ndarray:
        """Runs of spans [R, 2] that a pool of the lanes of some rows of a batch is made of, first and end."""
        per_lane = self.batch_size // self.lanes
        lanes = np.arange(rows.start // per_lane, -(-rows.stop // per_lane))
        low = np.minimum(self._begin[lanes] + pool * self.pool, self._begin[lanes + 1])
        high = np.minimum(low + self.pool, self._begin[lanes + 1])
        start, number = self._permuted_blocks(epoch)
        found = []
        for a, b in zip(low, high, strict=True):
            if a == b:
                continue
            k = np.arange(np.searchsorted(start, a, "right") - 1, np.searchsorted(start, b, "left"))
            first = np.maximum(a - start[k], 0) + number[k] * self.block
            end = np.minimum(b, start[k + 1]) - start[k] + number[k] * self.block
            found.append(np.stack([first, end], 1))
        return np.concatenate(found) if found else np.zeros((0, 2), np.int64)

    def _mixed(self, own: np.ndarray, size: int, epoch: int) -> np.ndarray:
        """Places within a lane of this size, permuted within their pools."""
        pool = own // self.pool
        mixed = np.empty_like(own)
        for p in np.unique(pool):
            begin, at = int(p) * self.pool, pool == p
            within = min(self.pool, int(size) - begin)
            mixed[at] = begin + permuted(own[at] - begin, within, (self.seed + epoch, int(p)))
        return mixed

    def _span(self, place: np.ndarray, epoch: int) -> np.ndarray:
        """Spans that stand at places of the permuted blocks."""
        start, number = self._permuted_blocks(epoch)
        k = np.searchsorted(start, place, side="right") - 1
        return number[k] * self.block + place - start[k]

    def _permuted_blocks(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Where each block starts in the epoch, and the end; the numbers of the blocks. Kept for one epoch."""
        kept, start, number = self._blocks
        if kept != epoch:
            count = -(-self.spans // self.block)
            number = permuted(np.arange(count), count, self.seed + epoch)
            size = np.minimum(self.block, self.spans - number * self.block)
            start = np.concatenate([[0], np.cumsum(size)])
            self._blocks = epoch, start, number
        return start, number


class ReadAhead:
    """A block order that has the pool of a step read from disk, and then, by a thread, the one after it.

    What is read stays with the operating system's cache of files, from which batches are then gathered. A step waits
    for its pool: to gather from what is not there yet would read many times as much.
    """

    def __init__(self, order: BlockOrder, rows: slice, read: Callable[[int, int], None]):
        """``rows`` of a batch are this host's; ``read`` reads all that the spans [first, end) need."""
        self._order, self._rows, self._read = order, rows, read
        self._threads: dict[tuple[int, int], threading.Thread] = {}  # of this pool and the next

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, index: int) -> np.ndarray:
        now = self._order.pool_of(index)
        after = self._order.after(*now)
        self._threads = {pool: thread for pool, thread in self._threads.items() if pool in (now, after)}
        self._started(now).join()
        self._started(after)
        return self._order[index]

    def _started(self, pool: tuple[int, int]) -> threading.Thread:
        if pool not in self._threads:
            self._threads[pool] = threading.Thread(target=self._fetch, args=(pool,), daemon=True)
            self._threads[pool].start()
        return self._threads[pool]

    def _fetch(self, pool: tuple[int, int]) -> None:
        runs = self._order.runs(*pool, self._rows)
        for first, end in runs[np.argsort(runs[:, 0])]:  # as they lie on disk
            if pool not in self._threads:  # a seek has left it behind
                break
            self._read(int(first), int(end))
