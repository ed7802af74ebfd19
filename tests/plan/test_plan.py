"""Plans on this machine's devices, as if they were a slice; and, where the TPU compiler is installed, on TPUs."""

import dataclasses
import importlib.util
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxneg import cli, config as configs
from jaxneg.batch import Form
from jaxneg.config import Config, DataConfig, LossConfig, ModelConfig, OptimConfig, TrainConfig, UserError
from jaxneg.data import pipeline, stores
from jaxneg.embeddings import sharding
from jaxneg.plan import estimate, hlo, tpu
from jaxneg.training import loop, program

CATALOGUE = program.Catalogue(items=2047, stations=3, attributes=(7,))
SMALL = Config(
    data=DataConfig(length=8, batch_size=32, negatives=0, shared_negatives=16),
    model=ModelConfig(width=8, layers=1),
    loss=LossConfig(name="sampled_softmax"),
)
needs_compiler = pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="no libtpu")


def here(memory=None):
    """The 8 devices of the tests; with ``memory``, so many bytes of it on each."""
    chip = memory and tpu.Chip(
        devices=1, memory=memory / tpu.GIB, reads=700, link=50, peak=197, memory_rate=800, clock=1.5
    )
    return tpu.Slice("here", jax.devices()[:8], chip or None, (2, 4))


def shared_by(shards):
    return dataclasses.replace(SMALL, train=TrainConfig(shards=shards), optim=OptimConfig(rows="adagrad"))


@pytest.mark.slow
def test_memory_by_part_is_that_of_the_arrays_themselves():
    config, where = shared_by(2), here()
    found = estimate.plan(config, CATALOGUE, where)
    built = program.build(config, CATALOGUE, sharding.mesh_of(where.devices, 2))
    state = jax.device_put(
        jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), built.state),
        jax.tree.map(lambda leaf: leaf.sharding, built.state),
    )

    def on_first(tree):
        leaves = [leaf.addressable_shards[0].data for leaf in jax.tree.leaves(tree)]
        return sum(leaf.nbytes for leaf in leaves)

    assert found["memory"]["parameters"] == on_first(state.params)
    assert found["memory"]["item tables"] == on_first(state.tables)
    assert found["memory"]["optimiser state"] == on_first(state.opt_state)
    assert found["mesh"] == {"data": 4, "model": 2}
    assert found["used_bytes"] == sum(found["memory"].values())
    assert found["fits"] is None and found["compiled"] and "step_seconds" not in found
    # The gradients of parameters that each device has a copy of are summed over all of them.
    assert found["collectives"]["all-reduce"]["bytes"] >= 2 * found["memory"]["parameters"] * 7 / 8


def test_plan_compiles_what_train_runs(small_store, tmp_path, monkeypatch):
    class Stop(Exception):
        pass

    built = []

    def build(*args, **kwargs):
        built.append((args, kwargs))
        raise Stop

    config = configs.override(SMALL, ["--data.store", str(small_store)])
    monkeypatch.setattr(program, "build", build)
    with pytest.raises(Stop):
        loop.train(config, tmp_path / "run")
    with pytest.raises(Stop):
        estimate.plan(config, estimate.of_store(config)[0], here())
    (trained, _), (planned, _) = built
    assert planned[:3] == trained[:3]  # config, catalogue, mesh


