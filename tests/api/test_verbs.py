"""From a frame to recommendations in Python, with the refusals of the command line."""

import dataclasses
import os
import pathlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import jaxneg
from jaxneg import cli
from jaxneg.data import stores
from jaxneg.simulation import simulator

NAMES = {"user": "listener", "item": "track", "time": "at", "feedback": "reaction"}


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    """A simulated log with columns of its owner's naming, as an arrow table."""
    path = tmp_path_factory.mktemp("log") / "log.parquet"
    config = simulator.SimulateConfig(users=60, items=80, sessions=300, stations=4, artists=10)
    simulator.write(simulator.simulate(config), path)
    table = pq.read_table(path)
    back = {theirs: ours for ours, theirs in NAMES.items()}
    return table.rename_columns([next((b for b, o in back.items() if o == n), n) for n in table.column_names])


def config(store="", **train):
    return jaxneg.Config(
        data=jaxneg.DataConfig(store=store, length=8, batch_size=32),
        model=jaxneg.ModelConfig(width=8, layers=1),
        train=jaxneg.TrainConfig(**{"epochs": 2, "devices": 1} | train),
        eval=jaxneg.EvalConfig(batch_size=64, bootstrap=50, ks=(5, 10)),
    )


@pytest.fixture(scope="module")
def store(log, tmp_path_factory):
    out = tmp_path_factory.mktemp("stores") / "store"
    return jaxneg.prepare(log, out, **NAMES, session="given", attributes=["artist"], progress=False)


@pytest.fixture(scope="module")
def run(store, tmp_path_factory):
    return jaxneg.train(config(), str(tmp_path_factory.mktemp("runs") / "run"), store=store, progress=False)


def sums(path):
    return stores.Store.open(path).metadata.sums


def frames(log):
    class Stream:
        def __arrow_c_stream__(self, requested_schema=None):
            return log.__arrow_c_stream__(requested_schema)

    class Interchange:
        def __dataframe__(self, nan_as_null=False, allow_copy=True):
            return log.__dataframe__(nan_as_null, allow_copy)

    pandas = log.to_pandas()
    shuffled = pandas.assign(extra=1)[lambda frame: frame.extra == 1].drop(columns="extra")
    return {
        "reader": log.to_reader(),
        "pandas": pandas,
        "filtered": shuffled,
        "stream": Stream(),
        "interchange": Interchange(),
    }


@pytest.mark.slow
def test_every_kind_of_frame_and_its_file_make_one_store(log, store, tmp_path):
    pq.write_table(log, tmp_path / "log.parquet")
    sources = frames(log) | {"path": tmp_path / "log.parquet", "string": str(tmp_path / "log.parquet")}
    for name, source in sources.items():
        out = tmp_path / name
        made = jaxneg.prepare(source, out, **NAMES, session="given", attributes=("artist",), progress=False)
        assert sums(out) == sums(store), name
        assert made == dataclasses.replace(store, path=out)
    cli.main(
        [
            "prepare",
            "table",
            str(tmp_path / "log.parquet"),
            "--out",
            str(tmp_path / "cli"),
            "--session",
            "given",
            "--attributes",
            "artist",
            *(word for name in NAMES for word in (f"--{name}", NAMES[name])),
        ]
    )
    assert sums(tmp_path / "cli") == sums(store)


def test_other_readers_take_a_source(tmp_path):
    source = tmp_path / "ratings.csv"
    rows = [
        f"{user},{(5 * user + at) % 12},{1 + 4 * (at % 2)},{9 * 10**8 + at}"
        for user in range(9)
        for at in range(12)
    ]
    source.write_text("\n".join(["userId,movieId,rating,timestamp", *rows, ""]))
    made = jaxneg.prepare(str(source), tmp_path / "store", reader="movielens", progress=False)
    assert made.figures["events"] == stores.Store.open(made).events
    with pytest.raises(jaxneg.UserError, match="reads files"):
        jaxneg.prepare(pa.table({"a": [1]}), tmp_path / "no", reader="movielens")


def test_a_store_shows_itself(store):
    assert str(store.path) in repr(store) and "thumb" in repr(store) and "<table>" in store._repr_html_()
    assert store.items().column_names == ["item", "count", "artist"]
    assert store.items().num_rows == store.figures["items"]
    with pytest.raises(dataclasses.FrozenInstanceError):
        store.path = pathlib.Path("other")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"feedback": "liking"}, "the frame: column liking is missing|the frame.*liking"),
        ({"usr": "track"}, "has no option usr; perhaps you meant user"),
        ({"reader": "tabel"}, "no reader 'tabel'"),
        ({"min_item_count": 0}, "--min-item-count must be at least 1, got 0"),
        ({"session": "gapp"}, "--session must be one of .*perhaps you meant gap"),
        ({"out": "hdfs://bucket/store"}, "only paths of file systems"),
        ({"time": "reaction"}, "reaction"),
    ],
)
def test_refusals_name_what_to_mend_and_leave_nothing(log, tmp_path, change, said):
    with pytest.raises(jaxneg.UserError, match=said) as caught:
        jaxneg.prepare(log, **{"out": tmp_path / "store", "progress": False} | NAMES | change)
    assert "\n" not in str(caught.value) and "/tmp/jaxneg" not in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("log_", [None, 3, {"user": [1]}, [1, 2], "nowhere.csv"])
