"""Numbers that no option can mean: every numeric option of every verb refuses them in one line that names it."""

import dataclasses
import math
import pathlib
import shlex
import sys

import pytest

from jaxneg import cli
from jaxneg.config import fields
from jaxneg.data import readers
from jaxneg.errors import UserError
from tests.marks import rest_slow

sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / "tools"))
import options_page

NUMBERS = ("INT", "FLOAT", "SIZE")  # in what help says of an option's value
NEVER = ("inf", "-inf", "nan", "1e308", "-1e308", str(2**63), str(-(2**63)), str(10**30), "-1")
SIGNED = {"--up", "--down", "--threshold"}  # of ratings, whose scale may go below 0, and log odds
CALLS = {
    "prepare": "prepare table log.csv --out new",
    "simulate": "simulate --out new.csv",
    "simulate --ab": "simulate --ab export --truth t.npz --store store --out new",
    "plan": "plan config.py --topology v5e:2x2",
    "train": "train config.py --workdir new",
    "evaluate": "evaluate run",
    "sweep": "sweep config.py --workdir new",
    "recommend": "recommend export --items i",
    "launch": "launch slurm --topology gpu:1x1 --run 'config.py --workdir run' --out new",
}
QUICK = ("prepare", "train")  # most options between them
CALLS |= {f"prepare {name}": f"prepare {name} log --out new" for name in readers.READERS if name != "table"}


def numeric(verb):
    """Options of a verb that take numbers, by name: whether whole ones."""
    name, _, reader = verb.partition(" ")
    args = [reader] if name == "prepare" and reader else options_page.VERBS[verb]
    _, listed = options_page.verb("prepare" if name == "prepare" else verb, args)
    return {
        one.names[0]: "FLOAT" not in one.metavar
        for one in listed
        if any(word in one.metavar for word in NUMBERS)
    }


def parsed(line, monkeypatch):
    """A command as the parser leaves it, before its values are held to their fields."""
    name, *args = line
    with monkeypatch.context() as patch:
        for place in ("jaxneg.config.options.settled", "jaxneg.config.fields.settled"):
            patch.setattr(place, lambda value, *_: value)
        return cli.command(name, args)


def numbers(value, way=()):
    """Numbers of a parsed command, and lists of them, by the names of the fields that lead to each."""
    if dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from numbers(getattr(value, field.name), (*way, field.name))
    elif isinstance(value, int | float | tuple) and not isinstance(value, bool):
        yield way, value


def with_number(value, way, number):
    if not way:
        return number
    return dataclasses.replace(value, **{way[0]: with_number(getattr(value, way[0]), way[1:], number)})


def hold(command, part):
    """Holds what was parsed to its fields, as ``prepare`` does with the options of its reader."""
    fields.settled(command.reader if part == "reader" else command)


@pytest.mark.parametrize("verb", rest_slow(CALLS, QUICK))
def test_numbers_that_no_option_can_mean(verb, worked, monkeypatch):
    monkeypatch.chdir(worked)
    call, options = shlex.split(CALLS[verb]), numeric(verb)
    good = parsed(call, monkeypatch)
    before, signed = dict(numbers(good)), set()
    for text in NEVER:
        whole = text.lstrip("-").isdigit()
        given = {option: text for option, only_whole in options.items() if whole or not only_whole}
        bad = parsed([*call, *(f"{option}={text}" for option in given)], monkeypatch)
        changed = {way: one for way, one in numbers(bad) if repr(one) != repr(before.get(way))}
        assert len(changed) >= len(given) - (text == "-1")  # a default may be -1
        for way, number in changed.items():
            name = way[-1].replace("_", "-")
            try:
                hold(with_number(good, way, number), way[0])
            except UserError as error:
                assert "\n" not in str(error) and f"{name} must be" in str(error), (way, text)
                continue
            if text == "-1":
                signed.add(f"--{name}")
            else:  # a rate of learning may be of any size
                assert "rate" in name and math.isfinite(number) and abs(number) <= 1e30, (way, text)
    assert signed <= SIGNED


def test_options_that_take_numbers_are_known():
    assert {"--data.length", "--optim.b2", "--processes"} <= set(numeric("train"))
    assert (
        "--seeds" in numeric("sweep") and "--k" in numeric("recommend") and "--attributes" in numeric("plan")
    )
    assert {"--skip-seconds", "--test-share"} <= set(numeric("prepare spotify"))
