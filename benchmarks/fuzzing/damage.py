"""Damage to files of any kind, to arrays and to tables; each function says what it did."""

# Lists of odd values read better in long lines.
# ruff: noqa: E501

import os
import pathlib
import random
import shutil
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

Damage = Callable[[random.Random, pathlib.Path], str]


def bit(rng: random.Random, path: pathlib.Path) -> str:
    data = bytearray(path.read_bytes())
    if not data:
        return inserted(rng, path)
    count = rng.choice((1, 1, 1, 4, 32))
    for _ in range(count):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)
    return f"{count} bits turned"


def overwritten(rng: random.Random, path: pathlib.Path) -> str:
    data = bytearray(path.read_bytes())
    at, length = rng.randrange(len(data) + 1), rng.choice((1, 2, 4, 8, 64, 512))
    filling = rng.choice((b"\0", b"\xff", b"\x7f", b"A", b"0", b"\n", bytes([rng.randrange(256)])))
    data[at : at + length] = (filling * length)[: max(0, len(data) - at)]
    path.write_bytes(data)
    return f"{length} bytes {filling!r} at {at}"


def cut(rng: random.Random, path: pathlib.Path) -> str:
    data = path.read_bytes()
    at, length = rng.randrange(len(data) + 1), rng.choice((1, 2, 8, 100, 4096))
    path.write_bytes(data[:at] + data[at + length :])
    return f"{length} bytes cut at {at}"


def inserted(rng: random.Random, path: pathlib.Path) -> str:
    data = path.read_bytes()
    at, length = rng.randrange(len(data) + 1), rng.choice((1, 2, 8, 100, 4096))
    path.write_bytes(data[:at] + rng.randbytes(length) + data[at:])
    return f"{length} bytes inserted at {at}"


