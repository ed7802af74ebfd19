"""Work that is parted among many processes, and what each has found of it on all of them.

A single process has all of the work, and nothing to exchange.
"""

import io
import itertools
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar, cast

import jax
import numpy as np
from jax.experimental import multihost_utils

from jaxneg.training import processes

Work = TypeVar("Work")
Arrays = Mapping[str, np.ndarray]  # by name, of numbers or of text

LONGEST = 6 * 3600.0  # seconds that the others wait for the slowest; one that dies is noticed before
_calls = itertools.count()


def own(work: Sequence[Work]) -> list[Work]:
    """What this process does of work whose pieces cost alike, or nobody knows: every N-th piece."""
    if not processes.many():
        return list(work)
    return list(work[jax.process_index() :: jax.process_count()])


def run(count: int, unit: int = 1) -> range:
    """The run of pieces, out of ``count``, that this process does: as many as the others have, in whole units."""
    if not processes.many():
        return range(count)
    units, number, among = -(-count // unit), jax.process_index(), jax.process_count()
    first, last = (min(units * n // among * unit, count) for n in (number, number + 1))
    return range(first, last)


def gathered(found: Arrays) -> list[dict[str, np.ndarray]]:
    """What each process has found, on all of them and in their order; waits until all have."""
    if not processes.many():
        return [dict(found)]
    settle()
    file = io.BytesIO()
    np.savez(file, allow_pickle=False, **found)
    own_N = np.frombuffer(file.getvalue(), np.uint8)
    # Lengths as two numbers, as 64 bits are not exchanged.
    lengths = multihost_utils.process_allgather(np.array(divmod(len(own_N), 1 << 30), np.int32))
    size_P = [int(high) * (1 << 30) + int(low) for high, low in np.asarray(lengths)]
    every_PN = np.asarray(multihost_utils.process_allgather(np.pad(own_N, (0, max(size_P) - len(own_N)))))
    parts: list[dict[str, np.ndarray]] = []
    for own_N, size in zip(every_PN, size_P, strict=True):
        with np.load(io.BytesIO(own_N[:size].tobytes()), allow_pickle=False) as file:
            parts.append({name: file[name] for name in file.files})
    return parts


def flat(values: Mapping[Any, Any]) -> dict[str, np.ndarray]:
    """Arrays of mappings in mappings, as ``gathered`` takes them: by their keys with / between, which none holds."""
    found: dict[str, np.ndarray] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            inner = flat(cast(Mapping[Any, Any], value))
            found |= {f"{key}/{path}": leaf for path, leaf in inner.items()}
        else:
            found[str(key)] = np.asarray(value)
    return found


def nested(found: Arrays) -> dict[str, Any]:
    """The inverse, but that all keys are text and an empty mapping is gone."""
    values: dict[str, Any] = {}
    for path, leaf in found.items():
        *outer, key = path.split("/")
        at = values
        for each in outer:
            at = at.setdefault(each, {})
        at[key] = leaf
    return values


def settle() -> None:
    """Returns once all processes have come to this place."""
    with processes.together(f"parted/{next(_calls)}", seconds=LONGEST):
        pass
