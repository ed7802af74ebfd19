"""Bootstrap intervals that resample units, such as users, with all their values."""

import numpy as np
from jaxtyping import Float, Int


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
