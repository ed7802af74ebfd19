import dataclasses
import pathlib
import re

import pytest

from jaxneg import config as configs
from jaxneg.config import Config, UserError

ROOT = pathlib.Path(__file__).parents[2]


def test_json_round_trip():
    config = configs.override(Config(), ["--eval.ks", "5", "20", "--data.p-hard", "0.25", "--model.no-tied"])
    assert config.eval.ks == (5, 20) and config.data.p_hard == 0.25 and not config.model.tied
    assert configs.from_json(configs.to_json(config)) == config


def test_override_keeps_what_it_does_not_name():
    base = dataclasses.replace(Config(), data=dataclasses.replace(Config().data, length=7))
    assert configs.override(base, ["--model.layers", "3"]).data.length == 7
    assert configs.override(base, []) == base


@pytest.mark.parametrize(
    "args, message",
    [
        (["--data.p-hard", "1.5"], r"--data.p-hard must be in \[0, 1\], got 1.5"),
        (["--data.p-hard", "often"], "could not convert string to float"),
        (["--data.lenght", "5"], "perhaps you meant --data.length"),
        (["--model.heads", "3"], "--model.heads must be a divisor of the width 64, got 3"),
        (["--model.norm", "middle"], "invalid choice 'middle'"),
        (["--train.epochs", "0"], "--train.epochs must be at least 1"),
        (["--eval.ks"], "--eval.ks"),
    ],
)
def test_wrong_options_are_refused_in_one_line(args, message):
    with pytest.raises(UserError, match=message) as error:
        configs.override(Config(), args)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "text, message",
    [
        ("def get_config(): return 1", "must return a jaxneg.config.Config, got int"),
        ("async def get_config(): return 1", "must return a jaxneg.config.Config, got coroutine"),
        (
            "async def late(): return 1\ndef get_config(): return late()",
            "must return a jaxneg.config.Config, got coroutine",
        ),
        ("x = 1", "AttributeError"),
        ("def get_config(:", "SyntaxError"),
    ],
)
def test_config_files_that_are_none(tmp_path, text, message):
    path = tmp_path / "wrong.py"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        configs.load(path)
    with pytest.raises(UserError, match="no config file"):
        configs.load(tmp_path / "absent.py")


def test_saved_configs_of_another_version_are_refused():
    text = configs.to_json(Config()).replace('"length"', '"span"')
    with pytest.raises(UserError, match="not a config that this version saved"):
        configs.from_json(text)


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.py")), ids=lambda path: path.stem)
def test_every_config_loads_and_makes_sense(path):
    config = configs.load(path)
    assert configs.check(config) == config
    text = path.read_text()
    assert f"configs/{path.name}" in text, "the header names the command"


def test_every_option_has_help(capsys, monkeypatch):
    """tyro finds a comment behind a field or a docstring below it, and nothing inside parentheses."""
    monkeypatch.setenv("COLUMNS", "80")  # one column of options
    with pytest.raises(SystemExit):
        configs.parse(configs.Config, ["--help"], prog="jaxneg train")
    lines = [re.sub(r"[│╭╮╰╯─]", " ", line).strip() for line in capsys.readouterr().out.splitlines()]
    options = [n for n, line in enumerate(lines) if re.match(r"--[a-z]+\.", line)]
    assert len(options) > 60
    for n in options:
        # A long list of values wraps; help is the first line of words after it.
        help = next(line for line in lines[n + 1 :] if not line.endswith("}") and "|" not in line)
        assert help and not help.startswith(("(default", "--")), lines[n]


def test_options_of_python_are_a_list_of_words():
    with pytest.raises(UserError, match=r"options are a list of words.*got '--model.layers 4'"):
        configs.override(Config(), "--model.layers 4")
