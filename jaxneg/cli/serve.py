"""``jaxneg serve``: exports are served over HTTP."""

import functools
import gc
import importlib.util
import math
import os
import pathlib
import socket
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import tyro

from jaxneg import files, progress
from jaxneg.cli import commands
from jaxneg.config import fields
from jaxneg.errors import UserError

if TYPE_CHECKING:
    from jaxneg.serve import models, workers

TOKEN = "JAXNEG_SERVE_TOKEN"
LOOPBACK = ("127.0.0.1", "::1", "localhost")
COLLECTED = (50_000, 20, 50)  # new objects, and young collections, before the collector of garbage comes
GRACE = 10  # seconds for what is under way when the server is told to end


@dataclass(frozen=True)
class Serve:
    """Serves exports over HTTP: a page to try them on at /, JSON at /recommend and /feedback, the Open Inference
    Protocol at /v2.

    Ctrl-C or SIGTERM ends it when what is under way has been answered, within 10 s. Requests need a bearer token where
    JAXNEG_SERVE_TOKEN holds one."""

    exports: tyro.conf.Positional[
        Annotated[tuple[str, ...], tyro.conf.arg(metavar="[NAME=]DIR [[NAME=]DIR ...]")]
    ] = commands.REQUIRED
    """Directories that jaxneg export wrote; a name is by default that of the directory."""
    host: Annotated[str, tyro.conf.arg(metavar="ADDRESS")] = "127.0.0.1"
    """Where to listen: 0.0.0.0 is all of the machine."""
    port: Annotated[int, fields.Bounds(0, 65_535)] = 8000
    """0 takes a free one."""
    split: Annotated[tuple[str, ...], commands.several("NAME=SHARE", "alike")] = ()
    """Shares of the listeners that each model gets, by a hash of the user."""
    watch: Annotated[float, fields.Bounds(0.0, 86_400.0)] = 2.0
    """Seconds between looks for a new export in the place of one; 0 does not look."""
    waiting: fields.Positive = 256
    """Requests under way; more are answered with 503."""
    timeout: Annotated[float, fields.Bounds(0.01, 3_600.0)] = 5.0
    """Seconds until a request is given up with 503."""
    threads: fields.Natural = 0
    """Threads that score; 0 takes one for each core."""
    together: Annotated[float, fields.Bounds(0.0, 60.0)] = 0.05
    """Seconds that a batch of requests which came together may take; 0 answers each alone."""
    exact: commands.Flag = False
    """Look at all items, also where an export has an index."""
    sessions: Annotated[str, tyro.conf.arg(metavar="memory|none|URL")] = "memory"
    """Where the events of /feedback are kept: the server's memory, nowhere, or Redis or Valkey at redis://HOST:PORT."""
    workers: fields.Positive = 1
    """Processes that serve, each with the exports in a memory of its own."""

    def run(self) -> None:
        for check, given in ((named, self.exports), (shared, self.split)):
            check(given)  # what is wrong with them is said at once
        for name in ("fastapi", "threadpoolctl", "uvicorn"):
            if importlib.util.find_spec(name) is None:  # imported by what serves
                raise UserError(f"jaxneg serve needs {name}: pip install 'jaxneg[serve]'")
        from jaxneg.serve import sessions, workers

        sessions.check(self.sessions, self.workers)
        if self.workers == 1:
            self.serve(None, self._say)
            return
        bound = self._bound()
        with tempfile.TemporaryDirectory(prefix="jaxneg-serve-") as directory:
            work = functools.partial(_worked, self, directory)
            host, port = bound[0].getsockname()[:2]
            workers.Workers(work, bound, directory, GRACE).run(lambda: self._say(host, port))

    def serve(
        self,
        bound: socket.socket | None,
        ready: Callable[[str, int], None],
        group: "workers.Group | None" = None,
    ) -> None:
        """Serves in this process until it is told to end.

        Args:
          bound: to the address; bound here, once the exports are there, if None.
          ready: called with host and port when requests are answered.
          group: of the processes that serve at the address, if there are others.
        """
        import jax
        import threadpoolctl
        import uvicorn

        from jaxneg.serve import server, sessions, watching
        from jaxneg.training import compiled

        cores = max(1, (os.cpu_count() or 1) // self.workers)
        threads = self.threads or cores
        # Threads that each bring others of their own stand in one another's way: half of the lists in a second.
        each = max(1, cores // threads)
        threadpoolctl.threadpool_limits(each, "blas")
        for name in ("OMP_NUM_THREADS", "NPROC"):  # of an index by faiss, and of XLA
            os.environ.setdefault(name, str(each))
        # A model is small: it is run where it is asked, and no other thread is woken for it.
        jax.config.update("jax_cpu_enable_async_dispatch", False)
        # What reads and refuses requests waits no longer for what scores them.
        sys.setswitchinterval(0.0005)
        # A new start, and an export of the same shape as the one before, find their programs compiled.
        compiled.keep()
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.05)
        token, kept = os.environ.get(TOKEN, ""), sessions.opened(self.sessions)
        found = self.opened()
        limits = watching.Limits(
            waiting=math.ceil(self.waiting / self.workers),
            seconds=self.timeout,
            threads=threads,
            together=self.together,
        )
        settings = uvicorn.Config(
            server.app(found, limits, token, kept, group),
            log_level="warning",
            access_log=False,
            timeout_graceful_shutdown=GRACE,
        )
        ended = threading.Event()
        bound = bound or self._bound()[0]
        bound.listen(settings.backlog)  # who asks as soon as the address is said has to wait, and no more
        ready(*bound.getsockname()[:2])
        if self.watch:
            threading.Thread(target=_watch, args=(found, self.watch, ended), daemon=True).start()
        if group is not None:
            threading.Thread(target=group.listen, args=(found.reload_changed, ended), daemon=True).start()
        try:
            uvicorn.Server(settings).run(sockets=[bound])
        finally:
            ended.set()

    def opened(self) -> "models.Models":
        """The exports, each loaded and compiled. Raises UserError where one cannot be served."""
        from jaxneg.serve import models

        return models.Models(
            named(self.exports), shared(self.split), index=not self.exact, opened=leave_alone
        )

    def _bound(self) -> list[socket.socket]:
        """A socket for each process. Raises UserError where another has the address."""
        from jaxneg.serve import workers

        try:
            return workers.sockets(self.host, self.port, self.workers)
        except OSError as error:
            why = error.strerror or str(error)
            raise UserError(
                f"cannot listen at {self.host}:{self.port}: {why}: give another --host or --port"
            ) from None

    def _say(self, host: str, port: int) -> None:
        by = f" by {self.workers} processes" if self.workers > 1 else ""
        names = ", ".join(named(self.exports))
        progress.say(f"jaxneg: {names} at http://{host}:{port}{by}, Ctrl-C ends it")
        if host not in LOOPBACK and not os.environ.get(TOKEN):
            progress.say(f"jaxneg: others can reach it and need no token: set {TOKEN} to ask for one")


def _worked(command: Serve, directory: str, bound: socket.socket, ready: Callable[[], None]) -> None:
    """What each of several processes does."""
    from jaxneg.serve import workers

    command.serve(bound, lambda *_: ready(), workers.Group(directory))


def leave_alone() -> None:
    """Has the collector of garbage pass over what there is, and come less often.

    Each request makes thousands of small objects and no circle of them, and the catalogue, which lives on, was gone
    through for every few requests: a third of their time.
    """
    gc.unfreeze()  # an export that has been replaced is garbage
    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECTED)


