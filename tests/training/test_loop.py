import dataclasses
import gzip
import json
import math
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from jaxneg import progress
from jaxneg.config import Config, DataConfig, EvalConfig, ModelConfig, OptimConfig, TrainConfig, UserError
from jaxneg.data import held_out, histories, pipeline, sequences, stores
from jaxneg.embeddings import layouts, sharding
from jaxneg.evaluation import eval_sets
from jaxneg.training import advice, checkpoint, chips, goodput, logs, loop, program, runs, validation
from tests import verbs

pytestmark = pytest.mark.slow

CONFIG = Config(
    data=DataConfig(length=8, batch_size=32, p_hard=0.5),
    model=ModelConfig(width=8, layers=1),
    optim=OptimConfig(learning_rate=0.01, warmup_steps=5),
    train=TrainConfig(epochs=3, patience=0, log_every=5, devices=2),
    eval=EvalConfig(batch_size=64),
)


def of(config, store, **parts):
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, store=str(store)))
    for part, values in parts.items():
        config = dataclasses.replace(config, **{part: dataclasses.replace(getattr(config, part), **values)})
    return config


def final_state(config, directory):
    """The latest checkpoint of a run, as numpy."""
    store = stores.Store.open(config.data.store)
    built = program.build(config, program.catalogue_of(store), sharding.make_mesh(1))
    checkpoints = checkpoint.Checkpointer(directory / "checkpoints")
    state, progress = checkpoints.restore(built.state)
    checkpoints.close()
    return jax.tree.map(np.asarray, state), progress


def assert_same_state(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)


CLOCKED = ("seconds", "_per_s", "waiting", "spent", "began", "away")  # in the names of what a clock says


def without_clock(lines):
    return [{k: v for k, v in line.items() if not any(part in k for part in CLOCKED)} for line in lines]


def test_a_run_leaves_what_it_should(small_store, tmp_path):
    config = of(CONFIG, small_store)
    result = loop.train(config, tmp_path / "run")
    assert runs.read_config(tmp_path / "run") == config
    assert result["steps"] == 3 * result["steps_per_epoch"] and result["stopped"] == "epochs done"
    assert [line["step"] for line in result["history"]] == [n * result["steps_per_epoch"] for n in range(4)]
    scores = [line["pair_accuracy"] for line in result["history"]]
    assert result["best_score"] == max(scores)
    assert result["best_step"] == scores.index(max(scores)) * result["steps_per_epoch"]
    assert result["last_score"] == scores[-1]
    assert result["epochs_to_convergence"] is None and result["not_converged"] == "it stopped at its limit"
    examples = held_out.EvalBatches(stores.Store.open(small_store), config.data, config.eval, "validation")
    counts = (int(examples.paired_X.sum()), examples.examples, examples.users)
    assert tuple(result[f"validation_{name}"] for name in ("pairs", "examples", "users")) == counts
    assert all(
        tuple(line[name] for name in ("pairs", "examples", "users")) == counts for line in result["history"]
    )
    assert 0 < result["device_seconds"] and 0 < result["compile_seconds"]
    assert result["device_seconds"] + result["compile_seconds"] < result["seconds"]
    assert sum(result["time_spent"].values()) == pytest.approx(result["wall_seconds"])
    # The end of the last checkpoint comes after the last word on seconds.
    counted = result["seconds"] + result["time_spent"][goodput.STARTING]
    assert result["wall_seconds"] == pytest.approx(counted, abs=2.0)
    assert 0 < result["goodput"] < 1
    assert abs(result["hard_share"] - 0.5) < 0.1  # below p_hard where a user has no negatives
    lines = logs.read(tmp_path / "run")
    losses = [line["loss"] for line in lines if "loss" in line]
    assert all(line["step_seconds"] > 0 and "device_memory" in line for line in lines if "loss" in line)
    trained = [line for line in lines if "loss" in line]
    taken = np.diff([0] + [line["step"] for line in trained])
    positions = sum(taken * [line["step_seconds"] * line["positions_per_s"] for line in trained])
    store = stores.Store.open(small_store)
    spans = sequences.train_spans(store, config.data, histories.Shown(store, config.data))
    assert positions == pytest.approx(3 * (spans.stop_W - spans.start_W - 1).sum())  # none of them padding
    assert losses[-1] < losses[0] and all(math.isfinite(loss) for loss in losses)
    assert {"jax", "devices", "command"} <= set(
        json.loads((tmp_path / "run" / "environment.json").read_text())
    )
    trained = runs.load(tmp_path / "run")
    assert int(trained.state.step) == result["best_step"]


