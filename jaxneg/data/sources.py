"""Which files a source holds, and how they are named to people."""

import fnmatch
import pathlib
import re
from collections.abc import Sequence
from typing import Any

from jaxneg.data import staging
from jaxneg.errors import UserError


def find(source: pathlib.Path, patterns: Sequence[str], mend: str) -> list[pathlib.Path]:
    """Files to read: `source` if it is a file, else those below it whose name matches, packed or not.

    Members of zip archives count as files; hidden files and folders (.x, _x, __MACOSX) do not. Endings and names
    match in capitals too. Order of names, with numbers by value (9 before 10). Raises UserError, ending in `mend`,
    if there is none, or if one of them is there twice, packed in another way.
    """
    if source.is_file() and not _archive(source, patterns):
        return [source]
    if not source.exists():
        raise UserError(f"no file or directory {source}: give the path of the log")
    found = [path for path in _below(source, patterns) if _matches(path.name, patterns)]
    if not found:
        packed = ", ".join(staging.PACKED)
        raise UserError(
            f"{source} holds no file named {' or '.join(patterns)} (or these with {packed} or in a .zip): {mend}"
        )
    seen: dict[str, pathlib.Path] = {}
    for path in found:
        if (other := seen.setdefault(staging.bare(spoken(path)), path)) is not path:
            raise UserError(f"{source} holds both {spoken(other)} and {spoken(path)}: give one of them")
    return sorted(found, key=lambda path: natural_key(pathlib.Path(spoken(path))))


def unpacked_name(path: pathlib.Path) -> str:
    """The path that a file has once archives are unpacked beside themselves."""
    return re.sub(r"(?i)[^/]*\.zip/", "", spoken(path))


def unpacked(source: pathlib.Path) -> pathlib.Path:
    """The folder with what a zip archive holds; any other source as it is."""
    return staging.unzipped(source, lambda _: True) if source.is_file() and staging.is_zip(source) else source


def beside(source: pathlib.Path, patterns: Sequence[str]) -> list[pathlib.Path]:
    """As ``find``, for files that may be missing; of the folder of a source that is a file."""
    folder = source if source.is_dir() or _archive(source, patterns) else source.parent
    found = [path for path in _below(folder, patterns) if _matches(path.name, patterns)]
    return sorted(found, key=natural_key)


def all_files(source: pathlib.Path) -> list[pathlib.Path]:
    """All files of a source that are not hidden, members of zip archives among them."""
    return _below(source, ["*"])


def _archive(source: pathlib.Path, patterns: Sequence[str]) -> bool:
    """Whether the members of a file are meant, rather than itself."""
    return staging.is_zip(source) and not any(pattern.endswith(".zip") for pattern in patterns)


def _below(source: pathlib.Path, patterns: Sequence[str]) -> list[pathlib.Path]:
    if source.is_file():
        paths = [source]
    else:
        paths = []
        for path in source.rglob("*"):
            if staging.hidden(path.relative_to(source)) or path.is_dir():
                continue
            if not path.exists() and _matches(path.name, patterns):
                raise UserError(f"{path} is a link to a file that is not there: mend or remove it")
            if path.is_file():
                paths.append(path)
    found = []
    for path in paths:
        if not _archive(path, patterns):
            found.append(path)
            continue
        root = staging.unzipped(path, lambda name: _matches(pathlib.PurePosixPath(name).name, patterns))
        found += [
            member for member in root.rglob("*") if member.is_file() and not member.name.endswith(".half")
        ]
    return found


def _matches(name: str, patterns: Sequence[str]) -> bool:
    names = {name.lower(), staging.bare(name)}
    return any(fnmatch.fnmatchcase(name, pattern.lower()) for name in names for pattern in patterns)


def spoken(file: pathlib.Path) -> str:
    """A file as the user knows it."""
    return staging.original(str(file))


def natural_key(path: pathlib.Path) -> list[Any]:
    """Sort key of a path in which numbers count by value."""
    return [
        (int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", str(path)) if part
    ]


def require(file: pathlib.Path, columns: Sequence[str], needed: Sequence[str], mend: str = "") -> None:
    """Raises UserError naming the columns that a file lacks and those that it has."""
    missing = [name for name in needed if name not in columns]
    if missing:
        plural = "s" if len(missing) > 1 else ""
        have = ", ".join(columns[:30]) or "none"
        raise UserError(
            f"{spoken(file)}: column{plural} {', '.join(missing)} missing; it has {have}"
            + (f": {mend}" if mend else "")
        )
