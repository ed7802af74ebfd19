"""The code of the guide for serving engineers, run as it stands on an export."""

import pathlib
import re

import numpy as np
import pytest

from jaxneg.serve import export

GUIDE = pathlib.Path(__file__).parents[2] / "docs" / "guide" / "serving.md"


@pytest.fixture
def space(exported, tmp_path, monkeypatch):
    (tmp_path / "exports").mkdir()
    (tmp_path / "exports" / "mine").symlink_to(exported("tied"))
    monkeypatch.chdir(tmp_path)
    return {}


def code(word):
    found = re.findall(r"^```python\n(.*?)^```", GUIDE.read_text(), re.MULTILINE | re.DOTALL)
    [block] = [block for block in found if word in block]
    return block


@pytest.mark.slow
def test_the_export_by_hand_gives_what_the_scorer_gives(space):
    exec(code("Scorer.open"), space)
    exec(code("export.deserialize"), space)
    assert [item for item, _ in space["by_hand"]] == [one.item for one in space["best"]]
    np.testing.assert_allclose(
        [score for _, score in space["by_hand"]], [one.score for one in space["best"]], rtol=1e-5
    )


@pytest.mark.slow  # test_index.py asks indices, and test_scorer.py the lists
def test_an_index_of_inner_products_gives_the_same(space):
    pytest.importorskip("faiss")
    exec(code("export.deserialize"), space)
    exec(code("faiss.IndexFlatIP"), space)
    assert [item for item, _ in space["by_faiss"]] == [item for item, _ in space["by_hand"]]


@pytest.mark.slow
def test_onnxruntime_alone_gives_the_same(trained, tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    export.export(trained("tied"), tmp_path / "exports" / "mine", export.Wanted(("stablehlo", "onnx")))
    monkeypatch.chdir(tmp_path)
    space = {}
    exec(code("onnxruntime.InferenceSession"), space)
    exec(code("Scorer.open"), space)
    assert [space["scorer"].items(80)[row - 1] for row in space["rows"][0]] == [
        one.item for one in space["best"]
    ]
    np.testing.assert_allclose(space["scores"][0], [one.score for one in space["best"]], rtol=1e-5)
