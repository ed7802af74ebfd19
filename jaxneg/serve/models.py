"""Exports that are served: each loaded and warmed up, swapped whole for a new one, and chosen by who asks."""

import hashlib
import pathlib
import threading
from collections.abc import Callable, Mapping
from typing import NamedTuple

from jaxneg import files, progress
from jaxneg.errors import UserError
from jaxneg.files import addresses
from jaxneg.serve import batching
from jaxneg.serve.scorer import Scorer

Place = pathlib.Path | files.Address
MANIFEST = "manifest.json"  # written last, so that what it stands in is whole


class NoModel(UserError):
    """A name that no model has."""


class Loaded(NamedTuple):
    """An export at one time; who has begun with it ends with it."""

    scorer: Scorer
    version: str  # of what its manifest says, so that two exports differ


class Models:
    """Exports by name. Threads may ask and swap at the same time."""

    def __init__(
        self,
        directories: Mapping[str, Place],
        shares: Mapping[str, float] | None = None,
        *,
        index: bool = True,
        opened: Callable[[], None] = lambda: None,
    ):
        """Opens all. Raises UserError where one cannot be served, or shares are of others.

        Args:
          directories: of the exports, by name.
          shares: of the listeners that name no model, by name; all alike by default.
          index: find items by an export's index where it has one, else look at all of them.
          opened: called once all are open, and whenever one has been opened anew.
        """
        shares = dict(shares or {name: 1.0 for name in directories})
        if unknown := sorted({*shares} - {*directories}):
            raise UserError(
                f"--split names {', '.join(unknown)}, which is not served: {_listed(directories)}"
            )
        if not sum(shares.values()) > 0 or min(shares.values()) < 0:
            raise UserError(f"--split needs shares of 0 or more, and one above 0, got {_shares(shares)}")
        self._directories, self._shares, self._index = dict(directories), shares, index
        self._seen = {name: addresses.stamp(path, MANIFEST) for name, path in directories.items()}
        self._loaded = {name: _loaded(path, index) for name, path in directories.items()}
        self._swapping, self._opened = threading.Lock(), opened
        opened()

    @property
    def names(self) -> list[str]:
        return list(self._loaded)

    def get(self, name: str) -> Loaded:
        """The export of a name. Raises NoModel where there is none."""
        if name not in self._loaded:
            raise NoModel(f"no model {name!r}: {_listed(self._directories)}")
        return self._loaded[name]

    def name_for(self, user: str) -> str:
        """The model of a listener, always the same one while the shares stay."""
        at = int.from_bytes(hashlib.sha256(user.encode()).digest()[:8], "big") / 2**64
        at *= sum(self._shares.values())
        for name, share in self._shares.items():
            at -= share
            if at < 0:
                return name
        return next(name for name, share in reversed(self._shares.items()) if share > 0)

    def reload(self, name: str) -> str:
        """Opens an export anew, and its version; where that raises UserError the one before goes on."""
        self.get(name)
        with self._swapping:
            stamp = addresses.stamp(self._directories[name], MANIFEST)
            self._loaded[name] = found = _loaded(self._directories[name], self._index)
            self._seen[name] = stamp
            self._opened()
        return found.version

    def reload_changed(self) -> None:
        """Opens what has changed on disk; says what could not be, once for each change."""
        for name, path in self._directories.items():
            try:
                stamp = addresses.stamp(path, MANIFEST)
            except UserError:  # of a bucket that is not reached: the next look may find it
                continue
            if stamp in (None, self._seen[name]):
                continue
            try:
                progress.say(f"jaxneg: {name} is now {self.reload(name)}")
            except UserError as error:
                self._seen[name] = stamp
                progress.say(f"jaxneg: {name} stays as it was: {error}")


def _loaded(place: Place, index: bool) -> Loaded:
    """An export whose programs are compiled, and whose matrices have been read."""
    directory = addresses.local(place, "directory", MANIFEST)
    scorer = Scorer.open(directory, index=index)
    scorer.warmup(batching.MOST)
    scorer.recommend(scorer.items(1), 1)
    version = hashlib.sha256((directory / MANIFEST).read_bytes()).hexdigest()[:12]
    return Loaded(scorer, version)


def _listed(directories: Mapping[str, Place]) -> str:
    return (
        f"there are {', '.join(directories)}"
        if len(directories) > 1
        else f"there is {next(iter(directories))}"
    )


def _shares(shares: Mapping[str, float]) -> str:
    return " ".join(f"{name}={share:g}" for name, share in shares.items())
