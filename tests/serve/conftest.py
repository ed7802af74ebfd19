import dataclasses

import pytest

from jaxneg import config as configs
from jaxneg.config import Config, DataConfig, EvalConfig, ModelConfig, OptimConfig, TrainConfig
from jaxneg.data import held_out
from jaxneg.serve import export
from jaxneg.training import loop, runs

CONFIG = Config(
    data=DataConfig(length=8, batch_size=32),
    model=ModelConfig(width=8, layers=1),
    optim=OptimConfig(learning_rate=0.01, warmup_steps=5),
    train=TrainConfig(epochs=1, devices=1),
    eval=EvalConfig(batch_size=64),
)
MODELS = {
    "tied": {},
    "untied, attributes in the output": {"tied": False, "output_attributes": True, "item_bias": "odds"},
    "items alone, without biases": {
        "item_bias": "none",
        "feedback": "none",
        "station": False,
        "attributes": False,
        "position": False,
    },
    "bfloat16": {"dtype": "bfloat16"},
    "hidden events, some inputs, averaged": {"encoder": "bert4rec", "head": "gelu"},
    "with a like head": {"tied": False, "output_attributes": True},
}
# What else differs from CONFIG.
MORE = {
    "hidden events, some inputs, averaged": [
        "--data.mask",
        "0.3",
        "--data.inputs",
        "play",
        "thumb_up",
        "skip",
        "--optim.average",
        "0.9",
    ],
    "with a like head": "--like.weight 1 --like.rows folded --like.gradient --like.learning-rate 0.1".split(),
}


@pytest.fixture(scope="session")
def run(small_store, tmp_path_factory):
    """name in MODELS -> the directory of its run, trained once."""
    directory = tmp_path_factory.mktemp("runs")
    config = dataclasses.replace(CONFIG, data=dataclasses.replace(CONFIG.data, store=str(small_store)))

    def of(name):
        if not (directory / name).exists():
            model = dataclasses.replace(config.model, **MODELS[name])
            changed = configs.override(dataclasses.replace(config, model=model), MORE.get(name, []))
            loop.train(changed, directory / name)
        return directory / name

    return of


@pytest.fixture(scope="session")
def trained(run):
    """name in MODELS -> its run, read."""
    return lambda name: runs.load(run(name))


@pytest.fixture(scope="session")
def exported(trained, tmp_path_factory):
    """name in MODELS -> the directory of its export, made once."""
    directory = tmp_path_factory.mktemp("exports")

    def of(name):
        if not (directory / name).exists():
            export.export(trained(name), directory / name)
        return directory / name

    return of


@pytest.fixture(scope="session")
def examples(trained):
    """Every test example of the store: batches of 64, the last one padded."""
    live = trained("tied")
    return list(held_out.EvalBatches(live.store, live.config.data, live.config.eval, "test"))
