"""What lies in a bucket, whole, on the local disk; and what is made on the local disk, whole, in a bucket.

Read: the objects below an address are fetched to a directory of the user's cache, named by a checksum of their names,
sizes and tags, so that they are fetched once, and it has its name once all are there. Written: files are put one by
one, and the marker last, without which nobody reads the others. A marker is a file that readers look for:
metadata.json of a store, manifest.json of an export. Where one is replaced, its marker is removed first. Before any
other object there is UNFINISHED, which says that what has no marker may be replaced or removed, and it goes last.
"""

import contextlib
import fcntl
import fnmatch
import functools
import hashlib
import json
import os
import pathlib
import re
import time
from collections.abc import Callable, Iterator, Mapping

import filelock

from jaxneg import errors, files
from jaxneg.errors import UserError
from jaxneg.files import Address, arrays, buckets
from jaxneg.files.buckets import Bucket, Seen

UNFINISHED = "jaxneg-unfinished.json"
TIMES = 5  # looks at what is being replaced
PAUSE = 1.0  # seconds between them
PATTERN = re.compile(r"[*?\[]")
SUM = re.compile(r"[0-9a-f]{64}")

Wanted = Callable[[str], bool]  # name of an object -> whether it is asked for
Objects = Mapping[str, Seen]

_used: dict[str, int] = {}  # descriptors of locks on what this process has read


def everything(name: str) -> bool:
    """All names, but those of locks and of what is being written."""
    last = name.rpartition("/")[2]
    aside = files.LOCK.fullmatch(last) or files.LEFT.fullmatch(last) or files.HALF in name
    return last != UNFINISHED and not aside


def fetched(at: Address, marker: str = "", wanted: Wanted = everything) -> pathlib.Path:
    """The local path of what is at an address: an object as a file, else a directory with the objects below it.

    Where the address holds a pattern, as in logs/*.parquet, those that match it. Where nothing is there, or no marker,
    a path at which nothing is. Raises UserError where it changes while it is read, time after time.
    """
    base, chosen = _chosen(at, wanted)
    bucket = Bucket(base)
    for left in reversed(range(TIMES)):
        there = bucket.listed()
        if marker and marker not in there:
            there = {}
        there = {
            name: one for name, one in there.items() if name == "" or (everything(name) and chosen(name))
        }
        place = _place(at, there)
        errors.SPOKEN[str(place)] = str(base)
        if not there or place.exists():
            _use(place)
            return place
        try:
            _fetch(bucket, there, place, marker)
        except (FileNotFoundError, arrays.Damaged) as error:
            if not left:
                raise UserError(
                    f"{at} is damaged, or is being replaced all the time ({error}): write it again"
                ) from error
            time.sleep(PAUSE)
    raise AssertionError("unreachable")


def adopt(at: Address, made: pathlib.Path) -> None:
    """Keeps what has just been put at an address as what was fetched from there."""
    there = {name: one for name, one in Bucket(at).listed().items() if everything(name)}
    sizes = {str(path.relative_to(made)): path.stat().st_size for path in _below(made)}
    place = _place(at, there)
    if {name: one.size for name, one in there.items()} != sizes:
        return
    with contextlib.suppress(OSError):  # then it is fetched
        with _locked(place):
            _make_way(place)
            os.rename(made, place)


def put(bucket: Bucket, made: pathlib.Path, marker: str) -> None:
    """Puts the files of a directory in place of what is there; ``marker``, the name of one of them, last."""
    names = [str(path.relative_to(made)) for path in _below(made)]
    there = bucket.listed()
    told = json.dumps({"marker": marker, "files": names}, indent=2).encode()
    for _ in range(TIMES):  # as of files, in ``put_all``
        bucket.write(UNFINISHED, told)
        if bucket.read(UNFINISHED) == told:
            break
    bucket.remove([marker] if marker in there else [])
    bucket.remove(name for name in there if everything(name) and name not in names)
    put_all(bucket, made, [name for name in names if name != marker])
    put_all(bucket, made, [marker])
    bucket.remove([UNFINISHED])


def put_all(bucket: Bucket, made: pathlib.Path, names: list[str]) -> None:
    """Puts files, and looks whether all are there then: a service may lose what it has said that it took."""
    if len(names) == 1:
        return put_surely(bucket, made / names[0], names[0])
    missing = names
    for _ in range(TIMES):
        buckets.together(functools.partial(bucket.put, made / name, name) for name in missing)
        there = bucket.listed()
        sizes = {name: (made / name).stat().st_size for name in names}
        missing = [name for name, size in sizes.items() if name not in there or there[name].size != size]
        if not missing:
            return
    raise UserError(
        f"{bucket.at}: {missing[0]} is not there after it was written {TIMES} times: look after the bucket"
    )


def put_surely(bucket: Bucket, path: pathlib.Path, name: str) -> None:
    """Puts a file, and looks whether it is there then."""
    for _ in range(TIMES):
        bucket.put(path, name)
        found = bucket.seen(name)
        if found is not None and found.size == path.stat().st_size:
            return
    raise UserError(
        f"{bucket.at}: {name} is not there after it was written {TIMES} times: look after the bucket"
    )


