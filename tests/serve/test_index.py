"""Indexes beside a search of everything by numpy."""

import sys

import numpy as np
import pytest

from jaxneg.batch.forms import Form
from jaxneg.errors import UserError
from jaxneg.serve import index as indexes

ITEMS, E = 3000, 9


@pytest.fixture(scope="module")
def matrices():
    """item_VE and like_VE with biases of very different size, and queries."""
    rng = np.random.default_rng(0)
    item_VE, like_VE = (
        np.hstack([rng.normal(size=(ITEMS + 1, E - 1)), rng.gumbel(size=(ITEMS + 1, 1)) * 2]).astype(
            np.float32
        )
        for _ in range(2)
    )
    query_BE = np.hstack([rng.normal(size=(40, E - 1)), np.ones((40, 1))]).astype(np.float32)
    return item_VE, like_VE, query_BE


def exact(score_BI, k):
    return [{*np.argsort(-score_I)[:k].tolist()} for score_I in score_BI]


@pytest.mark.parametrize("library", indexes.KINDS)
def test_one_index_serves_every_weight(library, matrices, tmp_path):
    """As it was saved and opened again; the rows are not touched between forms."""
    pytest.importorskip(library)
    item_VE, like_VE, query_BE = matrices
    row_IW = indexes.rows(item_VE, like_VE)
    built = indexes.build(library, row_IW, indexes.queries(query_BE, Form(), likes=True))
    assert built.recall >= 0.98
    built.found.save(tmp_path / "index")
    opened = indexes.opened(library, tmp_path / "index", 512)
    score_BI, like_BI = query_BE @ item_VE[1:].T, query_BE @ like_VE[1:].T
    for form, wanted_BI in (
        (Form(), score_BI),
        (Form("judge"), like_BI),
        (Form("sum", 0.3), score_BI + np.float32(0.3) * like_BI),
        (Form("sum", 4.0), score_BI + np.float32(4.0) * like_BI),
        (Form("demote", 4.0, 0.0), score_BI),
    ):
        row_Bk = opened.search(indexes.queries(query_BE, form, likes=True), 50)
        assert row_Bk.shape == (40, 50) and row_Bk.min() >= 1
        shares = [
            len(best & {*(row - 1).tolist()}) / 50
            for best, row in zip(exact(wanted_BI, 50), row_Bk, strict=True)
        ]
        assert np.mean(shares) >= (1.0 if library == "faiss" else 0.97)


def test_inverted_lists_are_searched_until_enough_is_found(matrices, monkeypatch):
    pytest.importorskip("faiss")
    monkeypatch.setattr(indexes, "FLAT", 100)
    item_VE, _, query_BE = matrices
    built = indexes.build("faiss", indexes.rows(item_VE, None), query_BE)
    row_Bk = built.found.search(query_BE, 100)
    wanted = exact(query_BE @ item_VE[1:].T, 100)
    shares = [len(best & {*(row - 1).tolist()}) / 100 for best, row in zip(wanted, row_Bk, strict=True)]
    assert built.recall == pytest.approx(np.mean(shares)) and built.recall >= 0.98
    assert built.found.effort > indexes.EFFORTS[0]


def test_rows_that_half_precision_does_not_hold_are_found_as_well(matrices, monkeypatch):
    pytest.importorskip("faiss")
    monkeypatch.setattr(indexes, "FLAT", 100)
    item_VE, _, query_BE = matrices
    row_IW = indexes.rows(item_VE, None)
    usual, large = (indexes.build("faiss", scale * row_IW, query_BE) for scale in (1, 2.0**17))
    assert large.recall >= 0.98 and large.found.effort == usual.found.effort


def test_lists_that_were_written_in_full_precision_are_still_searched(matrices, tmp_path):
    """As exports had them before."""
    faiss = pytest.importorskip("faiss")
    item_VE, _, query_BE = matrices
    row_IW = indexes.rows(item_VE, None)
    inner = faiss.IndexIVFFlat(faiss.IndexFlatIP(E), E, 20, faiss.METRIC_INNER_PRODUCT)
    inner.train(row_IW)
    inner.add(row_IW)
    faiss.write_index(inner, str(tmp_path / "index"))
    exact_Bk = np.argsort(-(query_BE @ row_IW.T), axis=1, kind="stable")[:, :50] + 1
    np.testing.assert_array_equal(
        indexes.opened("faiss", tmp_path / "index", 20).search(query_BE, 50), exact_Bk
    )
    few_Bk = indexes.opened("faiss", tmp_path / "index", 1).search(query_BE, 50)
    assert (few_Bk != exact_Bk).any()


def test_a_missing_library_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "voyager", None)
    with pytest.raises(UserError, match=r"^an index by voyager needs voyager: pip install 'jaxneg\[ann\]'$"):
        indexes.build("voyager", np.zeros((3, 2), np.float32), np.zeros((1, 2), np.float32))
