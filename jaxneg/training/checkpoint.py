"""Checkpoints of a run by orbax: the latest ones to continue from, and the best one to keep.

Each holds a checksum of its state, made on the device, and one of its progress; a checkpoint that comes back otherwise
than it was saved is damaged.
"""

# jax.jit and lax.broadcasted_iota leave their arguments untyped.
# pyright: reportUnknownMemberType=false

import contextlib
import gc
import logging
import math
import pathlib
import shutil
import sys
import time
import types
from collections.abc import Callable, Generator
from typing import Any, TypeVar, cast

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as policies

from jaxneg import errors, files
from jaxneg.errors import UserError
from jaxneg.files import documents

Tree = TypeVar("Tree")  # of arrays, or of their shapes and places

SUMS = "state_sums"  # among the progress
TRIES, WAIT = 40, 0.05  # s; until what orbax gave up has ended
KEPT = "those before it stand, and the same command continues from there"


def latest(directory: pathlib.Path) -> int:
    """The last step of which a directory holds a whole checkpoint; 0 without any."""
    return max(files.numbered(directory), default=0)


class Checkpointer:
    """Saves (state, progress) by step; the two latest and the best survive.

    ``progress`` is a JSON object of what the loop knows beside the device's state. Saving runs in the background; a
    crash while saving leaves the checkpoints before it.

    Args:
      directory: holds a directory per step.
      read_only: change nothing there, as the run may still be training: neither what it has only half saved, nor
        checkpoints that cannot be read.
    """

    def __init__(self, directory: pathlib.Path, *, read_only: bool = False):
        self._directory, self._read_only = directory, read_only
        self._saved: int | None = None
        # Not orbax's own read_only, which warns of every setting that it implies.
        options = ocp.CheckpointManagerOptions(
            preservation_policy=policies.AnyPreservationPolicy(
                [policies.LatestN(2), policies.BestN(get_metric_fn=lambda metrics: metrics["score"], n=1)]
            ),
            create=not read_only,
            cleanup_tmp_directories=False,  # which tries once: see _clear
        )
        if not read_only and jax.process_index() == 0:
            _clear(directory)
        try:
            for step in files.numbered(directory):  # of each the manager reads what it is, and its score
                _check_files(directory / str(step), "*")
            with _quiet():
                self._manager = ocp.CheckpointManager(directory.absolute(), options=options)
        except (
            Exception
        ) as error:  # it reads what it finds there, and raises whatever its storage layer raises
            if errors.refused(error) or errors.trouble(error) is not None:
                raise
            raise UserError(
                f"the checkpoints of {directory.parent} cannot be read, they are damaged: {_reason(error)}: "
                "choose a new --workdir"
            ) from error

    def save(self, step: int, state: object, progress: documents.Object, score: float) -> None:
        """Saves a state. ``score`` decides the best; give -inf, never NaN, where there is none."""
        assert not self._read_only
        progress = documents.sealed({**progress, SUMS: sums(state)})
        with self._carried():  # also the end of the one before
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(state), progress=ocp.args.JsonSave(progress)
                ),
                metrics={"score": score},
            )
        self._saved = step

    def restore(
        self, abstract: Tree, step: int | None = None, say: Callable[[str], None] = lambda _: None
    ) -> tuple[Tree, dict[str, Any]] | None:
        """(state, progress) of a step, by default of the latest one that can be read whole; None if there is none.

        Later ones that are damaged are told to ``say``, and deleted unless read-only, so that the run can save those
        steps again. Raises UserError where the step, or all of them, are damaged.

        Args:
          abstract: shapes, dtypes and shardings of the state.
          step: of the checkpoint; None for the latest.
          say: told a line for each that is passed over.
        """
        steps = self.steps()[::-1] if step is None else [step]
        damaged: list[tuple[int, UserError]] = []
        for number in steps:
            try:
                found = self._read(number, abstract)
            except UserError as error:
                if number == steps[-1]:
                    raise
                damaged.append((number, error))
                continue
            for later, error in damaged:
                say(f"{error}; going on from checkpoint {number}")
                if step is None and not self._read_only:
                    self._manager.delete(later)
            return found
        return None

    def _read(self, number: int, abstract: Tree) -> tuple[Tree, dict[str, Any]]:
        try:
            with _quiet():
                return self._whole(number, abstract)
        except Exception as error:  # a damaged checkpoint raises whatever its storage layer raises
            if errors.refused(error):
                raise
            reason = _reason(error)
        with _quiet():
            _throw_away()
        raise UserError(
            f"checkpoint {number} of {self._directory.parent} cannot be read, it is damaged: {reason}"
        )

    def _whole(self, number: int, abstract: Tree) -> tuple[Tree, dict[str, Any]]:
        _check_files(self._directory / str(number))
        args = ocp.args.Composite(state=ocp.args.StandardRestore(abstract), progress=ocp.args.JsonRestore())
        found = self._manager.restore(number, args=args)
        state = found["state"]
        if not isinstance(found["progress"], dict):
            raise documents.Wrong("its progress is no object")
        progress = cast(dict[str, Any], found["progress"])
        told = progress.pop(documents.SEAL, None)
        expected = progress.get(SUMS)
        if told is not None:
            documents.check_seal(progress, told)
            if expected != sums(state):
                raise documents.Wrong("its arrays are not those that were saved")
        progress.pop(SUMS, None)
        return state, progress

    def prune(self, best: int) -> None:
        """Deletes all but the two latest and the best step, also those of before a restart, which orbax leaves."""
        steps = self.steps()
        for step in set(steps) - {best, *steps[-2:]}:
            self._manager.delete(step)

    def steps(self) -> list[int]:
        return sorted(self._manager.all_steps())

    def check(self) -> None:
        """Raises what went wrong in the background since it was asked last."""
        with self._carried():
            self._manager.check_for_errors()

    def wait(self) -> None:
        """Returns once what was saved is on disk. Raises UserError where it is not, as a thread of orbax ended."""
        with self._carried():
            self._manager.wait_until_finished()
            if self._saved is not None and not (self._directory / str(self._saved)).is_dir():
                raise RuntimeError(f"no checkpoint of step {self._saved} came of it")

    def _carried(self) -> contextlib.AbstractContextManager[None]:
        return errors.carried(f"a checkpoint of {self._directory.parent} could not be saved", KEPT)

    def close(self) -> None:
        self._manager.close()