def test_a_run_is_traced_and_says_its_share_of_the_peak(small_store, tmp_path, monkeypatch):
    monkeypatch.setitem(chips.PEAKS, "cpu", chips.Peak(1.0, 1.0))
    config = of(CONFIG, small_store, train={"epochs": 1, "devices": 1, "profile": "2:3"})
    said = []
    result = loop.train(config, tmp_path / "run", say=said.append)
    [trace] = (tmp_path / "run" / "profile").rglob("perfetto_trace.json.gz")
    found = json.loads(gzip.decompress(trace.read_bytes()))
    assert any("train_step" in event.get("name", "") for event in found["traceEvents"])
    assert sum("steps 3 to 5 in" in line for line in said) == 1
    lines = [line for line in logs.read(tmp_path / "run") if "loss" in line]
    flop = [line["mfu"] * line["step_seconds"] * 1e12 for line in lines]
    assert max(flop) == pytest.approx(min(flop))
    # Of each position, forward and twice that backward: 6 D^2 multiply-adds of the block's layers; the half square,
    # scores, norms and Adam come on top.
    batches = pipeline.of_config(config, stores.Store.open(small_store))
    products = 3 * batches.form.rows * batches.form.length * 2 * 6 * config.model.width**2
    assert products < flop[0] < 10 * products
    assert lines[-1]["step"] == result["steps"] and all(0 <= line["waiting"] <= 1 for line in lines)


def test_stopping_and_continuing_is_never_stopping(small_store, tmp_path):
    whole = of(CONFIG, small_store, train={"checkpoint_every": 7})
    loop.train(whole, tmp_path / "whole")
    for epochs in (1, 2, 3):
        loop.train(of(whole, small_store, train={"epochs": epochs}), tmp_path / "parts")
    state, progress = final_state(whole, tmp_path / "whole")
    other, other_progress = final_state(whole, tmp_path / "parts")
    assert_same_state(state, other)
    assert without_clock(progress["history"]) == without_clock(other_progress["history"])
    assert progress["hard"] == other_progress["hard"]
    lines, others = (without_clock(logs.read(tmp_path / name)) for name in ("whole", "parts"))
    assert [x for x in lines if "validation_auc" in x] == [x for x in others if "validation_auc" in x]


@pytest.mark.slow
def test_no_more_is_lost_than_steps_between_saves_and_those_during_one(small_store, tmp_path):
    """A save lasts longer than steps here, and the next one waits for it: training runs not ahead of the disk."""
    every, lost = 3, []
    config = of(CONFIG, small_store, train={"epochs": 1, "checkpoint_every": every, "devices": 1})

    def look(step):
        lost.append(step - checkpoint.latest(tmp_path / "checkpoints"))
        return False

    loop.train(config, tmp_path, stop=look)
    assert len(lost) == 21 and every < max(lost) <= 2 * every


def test_a_run_that_ended_before_its_first_checkpoint_begins_anew(small_store, tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("no room")

    config = of(CONFIG, small_store, train={"epochs": 1})
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.Checkpointer, "save", fail)
        with pytest.raises(OSError, match="no room"):
            loop.train(config, tmp_path)
    assert [line["step"] for line in logs.read(tmp_path)] == [0]  # a validation
    loop.train(config, tmp_path)
    at_start = [line for line in logs.read(tmp_path) if line["step"] == 0]
    assert len(at_start) == 1  # and no second one


def test_a_finished_run_is_left_as_it_is(small_store, tmp_path):
    config = of(CONFIG, small_store, train={"epochs": 1})
    first = loop.train(config, tmp_path / "run")
    before = final_state(config, tmp_path / "run")[0]
    assert loop.train(config, tmp_path / "run") == first
    assert_same_state(before, final_state(config, tmp_path / "run")[0])


def test_one_and_eight_devices_give_the_same_validation(small_store, tmp_path):
    results = [
        loop.train(of(CONFIG, small_store, train={"devices": devices}), tmp_path / str(devices))
        for devices in (1, 8)
    ]
    losses = [
        [line["loss"] for line in logs.read(tmp_path / str(devices)) if "loss" in line] for devices in (1, 8)
    ]
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4)  # float32 sums in another order over 3 epochs
    for a, b in zip(*(result["history"] for result in results), strict=True):
        assert abs(a["auc"] - b["auc"]) < 0.01


