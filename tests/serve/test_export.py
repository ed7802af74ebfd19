import dataclasses
import errno
import hashlib
import json
import os

import numpy as np
import pytest
from jax import export as jax_export
from safetensors import numpy as safetensors

from jaxneg import config as configs
from jaxneg.batch import FEEDBACK
from jaxneg.config import UserError
from jaxneg.data import held_out, stores
from jaxneg.embeddings import sharding
from jaxneg.models import attention
from jaxneg.serve import export, scorer
from jaxneg.training import program, runs

pytestmark = pytest.mark.slow

# float32 sums taken in another order.
CLOSE = {"rtol": 1e-5, "atol": 1e-5}
# A bfloat16 value may round to its neighbour, 2**-8 of it away.
NEIGHBOURS = {"rtol": 0.02, "atol": 0.02}


@pytest.mark.parametrize(
    ("name", "tolerance"),
    [
        ("tied", CLOSE),
        ("untied, attributes in the output", CLOSE),
        pytest.param("items alone, without biases", CLOSE, marks=pytest.mark.system),
        ("bfloat16", NEIGHBOURS),
        ("hidden events, some inputs, averaged", CLOSE),
    ],
)
def test_exported_scores_are_live_scores(name, tolerance, trained, exported, examples):
    model, score = scorer.Scorer.open(exported(name)), runs.catalogue_score(trained(name))
    for batch in examples:
        found = model.scores(batch.item_BL, batch.feedback_BL, batch.station_BL)
        np.testing.assert_allclose(found[:, 1:], score(batch)[:, 1:], **tolerance)
        assert np.ptp(found[batch.real_B, 1:], axis=1).min() > 1e-3  # a model that tells items apart
    assert sum(int(batch.real_B.sum()) for batch in examples) > 20


def test_any_batch_size_gives_the_same_scores(exported, examples):
    model, batch = scorer.Scorer.open(exported("tied")), examples[0]
    context = (batch.item_BL, batch.feedback_BL, batch.station_BL)
    whole = model.scores(*context)
    for size in (1, 3):
        np.testing.assert_allclose(model.scores(*(part[:size] for part in context)), whole[:size], **CLOSE)


def test_the_model_is_lowered_for_cpu_cuda_and_tpu(trained, exported):
    out = exported("tied")
    module = jax_export.deserialize(bytearray((out / "model.stablehlo").read_bytes()))
    manifest = json.loads((out / "manifest.json").read_text())
    assert module.platforms == ("cpu", "cuda", "tpu") == tuple(manifest["platforms"])
    [query] = module.out_avals
    width = trained("tied").config.model.width + 1  # and the 1 that meets the bias
    assert str(query.shape[0]) == "b" and query.shape[1] == manifest["query_width"] == width


def test_fused_attention_is_exported_as_plain_which_runs_anywhere(
    trained, exported, examples, tmp_path, monkeypatch
):
    """Even where cuDNN would be asked, whose kernel only one platform could run."""
    live = trained("tied")
    fused = dataclasses.replace(live.config, model=dataclasses.replace(live.config.model, attention="fused"))
    model = program.build_model(fused, program.catalogue_of(live.store))
    monkeypatch.setattr(attention, "fused_implementation", lambda *_, **__: "cudnn")
    export.export(live._replace(config=fused, model=model), tmp_path / "fused")
    batch = examples[0]
    context = (batch.item_BL, batch.feedback_BL, batch.station_BL)
    found, expected = (
        scorer.Scorer.open(out).scores(*context) for out in (tmp_path / "fused", exported("tied"))
    )
    np.testing.assert_array_equal(found, expected)


