"""A value is held to its field, be it an option, Python's or a saved one."""

import copy
import dataclasses
import enum
import json
import math
import pathlib
import re
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import pytest

from jaxneg import cli, config as configs
from jaxneg.config import Config, fields, options
from jaxneg.data import readers
from jaxneg.data.prepare_config import PrepareConfig
from jaxneg.errors import UserError
from jaxneg.simulation import ab_test, listeners
from jaxneg.sweep import grids
from jaxneg.training import loop


def with_value(name, value):
    """A config with a value that the checks of types in tests would refuse at once."""
    part, _, field = name.partition(".")
    changed = copy.copy(getattr(Config(), part))
    object.__setattr__(changed, field, value)
    return dataclasses.replace(Config(), **{part: changed})


class Loss(enum.StrEnum):
    SOFT = "softmax"


WRONG = {
    "model.feedback": (
        "gated",
        "--model.feedback must be one of none, add, gate, got 'gated'; perhaps you meant .*",
    ),
    "model.head": ("relu", "--model.head must be one of none, gelu, got 'relu'"),
    "model.attention": ("flash", "--model.attention must be one of plain, fused, got 'flash'"),
    "model.dtype": ("float16", "--model.dtype must be one of float32, bfloat16, got 'float16'"),
    "data.packed": ("no", "--data.packed must be one of auto, always, never, got 'no'"),
    "train.epochs": (2.5, "--train.epochs must be a whole number, got 2.5"),
    "data.negatives": (1.5, "--data.negatives must be a whole number, got 1.5"),
    "data.random": (
        "log-uniform",
        "--data.random must be one of .*got 'log-uniform'; perhaps you meant log_uniform",
    ),
    "data.target": (
        "Positive",
        "--data.target must be one of .*, got 'Positive'; perhaps you meant positive",
    ),
    "loss.name": ("ce", "--loss.name must be one of bce, gbce, .*got 'ce'"),
    "model.encoder": ("SASRec", "--model.encoder must be one of sasrec, .*perhaps you meant sasrec"),
    "optim.decay": ("linear", "--optim.decay must be one of constant, cosine, got 'linear'"),
    "data.hard_scope": (
        "stations",
        "--data.hard-scope must be one of session, station.*perhaps you meant station",
    ),
    "loss.contrastive_form": ("Paper", "--loss.contrastive-form must be one of paper, released"),
    "data.p_hard": ("0.5", "--data.p-hard must be a number, got '0.5'"),
    # others
    "data.hard_skip": (math.inf, "--data.hard-skip must be a finite number, 0 or more, got inf"),
    "loss.temperature": (math.nan, "--loss.temperature must be a finite number, above 0, got nan"),
    "data.batch_size": (2**70, "--data.batch-size must be at most 1,000,000,000"),
    "data.seed": (-1, "--data.seed must be 0 or more, got -1"),
    "data.mask": (1, r"--data.mask must be in \[0, 1\), got 1"),
    "optim.clip": (None, "--optim.clip must be a number, got None"),
    "model.layers": (True, "--model.layers must be a whole number, got True"),
    "model.tied": (1, "--model.tied must be True or False, got 1"),
    "data.inputs": ("play", "--data.inputs must be a tuple or a list, got 'play'"),
    "eval.ks": ([10, 0], "--eval.ks must be at least 1, got 0"),
    "data.store": (b"store", "--data.store must be text, got b'store'"),
    "loss.penalty": (np.ma.masked, "--loss.penalty must be a number, got"),
    "loss.rejected": (np.ma.array(2.0, mask=True), "--loss.rejected must be a number, got"),
    "eval.bands": (np.float32(2.5), "--eval.bands must be a whole number, got 2.5"),
    "data.length": ({1: 2}, "--data.length must be a whole number, got dict"),
    "optim.b2": (10**5000, r"--optim.b2 must be in \(0, 1\), got a number of thousands of digits"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_value_of_python_is_refused_as_an_option_is(name, tmp_path):
    value, message = WRONG[name]
    config = with_value(name, value)
    for refuse in (
        lambda: configs.check(config),
        lambda: configs.override(config, []),
        lambda: loop.train(config, tmp_path / "run"),
    ):
        with pytest.raises(UserError, match=message) as error:
            refuse()
        assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


MEANT = {
    "data.batch_size": (64.0, 64),
    "data.p_hard": (1, 1.0),
    "data.store": (pathlib.Path("a") / "store", "a/store"),
    "eval.ks": ([np.int64(5), 20.0], (5, 20)),
    "data.inputs": (["play", np.str_("skip")], ("play", "skip")),
    "loss.name": (Loss.SOFT, "softmax"),
    "model.tied": (np.bool_(False), False),
    "optim.learning_rate": (np.float32(0.5), 0.5),
    "data.length": (np.array(7), 7),
    "model.layers": (np.float64(3.0), 3),
}


@pytest.mark.parametrize("name", MEANT)
def test_what_means_the_same_becomes_the_same(name):
    value, meant = MEANT[name]
    part, _, field = name.partition(".")
    found = getattr(getattr(configs.check(with_value(name, value)), part), field)
    assert found == meant and type(found) is type(meant)
    text = configs.to_json(configs.check(with_value(name, value)))
    assert getattr(getattr(configs.from_json(text), part), field) == meant


def test_vectors_are_tuples_and_an_unchanged_config_is_itself():
    assert configs.check(with_value("eval.ks", np.array([3, 4]))).eval.ks == (3, 4)
    with pytest.raises(UserError, match="--eval.ks must be a tuple or a list"):
        configs.check(with_value("eval.ks", np.ma.array([3, 4], mask=[0, 1])))
    config = Config()
    assert fields.settled(config) is config and configs.check(config) is config


def test_parts_of_another_kind_are_refused_and_of_a_subclass_taken():
    @dataclass(frozen=True)
    class Mine(configs.LossConfig):
        note: str = "for the thesis"

    wrong = copy.copy(Config())
    object.__setattr__(wrong, "data", {"length": 5})
    with pytest.raises(UserError, match="data must be a DataConfig, got dict"):
        configs.check(wrong)
    found = configs.check(dataclasses.replace(Config(), loss=Mine(penalty=0.5)))
    assert type(found.loss) is configs.LossConfig and found.loss.penalty == 0.5
    assert configs.from_json(configs.to_json(found)) == found


@pytest.mark.parametrize(
    "change, message",
    [
        ({"data": {"length": "5"}}, "--data.length must be a whole number, got '5'"),
        ({"data": {"p_hard": 1.5}}, r"--data.p-hard must be in \[0, 1\], got 1.5"),
        ({"loss": {"name": "ce"}}, "--loss.name must be one of"),
        ({"loss": {"nane": "bce"}}, "loss.nane is no field; perhaps it meant name"),
        ({"eval": {"ks": 10}}, "--eval.ks must be a tuple or a list, got 10"),
        ({"train": 5}, "train is no object"),
        ({"more": {}}, "it is no object of data, model"),
        ({"data": {"hard_skip": math.nan}}, "NaN"),
    ],
)
def test_saved_configs_are_held_to_the_same(change, message):
    values = json.loads(configs.to_json(Config()))
    for part, changed in change.items():
        values[part] = values.get(part, {}) | changed if isinstance(changed, dict) else changed
    with pytest.raises(UserError, match=f"not a config that this version saved: .*{message}") as error:
        configs.from_json(json.dumps(values))
    assert "\n" not in str(error.value)
    for text in ("[]", "null", "{", "[" * 100_000):
        with pytest.raises(UserError, match="not a config"):
            configs.from_json(text)


def test_fields_that_a_saved_config_lacks_have_their_defaults():
    values = json.loads(configs.to_json(Config()))
    del values["data"]["shuffle_pool"]
    assert configs.from_json(json.dumps(values)) == Config()


OPTIONS = [Config, PrepareConfig, listeners.SimulateConfig, ab_test.ABConfig, grids.Sweep] + [
    reader.Options for reader in readers.READERS.values()
]


@pytest.mark.parametrize("kind", OPTIONS, ids=lambda kind: f"{kind.__module__}.{kind.__name__}")
def test_every_number_that_can_be_given_has_bounds(kind):
    assert not fields.unbounded(kind)


VERBS = {
    "train": "train config.py",
    "evaluate": "evaluate run",
    "sweep": "sweep config.py",
    "export": "export run",
    "plan": "plan config.py",
    "recommend": "recommend",
    "simulate": "simulate",
    "ab": "simulate --ab x",
    "prepare": "prepare table",
    "inspect": "inspect",
    "launch": "launch",
}


@pytest.mark.parametrize("verb", VERBS)
def test_every_number_of_a_verb_has_bounds(verb, worked, monkeypatch):
    monkeypatch.chdir(worked)
    asked = []

    def parse(kind, args, **_):
        asked.append(kind)
        raise UserError("seen")

    monkeypatch.setattr(options, "parse", parse)
    with pytest.raises(SystemExit):
        cli.main(VERBS[verb].split())
    assert asked and not fields.unbounded(asked[0])


@pytest.mark.parametrize(
    "line, message",
    [
        (
            "prepare table log.csv --out new --gap-minutes inf",
            "--gap-minutes must be a finite number, above 0",
        ),
        (
            "prepare table log.csv --out new --gap-minutes 1e308",
            "--gap-minutes must be at most 1,000,000,000",
        ),
        (
            "prepare table log.csv --out new --min-user-events 9223372036854775808",
            "--min-user-events must be at most",
        ),
        ("prepare table log.csv --out new --threshold nan", "--threshold must be a finite number"),
        ("prepare table log.csv --out new --memory-limit -1", "--memory-limit must be a size such as 2GB"),
        ("prepare table log.csv --out new --memory-limit 0GB", "--memory-limit must be a size such as 2GB"),
        (
            "prepare table log.csv --out new --test-share nan",
            "--test-share must be above 0 and below 1, got nan",
        ),
        ("prepare table log.csv --out new --shard-events 1e3", "invalid literal|int"),
        (f"prepare table log.csv --out new --split time --test-from {10**30}", "--test-from must be below"),
        ("simulate --out new.csv --seed -1", "--seed must be 0 or more, got -1"),
        ("simulate --out new.csv --users 10000000000", "--users must be at most 1,000,000,000"),
        ("simulate --out new.csv --taste inf", "--taste must be a finite number"),
        ("simulate --out new.csv --start 0001-01-01", "--start must be between 1970 and 2200"),
        ("plan config.py --topology v5e:2x2 --items -5", "--items must be 0 or more, got -5"),
        ("plan config.py --topology v5e:2x2 --items 1000000000000", "--items must be at most"),
        (
            "train config.py --workdir new --optim.learning-rate inf",
            "--optim.learning-rate must be a finite number",
        ),
        ("train config.py --workdir new --train.seed -3", "--train.seed must be 0 or more, got -3"),
        ("train config.py --workdir new --data.length 99999999999999999999", "--data.length must be at most"),
        ("train config.py --workdir new --data.inputs heard", "invalid choice 'heard'"),
        ("train config.py --workdir new --processes -2", "--processes must be 0 or more, got -2"),
        ("sweep config.py --workdir new --seeds -1", "--seeds must be 0 or more, got -1"),
        (
            "sweep config.py --workdir new --set data.p-hard=0,nan",
            r"p_hard=nan: --data.p-hard must be in \[0, 1\]",
        ),
        ("evaluate run --eval.bootstrap 99999999999", "--eval.bootstrap must be at most"),
        ("recommend export --items i1 --k 99999999999999", "--k must be at most"),
    ],
)
def test_numbers_of_every_verb_have_bounds(line, message, worked, monkeypatch, capsys):
    monkeypatch.chdir(worked)
    before = sorted(pathlib.Path().rglob("*"))
    with pytest.raises(SystemExit) as left:
        cli.main(line.split())
    said = capsys.readouterr().err
    assert left.value.code == 2 and re.search(message, said), said
    assert len([one for one in said.splitlines() if one.strip()]) == 1
    assert sorted(pathlib.Path().rglob("*")) == before


def test_notes_reach_into_tuples_and_beside_none():
    @dataclass(frozen=True)
    class Options:
        many: tuple[fields.Positive, ...] = ()
        pair: tuple[int, float] = (1, 2.0)
        perhaps: Annotated[float | None, fields.above(0, 5)] = None
        kind: Literal["a", "b"] | None = None

    assert fields.built(Options, {"pair": [3, 4]}).pair == (3, 4.0)
    assert fields.built(Options, {"perhaps": None, "kind": None}) == Options()
    with pytest.raises(UserError, match="--perhaps must be at most 5, got 6"):
        fields.built(Options, {"perhaps": 6})
    with pytest.raises(UserError, match="--kind must be one of a, b, got 'c'"):
        fields.built(Options, {"kind": "c"})
    with pytest.raises(UserError, match="--pair must be 2 values"):
        fields.built(Options, {"pair": [3]})
    assert fields.unbounded(Options) == ["pair"]


@pytest.mark.parametrize(
    "values, axis",
    [
        ((0, np.float64(0.5)), {"0": "0", "0.5": "0.5"}),
        ((np.bool_(True), False), None),
        (tuple(np.array([8, 16])), {"8": "8", "16": "16"}),
    ],
)
def test_axes_take_what_means_the_same(values, axis):
    if axis is None:
        assert grids.over("--model.tied", *values) == grids.over("--model.tied", True, False)
    else:
        assert grids.over("--data.length", *values) == {
            label: ("--data.length", word) for label, word in axis.items()
        }
    assert grids.over("--data.length", 8.0, 16.0) == grids.over("--data.length", 8, 16)
    assert list(grids.over("--data.p-hard", 1.0)) == ["1.0"]


@pytest.mark.parametrize(
    "text, message",
    [
        ("with_axes({'a': {'x': '--data.p-hard 0'}})", "axis a: x must be a tuple of options"),
        ("with_axes({'a': ['--data.p-hard']})", "axis a must be a dict by name, got list"),
        ("Sweep({'a': over('--data.batch-size', 2.5)})", "a=2.5: .*2.5"),
        ("Sweep({'a': over('--loss.name', 'ce')})", "must be one of .*got 'ce'; perhaps you meant bce"),
        ("Sweep({'a': over('--data.p-hard', float('inf'))})", r"--data.p-hard must be in \[0, 1\], got inf"),
        ("object.__new__(Sweep)", "AttributeError"),
    ],
)
def test_sweeps_of_python_are_held_to_the_same(text, message, tmp_path):
    path = tmp_path / "sweep.py"
    # Around the checks of types that tests have.
    around = "def with_axes(axes):\n    spec = Sweep({})\n    object.__setattr__(spec, 'axes', axes)\n    return spec\n"
    path.write_text(
        f"from jaxneg.sweep.grids import Sweep, over\n{around}\ndef get_sweep():\n    return {text}\n"
    )
    with pytest.raises(UserError, match=message) as error:
        grids.expand(Config(), grids.load(path))
    assert "\n" not in str(error.value)


class Agreeing(str):
    def __eq__(self, other):
        return True

    __hash__ = str.__hash__


class Small(int):
    def __lt__(self, other):
        return False

    __gt__ = __lt__


class Half(float):
    __lt__ = __gt__ = Small.__lt__


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("model.feedback", Agreeing("x"), "must be one of none, add, gate, got 'x'"),
        ("loss.name", Agreeing("x"), "must be one of bce, .*, got 'x'"),
        ("data.inputs", (Agreeing("x"),), "got 'x'"),
        ("data.batch_size", Small(0), "must be at least 1, got 0"),
        ("data.p_hard", Half(1.5), r"must be in \[0, 1\], got 1.5"),
    ],
)
def test_a_value_is_judged_by_what_it_is_and_not_by_what_it_says(name, value, said):
    with pytest.raises(UserError, match=said):
        configs.check(with_value(name, value))
