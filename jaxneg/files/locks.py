"""One writer a place, also between hosts that share a file system.

A lock is a file made with O_EXCL that names its owner: host, process and its start, command. A thread touches it every
BEAT seconds. Whoever finds one asks, in this order:

    is its owner's ``flock`` on it?              then it is held; also between hosts, where the file system can
    does it name a process of this machine?      then the process table knows, and a dead one's lock is taken at once
    does it get touched within STALE seconds?    then it is held by a process of another machine, else its owner is gone

No clocks are compared. A process that finds its lock taken, as its machine stood still for longer than STALE, ends.
Readers need no lock: what they read appears whole (see ``files``).
"""

import contextlib
import dataclasses
import errno
import fcntl
import json
import os
import pathlib
import secrets
import shlex
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn, Protocol, runtime_checkable

from jaxneg import errors, files
from jaxneg.errors import UserError

BEAT = 5.0  # seconds between touches
STALE = 60.0  # seconds without a touch after which a process of another machine counts as gone
CHILDREN = 5.0  # seconds that the workers of a process that was killed have to notice
ENDING = 0.5  # seconds that a process of this machine may take to be gone, after it has been killed
WRITING = 2.0  # seconds that a lock may be empty, as its owner is just making it
SETTLE = 0.5  # seconds in which two that take one lock at once find out
LOST = 75  # exit code of a process that finds its lock taken: start it again to continue

_held: set["Held"] = set()


@runtime_checkable
class Held(Protocol):
    """A lock of any kind that this process holds."""

    def release(self) -> None: ...


@dataclass(frozen=True)
class Owner:
    """Who holds a lock."""

    host: str
    machine: str  # this start of its system, and the table of processes within it
    process: int
    started: str  # of the process, in the table's own unit: numbers of processes come again
    command: str
    since: str
    token: str

    @classmethod
    def this(cls) -> "Owner":
        program = pathlib.Path(sys.argv[0] or "python")
        program = program.parent if program.name == "__main__.py" else program
        return cls(
            socket.gethostname(),
            _machine(),
            os.getpid(),
            _started(os.getpid()) or "",
            shlex.join([program.name, *sys.argv[1:]])[:300],
            time.strftime("%Y-%m-%d %H:%M:%S"),
            secrets.token_hex(8),
        )

    @classmethod
    def named(cls, values: Mapping[str, Any]) -> "Owner | None":
        """The one that a lock names; None where it names none. Raises TypeError on other fields than its own."""
        found = cls(**values)
        valid = all(isinstance(getattr(found, f.name), f.type) for f in dataclasses.fields(cls))  # type: ignore[arg-type]
        return found if valid else None

    def dead(self) -> bool | None:
        """Whether the process is gone; None where the table of processes of this machine does not know."""
        if (self.host, self.machine) != (socket.gethostname(), _machine()):
            return None
        return _started(self.process) != self.started

    def __str__(self) -> str:
        return f"{self.command} (process {self.process} on {self.host}, since {self.since})"


class Lock:
    """A lock that this process holds. ``fd`` may be handed to children, which then hold on to it as well."""

    def __init__(self, path: pathlib.Path, fd: int, owner: Owner):
        self.path, self.fd, self.owner = path, fd, owner
        self._made: list[pathlib.Path] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="lock", daemon=True)
        self._thread.start()
        _held.add(self)

    def _beat(self) -> None:
        while not self._ended.wait(BEAT):
            with contextlib.suppress(OSError):
                os.utime(self.fd)
            other = _owner_at(self.path)
            if other is not None and other.token != self.owner.token and not self._ended.is_set():
                lost(self.path.parent, other)

    def release(self) -> None:
        """Lets others in. Released already: does nothing."""
        if self not in _held:
            return
        _held.discard(self)
        self._ended.set()
        with contextlib.suppress(OSError):  # no further descriptor is needed, of which there may be none
            found = _read(self.fd) if _same(self.fd, self.path) else None
            if found is not None and found.token == self.owner.token:
                self.path.unlink()
        with contextlib.suppress(OSError):
            os.close(self.fd)
        files.remove_empty(self._made)


def inside(directory: str | os.PathLike[str], name: str = "") -> pathlib.Path:
    """The lock of a directory that is written in place; ``name`` tells apart those that may be held together."""
    return files.real(directory) / (f".{name}.lock" if name else ".lock")


def beside(target: str | os.PathLike[str]) -> pathlib.Path:
    """The lock of a file or directory that is written elsewhere and then takes its place."""
    target = files.real(target)
    return target.with_name(f".{files.stem(target)}.lock")


@contextlib.contextmanager
def held(path: pathlib.Path, what: str | os.PathLike[str]) -> Iterator[Lock]:
    """Holds a lock for a block, and makes the directories that it needs, which go again where they stay empty.

    Raises UserError where another process holds it, saying which.

    Args:
      path: of ``inside`` or ``beside``.
      what: the place as its user calls it.
    """
    made: list[pathlib.Path] = []
    try:
        made = files.make_directories(path.parent)
        lock = _acquire(path, what)
    except NotADirectoryError as error:
        raise UserError(f"{what} cannot be made: {path.parent} is no directory") from error
    except FileExistsError as error:
        raise UserError(f"{what} cannot be made: {error.filename} is no directory") from error
    except OSError:
        files.remove_empty(made)
        raise
    lock._made = made
    try:
        yield lock
    finally:
        lock.release()


def holder(path: pathlib.Path) -> Owner | None:
    """Who holds a lock, where somebody does; it is only looked at.

    Of an owner on another machine its last touch decides, by the clocks of both, so that the answer is for people.
    """
    owner = _owner_at(path)
    if owner is None:
        return None
    gone = owner.dead()
    if gone is None:
        try:
            gone = time.time() - path.stat().st_mtime > STALE
        except OSError:
            gone = True
    return None if gone else owner


