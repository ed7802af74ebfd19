"""The public names: lazy, all there, known to type checkers."""

import ast
import pathlib
import subprocess
import sys
import tomllib

import pytest

import jaxneg

FILE = pathlib.Path(jaxneg.__file__)
HEAVY = ("jax", "numpy", "pyarrow", "ibis", "tyro", "flax", "optax")


def test_the_import_is_of_nothing_else():
    code = "import sys; before = set(sys.modules); import jaxneg; print(*(set(sys.modules) - before))"
    ran = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=FILE.parents[1],
    )
    loaded = {name.split(".")[0] for name in ran.stdout.split()}
    assert not loaded & set(HEAVY) and not {n for n in ran.stdout.split() if n.startswith("jaxneg.")}
    line = next(line for line in ran.stderr.splitlines() if line.endswith("| jaxneg"))
    assert int(line.split("|")[1]) < 50_000  # microseconds, all that it imports included


def test_every_name_is_there_and_no_module_is_hidden_by_one():
    modules = {path.stem for path in FILE.parent.iterdir() if path.suffix == ".py" or path.is_dir()}
    for name in jaxneg.__all__:
        assert getattr(jaxneg, name) is getattr(jaxneg, name)
        assert name in dir(jaxneg)
    assert not modules & set(jaxneg.__all__)
    assert {"prepare", "train", "evaluate", "export", "open_run", "Scorer", "Config", "UserError"} <= set(
        jaxneg.__all__
    )


def test_an_unknown_name_is_no_attribute():
    with pytest.raises(AttributeError, match="has no attribute 'trian'"):
        jaxneg.trian  # noqa: B018


def test_type_checkers_know_the_names():
    block = next(node for node in ast.parse(FILE.read_text()).body if isinstance(node, ast.If))
    assert ast.unparse(block.test) == "TYPE_CHECKING"
    names = {alias.asname for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert names == set(jaxneg.__all__)


def test_the_docstring_is_a_map():
    for name in ("prepare", "train", "open_run", "evaluate", "export", "Scorer", "UserError"):
        assert name in (jaxneg.__doc__ or "")


def test_the_version_stands_in_one_place_that_the_build_reads():
    project = tomllib.loads((FILE.parents[1] / "pyproject.toml").read_text())
    module, name = project["tool"]["setuptools"]["dynamic"]["version"]["attr"].rsplit(".", 1)
    tree = ast.parse(FILE.parents[1].joinpath(*module.split(".")).with_suffix(".py").read_text())
    found = [
        ast.literal_eval(n.value) for n in tree.body if isinstance(n, ast.Assign) and n.targets[0].id == name
    ]
    assert found == [jaxneg.__version__]
    assert "version" in project["project"]["dynamic"] and "version" not in project["project"]
