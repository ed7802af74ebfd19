"""Scripts of recipes: a head that says what they are, settings, and a body from this directory."""

import pathlib
import shlex
from collections.abc import Mapping, Sequence

Setting = str | int | Sequence[str]


def script(head: Sequence[str], settings: Mapping[str, Setting], body: str, first: Sequence[str] = ()) -> str:
    """A bash script.

    Args:
      head: lines of comment.
      settings: variables, and arrays, that the body reads.
      body: name of a file of this directory.
      first: lines that stand before all others, as #SBATCH.
    """
    lines = ["#!/usr/bin/env bash", *(f"# {line}".rstrip() for line in head), *first, "set -euo pipefail", ""]
    lines += [f"{name}={_quoted(value)}" for name, value in settings.items()]
    return "\n".join([*lines, "", text(body)])


def text(name: str) -> str:
    """A file of this directory."""
    return pathlib.Path(__file__).with_name(name).read_text(encoding="utf-8")


def _quoted(value: Setting) -> str:
    if isinstance(value, str | int):
        return shlex.quote(str(value))
    return f"({shlex.join(value)})"
