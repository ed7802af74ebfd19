"""Several processes that serve at one address, under one that starts again whichever ends.

Each has models, threads and an interpreter of its own. The system shares connections out among their sockets
(SO_REUSEPORT), which the first process keeps open: what came to a process that died waits for the one in its place.
They share a directory: of figures, as prometheus_client keeps those of many processes, and of word that an export is
to be looked at again.
"""

import contextlib
import multiprocessing
import os
import pathlib
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing import connection
from multiprocessing.context import SpawnProcess
from typing import Any, NamedTuple

from jaxneg import errors, progress, signals
from jaxneg.errors import UserError

LOOK = 0.2  # seconds between looks for a signal, and for word of the others
SOON = 0.02  # and for the first to serve
# Seconds before a process that ended before it served is started again, doubled each time.
PAUSE, LONGEST = 0.5, 30.0
FIGURES = "PROMETHEUS_MULTIPROC_DIR"  # which prometheus_client reads when it is imported
WORD = "exports"  # file that is touched when one was opened anew
MISTAKE = 2  # exit code

_spawn = multiprocessing.get_context("spawn")

# A socket that listens and a call for when all is ready -> serves until it is told to end.
Work = Callable[[socket.socket, Callable[[], None]], None]


class Group:
    """What a process knows of those beside it."""

    def __init__(self, directory: str | os.PathLike[str]):
        self._word = pathlib.Path(directory) / WORD

    def tell(self) -> None:
        """Has the others look at the exports."""
        with contextlib.suppress(OSError):  # the others may be ending
            self._word.touch()

    def listen(self, heard: Callable[[], None], ended: threading.Event) -> None:
        """Calls ``heard`` after each word, until the end."""
        last = self._stamp()
        while not ended.wait(LOOK):
            if (now := self._stamp()) != last:
                last = now
                heard()

    def _stamp(self) -> int:
        try:
            return self._word.stat().st_mtime_ns
        except OSError:
            return 0


class _Running(NamedTuple):
    process: SpawnProcess
    served: Any  # memory that both have: 1 once it serves


class Workers:
    """As many processes as there are sockets."""

    def __init__(
        self, work: Work, sockets: list[socket.socket], directory: str | os.PathLike[str], grace: float
    ):
        """Args:
        work: of each; it is pickled.
        sockets: that are bound, one for each.
        directory: that they share; theirs alone.
        grace: seconds that what is under way has when they are told to end.
        """
        self._work, self._sockets, self._directory, self._grace = work, sockets, directory, grace
        self._running: dict[int, _Running] = {}
        self._pauses = dict.fromkeys(range(len(sockets)), PAUSE)
        os.environ[FIGURES] = str(directory)

    def run(self, ready: Callable[[], None]) -> None:
        """Serves until a signal comes. ``ready`` is called once the first serves, and the others are started then.

        So what is wrong with an export is said once, and one compiles for all. Raises SystemExit where it ends before
        it serves.
        """
        with signals.deferred(), self._ending():
            self._start(0)
            if not self._begun(*self._running[0]):
                return
            ready()
            for at in range(1, len(self._sockets)):
                self._start(at)
            while not signals.came():
                self._look()

    def _start(self, at: int) -> None:
        served = _spawn.RawValue("b", 0)
        process = _spawn.Process(
            target=_serve, args=(self._work, self._sockets[at], served), name=f"worker {at + 1}"
        )
        process.start()
        self._running[at] = _Running(process, served)

    def _begun(self, process: SpawnProcess, served: Any) -> bool:
        """Waits until a process serves: whether it does. False after a signal."""
        while not (served.value or signals.came()):
            if connection.wait([process.sentinel], SOON):
                process.join()
                raise SystemExit(MISTAKE if process.exitcode == MISTAKE else 1)
        return not signals.came()

    def _look(self) -> None:
        """Starts again what has ended."""
        sentinels = {one.process.sentinel: at for at, one in self._running.items()}
        for sentinel in connection.wait([*sentinels], LOOK):
            at = sentinels[sentinel]  # pyright: ignore[reportArgumentType]
            process, served = self._running[at]
            process.join()
            if signals.came():
                return
            pause = 0.0 if served.value else self._pauses[at]
            self._pauses[at] = PAUSE if served.value else min(2 * pause, LONGEST)
            self._forget(process)
            progress.say(
                f"jaxneg: {process.name} of {len(self._sockets)} ended {_by(process)}: it is started again"
            )
            until = time.monotonic() + pause
            while time.monotonic() < until and not signals.came():
                time.sleep(LOOK)
            if not signals.came():
                self._start(at)

    def _forget(self, process: SpawnProcess) -> None:
        """Takes what a process had under way out of the figures."""
        from prometheus_client import multiprocess

        multiprocess.mark_process_dead(process.pid, str(self._directory))

    @contextlib.contextmanager
    def _ending(self) -> Iterator[None]:
        """Ends all processes, whatever comes."""
        try:
            yield
        finally:
            running = [one.process for one in self._running.values() if one.process.is_alive()]
            for process in running:
                process.terminate()
            until = time.monotonic() + self._grace + 5
            for process in running:
                process.join(max(0.0, until - time.monotonic()))
            for process in running:
                process.kill()


def _by(process: SpawnProcess) -> str:
    code = process.exitcode or 0
    return f"by {signal.Signals(-code).name}" if code < 0 else f"with {code}"


def _serve(work: Work, bound: socket.socket, served: Any) -> None:
    """What a process does."""

    def ready() -> None:
        served.value = 1

    signals.open_streams()
    threading.Thread(target=_follow, daemon=True).start()
    try:
        work(bound, ready)
    except UserError as error:
        progress.say(f"jaxneg: {errors.with_remedy(error)}")
        raise SystemExit(MISTAKE) from None
    except KeyboardInterrupt:  # Ctrl-C goes to all processes, and the first tells of it
        raise SystemExit(0) from None


def _follow() -> None:
    """Ends this process at once when the first was killed: nobody would start it again, and it holds the address."""
    first = multiprocessing.parent_process()
    assert first is not None
    connection.wait([first.sentinel])
    os._exit(128 + signal.SIGKILL)


def sockets(host: str, port: int, count: int) -> list[socket.socket]:
    """Sockets that are bound to one address and shared by as many processes. Raises OSError where another has it."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    made: list[socket.socket] = []
    try:
        # Not shared at first: sockets of another server that shares its own would take this one in.
        alone = socket.socket(family)
        made.append(alone)
        alone.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        alone.bind((host, port))
        if count == 1:
            return made
        alone.listen(1)  # two that are bound and do not listen would not be in each other's way
        port = alone.getsockname()[1]
        made.pop().close()
        for _ in range(count):
            made.append(socket.socket(family))
            made[-1].setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            made[-1].bind((host, port))
    except OSError:
        for one in made:
            one.close()
        raise
    return made
