"""Which files of a source are a table, and of what layout."""

import pathlib

from jaxneg.data import sources, staging
from jaxneg.errors import UserError

FORMATS = {
    ".parquet": "parquet", ".pq": "parquet",
    ".csv": "csv", ".tsv": "csv", ".txt": "csv", ".tab": "csv",
    ".jsonl": "json", ".ndjson": "json", ".json": "json",
}  # fmt: skip
# Kinds of files that hold logs elsewhere, and are not read here.
UNREAD = (
    ".xlsx", ".xls", ".ods", ".avro", ".orc", ".feather", ".arrow", ".ipc", ".sqlite", ".sqlite3", ".db", ".duckdb",
    ".h5", ".hdf5", ".pkl", ".pickle", ".xz", ".lzma", ".7z", ".rar", ".tar", ".tgz", ".lz4", ".br", ".z", ".dat",
)  # fmt: skip


def find(source: pathlib.Path) -> tuple[list[pathlib.Path], str]:
    """Files of the source and their common layout."""
    patterns = [f"*{suffix}" for suffix in FORMATS]
    files = sources.find(source, patterns, "give Parquet, CSV or JSON lines")
    if source.is_dir():
        _refuse_unread(source, sources.all_files(source))
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
    return files, layouts.pop()


def _refuse_unread(source: pathlib.Path, files: list[pathlib.Path]) -> None:
    """Raises UserError if a folder holds what may be part of the log, and would be passed over."""
    for name in ("_delta_log", ".hoodie"):
        if any(path.is_dir() for path in source.rglob(name)):
            raise UserError(
                f"{source} is a table with versions ({name}), whose files are not all of the log: export it as "
                "plain Parquet"
            )
    for file in files:
        name = pathlib.PurePath(staging.bare(file.name))
        unpacked = not name.suffix and (staging.packing(file) or name.name.startswith("part-"))
        if name.suffix in UNREAD or unpacked:
            raise UserError(
                f"{sources.spoken(file)} may be part of the log, and is of a kind that is not read: unpack or "
                "convert it, name it by its kind (as .csv), or move it away"
            )
