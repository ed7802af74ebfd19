"""What is published of accelerators: the most that their dense matrix products reach."""

from typing import NamedTuple


class Peak(NamedTuple):
    """TFLOP/s of one device as JAX counts them, without sparsity."""

    bfloat16: float
    float32: float  # of TF32 on GPUs; TPUs compute it in passes of 16 bits


# By the start of what JAX calls a kind of device; the first that fits. Vendors' data sheets.
PEAKS = {
    "NVIDIA GB200": Peak(2500, 1250),
    "NVIDIA B200": Peak(2250, 1125),
    "NVIDIA H100 PCIe": Peak(756, 378),
    "NVIDIA H100": Peak(989, 495),
    "NVIDIA H200": Peak(989, 495),
    "NVIDIA GH200": Peak(989, 495),
    "NVIDIA A100": Peak(312, 156),
    "NVIDIA L40S": Peak(362, 183),
    "NVIDIA L4": Peak(121, 60),
    "TPU v4": Peak(275, 275),
    "TPU v5 lite": Peak(197, 197),
    "TPU v5": Peak(459, 459),
    "TPU v6 lite": Peak(918, 918),
    "TPU7x": Peak(1153, 1153),  # of the two devices of a chip
}


def peak(kind: str, dtype: str) -> float | None:
    """FLOP/s of a kind of device in products of a dtype; None where it is not known.

    Args:
      kind: as JAX's ``Device.device_kind`` says it.
      dtype: "bfloat16" or "float32".
    """
    found = next((peak for name, peak in PEAKS.items() if kind.startswith(name)), None)
    return None if found is None else 1e12 * (found.bfloat16 if dtype == "bfloat16" else found.float32)
