"""Compiled programs are kept: where, for whom, and whole."""

import os
import pathlib
import subprocess
import sys

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache

from jaxneg.config import Config, DataConfig, EvalConfig, ModelConfig, TrainConfig
from jaxneg.training import compiled, loop, program

NAMES = (
    "jax_compilation_cache_dir",
    "jax_compilation_cache_max_size",
    "jax_enable_compilation_cache",
    "jax_persistent_cache_min_compile_time_secs",
)


@pytest.fixture
def unset(tmp_path, monkeypatch):
    """JAX without a cache of its own, put back afterwards; programs are kept however quickly they compile."""
    before = {name: getattr(jax.config, name) for name in NAMES}
    compilation_cache.reset_cache()
    jax.config.update("jax_compilation_cache_dir", None)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


def small(store):
    return Config(
        data=DataConfig(store=str(store), length=6, batch_size=64),
        model=ModelConfig(width=8, layers=1),
        train=TrainConfig(epochs=1, devices=1),
        eval=EvalConfig(batch_size=64),
    )


@pytest.mark.slow
def test_a_run_keeps_its_programs_in_the_user_s_cache(small_store, tmp_path, unset, monkeypatch, capsys):
    monkeypatch.setattr(program, "build", program.build.__wrapped__)  # compiled anew each time
    loop.train(small(small_store), tmp_path / "a")
    [kept] = compiled.directory().glob("*train_step*-cache")
    assert kept.is_relative_to(tmp_path / "cache" / "jaxneg")
    assert capsys.readouterr().err.count(f"kept in {compiled.directory()}") == 1
    # What was killed while it wrote is written anew.
    kept.with_name(kept.name.removesuffix("-cache") + "-atime").unlink()
    kept.write_bytes(kept.read_bytes()[:100])
    compilation_cache.reset_cache()
    jax.config.update("jax_compilation_cache_dir", None)
    loop.train(small(small_store), tmp_path / "b")
    assert kept.stat().st_size > 100
    assert "kept in" not in capsys.readouterr().err  # is said once


def test_another_setting_stands(tmp_path, unset):
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "own"))
    compiled.keep()
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "own")
    jax.config.update("jax_compilation_cache_dir", None)
    jax.config.update("jax_enable_compilation_cache", False)
    compiled.keep()
    assert jax.config.jax_compilation_cache_dir is None and not compiled.directory().exists()


def test_a_home_that_cannot_be_written_costs_the_cache_and_nothing_else(tmp_path, unset, capsys):
    (tmp_path / "cache").write_text("a file where the directory would be")
    compiled.keep()
    assert jax.config.jax_compilation_cache_dir is None and capsys.readouterr().err == ""


def test_processors_that_differ_share_no_programs(unset, monkeypatch):
    here = compiled.directory()
    assert compiled.directory() == here
    monkeypatch.setattr(pathlib.Path, "read_text", lambda path: "flags\t\t: fpu sse avx1024\n")
    assert compiled.directory() != here


@pytest.mark.slow
def test_processes_at_once_share_a_directory(tmp_path):
    """Each compiles or reads; neither stops the other, and both say the same."""
    code = (
        "from jaxneg.training import compiled; import jax; compiled.keep(); "
        "print(float(jax.jit(lambda x: (x @ x.T).sum())(jax.numpy.ones((8, 8)))))"
    )
    environment = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    environment["XDG_CACHE_HOME"] = str(tmp_path)
    started = [
        subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    assert [process.communicate()[0].strip() for process in started] == ["512.0", "512.0"]
    assert list(tmp_path.glob("jaxneg/programs/*/*-cache"))
