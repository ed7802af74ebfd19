"""Intervals: by resampling units, such as users, with all their values; of the mean of few values, such as seeds."""

import math
import statistics
from collections.abc import Sequence
from typing import TypedDict

import numpy as np
from jaxtyping import Float, Int

LEVEL = 0.95


class Spread(TypedDict):
    """Of n independent values: mean, standard deviation, ends of the interval of the mean."""

    mean: float | None
    sd: float | None
    low: float | None
    high: float | None
    n: int


def by_unit(
    value_X: Float[np.ndarray, "X"], unit_X: Int[np.ndarray, "X"]
) -> tuple[Float[np.ndarray, "G"], Float[np.ndarray, "G"]]:
    """Sum and number of the values that are not NaN by unit, of the units that have some."""
    known = ~np.isnan(value_X)
    _, place = np.unique(unit_X[known], return_inverse=True)
    count_G = np.bincount(place).astype(np.float64)
    return np.bincount(place, value_X[known], len(count_G)).astype(np.float64), count_G


def bootstrap(
    value_X: Float[np.ndarray, "X"],
    unit_X: Int[np.ndarray, "X"],
    *,
    resamples: int,
    seed: int,
    level: float = 0.95,
) -> tuple[float, float]:
    """Percentile interval of the mean of the values that are not NaN, by resampling units with replacement.

    A unit, such as a user, is drawn with all its values, as values of one unit are alike. Ends are the
    (1 - level) / 2 and (1 + level) / 2 quantiles of the resampled means. NaN, NaN of fewer than two units, which say
    nothing of how units differ.

    Args:
      value_X: values, NaN where there is none.
      unit_X: whose value each is.
      resamples: how many.
      seed: of the draws.
      level: of the interval.

    Examples:
      >>> bootstrap(np.array([0.5, 0.5, np.nan]), np.array([1, 2, 2]), resamples=10, seed=0)
      (0.5, 0.5)

    Reference: Field and Welsh, Bootstrapping clustered data, JRSS B 2007 (the randomised cluster bootstrap).
    """
    return _resampled(*by_unit(value_X, unit_X), resamples=resamples, seed=seed, level=level)


def bootstrap_ratio(
    above_X: Float[np.ndarray, "X"],
    below_X: Float[np.ndarray, "X"],
    unit_X: Int[np.ndarray, "X"],
    *,
    resamples: int,
    seed: int,
    level: float = 0.95,
) -> tuple[float, float]:
    """Percentile interval of sum(above) / sum(below), by resampling units with all their values.

    Resamples whose ``below`` sums to 0 are left out. NaN, NaN where all are, and of fewer than two units.

    Examples:
      >>> values = np.array([1.0, 2.0]), np.array([2.0, 4.0])
      >>> bootstrap_ratio(*values, np.array([1, 2]), resamples=10, seed=0)
      (0.5, 0.5)
    """
    _, place = np.unique(unit_X, return_inverse=True)
    sums = (np.bincount(place, value_X).astype(np.float64) for value_X in (above_X, below_X))
    return _resampled(*sums, resamples=resamples, seed=seed, level=level)


def _resampled(
    above_G: np.ndarray, below_G: np.ndarray, *, resamples: int, seed: int, level: float
) -> tuple[float, float]:
    """Quantiles of sum(above) / sum(below) over draws of the units with replacement."""
    rng, units = np.random.default_rng(seed), len(below_G)
    ratios = []
    for _ in range(resamples if units > 1 else 0):
        drawn = rng.integers(units, size=units, dtype=np.int32)
        total = below_G[drawn].sum()
        if total != 0:
            ratios.append(above_G[drawn].sum() / total)
    if not ratios:
        return float("nan"), float("nan")
    low, high = np.quantile(ratios, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def spread(values: Sequence[float]) -> Spread:
    """Mean, standard deviation and 95% t-interval of the mean of independent values.

        mean +- t * sd / sqrt(n),   t the 97.5% point of Student's distribution with n - 1 degrees of freedom

    Of one value there is no spread, of none nothing: None.
    """
    from scipy import special  # it takes long to import

    n = len(values)
    if n == 0:
        return {"mean": None, "sd": None, "low": None, "high": None, "n": 0}
    mean = statistics.fmean(values)
    if n == 1:
        return {"mean": mean, "sd": None, "low": None, "high": None, "n": 1}
    sd = statistics.stdev(values)
    half = float(special.stdtrit(n - 1, (1 + LEVEL) / 2)) * sd / math.sqrt(n)
    return {"mean": mean, "sd": sd, "low": mean - half, "high": mean + half, "n": n}
