"""A directory that is written in place, as that of a run, on the local disk and in a bucket.

What is whole in the bucket is fetched to a directory of this process, which is used as any other; while that goes on a
thread puts each checkpoint that has become whole, and at the end all that has changed is put. The bucket is what
counts: what the local disk has beyond it is gone with the process. The order of what is put says what a crash leaves:

    files (metrics.jsonl, ...)        first: a run that goes on drops lines past its checkpoint, but has none to add
    a checkpoint                      all of its files, then MARK, without which it is not there
    checkpoints that are gone         MARK first; not before a later one is whole
    result.json and the like          last, and removed first where the run goes on
"""

import contextlib
import functools
import os
import pathlib
import re
import secrets
import shutil
import threading
from collections.abc import Iterator

from jaxneg import errors, files
from jaxneg.errors import UserError
from jaxneg.files import Address, buckets, leases, locks, snapshots
from jaxneg.files.buckets import Bucket, Seen

LOOK = 0.5  # seconds between looks for a new checkpoint
UNIT = re.compile(r"((?:.*/)?checkpoints/\d+)/(.+)", re.DOTALL)  # files of a checkpoint
MARK = "_CHECKPOINT_METADATA"  # of orbax, in each
LAST = ("result.json", "table.json", "report.json")

Stamp = tuple[int, int, int]  # size, time of change and inode of a file


@contextlib.contextmanager
def held(
    at: Address, what: str, lock: str = "", wanted: snapshots.Wanted = snapshots.everything
) -> Iterator[pathlib.Path]:
    """A local directory that stands for one in a bucket while the block lasts, under a lock there.

    Raises UserError where another process holds the lock, and at the end where what has changed cannot be put; the
    directory then stays, and the line says where.

    Args:
      at: the directory in the bucket.
      what: the place as its user calls it.
      lock: tells apart locks that may be held together, as in ``locks.inside``.
      wanted: which objects are fetched; the others stay as they are.
    """
    bucket = Bucket(at)
    with contextlib.ExitStack() as hold:
        lease = hold.enter_context(leases.held(bucket, f".{lock}.lock" if lock else ".lock", what))
        place = snapshots.room(at) / f"run-{os.getpid():x}-{secrets.token_hex(4)}" / at.name
        _clear(place.parent.parent)
        place.mkdir(parents=True)
        hold.enter_context(locks.held(locks.inside(place.parent), what))
        errors.SPOKEN[str(place)] = str(at)
        mirror = Mirror(bucket, place, lease)
        hold.callback(mirror.remove)
        mirror.fetch(wanted)
        with mirror.following():
            yield place
        mirror.finish()


