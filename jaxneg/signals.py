"""SIGINT and SIGTERM end a command with 130 and 143, whatever it is doing; no exception is raised in the middle of it.

A handler only sets a flag, and Python runs it between two of its own instructions: after minutes, where a library
compiles or sorts. So a thread is woken by the system itself. It removes what is unfinished, lets go of locks and ends
the process at once, for everything here appears whole or not at all. Where there is something to save, in ``deferred``,
it leaves that to whoever reads the flag, and only a second signal ends at once.

SIGUSR1 ends nothing: it has the process write where each of its threads is.

Nothing heavy is imported here: signals are to be caught before anything else is.
"""

import atexit
import contextlib
import faulthandler
import io
import os
import signal
import sys
import threading
from collections.abc import Iterator

CAUGHT = (signal.SIGINT, signal.SIGTERM)
SAID = {signal.SIGINT: "interrupted", signal.SIGTERM: "stopped by SIGTERM"}

# What a signal leaves of the work of a verb.
NOTHING = "nothing was written: start it again"
CONSEQUENCES = {
    "prepare": NOTHING,
    "simulate": NOTHING,
    "export": NOTHING,
    "evaluate": "an earlier report stays as it was: start it again",
    "train": "the same command begins, or continues the run from its last checkpoint",
    "sweep": "the same command continues it",
    "demo": "the same command begins anew",
}

_came: signal.Signals | None = None
_deferring = 0
_consequence = "start it again"
_ending = threading.Event()
_woken: int | None = None  # the end of a pipe that the system writes to


class Stopped(Exception):
    """A signal came, and what there was to save is saved."""

    def __init__(self, text: str = "", by: signal.Signals | None = None):
        super().__init__(text)
        self.by = by or _came or signal.SIGTERM

    @property
    def code(self) -> int:
        """The exit code, as the shell counts."""
        return 128 + self.by


def install(verb: str = "") -> None:
    """Catches the signals from now on, in a run of a verb. Caught already, or not in the main thread: does nothing."""
    global _woken
    consequence(CONSEQUENCES.get(verb, "start it again"))
    if _woken is not None or threading.current_thread() is not threading.main_thread():
        return
    with contextlib.suppress(AttributeError, OSError, ValueError):  # where there is no such signal
        faulthandler.register(signal.SIGUSR1, file=2, all_threads=True)
    _woken, end = os.pipe()
    os.set_blocking(end, False)
    signal.set_wakeup_fd(end, warn_on_full_buffer=False)
    catch()
    atexit.register(_ignore)  # before any other, so that it runs after all of them
    threading.Thread(target=_watch, args=(_woken,), name="signals", daemon=True).start()


def catch() -> None:
    """Puts the handlers in place, as a library may have set its own. Where the caller ignores one, so does this."""
    if _woken is None:
        return
    for number in CAUGHT:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _nothing)


def show_stacks() -> None:
    """Writes where each thread of this process is to standard error, as SIGUSR1 has it do at any time."""
    with contextlib.suppress(OSError, ValueError):
        faulthandler.dump_traceback(file=2, all_threads=True)


def stand_by() -> None:
    """Waits for the end where it has begun: what then fails, or is done, is not to be told beside it."""
    if _ending.is_set():
        threading.Event().wait()


def _ignore() -> None:
    """All is done, and Python would give the signals back to the system as it ends, which then ends it otherwise."""
    for number in CAUGHT:
        if signal.getsignal(number) is _nothing:
            signal.signal(number, signal.SIG_IGN)


def consequence(text: str) -> None:
    """What is said beside the signal if the process ends at once: what becomes of its work."""
    global _consequence
    _consequence = text


def came() -> bool:
    """Whether a signal came that is left to the caller."""
    return _came is not None


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """Within it the first signal sets the flag of ``came`` and does nothing else."""
    global _deferring
    _deferring += 1
    try:
        yield
    finally:
        _deferring -= 1


def end(number: signal.Signals) -> None:
    """Ends the process at once, and leaves nothing half-written."""
    _ending.set()
    _write(f"jaxneg: {SAID[number]}: {_consequence}\n")
    for name, call in (("jaxneg.files", "abandon"), ("jaxneg.files.locks", "release_all")):
        module = sys.modules.get(name)
        with contextlib.suppress(Exception):
            getattr(module, call)()
    os._exit(128 + number)


def _nothing(*_: object) -> None:
    """The handler: the thread has been woken already."""


def _watch(woken: int) -> None:
    global _came
    while True:
        for byte in os.read(woken, 64):
            if byte not in CAUGHT:
                continue
            number = signal.Signals(byte)
            if _came is not None or not _deferring:
                end(number)
            _came = number


def _write(text: str) -> None:
    """To standard error, past its buffer, which may be in the middle of something."""
    if sys.stderr is not None and sys.stderr.isatty():
        text = f"\r\x1b[K\x1b[?25h{text}"  # a progress bar hides the cursor
    with contextlib.suppress(OSError):
        os.write(2, text.encode())


def open_streams() -> None:
    """Gives the standard streams something to write to, and any text a way through them.

    Where a caller closed one, the next file to be opened would take its number, and with it what libraries write to
    standard error.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
        if getattr(sys, name) is None:
            mode = "w" if number else "r"
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
