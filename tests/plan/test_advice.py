"""Other settings: the first that fits, and what would be faster."""

import dataclasses

import jax
import pytest

from jaxneg import config as configs
from jaxneg.config import Config, DataConfig, LossConfig, ModelConfig, OptimConfig, TrainConfig
from jaxneg.plan import advice, estimate, printed, tpu
from jaxneg.training import program

CATALOGUE = program.Catalogue(items=2047, stations=3, attributes=(7,))
SMALL = Config(
    data=DataConfig(length=8, batch_size=32, negatives=0, shared_negatives=16),
    model=ModelConfig(width=8, layers=1),
    loss=LossConfig(name="sampled_softmax"),
)


def here(memory):
    """The 8 devices of the tests, with so many bytes of memory on each."""
    chip = tpu.Chip(
        devices=1, memory=memory / tpu.GIB, reads=700, link=50, peak=197, memory_rate=800, clock=1.5
    )
    return tpu.Slice("here", jax.devices()[:8], chip, (2, 4))


def shared_by(shards):
    return dataclasses.replace(SMALL, train=TrainConfig(shards=shards), optim=OptimConfig(rows="adagrad"))


@pytest.fixture
def estimated(monkeypatch):
    """Configs that were estimated, in place of compiling: tables take 800 bytes a device, a sequence 1, the rest 50."""
    configs_ = []

    def made_up(config, catalogue, where, **rest):
        state, per_device = 800 // config.train.shards, config.data.batch_size // len(where.devices)
        configs_.append(config)
        found = {
            "mesh": {"data": 8 // config.train.shards, "model": config.train.shards},
            "device": "",
            "topology": "",
            "host": {"hosts": 1, "parts": {}, "bytes": 0, "reads_all": False},
            "warnings": [],
            "chips": 8,
            "batch_size": config.data.batch_size,
            "available_bytes": where.memory,
        }
        if state > where.memory:
            return found | {"compiled": False} | estimate._memory({"item tables": state}, where)
        memory = {"item tables": state, "temporaries": 50 + per_device}
        return found | {"compiled": True} | estimate._memory(memory, where)

    monkeypatch.setattr(estimate, "plan", made_up)
    return configs_


@pytest.mark.parametrize(
    "memory, batch_size, tries, options, compiled",
    [
        (500, 32, 4, "--train.shards 2", [2]),  # 400 + 50 + 4
        (210, 32, 4, "--train.shards 8", [4, 8]),  # 4 shards: 200 + 54; 2 are not worth compiling
        (210, 1024, 4, "--data.batch-size 256 --train.shards 8", [4, 8, 8, 8]),  # 100 + 50 + 32 at last
        (210, 1024, 2, None, [4, 8]),  # no more tries
        (145, 1024, 9, None, [8, 8]),  # 100 + 50 of it stay whatever the batch
        (90, 32, 4, None, []),
    ],
)
def test_more_shards_are_tried_then_smaller_batches(
    estimated, memory, batch_size, tries, options, compiled, capsys
):
    config = configs.override(shared_by(1), ["--data.batch-size", str(batch_size)])
    found = advice.planned(config, CATALOGUE, here(memory), tries=tries)
    assert not found["fits"]
    assert (found["suggestion"] or {}).get("options") == options
    tried = [other for other in estimated[1:] if 800 // other.train.shards <= memory]
    assert [other.train.shards for other in tried] == compiled
    printed.render([found])
    out = capsys.readouterr().out
    assert ("This fits: " + options if options else "Nothing that fits was found") in out


def test_tables_that_devices_share_have_an_optimiser_of_rows(estimated):
    whole = dataclasses.replace(SMALL, loss=LossConfig(name="softmax"), data=DataConfig(batch_size=64))
    for config in (SMALL, whole):
        found = advice.planned(config, CATALOGUE, here(500), tries=4)
        assert found["suggestion"]["options"] == "--optim.rows adagrad --train.shards 2"


def test_a_hopeless_plan_compiles_nothing_and_says_what_is_missing(capsys):
    said = []
    found = advice.planned(SMALL, CATALOGUE, here(1000), tries=4, say=said.append)
    assert not found["fits"] and not found["compiled"] and found["suggestion"] is None and not said
    printed.render([found])
    out = " ".join(capsys.readouterr().out.split())
    assert "does not fit" in out and "the state alone is too much" in out and printed.NOTE in out


@pytest.fixture
def timed(monkeypatch):
    """Plans of 10 ms a step, half of it where products are of 16 bits, twice that where sequences are twice as many."""

    def made_up(config, catalogue, where, **rest):
        ms = 10.0 if config.model.dtype == "float32" else 5.0
        ms *= config.data.batch_size / 32
        rate = 1e3 * config.data.batch_size / ms
        return {
            "compile_seconds": 0.01,
            "fits": True,
            "step": {"low": ms / 2e3, "high": 2 * ms / 1e3},
            "sequences_per_s": {"low": rate / 2, "high": 2 * rate},
        }

    monkeypatch.setattr(estimate, "plan", made_up)


def test_the_best_change_comes_first_with_its_ratio_and_its_price(timed):
    found = advice.planned(SMALL, CATALOGUE, here(1 << 30), minutes=5)
    first, *others = found["advice"]
    assert first["options"] == "--model.dtype bfloat16" and first["faster"] == pytest.approx(2.0)
    assert first["but"] == "products of 8 bits of mantissa"
    by_options = {each["options"]: each["faster"] for each in others}
    assert by_options["--data.batch-size 64"] == pytest.approx(1.0)
    lines = printed.advised(found)
    assert lines[1].startswith("--model.dtype bfloat16: 2.00 times the sequences a second")
    assert lines[-1].startswith("No help, compiled too: ") and "--data.batch-size 64" in lines[-1]


def test_no_change_is_tried_that_would_end_too_late(timed, monkeypatch):
    slow = estimate.plan
    monkeypatch.setattr(estimate, "plan", lambda *a, **k: slow(*a, **k) | {"compile_seconds": 61.0})
    found = advice.planned(SMALL, CATALOGUE, here(1 << 30), minutes=1)
    assert found["advice"] == [] and "give more" in printed.advised(found)[0]
    assert "advice" not in advice.planned(SMALL, CATALOGUE, here(1 << 30))


def test_only_settings_that_go_together_are_tried():
    gru = configs.override(SMALL, ["--model.encoder", "gru4rec"])
    tried = [advice.changed(gru, other) for other, _ in advice._faster(gru, here(1 << 30))]
    assert tried and not any("attention" in options or "residual" in options for options in tried)
    wide = configs.override(SMALL, ["--model.width", "256", "--model.heads", "4"])
    assert "--model.heads 2" in [
        advice.changed(wide, other) for other, _ in advice._faster(wide, here(1 << 30))
    ]
