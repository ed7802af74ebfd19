"""Writes docs/reference/options.md: every option of every verb, as the parser of the command line has it.

    python tools/options_page.py            # writes the page
    python tools/options_page.py --check    # exit code 1 where the committed page is not what this gives

Nothing is typed twice: names, types, choices, defaults and help come from the dataclasses that the verbs parse.
"""

import dataclasses
import pathlib
import re
import sys
import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple, NoReturn
from unittest import mock

import tyro

from jaxneg import cli, config as configs
from jaxneg.data import readers

PAGE = pathlib.Path(__file__).parent.parent / "docs" / "reference" / "options.md"
HEAD = """# Options

<!-- Written by tools/options_page.py from the dataclasses that the verbs parse; `make options` writes it anew. -->

Every field of a [`Config`](api/config.md) is an option of `jaxneg train`, `plan` and `sweep`: field `p_hard` of
`DataConfig` is `--data.p-hard`. A config file gives the values, the command line changes them. `evaluate` and `export`
take the config of the run that they are given. The defaults below are those without a config file.

`jaxneg VERB --help` prints the same.
"""
PARTS = {
    "data": "sequences, targets and negatives",
    "model": "encoder and inputs",
    "loss": "what is minimised",
    "optim": "how it is minimised",
    "train": "the loop, devices and checkpoints",
    "eval": "figures",
}
# Arguments that lead each verb to its parser; one row per table of the page.
VERBS = {
    "prepare": ["table"],
    "inspect": [],
    "simulate": [],
    "simulate --ab": ["--ab"],
    "plan": [],
    "train": [],
    "evaluate": [],
    "sweep": [],
    "export": [],
    "recommend": [],
    "demo": [],
}


class _Parsed(Exception):
    """What a verb was about to parse."""

    def __init__(self, kind: type, default: Any, help: str):
        self.kind, self.default, self.help = kind, default, help


class Option(NamedTuple):
    name: str
    value: str  # its type or its choices; empty for a flag
    default: str
    help: str


def verb(name: str, args: list[str]) -> tuple[str, list[Option]]:
    """What a verb does, and its options."""

    def stop(kind: type, args: Any, *, prog: str, default: Any = None, help: str | None = None) -> NoReturn:
        raise _Parsed(kind, default, help or "")

    with mock.patch.object(configs, "parse", stop):
        try:
            cli.VERBS[name.split()[0]]([*args, "--help"] if args else ["--out=."])
        except _Parsed as parsed:
            return parsed.help, list(options(parsed.kind, parsed.default))
    raise RuntimeError(f"jaxneg {name} parses nothing")


def options(kind: type, default: Any) -> Iterator[Option]:
    """Options that the parser of a dataclass has."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        parser = tyro.extras.get_parser(kind, default=default, config=(tyro.conf.DisallowNone,))
    for action in parser._actions:
        if action.dest == "help":
            continue
        hint = str(action.help or "").replace("%%", "%")
        text, _, end = hint.rpartition("(")
        # tyro ends a help with "(default: 50)" or "(required)".
        value = "required" if end.startswith("required") else end.removeprefix("default: ").removesuffix(")")
        name = next(iter(action.option_strings), str(action.metavar or action.dest))
        metavar = action.metavar if action.option_strings and action.metavar else ""
        yield Option(name, _metavar(str(metavar)), value.strip(), " ".join(text.split()))


def _metavar(text: str) -> str:
    """ "{a,b}" as choices, "[INT [INT ...]]" as "INT ..."."""
    if text.startswith("{"):
        return " | ".join(text.strip("{}").split(","))
    return re.sub(r"^\[?(\w+) \[\1 \.\.\.\]\]?$", r"\1 ...", text)


def table(rows: list[Option]) -> str:
    lines = ["| option | value | default | meaning |", "|---|---|---|---|"]
    for row in rows:
        value = "flag" if not row.value and row.default in ("False", "True") else _code(row.value)
        default = _default(row.default)
        lines.append(f"| {_code(row.name)} | {value} | {default} | {_cell(row.help)} |")
    return "\n".join(lines) + "\n"


def _default(text: str) -> str:
    """A value as code; words that say what happens otherwise as they are."""
    text = {"False": "off", "True": "on", "''": "none", "": "none"}.get(text, text)
    return text if " " in text or text in ("required", "none", "off", "on") else _code(text)


def _code(text: str) -> str:
    return " ".join(f"`{word}`" if word != "|" else "or" for word in text.split(" ")) if text else ""


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


def page() -> str:
    """The page, from the code as it is."""
    config = list(options(configs.Config, configs.Config()))
    text = [HEAD, "## The config\n"]
    for part in dataclasses.fields(configs.Config):
        prefix = f"--{part.name}."
        text += [
            f"### `{prefix}*`: {PARTS[part.name]}\n",
            table([row for row in config if row.name.startswith(prefix)]),
        ]
    of_config = {row.name for row in config}
    text.append("## The verbs\n")
    for name, args in VERBS.items():
        does, rows = verb(name, args)
        if name == "prepare":
            does = "Prepares a store from a log. These options hold for every reader, with the defaults of `table`; "
            does += "those of the others stand on [Readers](../data/readers.md)."
            rows = [row for row in rows if row.name not in _names("table")]
        more = " Beside these, every field of the config." if of_config & {row.name for row in rows} else ""
        text += [
            f"### `jaxneg {name}`\n",
            f"{_cell(does)}{more}\n",
            table([row for row in rows if row.name not in of_config]),
        ]
    text.append("## Options of readers\n")
    for name, reader in readers.READERS.items():
        rows = list(options(reader.Options, reader.Options()))
        text += [f"### `jaxneg prepare {name}`\n", table(rows) if rows else "None of its own.\n"]
    return "\n".join(text)


def _names(reader: str) -> set[str]:
    kind = readers.READERS[reader].Options
    return {row.name for row in options(kind, kind())}


def main(args: list[str]) -> int:
    found = page()
    if "--check" in args:
        if PAGE.read_text() != found:
            print(f"{PAGE.name} is not what the code says: make options", file=sys.stderr)
            return 1
        return 0
    PAGE.write_text(found)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
