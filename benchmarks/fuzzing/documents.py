"""Damage to JSON: other types, numbers beyond all bounds, depth, names missing, unknown and twice; and mended sums."""

# Lists of odd values read better in long lines.
# ruff: noqa: E501

import hashlib
import json
import pathlib
import random
from typing import Any

SEAL = "sha256"
RAW = "@@raw@@"  # stands in the values for text that is no JSON of ours
RAWS = ("NaN", "Infinity", "-Infinity", "1e999", "-1e999", "1" * 5000, "[" * 100_000, "[" * 50 + "]" * 50,
        '{"a":' * 60 + "1" + "}" * 60, '"\\ud800"', "tru", "", "'x'", "0x10", "01", "1.", '"\t"', "{\"a\": 1, \"a\": 2}",
        "-0", "1E2", "2e0", "9" * 30)  # fmt: skip
VALUES: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    1,
    -1,
    2,
    80,
    1.5,
    -0.0,
    1e-300,
    1e300,
    2**31,
    2**32,
    2**53,
    2**63 - 1,
    2**63,
    2**64,
    -(2**63),
    10**30,
    "",
    "x",
    "0",
    "../x",
    "/etc/passwd",
    "é",
    "\0",
    "a" * 10_000,
    [],
    {},
    [1],
    ["x"],
    {"a": 1},
    [[]],
    [None],
    "gs://a/b",
    "nan",
    float("nan"),
    float("inf"),
)


def places(values: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths of all that is in a value of JSON, itself included."""
    found = [at]
    inner = (
        values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else ()
    )
    for name, value in list(inner)[:40]:
        found += places(value, (*at, name))
    return found


def changed(rng: random.Random, values: Any) -> tuple[Any, str, str]:
    """(values, raw text for RAW in them, what was done)."""
    ways = [at for at in places(values) if at]
    at = rng.choice(ways) if ways and rng.random() < 0.97 else ()
    if not at:
        value = rng.choice(VALUES)
        return value, "", f"all is {str(value)[:20]!r}"
    parent = values
    for name in at[:-1]:
        parent = parent[name]
    name, how, raw = at[-1], rng.random(), ""
    if how < 0.15:
        del parent[name]
        done = "gone"
    elif how < 0.25 and isinstance(parent, dict):
        new = rng.choice(("x", "", "__class__", "sha256", f"{name} ", str(name).upper()))
        parent[new] = parent.pop(name) if rng.random() < 0.5 else rng.choice(VALUES)
        done = f"name {new!r}"
    elif how < 0.35:
        raw, parent[name] = rng.choice(RAWS), RAW
        done = f"is {raw[:20]}"
    elif how < 0.45 and isinstance(parent, list):
        parent.insert(name, rng.choice((parent[name], rng.choice(VALUES))))
        done = "twice"
    elif how < 0.6 and isinstance(parent[name], int | float):
        old = parent[name]
        parent[name] = rng.choice(
            (old + 1, old - 1, -old, old * 2, old / 2, old * 10**9, float(old), str(old))
        )
        done = f"{old} is {parent[name]!r}"
    elif how < 0.65 and isinstance(parent[name], str):
        old = parent[name]
        parent[name] = rng.choice((old[:-1], old + "x", old.upper(), old[::-1], [old]))
        done = f"{old[:20]} is {str(parent[name])[:20]}"
    else:
        parent[name] = rng.choice(VALUES)
        done = f"is {str(parent[name])[:20]!r}"
    return values, raw, f"{'.'.join(map(str, at))[:60]} {done}"


def document(rng: random.Random, path: pathlib.Path, mend: bool = False) -> str:
    """Another value somewhere in a JSON file; with ``mend`` its checksum is made anew."""
    values, raw, done = changed(rng, json.loads(path.read_text()))
    if mend and isinstance(values, dict):
        values = sealed(values)
    text = json.dumps(values, indent=rng.choice((None, 2)))
    path.write_text(text.replace(json.dumps(RAW), raw))
    return done


def lines(rng: random.Random, path: pathlib.Path) -> str:
    """Another value somewhere in a file of JSON lines, or lines missing, twice or joined."""
    held = path.read_text().splitlines()
    k = rng.randrange(len(held))
    how = rng.choice(("value", "value", "value", "gone", "twice", "joined", "blank", "list"))
    if how == "value":
        values, raw, how = changed(rng, json.loads(held[k]))
        held[k] = json.dumps(values).replace(json.dumps(RAW), raw)
    elif how == "gone":
        del held[k]
    elif how == "twice":
        held.insert(k, held[k])
    elif how == "joined":
        held[k : k + 2] = ["".join(held[k : k + 2])]
    elif how == "blank":
        held.insert(k, rng.choice(("", "  ", "\t", "{}", "null", "[]", "0", "\ufeff")))
    else:
        held[k] = f"[{held[k]}]"
    path.write_text("\n".join(held) + "\n")
    return f"line {k + 1}: {how}"


def sealed(values: dict[str, Any]) -> dict[str, Any]:
    plain = {name: value for name, value in values.items() if name != SEAL}
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"))
    return {**plain, SEAL: hashlib.sha256(text.encode()).hexdigest()}


def mended(directory: pathlib.Path) -> None:
    """Makes the sizes and sums anew that a store's or an export's own document tells of its files."""
    for name in ("metadata.json", "manifest.json"):
        path = directory / name
        if not path.is_file():
            continue
        try:
            values = json.loads(path.read_text())
        except ValueError:
            return
        told = (
            values.get("sums" if name == "metadata.json" else "files") if isinstance(values, dict) else None
        )
        if not isinstance(told, dict):
            return
        for file in told:
            where = directory / file
            if not file.startswith((".", "/")) and where.is_file():
                data = where.read_bytes()
                told[file] = hashlib.sha256(data).hexdigest()
                if name == "metadata.json" and isinstance(values.get("files"), dict):
                    values["files"][file] = len(data)
        path.write_text(json.dumps(sealed(values)))
