"""How evenly what is shown spreads over the catalogue: Gini, coverage, Lorenz curve."""

import numpy as np
from jaxtyping import Float, Shaped


def gini(count_V: Shaped[np.ndarray, "V"]) -> float:
    """Gini coefficient of exposure over all n items, never shown ones included: 0 is even, near 1 one item.

        G = sum_i (2i - n - 1) x_(i) / (n * sum x),   x_(1) <= ... <= x_(n)

    NaN where nothing was shown.

    Examples:
      Of four items one is shown four times: (2 * 4 - 4 - 1) * 4 / (4 * 4).

      >>> gini(np.array([0, 4, 0, 0])), gini(np.array([1, 1]))
      (0.75, 0.0)
    """
    x = np.sort(count_V.astype(np.float64))
    n, total = len(x), x.sum()
    if total == 0:
        return float("nan")
    return float(((2 * np.arange(1, n + 1) - n - 1) * x).sum() / (n * total))


def item_coverage(count_V: Shaped[np.ndarray, "V"]) -> float:
    """Share of all items that were shown at least once; NaN of no items.

    Examples:
      >>> item_coverage(np.array([0, 4, 0, 0]))
      0.25
    """
    return float((count_V > 0).mean()) if len(count_V) else float("nan")


def lorenz(count_V: Shaped[np.ndarray, "V"]) -> Float[np.ndarray, "W"]:
    """Share of exposure that the i least shown items hold together, for i from 0 to n.

    Examples:
      >>> lorenz(np.array([3, 1])).tolist()
      [0.0, 0.25, 1.0]
    """
    x = np.sort(count_V.astype(np.float64))
    return np.concatenate([[0.0], np.cumsum(x)]) / max(x.sum(), 1.0)
