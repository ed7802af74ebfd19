"""Every format that an export can have, beside the model itself and beside plain numpy."""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from jaxneg import cli, config as configs
from jaxneg.data import stores
from jaxneg.embeddings import sharding
from jaxneg.errors import UserError
from jaxneg.files import arrays, documents
from jaxneg.serve import checking, contexts, export, manifest as manifests, precision, scorer
from jaxneg.training import program, runs
from tests.marks import rest_system

FIXTURES = pathlib.Path(__file__).parents[1] / "fixtures" / "exports"
CLOSE = 1e-5  # float32 sums taken in another order
ENCODERS = {
    "gru4rec": ["--like.weight", "1", "--like.rows", "folded"],
    "sasrec": ["--model.layers", "2", "--model.heads", "2"],
    "bert4rec": ["--data.mask", "0.3", "--model.head", "gelu"],
    "caser": ["--model.item-bias", "none"],
    "ligr": ["--data.inputs", "play", "skip", "--model.no-tied", "--model.output-attributes"],
}


@pytest.fixture(scope="module")
def untrained(small_store):
    """encoder -> a run of it that was never trained."""

    def of(encoder, *more):
        options = [
            "--data.length",
            "6",
            "--model.width",
            "8",
            "--model.layers",
            "1",
            "--model.row-scale",
            "1",
        ]
        options += ["--data.store", str(small_store), "--model.encoder", encoder, *ENCODERS[encoder], *more]
        config, store = configs.override(configs.Config(), options), stores.Store.open(small_store)
        built = program.build(config, program.catalogue_of(store), sharding.make_mesh(1))
        result = {"best_step": 0, "monitor": "auc", "best_score": 0.5}
        return runs.Trained(config, store, built.model, built.init(), result, built.layout)

    return of


def histories(store, length, count=130):
    sizes = store.items, store.metadata.counts["stations"]
    return contexts.drawn(np.random.default_rng(3), count, length, sizes)


def asked(directory, name, history, **more):
    from jaxneg.serve import onnx_models

    told = {"item": history.item_XL, "feedback": history.feedback_XL, "station": history.station_XL}
    return onnx_models.call(onnx_models.session(directory / name), told | more)


@pytest.mark.parametrize("encoder", rest_system(ENCODERS, {"gru4rec", "sasrec"}))
def test_onnx_answers_as_the_model_does(encoder, untrained, tmp_path):
    """Histories of every length and kind, one at a time, and many."""
    pytest.importorskip("onnxruntime")
    trained, out = untrained(encoder), tmp_path / "out"
    export.export(trained, out, export.Wanted(("onnx",)))
    history = histories(trained.store, 6)
    query_XE, item_VE = export.live(trained, history)
    score_XV = query_XE @ item_VE.T
    assert np.ptp(score_XV[:, 1:], axis=1).min() > 1e-3  # a model that tells items apart
    (found_XE,) = asked(out, "query.onnx", history)
    np.testing.assert_allclose(found_XE, query_XE, rtol=CLOSE, atol=CLOSE)
    for x in (0, 5, 6):
        one = contexts.Contexts(*(leaf[x : x + 1] for leaf in history[:3]), "random")
        np.testing.assert_allclose(
            asked(out, "query.onnx", one)[0], query_XE[x : x + 1], rtol=CLOSE, atol=CLOSE
        )
    row_XC = np.random.default_rng(4).integers(1, len(item_VE), (130, 5)).astype(np.int32)
    score_XC, *_ = asked(out, "scores.onnx", history, candidates=row_XC)
    np.testing.assert_allclose(score_XC, np.take_along_axis(score_XV, row_XC, 1), rtol=CLOSE, atol=CLOSE)
    beta = {"beta": np.zeros((130, 1), np.float32)} if encoder == "gru4rec" else {}
    row_Xk, best_Xk = asked(out, "top_k.onnx", history, k=np.full((130, 1), 7, np.int32), **beta)
    np.testing.assert_allclose(best_Xk, -np.sort(-score_XV[:, 1:], axis=1)[:, :7], rtol=CLOSE, atol=CLOSE)
    np.testing.assert_allclose(np.take_along_axis(score_XV, row_Xk, 1), best_Xk, rtol=CLOSE, atol=CLOSE)


