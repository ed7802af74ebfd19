"""Files and directories that appear whole or not at all, and what killed processes left of others.

A thing is written under a name of its own beside its place (NAME.jaxneg-tmp-...), synced to the disk and renamed, so
that neither a crash nor a full disk nor a signal leaves half of it. Who holds the lock of a place (see ``locks``)
removes what is left there under such names.
"""

import contextlib
import ctypes
import errno
import hashlib
import itertools
import json
import os
import pathlib
import re
import secrets
import shutil
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from jaxneg import errors
from jaxneg.errors import UserError

# A rename is a moment that ``abandon`` must not fall into: what it removes may just be getting its name.
COMMIT = threading.RLock()
LOCK = re.compile(r"\.(.+\.)?lock")  # names of locks
LEFT = re.compile(r"(.+)\.jaxneg-(tmp|old)-[0-9a-f-]+")
HALF = ".orbax-checkpoint-tmp"  # in the name of a checkpoint that is being written
# Up to 0.1 they were called so.
LEFT_BEFORE = re.compile(r"(.+)\.(tmp)-\d+|.+\.(json|md|csv|npz)\.tmp|metrics\.tmp")
REMOTE = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/+(.*)", re.DOTALL)  # pathlib takes // for /
BUCKETS = ("s3", "gs", "az")
ADDRESS = re.compile(rf"({'|'.join(BUCKETS)}):/+(.*)", re.DOTALL)  # what ``files.addresses`` reads and writes
FILE = re.compile(r"file:/+(.*)", re.DOTALL)
LONGEST = 200  # bytes of a name that others are made of
WHOLE = 1 << 26  # bytes up to which a fingerprint reads all of a file
BLOCK = 1 << 16
SPARE = 4  # descriptors to remove a directory of directories with, where all others are in use

_token = secrets.token_hex(4)
_numbers = itertools.count()
_unfinished: set[pathlib.Path] = set()
_spare: list[int] = []  # descriptors


def local(path: Any, option: str) -> pathlib.Path:
    """The path itself. Raises UserError, naming the option, on what is none and on addresses as gs://bucket/name."""
    if not isinstance(path, str | os.PathLike) or isinstance(os.fspath(path), bytes):
        raise UserError(f"{option} must be a path, got {type(path).__name__}")
    if "\0" in os.fspath(path):
        raise UserError(f"{option} must be a path, which has no null character, got {os.fspath(path)!r}")
    if match := REMOTE.fullmatch(os.fspath(path)):
        here = " here" if match[1] in BUCKETS else " and buckets at s3://, gs:// and az://"
        raise UserError(
            f"{option} {match[1]}://{match[2]}: only paths of file systems{here} can be read and written: copy it to a "
            "disk, or mount it, and give that path"
        )
    path = pathlib.Path(path)
    for part, up in zip(path.parents, path.parts[:0:-1], strict=False):
        if up == ".." and not part.is_dir():
            raise UserError(
                f"{option} {path} leads through {part}, which is no directory: make it, or leave it out"
            )
    return path


@dataclass(frozen=True)
class Address:
    """Where objects lie: s3://bucket/key."""

    scheme: str
    bucket: str
    key: str

    @property
    def name(self) -> str:
        return self.key.rpartition("/")[2] or self.bucket

    @property
    def parent(self) -> "Address":
        return Address(self.scheme, self.bucket, self.key.rpartition("/")[0])

    def __str__(self) -> str:
        return f"{self.scheme}://{self.bucket}/{self.key}".rstrip("/")


def address(path: str | os.PathLike[str], option: str) -> Address | None:
    """The address that a path is, if it is one of a bucket. Raises UserError, naming the option, on what is none."""
    match = ADDRESS.fullmatch(os.fspath(path))
    if match is None:
        return None
    bucket, *parts = [part for part in match[2].split("/") if part] or [""]
    found = Address(match[1], bucket, "/".join(parts))
    if not bucket or {".", ".."} & {*parts}:
        raise UserError(f"{option} {found}: write a bucket and a name in it, as in {match[1]}://bucket/name")
    return found


