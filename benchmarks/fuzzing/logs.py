"""Damage to logs of people: rows, fields, containers; and how many rows a reader of Python's own finds in them."""

# Lists of odd values read better in long lines.
# ruff: noqa: E501

import bz2
import csv
import gzip
import io
import json
import pathlib
import random
import zipfile
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from fuzzing import damage, documents

FIELDS = ("", " ", "nan", "None", "NULL", "\\N", '"', '""', 'a"b', '"a', "a\nb", "a\r", "a,b", "a\tb", "\0", "é" * 300, "x" * 100_000,
          "-1", "0", "1e308", "1e999", "inf", "2024-02-30", "2024-01-31 12:00:00", "1706795126102.5", "17067951261020",
          "9" * 25, "true", "skip", "thumb_up", "=1+1", "\ufeff", "'; DROP TABLE x; --", "%s", "{}", "[1]", "\u2028")  # fmt: skip


def text(rng: random.Random, data: bytes) -> tuple[bytes, str]:
    """Other rows or fields of delimited text."""
    end = b"\n"
    rows = data.split(end)
    k = rng.randrange(len(rows))
    how = rng.choice(("field", "field", "field", "field", "row gone", "row twice", "rows swapped", "row cut", "more fields",
                      "fewer fields", "blank", "ends", "quote", "mark", "header gone", "cut off", "utf-16", "latin"))  # fmt: skip
    mark = b"\t" if b"\t" in rows[0] else b","
    if how == "field":
        fields = rows[k].split(mark)
        at, new = rng.randrange(len(fields)), rng.choice(FIELDS).encode()
        fields[at] = new if rng.random() < 0.5 else b'"' + new + b'"'
        rows[k], how = mark.join(fields), f"field {at} of row {k} is {fields[at][:30]!r}"
    elif how == "row gone":
        del rows[k : k + rng.choice((1, 100))]
    elif how == "row twice":
        rows[k:k] = rows[k : k + rng.choice((1, 100))]
    elif how == "rows swapped":
        j = rng.randrange(len(rows))
        rows[k], rows[j] = rows[j], rows[k]
    elif how == "row cut":
        rows[k] = rows[k][: rng.randrange(len(rows[k]) + 1)]
    elif how == "more fields":
        rows[k] += mark * rng.choice((1, 5))
    elif how == "fewer fields":
        rows[k] = mark.join(rows[k].split(mark)[:-1])
    elif how == "blank":
        rows.insert(k, rng.choice((b"", b" ", b"\r", b"#", mark * 7)))
    elif how == "ends":
        return rng.choice((b"\r\n", b"\r", b"\n\n")).join(rows), "other line ends"
    elif how == "quote":
        at = rng.randrange(len(rows[k]) + 1)
        rows[k] = rows[k][:at] + b'"' + rows[k][at:]
        how = f"quote in row {k} at {at}"
    elif how == "mark":
        return b"\xef\xbb\xbf" + data, "byte order mark"
    elif how == "header gone":
        del rows[0]
    elif how == "cut off":
        return data[: rng.randrange(len(data))], "cut off"
    elif how == "utf-16":
        return data.decode().encode("utf-16"), "in UTF-16"
    else:
        rows[k] = rows[k] + "é".encode("latin-1")
    return end.join(rows), f"{how} ({k})"


def log(rng: random.Random, path: pathlib.Path) -> str:
    """Damage to a log, of the kind that it is."""
    if rng.random() < 0.3:
        return rng.choice(damage.BYTES)(rng, path)
    suffix = path.suffix
    if suffix == ".jsonl":
        return documents.lines(rng, path)
    if suffix == ".parquet":
        return damage.table(rng, path) if rng.random() < 0.5 else _cells(rng, path)
    if suffix == ".zip":
        return _zip(rng, path)
    if suffix in (".gz", ".bz2"):
        return _packed(rng, path)
    data, done = text(rng, path.read_bytes())
    path.write_bytes(data)
    return done


