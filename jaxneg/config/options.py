"""Dataclasses as options of a command line: parsed, listed, and mistakes in one line that says how to mend them."""

import contextlib
import difflib
import io
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import tyro

from jaxneg.config.fields import settled
from jaxneg.errors import UserError

P = TypeVar("P")
HELP = ("-h", "--help")


class Option(NamedTuple):
    """What the parser knows of one option."""

    names: tuple[str, ...]  # as --data.packed and --data.no-packed; of a positional one its metavar
    metavar: str  # of its value, or its choices; empty for a flag
    default: str  # as help says it; "required" where there is none
    help: str
    positional: bool

    @property
    def required(self) -> bool:
        return self.default == "required"

    @property
    def either(self) -> bool:
        """Whether a call gives this option or the one that its default names, as "or --users"."""
        return self.default.startswith("or ")

    @property
    def usage(self) -> str:
        """As a line of usage names it: "--out DIR"."""
        return self.names[0] if self.positional else f"{self.names[0]} {self.metavar}".rstrip()


def listed(kind: Any, default: Any = None) -> Iterator[Option]:
    """Options that the parser of a dataclass has, in its order."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        parser = tyro.extras.get_parser(
            kind, config=(tyro.conf.DisallowNone,), **({} if default is None else {"default": default})
        )
    for action in parser._actions:
        if action.dest == "help":
            continue
        text, _, end = str(action.help or "").replace("%%", "%").rpartition("(")
        # tyro ends a help with "(default: 50)" or "(required)".
        value = "required" if end.startswith("required") else end.removeprefix("default: ").removesuffix(")")
        names = tuple(action.option_strings) or (str(action.metavar or action.dest),)
        metavar = str(action.metavar or "") if action.option_strings else ""
        yield Option(names, metavar, value.strip(), " ".join(text.split()), not action.option_strings)


def parse(
    kind: Callable[..., P],
    args: Sequence[str],
    *,
    prog: str,
    default: P | None = None,
    help: str | None = None,
) -> P:
    """A dataclass read from command-line options.

    Raises UserError of one line on a wrong name, type, choice, or a number out of its bounds.
    """
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            found = tyro.cli(
                kind,
                args=list(args),
                prog=prog,
                description=help,
                config=(tyro.conf.DisallowNone,),
                **({} if default is None else {"default": default}),  # type: ignore[arg-type]
            )
    except SystemExit as error:
        if error.code in (0, None):
            raise
        known = list(listed(kind, default))
        text = errors.getvalue()
        message = _unknown(args, known) or _missing(text, args, known, prog) or _one_line(text)
        raise UserError(f"{message}; {prog} --help lists the options") from error
    return settled(found)


def usage(prog: str, known: Sequence[Option], optional: str = "") -> str:
    """One line: "usage: jaxneg train CONFIG --workdir RUN", "--items ID | --users LOG"."""
    needed = [one.usage for one in known if one.required]
    # What has a place of its own comes first, as it is said.
    needed.sort(key=lambda text: text.startswith("-"))
    either = " | ".join(one.usage for one in known if one.either)
    return " ".join(
        ["usage:", prog, *([optional] if optional else []), *needed, *([either] if either else [])]
    )


def _unknown(args: Sequence[str], known: Sequence[Option]) -> str | None:
    """What to say of options that are none, with those that may have been meant."""
    names = {name for one in known if not one.positional for name in one.names}
    asked = dict.fromkeys(arg.partition("=")[0] for arg in args if re.match(r"--\w", arg))
    unknown = [name for name in asked if name.replace("_", "-") not in names | set(HELP)]
    if not unknown:
        return None
    near = dict.fromkeys(name for one in unknown for name in close(one, names))
    hint = f"; perhaps you meant {' or '.join(near)}" if near else ""
    return f"no option {', '.join(unknown)}{hint}"


def close(name: str, names: set[str] | Sequence[str], most: int = 2) -> list[str]:
    """Names that a misspelt one may have meant, the likeliest first: whole ones, else of the same last part."""
    plain = name.replace("_", "-")
    if found := difflib.get_close_matches(plain, names, most, cutoff=0.75):
        likeness = [difflib.SequenceMatcher(None, one, plain).ratio() for one in found]
        return [one for one, like in zip(found, likeness, strict=True) if like > likeness[0] - 0.05]
    ends = {known: known.rpartition(".")[2].lstrip("-") for known in sorted(names)}
    end = plain.rpartition(".")[2].lstrip("-")
    return [known for known, last in ends.items() if difflib.get_close_matches(end, [last], cutoff=0.8)][
        :most
    ]


def _missing(text: str, args: Sequence[str], known: Sequence[Option], prog: str) -> str | None:
    """What to say where something required is not there: the usage, after the options that are missing of it."""
    if "Missing from" not in text:
        return None
    given = {arg.partition("=")[0].replace("_", "-") for arg in args}
    needed = [one for one in known if one.required and not one.positional]
    lacking = [one.usage for one in needed if one.names[0] not in given]
    said = (
        f"{' and '.join(lacking)} {'is' if len(lacking) == 1 else 'are'} required; "
        if lacking and args
        else ""
    )
    return said + usage(prog, known)


def _one_line(text: str) -> str:
    """tyro's box of an error as one line. Where the output is not UTF-8, it is a title, a rule and no box."""
    lines = [line.strip("│ ") for line in text.splitlines()][1 if text.startswith("╭") else 2 :]
    rule = next((n for n, line in enumerate(lines) if line and set(line) <= set("─-╰╯")), len(lines))
    message = " ".join(lines[:rule]).strip().removesuffix(".")
    # tyro lists the None of a default that says nothing, which DisallowNone forbids as a value.
    message = message.replace("'None', ", "").replace(", 'None'", "")
    title = "Unrecognized options: "  # all unknown options are told by now: these are words
    return f"nothing takes {message.removeprefix(title)}" if message.startswith(title) else message
