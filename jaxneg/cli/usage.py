"""Help of a verb on a screen: usage, what it does, and the options that most calls need."""

import inspect
import textwrap
from collections.abc import Sequence

from jaxneg.config import options

ALL = "--help-all"
WIDTH = 80
COLUMN = 26  # where the text of an option begins
LINES = 1  # of that text, where it can be so short


def text_of(kind: object) -> str:
    """A docstring as one paragraph."""
    return " ".join((inspect.getdoc(kind) or "").split())


def page(known: Sequence[options.Option], prog: str, help: str, common: Sequence[str] = ()) -> str:
    """What ``--help`` prints.

    Args:
      known: the options of the verb, in the order of its parser.
      prog: as "jaxneg train".
      help: what the verb does.
      common: options to list beside those that a call must give, in this order; none lists all.
    """
    by_name = {name: one for one in known for name in one.names}
    needed = sorted(
        (one for one in known if one.required or one.positional), key=lambda one: not one.positional
    )
    others = [by_name[name] for name in common if name in by_name] or list(known)
    shown = list(dict.fromkeys([*needed, *others]))
    lines = [
        *textwrap.wrap(f"{options.usage(prog, known, '[-h]')} [OPTIONS]", WIDTH, subsequent_indent=" " * 7),
        "",
    ]
    lines += [*textwrap.wrap(help, WIDTH), ""]
    for one in shown:
        lines += _entry(one)
    if left := len(known) - len(shown):
        lines += ["", f"{prog} {ALL} lists {left} more option{'s' * (left > 1)}."]
    return "\n".join(lines)


def _entry(one: options.Option) -> list[str]:
    default = "" if one.required or one.default in ("False", "''", "()", "") else f" (default: {one.default})"
    if one.default.startswith(("or ", "with ")):  # it names another option
        default = f" ({one.default})"
    lines = textwrap.wrap(one.help + default, WIDTH - COLUMN) or [""]
    if (
        len(lines) > LINES and ";" in one.help
    ):  # its first half says what it is, the whole stands in --help-all
        lines = textwrap.wrap(one.help.partition(";")[0] + default, WIDTH - COLUMN)
    name = f"  {one.usage}"
    if len(name) > COLUMN - 2:
        if len(name) > WIDTH:  # a long list of choices may break after any of them
            name = textwrap.fill(name.replace(",", ", "), WIDTH, subsequent_indent=" " * 6)
        return [name, *(" " * COLUMN + line for line in lines)]
    return [f"{name:{COLUMN}}{lines[0]}", *(" " * COLUMN + line for line in lines[1:])]
