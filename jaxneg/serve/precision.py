"""Item matrices in fewer bits: bfloat16, or int8 with a scale for each row. Biases and scales stay float32.

A row [v; bias] is kept as v / scale in the type, and (scale, bias) beside it, so that a score is

    scale * (q . v / scale) + bias

The scale of int8 takes the largest number of a row to 127; that of bfloat16 is 1, and its numbers are kept by their
bits, as npy has no bfloat16.
"""

from typing import Literal, NamedTuple

import ml_dtypes
import numpy as np
from jaxtyping import Float

DTYPES = ("float32", "bfloat16", "int8")
Dtype = Literal["float32", "bfloat16", "int8"]
KEPT = {"float32": np.float32, "bfloat16": np.uint16, "int8": np.int8}  # what npy files hold


class Packed(NamedTuple):
    """A matrix as it is kept."""

    matrix: np.ndarray  # [V, E - 1], of KEPT; all of it where that is float32, [V, E]
    scales_V2: np.ndarray | None  # float32, scale and bias of each row; None where that is float32


def packed(item_VE: Float[np.ndarray, "V E"], dtype: str) -> Packed:
    """An item matrix in a type, one of DTYPES."""
    if dtype == "float32":
        return Packed(item_VE, None)
    row_VD, bias_V = item_VE[:, :-1], item_VE[:, -1]
    if dtype == "bfloat16":
        kept, scale_V = row_VD.astype(ml_dtypes.bfloat16).view(np.uint16), np.ones_like(bias_V)
    else:
        scale_V = np.abs(row_VD).max(axis=1, initial=0.0) / np.float32(127.0)
        scale_V[scale_V == 0.0] = 1.0
        kept = np.rint(row_VD / scale_V[:, None]).astype(np.int8)
    return Packed(kept, np.stack([scale_V, bias_V], axis=1).astype(np.float32))


def unpacked(found: Packed) -> Float[np.ndarray, "V E"]:
    """The item matrix in float32."""
    if found.scales_V2 is None:
        return found.matrix
    kept = found.matrix.view(ml_dtypes.bfloat16) if found.matrix.dtype == np.uint16 else found.matrix
    scale_V1, bias_V1 = found.scales_V2[:, :1], found.scales_V2[:, 1:]
    return np.concatenate([kept.astype(np.float32) * scale_V1, bias_V1], axis=1)


def recall(exact_Bk: np.ndarray, found_Bk: np.ndarray) -> float:
    """Mean share of the first rows of each line that the second has too."""
    if not exact_Bk.size:
        return 1.0
    shares = [len({*a.tolist()} & {*b.tolist()}) / len(a) for a, b in zip(exact_Bk, found_Bk, strict=True)]
    return float(np.mean(shares))


def best(query_BE: np.ndarray, item_VE: np.ndarray, k: int) -> np.ndarray:
    """Rows of the k highest inner products with each query, of all items but row 0, in any order; int64 [B, k]."""
    found = []
    for query_CE in np.array_split(query_BE, max(1, len(query_BE) // 64)):
        score_CI = query_CE @ item_VE[1:].T
        found.append(np.argpartition(-score_CI, k - 1, axis=1)[:, :k] + 1)
    return np.concatenate(found)