def test_patience_stops_early(small_store, tmp_path):
    # A rate too small to change the order of scores: the first validation stays the best.
    config = of(CONFIG, small_store, optim={"learning_rate": 1e-12}, train={"epochs": 50, "patience": 2})
    result = loop.train(config, tmp_path / "run")
    assert result["stopped"] == "patience ran out"
    # Step 0 is the first validation; the second and the third, both after warm-up, are no better.
    assert result["steps"] == 2 * result["steps_per_epoch"] and result["best_step"] == 0
    assert result["epochs_to_convergence"] is None
    assert result["not_converged"] == "no validation was above the first"
    assert int(runs.load(tmp_path / "run").state.step) == 0


def test_patience_counts_after_warm_up(small_store, tmp_path, capsys):
    config = of(
        CONFIG,
        small_store,
        optim={"learning_rate": 1e-12, "warmup_steps": 18},
        train={"epochs": 50, "patience": 2, "evaluate_every": 4},
    )
    result = loop.train(config, tmp_path / "run")
    assert result["steps"] == 24  # 20 is the first validation after warm-up
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("train warning: ")]
    assert any(
        "--optim.warmup-steps 18 is more than the 8 steps that --train.patience 2 allows" in x for x in said
    )
    assert any("fewer than 500: its figures are noisy" in line for line in said)


def test_the_command_warns_of_coarse_epochs_and_endless_warm_up():
    def warned(per_epoch, rejections=1, **changed):
        config = dataclasses.replace(
            CONFIG,
            data=dataclasses.replace(CONFIG.data, p_hard=changed.pop("p_hard", 0.5)),
            optim=dataclasses.replace(CONFIG.optim, warmup_steps=changed.pop("warmup", 5)),
            train=dataclasses.replace(CONFIG.train, **changed),
        )
        return advice.warnings(config, per_epoch, rejections)

    assert warned(20) == []
    [line] = warned(20, rejections=0)
    assert "nothing was rejected before the validation, so --data.p-hard 0.5 draws random negatives" in line
    assert warned(20, rejections=0, p_hard=0.0) == []
    [line] = advice.warnings(CONFIG, 20, 1, none_to_draw=True)
    assert (
        "no target has a rejection to draw by --data.hard-scope station and --data.hard-opinion all" in line
    )
    [line] = warned(19)
    assert "an epoch has 19 steps, fewer than 20" in line
    [line] = warned(30, epochs=2, warmup=60)
    assert "--optim.warmup-steps 60 is no less than all 60 steps" in line
    assert warned(30, epochs=9, warmup=60, patience=2) == []
    [line] = warned(30, epochs=9, warmup=61, patience=2)
    assert "more than the 60 steps" in line
    [line] = warned(30, epochs=9, warmup=61, patience=2, evaluate_every=10)
    assert "more than the 20 steps" in line
    assert warned(30, epochs=9, warmup=61, patience=0) == []  # never stops early


def test_a_person_is_told_what_is_trained_on_what_and_then_how_long_it_takes(small_store, tmp_path):
    said, seen = [], []

    def watch(done, total, figures=progress.NONE, /, *, stage=""):
        seen.append((done, stage, dict(figures)))

    config = of(CONFIG, small_store)
    result = loop.train(config, tmp_path / "run", watch, say=said.append)
    store, each = stores.Store.open(small_store), result["steps_per_epoch"]
    form = pipeline.of_config(config, store).form
    for line in (
        f"; mesh data {config.train.devices or jax.device_count()} x model 1",
        f"of the model and {8 * (store.items + 1) + store.items + 1:,} in item tables",
        f"{small_store}: {store.items:,} items, {store.users:,} users, {store.events:,} events",
        f" sequences on average, packed into {form.rows} rows of 8 positions",
        f"{each:,} an epoch, {3 * each:,} in all",
        str(tmp_path / "run"),
    ):
        assert any(line in one for one in said[:6]), (line, said)
    assert len(said) == 7 and " an epoch and " in said[-1]
    assert [done for done, stage, _ in seen if stage == "compiling"] == [0]
    [*_, (done, _, last)] = [one for one in seen if one[1] == progress.MILESTONE]
    scores = [line["pair_accuracy"] for line in result["history"]]
    assert done == 3 * each and last["epoch"] == 3.0
    assert last["pair accuracy"] == scores[-1] and last["best"] == max(scores)
    assert last["pairs"] == result["validation_pairs"]


