"""GPUs that are not there, by roofline: published figures, and the step as it is compiled for so many CPU devices.

Low is what no run can beat, as far as is known: the longest of products at the published peak of their dtype, of what
products read and write and of rows looked up and changed at HBM's published rate, and of links at theirs. High takes
products at ``GOOD`` of the peak, all bytes of the program as compiled for a CPU at ``GOOD`` of HBM's rate, ``LAUNCH``
for each of its operations and links at ``GOOD`` of theirs, and adds all up. A CPU's compiler fuses otherwise than a
GPU's and may widen bfloat16, so that bytes are too many rather than too few.
"""

from collections.abc import Sequence

import jax

from jaxneg.errors import UserError
from jaxneg.plan import hlo, machines, timing, work
from jaxneg.plan.timing import Range

GOOD = 0.5  # of a published figure
LAUNCH = 4e-6  # seconds that a kernel takes at most beside its work
WAIT = 30e-6  # seconds that a collective takes at most beside its bytes


def devices(count: int) -> Sequence[jax.Device]:
    """So many CPU devices to compile for. Raises UserError where JAX has fewer and has been used already."""
    jax.config.update("jax_platforms", "cpu")
    try:
        jax.config.update("jax_num_cpu_devices", count)
    except RuntimeError:
        pass  # JAX has its devices already
    found = jax.devices("cpu")
    if len(found) < count:
        raise UserError(
            f"planning for {count} GPUs needs as many CPU devices, and JAX was started with {len(found)}"
        )
    return found[:count]


def card(topology: machines.Topology) -> machines.Gpu:
    """The figures of a make. Raises UserError where none are known."""
    found = topology.gpu
    if found is None or not found.rate:
        known = ", ".join(name for name, make in machines.GPUS.items() if make.rate)
        raise UserError(
            f"no figures of {topology.kind!r} to plan {topology.name} with: there are some of {known}"
        )
    return found


def estimate(text: str, flop: float, own: machines.Gpu, host: int, peak: float) -> timing.Estimate:
    """The estimate of a step.

    Args:
      text: ``compiled.as_text()`` for CPU devices.
      flop: of the step on one device, by XLA, of the program as it was written.
      own: the make.
      host: GPUs of a host.
      peak: FLOP/s of a device in products of the model's dtype.
    """
    rate = own.rate * 1e9
    done = work.works(text)
    flop = max(flop, sum(each.times * each.flop for each in done))
    needed = sum(each.times * each.hbm for each in done if each.flop or each.kind in ("gather", "scatter"))
    rows = sum(each.times * each.hbm for each in done if each.kind in ("gather", "scatter"))
    moved = [each for each in done if each.kind not in ("link", "scalar")]
    total = sum(each.times * each.hbm for each in moved)
    parts = {
        "products": Range(flop / peak, flop / peak / GOOD),
        "memory": Range((needed - rows) / rate, (total - rows) / rate / GOOD),
        "rows": Range(rows / rate, rows / rate / GOOD),
        "launches": Range(0.0, LAUNCH * sum(each.times for each in moved)),
        "links": links(hlo.program(text).collectives, own, host),
    }
    low = max(parts["products"].low, needed / rate, parts["links"].low)
    found = Range(low, sum(part.high for part in parts.values()))
    return timing.gathered(found, parts, done, flop)


def links(collectives: Sequence[hlo.Collective], own: machines.Gpu, host: int) -> Range:
    """Seconds of collectives: within a host by its links; beyond it each GPU has a share of the network.

    Rings pass a host once, so that what each of its GPUs would send goes through all its network cards together; from
    all to all each GPU sends what is for other hosts through its own.
    """
    least = 0.0
    for each in collectives:
        seconds = each.sent / (own.link * 1e9)
        if each.group > host:
            beyond = each.sent / host
            if each.kind.endswith("all-to-all"):
                beyond = each.sent * (each.group - host) / (each.group - 1)
            seconds = max(seconds, beyond / (own.net * 1e9))
        least += seconds
    return Range(least, least / GOOD + WAIT * sum(each.times for each in collectives))
