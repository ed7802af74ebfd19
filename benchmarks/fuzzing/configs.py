"""Damage to Python configs: odd values, exceptions, other objects, no Python; and what a file says by itself."""

# Lists of odd values read better in long lines.
# ruff: noqa: E501

import contextlib
import dataclasses
import io
import os
import pathlib
import random
import runpy
from typing import Any

import numpy as np

from fuzzing import damage
from jaxneg.config import Config

LITERALS = (
    "None", "True", "False", "0", "1", "-1", "2", "3", "7", "0.5", "-0.0", "1e-30", "1e30", "1e300", "1e308 * 10",
    'float("nan")', 'float("inf")', '-float("inf")', "10**10", "2**31", "2**63", "-(2**63)", "10**400", "10**5000", "1j",
    '""', '"x"', '"1"', '"sasrec"', '"\\0"', '"\\n"', '"\\ud800"', '"a" * 10**6', 'b"x"', "[]", "()", "{}", "[1]", "(1, 2)",
    '["skip"]', '("play", "play")', "{1: 2}", "{1}", "range(3)", "iter([1])", "object()", "type", "print", "lambda: 1", "...",
    "Config()", "DataConfig()", "Odd()", "Rude()", "Text('x')", "Number(3)", "np.int64(2)", "np.float32('nan')", "np.array([1, 2])",
    "np.array(5)", "np.zeros(0)", "np.array(['skip'])", "np.bool_(True)", "np.datetime64('now')", "np.ma.masked",
    'pathlib.Path("x")', 'pathlib.Path("store")', "decimal.Decimal('1')", "fractions.Fraction(1, 2)", "NotImplemented",
    "Loop.made()", "enum.Enum('E', 'a').a", "Bytes()", '"gs://bucket/x"',
)  # fmt: skip
MORE = """
import dataclasses, decimal, enum, fractions, pathlib, sys
import numpy as np


class Odd:
    def __getattr__(self, name):
        raise RuntimeError("no attributes today")


class Rude:
    def __repr__(self):
        raise ValueError("no text today")

    __str__ = __eq__ = __hash__ = __bool__ = __repr__


class Text(str):
    def __eq__(self, other):
        return True

    __hash__ = str.__hash__


class Number(int):
    def __repr__(self):
        raise ValueError("no number today")


class Loop(list):
    @classmethod
    def made(cls):
        found = cls()
        found.append(found)
        return found


class Bytes:
    def __fspath__(self):
        return b"\\xff"


class Mine(BaseException):
    pass


class Longer(Config):
    pass


"""
BODIES = (
    'raise ValueError("no")', 'raise ValueError("two\\nlines")', "raise SystemExit(0)", "raise SystemExit", "raise SystemExit(3)",
    "raise KeyboardInterrupt", "raise MemoryError", "raise RecursionError", "raise StopIteration", "raise Mine()",
    "raise GeneratorExit", "raise BrokenPipeError", "raise OSError(28, 'No space left on device')", "raise Rude",
    "raise ExceptionGroup('g', [ValueError(1)])", "raise NotImplementedError", "raise UnicodeDecodeError('a', b'b', 0, 1, 'c')",
    "return None", "return Config", "return get_config", "return Config()", "return dataclasses.asdict(Config())",
    "return Longer()", "yield Config()", "return get_config()", "sys.exit('bye')", "1 / 0", "return unknown",
    "return dataclasses.replace(Config(), data=None)", "return dataclasses.replace(Config(), model=DataConfig())",
    "return Odd()", "return Rude()", "return Config(1, 2, 3)", "return Config(data=Rude())", "print('hello'); return Config()",
    "raise Exception('é\\ud800')", "assert False", "return eval('(' * 1000 + ')' * 1000)", "import nothing_such",
    "from jaxneg.config import Nothing", "raise type('', (Exception,), {})", "raise Exception('x' * 10**6)",
)  # fmt: skip
TOPS = (
    "raise ValueError('top')", "raise SystemExit", "x = (", "def f(:", "import nothing_such", "\0", "\ufeff", "# coding: nothing-such",
    "# coding: utf-16", "from __future__ import nothing", "  indented = 1", "raise KeyboardInterrupt", "import config", "get_config = 5",
    "del get_config", "def get_config(needed): return needed", "async def get_config(): return Config()", "class get_config: pass",
    "x = " + "(" * 300 + ")" * 300, "x = " + "-" * 5000 + "1", "x = " + "9" * 6000, "get_config = Odd()", "x = '\ud800'",
    "Config = None", "import sys; sys.modules[__name__] = None", "exec('raise Mine')", "yield 1", "return 1", "await x", "1 +* 2",
    "def get_config(*, a=1): return Config(data=DataConfig(store='store'))", "from config import get_config", "import os; os._exit",
    "import jaxneg.cli as numpy", "import warnings; warnings.warn('x')", "print('hello')", "__name__ = None", "__file__ = 5",
)  # fmt: skip
# valid values of which could take hours
OPEN = {"epochs": ("1", "2"), "devices": ("0", "1"), "batch_size": ("16", "32")}


def config(rng: random.Random, path: pathlib.Path) -> str:
    """Damage to a config."""
    how = rng.random()
    if how < 0.12:
        return rng.choice(damage.BYTES)(rng, path)
    text = path.read_text()
    place = text.index("def get_config")
    text = text[:place] + MORE.lstrip() + text[place:]
    if how < 0.72:
        changes = [_field(rng) for _ in range(rng.choice((1, 1, 1, 2)))]
        text = text.replace("return Config(", "held = Config(")
        for part, name, value in changes:
            text += f"\n    held = dataclasses.replace(held, {part}=dataclasses.replace(held.{part}, {name}={value}))"
        text += "\n    return held\n"
        done = ", ".join(f"{part}.{name} = {value}" for part, name, value in changes)
    elif how < 0.86:
        done = rng.choice(BODIES)
        text = f"{text[: text.index('    return Config(')]}    {done}\n"
    else:
        done = rng.choice(TOPS)
        text = f"{done}\n{text}" if rng.random() < 0.5 else f"{text}\n{done}\n"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    return done[:80]


def _field(rng: random.Random) -> tuple[str, str, str]:
    part = rng.choice(dataclasses.fields(Config))
    names = [one.name for one in dataclasses.fields(getattr(Config(), part.name))]
    name = rng.choice(names) if rng.random() < 0.97 else rng.choice(("nothing", "__class__", "stor"))
    return part.name, name, rng.choice(OPEN.get(name, LITERALS) if rng.random() < 0.5 else LITERALS)


def says(path: pathlib.Path) -> dict[str, Any] | None:
    """What a config's get_config() says when Python alone runs it, as JSON would have it; None where it fails."""
    before = pathlib.Path.cwd()
    try:
        os.chdir(path.parent)
        with contextlib.redirect_stdout(io.StringIO()):
            return plain(dataclasses.asdict(runpy.run_path(path.name)["get_config"]()))
    except BaseException:
        return None
    finally:
        os.chdir(before)


def plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(name): plain(inner) for name, inner in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    return str.__str__(value) if isinstance(value, str) else value
