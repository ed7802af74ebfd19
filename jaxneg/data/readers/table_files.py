"""Which files of a source are a table, and of what layout."""

import hashlib
import pathlib

from jaxneg.data import heads, sources, staging
from jaxneg.errors import UserError

FORMATS = {
    ".parquet": "parquet",
    ".pq": "parquet",
    ".csv": "csv",
    ".tsv": "csv",
    ".txt": "csv",
    ".tab": "csv",
    ".jsonl": "json",
    ".ndjson": "json",
    ".json": "json",
}
# Kinds of files that hold logs elsewhere, and are not read here.
UNREAD = (
    ".xlsx", ".xls", ".ods", ".avro", ".orc", ".feather", ".arrow", ".ipc", ".sqlite", ".sqlite3", ".db", ".duckdb",
    ".log", ".inter",
    ".part", ".partial", ".crdownload", ".download",
    ".h5", ".hdf5", ".pkl", ".pickle", ".xz", ".lzma", ".7z", ".rar", ".tar", ".tgz", ".lz4", ".br", ".z", ".dat",
)  # fmt: skip
# Behind the ending of a log: copies and checksums beside it, which are none.
COPIES = (
    ".bak",
    ".old",
    ".orig",
    ".save",
    ".tmp",
    ".swp",
    ".crc",
    ".md5",
    ".sha1",
    ".sha256",
    ".asc",
    ".sig",
)


def find(
    source: pathlib.Path, encoding: str = "auto", *, timed: bool = True
) -> tuple[list[pathlib.Path], str]:
    """Files of the source and their common layout; text in UTF-8, whatever its ``encoding`` was.

    Raises UserError where a file may be of the log and is not read, is twice there, or is no log.
    """
    patterns = [f"*{suffix}" for suffix in FORMATS]
    if source.is_dir() or (source.is_file() and staging.is_zip(source)):
        _refuse_unread(source, sources.all_files(source))
    files = sources.find(source, patterns, "give Parquet, CSV or JSON lines")
    kinds = {file: FORMATS.get(pathlib.PurePath(staging.bare(file.name)).suffix) for file in files}
    if None in kinds.values():
        raise UserError(
            f"{source}: kind of file not known by its name: use {', '.join(patterns)}, or these with "
            f"{', '.join(staging.PACKED)}, or in a .zip"
        )
    layouts = {str(kind) for kind in kinds.values()}
    if len(layouts) > 1:
        raise UserError(f"{source} holds {' and '.join(sorted(layouts))} files: give files of one kind")
    if layouts == {"parquet"} and any(staging.packing(file) for file in files):
        raise UserError(f"{source}: Parquet is compressed inside: unpack what is packed around it first")
    layout = layouts.pop()
    if layout != "parquet":
        for file in files:
            staging.refuse_kind(file, text=True)
        files = [staging.as_utf8(file, encoding) for file in files]
    if timed:  # without times, small files may well be alike
        _refuse_twins(files, layout)
    return files, layout


def _refuse_twins(files: list[pathlib.Path], layout: str) -> None:
    """Raises UserError if two files are one packed in two ways, or the same byte for byte, and hold rows."""
    names: dict[str, pathlib.Path] = {}
    for file in files:
        if (other := names.setdefault(staging.bare(sources.unpacked_name(file)), file)) is not file:
            raise UserError(
                f"{sources.spoken(file)} and {sources.spoken(other)} are the same file: give one of them"
            )
    sizes: dict[int, list[pathlib.Path]] = {}
    for file in files:
        sizes.setdefault(file.stat().st_size, []).append(file)
    for alike in sizes.values():
        seen: dict[str, pathlib.Path] = {}
        for file in alike if len(alike) > 1 else ():
            with file.open("rb") as raw:
                digest = hashlib.file_digest(raw, "sha256").hexdigest()
            if (other := seen.setdefault(digest, file)) is not file and _rows(file, layout):
                raise UserError(
                    f"{sources.spoken(file)} is a copy of {sources.spoken(other)}, so each event would count twice: "
                    "move one of them away"
                )


def _rows(file: pathlib.Path, layout: str) -> bool:
    """Whether a file holds more than its header."""
    return layout == "parquet" or len(heads.first_lines(file, 2)) > (1 if layout == "csv" else 0)


def _refuse_unread(source: pathlib.Path, files: list[pathlib.Path]) -> None:
    """Raises UserError if a folder holds what may be part of the log, and would be passed over."""
    for name in ("_delta_log", ".hoodie"):
        if source.is_dir() and any(path.is_dir() for path in source.rglob(name)):
            raise UserError(
                f"{source} is a table with versions ({name}), whose files are not all of the log: export it as "
                "plain Parquet"
            )
    for file in files:
        name = pathlib.PurePath(staging.bare(file.name))
        behind = any(ending in FORMATS for ending in name.suffixes[:-1])
        other = name.suffix not in FORMATS and name.suffix not in COPIES
        unpacked = not name.suffix and (staging.packing(file) or name.name.startswith("part-"))
        if name.suffix in UNREAD or unpacked or (behind and other):
            raise UserError(
                f"{sources.spoken(file)} may be part of the log, and is of a kind that is not read: unpack or "
                "convert it, name it by its kind (as .csv), or move it away"
            )
