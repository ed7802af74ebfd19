"""Files as the query engine gets them: by names that mean nothing, in encodings that it reads.

An engine takes names for patterns, endings for kinds, parent folders for columns. So it never sees a name that a
person chose: each file is handed over as a link in a folder of this process, 000012.csv.gz. What the engine cannot
unpack is wrapped anew there: bz2, and members of zip archives, whose deflated bytes are those of a gzip file, so
that nothing grows on the disk. ``original`` puts the names of people back into messages.
"""

import atexit
import bz2
import codecs
import contextlib
import fcntl
import gzip
import io
import os
import pathlib
import shutil
import struct
import tempfile
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa

from jaxneg.errors import UserError

PREFIX = "jaxneg-read-"
PACKED = (".gz", ".bz2", ".zst")  # endings of files that hold one packed file
BLOCK = 1 << 20
BOM = b"\xef\xbb\xbf"
LITTER = ("thumbs.db", "desktop.ini")  # what other programs leave in folders, beside hidden files
MARKS = {  # what a text starts with that is no UTF-8
    b"\xff\xfe\0\0": "utf-32",
    b"\0\0\xfe\xff": "utf-32",
    b"\xff\xfe": "utf-16",
    b"\xfe\xff": "utf-16",
}
KINDS = {  # what files start with that are no text
    b"\x1f\x8b": "a gzip file: name it .gz",
    b"BZh": "a bz2 file: name it .bz2",
    b"\x28\xb5\x2f\xfd": "a zst file: name it .zst",
    b"PAR1": "a Parquet file: name it .parquet",
    b"PK\x03\x04": "a zip archive or a spreadsheet: name it .zip, or save it as CSV",
    b"\xd0\xcf\x11\xe0": "a spreadsheet: save it as CSV",
    b"SQLite format 3": "a database: export its table as CSV",
    b"%PDF": "a PDF: give the log itself",
    b"ARROW1": "an Arrow file: write it as Parquet",
}
PAGES = {  # what text starts with that is no log
    b"version https://git-lfs": "a pointer of Git LFS, not the file itself: fetch it with git lfs pull",
    b"<!doctype html": "a web page: fetch the file itself",
    b"<html": "a web page: fetch the file itself",
    b"<?xml": "XML: write it as CSV or JSON lines",
}


class _Folder:
    """The folder of this process; what stands in it, and for which file of the user."""

    def __init__(self) -> None:
        base = pathlib.Path(tempfile.gettempdir())
        _clear(base)
        self.path = pathlib.Path(tempfile.mkdtemp(prefix=PREFIX, dir=base))
        self._lock = open(self.path / "lock", "wb")
        fcntl.flock(self._lock, fcntl.LOCK_EX)  # free once this process is gone, however it goes
        self.process, self.number = os.getpid(), 0
        self.originals: dict[str, str] = {}
        self.links: dict[tuple[str, str], pathlib.Path] = {}
        atexit.register(self.remove)

    def new(self, original: object, ending: str = "") -> pathlib.Path:
        self.number += 1
        path = self.path / f"{self.number:06}{ending}"
        self.originals[str(path)] = self.originals.get(str(original), str(original))
        return path

    def remove(self) -> None:
        if os.getpid() == self.process:
            self._lock.close()
            shutil.rmtree(self.path, ignore_errors=True)


_current: _Folder | None = None


def _folder() -> _Folder:
    global _current
    if _current is None or _current.process != os.getpid() or not _current.path.is_dir():
        _current = _Folder()
    return _current


def _clear(base: pathlib.Path) -> None:
    """Removes the folders of processes that were killed."""
    for name in os.listdir(base):
        lock = base / name / "lock"
        if name.startswith(PREFIX):
            with contextlib.suppress(OSError), open(lock, "rb") as held:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if time.time() - lock.stat().st_mtime > 60:  # not one that is being made
                    shutil.rmtree(lock.parent, ignore_errors=True)


def packing(file: pathlib.Path) -> str:
    """How a file is packed, by the ending of its name: ".gz", ".bz2", ".zst", or "" if it is not."""
    ending = file.suffix.lower()
    return ending if ending in PACKED else ""


def bare(name: str) -> str:
    """The name in small letters without an ending that says how it is packed."""
    name = name.lower()
    return next((name.removesuffix(ending) for ending in PACKED if name.endswith(ending)), name)