def given(path: Any, option: str) -> pathlib.Path | Address:
    """The path, or the address. Raises UserError, naming the option, on what is neither; asks nobody whether it is."""
    if isinstance(path, str | os.PathLike) and isinstance(text := os.fspath(path), str) and "\0" not in text:
        if match := FILE.fullmatch(text):
            return local(f"/{match[1]}", option)
        if (at := address(text, option)) is not None:
            return at
    return local(path, option)


def real(path: str | os.PathLike[str]) -> pathlib.Path:
    """Where a path leads: a link keeps pointing to where its target is."""
    return pathlib.Path(os.path.realpath(path))


def vacant(path: pathlib.Path) -> bool:
    """Whether a directory can be made here: nothing is there, or an empty one (locks and leftovers aside)."""
    if not os.path.lexists(path):
        return True
    return path.is_dir() and all(LOCK.fullmatch(e.name) or LEFT.fullmatch(e.name) for e in path.iterdir())


def scratch(target: pathlib.Path, kind: str = "tmp") -> pathlib.Path:
    """The name beside a target under which this process writes it; the same at each call."""
    return target.with_name(f"{stem(target)}.jaxneg-{kind}-{os.getpid():x}-{_token}")


def stem(target: pathlib.Path) -> str:
    """A name to make others of: that of the target, or its checksum where that is very long."""
    name = os.fsencode(target.name)
    return target.name if len(name) <= LONGEST else hashlib.sha256(name).hexdigest()


@contextlib.contextmanager
def whole(path: str | os.PathLike[str]) -> Iterator[pathlib.Path]:
    """A name to write a file to, which becomes ``path`` once the block is done, and is gone if it fails."""
    target = real(path)
    partial = scratch(target)
    partial = partial.with_name(f"{partial.name}-{next(_numbers):x}")
    with unfinished(partial):
        with errors.named(target):
            yield partial
        sync(partial)
        with COMMIT:
            os.replace(partial, target)
        sync(target.parent)


def write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Writes a file whole or not at all."""
    with whole(path) as partial:
        partial.write_bytes(data)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Writes a file in UTF-8, whole or not at all."""
    write_bytes(path, text.encode())


def write_json(path: str | os.PathLike[str], values: Any) -> None:
    """Writes a JSON file whole or not at all."""
    write_text(path, json.dumps(values, indent=2) + "\n")


@contextlib.contextmanager
def whole_directory(path: str | os.PathLike[str]) -> Iterator[pathlib.Path]:
    """A directory that becomes ``path``, which must be vacant, once the block is done, and is gone if it fails."""
    target = real(path)
    partial = scratch(target)
    with unfinished(partial):
        made = make_directories(partial)
        try:
            yield partial
            put(partial, target)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            remove_empty(made)
            raise


def move_into(directory: pathlib.Path, new: pathlib.Path) -> None:
    """Moves the files of one directory into another, where they replace those of their names."""
    if new.is_dir():
        directory.mkdir(parents=True, exist_ok=True)
        for path in new.iterdir():
            os.replace(path, directory / path.name)


@contextlib.contextmanager
def unfinished(path: pathlib.Path) -> Iterator[None]:
    """Removes what is at ``path`` when the block ends, however it ends."""
    _unfinished.add(path)
    _reserve()
    try:
        yield
    finally:
        try:
            remove(path)
        except OSError:  # perhaps for want of descriptors, which a directory takes to be removed
            while _spare:
                os.close(_spare.pop())
            with contextlib.suppress(OSError):
                remove(path)
        _unfinished.discard(path)


def _reserve() -> None:
    with contextlib.suppress(OSError):
        while len(_spare) < SPARE:
            _spare.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))


def abandon() -> None:
    """Removes what this process has not finished, for it is about to end at once. No rename is made after it."""
    COMMIT.acquire()  # for good
    for path in list(_unfinished):
        for _ in range(3):  # another thread may still be writing there
            with contextlib.suppress(OSError):
                remove(path)
            if not os.path.lexists(path):
                break