MONITORS = [
    "auc",
    "user_pair_accuracy",
    "mrr_positive",
    "ndcg@5",
    "hit_rate@5",
    "next_hit_rate@10",
    "released_hit_rate@5",
]


@pytest.mark.parametrize(
    ("shards", "trained_by", "monitors"),
    # One of each way of scoring is enough where rows are shared.
    [(1, "ndcg@5", MONITORS), (2, "released_hit_rate@5", ["mrr_positive", "ndcg@5", "released_hit_rate@5"])],
)
def test_every_monitor_is_what_evaluate_finds_on_validation(
    small_store, tmp_path, shards, trained_by, monitors
):
    """The figure that decides is in the last line of a run; the others are of the same state."""
    config = of(
        CONFIG,
        small_store,
        train={"epochs": 1, "monitor": trained_by, "devices": shards, "shards": shards},
        optim={"rows": "adagrad"} if shards > 1 else {},
        eval={"ks": (5, 10), "released": 20, "released_batch": 10, "batch_size": 24, "bootstrap": 5},
    )
    result = loop.train(config, tmp_path / "run")
    trained = runs.load(tmp_path / "run", step=result["steps"])
    found = eval_sets.EvalSet(trained.store, config, "validation").measure(runs.catalogue_score(trained))
    line = result["history"][-1]
    for name in ("pair_accuracy", "auc", trained_by):
        assert line[name] == pytest.approx(found.figures[name], abs=1e-6), name
    left = runs.load(tmp_path / "run", step=result["steps"], shared=True)  # where they were trained
    mesh = sharding.make_mesh(shards, shards)
    built = program.build(config, program.catalogue_of(left.store), mesh)
    attribute_VA = sharding.put(built.layout.by_row(np.asarray(left.store.attribute_VA)), mesh, "VA")
    for monitor in monitors:
        other = of(config, small_store, train={"monitor": monitor})
        figures = validation.Validation(other, left.store, built)(left.state, attribute_VA)
        assert figures[monitor] == pytest.approx(found.figures[monitor], abs=1e-6), monitor


@pytest.mark.parametrize("monitor", ["auc", "next_hit_rate@5", "released_hit_rate@5"])
def test_a_validation_that_cuts_contexts_finds_what_one_of_whole_rows_does(small_store, monkeypatch, monitor):
    """Contexts that end where their events do, of one length together, against all of them as long as the longest."""
    config = of(
        CONFIG,
        small_store,
        data={"length": 12},
        train={"monitor": monitor},
        eval={"ks": (5,), "released": 20, "released_batch": 10, "batch_size": 24, "exclude_seen": True},
    )
    store = stores.Store.open(small_store)
    built = program.build(config, program.catalogue_of(store), sharding.make_mesh(1))
    state, attribute_VA = (
        built.init(),
        sharding.put(np.asarray(store.attribute_VA), sharding.make_mesh(1), "VA"),
    )
    whole, cut = (validation.Validation(config, store, built) for _ in range(2))
    whole._lengths = [12]
    monkeypatch.setattr(validation.catalogue, "PROGRAM", 1)
    shapes, score = set(), cut._score
    monkeypatch.setattr(
        cut, "_score", lambda weights, batch: shapes.add(batch.item_BL.shape[1]) or score(weights, batch)
    )
    found = cut(state, attribute_VA)
    assert found == pytest.approx(whole(state, attribute_VA), abs=1e-9) and monitor in found
    assert len(shapes) > 1 and max(shapes) == 12


