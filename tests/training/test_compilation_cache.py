import dataclasses

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache

from jaxneg.config import Config, DataConfig, EvalConfig, ModelConfig, TrainConfig
from jaxneg.training import loop, program


@pytest.fixture
def cache_of_jax():
    """JAX's own setting, put back afterwards; programs are kept however quickly they compile."""
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: getattr(jax.config, name) for name in names}
    compilation_cache.reset_cache()
    jax.config.update(names[1], 0.0)
    yield names[0]
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


@pytest.mark.slow
def test_compiled_programs_are_kept_where_the_config_says(small_store, tmp_path, cache_of_jax, monkeypatch):
    monkeypatch.setattr(program, "build", program.build.__wrapped__)  # compiled anew each time
    config = Config(
        data=DataConfig(store=str(small_store), length=6, batch_size=64),
        model=ModelConfig(width=8, layers=1),
        train=TrainConfig(epochs=1, devices=1),
        eval=EvalConfig(batch_size=64),
    )
    jax.config.update(cache_of_jax, str(tmp_path / "own"))
    loop.train(config, tmp_path / "a")
    assert list((tmp_path / "own").glob("*train_step*"))  # JAX's own setting stands
    compilation_cache.reset_cache()
    kept = dataclasses.replace(config.train, compilation_cache=str(tmp_path / "kept"))
    loop.train(dataclasses.replace(config, train=kept), tmp_path / "b")
    assert list((tmp_path / "kept").glob("*train_step*"))