@contextlib.contextmanager
def new_directory(target: pathlib.Path, what: str) -> Iterator[pathlib.Path]:
    """A directory to write that becomes ``target`` once the block is done, under its lock; gone if the block fails.

    Raises UserError where something is there already, or another process is making it.

    Args:
      target: that must not exist yet.
      what: the place as its user calls it.
    """
    _check_vacant(target, what)  # at once, also while another holds the lock
    with held(beside(target), what):
        _check_vacant(target, what)  # another may have made it just before it let go of the lock
        files.clean_beside(files.real(target))
        with files.whole_directory(target) as partial:
            yield partial


def _check_vacant(target: pathlib.Path, what: str) -> None:
    if not files.vacant(target):
        raise UserError(f"{what} exists: choose a new directory, or remove it first")


def hold(lock: Held) -> None:
    """Notes a lock of another kind, so that it is released where the process ends at once."""
    _held.add(lock)


def let_go(lock: Held) -> None:
    """Forgets a lock that is released."""
    _held.discard(lock)


def lost(place: object, other: Owner) -> NoReturn:
    """Ends the process, whose lock on a place another has taken."""
    say(f"{place} was taken by {other}, as this process stood still for too long")
    os._exit(LOST)


def release_all() -> None:
    """Lets others in everywhere, as this process is about to end at once."""
    for lock in list(_held):
        lock.release()


def _acquire(path: pathlib.Path, what: str | os.PathLike[str]) -> Lock:
    mine, watch = Owner.this(), _Watch(path, what)
    while True:
        with contextlib.suppress(FileExistsError):
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
            try:
                _flock(fd)
                _write(fd, mine)
            except OSError:
                path.unlink(missing_ok=True)
                os.close(fd)
                raise
            return Lock(path, fd, mine)
        try:
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:  # released just now
            continue
        taken = False
        try:
            blocked = not _flock(fd)
            if not _same(fd, path):
                continue
            taken = watch.free(fd, blocked)
            if taken:
                _write(fd, mine)
                if watch.foreign:
                    time.sleep(SETTLE)
                if (now := _owner_at(path)) is None or now.token != mine.token:
                    taken = False
                    continue
                return Lock(path, fd, mine)
        finally:
            if not taken:
                os.close(fd)
        time.sleep(0.1)


class _Watch:
    """What is seen of a lock of others over some time."""

    def __init__(self, path: pathlib.Path, what: str | os.PathLike[str]):
        self._path, self._what = path, what
        self._seen: tuple[object, ...] = ()
        self._since, self._told = time.monotonic(), False
        self.foreign = False

    def free(self, fd: int, blocked: bool) -> bool:
        """Whether the lock may be taken now. Raises UserError where somebody holds it."""
        owner, touched = _read(fd), os.fstat(fd).st_mtime_ns
        seen, now = (owner, touched, blocked), time.monotonic()
        same_owner = bool(self._seen) and self._seen[0] == owner
        beaten = same_owner and self._seen[1] != touched
        if seen != self._seen:
            self._seen, self._since = seen, now
        waited = now - self._since
        if owner is None:
            if blocked and waited > WRITING:
                raise UserError(f"{self._what} is in use by another process: wait until it ends")
            return not blocked and waited > WRITING
        dead = owner.dead()
        self.foreign = dead is None
        if dead and not blocked:
            return True
        if dead and waited <= CHILDREN:
            return False
        if dead is False and waited <= ENDING:
            return False
        if blocked or dead is False or beaten:
            raise UserError(f"{self._what} is in use by {owner}: wait until it ends, or stop it")
        if not self._told:
            self._told = True
            say(f"{self._what} was in use by {owner}: waiting {STALE:g} s for a sign of life")
        return waited > STALE


def _flock(fd: int) -> bool:
    """Whether no other process has ``flock`` on the file; this one then has, where the file system can."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL):
            raise
    return True


def _same(fd: int, path: pathlib.Path) -> bool:
    """Whether the open file still has its name."""
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path))
    except FileNotFoundError:
        return False


def _write(fd: int, owner: Owner) -> None:
    os.ftruncate(fd, 0)
    os.pwrite(fd, (json.dumps(dataclasses.asdict(owner)) + "\n").encode(), 0)
    os.fsync(fd)


def _owner_at(path: pathlib.Path) -> Owner | None:
    """Who a lock says that it belongs to; None where it is not there or says nothing."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return _read(fd)
    finally:
        os.close(fd)


def _read(fd: int) -> Owner | None:
    try:
        return Owner.named(json.loads(os.pread(fd, 1 << 16, 0)))
    except (OSError, ValueError, TypeError):
        return None


def _machine() -> str:
    """This start of the system, with the table of processes that is seen; containers have their own."""
    parts = [""]
    with contextlib.suppress(OSError):
        parts.append(pathlib.Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip())
    with contextlib.suppress(OSError):
        parts.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(parts).strip()


def _started(process: int) -> str | None:
    """When a process of this machine began; None where there is none, or only what its parent has not fetched."""
    try:
        text = pathlib.Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace")
        fields = text.rpartition(")")[2].split()  # from the third one on
        return None if fields[0] in "ZX" else fields[19]
    except FileNotFoundError:
        if os.path.exists("/proc/self/stat"):
            return None
    except OSError:
        return None
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return None
    except PermissionError:
        pass
    return ""


def say(text: str) -> None:
    """A line on standard error."""
    errors.tell(f"jaxneg: {text}")
