"""A trace of some steps, for TensorBoard's profile page and for Perfetto."""

# jax.profiler.start_trace leaves its arguments untyped.
# pyright: reportUnknownMemberType=false

import contextlib
import pathlib
from collections.abc import Callable

import jax

from jaxneg import errors

FOLDER = "profile"  # of a run's directory
WITHOUT = "give another --train.profile, or none"


class Trace:
    """Traces the steps that were asked for, those of them that this process takes.

    Args:
      steps: that are asked for.
      directory: of the run.
      say: told where the trace lies.
    """

    def __init__(self, steps: range, directory: pathlib.Path, say: Callable[[str], None]):
        self._steps, self._directory, self._say = steps, directory / FOLDER, say
        self._since: int | None = None
        self._reached = 0

    def __call__(self, step: int, settle: Callable[[int], object]) -> None:
        """Begins or ends the trace where ``step`` says so.

        Args:
          step: the next one to be taken.
          settle: called with it; returns once the steps before it are done.
        """
        self._reached = step
        if self._since is None and step in self._steps:
            settle(step)
            with self._carried():
                jax.profiler.start_trace(str(self._directory), create_perfetto_trace=True)
            self._since = step
        elif self._since is not None and step >= self._steps.stop:
            settle(step)
            self.close()

    def close(self) -> None:
        """Ends a trace that has begun, where there is one."""
        if self._since is None:
            return
        since, self._since, self._steps = self._since, None, range(0)
        with self._carried():
            jax.profiler.stop_trace()
        self._say(
            f"train profile     steps {since + 1:,} to {self._reached:,} in {self._directory}: open it with "
            "TensorBoard (pip install tensorboard-plugin-profile), or its perfetto_trace.json.gz at ui.perfetto.dev"
        )

    def _carried(self) -> contextlib.AbstractContextManager[None]:
        return errors.carried(f"the trace in {self._directory} could not be written", WITHOUT)