def test_what_is_no_log_is_refused(log_, tmp_path):
    with pytest.raises(jaxneg.UserError, match="log must be|no such file"):
        jaxneg.prepare(log_, tmp_path / "store")


@pytest.mark.parametrize(
    "frame",
    [
        lambda log: log.to_pandas().assign(odd=[object()] * log.num_rows),
        lambda log: log.rename_columns(["x", *log.column_names[1:-1], "x"]),
    ],
)
def test_a_frame_that_cannot_be_written_is_refused(log, frame, tmp_path):
    with pytest.raises(jaxneg.UserError, match="the frame"):
        jaxneg.prepare(frame(log), tmp_path / "store", **NAMES)


def test_a_run_knows_its_figures_and_history(run, store):
    assert run.config.data.store == os.fspath(store)
    lines = run.history
    assert [line["step"] for line in lines] == sorted(line["step"] for line in lines)
    best = max(line["validation_pair_accuracy"] for line in lines if "validation_pair_accuracy" in line)
    assert run.figures["pair_accuracy"] == run.result["best_score"] == best
    assert "pair accuracy" in repr(run) and "<table>" in run._repr_html_()
    assert jaxneg.open_run(str(run.path)) == run


@pytest.mark.slow
def test_embeddings_are_those_of_the_export(run, store, tmp_path):
    found = run.item_embeddings()
    exported = jaxneg.export(run, tmp_path / "export")
    rows = np.load(exported.path / "item_embeddings.npy")
    assert list(found.ids) == store.items()["item"].to_pylist() and len(found) == len(rows) - 1
    np.testing.assert_allclose(np.c_[found.rows, found.biases], rows[1:], rtol=1e-6)
    assert (found[found.ids[3]] == found.rows[3]).all()
    history = [found.ids[0], jaxneg.Event(found.ids[5], "skip")]
    best = exported.recommend(history, 5)
    assert (
        best
        == run.recommend(history, 5)
        == jaxneg.Scorer.open(exported.path).recommend([jaxneg.Event(found.ids[0]), history[1]], 5)
    )
    assert exported.figures == {"pair_accuracy": run.result["best_score"]} and "items" in repr(exported)
    with pytest.raises(jaxneg.UserError, match="--formats onx: there are stablehlo, onnx"):
        jaxneg.export(run, tmp_path / "other", formats=["onx"])
    with pytest.raises(jaxneg.UserError, match="--dtype int4: there are float32, bfloat16, int8"):
        jaxneg.export(run, tmp_path / "other", dtype="int4")
    with pytest.raises(jaxneg.UserError, match="a history is a list"):
        run.recommend(found.ids[0])
    with pytest.raises(jaxneg.UserError, match="exists"):
        jaxneg.export(str(run.path), str(tmp_path / "export"))


@pytest.mark.slow
def test_a_report_shows_the_model_beside_baselines(run):
    report = jaxneg.evaluate(run, split="validation", ks=(5,), progress=False)
    assert report.figures["pair_accuracy"] is not None and "ndcg@5" in report.figures
    assert report.baselines and set(report.baselines["popularity"]) >= {"pair_accuracy", "auc"}
    for text in (repr(report), report._repr_html_()):
        assert "model" in text and "popularity" in text and "NDCG@5" in text


def test_time_to_target_is_that_of_directories(tmp_path):
    """Best .6 at epoch 4, first .6 at epoch 1: by hand."""
    from tests.training import test_records

    hard = [test_records.make(tmp_path / f"h{s}", [0.5, 0.62, 0.7], seed=s) for s in range(2)]
    random = [
        test_records.make(tmp_path / f"r{s}", [0.5, 0.52, 0.55, 0.58, 0.6], p_hard=0.0, seed=s)
        for s in range(2)
    ]
    found = jaxneg.time_to_target(hard, random)
    assert found.reached and found.ratio["epochs"] == pytest.approx(0.25) and found.ratio["seconds"] is None
    assert "75% fewer epochs" in repr(found) and "data.p_hard: 0 -> 0.5" in repr(found)
    assert found._repr_html_().count("<tr>") == 2
    back = jaxneg.time_to_target(random[0], hard[0])
    assert not back.reached and back.ratio == {} and "never has" in repr(back)
    with pytest.raises(jaxneg.UserError, match="differ by more than their seeds .data.p_hard: 0.5 -> 0"):
        jaxneg.time_to_target([hard[0], random[1]], random)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda run, tmp: jaxneg.open_run(tmp), "is no run directory"),
        (lambda run, tmp: jaxneg.evaluate(run, split="tset"), "split must be one of"),
        (lambda run, tmp: jaxneg.evaluate(run, kss=(5,)), "kss is no field; perhaps it meant ks"),
        (lambda run, tmp: jaxneg.evaluate(run, ks=(0,)), "--eval.ks must be at least 1"),
        (lambda run, tmp: jaxneg.train(config("nowhere"), tmp / "run"), "no store at nowhere"),
        (lambda run, tmp: jaxneg.train(config(epochs=-1), tmp / "run"), "--train.epochs must be at least 1"),
        (lambda run, tmp: jaxneg.train(tmp / "config.py", tmp / "run"), "no config file"),
        (
            lambda run, tmp: jaxneg.train(config(run.config.data.store, seed=5), run.path),
            "holds another experiment",
        ),
    ],
)
def test_mistakes_are_user_errors_of_one_line(run, tmp_path, call, said):
    with pytest.raises(jaxneg.UserError, match=said) as caught:
        call(run, tmp_path)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()
