"""A value of another type than its field's is refused, whichever the field: of configs, and of all other options."""

import copy
import dataclasses
import math
import pathlib
import typing

import numpy as np
import pytest

from jaxneg import config as configs
from jaxneg.config import Config, fields
from jaxneg.data import readers
from jaxneg.data.prepare_config import PrepareConfig
from jaxneg.errors import UserError
from jaxneg.simulation import ab_test, listeners

TREE = {"a": 1}
WRONG = {
    bool: ["no", "True", 1, 0, 1.0, [True], TREE, b"1", math.nan, np.array([True, False])],
    int: [
        2.5,
        "5",
        True,
        "",
        [1],
        TREE,
        b"1",
        math.nan,
        math.inf,
        2**70,
        -(2**70),
        1e308,
        1j,
        np.float64(0.5),
    ],
    float: ["0.5", True, "", [0.5], TREE, b"1", math.nan, -math.inf, 10**400, 1j, np.array([0.5, 0.5])],
    str: [5, b"text", ["text"], TREE, True, math.nan, "nul\0", 1j],
    typing.Literal: ["no such choice", "", 5, True, TREE, ["none"], b"none", math.nan],
    pathlib.Path: [5, b"text", ["text"], TREE, True, math.nan, "nul\0"],
    tuple: [5, "text", TREE, True, math.nan, b"text", [[]], [TREE], [None], {1, 2}],
}
KINDS = [
    *(one.default_factory for one in dataclasses.fields(Config)),
    *(PrepareConfig, listeners.SimulateConfig, ab_test.ABConfig),
    *(reader.Options for reader in readers.READERS.values()),
]
FIELDS = [(kind, one.name) for kind in KINDS for one in dataclasses.fields(kind)]


def bare(hint):
    """The type of a field without notes, and whether it may be None."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return bare(args[0])
    if type(None) in args:
        return bare(next(one for one in args if one is not type(None)))[0], True
    return origin or hint, False


def with_value(kind, name, value):
    """A default config with one value, around the checks of types that tests have."""
    changed = copy.copy(kind())
    object.__setattr__(changed, name, value)
    return changed


@pytest.mark.parametrize("kind, name", FIELDS, ids=[f"{kind.__name__}.{name}" for kind, name in FIELDS])
def test_a_value_of_another_type_is_refused(kind, name):
    hint = typing.get_type_hints(kind, include_extras=True)[name]
    what, may_be_none = bare(hint)
    options = {f.name for f in dataclasses.fields(Config) if f.default_factory is kind}
    for value in [*WRONG[what], *([] if may_be_none else [None])]:
        with pytest.raises(UserError) as error:
            fields.settled(with_value(kind, name, value), prefix="--part.")
        said = str(error.value)
        assert said.startswith(f"--part.{name.replace('_', '-')} must be ") and "\n" not in said, (
            value,
            said,
        )
        assert len(said) < 600
        for part in options:  # in its place within a config
            with pytest.raises(UserError, match=f"^--{part}.{name.replace('_', '-')} must be "):
                configs.check(with_value(Config, part, with_value(kind, name, value)))


def test_fields_are_found():
    assert (configs.DataConfig, "p_hard") in FIELDS and len(FIELDS) > 130
    assert bare(typing.get_type_hints(PrepareConfig, include_extras=True)["test_from"])[1]


def choices(kind, name):
    """Of a field of choices; none of others."""
    hint = typing.get_type_hints(kind, include_extras=True)[name]
    while bare(hint)[0] is typing.Literal and typing.get_origin(hint) is not typing.Literal:
        hint = next(one for one in typing.get_args(hint) if one is not type(None))
    return typing.get_args(hint) if typing.get_origin(hint) is typing.Literal else ()


CHOICES = [(kind, name) for kind, name in FIELDS if choices(kind, name)]


@pytest.mark.parametrize("kind, name", CHOICES, ids=[f"{kind.__name__}.{name}" for kind, name in CHOICES])
def test_a_choice_is_written_as_it_is_called(kind, name):
    """Not as another library calls it, nor as it is known by heart."""
    for choice in choices(kind, name):
        for written in {choice.upper(), choice.replace("_", "-"), f" {choice}", f"{choice}s"} - {choice}:
            with pytest.raises(UserError, match="must be one of .*got") as error:
                fields.settled(with_value(kind, name, written))
            assert choice in str(error.value)