def truncated(rng: random.Random, path: pathlib.Path) -> str:
    data = path.read_bytes()
    length = rng.choice((0, 1, len(data) // 2, max(len(data) - 1, 0), rng.randrange(len(data) + 1)))
    path.write_bytes(data[:length])
    return f"truncated to {length} bytes"


def appended(rng: random.Random, path: pathlib.Path) -> str:
    data = path.read_bytes()
    more = rng.choice((b"\0", b"\n", b" ", rng.randbytes(16), data))
    path.write_bytes(data + more)
    return f"{len(more)} bytes appended"


def moved(rng: random.Random, path: pathlib.Path) -> str:
    data = path.read_bytes()
    a, b = sorted(rng.randrange(len(data) + 1) for _ in range(2))
    path.write_bytes(
        data[b:] + data[a:b] + data[:a] if rng.random() < 0.5 else data[:b] + data[a:b] + data[b:]
    )
    return f"block {a} to {b} moved or doubled"


def removed(rng: random.Random, path: pathlib.Path) -> str:
    path.unlink()
    return "removed"


def other_kind(rng: random.Random, path: pathlib.Path) -> str:
    """A directory, a pipe or a link in the file's place."""
    path.unlink()
    what = rng.choice(("directory", "pipe", "dangling link", "link to itself", "link to a directory"))
    if what == "directory":
        path.mkdir()
    elif what == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to({"dangling link": "nowhere", "link to itself": path.name}.get(what, "."))
    return what


def of_another(rng: random.Random, path: pathlib.Path) -> str:
    """The contents of a file beside it."""
    others = sorted(p for p in path.parent.iterdir() if p.is_file() and p != path)
    if not others:
        return bit(rng, path)
    other = rng.choice(others)
    if rng.random() < 0.5:
        shutil.copyfile(other, path)
        return f"contents of {other.name}"
    held = other.read_bytes()
    other.write_bytes(path.read_bytes())
    path.write_bytes(held)
    return f"swapped with {other.name}"


BYTES: tuple[Damage, ...] = (
    bit,
    bit,
    bit,
    overwritten,
    overwritten,
    cut,
    inserted,
    truncated,
    appended,
    moved,
    removed,
    other_kind,
    of_another,
)


def swapped(path: pathlib.Path, other: pathlib.Path) -> str:
    """The file of that name of another directory of its kind."""
    shutil.copyfile(other, path)
    return f"that of {other.parent.name}"


HEADERS: tuple[tuple[str, Any], ...] = (
    ("shape", ()),
    ("shape", (0,)),
    ("shape", (1,)),
    ("shape", (-1,)),
    ("shape", (2**62,)),
    ("shape", (2**31, 2**31)),
    ("shape", (1.5,)),
    ("shape", "x"),
    ("shape", (True,)),
    ("shape", (10**30,)),
    ("shape", None),
    ("descr", "|O"),
    ("descr", "<f8"),
    ("descr", ">i4"),
    ("descr", "<U1000000000"),
    ("descr", "<i2"),
    ("descr", 5),
    ("descr", [("a", "<i4"), ("b", "|O")]),
    ("descr", "x"),
    ("fortran_order", True),
    ("fortran_order", None),
    ("fortran_order", 7),
    ("more", 1),
    ("shape", ...),
    ("descr", ...),
)


def header(rng: random.Random, path: pathlib.Path) -> str:
    """Another header of a npy file."""
    with open(path, "rb") as file:
        version = np.lib.format.read_magic(file)
        assert version == (1, 0)
        shape, fortran, kind = np.lib.format.read_array_header_1_0(file)
        data = file.read()
    told: dict[str, Any] = {"descr": kind.str, "fortran_order": fortran, "shape": shape}
    name, value = rng.choice(
        (
            *HEADERS,
            ("shape", (shape[0] + 1, *shape[1:])),
            ("shape", (*shape, 1)),
            ("shape", (shape[0] * 2, *shape[1:])),
        )
    )
    if value is ...:
        told.pop(name)
    else:
        told[name] = value
    text = rng.choice(
        (repr(told), repr(told), repr(told), repr(told)[:-1], "[" * 3000, "(" * 90 + ")" * 90, "1", "{}")
    )
    text = f"{text:<117}\n".encode()
    version = rng.choice((b"\1\0", b"\1\0", b"\1\0", b"\1\0", b"\2\0", b"\3\0", b"\xff\xff"))
    size = len(text).to_bytes(4 if version in (b"\2\0", b"\3\0") else 2, "little")
    path.write_bytes(b"\x93NUMPY" + version + size + text + data)
    return f"header of version {version!r} with {name} = {value!r} as {text[:30]!r}"


NUMBERS = (
    -1,
    -2,
    0,
    1,
    2,
    5,
    6,
    127,
    128,
    255,
    2**15,
    2**31 - 1,
    -(2**31),
    2**32,
    2**62,
    2**63 - 1,
    -(2**63),
    5000,
)


def values(rng: random.Random, path: pathlib.Path) -> str:
    """Other numbers in an array."""
    array = np.load(path)
    if array.size == 0:
        return bit(rng, path)
    flat, count = array.reshape(-1), rng.choice((1, 1, 1, 3, array.size))
    how = rng.random()
    places = np.array([rng.randrange(array.size) for _ in range(count)])
    if rng.random() < 0.2:
        places[0] = rng.choice((0, array.size - 1))
    if how < 0.15:
        flat[:] = flat[np.array(rng.sample(range(array.size), array.size))]
        told = "shuffled"
    elif array.dtype.kind == "f":
        value = rng.choice((float("nan"), float("inf"), 3e38, 0.0, -1.0))
        flat[places], told = value, f"{value} at {count} places"
    else:
        value = rng.choice((*NUMBERS, array.size, array.size + 1, int(flat.max()) + 1, int(flat.max()) - 1))
        with np.errstate(all="ignore"):
            flat[places] = np.array(value % 2**64, np.uint64).view(np.int64).astype(array.dtype)
        told = f"{value} at {count} places, as at {places[0]}"
    _written(path, array)
    return told


def resized(rng: random.Random, path: pathlib.Path) -> str:
    """An array of another length, type or layout, well formed."""
    array = np.load(path)
    how = rng.choice(("shorter", "longer", "empty", "wider", "float", "column", "fortran", "one"))
    made = {
        "shorter": lambda: array[:-1],
        "longer": lambda: np.concatenate([array, array[-1:]]),
        "empty": lambda: array[:0],
        "wider": lambda: array.astype(np.int64 if array.dtype != np.int64 else np.int32),
        "float": lambda: array.astype(np.float64),
        "column": lambda: array[..., None],
        "fortran": lambda: np.asfortranarray(np.stack([array, array])),
        "one": lambda: array[:1],
    }[how]()
    _written(path, made)
    return f"array made {how}"


def _written(path: pathlib.Path, array: np.ndarray) -> None:
    with open(path, "wb") as file:
        np.lib.format.write_array(file, array, version=(1, 0))


ARRAYS: tuple[Damage, ...] = (header, values, values, resized)


def table(rng: random.Random, path: pathlib.Path) -> str:
    """Another table in a parquet file: columns, types, rows, nulls, doubles, codecs."""
    found = pq.read_table(path)
    rows, column = len(found), rng.randrange(found.num_columns)
    name, how = (
        found.column_names[column],
        rng.choice(
            (
                "renamed",
                "dropped",
                "typed",
                "null",
                "double row",
                "fewer rows",
                "no rows",
                "double value",
                "odd text",
                "doubled column",
                "bytes",
                "nested",
                "codec",
                "dictionary",
                "many groups",
            )
        ),
    )
    options: dict[str, Any] = {}
    array = found[name].combine_chunks()
    held = array.to_pylist()
    at = rng.randrange(rows) if rows else 0
    if how == "renamed":
        found = found.rename_columns(
            [n if n != name else rng.choice(("", "x", name.upper(), 'a"b')) for n in found.column_names]
        )
    elif how == "dropped":
        found = found.drop_columns([name])
    elif how == "doubled column":
        found = found.append_column(name, array)
    elif how in ("fewer rows", "no rows", "double row"):
        keep = {"no rows": [], "fewer rows": [*range(rows)][:-1], "double row": [*range(rows), at]}[how]
        found = found.take(pa.array(keep, pa.int64()))
    elif how == "codec":
        options = {"compression": rng.choice(("zstd", "gzip", "brotli", "none"))}
    elif how == "dictionary":
        found = found.set_column(column, name, array.dictionary_encode())
    elif how == "many groups":
        options = {"row_group_size": 1}
    else:
        new = {
            "typed": lambda: pa.array([float(k) for k in range(rows)]),
            "null": lambda: pa.array([None if k == at else v for k, v in enumerate(held)], array.type),
            "double value": lambda: pa.array(
                [held[0] if k == at else v for k, v in enumerate(held)], array.type
            ),
            "odd text": lambda: pa.array(
                [
                    rng.choice(("", "\0", "é" * 1000, "a\nb", "nan")) if k == at else str(v)
                    for k, v in enumerate(held)
                ]
            ),
            "bytes": lambda: pa.array([b"\xff\xfe" for _ in held], pa.binary()),
            "nested": lambda: pa.array([[1] for _ in held], pa.list_(pa.int64())),
        }[how]()
        found = found.set_column(column, name, new)
    pq.write_table(found, path, **options)
    return f"table with {name} {how}"
