"""Where verbs turn what a person gives into a path of this machine: as it is, or as what stands for an address.

    local       to read: a path as it is; of s3://, gs:// and az:// what was fetched from there
    written     to write: a path as it is; of an address a place whose contents are put there, whole, at the end
    held        to read and write in place: a path as it is; of an address a mirror of it

All else in jaxneg knows paths alone. file:///path is the path. What stands for an address is called by the address in
whatever a person is told (``errors.spoken``).
"""

import contextlib
import os
import pathlib
import re
import secrets
from collections.abc import Iterator
from typing import Any

from jaxneg import errors, files
from jaxneg.errors import UserError
from jaxneg.files import Address, leases, mirrors, snapshots
from jaxneg.files.buckets import Bucket

STORE, EXPORT, RUN = "metadata.json", "manifest.json", "config.json"  # what is looked for in each
APART = re.compile(
    r"(tensorboard|plots|(.*/)?\.[^/]*)/.*|report\..*", re.DOTALL
)  # of a run what no verb reads


def local(
    path: Any, option: str, marker: str = "", wanted: snapshots.Wanted = snapshots.everything
) -> pathlib.Path:
    """A path to read. Where nothing is at an address, one where nothing is either.

    Args:
      path: or address, which may hold a pattern, as s3://bucket/logs/*.parquet.
      option: as its user calls it.
      marker: name of a file without which nothing is there.
      wanted: which objects are asked for.
    """
    at = path if isinstance(path, Address) else files.given(path, option)
    return at if isinstance(at, pathlib.Path) else snapshots.fetched(at, marker, wanted)


def run(path: Any, option: str) -> pathlib.Path:
    """The directory of a run, or of a sweep, to read."""
    return local(path, option, wanted=_of_run)


def settings(path: Any, option: str) -> pathlib.Path:
    """The directory of a run, of which only its config is read."""
    return local(path, option, wanted=lambda name: name == RUN)


def _of_run(name: str) -> bool:
    return snapshots.everything(name) and not APART.fullmatch(name)


def listed(path: Any, option: str) -> pathlib.Path:
    """A directory with runs below it, to list."""
    return local(
        path, option, wanted=lambda name: name.endswith((".json", "metrics.jsonl")) and _of_run(name)
    )


@contextlib.contextmanager
def written(path: Any, option: str, marker: str = "", *, replaces: bool = False) -> Iterator[pathlib.Path]:
    """A path to write to while the block lasts, a file or a directory; of an address what is there is put at the end.

    Args:
      path: or address.
      option: as its user calls it.
      marker: of a directory, the name of its file that is put last; "" where it may be a single file.
      replaces: whether a thing with this marker may be there already; all else never is replaced.
    """
    at = files.given(path, option)
    if isinstance(at, pathlib.Path):
        yield at
        return
    bucket, what = _named(at, option, at if marker else at.parent), f"{option} {at}"
    place = snapshots.room(at) / f"new-{os.getpid():x}-{secrets.token_hex(4)}" / at.name
    with contextlib.ExitStack() as hold:
        hold.enter_context(leases.held(bucket, ".lock" if marker else f".{at.name}.lock", what))
        _check_vacant(bucket, at, what, marker, replaces)
        hold.enter_context(files.unfinished(place.parent))
        place.parent.mkdir(parents=True)
        errors.SPOKEN[str(place)] = str(at)
        yield place
        try:
            _put(bucket, place, marker)
        except UserError as error:
            raise UserError(f"{error}; {snapshots.kept(place)}") from error
        if marker:
            snapshots.adopt(at, place)


def _named(at: Address, option: str, place: Address) -> Bucket:
    if not at.key:
        raise UserError(f"{option} {at} is a whole bucket: write a name in it, as in {at}/name")
    return Bucket(place)


def _check_vacant(bucket: Bucket, at: Address, what: str, marker: str, replaces: bool) -> None:
    there = bucket.listed() if marker else {at.name: bucket.seen(at.name)}
    found = {name for name, one in there.items() if one and snapshots.everything(name)}
    unfinished = snapshots.UNFINISHED in there and marker not in found
    if not found or unfinished or (replaces and marker in found):
        return
    no = " and is no such thing, so it stays" if replaces else ""
    raise UserError(f"{what} exists{no}: choose another place, or remove it first")


def _put(bucket: Bucket, place: pathlib.Path, marker: str) -> None:
    if marker:
        return snapshots.put(bucket, place, marker)
    names = [path.name for path in place.parent.iterdir() if snapshots.everything(path.name)]
    snapshots.put_all(bucket, place.parent, [name for name in names if name != place.name])
    snapshots.put_all(bucket, place.parent, [place.name])


@contextlib.contextmanager
def held(path: Any, option: str, lock: str = "") -> Iterator[pathlib.Path]:
    """A directory to read and write in place while the block lasts.

    Args:
      path: or address.
      option: as its user calls it.
      lock: of the bucket, that tells apart what may go on together.
    """
    at = files.given(path, option)
    if isinstance(at, pathlib.Path):
        yield at
        return
    _named(at, option, at)
    with mirrors.held(at, f"{option} {at}", lock, _of_run) as place:
        yield place


def stamp(path: pathlib.Path | Address, marker: str) -> object:
    """What changes when the marker of a place is written anew; None while there is none."""
    if isinstance(path, Address):
        return Bucket(path).seen(marker)
    try:
        found = (path / marker).stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns
