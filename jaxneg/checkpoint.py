"""Checkpoints of a run by orbax: the latest ones to continue from, and the best one to keep."""

import pathlib
from typing import Any

import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as policies

from jaxneg import errors


def latest(directory: pathlib.Path) -> int:
    """The last step of which a directory holds a whole checkpoint; 0 without any."""
    names = (path.name for path in directory.iterdir()) if directory.is_dir() else ()
    return max((int(name) for name in names if name.isdigit()), default=0)


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
        self._read_only = read_only
        # Not orbax's own read_only, which warns of every setting that it implies.
        self._manager = ocp.CheckpointManager(
            directory.absolute(),
            options=ocp.CheckpointManagerOptions(
                preservation_policy=policies.AnyPreservationPolicy(
                    [policies.LatestN(2), policies.BestN(get_metric_fn=lambda metrics: metrics["score"], n=1)]
                ),
                create=not read_only,
                cleanup_tmp_directories=not read_only,
            ),
        )

    def save(self, step: int, state: Any, progress: dict[str, Any], score: float) -> None:
        """Saves a state. ``score`` decides the best; give -inf, never NaN, where there is none."""
        assert not self._read_only
        self._manager.save(
            step,
            args=ocp.args.Composite(state=ocp.args.StandardSave(state), progress=ocp.args.JsonSave(progress)),
            metrics={"score": score},
        )

    def restore(self, abstract: Any, step: int | None = None) -> tuple[Any, dict[str, Any]] | None:
        """(state, progress) of a step, by default of the latest one that can be read whole; None if there is none.

        Later ones that cannot be read are deleted unless read-only, so that the run can save those steps again.
        Raises what orbax raises where checkpoints exist but none can be read.

        Args:
          abstract: shapes, dtypes and shardings of the state.
        """
        steps = self.steps()[::-1] if step is None else [step]
        for number in steps:
            args = ocp.args.Composite(
                state=ocp.args.StandardRestore(abstract), progress=ocp.args.JsonRestore()
            )
            try:
                found = self._manager.restore(number, args=args)
            except Exception as error:  # a damaged checkpoint raises whatever its storage layer raises
                if number == steps[-1] or errors.refused(error):
                    raise
                continue
            if step is None and not self._read_only:
                for damaged in steps[: steps.index(number)]:
                    self._manager.delete(damaged)
            return found["state"], found["progress"]
        return None

    def prune(self, best: int) -> None:
        """Deletes all but the two latest and the best step, also those of before a restart, which orbax leaves."""
        steps = self.steps()
        for step in set(steps) - {best, *steps[-2:]}:
            self._manager.delete(step)

    def steps(self) -> list[int]:
        return sorted(self._manager.all_steps())

    def check(self) -> None:
        """Raises what went wrong in the background since it was asked last."""
        self._manager.check_for_errors()

    def wait(self) -> None:
        """Returns once what was saved is on disk."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        self._manager.close()
