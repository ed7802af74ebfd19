"""Writes docs/reference/options.md: every option of every verb, as the parser of the command line has it.

    python tools/options_page.py            # writes the page
    python tools/options_page.py --check    # exit code 1 where the committed page is not what this gives

Nothing is typed twice: names, types, choices, defaults and help come from the dataclasses that the verbs parse.
"""

import dataclasses
import pathlib
import re
import sys
from collections.abc import Mapping
from typing import Any, NoReturn
from unittest import mock

from jaxneg import cli, config as configs
from jaxneg.config import fields, options
from jaxneg.data import readers

PAGE = pathlib.Path(__file__).parent.parent / "docs" / "reference" / "options.md"
HEAD = """# Options

<!-- Written by tools/options_page.py from the dataclasses that the verbs parse; `make options` writes it anew. -->

Every field of a [`Config`](api/config.md) is an option of `jaxneg train`, `plan` and `sweep`: field `p_hard` of
`DataConfig` is `--data.p-hard`. A config file gives the values, the command line changes them. `evaluate` takes the
config of the run that it is given. The defaults below are those without a config file.

The last column says what a change of an option changes of a run that is there. Of nothing, and of how a model is
measured ("the figures"), it is continued all the same; `evaluate` and `export` refuse a change of "the model".

`jaxneg VERB --help` lists the options that most calls need, `jaxneg VERB --help-all` all that are here.
"""
PARTS = {
    "data": "sequences, targets and negatives",
    "model": "encoder and inputs",
    "loss": "what is minimised",
    "like": "a head that learns what is liked",
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
    "runs": [],
    "sweep": [],
    "export": [],
    "recommend": [],
    "serve": [],
    "launch": [],
    "demo": [],
}


class _Parsed(Exception):
    """What a verb was about to parse."""

    def __init__(self, kind: type, default: Any, help: str):
        self.kind, self.default, self.help = kind, default, help


def verb(name: str, args: list[str]) -> tuple[str, list[options.Option]]:
    """What a verb does, and its options."""

    def stop(kind: type, args: Any, *, prog: str, default: Any = None, help: str | None = None) -> NoReturn:
        raise _Parsed(kind, default, help or "")

    with mock.patch.object(options, "parse", stop):
        try:
            cli.command(name.split()[0], args)
        except _Parsed as parsed:
            return parsed.help, list(options.listed(parsed.kind, parsed.default))
    raise RuntimeError(f"jaxneg {name} parses nothing")


def _metavar(text: str) -> str:
    """ "{a,b}" as choices, "[INT [INT ...]]" as "INT ..."."""
    if text.startswith("{"):
        return " | ".join(text.strip("{}").split(","))
    return re.sub(r"^\[?(\w+) \[\1 \.\.\.\]\]?$", r"\1 ...", text)


def table(rows: list[options.Option], effects: Mapping[str, str] | None = None) -> str:
    """Options as a table, with what a change of each changes where that is known by option."""
    more = ["changes"] if effects else []
    heads = ["option", "value", "default", "meaning", *more]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for row in rows:
        value = _metavar(row.metavar)
        value = "flag" if not value and row.default in ("False", "True") else _code(value)
        default = _default(row.default)
        last = [effects[_own(row)]] if effects else []
        names = " or ".join(dict.fromkeys(map(_code, (_own(row), row.names[0]))))
        lines.append("| " + " | ".join([names, value, default, _cell(row.help), *last]) + " |")
    return "\n".join(lines) + "\n"


def _own(row: options.Option) -> str:
    """The name of an option that is a field of a config, whatever short name comes first; else its first one."""
    return next((name for name in row.names if "." in name), row.names[0])


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
    config = list(options.listed(configs.Config, configs.Config()))
    text = [HEAD, "## The config\n"]
    for part in dataclasses.fields(configs.Config):
        prefix = f"--{part.name}."
        text += [
            f"### `{prefix}*`: {PARTS[part.name]}\n",
            table([row for row in config if _own(row).startswith(prefix)], _effects(part, prefix)),
        ]
    of_config = {row.names[0] for row in config}
    text.append("## The verbs\n")
    for name, args in VERBS.items():
        does, rows = verb(name, args)
        if name == "prepare":
            does = "Prepares a store from a log. These options hold for every reader, with the defaults of `table`; "
            does += "those of the others stand on [Readers](../data/readers.md)."
            rows = [row for row in rows if row.names[0] not in _names("table")]
        if whole := of_config <= {row.names[0] for row in rows}:
            rows = [row for row in rows if row.names[0] not in of_config]
        more = " Beside these, every field of the config." if whole else ""
        text += [f"### `jaxneg {name}`\n", f"{_cell(does)}{more}\n", table(rows)]
    text.append("## Options of readers\n")
    for name, reader in readers.READERS.items():
        rows = list(options.listed(reader.Options, reader.Options()))
        text += [f"### `jaxneg prepare {name}`\n", table(rows) if rows else "None of its own.\n"]
    return "\n".join(text)


def _effects(part: dataclasses.Field[Any], prefix: str) -> dict[str, str]:
    """What a change of each option of a part of the config changes."""
    found = fields.effects(part.default_factory)
    return {f"{prefix}{name.replace('_', '-')}": effect.value for name, effect in found.items()}


def _names(reader: str) -> set[str]:
    kind = readers.READERS[reader].Options
    return {row.names[0] for row in options.listed(kind, kind())}


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
