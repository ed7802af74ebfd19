"""Queries of contexts by the module of an export, in few sizes of batches: a model is compiled for each."""

from typing import Any

import jax
import numpy as np
from jax import export as jax_export
from jaxtyping import Float, Int

from jaxneg import errors
from jaxneg.serve import manifest as manifests

SIZES = (1, 4, 16, 64, 256)
FULL = 0.75  # of a batch that is asked for before it is filled up: what fills it costs as much as what is asked for
LARGEST = SIZES[-1]


def batches(count: int) -> list[int]:
    """Sizes of the batches that so many are run in: the largest that they fill, or fill but for a quarter.

    Examples:
      >>> batches(1), batches(13), batches(30)
      ([1], [16], [16, 16])
    """
    found = list[int]()
    while count > 0 or not found:
        found.append(up_to(max(count, 1))[-1])
        count -= found[-1]
    return found


def up_to(most: int) -> list[int]:
    """All sizes that up to so many may be run in.

    Examples:
      >>> up_to(64)
      [1, 4, 16, 64]
    """
    return [size for size in SIZES if FULL * size <= most]


class Encoder:
    """What makes queries.

    Attributes:
      model: of the export.
      params: that it takes.
    """

    def __init__(self, model: jax_export.Exported, params: Any):
        self.model, self.params = model, jax.device_put(params)
        self._call = jax.jit(lambda params, context_3BL: model.call(params, *context_3BL))

    def queries(self, context_3BL: Int[np.ndarray, "3 B L"]) -> Float[np.ndarray, "B E"]:
        """Queries of items, feedback and stations, any number of them, in ``batches``, the last of which may be filled
        up. Raises UserError where the model cannot be compiled or run."""
        found, first = list[np.ndarray](), 0
        for size in batches(context_3BL.shape[1]):
            some_3BL = context_3BL[:, first : first + size]
            first, asked = first + size, some_3BL.shape[1]
            if asked < size:
                some_3BL = np.pad(some_3BL, ((0, 0), (0, size - asked), (0, 0)))
            found.append(self._run(some_3BL)[:asked])
        return found[0] if len(found) == 1 else np.concatenate(found)

    def _run(self, context_3BL: np.ndarray) -> np.ndarray:
        try:
            return np.asarray(self._call(self.params, context_3BL))
        except BaseException:  # of a module that parses shapes may not fit: that shows when it is compiled
            with errors.carried(f"{manifests.MODEL} cannot be run by jax {jax.__version__}", "export again"):
                raise
