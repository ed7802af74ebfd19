"""One writer a place in a bucket, between any hosts: a lock (see ``locks``) that is an object.

It is made only where there is none, which the service itself decides, and names its owner. A thread writes it anew
every BEAT seconds. Whoever finds one asks the table of processes, where its owner is of this machine; else a lock that
has not changed for STALE seconds is taken over, and whoever then finds his lock taken ends. No clocks are compared.
"""

import contextlib
import dataclasses
import json
import threading
import time
from collections.abc import Iterator

from jaxneg.errors import UserError
from jaxneg.files import locks
from jaxneg.files.buckets import Bucket

BEAT = 10.0  # seconds between writes
STALE = 60.0  # seconds without one after which the owner counts as gone
SETTLE = 2.0  # seconds in which two that take one lock at once find out
LOOK = 5.0  # seconds between looks at a lock of others
RELEASING = 20.0  # seconds that letting go may take


class Lease:
    """A lock in a bucket that this process holds."""

    def __init__(self, bucket: Bucket, name: str, owner: locks.Owner):
        self._bucket, self._name, self._owner = bucket, name, owner
        self._beats, self._ended, self._writing = 0, threading.Event(), threading.Lock()
        locks.hold(self)
        threading.Thread(target=self._beat, name="lease", daemon=True).start()

    def _beat(self) -> None:
        while not self._ended.wait(BEAT):
            # Where nothing is reached, what is written there fails as well, and says so.
            with self._writing, contextlib.suppress(UserError):
                if self._ended.is_set():
                    return
                self.check()
                self._beats += 1
                self._bucket.write(self._name, _text(self._owner, self._beats))

    def check(self) -> None:
        """Ends the process where another has taken the lock, as this one was cut off for too long."""
        other = _owner(self._bucket.read(self._name))
        if other is not None and other.token != self._owner.token:
            locks.lost(self._bucket.at, other)

    def release(self) -> None:
        """Lets others in; gives up after some seconds, as the process may be about to end at once."""
        self._ended.set()
        locks.let_go(self)
        letting = threading.Thread(target=self._release, name="lease", daemon=True)
        letting.start()
        letting.join(RELEASING)

    def _release(self) -> None:
        with self._writing, contextlib.suppress(UserError):
            if _is(self._bucket, self._name, self._owner):
                self._bucket.remove([self._name])


@contextlib.contextmanager
def held(bucket: Bucket, name: str, what: str) -> Iterator[Lease]:
    """Holds a lock for a block. Raises UserError where another process holds it, saying which.

    Args:
      bucket: where the lock is.
      name: of its object.
      what: the place as its user calls it.
    """
    lease = _acquired(bucket, name, what)
    try:
        yield lease
    finally:
        lease.release()


def _acquired(bucket: Bucket, name: str, what: str) -> Lease:
    mine = locks.Owner.this()
    while True:
        found = bucket.read(name)
        if found is None:
            # Read again, for a service that knows no condition has let two make it.
            if bucket.write(name, _text(mine, 0), new=True) and _is(bucket, name, mine):
                return Lease(bucket, name, mine)
            continue
        owner = _owner(found)
        if (
            owner is None
            or owner.dead()
            or (owner.dead() is None and _stands_still(bucket, name, found, what))
        ):
            bucket.write(name, _text(mine, 0))
            time.sleep(0.0 if owner is not None and owner.dead() else SETTLE)
            if _is(bucket, name, mine):
                return Lease(bucket, name, mine)
            continue
        raise UserError(f"{what} is in use by {owner}: wait until it ends, or stop it")


def _stands_still(bucket: Bucket, name: str, found: bytes, what: str) -> bool:
    """Whether nobody writes the lock of another machine any more; watches it for as long as it takes to know."""
    locks.say(f"{what} was in use by {_owner(found)}: waiting {STALE:g} s for a sign of life")
    began = time.monotonic()
    while time.monotonic() - began < STALE:
        time.sleep(min(LOOK, STALE / 4))
        if bucket.read(name) != found:
            return False
    return True


def _is(bucket: Bucket, name: str, mine: locks.Owner) -> bool:
    owner = _owner(bucket.read(name))
    return owner is not None and owner.token == mine.token


def _text(owner: locks.Owner, beats: int) -> bytes:
    return json.dumps(dataclasses.asdict(owner) | {"beats": beats}).encode()


def _owner(text: bytes | None) -> locks.Owner | None:
    """Who a lock says that it belongs to; None where it says nothing."""
    try:
        values = json.loads(text or b"")
        values.pop("beats")
        return locks.Owner.named(values)
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