def put(new: pathlib.Path, target: pathlib.Path, *, replace: bool = False) -> None:
    """Syncs a directory and gives it its name. With ``replace`` what has that name goes; else it must be vacant."""
    sync_tree(new)
    with COMMIT:
        if vacant(target):
            if target.is_dir():
                for left in target.iterdir():
                    remove(left)
            os.rename(new, target)
        elif not replace:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
        elif not _exchange(new, target):
            old = scratch(target, "old")
            os.rename(target, old)
            os.rename(new, target)
    sync(target.parent)
    shutil.rmtree(scratch(target, "old"), ignore_errors=True)


def _exchange(one: pathlib.Path, other: pathlib.Path) -> bool:
    """Swaps two names at once, where the system can; False where it cannot."""
    try:
        renameat2 = ctypes.CDLL(None).renameat2
    except (OSError, AttributeError, TypeError):
        return False
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return renameat2(here, os.fsencode(one), here, os.fsencode(other), exchange) == 0


def clean_beside(target: pathlib.Path) -> None:
    """Removes what killed processes left beside a target, and puts back an older one that had given way.

    For the holder of the target's lock: what others are writing now is under the same names.
    """
    if not target.parent.is_dir():
        return
    own, name = scratch(target).name, stem(target)
    for path in sorted(target.parent.iterdir()):
        match = LEFT.fullmatch(path.name) or LEFT_BEFORE.fullmatch(path.name)
        if match is None or match[1] != name or path.name.startswith(own):
            continue
        if match[2] == "old" and not target.exists():
            os.rename(path, target)
        else:
            with contextlib.suppress(OSError):
                remove(path)


def clean_inside(directory: pathlib.Path) -> None:
    """Removes what killed processes left in a directory of ours. For the holder of its lock."""
    for path in directory.iterdir() if directory.is_dir() else ():
        if LEFT.fullmatch(path.name) or LEFT_BEFORE.fullmatch(path.name):
            with contextlib.suppress(OSError):
                remove(path)


def check_free(directory: pathlib.Path, written: Sequence[str], folders: Sequence[str] = ()) -> None:
    """Raises UserError where a directory stands in the place of a file that will be written, or the other way round.

    Asked before the work whose result goes there.

    Args:
      directory: of ours; it may be missing.
      written: names of files in it.
      folders: names of directories in it.
    """
    for name in written:
        if (directory / name).is_dir():
            raise UserError(f"{directory / name} is a directory where a file is written: move it away")
    for name in folders:
        if os.path.lexists(directory / name) and not (directory / name).is_dir():
            raise UserError(f"{directory / name} is a file where a directory is written: move it away")


def remove(path: pathlib.Path) -> None:
    """Removes a file or a directory with all that is in it, where there is one."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def make_directories(path: pathlib.Path) -> list[pathlib.Path]:
    """Makes a directory and those above it that are missing; returns the ones that it made, deepest first."""
    missing = [one for one in (path, *path.parents) if not os.path.lexists(one)]
    path.mkdir(parents=True, exist_ok=True)
    return missing


def remove_empty(directories: list[pathlib.Path]) -> None:
    """Removes those directories that are empty, deepest first."""
    for path in directories:
        try:
            path.rmdir()
        except FileNotFoundError:
            continue
        except OSError:
            return


def numbered(directory: pathlib.Path) -> list[int]:
    """Names in a directory that are numbers, as those of checkpoints are; of none that is there nothing."""
    names = (path.name for path in directory.iterdir()) if directory.is_dir() else ()
    return sorted(int(name) for name in names if name.isdigit())


def sync(path: pathlib.Path) -> None:
    """Returns once a file's contents, or a directory's names, are on the disk."""
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):  # of file systems that cannot
            raise
    finally:
        os.close(opened)


def sync_tree(directory: pathlib.Path) -> None:
    """Returns once a directory with all that is in it is on the disk."""
    for path in directory.rglob("*"):
        if not path.is_symlink():
            sync(path)
    sync(directory)


def fingerprint(path: pathlib.Path) -> str:
    """A checksum that two copies of a file share: of all of it, or of its size and 256 parts where it is large."""
    size = path.stat().st_size
    found = hashlib.sha256(str(size).encode())
    with open(path, "rb") as file:
        if size <= WHOLE:
            while part := file.read(BLOCK):
                found.update(part)
        else:
            for k in range(256):
                file.seek(k * (size - BLOCK) // 255)
                found.update(file.read(BLOCK))
    return found.hexdigest()
