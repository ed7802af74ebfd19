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
from jaxneg.plan import costs, estimate, hlo, printed, timing, tpu
from jaxneg.training import loop, program

CATALOGUE = program.Catalogue(items=2047, stations=3, attributes=(7,))
SMALL = Config(
    data=DataConfig(length=8, batch_size=32, negatives=0, shared_negatives=16),
    model=ModelConfig(width=8, layers=1),
    loss=LossConfig(name="sampled_softmax"),
)
needs_compiler = pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="no libtpu")


@pytest.fixture(autouse=True)
def as_it_was():
    """Planning for a TPU keeps JAX from other platforms and from its cache in this process."""
    kept = {name: getattr(jax.config, name) for name in ("jax_platforms", "jax_enable_compilation_cache")}
    yield
    for name, value in kept.items():
        jax.config.update(name, value)


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
    assert found["fits"] is None and found["compiled"] and "step" not in found
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


def test_an_epoch_takes_its_steps_and_costs_its_chip_hours():
    v5e = tpu.Slice("v5e:4x4", list(range(16)), tpu.CHIPS["v5e"], (4, 4))
    found = costs.of_epoch(costs.Epoch(641), 64.0, timing.Range(0.5, 2.0), v5e, price=1.5)
    hours = 11 * 0.5 / 3600
    assert found == {
        "sequences": 641,
        "steps": 11,
        "hours": {"low": hours, "high": 4 * hours},
        "chip_hours": {"low": 16 * hours, "high": 64 * hours},
        "money": {"low": 24 * hours, "high": 96 * hours},
    }
    packed = costs.of_epoch(costs.Epoch(641), 160.0, timing.Range(0.5, 2.0), v5e, price=0.0)
    assert packed["steps"] == 5 and packed["money"] is None


def test_a_host_holds_its_store_its_batches_and_the_state_that_it_saves():
    where = tpu.Slice("v5e:4x4", list(range(16)), tpu.CHIPS["v5e"], (4, 4), hosts=4)
    whole = costs.of_host(SMALL, costs.Epoch(1000), where, batch_bytes=100, state_bytes=7)
    # 1,000 sequences of 8 events of 21 bytes and an index of 32; 4 batches ahead; the state of 4 devices twice.
    assert list(whole["parts"].values()) == [1000 * (8 * 21 + 32), 5 * 100, 2 * 4 * 7] and whole["reads_all"]
    blocks = configs.override(SMALL, ["--data.blocks", "4"])
    apart = costs.of_host(blocks, costs.Epoch(1000, store_bytes=400), where, batch_bytes=100, state_bytes=7)
    assert list(apart["parts"].values()) == [100, 125, 56] and not apart["reads_all"]
    assert apart["bytes"] == 281


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


def test_loops_without_an_end_are_spoken_of():
    host = {"hosts": 1, "reads_all": False}
    assert printed.warnings({"loops": [1, 4], "host": host}) == []
    assert "count as one turn" in printed.warnings({"loops": [None], "host": host})[0]
    assert "--data.blocks 4" in printed.warnings({"host": {"hosts": 4, "reads_all": True}})[0]


@pytest.mark.parametrize(
    "width, heads, said",
    [
        (128, 1, None),
        (128, 2, "heads of 64 numbers fill 50% of 128 lanes in attention; --model.heads 1 fills them"),
        (512, 4, None),
        (64, 1, "--model.width 64 fills 50% of lines of 128 numbers"),
        (192, 1, "--model.width 192 fills 75% of lines of 128 numbers"),
    ],
)
def test_lanes_that_stay_empty_are_told(width, heads, said):
    config = configs.override(SMALL, ["--model.width", str(width), "--model.heads", str(heads)])
    assert estimate.lanes(config, here(1 << 30)) == ([said] if said else [])
    assert estimate.lanes(config, here()) == []  # no TPU


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
    given = json.loads(capsys.readouterr().out)
    (found,) = given["plans"]
    assert set(given) == {"schema", "note", "plans"} and given["schema"] == estimate.SCHEMA
    assert found["fits"] and found["topology"] == "v5e:2x4" and found["batch_size"] == 32
    monkeypatch.setattr(
        estimate, "plan", lambda config, catalogue, where, *, epoch, **rest: found | seen(epoch)
    )
    cli.main(["plan", "config.py", "--topology", "v5e:2x4", "--data.store", str(small_store)])
    out = capsys.readouterr().out
    assert "fits: " in out and "item tables" in out and "all-reduce" in out
    data = DataConfig(length=8, batch_size=16, negatives=2)
    batches = pipeline.TrainBatches(stores.Store.open(small_store), data)
    assert batches.form.packed and [each[:2] for each in told] == [(batches.spans, batches.sequences_per_row)]


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
    found = estimate.plan(shared_by(4), CATALOGUE, where, epoch=costs.Epoch(1000))
    assert found["fits"] and found["device"] == "TPU v5 lite" and found["chips"] == 4
    step = found["step"]
    assert 0 < step["low"] < step["high"] < 0.1 and step["compiler_cycles"] > 0 and step["product_flop"] > 0
    assert {"matrix products", "links", "rows gathered and scattered"} <= set(step["parts"])
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