@pytest.mark.parametrize(
    ("monitor", "ks", "said"),
    [
        (
            "ndcg@20",
            (10, 100),
            "--train.monitor ndcg@20 is not measured with --eval.ks 10 100: add 20 to --eval.ks",
        ),
        ("hit_rate@1", (5,), "add 1 to --eval.ks, or choose among pair_accuracy, .*hit_rate@5"),
        ("released_hit_rate@10", (10,), "give --eval.released 1000"),
    ],
)
def test_a_monitor_that_is_not_measured_is_refused_before_anything_is_made(
    small_store, tmp_path, monitor, ks, said
):
    config = of(CONFIG, small_store, train={"monitor": monitor}, eval={"ks": ks})
    with pytest.raises(UserError, match=said):
        loop.train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_first_of_equally_good_checkpoints_is_kept(small_store, tmp_path):
    config = of(CONFIG, small_store, optim={"learning_rate": 1e-12}, train={"epochs": 6})
    result = loop.train(config, tmp_path / "run")
    assert len({line["pair_accuracy"] for line in result["history"]}) == 1
    assert int(runs.load(tmp_path / "run").state.step) == result["best_step"] == 0


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_checkpoints(small_store, tmp_path):
    good = of(CONFIG, small_store, train={"epochs": 1})
    loop.train(good, tmp_path / "run")
    before = final_state(good, tmp_path / "run")[0]
    # The same experiment, whose checkpoint went bad: its loss is NaN from the next step on.
    config = of(good, small_store, optim={"learning_rate": 1e30, "clip": 0.0, "warmup_steps": 0})
    with pytest.raises(UserError, match=r"the loss is not finite at step \d+: lower --optim.learning-rate"):
        loop.train(config, tmp_path / "wild")
    assert not (tmp_path / "wild" / "result.json").exists()
    assert_same_state(before, final_state(good, tmp_path / "run")[0])


def test_a_directory_of_another_experiment_is_refused(small_store, tmp_path):
    loop.train(of(CONFIG, small_store, train={"epochs": 1}), tmp_path / "run")
    with pytest.raises(UserError, match="model.width: 8 -> 16"):
        loop.train(of(CONFIG, small_store, model={"width": 16}), tmp_path / "run")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    with pytest.raises(UserError, match="exists and is no run directory"):
        loop.train(of(CONFIG, small_store), tmp_path / "mine")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.tex"]


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="one core")
def test_a_cpu_has_the_devices_that_are_asked_for(worked, tmp_path):
    """In a process of its own, before anything has asked JAX what there is."""
    here = verbs.copy(worked, tmp_path / "here")
    done = verbs.run("train config.py --workdir two --train.epochs 1 --train.devices 2", here)
    assert done.returncode == 0, done.stderr
    assert len(json.loads((here / "two" / "environment.json").read_text())["devices"]) == 2
    beyond = 1 + os.cpu_count()
    done = verbs.run(f"train config.py --workdir many --train.devices {beyond}", here)
    assert done.returncode == 2 and not (here / "many").exists()
    said = f"--train.devices {beyond}, but JAX finds 1 (cpu): a CPU has at most one a core, here {beyond - 1}"
    assert said in done.stderr.decode()


def test_more_devices_than_there_are_is_refused(small_store, tmp_path):
    with pytest.raises(UserError, match="--train.devices 9, but JAX finds 8"):
        loop.train(of(CONFIG, small_store, train={"devices": 9}), tmp_path / "run")
    with pytest.raises(UserError, match="multiple of the 8 devices"):
        loop.train(of(CONFIG, small_store, data={"batch_size": 12}, train={"devices": 0}), tmp_path / "run")