@pytest.mark.skipif(sys.platform != "linux", reason="threads are counted in /proc")
def test_onnxruntime_starts_no_thread_that_reports_its_use():
    pytest.importorskip("onnxruntime")
    quiet = {"CI", "ORT_DISABLE_TELEMETRY", "ORT_RUNNING_UNIT_TESTS"}  # any of which keeps it from reporting
    environment = {name: value for name, value in os.environ.items() if name not in quiet}
    script = """if True:
        import os
        import jaxneg.serve.manifest
        before = os.listdir("/proc/self/task")
        import jaxneg.serve.onnx_models
        print(len(os.listdir("/proc/self/task")) - len(before))
    """
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=environment | {"OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "0\n"


def test_a_model_that_onnx_has_no_word_for_is_refused_in_one_line(untrained, tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    trained = untrained("caser")
    from jaxneg.training import scoring

    def sorted_hidden(model, weights, seen):
        return jnp.sort(weights.tables["item_VD"][seen.item_BL[:, 0]], axis=1)

    monkeypatch.setattr(scoring, "last_hidden", sorted_hidden)
    with pytest.raises(
        UserError, match="^no ONNX for sort, which this model does: export without onnx in --formats$"
    ):
        export.export(trained, tmp_path / "out", export.Wanted(("onnx",)))
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def everything(run, trained, tmp_path_factory):
    """An export with two heads in all formats, its rows int8."""
    pytest.importorskip("onnxruntime")
    pytest.importorskip("faiss")
    out = tmp_path_factory.mktemp("formats") / "out"
    wanted = export.Wanted(manifests.FORMATS, "int8", run=run("with a like head"))
    export.export(trained("with a like head"), out, wanted)
    return out


@pytest.mark.slow
def test_a_check_opens_and_asks_every_file(everything):
    found = list(checking.check(everything))
    assert all(one.holds for one in found), found
    names = {one.name for one in found}
    assert {"model.stablehlo", *manifests.ONNX, "index.faiss", "triton/query", "items.parquet"} <= names


@pytest.mark.slow
def test_a_check_names_what_differs(everything, tmp_path):
    def seen(change):
        copy = tmp_path / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(everything, copy)
        change(copy)
        return [one.name for one in checking.check(copy) if not one.holds]

    def one_byte(copy):
        found = bytearray((copy / "query.onnx").read_bytes())
        found[len(found) // 2] ^= 1
        (copy / "query.onnx").write_bytes(found)

    def other_scales(copy):
        """Whose checksums are in order."""
        scale_V2 = np.load(copy / "item_scales.npy")
        scale_V2[:, 0] *= np.linspace(1.0, 9.0, len(scale_V2))
        np.save(copy / "item_scales.npy", scale_V2)
        for other in copy.glob("triton/*/1/item_scales.npy"):
            shutil.copyfile(copy / "item_scales.npy", other)
        told = json.loads((copy / "manifest.json").read_text())
        told["files"]["item_scales.npy"] = arrays.sha256(copy / "item_scales.npy")
        del told["sha256"]
        (copy / "manifest.json").write_text(json.dumps(documents.sealed(told)))

    def other_repository(copy):
        path = copy / "triton" / "scores" / "1" / "item_scales.npy"
        path.write_bytes(path.read_bytes()[:-1] + b"x")

    assert seen(lambda copy: None) == []
    assert seen(one_byte) == ["query.onnx"]
    assert seen(lambda copy: (copy / "item_scales.npy").unlink()) == ["item_scales.npy"]
    assert "item_embeddings.npy" in seen(other_scales)
    assert seen(other_repository) == ["triton/scores"]


@pytest.mark.slow
def test_both_heads_and_their_sum_in_onnx(everything):
    model = scorer.Scorer.open(everything)
    history = contexts.drawn(np.random.default_rng(5), 18, 8, (80, 4))
    query_XE = model.query(*history[:3])
    item_VE, like_VE = (
        manifests.matrix(everything, model.manifest, name) for name in (manifests.EMBEDDINGS, manifests.LIKES)
    )
    row_XC = np.tile(np.arange(1, 81, dtype=np.int32), (18, 1))
    score_XC, like_XC = asked(everything, "scores.onnx", history, candidates=row_XC)
    np.testing.assert_allclose(score_XC, query_XE @ item_VE[1:].T, rtol=CLOSE, atol=CLOSE)
    np.testing.assert_allclose(like_XC, query_XE @ like_VE[1:].T, rtol=CLOSE, atol=CLOSE)
    beta_X1 = np.linspace(0, 3, 18, dtype=np.float32)[:, None]  # each listener may have a weight of their own
    row_Xk, best_Xk = asked(
        everything, "top_k.onnx", history, k=np.arange(1, 19, dtype=np.int32)[:, None], beta=beta_X1
    )
    exact_XI = query_XE @ item_VE[1:].T + beta_X1 * (query_XE @ like_VE[1:].T)
    np.testing.assert_allclose(best_Xk, -np.sort(-exact_XI, axis=1)[:, :18], rtol=CLOSE, atol=CLOSE)
    assert row_Xk.min() > 0


@pytest.mark.slow
def test_the_repository_of_triton_says_what_the_graphs_take(everything):
    from jaxneg.serve import onnx_models

    for name in ("query", "scores", "top_k"):
        text = (everything / "triton" / name / "config.pbtxt").read_text()
        assert re.search(rf'^name: "{name}"$', text, re.MULTILINE) and "max_batch_size: 256" in text
        told = {
            kind: [
                (found[0], found[1], [int(dim) for dim in found[2].split(",")])
                for found in re.findall(r'name: "(\w+)" data_type: (\w+) dims: \[ ([-\d, ]+) \]', block)
            ]
            for kind, block in re.findall(r"^(input|output) \[(.*?)^\]", text, re.MULTILINE | re.DOTALL)
        }
        graph = onnx_models.session(everything / "triton" / name / "1" / "model.onnx")
        for kind, tensors in (("input", graph.get_inputs()), ("output", graph.get_outputs())):
            types = {"tensor(int32)": "TYPE_INT32", "tensor(float)": "TYPE_FP32"}
            assert all(isinstance(tensor.shape[0], str) for tensor in tensors)
            assert told[kind] == [
                (one.name, types[one.type], [dim if isinstance(dim, int) else -1 for dim in one.shape[1:]])
                for one in tensors
            ]
    yaml = pytest.importorskip("yaml")
    service = yaml.safe_load((everything / "kserve" / "inference-service.yaml").read_text())
    assert service["apiVersion"] == "serving.kserve.io/v1beta1" and service["kind"] == "InferenceService"
    model = service["spec"]["predictor"]["model"]
    assert model["modelFormat"] == {"name": "triton"} and model["protocolVersion"] == "v2"
    assert model["storageUri"].endswith("/triton")


@pytest.mark.slow
def test_smaller_rows_are_served_and_what_they_lose_is_said(everything, trained):
    told = json.loads((everything / "manifest.json").read_text())
    model, item_VE = (
        scorer.Scorer.open(everything),
        export.live(trained("with a like head"), histories_of(8))[1],
    )
    history = histories_of(8)
    query_XE = model.query(*history[:3])
    exact_XI, found_XI = query_XE @ item_VE[1:].T, model.scores(*history[:3])[:, 1:]
    assert 0 < np.abs(found_XI - exact_XI).max() < 0.05 * np.ptp(exact_XI)
    assert told["ranking"]["k"] == told["index"]["k"] == 8  # a tenth of 80 items
    best, kept = (np.argsort(-score_XI, axis=1)[:, :8] for score_XI in (exact_XI, found_XI))
    shares = [len({*a} & {*b}) / 8 for a, b in zip(best.tolist(), kept.tolist(), strict=True)]
    assert told["ranking"]["recall"] == pytest.approx(np.mean(shares), abs=0.05)
    assert told["dtype"] == "int8" and told["index"]["recall"] >= 0.98
    assert (everything / "README.md").read_text().count("of the best 8 ") == 2


def histories_of(length):
    return contexts.drawn(np.random.default_rng(6), 27, length, (80, 4))


def test_int8_and_bfloat16_are_rounded_to_the_nearest():
    item_VE = np.float32([[0, 0, -1e18], [1.0, -0.3, 7.5], [0.001, 0.002, -3.25]])
    for dtype, steps in (("int8", [0, 1.0 / 127, 0.002 / 127]), ("bfloat16", [0, 2.0**-8, 2.0**-16])):
        found = precision.packed(item_VE, dtype)
        back_VE = precision.unpacked(found)
        np.testing.assert_array_equal(back_VE[:, -1], item_VE[:, -1])  # biases are exact
        for row, back, step in zip(item_VE, back_VE, steps, strict=True):
            assert np.abs(row - back)[:-1].max() <= step / 2 * 1.001
        assert found.matrix.dtype == {"int8": np.int8, "bfloat16": np.uint16}[dtype]
    np.testing.assert_array_equal(precision.packed(item_VE, "int8").matrix, [[0, 0], [127, -38], [64, 127]])


@pytest.mark.parametrize("name", ["format2", "format3"])
def test_an_export_of_before_is_served(name):
    expected = json.loads((FIXTURES / "expected.json").read_text())[name]
    model = scorer.Scorer.open(FIXTURES / name)
    history = [scorer.Event(*event) for event in expected["history"]]
    found = [model.recommend(history, 5)]
    if "demoted" in expected:
        found.append(model.recommend(history, 5, form=model.form("demote", 2.0, 0.0)))
    for best, wanted in zip(found, (expected["best"], expected.get("demoted")), strict=False):
        assert [one.item for one in best] == [item for item, _ in wanted]
        np.testing.assert_allclose([one.score for one in best], [score for _, score in wanted], atol=2e-5)


def test_what_cannot_be_asked_for_is_one_line(tmp_path, capsys):
    def said(*words):
        with pytest.raises(UserError) as error:
            cli.command("export", list(words)).run()
        return str(error.value)

    assert said(str(tmp_path), "--out", "x", "--formats", "onx") == (
        "--formats onx: there are stablehlo, onnx, safetensors, index, triton, kserve"
    )
    assert "needs a run and --out" in said() and "--check goes alone" in said("RUN", "--check", "DIR")
    assert "is no export" in said("--check", str(tmp_path))
    del capsys


def test_a_missing_library_is_one_line(untrained, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(UserError, match=r"^an index by faiss needs faiss-cpu: pip install 'jaxneg\[ann\]'$"):
        export.export(untrained("caser"), tmp_path / "out", export.Wanted(("index",)))
    monkeypatch.setattr(export.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"^ONNX needs onnx: pip install 'jaxneg\[onnx\]'$"):
        export.export(untrained("caser"), tmp_path / "out", export.Wanted(("triton",)))


@pytest.mark.slow
def test_a_server_looks_at_all_items_where_it_is_told_to(everything, monkeypatch):
    history = [scorer.Event(item) for item in scorer.Scorer.open(everything).items(3)]
    exact = scorer.Scorer.open(everything, index=False).recommend(history)

    def searched(*_):
        raise UserError("an index was opened")

    monkeypatch.setattr("jaxneg.serve.index.searching", searched)
    found = cli.command("serve", [f"m={everything}", "--exact"]).opened()
    assert found.get("m").scorer.recommend(history) == exact
    found.reload("m")  # nor is it opened later on
    assert found.get("m").scorer.recommend(history) == exact
    with pytest.raises(UserError, match="an index was opened"):
        cli.command("serve", [f"m={everything}"]).opened()


@pytest.mark.slow
def test_an_index_finds_what_a_search_of_everything_finds(everything, monkeypatch):
    """faiss looks at all of so few items, so that lists are the same; what is left out is left out."""
    exact, found = scorer.Scorer.open(everything, index=False), scorer.Scorer.open(everything)
    monkeypatch.setattr(found, "_whole", None)  # nothing is scored but what the index finds
    history = [
        scorer.Event(item, kind) for item, kind in zip(exact.items(4), ["play", "skip"] * 2, strict=True)
    ]
    choice = scorer.Choice(exclude=exact.items(9)[5:])
    for form in (
        "rank",
        "judge",
        exact.form("sum", 0.5),
        exact.form("sum", 3.0),
        exact.form("demote", 2.0, 0.0),
    ):
        told = {"form": form, "choice": choice, "exclude_seen": True}
        lists = [one.recommend(history, 8, **told) for one in (exact, found)]
        assert [one.item for one in lists[0]] == [one.item for one in lists[1]]
        np.testing.assert_allclose(*([one.score for one in each] for each in lists), rtol=CLOSE, atol=CLOSE)
