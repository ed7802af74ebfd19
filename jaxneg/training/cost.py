"""What a step computes, counted before it runs, for the share of a device's peak that training reaches (MFU)."""

import contextlib
import dataclasses
from collections.abc import Mapping
from typing import cast

from jaxneg.models import layers
from jaxneg.training import chips, program
from jaxneg.training.jobs import Job


@dataclasses.dataclass(frozen=True)
class Cost:
    """FLOP of a step over all devices, and what these could do.

    Reference: Chowdhery et al., PaLM, 2022, arXiv:2204.02311, appendix B: model FLOP utilisation. XLA counts the
    program as it was written, before it is compiled: forward, backward, and what ``--model.remat`` computes again.
    Kernels are opaque to it, and what is written for a TPU multiplies zeros to keep its registers full: a step is
    counted with plain attention, and one for a TPU in the forms of a CPU.
    """

    flop: float  # of a step
    peak: float  # FLOP/s of all devices together

    def mfu(self, seconds: float) -> float:
        """Share of the peak of a step that takes so many seconds."""
        return self.flop / (self.peak * max(seconds, 1e-9))


def of(job: Job) -> Cost | None:
    """Of a job's step; None where no peak is known of its devices, as of CPUs."""
    mesh, config = job.built.layout.mesh, job.config
    peaks = [chips.peak(device.device_kind, config.model.dtype) for device in mesh.devices.flat]
    known = [peak for peak in peaks if peak is not None]
    if len(known) < len(peaks):
        return None
    built, tpu = job.built, mesh.devices.flat[0].platform == "tpu"
    if config.model.attention == "fused" or tpu:
        plain = dataclasses.replace(config, model=dataclasses.replace(config.model, attention="plain"))
        built = program.build(plain, program.catalogue_of(job.store), mesh, job.total, job.batches.form)
    # A TPU's is a program of its own: one keeps what it was traced for.
    with layers.traced_for("cpu") if tpu else contextlib.nullcontext():
        return _counted(built, sum(known))


def _counted(built: program.Program, peak: float) -> Cost | None:
    costs = built.update.lower(built.state, built.batch, built.attribute_VA).cost_analysis()
    flop = float(cast(Mapping[str, float], costs or {}).get("flops", 0.0))
    return Cost(flop, peak) if flop > 0 else None