@pytest.mark.parametrize(
    "kills", [1, pytest.param(int(os.environ.get("JAXNEG_KILLS", "3")), marks=pytest.mark.system)]
)
def test_kill_and_continue_is_bit_for_bit_the_same(small_store, tmp_path, kills):
    """kill -9 at random moments of the command, then once more to the end."""
    # Long enough to outlast the kills; a checkpoint every third step, so that many fall into a save.
    training = {"epochs": 4 if kills == 1 else 6 * kills, "checkpoint_every": 3, "log_every": 2, "devices": 1}
    config = of(CONFIG, small_store, train=training)
    options = [
        f"--{part}.{name.replace('_', '-')}={value}"
        for part, values in dataclasses.asdict(config).items()
        for name, value in values.items()
        if value != getattr(getattr(Config(), part), name)
    ]
    path = tmp_path / "config.py"
    path.write_text("from jaxneg.config import Config\n\n\ndef get_config():\n    return Config()\n")

    def command(workdir):
        return [sys.executable, "-m", "jaxneg", "train", str(path), *options, "--workdir", str(workdir)]

    loop.train(config, tmp_path / "whole")
    rng = random.Random(0)
    began = time.time()
    for number in range(kills):
        process = subprocess.Popen(command(tmp_path / "killed"), stderr=subprocess.DEVNULL)
        if kills == 1 or number % 4:  # else while it starts, restores or compiles
            before = time.time()
            while (
                not _written_since(tmp_path / "killed" / "metrics.jsonl", before) and process.poll() is None
            ):
                time.sleep(0.01)
        time.sleep(rng.uniform(0.0, 0.5 if kills == 1 else 2.0))
        assert process.poll() is None, "it ended before it was killed: train for more epochs"
        process.send_signal(signal.SIGKILL)
        process.wait()
    # Its last line may by now be of a validation.
    assert (tmp_path / "killed" / "metrics.jsonl").stat().st_mtime > began
    loop.train(config, tmp_path / "killed")
    assert_same_state(final_state(config, tmp_path / "whole")[0], final_state(config, tmp_path / "killed")[0])
    whole, again = (without_clock(logs.read(tmp_path / name)) for name in ("whole", "killed"))
    assert [line for line in whole if "validation_auc" in line] == [
        line for line in again if "validation_auc" in line
    ]
    assert not list(pathlib.Path(tmp_path / "killed" / "checkpoints").glob("*tmp*"))


def _written_since(path, moment):
    """Whether a line of training was appended, not only the file rewound."""
    return (
        path.exists()
        and path.stat().st_mtime > moment
        and any("loss" in line for line in logs.read(path.parent)[-1:])
    )


@pytest.mark.parametrize(
    "shapes",
    # embeddings/test_tables.py has rows, updates and ranks on every mesh.
    [[(1, 1), (4, 2)], pytest.param([(1, 1), (8, 1), (8, 2), (8, 4), (8, 8)], marks=pytest.mark.system)],
)
def test_any_mesh_gives_the_same_losses_and_the_same_report(small_store, tmp_path, shapes):
    """50 steps with row-wise Adagrad, then the test report with tables left where they were trained.

    Shapes are devices, and how many of them share the rows.
    """
    losses, figures = [], []
    for devices, shards in shapes:
        config = of(
            CONFIG,
            small_store,
            data={"batch_size": 16, "shared_negatives": 8},
            optim={"rows": "adagrad", "row_learning_rate": 0.1},
            train={"epochs": 3, "devices": devices, "shards": shards, "log_every": 1, "monitor": "ndcg@10"},
            eval={"ks": (5, 10), "released": 20},
        )
        directory = tmp_path / f"{devices}-{shards}"
        loop.train(config, directory)
        losses.append([line["loss"] for line in logs.read(directory) if "loss" in line][:50])
        trained = runs.load(directory, shared=True)
        assert isinstance(trained.layout, layouts.Sharded if shards > 1 else layouts.Whole)
        found = eval_sets.EvalSet(trained.store, config, "test").measure(runs.catalogue_score(trained))
        figures.append(found.to_dict())
    assert len(losses[0]) == 50
    for other_losses, other in zip(losses[1:], figures[1:], strict=True):
        np.testing.assert_allclose(other_losses, losses[0], rtol=1e-4)  # float32 sums in another order
        assert other["examples"] == figures[0]["examples"] and other["pairs"] == figures[0]["pairs"]
        for name, value in figures[0].items():
            if isinstance(value, float):  # one pair or rank in a few hundred may fall the other way
                assert other[name] == pytest.approx(value, rel=0.02, abs=0.005), name


def test_a_scope_that_leaves_no_hard_negative_is_said_before_the_first_step(
    small_store, tmp_path, monkeypatch, capsys
):
    config = of(CONFIG, small_store, data={"hard_scope": "session", "hard_opinion": "latest"})
    monkeypatch.setattr("jaxneg.data.expected.hard_also_liked", lambda *_: float("nan"))
    with pytest.raises(ZeroDivisionError):
        loop.train(config, tmp_path / "run", stop=lambda _: 1 // 0)
    said = capsys.readouterr().err
    assert (
        "no target has a rejection to draw by --data.hard-scope session and --data.hard-opinion latest"
        in said
    )
    with pytest.raises(ZeroDivisionError):
        loop.train(of(config, small_store, data={"p_hard": 0.0}), tmp_path / "other", stop=lambda _: 1 // 0)
    assert "no target has a rejection" not in capsys.readouterr().err
