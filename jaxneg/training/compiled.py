"""Compiled programs are kept between processes, in the user's cache directory, by JAX's own cache of them.

A step compiles for seconds; from the cache it takes a tenth of that. Whoever has set JAX's cache, or switched it off
(``JAX_ENABLE_COMPILATION_CACHE=0``), keeps their setting.
"""

# jax.config.update leaves its arguments untyped.
# pyright: reportUnknownMemberType=false

import contextlib
import hashlib
import os
import pathlib
import platform

import filelock
import jax

from jaxneg import progress

LIMIT = 4 << 30  # bytes; JAX then drops what was used longest ago


def keep() -> None:
    """Has JAX keep what it compiles from now on; a person is told where, when the directory is made."""
    chosen, allowed = (
        getattr(jax.config, name) for name in ("jax_compilation_cache_dir", "jax_enable_compilation_cache")
    )
    if chosen is not None or not allowed:
        return
    place = directory()
    new = not place.is_dir()
    try:
        place.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(place / ".lockfile", timeout=10):
            _clean(place)
    except (OSError, filelock.Timeout):  # a home that is not there or full: every process compiles for itself
        return
    jax.config.update("jax_compilation_cache_max_size", LIMIT)
    jax.config.update("jax_compilation_cache_dir", str(place))
    if new:
        progress.say(f"jaxneg: compiled programs are kept in {place}")


def directory() -> pathlib.Path:
    """Where programs of processors like this one are kept: another kind could not run them."""
    base = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    told = platform.machine() + platform.processor()
    with contextlib.suppress(OSError):
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
        told += next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return pathlib.Path(base) / "jaxneg" / "programs" / hashlib.sha256(told.encode()).hexdigest()[:12]


def _clean(place: pathlib.Path) -> None:
    """Removes what a process that was killed had half written: JAX notes the time of use of an entry after it."""
    for entry in place.glob("*-cache"):
        if not entry.with_name(f"{entry.name.removesuffix('-cache')}-atime").is_file():
            entry.unlink(missing_ok=True)
