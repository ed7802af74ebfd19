"""The examples do what they say: trained, continued, swept, evaluated and exported."""

import dataclasses
import json
import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxneg
from jaxneg import cli, config as configs
from jaxneg.config import parts
from jaxneg.models import nnx
from tests.marks import rest_system

pytestmark = pytest.mark.usefixtures("forgotten")

EXAMPLES = pathlib.Path(__file__).parents[2] / "examples"
SMALL = (
    "--data.length 8 --data.batch-size 32 --model.width 8 --model.layers 1 --train.epochs 2 --train.devices 1 "
    "--eval.bootstrap 50 --eval.batch-size 64"
).split()


def small(name, store, *args):
    config = configs.load(EXAMPLES / name)
    return configs.override(config, [*SMALL, "--data.store", str(store), *args])


def test_focal_is_the_formula():
    configs.load(EXAMPLES / "own_loss.py")
    rng = np.random.default_rng(0)
    pos, neg, mask = rng.normal(size=(2, 3)), rng.normal(size=(2, 3, 4)), rng.random((2, 3)) < 0.7
    p, q = 1 / (1 + np.exp(-pos)), 1 / (1 + np.exp(-neg))
    terms = -((1 - p) ** 2) * np.log(p) - (q**2 * np.log(1 - q)).sum(-1)
    found = parts.LOSSES["focal"].make(jnp.asarray(pos), jnp.asarray(neg), jnp.asarray(mask))
    assert float(found) == pytest.approx(terms[mask].mean(), rel=1e-5)


def test_fading_is_causal():
    configs.load(EXAMPLES / "own_encoder.py")
    config = jaxneg.ModelConfig(width=6)
    encoder = parts.ENCODERS["fading"].make(config, rngs=nnx.Rngs(params=jax.random.key(0)))
    x_BLD, mask_BL = jax.random.normal(jax.random.key(1), (2, 5, 6)), jnp.ones((2, 5), bool)
    later = x_BLD.at[:, 3:].set(9.0)
    np.testing.assert_allclose(
        encoder(x_BLD, mask_BL, None)[:, :3], encoder(later, mask_BL, None)[:, :3], rtol=1e-6
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", rest_system(["own_loss.py", "own_encoder.py"], {"own_loss.py"}))
def test_an_own_part_is_trained_continued_evaluated_and_exported(name, small_store, tmp_path):
    config = small(name, small_store)
    jaxneg.train(config, tmp_path / "run", progress=False)
    longer = dataclasses.replace(config, train=dataclasses.replace(config.train, epochs=3))
    run = jaxneg.train(longer, tmp_path / "run", progress=False)
    assert run.result["steps"] == 3 * run.result["steps_per_epoch"]
    assert json.loads((run.path / "config.json").read_text())["registered"][0]["where"] == str(
        EXAMPLES / name
    )
    for known in parts.KINDS.values():
        known.pop("focal", None), known.pop("fading", None)
    report = jaxneg.evaluate(tmp_path / "run", split="validation", progress=False)
    assert report.figures["pair_accuracy"] == pytest.approx(run.result["best_score"], abs=1e-6)
    found = jaxneg.export(tmp_path / "run", tmp_path / "export")
    items = run.item_embeddings().ids
    assert [one.item for one in found.recommend(items[:2], 3)] == [
        one.item for one in run.recommend(items[:2], 3)
    ]


@pytest.mark.system
def test_workers_of_a_sweep_find_an_own_loss(small_store, tmp_path, monkeypatch):
    monkeypatch.setenv(
        "XLA_FLAGS", os.environ["JAXNEG_TESTS_COMPILER"]
    )  # of the worker, a process of its own
    words = f"--data.store {small_store} --set loss.name=focal --seeds 1 --jobs 1"
    place = ["sweep", str(EXAMPLES / "own_loss.py"), "--workdir", str(tmp_path / "sweep")]
    cli.main([*place, *SMALL, *words.split()])
    table = json.loads((tmp_path / "sweep" / "table.json").read_text())
    assert [(cell["labels"], cell["n"]) for cell in table["cells"]] == [({"name": "focal"}, 1)]