def test_the_files_say_what_they_hold(trained, exported):
    live, out = trained("tied"), exported("tied")
    manifest = json.loads((out / "manifest.json").read_text())
    assert set(manifest["files"]) | {"manifest.json", "README.md"} == {path.name for path in out.iterdir()}
    for name, expected in manifest["files"].items():
        assert hashlib.sha256((out / name).read_bytes()).hexdigest() == expected
    tables = live.state.tables
    item_VE, params = np.load(out / "item_embeddings.npy"), safetensors.load_file(out / "params.safetensors")
    expected_VE = np.column_stack([tables["item_VD"], tables["bias_V"]])
    np.testing.assert_allclose(item_VE[1:], expected_VE[1:], rtol=1e-6)
    for name, leaf in live.state.params.items():
        np.testing.assert_array_equal(params[f"params.{name}"], leaf)
    assert manifest["items"] == live.store.items == len(item_VE) - 1
    assert manifest["best_step"] == live.result["best_step"]
    assert manifest["polarity"] == live.store.metadata.polarity


def test_the_umask_decides_who_reads_the_files(trained, tmp_path, monkeypatch):
    live = trained("tied")
    monkeypatch.setattr(jax_export, "export", lambda *_, **__: lambda *_: _Blank())
    for mask, mode in ((0o022, 0o644), (0o027, 0o640)):
        before, out = os.umask(mask), tmp_path / f"{mask:o}"
        try:
            export.export(live, out)
        finally:
            os.umask(before)
        assert {path.name: path.stat().st_mode & 0o777 for path in out.iterdir()} == dict.fromkeys(
            (path.name for path in out.iterdir()), mode
        )


def test_the_query_reads_neither_the_output_table_nor_the_biases(exported):
    out = exported("untied, attributes in the output")
    read = set(json.loads((out / "manifest.json").read_text())["query_params"])
    assert {"tables.output_VD", "tables.bias_V"} == set(
        safetensors.load_file(out / "params.safetensors")
    ) - read


def test_parameters_are_float32_whatever_the_matmuls_are(exported):
    params = safetensors.load_file(exported("bfloat16") / "params.safetensors")
    assert {str(leaf.dtype) for name, leaf in params.items() if name != "attribute_VA"} == {"float32"}


def test_an_index_of_inner_products_serves_the_biases_too(trained, exported, examples):
    batch, out = examples[0], exported("tied")
    query_BE = scorer.Scorer.open(out).query(batch.item_BL, batch.feedback_BL, batch.station_BL)
    np.testing.assert_array_equal(query_BE[:, -1], 1.0)
    item_VE = np.load(out / "item_embeddings.npy")
    live_BV = runs.catalogue_score(trained("tied"))(batch)
    np.testing.assert_allclose((query_BE @ item_VE.T)[:, 1:], live_BV[:, 1:], **CLOSE)


@pytest.mark.parametrize(
    "name", ["tied", "items alone, without biases", "hidden events, some inputs, averaged"]
)
def test_the_padding_row_wins_no_search_that_others_make(name, exported, examples):
    out = exported(name)
    model, item_VE = scorer.Scorer.open(out), np.load(out / "item_embeddings.npy")
    for batch in examples:
        query_BE = model.query(batch.item_BL, batch.feedback_BL, batch.station_BL)
        np.testing.assert_array_equal(query_BE[:, -1], 1.0)
        score_BV = query_BE @ item_VE.T
        assert (score_BV[:, 0] < score_BV[:, 1:].min(axis=1)).all()
        np.testing.assert_array_equal(np.argmax(score_BV, axis=1), np.argmax(score_BV[:, 1:], axis=1) + 1)
        np.testing.assert_array_equal(score_BV[:, 1:], model.scores(*batch[:3])[:, 1:])


@pytest.mark.parametrize("biased", [True, False])
def test_the_padding_row_loses_where_all_scores_are_negative(biased):
    """As under a loss that pushes all scores down, which a row of zeros would lead."""
    rng = np.random.default_rng(0)
    row_VD = np.float32(-rng.random((50, 6)) - 0.1)
    row_VD[0] = rng.normal(size=6)  # with attributes in the output it need not be zeros
    bias_V = np.float32(-1e4 * rng.random(50)) if biased else np.zeros(50, np.float32)
    item_VE = export.searched(row_VD, bias_V, np.arange(len(row_VD)))
    for scale in (0.0, 1e-3, 1.0, 1e6, 1e12):
        query_BE = np.float32(np.concatenate([scale * rng.random((20, 6)), np.ones((20, 1))], axis=1))
        score_BV = query_BE @ item_VE.T
        assert (score_BV[:, 1:] <= 0).all() and (np.argmin(score_BV, axis=1) == 0).all()
        assert (np.argmax(score_BV, axis=1) > 0).all()
    np.testing.assert_array_equal(item_VE[1:], np.column_stack([row_VD, bias_V])[1:])
    assert np.isfinite(item_VE).all() and np.isfinite((item_VE**2).sum(axis=1)).all()


