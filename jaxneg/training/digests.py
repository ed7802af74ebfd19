"""Whether all processes hold the same state: sums of what lies on each device, compared where it should be alike.

Processes never read each other's copies of an array, so that a bit which one of them got wrong, in memory or in a sum,
would stay and spread. Of a part of a table that one device alone holds there is nothing to compare it with.
"""

# jax.block_until_ready leaves its arguments untyped.
# pyright: reportUnknownMemberType=false

import collections
import socket
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import jax
import numpy as np
from jax.experimental import multihost_utils

from jaxneg.training import checkpoint, processes

Path = tuple[Any, ...]

EVERY = 50  # steps between comparisons, beside those before each save
SLOW = 2.0  # times as long as the others for the same sums
IN_A_ROW = 4  # times, after which a process is called slow


class Held(NamedTuple):
    """An array, and who holds which part of it: devices of a group hold the same."""

    name: str
    group_K: tuple[int, ...]  # of each device, those of process 0 first


class Digests:
    """Compares the state of all processes, where there are many.

    Args:
      say: told a line when a process is slow.
    """

    def __init__(self, say: Callable[[str], None]):
        self._say, self._last, self._held = say, 0, dict[int, list[Held]]()
        self._slow, self._named = collections.Counter[int](), set[int]()
        if processes.many():
            processes.publish("host", socket.gethostname())

    def due(self, step: int) -> bool:
        """Whether a comparison is due that nothing else asks for."""
        return processes.many() and step - self._last >= EVERY

    def __call__(self, step: int, *trees: object) -> float:
        """Compares arrays with those of the other processes; the seconds that it took once they were there.

        Raises processes.Differs, on all of them, naming those that hold something else than most.

        Args:
          step: that they are of.
          trees: of arrays on all devices.
        """
        if not processes.many():
            return 0.0
        self._last = step
        jax.block_until_ready(trees)
        began = time.perf_counter()
        own_KA = sums(jax.tree.leaves(trees))
        micros = np.full((len(own_KA), 1), min((time.perf_counter() - began) * 1e6, 1 << 30), np.uint32)
        told = multihost_utils.process_allgather(np.concatenate([own_KA, micros], axis=1))
        every_KA = np.asarray(told).reshape(-1, own_KA.shape[1] + 1)
        held = self._held.setdefault(own_KA.shape[1], []) or holders(trees)
        self._held[own_KA.shape[1]] = held
        among = len(every_KA) // len(own_KA)
        if found := odd(held, every_KA[:, :-1]):
            raise processes.Differs(_line(step, found, len(own_KA), among), {k // len(own_KA) for k in found})
        self._note([float(one) for one in every_KA[:: len(own_KA), -1]])
        return time.perf_counter() - began

    def _note(self, time_P: list[float]) -> None:
        """Names processes that took longer than the others for the same, time after time."""
        for process, taken in enumerate(time_P):
            usual = statistics.median(time_P[:process] + time_P[process + 1 :])
            self._slow[process] = self._slow[process] + 1 if taken > SLOW * usual else 0
            if self._slow[process] == IN_A_ROW and process not in self._named:
                self._named.add(process)
                self._say(
                    f"train warning: {_named(process)} takes {taken / max(usual, 1.0):.1f} times as long as the "
                    "others for the same sums, and all wait for it at each step"
                )


def sums(leaves: Sequence[jax.Array]) -> np.ndarray:
    """A sum of each array on each device of this process, of what lies there: uint32_KA."""
    by_device: dict[jax.Device, list[jax.Array]] = {device: [] for device in jax.local_devices()}
    for leaf in leaves:
        for shard in leaf.addressable_shards:
            by_device[shard.device].append(shard.data)
    return np.array([checkpoint.sums(own) for own in by_device.values()], np.uint32)


def holders(trees: object) -> list[Held]:
    """Who holds which part of each array."""
    # As local devices are listed, process by process.
    devices = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
    found: list[Held] = []
    for path, leaf in cast(list[tuple[Path, jax.Array]], jax.tree_util.tree_leaves_with_path(trees)):
        places = leaf.sharding.devices_indices_map(leaf.shape)
        names = [str(places[device]) for device in devices]
        found.append(Held(jax.tree_util.keystr(path[1:]), tuple(names.index(name) for name in names)))
    return found


def odd(held: Sequence[Held], sum_KA: np.ndarray) -> dict[int, list[str]]:
    """Devices that hold something else than most of their group, with the names of the arrays; all of a group that has
    no majority.

    Args:
      held: the arrays.
      sum_KA: uint32, of each array on each device.
    """
    found: dict[int, list[str]] = collections.defaultdict(list)
    for array, sum_K in zip(held, sum_KA.T.tolist(), strict=True):
        groups: dict[int, list[int]] = collections.defaultdict(list)
        for k, group in enumerate(array.group_K):
            groups[group].append(k)
        for group in groups.values():
            (most, count), *_ = collections.Counter(sum_K[k] for k in group).most_common(1)
            unsure = 1 < 2 * count <= len(group)
            for k in group:
                if unsure or sum_K[k] != most:
                    found[k].append(array.name)
    return dict(found)


def _line(step: int, found: dict[int, list[str]], local: int, among: int) -> str:
    """What a person is told."""
    suspects = sorted({k // local for k in found})
    names = list(dict.fromkeys(name for one in found.values() for name in one))
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    who = ", ".join(_named(process) for process in suspects)
    if len(suspects) == 1:
        who += f" holds another state than the other {among - 1}"
    else:
        who += " hold different states, and which is right cannot be said"
    return f"{who} at step {step}: {names[0]}{more} differ{'s' * (not more)}; nothing of it was saved"


def _named(process: int) -> str:
    return f"process {process} ({processes.published('host', process)})"