def named(exports: Sequence[str]) -> dict[str, pathlib.Path | files.Address]:
    """Directories, or addresses, by name. Raises UserError where two have one name."""
    found: dict[str, pathlib.Path | files.Address] = {}
    for export in exports:
        name, equals, place = export.partition("=")
        directory = files.given(place if equals else export, "directory")
        if not equals:
            name = directory.resolve().name if isinstance(directory, pathlib.Path) else directory.name
        if not name or "/" in name:
            raise UserError(f"{export} gives no name of a model: write NAME=DIR")
        if name in found:
            raise UserError(f"two models are called {name}: write NAME=DIR for one of them")
        found[name] = directory
    return found


def shared(split: Sequence[str]) -> dict[str, float] | None:
    """Shares by name; None without any. Raises UserError on what is no share."""
    found: dict[str, float] = {}
    for one in split:
        name, _, share = one.partition("=")
        try:
            found[name] = float(share)
        except ValueError:
            raise UserError(f"--split {one}: write NAME=SHARE, as in a=0.9 b=0.1") from None
    return found or None


def _watch(found: "models.Models", seconds: float, ended: threading.Event) -> None:
    """Swaps exports that changed, until the server ends."""
    while not ended.wait(seconds):
        found.reload_changed()


def parse(args: Sequence[str]) -> Serve:
    return commands.parsed(Serve, args, "serve")