def cache() -> pathlib.Path:
    """Where what is read from buckets is kept, and what is written to them is made."""
    base = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(base) / "jaxneg" / "buckets"


def room(at: Address) -> pathlib.Path:
    """The directory of an address in the cache."""
    return cache() / hashlib.sha256(str(at).encode()).hexdigest()[:16]


def kept(made: pathlib.Path) -> str:
    """Where what was made stays, in words, as it could not be put: the directory above it gets a name of its own."""
    stays = made.parent.with_name(made.parent.name.replace("run-", "unsent-").replace("new-", "unsent-"))
    errors.SPOKEN.pop(str(made), None)
    os.rename(made.parent, stays)
    return f"what was made stays in {stays / made.name}"


def _chosen(at: Address, wanted: Wanted) -> tuple[Address, Wanted]:
    """The address without its pattern, and which names below it are wanted."""
    parts = at.key.split("/")
    first = next((n for n, part in enumerate(parts) if PATTERN.search(part)), None)
    if first is None:
        return at, wanted
    pattern = "/".join(parts[first:])
    if not first:
        raise UserError(
            f"{at}: a pattern needs a name before it, as in {at.scheme}://{at.bucket}/logs/*.parquet"
        )
    return Address(at.scheme, at.bucket, "/".join(parts[:first])), lambda name: (
        wanted(name) and name.count("/") == pattern.count("/") and fnmatch.fnmatchcase(name, pattern)
    )


def _place(at: Address, there: Objects) -> pathlib.Path:
    told = json.dumps([str(at), *sorted((name, *one) for name, one in there.items())])
    name = PATTERN.sub("_", at.name)
    return room(at) / hashlib.sha256(told.encode()).hexdigest()[:16] / name


def _fetch(bucket: Bucket, there: Objects, place: pathlib.Path, marker: str) -> None:
    with _locked(place):
        if place.exists():  # another process has fetched it meanwhile
            return _use(place)
        partial = place.with_name(f"{place.name}.part")
        partial.mkdir(parents=True, exist_ok=True)
        buckets.together(
            functools.partial(_fetch_one, bucket, name, one, partial) for name, one in there.items()
        )
        _check(partial, marker)
        if "" not in there and {name: one for name, one in bucket.listed().items() if name in there} != there:
            raise FileNotFoundError("it has changed meanwhile")
        files.sync_tree(partial)
        if "" in there:
            os.rename(partial / "object", place)
            partial.rmdir()
        else:
            os.rename(partial, place)
        _use(place)
        _make_way(place)


def _fetch_one(bucket: Bucket, name: str, one: Seen, partial: pathlib.Path) -> None:
    """Fetches an object, unless an earlier process did so before it was killed."""
    path = partial / (name or "object")
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        half = files.scratch(path)
        bucket.fetch(name, half, one.size)
        os.replace(half, path)


def _check(directory: pathlib.Path, marker: str) -> None:
    """Compares the files with the checksums in their marker. Raises arrays.Damaged, and removes what differs."""
    if not marker or not (directory / marker).is_file():
        return
    try:
        told = json.loads((directory / marker).read_bytes())
        sums = told.get("sums") or told.get("files") or {}
    except (ValueError, AttributeError):
        return  # its reader says it
    for name, expected in sums.items() if isinstance(sums, dict) else ():
        path = directory / name
        if isinstance(expected, str) and SUM.fullmatch(expected) and path.is_file():
            if arrays.sha256(path) != expected:
                path.unlink()
                (directory / marker).unlink(missing_ok=True)
                raise arrays.Damaged(f"{name} has another checksum than {marker} says")


@contextlib.contextmanager
def _locked(place: pathlib.Path) -> Iterator[None]:
    """Lets one process of this machine at a time fetch a thing; others wait for it."""
    try:
        place.parent.parent.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(place.parent.parent / ".lockfile"):
            place.parent.mkdir(parents=True, exist_ok=True)
            yield
    except PermissionError as error:
        why = f"{error.filename}: {error.strerror}"
        raise UserError(f"{why}: set XDG_CACHE_HOME to a place that can be written") from error


def _use(place: pathlib.Path) -> None:
    """Keeps others from removing what this process reads from now on."""
    path = str(place.parent / ".used")
    if place.exists() and path not in _used:
        with contextlib.suppress(OSError):
            _used[path] = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            fcntl.flock(_used[path], fcntl.LOCK_SH | fcntl.LOCK_NB)


def _make_way(place: pathlib.Path) -> None:
    """Removes what was fetched from the address before, where no process of this machine reads it."""
    for other in place.parent.parent.iterdir():
        if not other.is_dir() or other == place.parent or not re.fullmatch(r"[0-9a-f]{16}", other.name):
            continue
        with contextlib.suppress(OSError):
            held = os.open(other / ".used", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                files.remove(other)
            finally:
                os.close(held)


def _below(directory: pathlib.Path) -> list[pathlib.Path]:
    return sorted(path for path in directory.rglob("*") if path.is_file() and everything(str(path)))