@pytest.fixture
def estimated(monkeypatch):
    """Configs that were estimated, in place of compiling: tables take 800 bytes a device, a sequence 1, the rest 50."""
    configs_ = []

    def made_up(config, catalogue, where, epoch, say):
        state, per_device = 800 // config.train.shards, config.data.batch_size // len(where.devices)
        configs_.append(config)
        found = {
            "mesh": {"data": 8 // config.train.shards, "model": config.train.shards},
            "device": "",
            "topology": "",
            "chips": 8,
            "batch_size": config.data.batch_size,
            "available_bytes": where.memory,
        }
        if state > where.memory:
            return found | {"compiled": False} | estimate._memory({"item tables": state}, where)
        memory = {"item tables": state, "temporaries": 50 + per_device}
        return found | {"compiled": True} | estimate._memory(memory, where)

    monkeypatch.setattr(estimate, "_estimate", made_up)
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
    found = estimate.plan(config, CATALOGUE, here(memory), tries=tries)
    assert not found["fits"]
    assert (found["suggestion"] or {}).get("options") == options
    tried = [other for other in estimated[1:] if 800 // other.train.shards <= memory]
    assert [other.train.shards for other in tried] == compiled
    estimate.render([found])
    printed = capsys.readouterr().out
    assert ("This fits: " + options if options else "Nothing that fits was found") in printed


def test_tables_that_devices_share_have_an_optimiser_of_rows(estimated):
    whole = dataclasses.replace(SMALL, loss=LossConfig(name="softmax"), data=DataConfig(batch_size=64))
    for config in (SMALL, whole):
        found = estimate.plan(config, CATALOGUE, here(500), tries=4)
        assert found["suggestion"]["options"] == "--optim.rows adagrad --train.shards 2"


def test_a_hopeless_plan_compiles_nothing_and_says_what_is_missing(capsys):
    said = []
    found = estimate.plan(SMALL, CATALOGUE, here(1000), tries=4, say=said.append)
    assert not found["fits"] and not found["compiled"] and found["suggestion"] is None and not said
    estimate.render([found])
    printed = " ".join(capsys.readouterr().out.split())
    assert "does not fit" in printed and "the state alone is too much" in printed and estimate.NOTE in printed


@pytest.mark.parametrize(
    "message, needed",
    [
        (
            "Ran out of memory in memory space hbm. Used 20.50G of 15.75G hbm. Exceeded hbm capacity by 4.75G",
            int(20.5 * tpu.GIB),
        ),
        (
            "Ran out of memory on HBM, total memory required for HLO temporaries (1.00T) exceeds available HBM (15G).",
            100 + (tpu.GIB << 10),
        ),
        ("INTERNAL: something else", None),
    ],
)
def test_refusals_of_the_compiler_say_how_much_it_needs(message, needed):
    assert estimate._refused(message, {"item tables": 100}) == needed


def test_an_epoch_takes_its_steps():
    v5e = tpu.Slice("v5e:4x4", list(range(16)), tpu.CHIPS["v5e"], (4, 4))

    class Compiled:
        def as_text(self):
            return ""

        def cost_analysis(self):
            return {"optimal_seconds": 0.5, "bytes accessed": 737e6}

    found = estimate._speed(Compiled(), v5e, at_once=64.0, epoch=estimate.Epoch(641))
    assert found["step_seconds"] == 0.5 and found["sequences_per_s"] == 128
    assert found["epoch"] == {
        "sequences": 641,
        "steps": 11,
        "hours": 11 * 0.5 / 3600,
        "chip_hours": 16 * 11 * 0.5 / 3600,
    }
    packed = estimate._speed(Compiled(), v5e, at_once=160.0, epoch=estimate.Epoch(641))
    assert packed["sequences_per_s"] == 320 and packed["epoch"]["steps"] == 5


def slice_of(generation, *sides):
    chip = tpu.CHIPS[generation]
    return tpu.Slice("", range(int(np.prod(sides)) * chip.devices), chip, sides)


@pytest.mark.parametrize(
    "where, kind, size, group, seconds",
    [
        # Half of what each of 256 chips sends crosses the middle, half of that each way: 64 R through 32 links.
        (slice_of("v5e", 16, 16), "all-to-all", 1e9, 256, 1e9 * 255 / 256 * 64 / (32 * 50e9)),
        # An open square of 16: 4 R through 4 links.
        (slice_of("v5e", 4, 4), "all-to-all", 1e9, 16, 1e9 * 15 / 16 * 4 / (4 * 50e9)),
        # A chip in a corner has two links, one in a closed cube has six.
        (slice_of("v5e", 4, 4), "all-gather", 1e9, 16, 1e9 * 15 / 16 / (2 * 50e9)),
        (slice_of("v5p", 4, 4, 4), "all-gather", 1e9, 64, 1e9 * 63 / 64 / (6 * 100e9)),
        # Two devices of a chip share its links.
        (slice_of("tpu7x", 4, 4, 4), "collective-permute", 1e9, 2, 2e9 / (6 * 100e9)),
    ],
)
def test_seconds_on_the_links(where, kind, size, group, seconds):
    found = tpu.link_seconds(where, [hlo.Collective(kind, int(size), group, 1)])
    assert found == pytest.approx(seconds, rel=1e-6)


def test_the_compilers_second_less_for_a_custom_call_is_taken_back():
    v5e = slice_of("v5e", 4, 4)
    assert tpu.compiler_seconds(v5e, {"optimal_seconds": 0.25}, []) == 0.25
    assert tpu.compiler_seconds(v5e, {"optimal_seconds": -2.75}, ["ConcatBitcast"] * 3) == 0.25
    assert tpu.compiler_seconds(v5e, {"optimal_seconds": 0.25}, ["AllocateBuffer"] * 3) == 0.25
    assert (
        tpu.compiler_seconds(v5e, {"optimal_seconds": -1.75, "bytes accessed": 737e6}, ["Unknown"] * 2)
        == 0.25
    )
    costs = {"optimal_seconds": -32.0, "bytes accessed": 737e6}  # a millisecond, lost in float32
    assert tpu.compiler_seconds(v5e, costs, ["PrepareAsyncCallStart"] * 32) == pytest.approx(1e-3)


def test_loops_are_spoken_of():
    assert estimate.warnings({"loops": [1]}) == []
    assert "loops of 4 turns" in estimate.warnings({"loops": [1, 4]})[0]
    assert "count as one turn" in estimate.warnings({"loops": [None]})[0]


CONFIG = """
from jaxneg.config import Config, DataConfig, ModelConfig


def get_config():
    return Config(data=DataConfig(length=8, batch_size=16, negatives=2), model=ModelConfig(width=8, layers=1))
"""


@pytest.mark.slow
def test_the_command_prints_tables_or_one_json_object(tmp_path, monkeypatch, capsys, small_store):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.py").write_text(CONFIG)
    monkeypatch.setattr(tpu, "tpu", lambda name: here(1 << 30)._replace(name=name))
    told = []

    def seen(epoch):
        told.append(epoch)
        return {}

    cli.main(
        "plan config.py --topology v5e:2x4 --per-chip 4 --items 511 --stations 2 --attributes 5 --json".split()
    )
    (found,) = json.loads(capsys.readouterr().out)["plans"]
    assert found["fits"] and found["topology"] == "v5e:2x4" and found["batch_size"] == 32
    monkeypatch.setattr(
        estimate, "plan", lambda config, catalogue, where, *, epoch, **rest: found | seen(epoch)
    )
    cli.main(["plan", "config.py", "--topology", "v5e:2x4", "--data.store", str(small_store)])
    printed = capsys.readouterr().out
    assert "fits: " in printed and "item tables" in printed and "all-reduce" in printed
    data = DataConfig(length=8, batch_size=16, negatives=2)
    batches = pipeline.TrainBatches(stores.Store.open(small_store), data)
    assert batches.form.packed and told == [(batches.spans, batches.sequences_per_row)]


@pytest.mark.parametrize(
    "args, message",
    [
        ("", "give a slice to plan for, as --topology v5e:16x16"),
        (
            "--topology v5e-16",
            "no topology 'v5e-16': name a generation and the sides of a slice, as v4:2x2x2",
        ),
        ("--topology v5e:2x2 --per-chip -1", "--per-chip must be 0 or more, got -1"),
    ],
)
def test_wrong_calls_get_one_line(tmp_path, capsys, args, message):
    (tmp_path / "config.py").write_text(CONFIG)
    with pytest.raises(SystemExit) as stopped:
        cli.main(["plan", str(tmp_path / "config.py"), *args.split()])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_without_the_compiler_one_line_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.delenv("TPU_LIBRARY_PATH", raising=False)
    with pytest.raises(UserError, match=r"pip install 'jaxneg\[tpu\]'"):
        tpu.tpu("v5e:4x4")


@pytest.mark.parametrize("size, parts", [(12, 1), (24, 2), (60, 5), (8, 2)])
def test_plan_and_train_refuse_the_same_batches(small_store, tmp_path, size, parts):
    config = dataclasses.replace(
        SMALL,
        data=dataclasses.replace(SMALL.data, store=str(small_store), batch_size=size),
        optim=OptimConfig(accumulate=parts),
    )
    message = f"--data.batch-size {size} must be a multiple of the 8 devices"
    for refused in (
        lambda: estimate.plan(config, CATALOGUE, here()),
        lambda: loop.train(config, tmp_path / "run"),
    ):
        with pytest.raises(UserError, match=message) as error:
            refused()
        assert ("parts each" in str(error.value)) == (parts > 1)
    assert not (tmp_path / "run").exists()


def test_a_batch_that_the_slice_cannot_share_is_refused():
    with pytest.raises(UserError, match="must be a multiple of the 8 devices of here"):
        estimate.plan(configs.override(SMALL, ["--data.batch-size", "20"]), CATALOGUE, here())


@needs_compiler
@pytest.mark.slow
def test_a_step_compiles_for_a_slice_that_is_not_there():
    where = tpu.tpu("v5e:2x2")
    found = estimate.plan(shared_by(4), CATALOGUE, where, epoch=estimate.Epoch(1000))
    assert found["fits"] and found["device"] == "TPU v5 lite" and found["chips"] == 4
    assert 0 < found["compiler_seconds"] < 0.1 and 0 < found["link_seconds"] < 0.1
    assert found["collective_bytes_per_chip"] > 0 and found["epoch"]["steps"] == 32
    with pytest.raises(UserError, match="name a slice that exists"):
        tpu.tpu("v5e:3x5")


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize(
    "name, chips", [("v4:2x2x1", 4), ("v5e:2x2", 4), ("v5p:2x2x1", 4), ("v6e:2x2", 4), ("tpu7x:2x2x1", 4)]
)
def test_the_table_of_chips_is_what_the_compiler_says(name, chips):
    where = tpu.tpu(name)
    assert where.chips == chips
    mesh = sharding.mesh_of(where.devices, len(where.devices))
    over = jax.sharding.NamedSharding(mesh, sharding.spec("V"))

    def compiled(rows):
        row_VD = jax.ShapeDtypeStruct((rows * len(where.devices), 1024), jnp.float32, sharding=over)
        return jax.jit(lambda row_VD: row_VD + 1).lower(row_VD).compile()

    with pytest.raises(jax.errors.JaxRuntimeError, match=f"exceeds available HBM .{where.chip.memory:.2f}G"):
        compiled(1 << 26)
    costs = compiled(1 << 14).cost_analysis()
    assert costs["bytes accessed"] / costs["optimal_seconds"] == pytest.approx(
        where.chip.reads * 1e9, rel=0.01
    )


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("packed", [True, False])
def test_fused_attention_of_a_slice_is_the_kernel_of_tpus(packed):
    """Forward, and backward to queries and to keys and values; nothing is gathered for it from other chips."""
    mesh = sharding.mesh_of(tpu.tpu("v5e:2x2").devices)
    model = ModelConfig(width=64, heads=2, layers=1, attention="fused", dtype="bfloat16")
    config = Config(data=DataConfig(length=200, batch_size=16), model=model)
    built = program.build(config, CATALOGUE, mesh, form=Form(16, 200, packed=packed))
    text = built.update.lower(built.state, built.batch, built.attribute_VA).compile().as_text()
    assert text.count('custom_call_target="tpu_custom_call"') == 3
    assert "all-gather" not in text
