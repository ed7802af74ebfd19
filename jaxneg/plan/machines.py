"""Machines by name, as v5e:4x4 and h100:8x2: their hosts, and what clouds and schedulers call them. No JAX."""

import math
import re
from typing import NamedTuple

from jaxneg.errors import UserError

EXAMPLES = "v4:2x2x2, v5e:4x4, v5e:16x16, v5p:4x4x4, v6e:16x16, tpu7x:4x4x4"
GPU_EXAMPLES = "h100:8x4 (8 GPUs on each of 4 hosts), gpu:4x2 (of any make)"
FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")  # slices of v5e and v6e
SMALL = ("2x2x1", "2x2x2", "2x2x4", "2x4x4")  # slices of the others below a cube; all else is made of cubes
ONE_HOST = 8  # chips of a flat slice that one host may hold
CHIPS = 4  # of a host otherwise
HOSTS = 4096  # at most


class Tpu(NamedTuple):
    """What a generation of TPU is called."""

    sides: int  # of a slice
    vm: str  # accelerator type of Cloud TPU, as in v5litepod-16
    cores: int  # by which that type counts a chip
    runtime: str  # software of its VMs; "" where it is had on GKE alone
    gke: str  # node label cloud.google.com/gke-tpu-accelerator
    ray: str  # accelerator type of Ray


class Gpu(NamedTuple):
    """What a make of GPU is called and what is published of it; "" and 0 where nothing is known."""

    gke: str = ""  # node label cloud.google.com/gke-accelerator
    ray: str = ""  # accelerator type of Ray
    kind: str = ""  # what JAX calls it
    memory: float = 0  # GiB that JAX may take: 0.92 of what the card has
    rate: float = 0  # GB/s of its memory
    link: float = 0  # GB/s to the others of its host, one way
    net: float = 0  # GB/s to other hosts, one way, of the network card of each GPU


# Of Cloud TPU's and GKE's documentation.
TPUS = {
    "v4": Tpu(3, "v4", 2, "tpu-ubuntu2204-base", "tpu-v4-podslice", "TPU-V4"),
    "v5e": Tpu(2, "v5litepod", 1, "v2-alpha-tpuv5-lite", "tpu-v5-lite-podslice", "TPU-V5LITEPOD"),
    "v5p": Tpu(3, "v5p", 2, "v2-alpha-tpuv5", "tpu-v5p-slice", "TPU-V5P"),
    "v6e": Tpu(2, "v6e", 1, "v2-alpha-tpuv6e", "tpu-v6e-slice", "TPU-V6E"),
    "tpu7x": Tpu(3, "tpu7x", 2, "", "tpu7x", "TPU-V7X"),
}
# Vendors' data sheets of SXM modules and of machines of 8 (DGX, HGX).
GPUS = {
    "gpu": Gpu(),
    "a100": Gpu("nvidia-a100-80gb", "A100", "NVIDIA A100", 68, 2039, 300, 25),
    "h100": Gpu("nvidia-h100-80gb", "H100", "NVIDIA H100", 68, 3350, 450, 50),
    "h200": Gpu("nvidia-h200-141gb", "H200", "NVIDIA H200", 120, 4800, 450, 50),
    "b200": Gpu("nvidia-b200", "B200", "NVIDIA B200", 154, 8000, 900, 50),
}


class Topology(NamedTuple):
    """Hosts of one kind that train together: a slice of TPU, or machines with GPUs."""

    name: str
    kind: str  # a key of TPUS or of GPUS
    sides: tuple[int, ...]  # of a slice; of GPUs how many a host has, and hosts
    hosts: int
    chips: int  # of a host

    @property
    def tpu(self) -> Tpu | None:
        return TPUS.get(self.kind)

    @property
    def gpu(self) -> Gpu | None:
        return GPUS.get(self.kind)

    @property
    def shape(self) -> str:
        return "x".join(map(str, self.sides))

    @property
    def accelerator(self) -> str:
        """Of a slice of TPU its accelerator type, as v5litepod-16. Raises KeyError of GPUs."""
        found = TPUS[self.kind]
        return f"{found.vm}-{math.prod(self.sides) * found.cores}"


def split(name: str) -> tuple[str, tuple[int, ...]]:
    """Generation and sides of a slice of TPU, whether or not there is such a slice. Raises UserError on other names."""
    found = re.fullmatch(rf"({'|'.join(TPUS)}):(\d+(?:x\d+){{1,2}})", name)
    if not found:
        raise UserError(f"no topology {name!r}: name a generation and the sides of a slice, as {EXAMPLES}")
    return found[1], tuple(int(side) for side in found[2].split("x"))


def topology(name: str) -> Topology:
    """The hosts of a name such as v5e:4x4, h100:8x2 or h100:8. Raises UserError where there is none such."""
    if found := re.fullmatch(rf"({'|'.join(GPUS)}):(\d{{1,4}})(?:x(\d{{1,4}}))?", name):
        chips, hosts = int(found[2]), int(found[3] or 1)
        if not (1 <= chips <= 16 and 1 <= hosts <= HOSTS):
            raise UserError(
                f"no topology {name!r}: 1 to 16 GPUs a host and 1 to {HOSTS} hosts, as {GPU_EXAMPLES}"
            )
        return Topology(name, found[1], (chips, hosts), hosts, chips)
    try:
        kind, sides = split(name)
    except UserError as error:
        raise UserError(f"{error}, or GPUs and hosts, as {GPU_EXAMPLES}") from None
    shape, chips = name.partition(":")[2], math.prod(sides)
    if TPUS[kind].sides == 2:
        if shape not in FLAT:
            raise UserError(f"no topology {name!r}: slices of {kind} are {', '.join(FLAT)}")
        held = chips if chips <= ONE_HOST else CHIPS
    else:
        cubes = (
            len(sides) == 3 and all(side and side % 4 == 0 for side in sides) and list(sides) == sorted(sides)
        )
        if shape not in SMALL and not cubes:
            whole = "or three multiples of 4 in rising order, as 4x4x8"
            raise UserError(f"no topology {name!r}: slices of {kind} are {', '.join(SMALL)}, {whole}")
        held = CHIPS
    if chips // held > HOSTS:
        raise UserError(f"no topology {name!r}: it has more than {HOSTS} hosts")
    return Topology(name, kind, sides, chips // held, held)