class Mirror:
    """The local directory, and what of it the bucket has."""

    def __init__(self, bucket: Bucket, place: pathlib.Path, lease: leases.Lease):
        self._bucket, self._place, self._lease = bucket, place, lease
        self._put: dict[str, Stamp | None] = {}  # what is in the bucket; None for what is not whole there
        self._pushing, self._kept = threading.Lock(), False

    def fetch(self, wanted: snapshots.Wanted) -> None:
        """Fetches what is whole."""
        there = {
            name: one for name, one in self._bucket.listed().items() if name and snapshots.everything(name)
        }
        there = {name: one for name, one in there.items() if wanted(name)}
        whole = {name: one for name, one in there.items() if _whole(name, there)}
        buckets.together(functools.partial(self._fetch_one, name, one) for name, one in whole.items())
        self._put |= {name: None for name in there} | {n: _stamp(self._place / n) for n in whole}

    def _fetch_one(self, name: str, one: Seen) -> None:
        path = self._place / name
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._bucket.fetch(name, path, one.size)
        except FileNotFoundError as error:
            raise UserError(f"{self._bucket.at}/{name} is being replaced: wait until that ends") from error

    @contextlib.contextmanager
    def following(self) -> Iterator[None]:
        """Puts checkpoints as they become whole, in a thread, as long as the block lasts."""
        ended = threading.Event()
        thread = threading.Thread(target=self._follow, args=(ended,), name="mirror", daemon=True)
        thread.start()
        try:
            yield
        except Exception:
            ended.set()
            thread.join()
            try:
                self.finish()  # what was saved before it
            except UserError as error:
                locks.say(f"{error}")
            raise
        finally:
            ended.set()
            thread.join()

    def _follow(self, ended: threading.Event) -> None:
        told = False
        while not ended.wait(LOOK):
            units = {
                match[1] for name in self._scanned() if (match := UNIT.fullmatch(name)) and match[2] == MARK
            }
            if all(self._put.get(f"{unit}/{MARK}") for unit in units):
                continue
            try:
                self.push()
                told = False
            except UserError as error:  # it is tried again, and what has been saved is on the disk
                if not told:
                    locks.say(f"{error}; a checkpoint waits to be put there")
                told = True

    def finish(self) -> None:
        """Puts all that has changed. Raises UserError where that fails, and keeps the local directory then."""
        try:
            self.push()
        except UserError as error:
            self._kept = True
            raise UserError(f"{error}; {snapshots.kept(self._place)}") from error

    def push(self) -> None:
        """Puts what has changed since the last time, in the order above."""
        with self._pushing:
            now = self._scanned()
            units: dict[str, list[str]] = {}
            for name in now:
                if match := UNIT.fullmatch(name):
                    units.setdefault(match[1], []).append(name)
            plain = [name for name in now if not UNIT.fullmatch(name)]
            changed = [name for name in plain if self._put.get(name) != now[name]]
            gone = [name for name in self._put if name not in now]
            self._lease.check()
            self._remove([name for name in gone if _last(name)])
            buckets.together(
                functools.partial(self._put_copy, name, now[name]) for name in changed if not _last(name)
            )
            for unit in sorted(units, key=lambda unit: int(unit.rpartition("/")[2])):
                self._put_unit(unit, units[unit], now)
            if not units or any(self._put.get(f"{unit}/{MARK}") for unit in units):
                self._remove(sorted(gone, key=lambda name: not name.endswith(f"/{MARK}")))
            for name in changed:
                if _last(name):
                    self._put_copy(name, now[name])

    def _put_copy(self, name: str, stamp: Stamp) -> None:
        """Puts a file that may grow meanwhile, as it is now."""
        copy = files.scratch(self._place.parent / f"{abs(hash(name)):x}", "tmp")
        try:
            shutil.copyfile(self._place / name, copy)
            snapshots.put_surely(self._bucket, copy, name)
            self._put[name] = stamp
        except FileNotFoundError:  # it is gone by now
            return
        finally:
            copy.unlink(missing_ok=True)

    def _put_unit(self, unit: str, names: list[str], now: dict[str, Stamp]) -> None:
        """Puts a checkpoint; one that goes meanwhile is not there, as a later one is."""
        mark = f"{unit}/{MARK}"
        if mark not in names or all(self._put.get(name) == now[name] for name in names):
            return
        if mark in self._put:
            self._remove([mark])
        try:
            self._put |= dict.fromkeys((name for name in names if name != mark), None)
            snapshots.put_all(self._bucket, self._place, [name for name in names if name != mark])
            self._lease.check()
            self._put[mark] = None
            snapshots.put_all(self._bucket, self._place, [mark])
        except FileNotFoundError:
            return
        self._put |= {name: now[name] for name in names}

    def _remove(self, names: list[str]) -> None:
        self._bucket.remove(names)
        for name in names:
            self._put.pop(name, None)

    def _scanned(self) -> dict[str, Stamp]:
        """Files that are whole, by name."""
        found: dict[str, Stamp] = {}
        for top, folders, names in os.walk(self._place):
            folders[:] = [one for one in folders if snapshots.everything(one)]
            for name in names:
                path = pathlib.Path(top, name)
                shown = str(path.relative_to(self._place))
                if snapshots.everything(shown):
                    with contextlib.suppress(FileNotFoundError):
                        found[shown] = _stamp(path)
        return found

    def remove(self) -> None:
        """Removes the local directory, unless it has what the bucket has not."""
        if not self._kept:
            shutil.rmtree(self._place.parent, ignore_errors=True)


def _whole(name: str, there: dict[str, Seen]) -> bool:
    match = UNIT.fullmatch(name)
    return match is None or f"{match[1]}/{MARK}" in there


def _last(name: str) -> bool:
    return name.rpartition("/")[2] in LAST


def _stamp(path: pathlib.Path) -> Stamp:
    found = path.stat()
    return found.st_size, found.st_mtime_ns, found.st_ino


def _clear(room: pathlib.Path) -> None:
    """Removes what killed processes of this machine left."""
    for left in room.glob("run-*") if room.is_dir() else ():
        if locks.holder(left / ".lock") is None:
            shutil.rmtree(left, ignore_errors=True)
