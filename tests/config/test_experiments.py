"""Experiment files: what they may be made of, and that one leaves nothing to the next."""

import os
import sys

import pytest

from jaxneg import config as configs
from jaxneg.errors import UserError
from jaxneg.sweep import grids

OWN = """
from __future__ import annotations
from dataclasses import dataclass, field
from jaxneg.config import Config, DataConfig

@dataclass(frozen=True)
class Mine:
    length: int = 9
    names: list[str] = field(default_factory=list)

def get_config():
    return Config(data=DataConfig(length=Mine().length))
"""
BESIDE = """
import common
from jaxneg.config import Config, DataConfig
from jaxneg.sweep.grids import Sweep, over

def get_config():
    import late
    return Config(data=DataConfig(length=common.LENGTH + late.MORE))

def get_sweep():
    import late
    return Sweep({"length": over("--data.length", common.LENGTH, late.MORE)})
"""


def made(directory, **files):
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (directory / f"{name}.py").write_text(text)
    return directory


def test_a_config_may_use_dataclasses_of_its_own(tmp_path):
    path = made(tmp_path, own=OWN) / "own.py"
    assert configs.load(path).data.length == 9
    assert grids.load(path).axes == {}


def test_a_config_is_what_its_file_says_now_and_leaves_nothing_beside_it(tmp_path, monkeypatch):
    """Also one of the same size and second as another, for which Python would take the bytecode of the other."""
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    path = tmp_path / "config.py"
    (tmp_path / "neighbour.py").write_text("LENGTH = 3")
    for length in (4, 5, 6):
        path.write_text(
            "import neighbour\nfrom jaxneg.config import Config, DataConfig\n"
            f"def get_config(): return Config(data=DataConfig(length={length} * neighbour.LENGTH))\n"
        )
        os.utime(path, (1_700_000_000, 1_700_000_000))
        assert configs.load(path).data.length == 3 * length
    assert sorted(one.name for one in tmp_path.iterdir()) == ["config.py", "neighbour.py"]


def test_files_beside_are_imported_and_do_not_meet_those_of_another_directory(tmp_path, monkeypatch):
    for n, name in enumerate(("a", "b")):
        made(tmp_path / name, config=BESIDE, common=f"LENGTH = {10 + n}", late=f"MORE = {n}")
    made(tmp_path / "a" / "package", __init__="", inner="from package import other", other="")
    before, path = set(sys.modules), list(sys.path)
    for _ in range(2):
        assert configs.load(tmp_path / "a" / "config.py").data.length == 10
        assert configs.load(tmp_path / "b" / "config.py").data.length == 12
        assert list(grids.load(tmp_path / "b" / "config.py").axes["length"]) == ["11", "1"]
    assert sys.path == path and not {name for name in set(sys.modules) - before if "jaxneg" not in name}
    monkeypatch.chdir(tmp_path / "b")
    assert configs.load("config.py").data.length == 12


def test_a_module_of_elsewhere_with_the_same_name_comes_back(tmp_path, monkeypatch):
    made(tmp_path / "elsewhere", common="LENGTH = 1000")
    made(tmp_path / "here", config=BESIDE, common="LENGTH = 3", late="MORE = 0")
    monkeypatch.syspath_prepend(tmp_path / "elsewhere")
    import common  # pyright: ignore[reportMissingImports]

    assert configs.load(tmp_path / "here" / "config.py").data.length == 3
    assert sys.modules.pop("common") is common and common.LENGTH == 1000


@pytest.mark.parametrize(
    "text, message",
    [
        ("import no_such_module_of_anyone", "ModuleNotFoundError: No module named"),
        ("import sys; sys.exit(0)", "SystemExit: 0"),
        ("def get_config(): raise SystemExit('not today')", "SystemExit: not today"),
        ("class Mine(BaseException): ...\ndef get_config(): raise Mine('x')", "Mine: x"),
        ("class Mine(BaseException): ...\nraise Mine", "Mine$"),
        ("def get_config(): raise GeneratorExit", "GeneratorExit$"),
        ("raise ValueError('two\\nlines')", "ValueError: two lines"),
        (
            "from jaxneg.config import Config\nget_config = lambda: Config",
            "must return a .*Config, got Config",
        ),
    ],
)
def test_files_that_are_no_experiments_are_refused_in_one_line(text, message, tmp_path):
    path = made(tmp_path, wrong=text) / "wrong.py"
    before = set(sys.modules)
    with pytest.raises(UserError, match=message) as error:
        configs.load(path)
    assert "\n" not in str(error.value) and str(path) in str(error.value)
    assert set(sys.modules) == before


def test_a_wrong_value_names_the_file(tmp_path):
    text = OWN.replace("length=Mine().length", "length=Mine().length / 2").replace("= 9", "= 5")
    path = made(tmp_path, wrong=text) / "wrong.py"
    with pytest.raises(Exception, match="length"):  # in tests the dataclass itself is checked first
        configs.load(path)