def test_what_is_there_stays(trained, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("precious")
    (tmp_path / "file").touch()
    for name in ("out", "file"):
        with pytest.raises(UserError, match=f"{name} exists: choose a new directory"):
            export.export(trained("tied"), tmp_path / name)
    assert [path.name for path in sorted(tmp_path.rglob("*"))] == ["file", "out", "thesis.tex"]


def test_an_empty_directory_is_filled_also_behind_a_link(trained, tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "disk")
    export.export(trained("tied"), tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["disk", "out"]
    assert (tmp_path / "disk" / "manifest.json").is_file() and (tmp_path / "out").is_symlink()


@pytest.mark.parametrize("fails", ["serve.writing.safetensors", "serve.export.shutil.copyfile", "files.put"])
def test_a_disk_that_fills_up_leaves_nothing(fails, trained, tmp_path, monkeypatch):
    live = trained("tied")

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(jax_export, "export", lambda *_, **__: lambda *_: _Blank())
    monkeypatch.setattr(f"jaxneg.{fails}", full)
    with pytest.raises(UserError, match="cannot write .*out: No space left on device"):
        export.export(live, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_a_fault_while_exporting_leaves_nothing(trained, tmp_path, monkeypatch):
    live = trained("tied")
    monkeypatch.setattr(jax_export, "export", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        export.export(live, tmp_path / "out")
    assert not list(tmp_path.iterdir())


class _Blank:
    """Stands in for a lowered model, which takes seconds to make."""

    def serialize(self):
        return b""


@pytest.mark.parametrize(
    "options",
    [
        "--data.inputs play thumb_up",
        "--data.inputs skip thumb_down --data.reach user --model.encoder gru4rec --model.item-bias none",
        "--data.inputs thumb_up skip play --model.encoder bert4rec --data.mask 0.2 --data.reach user",
        "--data.length 2 --model.feedback none",
    ],
)
def test_every_listener_is_served_the_top_ten_of_evaluation(options, small_store, tmp_path):
    """Histories are cut by one rule: kinds that are no inputs go first, then all but the last events."""
    store = stores.Store.open(small_store)
    base = configs.override(
        configs.Config(),
        f"--data.length 4 --model.width 8 --model.layers 1 --model.row-scale 1 {options}".split(),
    )
    built = program.build(base, program.catalogue_of(store), sharding.make_mesh(1))
    live = runs.Trained(
        base,
        store,
        built.model,
        built.init(),
        {"best_step": 0, "monitor": "auc", "best_score": 0.5},
        built.layout,
    )
    export.export(live, tmp_path / "out")
    model, score = scorer.Scorer.open(tmp_path / "out"), runs.catalogue_score(live)
    batches = held_out.EvalBatches(store, base.data, base.eval, "test")
    top_Xk = np.concatenate([np.argsort(-score(batch)[:, 1:], axis=1)[:, :10] for batch in batches])
    vocabulary, differs = store.vocabulary(), 0
    stations = {row: name for name, row in model._known.stations.items()}
    for x, (begin, cut) in enumerate(zip(batches.begin_X, batches.cut_X, strict=True)):
        items = vocabulary.names(store.item_T[begin:cut])
        kinds = [FEEDBACK[code] for code in store.feedback_T[begin:cut]]
        where = [stations[row] for row in store.station_T[begin:cut].tolist()]
        found = model.recommend(list(map(scorer.Event, items, kinds, where)), 10)
        assert [one.item for one in found] == vocabulary.names(top_Xk[x] + 1)
        kept = np.isin(kinds, base.data.inputs or FEEDBACK)
        differs += kept[-base.data.length :].sum() < min(kept.sum(), base.data.length)
    assert batches.examples > 20 and (differs > 0) == bool(base.data.inputs)