def _cells(rng: random.Random, path: pathlib.Path) -> str:
    """Other values in a column of a parquet log, of other types perhaps."""
    found = pq.read_table(path)
    name = rng.choice(found.column_names)
    held: list[Any] = found[name].to_pylist()
    k = rng.randrange(len(held))
    how = rng.choice(("null", "text", "float", "big", "nan", "bool", "binary", "list", "struct", "date"))
    make: dict[str, Any] = {
        "null": lambda: pa.array([None if j == k else v for j, v in enumerate(held)]),
        "text": lambda: pa.array([rng.choice(FIELDS) if j == k else str(v) for j, v in enumerate(held)]),
        "float": lambda: pa.array([float(j) + 0.5 for j in range(len(held))]),
        "big": lambda: pa.array([2**62 + j for j in range(len(held))]),
        "nan": lambda: pa.array([float("nan") if j == k else float(j) for j in range(len(held))]),
        "bool": lambda: pa.array([j % 2 == 0 for j in range(len(held))]),
        "binary": lambda: pa.array([str(v).encode() if j != k else b"\xff\xfe" for j, v in enumerate(held)]),
        "list": lambda: pa.array([[str(v)] for v in held]),
        "struct": lambda: pa.array([{"a": str(v)} for v in held]),
        "date": lambda: pa.array([j for j in range(len(held))], pa.timestamp("us")),
    }
    pq.write_table(found.set_column(found.column_names.index(name), name, make[how]()), path)
    return f"column {name}: {how} ({k})"


def _zip(rng: random.Random, path: pathlib.Path) -> str:
    with zipfile.ZipFile(path) as archive:
        [name] = archive.namelist()
        data = archive.read(name)
    how = rng.choice(
        ("text", "text", "two", "twice", "outside", "folder", "none", "stored", "nested", "absolute", "size")
    )
    members = {
        "text": [(name, data)],
        "two": [(name, data), ("notes.txt", b"hello")],
        "outside": [(f"../{name}", data)],
        "folder": [("a/", b""), (f"a/{name}", data)],
        "none": [],
        "stored": [(name, data)],
        "size": [(name, data)],
        "twice": [(name, data), (name, data)],
        "nested": [("inner.zip", path.read_bytes())],
        "absolute": [(f"/{name}", data)],
    }[how]
    if how == "text":
        changed, how = text(rng, data)
        members = [(name, changed)]
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with zipfile.ZipFile(
            path, "w", zipfile.ZIP_STORED if how == "stored" else zipfile.ZIP_DEFLATED
        ) as archive:
            for each, held in members:
                archive.writestr(each, held)
    if how == "size":  # what the directory claims of it
        raw = bytearray(path.read_bytes())
        at = raw.rfind(b"PK\x01\x02")
        field = rng.choice((8, 10, 16, 20, 24, 42))  # flags, method, CRC, sizes, offset
        raw[at + field : at + field + 2] = rng.randbytes(2)
        path.write_bytes(raw)
        how = f"directory's field at {field}"
    return f"zip: {how}"


def _packed(rng: random.Random, path: pathlib.Path) -> str:
    module = gzip if path.suffix == ".gz" else bz2
    data = module.decompress(path.read_bytes())
    how = rng.choice(("text", "text", "two streams", "packed twice", "plain", "empty stream", "tail"))
    if how == "text":
        data, how = text(rng, data)
        made = module.compress(data)
    else:
        half = data.find(b"\n", len(data) // 2) + 1
        made = {
            "two streams": lambda: module.compress(data[:half]) + module.compress(data[half:]),
            "packed twice": lambda: module.compress(module.compress(data)),
            "plain": lambda: data,
            "empty stream": lambda: module.compress(b""),
            "tail": lambda: module.compress(data) + b"\0" * 100,
        }[how]()
    path.write_bytes(made)
    return f"{path.suffix}: {how}"


def rows(path: pathlib.Path) -> int | None:
    """Rows of a log by Python's own readers; None where they find none that can be trusted."""
    try:
        if path.suffix == ".parquet":
            return pq.read_table(path).num_rows
        return _rows(path.name, path.read_bytes())
    except Exception:
        return None


def _rows(name: str, data: bytes) -> int:
    if name.endswith(".zip"):
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            names = [n for n in archive.namelist() if n.endswith(".csv")]
            return sum(_rows(each, archive.read(each)) for each in names)
    if name.endswith((".gz", ".bz2")):
        data = (gzip if name.endswith(".gz") else bz2).decompress(data)
    told = data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    if ".jsonl" in name:
        lines = [line for line in told.split("\n") if line.strip()]
        assert all(isinstance(json.loads(line), dict) for line in lines)
        return len(lines)
    if ".inter" in name:
        return sum(1 for line in told.splitlines()[1:] if line.strip())
    csv.field_size_limit(1 << 24)
    return sum(1 for row in csv.reader(io.StringIO(told, newline=""), strict=True) if row) - 1
