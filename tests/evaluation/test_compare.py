"""Runs side by side: each with the figures that it has alone; and on which preparation of a log."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

from jaxneg import config as configs
from jaxneg.config import UserError
from jaxneg.data import engine, held_out, prepare, readers, stores
from jaxneg.data.prepare_config import PrepareConfig
from jaxneg.evaluation import eval_sets, report
from jaxneg.files import documents
from jaxneg.simulation import simulator
from jaxneg.training import loop, runs

pytestmark = pytest.mark.slow

OPTIONS = "--model.width 8 --model.layers 1 --train.epochs 1 --train.devices 1 --eval.bootstrap 20".split()
OTHERS = {
    "a": "--data.length 8",
    "inputs": "--data.length 8 --data.inputs play thumb_up",
    "reach and length": "--data.length 5 --data.reach user --eval.ks 5 --eval.pair-seed 3",
    "seen": "--data.length 8 --data.inputs skip --eval.exclude-seen --eval.batch-size 7",
}


@pytest.fixture(scope="module")
def trained_runs(small_store, tmp_path_factory):
    """Directories of runs by name, each trained for an epoch."""
    directory = tmp_path_factory.mktemp("compared")
    for name, options in OTHERS.items():
        words = ["--data.store", str(small_store), *OPTIONS, *options.split()]
        loop.train(configs.override(configs.Config(), words), directory / name)
    return directory


@pytest.fixture
def quiet(monkeypatch):
    monkeypatch.setattr(report.plots, "draw", lambda *_, **__: {})


def evaluated(directory, out, config=None, compare=()):
    shutil.copytree(directory, out, ignore=shutil.ignore_patterns("checkpoints"))
    return report.evaluate_run(runs.load(directory, config), out, report.Asked(compare=compare), measured={})


def test_a_run_that_is_compared_has_the_figures_that_it_has_alone(trained_runs, tmp_path, quiet):
    others = [name for name in OTHERS if name != "a"]
    values = evaluated(trained_runs / "a", tmp_path / "a", compare=[trained_runs / name for name in others])
    for name in others:
        alone, beside = evaluated(trained_runs / name, tmp_path / name), values["runs"][name]
        figures = set(alone) - {"notes", "runs", "baselines", "split", "input_coverage", "share_histogram"}
        figures -= {"last", "best_baseline", "later_training_share", "time_to_target"}
        assert len(figures) > 30 and {"pair_accuracy", "auc", "pairs", "probes", "bands"} <= figures
        assert {key: beside[key] for key in figures} == {key: alone[key] for key in figures}
        assert beside["measured_otherwise"]
    text = (tmp_path / "a" / "report.md").read_text()
    assert "Run inputs is measured with its own settings (data.inputs: () -> ('play', 'thumb_up'))" in text
    assert values["notes"] == []


def test_options_of_the_measuring_hold_for_all_runs(trained_runs, tmp_path, quiet):
    def asked(name):
        return configs.override(
            runs.read_config(trained_runs / name), ["--eval.ks", "3", "--eval.pair-seed", "9"]
        )

    values = evaluated(trained_runs / "a", tmp_path / "a", asked("a"), compare=[trained_runs / "seen"])
    alone = evaluated(trained_runs / "seen", tmp_path / "b", asked("seen"))
    for figure in ("hit_rate@3", "pair_accuracy", "auc", "random_accuracy", "gini@3"):
        assert values["runs"]["seen"][figure] == alone[figure]


def test_differences_are_over_the_examples_that_both_have(trained_runs, tmp_path, quiet):
    """By hand: both reports joined by session; a pair counts where both have the same one."""
    values = evaluated(
        trained_runs / "a",
        tmp_path / "a",
        compare=[trained_runs / "inputs", trained_runs / "reach and length"],
    )
    sides = {}
    for name in ("a", "inputs", "reach and length"):
        live = runs.load(trained_runs / name)
        examples = held_out.EvalBatches(live.store, live.config.data, live.config.eval, "test")
        found = eval_sets.EvalSet(live.store, live.config).measure(runs.catalogue_score(live))
        sides[name] = {
            int(s): (found.value_X["auc"][x], found.value_X["pair_accuracy"][x], tuple(found.pair_X2[x]))
            for x, s in enumerate(examples.session_X)
        }
    for name in ("inputs", "reach and length"):
        mine, theirs = sides["a"], sides[name]
        shared = sorted(set(mine) & set(theirs))
        auc = [mine[s][0] - theirs[s][0] for s in shared]
        pairs = [mine[s][1] - theirs[s][1] for s in shared if mine[s][2] == theirs[s][2]]
        one = values["runs"][name]
        np.testing.assert_allclose(one["difference_auc"], np.nanmean(auc), rtol=1e-12)
        np.testing.assert_allclose(one["difference_pair_accuracy"], np.nanmean(pairs), rtol=1e-12)
    assert len(sides["reach and length"]) >= len(sides["a"]) > 10


@pytest.fixture(scope="module")
def prepared_twice(tmp_path_factory):
    """Two stores of one log: one catalogue, other sessions."""
    directory = tmp_path_factory.mktemp("twice")
    config = simulator.SimulateConfig(users=60, items=80, sessions=300, stations=4, artists=10)
    simulator.write(simulator.simulate(config), directory / "log.parquet")
    for name, session in (("one", "given"), ("two", "user"), ("again", "given")):
        reader, con = readers.READERS["table"], engine.connect()
        events = reader.read(con, directory / "log.parquet", reader.Options(attributes=("artist",)))
        settings = PrepareConfig(session=session, split="time")
        prepare.prepare(events, directory / name, settings, con, reader="table", source=f"simulated {name}")
    return directory


def test_a_run_stays_with_the_preparation_that_it_was_trained_on(prepared_twice, tmp_path, quiet, capsys):
    one, two, again = (prepared_twice / name for name in ("one", "two", "again"))
    identity = [runs.preparation_id(stores.Store.open(path)) for path in (one, two, again)]
    assert identity[0] == identity[2] != identity[1]
    assert len({runs.catalogue_id(stores.Store.open(path)) for path in (one, two)}) == 1
    words = ["--data.store", str(one), "--data.length", "8", *OPTIONS]
    config = configs.override(configs.Config(), words)
    loop.train(config, tmp_path / "run")
    files = {path: path.read_bytes() for path in (tmp_path / "run").glob("*.json")}
    elsewhere = configs.override(config, ["--data.store", str(two), "--train.epochs", "2"])
    with pytest.raises(UserError, match="was trained on another preparation of the log than .*two now is"):
        loop.train(elsewhere, tmp_path / "run")
    assert files == {path: path.read_bytes() for path in (tmp_path / "run").glob("*.json")}
    # A copy that moved is the same store.
    moved = configs.override(config, ["--data.store", str(again)])
    assert loop.train(moved, tmp_path / "run")["steps"] > 0
    # Measuring elsewhere says so.
    said = evaluated(tmp_path / "run", tmp_path / "out", elsewhere)
    assert "another preparation of the log" in said["notes"][0]
    assert said["notes"][0] in (tmp_path / "out" / "report.md").read_text()
    assert "another preparation of the log" in capsys.readouterr().err
    assert evaluated(tmp_path / "run", tmp_path / "out2", config)["notes"] == []
    # Nor are runs of two preparations set beside each other.
    loop.train(configs.override(config, ["--data.store", str(two)]), tmp_path / "other")
    with pytest.raises(
        UserError, match="other is of another preparation of the log: compare runs of one store"
    ):
        evaluated(tmp_path / "run", tmp_path / "out3", compare=[tmp_path / "other"])
    # Of runs and stores from before there were checksums as much is known as they say.
    store = stores.Store.open(one)
    old = dataclasses.replace(store, metadata=dataclasses.replace(store.metadata, sums={}))
    before = runs.preparation_id(old)
    assert (
        before
        == runs.preparation_id(old)
        != runs.preparation_id(dataclasses.replace(old, path=two, metadata=old.metadata))
    )
    told = json.loads((tmp_path / "run" / "store.json").read_text())
    del told["preparation"], told[documents.SEAL]
    (tmp_path / "run" / "store.json").write_text(json.dumps(told))
    assert runs.preparation_of(tmp_path / "run") is None
    assert evaluated(tmp_path / "run", tmp_path / "out4", config)["notes"] == []


def test_what_stood_before_a_restart_neither_counts_nor_piles_up(small_store, tmp_path, monkeypatch):
    words = ["--data.store", str(small_store), "--data.length", "8", *OPTIONS, "--data.batch-size", "64"]

    def of(epochs):
        return configs.override(configs.Config(), [*words, "--train.epochs", str(epochs)])

    def held():
        return {int(path.name) for path in (directory / "checkpoints").iterdir()}

    directory = tmp_path / "run"
    first = loop.train(of(2), str(directory))
    each = first["steps_per_epoch"]
    assert runs.ended(directory) == documents.read(directory / "result.json", dict, "")
    with pytest.raises(
        UserError, match=r"--train.epochs 1 is fewer than the 2 epochs that .*run was trained for"
    ):
        loop.train(of(1), directory)
    assert runs.read_config(directory) == of(2) and runs.ended(directory) is not None
    # It is continued, and dies.
    monkeypatch.setattr(loop.Loop, "_validate", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        loop.train(of(4), directory)
    monkeypatch.undo()
    assert not (directory / "result.json").exists() and runs.ended(directory) is None
    with pytest.raises(UserError, match="has not ended: continue it with jaxneg train"):
        runs.load(directory)
    for epochs in (3, 5, 7):
        result = loop.train(of(epochs), directory)
        assert held() == {result["best_step"], (epochs - 1) * each, epochs * each}
    # As an earlier version left it: an old result beside later checkpoints, or beside more epochs to train.
    told = directory / "result.json"
    told.write_text(json.dumps(result | {"steps": 6 * each}))
    assert runs.ended(directory) is None
    told.write_text(json.dumps(result))
    (directory / "config.json").write_text(configs.to_json(of(9)))
    assert runs.ended(directory) is None
    (directory / "config.json").write_text(configs.to_json(of(7)))
    assert runs.ended(directory) == json.loads(json.dumps(result))
