"""Random negatives, and how likely they are: what a correction of the softmax by log q takes off a logit.

A list in which each item stands once, however often it was drawn, and weighs 1 over the chance that it stands there at
all, estimates a sum over the catalogue without bias (Horvitz and Thompson, 1952). With m_i the chance that an item is
missed,

    E[sum over the list of exp(s_i) / (1 - m_i)] = sum over all i of exp(s_i)

and for several lists that are made one, m_i is the product of theirs. So log q_i = log(1 - m_i), from log m_i:

    S draws with replacement, each with chance p_i         S log(1 - p_i)
    P of N events without, of which c_i are of the item    log C(N - c_i, P) - log C(N, P)

The second are the other targets of a batch, since an epoch meets each event once; they are taken as if each were drawn
by itself, though sequences come whole. An item of chance 0 is not in the sum: one without an event in training.

Reference for the correction: Bengio and Senecal, Adaptive Importance Sampling, 2008; Yi et al., Sampling-Bias-Corrected
Neural Modeling, RecSys 2019, whose correction is for lists with repetitions, where q_i is the expected number P p_i.
"""

import numpy as np

from jaxneg.config import parts
from jaxneg.errors import UserError

Draw = str  # a name in parts.SAMPLERS


def random_items(
    rng: np.random.Generator,
    items: int,
    shape: int | tuple[int, ...],
    draw: Draw = "uniform",
    until_V: np.ndarray | None = None,
) -> np.ndarray:
    """Rows drawn with replacement, int32, each with the chance that ``chance`` names.

    Raises UserError where a draw of others gives what is no row.
    """
    row = parts.SAMPLERS[draw]
    found = parts.made(row.make)(rng, items, shape, until_V)
    return found if row.origin is None else _checked(np.asarray(found), items, shape, draw)


def chance(
    row: np.ndarray, items: int, draw: Draw = "uniform", until_V: np.ndarray | None = None
) -> np.ndarray:
    """The chance that one of ``random_items`` is this row, float64:

        uniform      1 / items
        log_uniform  log((row + 1) / row) / log(items + 1), Zipf's law where rows are ordered by count
        by_count     its share of the events of training; a row without any is never drawn

    Args:
      row: 1 to ``items``.
      items: V - 1.
      draw: its name.
      until_V: training events of rows up to each, padding row first, for draws by count.
    """
    return np.asarray(parts.made(parts.SAMPLERS[draw].chance)(row, items, until_V), np.float64)


def uniform(rng, items, shape, until_V):
    return rng.integers(1, items + 1, size=shape, dtype=np.int32)


def uniform_chance(row, items, until_V):
    return np.full(np.shape(row), 1.0 / items)


def log_uniform(rng, items, shape, until_V):
    # Float64: at 100 million rows float32 would leave holes.
    row = np.exp(rng.random(shape) * np.log(items + 1.0)).astype(np.int32)
    return np.clip(row, 1, items)


def log_uniform_chance(row, items, until_V):
    return np.log1p(1.0 / np.maximum(row, 1)) / np.log(items + 1.0)


def by_count(rng, items, shape, until_V):
    assert until_V is not None and len(until_V) == items + 1
    event = rng.integers(0, until_V[-1], size=shape)
    return np.searchsorted(until_V, event, side="right").astype(np.int32)


def by_count_chance(row, items, until_V):
    assert until_V is not None
    return (until_V[row] - until_V[np.maximum(row, 1) - 1]) / until_V[-1]


def _checked(row: np.ndarray, items: int, shape: int | tuple[int, ...], draw: Draw) -> np.ndarray:
    """What a draw of others gave, once it is rows. Raises UserError otherwise."""
    wanted = (shape,) if isinstance(shape, int) else shape
    if row.shape != wanted or not np.issubdtype(row.dtype, np.integer):
        raise UserError(
            f"sampler {draw} must give whole numbers of shape {wanted}, got {row.dtype} of shape {row.shape}"
        )
    if row.size and not (row.min() >= 1 and row.max() <= items):
        raise UserError(f"sampler {draw} must give rows 1 to {items}, got {row.min()} to {row.max()}")
    return row.astype(np.int32)


def log_missed(p: np.ndarray, draws: float | int) -> np.ndarray:
    """Log of the chance that ``draws`` with replacement all miss what one draw hits with chance p, float64."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(draws > 0, draws * np.log1p(-np.minimum(p, 1.0)), 0.0)


def log_left_out(count: np.ndarray, draws: float | int, events: float | int) -> np.ndarray:
    """Log of the chance that ``draws`` of ``events`` without replacement leave out all ``count`` of an item, float64.

    The product over k < count of 1 - draws / (events - k), as an integral over k: what it leaves of 1 is right to three
    digits from ten events on.
    """
    count, left = np.asarray(count, np.float64), events + 0.5 - draws
    whole = events + 0.5
    with np.errstate(divide="ignore", invalid="ignore"):
        result = (whole - count) * np.log1p(-count / whole) + count * np.log1p(-draws / whole)
        result = result - np.where(left > count, (left - count) * np.log1p(-count / left), 0.0)
    # Where more are drawn than there are others, one at least is of the item.
    result = np.where(count >= left, -np.inf, np.minimum(result, 0.0))
    return np.where((count <= 0) | (draws <= 0), 0.0, result)


def log_among(*missed: np.ndarray) -> np.ndarray:
    """Log of the chance to stand in one list at least, float32, from the logs of the chances to be missed by each."""
    with np.errstate(divide="ignore"):
        return np.log(-np.expm1(sum(missed))).astype(np.float32)
