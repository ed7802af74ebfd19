"""The tables of the page on ten billion events are those that its script makes of what was found."""

import importlib.util
import json
import pathlib

import pytest

from jaxneg.data import pipeline, stores

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("ten_billion", ROOT / "benchmarks" / "ten_billion.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_has_the_tables_of_what_was_found(script):
    found, text = json.loads(script.RESULTS.read_text()), script.PAGE.read_text(encoding="utf-8")
    assert script.page(text, found) == text
    assert script.page(text.replace(" chips | 6", ""), found | {"plan": {}}) != text


def test_a_made_up_store_is_one(script, tmp_path):
    """It holds what it should: each listener's rejections and likes of the training window, and no damage."""
    script.write_store(tmp_path / "store", 60_000, 500)
    store = stores.Store.open(tmp_path / "store")
    assert store.verify() > 10 and store.events == 60_000 and store.items == 500
    train = slice(int(store.session_indptr[7]), int(store.session_train_end[7]))
    item_T, feedback_T = (column[train] for column in (store.item_T, store.feedback_T))
    negative = store.negative_item[slice(*store.negative_indptr[7:9])]
    positive = store.positive_item[slice(*store.positive_indptr[7:9])]
    assert negative.tolist() == item_T[feedback_T == 3].tolist()
    assert positive.tolist() == sorted({*item_T[feedback_T == 4].tolist()})
    found = pipeline.TrainBatches(store, script.configs.load(script.EXPERIMENT).data)
    assert found.spans == 300
