"""Who of many processes is lost, said by those that it ends.

JAX aborts a process whose peer has been silent for a while, or whose coordinator is gone, with a trace of C++ and no
name. Here each gives signs of life to the others and notes theirs; where JAX then aborts it and one has indeed fallen
silent, it says which, on which host, and ends with the code that asks for a restart. The signs alone end nothing: what
is silent may be busy, and whether it is dead is for JAX to find.
"""

import atexit
import contextlib
import ctypes
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Protocol, runtime_checkable

from jaxneg import files
from jaxneg.files import locks

KEY = "jaxneg/alive"
EVERY = 1.0  # seconds between signs of life
SILENT = 5.0  # seconds after which one is missed
REACHED = 2.0  # seconds to find the coordinator


@runtime_checkable
class Board(Protocol):
    """Where processes leave text for each other: JAX's coordinator."""

    def key_value_set(self, key: str, value: str, allow_overwrite: bool = False) -> None: ...

    def key_value_dir_get(self, key: str) -> list[tuple[str, str]]: ...


class Peers:
    """Signs of life of many processes.

    Args:
      board: where they are left.
      number: of this process.
      coordinator: HOST:PORT of the first, which ends with it; empty where nobody knows.
      now: seconds.
    """

    def __init__(
        self, board: Board, number: int, coordinator: str, now: Callable[[], float] = time.monotonic
    ):
        self._board, self._number, self._coordinator, self._now = board, number, coordinator, now
        self._count = 0
        self._seen: dict[int, tuple[str, float]] = {}  # by process: its last sign, and when it was new

    def beat(self) -> None:
        """Gives a sign of life, and notes those of the others."""
        self._count += 1
        sign = f"{self._count} {socket.gethostname()}"
        self._board.key_value_set(f"{KEY}/{self._number:06}", sign, allow_overwrite=True)
        for name, told in self._board.key_value_dir_get(KEY):
            process = int(name.rpartition("/")[2])
            if self._seen.get(process, ("", 0.0))[0] != told:
                self._seen[process] = (told, self._now())

    def lost(self) -> str | None:
        """The process that is missed the longest, as "process 2 (host-17)"; None where none is."""
        if self._number and not self._reached():
            return self._named(0)
        found = {
            since: process
            for process, (_, since) in self._seen.items()
            if process != self._number and self._now() - since > SILENT
        }
        return self._named(found[min(found)]) if found else None

    def _named(self, process: int) -> str:
        host = self._seen.get(process, ("", 0.0))[0].partition(" ")[2] or self._coordinator.rpartition(":")[0]
        return f"process {process} ({host})"

    def _reached(self) -> bool:
        host, _, port = self._coordinator.rpartition(":")
        if not host:
            return True
        try:
            socket.create_connection((host, int(port)), REACHED).close()
        except OSError:
            return False
        return True


_peers: Peers | None = None


def watch(board: Board, number: int, coordinator: str, code: int) -> None:
    """Watches the others from now to the end of the process; where JAX aborts it for one of them, ends with a code."""
    global _peers
    _peers = Peers(board, number, coordinator)
    ended = threading.Event()

    def beat(peers: Peers) -> None:
        while not ended.wait(EVERY):
            with contextlib.suppress(Exception):  # a coordinator that is gone is told of when JAX has noticed
                peers.beat()

    thread = threading.Thread(target=beat, args=(_peers,), name="peers", daemon=True)
    thread.start()

    def stop() -> None:
        ended.set()
        thread.join(2 * EVERY)

    atexit.register(stop)  # before JAX takes its leave of the coordinator
    _instead_of_abort(code)


def who(seconds: float = SILENT + 2 * EVERY) -> str | None:
    """The process that is lost, waiting until that shows; None where none is missed, or nobody watches."""
    deadline = time.monotonic() + seconds
    while _peers is not None:
        if (found := _peers.lost()) is not None or time.monotonic() > deadline:
            return found
        time.sleep(0.2)
    return None


_Handler = ctypes.CFUNCTYPE(None, ctypes.c_int)
_kept: list[object] = []  # the handler, which C does not keep alive


def _instead_of_abort(code: int) -> None:
    """Has the process end with a line and a code where it would be aborted as a peer is lost; else it is aborted.

    Python's own handlers would not run: C does not return from an abort.
    """
    if sys.platform == "win32":
        return
    libc = ctypes.CDLL(None)
    libc.signal.restype, libc.signal.argtypes = ctypes.c_void_p, [ctypes.c_int, ctypes.c_void_p]

    def aborted(_: int) -> None:
        found = who()  # JAX may know before one is missed, where a machine was too busy to note signs
        if found is None:
            libc.signal(signal.SIGABRT, None)
            return
        with contextlib.suppress(OSError):
            os.write(2, f"jaxneg: {found} is lost: start all processes again to continue\n".encode())
        for tidy in (files.abandon, locks.release_all):
            with contextlib.suppress(Exception):
                tidy()
        os._exit(code)

    handler = _Handler(aborted)
    _kept.append(handler)
    libc.signal(signal.SIGABRT, ctypes.cast(handler, ctypes.c_void_p))
