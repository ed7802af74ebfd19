"""TPU slices that are not there: their devices to compile for, and what is published of their chips."""

import importlib.util
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
from jax.experimental import topologies
from jax.experimental.compilation_cache import compilation_cache

from jaxneg.errors import UserError
from jaxneg.plan import hlo, machines
from jaxneg.training import chips

GIB = 1 << 30


class Chip(NamedTuple):
    """A generation of TPU to a compiler; what clouds call it stands in ``machines``."""

    devices: int  # that JAX sees of one chip
    memory: float  # GiB that the compiler leaves to a program on one device, as it says when it refuses one
    reads: float  # GB/s of memory that its estimates reckon with, for one device
    link: float  # GB/s of one link in one direction: published per chip and both ways, over twice the links
    peak: float  # TFLOP/s of one device in bfloat16
    memory_rate: float  # GB/s of memory as published, for one device
    clock: float  # GHz; the peak over what the matrix units of one device do in a cycle
    options: dict[str, Any] = {}  # for the topology


# Memory and reads as found with libtpu 0.0.42; links and rates of Cloud TPU's published tables. Clocks of v5e and v5p
# as in "How to Scale Your Model" (Austin et al., 2025); the others follow from the published peak and the matrix
# units, of 128 x 128: 8 on a v4 and v5p, 4 on a v5e; as the compiler counts products, 4 of 256 x 256 on a v6e and on
# half a 7x.
CHIPS = {
    # without it, two devices a chip, unlike on a v4
    "v4": Chip(
        1, 30.75, 982, 50, chips.PEAKS["TPU v4"].bfloat16, 1228, 1.05, {"chip_config_name": "megacore"}
    ),
    "v5e": Chip(1, 15.75, 737, 50, chips.PEAKS["TPU v5 lite"].bfloat16, 819, 1.5),
    "v5p": Chip(1, 95.74, 2350, 100, chips.PEAKS["TPU v5"].bfloat16, 2765, 1.75),
    "v6e": Chip(1, 31.25, 1638, 100, chips.PEAKS["TPU v6 lite"].bfloat16, 1640, 1.75),
    "tpu7x": Chip(2, 94.75, 3686, 100, chips.PEAKS["TPU7x"].bfloat16, 3690, 2.2),
}


class Slice(NamedTuple):
    """Devices to compile for: of a slice of TPU, or of a CPU in place of GPUs. Those of this machine have neither chip
    nor card."""

    name: str
    devices: Sequence[Any]
    chip: Chip | None = None
    sides: tuple[int, ...] = ()  # of GPUs how many a host has, and hosts
    hosts: int = 1
    card: machines.Gpu | None = None

    @property
    def chips(self) -> int:
        return len(self.devices) // (self.chip.devices if self.chip else 1)

    @property
    def kind(self) -> str:
        """What JAX calls a device."""
        return self.card.kind if self.card else self.devices[0].device_kind

    @property
    def memory(self) -> int | None:
        """Bytes that a program may take on one device, if known."""
        own = self.chip or self.card
        return int(own.memory * GIB) if own else None


def tpu(name: str) -> Slice:
    """The TPU slice of a name such as v5e:16x16. Raises UserError if there is none such, or no compiler for it.

    Call it before JAX has been used: it keeps JAX from looking for accelerators in this process.
    """
    generation, sides = machines.split(name)
    if importlib.util.find_spec("libtpu") is None and "TPU_LIBRARY_PATH" not in os.environ:
        raise UserError("planning for a TPU needs its compiler: pip install 'jaxneg[tpu]' (on Linux)")
    jax.config.update("jax_platforms", "cpu")
    # What was compiled for devices that are not here cannot be read again from JAX's cache, which would warn of it.
    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()
    for variable, value in {
        "TPU_SKIP_MDS_QUERY": "1",  # asks no cloud which machine this is
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # takes no TPU, so it need not be the only one
        "TPU_ACCELERATOR_TYPE": "v5litepod-4",  # any will do: without these two it warns
        "TPU_WORKER_HOSTNAMES": "localhost",
        "TPU_LOG_DIR": "disabled",
        "TPU_STDERR_LOG_LEVEL": "3",
        "TPU_MIN_LOG_LEVEL": "3",
    }.items():
        os.environ.setdefault(variable, value)
    chip = CHIPS[generation]
    try:
        topology = topologies.get_topology_desc(platform="tpu", topology_name=name, **chip.options)
    except jax.errors.JaxRuntimeError as error:
        if "lockfile" in str(error):
            raise UserError(
                "another process holds the TPU compiler: wait for it, or set ALLOW_MULTIPLE_LIBTPU_LOAD=1"
            ) from error
        reason = str(error).partition(": ")[2] or str(error)
        raise UserError(
            f"no topology {name!r} ({reason}): name a slice that exists, as {machines.EXAMPLES}"
        ) from error
    chips_ = len(topology.devices) // chip.devices
    held = chips_ if len(sides) == 2 and chips_ <= machines.ONE_HOST else machines.CHIPS
    return Slice(name, topology.devices, chip, sides, max(chips_ // held, 1))


def link_seconds(where: Slice, collectives: Sequence[hlo.Collective]) -> float | None:
    """The least time that a step's collectives take on the links of a slice; None where links are not known.

    What a chip sends goes through its links. Of what all chips send to all, B bytes of each of n chips, n B / 4 cross
    the middle of the slice each way: through n / side links, twice as many where the longest side closes to a ring.
    """
    if where.chip is None:
        return None
    # A slice of v5e or v6e closes along whole sides of the pod, one of the others where it is made of whole cubes.
    whole = all(side % 4 == 0 for side in where.sides)
    rings = [side == 16 if len(where.sides) == 2 else whole for side in where.sides]
    rate = where.chip.link * 1e9
    links = sum(1 + ring for side, ring in zip(where.sides, rings, strict=True) if side > 1)
    side = max(where.sides)
    across = 1 + rings[where.sides.index(side)]
    seconds = 0.0
    for each in collectives:
        sent = each.sent * where.chip.devices
        through = sent / (links * rate) if links else 0.0
        spans = each.kind.endswith("all-to-all") and each.group == len(where.devices)
        seconds += max(through, sent * side / (4 * across * rate) if spans else 0.0)
    return seconds
