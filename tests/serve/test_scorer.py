import dataclasses
import hashlib
import json
import os
import pickle
import shutil
import subprocess
import sys

import numpy as np
import pytest
from jax import export as jax_export
from jaxlib.mlir import ir
from jaxlib.mlir.dialects import stablehlo

from jaxneg import files
from jaxneg.batch import CODE
from jaxneg.config import UserError
from jaxneg.files import documents
from jaxneg.serve import module_text, scorer


@pytest.fixture(scope="module")
def model(exported):
    return scorer.Scorer.open(exported("tied"))


@pytest.fixture
def copy(exported, tmp_path):
    """An export directory that a test may damage."""
    return shutil.copytree(exported("tied"), tmp_path / "copy")


def by_hand(model, history):
    """Scores of a history that fits and is known, from rows written out one by one."""
    length = model.manifest["length"]
    names = model.items(10**6)
    rows = [1 + names.index(event.item) for event in history]
    context = np.zeros((3, 1, length), np.int32)
    context[0, 0, : len(rows)] = rows
    context[1, 0, : len(rows)] = [CODE[event.feedback] for event in history]
    return model.scores(*context)[0, 1:], names


def test_recommendations_are_the_best_by_score(model):
    history = [scorer.Event(model.items(5)[4], "skip"), scorer.Event(model.items(1)[0], "thumb_up")]
    score, names = by_hand(model, history)
    best = np.argsort(-score, kind="stable")[:7]
    found = model.recommend(history, 7)
    assert [one.item for one in found] == [names[place] for place in best]
    # A batch of another size may sum in another order.
    np.testing.assert_allclose([one.score for one in found], score[best], rtol=1e-5)


def test_feedback_and_station_change_the_scores(model):
    item = model.items(1)[0]
    station = next(iter(model._known.stations))
    assert model.knows_station(station) and not model.knows_station("none such")
    plain = model.recommend([scorer.Event(item)])
    assert plain != model.recommend([scorer.Event(item, "thumb_down")])
    assert plain != model.recommend([scorer.Event(item, "play", station)])
    assert plain == model.recommend([scorer.Event(item, "play", "none such")])


def test_a_pickle_is_the_whole_scorer(copy, tmp_path):
    model = scorer.Scorer.open(str(copy))
    history = [scorer.Event(item, "skip", "none such") for item in model.items(4)]
    expected, packed = model.recommend(history), pickle.dumps(model)
    shutil.rmtree(copy)
    for again in (pickle.loads(packed), pickle.loads(pickle.dumps(pickle.loads(packed)))):
        assert again.recommend(history) == expected and again.manifest == model.manifest


def test_items_that_are_not_known_are_left_out(model):
    known = [scorer.Event(item) for item in model.items(3)]
    assert not model.knows("none such") and model.knows(known[0].item)
    with_unknown = [scorer.Event("none such", "skip"), *known, scorer.Event("nor this")]
    assert model.recommend(with_unknown) == model.recommend(known)
    for history in ([scorer.Event("none such")], []):
        popular = model.recommend(history)
        assert popular.fallback == "popularity" and [one.item for one in popular] == model.items(10)


def test_a_long_history_counts_by_its_end(model):
    history = [scorer.Event(item) for item in model.items(30)]
    assert model.recommend(history) == model.recommend(history[-model.manifest["length"] :])


def test_what_was_heard_can_be_left_out(model):
    count = model.manifest["items"]
    seen = model.items(20)  # more than the model sees
    history = [scorer.Event(item) for item in seen]
    all_, fresh = model.recommend(history, count), model.recommend(history, count, exclude_seen=True)
    assert {one.item for one in all_} == set(model.items(count))
    assert fresh == [one for one in all_ if one.item not in seen]


def test_more_than_the_catalogue_is_the_catalogue(model):
    found = model.recommend([scorer.Event(model.items(1)[0])], 10**6)
    assert len(found) == model.manifest["items"] == len({one.item for one in found})
    scores = [one.score for one in found]
    assert scores == sorted(scores, reverse=True)


def test_feedback_that_is_none_is_refused(model):
    for kind in ("liked", "pad", ""):
        with pytest.raises(UserError, match=f"unknown feedback '{kind}' .* use one of .*thumb_up"):
            model.recommend([scorer.Event(model.items(1)[0], kind)])
    with pytest.raises(UserError, match="k must be at least 1, got 0"):
        model.recommend([scorer.Event(model.items(1)[0])], 0)


