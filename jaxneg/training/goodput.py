"""Where the time of a run goes, over all its starts, and a sign of life while it runs.

Goodput is the share of the time since a run was first launched in which its steps were computed; the first step of a
process compiles and counts as that. What a crash undid is told from what was kept by the latest checkpoint, and the
time in which no process was there from the last sign of life, ``heartbeat.json`` of the run directory, which a
scheduler may watch as well, to the launch of the next process.
"""

import contextlib
import json
import os
import pathlib
import socket
import time
from collections.abc import Callable, Generator
from typing import NotRequired, TypedDict

from jaxneg import files
from jaxneg.errors import UserError
from jaxneg.files import documents
from jaxneg.training import records
from jaxneg.training.history import Progress

HEARTBEAT = "heartbeat.json"
TOLD = ("wall_seconds", "goodput", "time_spent")  # of what result.json holds
IMPORTED = time.time()
EVERY = 1.0  # seconds between signs of life, at least
# What time goes into beside steps, in the order in which it is told.
COMPILING, WAITING, VALIDATING, SAVING = "compiling", "waiting for batches", "validating", "saving"
STARTING, OTHER, AGAIN, AWAY = "starting", "the rest", "done again after a restart", "with no process"


class Beat(TypedDict):
    """A sign of life."""

    time: float  # seconds since 1970
    step: documents.Count
    of: NotRequired[documents.Count]
    stage: NotRequired[str]
    host: NotRequired[str]
    process: NotRequired[documents.Count]
    began: float  # when the run did
    away: float  # seconds until now in which no process was there


class Clock:
    """The time of one part of a run, which adds to what ``progress`` knows of the parts before.

    Where the run had come to an end, the time since then counts for nothing.

    Args:
      directory: of the run.
      progress: of the checkpoint that this part begins with.
      since: when its process was launched, in seconds since 1970; None: now. What lies between is neither steps nor a
        pause, and not among ``seconds``.
      silent: give no sign of life, as a process that is not the first.
      now: seconds since 1970.
    """

    def __init__(
        self,
        directory: pathlib.Path,
        progress: Progress,
        *,
        since: float | None = None,
        silent: bool = False,
        now: Callable[[], float] = time.time,
    ):
        self._progress, self._silent, self._now = progress, silent, now
        self._path, self._told = directory / HEARTBEAT, -EVERY
        self._began, self._before = now(), progress.seconds
        self._left: documents.Object | None = None
        with contextlib.suppress(UserError):  # one that is damaged will be written anew
            self._left = records.left(directory)
        last = None if silent else beat(directory)
        last = None if last is None or last["time"] > self._began else last
        launched = self._began if since is None else min(since, self._began)
        if last is not None:
            launched = max(launched, last["time"])  # a process may train twice
            progress.away = max(progress.away, last["away"])
            progress.began = progress.began or last["began"]
        gap = 0.0 if last is None else launched - last["time"]
        self.count(STARTING, self._began - launched)
        progress.began = progress.began or launched
        if self._left is not None:
            progress.began += gap
        else:
            progress.away += gap

    @property
    def seconds(self) -> float:
        """Of the run so far, without what was lost and without pauses."""
        return self._before + max(0.0, self._now() - self._began)

    @contextlib.contextmanager
    def spent(self, what: str) -> Generator[None, None, None]:
        """Counts the time of the block for something that is no step."""
        began = self._now()
        try:
            yield
        finally:
            self.count(what, self._now() - began)

    def count(self, what: str, seconds: float) -> None:
        spent = self._progress.spent
        spent[what] = spent.get(what, 0.0) + max(0.0, seconds)

    def beat(self, step: int, of: int, stage: str) -> None:
        """Gives a sign of life, once a second at most. A disk that does not take it stops no training."""
        now = self._now()
        if self._silent or abs(now - self._told) < EVERY:
            return
        self._told = now
        sign: Beat = {
            "time": now,
            "step": step,
            "of": of,
            "stage": stage,
            "host": socket.gethostname(),
            "process": os.getpid(),
            "began": self._progress.began,
            "away": self._progress.away,
        }
        partial = files.scratch(self._path)
        with contextlib.suppress(OSError), files.unfinished(partial):
            partial.write_text(json.dumps(sign) + "\n", encoding="utf-8")
            os.replace(partial, self._path)  # not synced: after a crash of the machine an older one does

    def goodput(self, step: int) -> dict[str, object]:
        """What ``result.json`` says of the time of the run: ``wall_seconds``, ``goodput`` and ``time_spent``.

        ``time_spent`` has seconds by what they went into, which add up to ``wall_seconds``. Where nothing was left to
        train, since an end stands at this step, all is what that one said.
        """
        if self._left is not None and self._left["steps"] == step:
            return {name: self._left[name] for name in TOLD if name in self._left}
        progress, seconds = self._progress, self.seconds
        wall = max(self._began + seconds - self._before - progress.began, seconds)
        # Steps count until their results are there, so that what they waited for is among them.
        waited = min(progress.spent.get(WAITING, 0.0), progress.device_seconds)
        steps = progress.device_seconds - waited
        spent = {"steps": steps, COMPILING: progress.compile_seconds, WAITING: waited}
        spent |= {what: progress.spent.get(what, 0.0) for what in (VALIDATING, SAVING)}
        rest = max(0.0, seconds - sum(spent.values()))
        starting = min(progress.spent.get(STARTING, 0.0), wall - seconds)
        away = min(progress.away, wall - seconds - starting)
        spent |= {STARTING: starting, OTHER: rest, AGAIN: wall - seconds - starting - away, AWAY: away}
        return {"wall_seconds": wall, "goodput": steps / max(wall, 1e-9), "time_spent": spent}


def launched() -> float:
    """When this process was, in seconds since 1970: by the kernel, where it is Linux; else when this was imported."""
    with contextlib.suppress(OSError, ValueError, IndexError, AttributeError):
        # Of what follows the name, which may hold anything, the 20th field: clock ticks since the machine started.
        ticks = int(pathlib.Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
        if age >= 0.0:
            return time.time() - age
    return IMPORTED


def beat(directory: pathlib.Path) -> Beat | None:
    """The last sign of life of a run; None where there is none, or none that can be read."""
    with contextlib.suppress(OSError, documents.Wrong):
        found: Beat = documents.parsed(documents.content(directory / HEARTBEAT), Beat, more=True)
        if found["began"] <= found["time"] and 0 <= found["away"] <= found["time"] - found["began"]:
            return found
    return None
