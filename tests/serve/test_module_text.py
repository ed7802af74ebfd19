"""A module is read by a process of its own, so that no file ends the one that serves."""

import pytest
from jax import export as jax_export

from jaxneg.serve import module_text
from tests.marks import rest_slow


@pytest.fixture(scope="module")
def module(exported):
    model = jax_export.deserialize(bytearray((exported("tied") / "model.stablehlo").read_bytes()))
    return bytes(model.mlir_module_serialized)


def test_the_other_process_gives_the_text(module):
    assert module_text.text(module) == module_text.parse(module)
    with pytest.raises(ValueError):
        module_text.text(module[: len(module) // 2])


DEATHS = {
    "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)": "its parser ended with SIGSEGV",
    "import time; time.sleep(60)": "its parser did not end within 1 s",
}


@pytest.mark.parametrize("death", rest_slow(DEATHS, [next(iter(DEATHS))]))
def test_a_module_that_ends_its_parser_is_refused(death, module, tmp_path, monkeypatch):
    (tmp_path / "parser.py").write_text(death)
    monkeypatch.setattr(module_text, "__file__", str(tmp_path / "parser.py"))
    monkeypatch.setattr(module_text, "LONGEST", 1.0)
    with pytest.raises(ValueError, match=DEATHS[death]):
        module_text.text(module)


@pytest.mark.parametrize("program", ["/usr/sbin/uwsgi", "", "/no/such/python3"])
def test_without_a_python_to_start_it_is_parsed_here(program, module, monkeypatch):
    monkeypatch.setattr(module_text.sys, "executable", program)
    assert module_text.text(module) == module_text.parse(module)