@pytest.mark.parametrize(
    "name", ["model.stablehlo", "params.safetensors", "item_embeddings.npy", "items.parquet"]
)
def test_an_altered_file_is_refused(name, copy):
    content = bytearray((copy / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copy / name).write_bytes(content)
    with pytest.raises(UserError, match=f"{name} is missing or altered"):
        scorer.Scorer.open(copy)
    (copy / name).unlink()
    with pytest.raises(UserError, match=f"{name} is missing or altered"):
        scorer.Scorer.open(copy)


@pytest.mark.slow
def test_a_damaged_model_with_a_mended_sum_is_refused_in_one_line(copy, capfd, monkeypatch):
    """MLIR writes its complaints to the stream of errors itself, past Python's, and may look at some bytes for ever."""
    monkeypatch.setattr(module_text, "LONGEST", 8.0)
    path = copy / "model.stablehlo"
    written = path.read_bytes()
    refused = 0
    for at in range(len(written) // 18, len(written) - 100, len(written) // 18):
        changed = bytearray(written)
        changed[at : at + 3] = b"\xa5\x00\x17"
        with_file(copy, path.name, bytes(changed))
        try:
            scorer.Scorer.open(copy)
        except UserError as error:
            refused += 1
            assert "model.stablehlo" in str(error) and "\n" not in str(error)
    assert refused >= 11
    assert capfd.readouterr() == ("", "")


def with_file(directory, name, content):
    """An export in which a file has another content, and the sums are made anew."""
    (directory / name).write_bytes(content)
    manifest = json.loads((directory / "manifest.json").read_text())
    del manifest["sha256"]
    manifest["files"][name] = hashlib.sha256(content).hexdigest()
    files.write_json(directory / "manifest.json", documents.sealed(manifest))


def test_a_model_whose_shapes_do_not_fit_is_refused_in_one_line(copy):
    """It parses; the contradiction shows when it is compiled for a batch."""
    path = copy / "model.stablehlo"
    model = jax_export.deserialize(bytearray(path.read_bytes()))
    with ir.Context() as context:
        module = stablehlo.deserialize_portable_artifact(context, bytes(model.mlir_module_serialized))
        length = f"dense<{model.in_avals[-1].shape[1]}> : tensor<1xi32>"
        assert length in str(module)
        text = str(module).replace(length, "dense<77> : tensor<1xi32>")
        version = stablehlo.get_current_version()
        unfit = stablehlo.serialize_portable_artifact(ir.Module.parse(text), version)
    model = dataclasses.replace(model, mlir_module_serialized=unfit)
    with_file(copy, path.name, bytes(model.serialize()))
    opened = scorer.Scorer.open(copy)
    with pytest.raises(UserError, match="model.stablehlo cannot be run by jax [^\n]*: export again"):
        opened.recommend(opened.items(1))


def test_another_format_and_no_export_are_refused(copy, tmp_path):
    with pytest.raises(UserError, match="is no export"):
        scorer.Scorer.open(tmp_path)
    manifest = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps(manifest | {"format": 99}))
    with pytest.raises(UserError, match="has export format 99, this version reads 2 to 4: export again"):
        scorer.Scorer.open(copy)
    for damaged in ('{"format": 1, "fi', "[]", "{}"):
        (copy / "manifest.json").write_text(damaged)
        with pytest.raises(UserError, match="manifest.json is damaged"):
            scorer.Scorer.open(copy)


ALONE = """
import builtins, json, sys

real = builtins.__import__
def guarded(name, globals=None, locals=None, fromlist=(), level=0):
    assert not name.startswith(("flax", "optax", "orbax", "grain", "duckdb", "ibis")), name
    return real(name, globals, locals, fromlist, level)
builtins.__import__ = guarded

from jaxneg.serve import scorer
model = scorer.Scorer.open(sys.argv[1])
print(json.dumps(model.recommend([scorer.Event(item) for item in model.items(3)])))
ours = sorted(name for name in sys.modules if name.startswith("jaxneg."))
ground = {
    "batch", "batch.forms", "errors", "files", "files.addresses", "files.arrays", "files.buckets", "files.documents",
    "files.leases", "files.locks", "files.mirrors", "files.snapshots", "serve", "serve.demotion", "serve.encoding",
    "serve.choice", "serve.heard", "serve.histories", "serve.lists", "serve.manifest",
    "serve.matrices", "serve.module_text", "serve.nearest",
    "serve.precision", "serve.scorer", "serve.searching", "serve.signature",
}
assert {name.removeprefix("jaxneg.") for name in ours} <= ground, ours
"""


@pytest.mark.slow
def test_the_directory_alone_is_enough(copy, model):
    """Another process, another place, no store, no run, and no package of training."""
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"} | {"JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", ALONE, str(copy)], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    here = model.recommend([scorer.Event(item) for item in model.items(3)])
    for (item, score), expected in zip(json.loads(done.stdout), here, strict=True):
        assert item == expected.item
        assert abs(score - expected.score) < 1e-5  # one device there, eight here


@pytest.mark.slow
def test_kinds_that_were_no_inputs_in_training_are_left_out_of_a_history(exported):
    model = scorer.Scorer.open(exported("hidden events, some inputs, averaged"))
    a, b, c = model.items(3)
    shown = [scorer.Event(a, "play"), scorer.Event(b, "skip")]
    hidden = [shown[0], scorer.Event(c, "thumb_down"), shown[1]]
    assert model.recommend(hidden, 5) == model.recommend(shown, 5)
    assert model.recommend([shown[0], scorer.Event(c, "skip"), shown[1]], 5) != model.recommend(shown, 5)


def test_ids_stand_for_plays_in_whatever_holds_them(model):
    ids = model.items(3)
    expected = [scorer.Event(one) for one in ids]
    for history in (ids, tuple(ids), np.array(ids), iter(ids), dict.fromkeys(ids), expected):
        assert scorer.events(history) == expected
    assert model.recommend(ids, 3) == model.recommend(expected, 3)


@pytest.mark.parametrize(
    "history",
    [
        "song",
        5,
        None,
        [5],
        [None],
        [("a", "play")],
        [["a"]],
        [b"a"],
        [scorer.Event(5)],
        [scorer.Event("a", 1)],
        [scorer.Event("a", "play", 4)],
        [scorer.Event(["a"])],
        [scorer.Event("a", ["play"])],
    ],
    ids=repr,
)
def test_what_is_no_history_is_refused_in_one_line(history):
    with pytest.raises(UserError, match="history|feedback and station") as error:
        scorer.events(history)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("k", ["2", 2.5, True, None, [2], 0, -1, np.int64(0)])
def test_a_number_of_recommendations_is_a_whole_one(k):
    with pytest.raises(UserError, match="^k must be "):
        scorer._count(k)
    assert scorer._count(np.int32(3)) == 3