def link(file: pathlib.Path, ending: str, *, strip_bom: bool = False) -> str:
    """The path by which an engine gets a file; ``ending`` is that of its kind, as in ".csv".

    Args:
      strip_bom: for kinds of which the engine reads no byte order mark: a file that has one is written anew.
    """
    folder, packed = _folder(), packing(file)
    key = (str(file.absolute()), ending)
    if key not in folder.links:
        if packed == ".bz2" or (strip_bom and _starts_with_bom(file)):
            path = folder.new(file, ending + ".gz")
            with opened(file) as plain, gzip.open(path, "wb", compresslevel=1) as out:
                first = plain.read(len(BOM))
                out.write(b"" if first == BOM else first)
                shutil.copyfileobj(plain, out, BLOCK)
        else:
            path = folder.new(file, ending + packed)
            path.symlink_to(file.absolute())
        folder.links[key] = path
    return str(folder.links[key])


def original(text: str) -> str:
    """A message with the names that the user gave instead of those of links."""
    if _current is None or str(_current.path) not in text:
        return text
    for path in sorted(_current.originals, key=len, reverse=True):
        text = text.replace(path, _current.originals[path])
    return text


@contextlib.contextmanager
def opened(file: pathlib.Path) -> Iterator[Any]:
    """The bytes of a file, unpacked as they are read. Raises UserError where the packing is damaged."""
    packed = packing(file)
    try:
        with contextlib.ExitStack() as stack:
            if packed == ".gz":
                yield stack.enter_context(gzip.open(file, "rb"))
            elif packed == ".bz2":
                yield stack.enter_context(bz2.open(file, "rb"))
            elif packed == ".zst":
                raw = stack.enter_context(pa.input_stream(str(file), compression="zstd"))
                yield io.BufferedReader(raw)
            else:
                yield stack.enter_context(file.open("rb"))
    except UnicodeError:
        raise
    except (EOFError, gzip.BadGzipFile, zlib.error, ValueError) as error:
        raise _damaged(file, error) from error
    except OSError as error:
        if error.errno:
            raise
        raise _damaged(file, error) from error


def _damaged(file: pathlib.Path, error: Exception) -> UserError:
    kind = {".gz": "gzip", ".bz2": "bz2", ".zst": "zst"}.get(packing(file), "text")
    return UserError(
        original(f"{file}: its {kind} stream is cut off or damaged ({error}): fetch or write the file again")
    )


def refuse_kind(file: pathlib.Path, *, text: bool) -> None:
    """Raises UserError if the first bytes of a file are those of another kind than its name says."""
    with opened(file) as plain:
        head = plain.read(64)
    kinds = PAGES | (KINDS if text else {})
    start = head.removeprefix(BOM).lstrip().lower() if text else head.lower()
    for first, what in kinds.items():
        if start.startswith(first.lower()) if first in PAGES else head.startswith(first):
            raise UserError(f"{original(str(file))} is {what}")


def as_utf8(file: pathlib.Path, encoding: str) -> pathlib.Path:
    """The file, or one in UTF-8 with the same text if it is in another encoding.

    Args:
      encoding: a name of Python's, or "auto" for UTF-8, or UTF-16 or 32 if a byte order mark says so.

    Raises UserError where the text is not in this encoding.
    """
    with opened(file) as plain:
        head = plain.read(64)
    marked = next((name for mark, name in MARKS.items() if head.startswith(mark)), "")
    if encoding == "auto" and not marked and b"\0" in head:
        raise UserError(
            f"{original(str(file))}: has zero bytes in its first line, so it is no UTF-8 text: if it is UTF-16 give "
            "--encoding utf-16-le or utf-16-be"
        )
    name = (marked or "utf-8") if encoding == "auto" else codecs.lookup(encoding).name
    if name == "utf-8":
        return file
    folder = _folder()
    key = (str(file.absolute()), f"/{name}")
    if key not in folder.links:
        path = folder.new(file, pathlib.PurePath(bare(file.name)).suffix + ".gz")
        try:
            with opened(file) as plain, gzip.open(path, "wb", compresslevel=1) as out:
                with io.TextIOWrapper(plain, encoding=name, newline="") as text:
                    while block := text.read(BLOCK):
                        out.write(block.removeprefix("\ufeff").encode())
        except UnicodeError as error:
            raise UserError(
                f"{original(str(file))}: is not {name.upper()} text ({error}): give another --encoding"
            ) from error
        folder.links[key] = path
    return folder.links[key]


