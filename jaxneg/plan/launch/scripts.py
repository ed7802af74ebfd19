"""Scripts of recipes: a head that says what they are, settings, and a body from this directory."""

import pathlib
import shlex
from collections.abc import Mapping, Sequence

WIDTH = 100  # of an array on one line
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
        return _word(str(value))
    words = [_word(one) for one in value]
    line = f"({' '.join(words)})"
    return line if len(line) <= WIDTH else "\n".join(["(", *(f"    {word}" for word in words), ")"])


def _word(text: str) -> str:
    """As shlex has it, commas quoted too: shellcheck takes them for a mistake in an array."""
    quoted = shlex.quote(text)
    return f"'{text}'" if quoted == text and "," in text else quoted
