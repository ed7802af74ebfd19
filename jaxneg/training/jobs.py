"""What is trained on what, and how a person is told of it."""

import collections
import math
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import jax

from jaxneg.config import Config
from jaxneg.data import pipeline, stores
from jaxneg.training import program, validation

TIMED = 5  # steps after which it is said how long the others will take


class Job(NamedTuple):
    """What a run is of: the same from its first step to its last."""

    config: Config
    workdir: pathlib.Path
    store: stores.Store
    batches: pipeline.TrainBatches
    built: program.Program
    validation: validation.Validation

    @property
    def per_epoch(self) -> int:
        return self.batches.steps_per_epoch

    @property
    def total(self) -> int:
        """Steps of the whole run."""
        return self.config.train.epochs * self.per_epoch


def opening(job: Job, params: Mapping[str, jax.Array], step: int) -> Iterator[str]:
    """Lines for the start of a run: devices, mesh, parameters, store, steps, and where results go.

    Args:
      job: that starts.
      params: of the model.
      step: at which it goes on.
    """
    mesh, counts = job.built.layout.mesh, job.store.metadata.counts
    kinds = collections.Counter(device.device_kind for device in mesh.devices.flat)
    axes = " x ".join(f"{name} {size}" for name, size in mesh.shape.items())
    yield f"train devices     {', '.join(f'{n} {kind}' for kind, n in kinds.items())}; mesh {axes}"
    model, rows = (
        sum(math.prod(leaf.shape) for leaf in tree.values()) for tree in (params, job.built.state.tables)
    )
    yield f"train parameters  {model:,} of the model and {rows:,} in item tables"
    held = ", ".join(f"{counts[name]:,} {name}" for name in ("items", "users", "events"))
    yield f"train store       {job.config.data.store}: {held}; {job.batches.spans:,} training sequences"
    form = job.batches.form
    if form.packed:
        sequences = f"{job.batches.sequences_per_step:,.0f} sequences on average"
        yield f"train batches     {sequences}, packed into {form.held:,} rows of {form.length} positions"
    begun = f", from step {step:,} on" if step else ""
    yield f"train steps       {job.per_epoch:,} an epoch, {job.total:,} in all{begun}"
    yield f"train results     {job.workdir}"


class Forecast:
    """Says once how long the rest of a job will take, by its first steps after compiling."""

    def __init__(self, job: Job, say: Callable[[str], None]):
        self._job, self._say, self._said = job, say, False

    def __call__(self, step: int, steps: int, seconds: float) -> None:
        """Takes in that the ``steps`` before ``step`` took so many seconds."""
        job = self._job
        if self._said or steps < min(TIMED, job.total - step):
            return
        self._said, each = True, seconds / steps
        epoch, rest = spoken(each * job.per_epoch), spoken(each * (job.total - step))
        self._say(f"train time        about {epoch} an epoch and {rest} to the end, with validations on top")


def spoken(seconds: float) -> str:
    """A span of time to two figures: "40 s", "3.5 min", "12 h"."""
    for unit, size in (("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * size:
            return f"{seconds / size:.2g} {unit}" if seconds < 100 * size else f"{seconds / size:,.0f} {unit}"
    return f"{seconds:.2g} s" if seconds < 100 else f"{seconds:.0f} s"