def _starts_with_bom(file: pathlib.Path) -> bool:
    with opened(file) as plain:
        return plain.read(len(BOM)) == BOM


def is_zip(file: pathlib.Path) -> bool:
    return file.suffix.lower() == ".zip"


def hidden(path: pathlib.PurePath) -> bool:
    """Whether a path below a source is none of its log: a file or folder .x, _x, ~$x or __MACOSX, or litter."""
    return path.name.lower() in LITTER or any(part.startswith((".", "_", "~$")) for part in path.parts)


def unzipped(archive: pathlib.Path, wanted: Callable[[str], bool]) -> pathlib.Path:
    """A folder with the members of an archive whose path is ``wanted``, in their folders, but for hidden ones.

    Text is kept packed, as .gz; Parquet, and what is packed within the archive, is written as it is.
    """
    folder = _folder()
    key = (str(archive.absolute()), ".zip")
    root = folder.links.setdefault(key, folder.path / f"zip{len(folder.links)}" / (archive.stem or "zip"))
    folder.originals[str(root)] = str(archive)
    try:
        with zipfile.ZipFile(archive) as file:
            for member in file.infolist():
                path = pathlib.PurePosixPath(member.filename)
                parts = [part for part in path.parts if part not in ("/", "..", ".")]
                if member.is_dir() or not parts or hidden(path) or not wanted(member.filename):
                    continue
                if member.flag_bits & 1:
                    raise UserError(f"{archive}: {member.filename} is encrypted: unpack it with its password")
                _member(archive, file, member, root.joinpath(*parts), folder)
    except (zipfile.BadZipFile, EOFError, zlib.error, NotImplementedError, RuntimeError) as error:
        raise UserError(
            f"{archive}: damaged or half-written zip, or one of an unknown kind ({error}): fetch the file again, "
            "or give it unpacked"
        ) from error
    return root


def _member(
    archive: pathlib.Path, file: zipfile.ZipFile, member: zipfile.ZipInfo, path: pathlib.Path, folder: _Folder
) -> None:
    plain = packing(path) != "" or path.suffix.lower() in (".parquet", ".pq", ".zip")
    if not plain:
        path = path.with_name(path.name + ".gz")
    folder.originals[str(path)] = f"{archive}/{member.filename}"
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_name(path.name + ".half")
    if plain:
        free = shutil.disk_usage(path.parent).free
        if member.file_size > free:
            raise UserError(
                f"{archive}: {member.filename} takes {member.file_size:,} bytes unpacked, and {path.parent} has "
                f"{free:,}: set TMPDIR to a place with room"
            )
        with file.open(member) as packed, half.open("wb") as out:
            shutil.copyfileobj(packed, out, BLOCK)
    elif member.compress_type == zipfile.ZIP_DEFLATED:
        with half.open("wb") as out:
            out.write(b"\x1f\x8b\x08\0\0\0\0\0\0\xff")
            for block in _raw(archive, member):
                out.write(block)
            out.write(struct.pack("<II", member.CRC, member.file_size & 0xFFFFFFFF))
    else:
        with file.open(member) as packed, gzip.open(half, "wb", compresslevel=1) as out:
            shutil.copyfileobj(packed, out, BLOCK)
    half.rename(path)


def _raw(archive: pathlib.Path, member: zipfile.ZipInfo) -> Iterator[bytes]:
    """The packed bytes of a member, as they stand in the archive."""
    with archive.open("rb") as file:
        file.seek(member.header_offset)
        head = file.read(30)
        if len(head) < 30 or not head.startswith(b"PK\x03\x04"):
            raise zipfile.BadZipFile(f"no member at {member.header_offset}")
        name, extra = struct.unpack("<HH", head[26:30])
        file.seek(name + extra, os.SEEK_CUR)
        left = member.compress_size
        while left:
            block = file.read(min(left, BLOCK))
            if not block:
                raise zipfile.BadZipFile(f"{member.filename} is cut off")
            left -= len(block)
            yield block
