"""What a planned job costs: hours, chip-hours and money of an epoch, and memory of a host."""

import math
from typing import Any, NamedTuple

from jaxneg.config import Config
from jaxneg.data import pipeline
from jaxneg.plan import tpu
from jaxneg.plan.timing import Range

EVENT = 21  # bytes of an event in the columns of a store: item, feedback, station, time, group
SESSION = 32  # bytes of a session in its indices
# Of its devices' state that a host may hold while it saves: what came from them, and what is being written of it.
COPIES = 2


class Epoch(NamedTuple):
    """One pass over the training sequences."""

    sequences: int
    per_row: float = 0.0  # sequences that a packed row holds on average; 0 where each has a row of its own
    store_bytes: int = 0  # of a store's files; 0 where there is none


UNKNOWN = Epoch(0)


def of_epoch(epoch: Epoch, at_once: float, step: Range, where: tpu.Slice, price: float) -> dict[str, Any]:
    """Steps, hours, chip-hours and money of an epoch.

    Args:
      epoch: how much there is to train on.
      at_once: sequences of a step.
      step: seconds of one.
      where: devices.
      price: of a chip and hour; 0 where it is not known.
    """
    steps = math.ceil(epoch.sequences / at_once)
    hours = Range(*(steps * seconds / 3600 for seconds in step))
    found: dict[str, Any] = {"sequences": epoch.sequences, "steps": steps, "hours": hours._asdict()}
    found["chip_hours"] = hours.times(where.chips)._asdict()
    found["money"] = hours.times(where.chips * price)._asdict() if price else None
    return found


def of_host(
    config: Config, epoch: Epoch, where: tpu.Slice, batch_bytes: int, state_bytes: int
) -> dict[str, Any]:
    """Bytes of memory that one host needs beside Python and JAX.

    A store is read through the page cache, so that its part may be less, and reading then slower. A host that draws
    blocks of its own (``--data.blocks``) reads its share of the store and makes its share of a batch; else all of both.

    Args:
      config: the experiment.
      epoch: what there is to train on.
      where: devices, and how many hosts they have.
      batch_bytes: of the global batch.
      state_bytes: on one device.
    """
    data, hosts = config.data, where.hosts
    apart = hosts if data.blocks > 1 and data.blocks % hosts == 0 else 1
    store = epoch.store_bytes or epoch.sequences * (data.length * EVENT + SESSION)
    if data.shuffle_block:
        pools = 2 * data.shuffle_pool * data.shuffle_block * data.length * EVENT
        parts = {"pools of shuffled sequences": min(pools, store)}
    else:
        parts = {"store, in the page cache": store // apart}
    parts["batches made ahead"] = (pipeline.AHEAD + 1) * batch_bytes // apart
    parts["state while it is saved"] = COPIES * state_bytes * len(where.devices) // hosts
    return {
        "hosts": hosts,
        "parts": parts,
        "bytes": sum(parts.values()),
        "reads_all": hosts > 1 and apart == 1,
    }
