import dataclasses
import errno
import hashlib
import json
import os

import numpy as np
import pytest
from jax import export as jax_export
from safetensors import numpy as safetensors

from jaxneg import program, run
from jaxneg.config import UserError
from jaxneg.models import layers
from jaxneg.serve import export, scorer

# float32 sums taken in another order.
CLOSE = {"rtol": 1e-5, "atol": 1e-5}
# A bfloat16 value may round to its neighbour, 2**-8 of it away.
NEIGHBOURS = {"rtol": 0.02, "atol": 0.02}


@pytest.mark.parametrize(
    ("name", "tolerance"),
    [
        ("tied", CLOSE),
        ("untied, attributes in the output", CLOSE),
        ("items alone, without biases", CLOSE),
        ("bfloat16", NEIGHBOURS),
        ("hidden events, some inputs, averaged", CLOSE),
    ],
)
def test_exported_scores_are_live_scores(name, tolerance, trained, exported, examples):
    model, score = scorer.Scorer.open(exported(name)), run.catalogue_score(trained(name))
    for batch in examples:
        found = model.scores(batch.item_BL, batch.feedback_BL, batch.station_BL)
        np.testing.assert_allclose(found, score(batch), **tolerance)
        assert np.ptp(found[:, 1:], axis=1).min() > 0.01  # a model that tells items apart
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
    monkeypatch.setattr(layers, "fused_implementation", lambda *_, **__: "cudnn")
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
    assert set(manifest["files"]) | {"manifest.json"} == {path.name for path in out.iterdir()}
    for name, expected in manifest["files"].items():
        assert hashlib.sha256((out / name).read_bytes()).hexdigest() == expected
    tables = live.state.tables
    item_VE, params = np.load(out / "item_embeddings.npy"), safetensors.load_file(out / "params.safetensors")
    np.testing.assert_allclose(item_VE, np.column_stack([tables["item_VD"], tables["bias_V"]]), rtol=1e-6)
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
    np.testing.assert_allclose(query_BE @ item_VE.T, run.catalogue_score(trained("tied"))(batch), **CLOSE)


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


@pytest.mark.parametrize("fails", ["safetensors.save_file", "shutil.copyfile", "files.put"])
def test_a_disk_that_fills_up_leaves_nothing(fails, trained, tmp_path, monkeypatch):
    live = trained("tied")

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(jax_export, "export", lambda *_, **__: lambda *_: _Blank())
    monkeypatch.setattr(f"jaxneg.serve.export.{fails}", full)
    with pytest.raises(
        UserError, match="cannot write .*out: No space left on device; nothing is left behind"
    ):
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