def _clear(directory: pathlib.Path) -> None:
    """Deletes checkpoints that are half saved, also where what saved them is still at it for a moment.

    A thread, a dying process or a network file system may add a file. What is left after all is in nobody's way, and
    the next run deletes it; orbax's own cleaning tries once, and has the next save fail.
    """
    for path in directory.glob(f"*{files.HALF}*"):
        for _ in range(TRIES):
            shutil.rmtree(path, ignore_errors=True)
            if not path.exists():
                break
            time.sleep(WAIT)


def _check_files(directory: pathlib.Path, pattern: str = "**/*") -> None:
    """Raises documents.Wrong where something lies in a checkpoint that is no file and may never end, as a pipe."""
    for path in directory.glob(pattern):
        if path.exists() and not path.is_dir() and not path.is_file():
            raise documents.Wrong(f"{path.relative_to(directory)} is no file")


def sums(state: object) -> list[int]:
    """A checksum of each array of a state, the same on any number of devices: sum of bits_i * odd_i mod 2^32.

    An odd factor loses no bit, so one changed value is told for certain, and all else but with chance 2^-32.
    """
    return np.asarray(_sums(jax.tree.leaves(state))).tolist()


def _stacked(leaves: list[jax.Array]) -> jax.Array:
    return jnp.stack([_sum(leaf) for leaf in leaves])


_sums: Callable[[list[jax.Array]], jax.Array] = jax.jit(_stacked)


def _sum(leaf: jax.Array) -> jax.Array:
    if leaf.dtype == jnp.bool_:
        leaf = leaf.astype(jnp.uint8)
    bits = jax.lax.bitcast_convert_type(leaf, jnp.dtype(f"uint{8 * leaf.dtype.itemsize}")).astype(jnp.uint32)
    place, stride = jnp.zeros(leaf.shape, jnp.uint32), 1
    for axis in reversed(range(leaf.ndim)):
        place += jax.lax.broadcasted_iota(jnp.uint32, leaf.shape, axis) * jnp.uint32(stride % (1 << 32))
        stride *= leaf.shape[axis]
    # Spread out, so that places side by side do not weigh almost alike.
    odd = (place * jnp.uint32(0x9E3779B1)) ^ jnp.uint32(math.prod(leaf.shape) % (1 << 32))
    return (bits * (odd << 1 | 1)).sum(dtype=jnp.uint32)


@contextlib.contextmanager
def _quiet() -> Generator[None, None, None]:
    """Without what orbax and its tasks say, traceback and all, of errors that are raised as well."""
    loggers = [logging.getLogger(name) for name in ("absl", "asyncio")]
    levels, hook = [logger.level for logger in loggers], sys.unraisablehook
    try:
        sys.unraisablehook = lambda _: None
        for logger in loggers:
            logger.setLevel(logging.CRITICAL + 1)
        yield
    finally:
        sys.unraisablehook = hook
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _throw_away() -> None:
    """Returns once the tasks that orbax gave up are gone, which complain as they go; some wait for a read to end."""
    task = types.CoroutineType
    for _ in range(TRIES):
        gc.collect()
        # All are looked at, so that none stays in hand.
        if not sum("orbax" in one.cr_code.co_filename for one in gc.get_objects() if type(one) is task):
            return
        time.sleep(WAIT)


def _reason(error: BaseException) -> str:
    return errors.first_line(error, 160) or type(error).__name__
