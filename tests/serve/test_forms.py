"""Serving forms: exports against the live model, and the certificate of demotion against brute force."""

import json
import pickle
import shutil

import numpy as np
import pytest

from jaxneg.batch.forms import Form
from jaxneg.cli import recommend
from jaxneg.config import UserError
from jaxneg.files import documents
from jaxneg.serve import demotion, scorer
from jaxneg.training import runs

CLOSE = {"rtol": 1e-5, "atol": 1e-5}  # float32 sums taken in another order
SERVED = [Form("rank"), Form("judge"), Form("sum", 0.7), Form("demote", 1.5, -0.2)]
LIKES = "with a like head"


def random_case(rng):
    """Scores of a catalogue of some size, at times with ties, and a form; scores on very different scales."""
    V, k = int(rng.integers(1, 200)), int(rng.integers(1, 12))
    rank_V = rng.normal(size=V) * rng.choice([0.1, 1.0, 10.0])
    like_V = rng.normal(size=V) + rng.choice([-3.0, 0.0, 3.0])
    if rng.random() < 0.3:
        rank_V, like_V = np.round(rank_V), np.round(like_V)
    if rng.random() < 0.2:
        rank_V[rng.random(V) < 0.3] = -np.inf
    form = Form("demote", float(rng.choice([0.0, 0.3, 2.0, 20.0])), float(rng.normal()))
    return rank_V, like_V, form, k


def whole(rank_V, like_V, form):
    """Scores of all items, one by one."""
    return np.array(
        [
            rank + (form.beta * (like - form.threshold) if like < form.threshold else 0.0)
            for rank, like in zip(rank_V, like_V, strict=True)
        ]
    )


@pytest.mark.slow
def test_the_best_by_demotion_are_those_of_all_scores_and_a_certificate_never_lies(monkeypatch):
    """10,000 random cases: whatever was looked at first, what comes out is the top k of all; and where a certificate
    is given for N items, no other one is above the last of their best."""
    rng = np.random.default_rng(0)
    monkeypatch.setattr(demotion, "START", 1)
    monkeypatch.setattr(demotion, "TIMES", 1)
    given, refused, widened = 0, 0, 0
    for _ in range(10_000):
        rank_V, like_V, form, k = random_case(rng)
        score_V = whole(rank_V, like_V, form)
        there = np.sort(score_V[np.isfinite(score_V)])[::-1]
        found = demotion.best(rank_V, like_V.__getitem__, form, k)
        np.testing.assert_allclose(found.score_k, there[:k], rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(score_V[found.at_k], found.score_k, rtol=1e-12, atol=1e-12)
        assert len(set(found.at_k.tolist())) == min(k, len(there))
        widened += found.looked > k
        N = int(rng.integers(1, len(rank_V) + 1))
        at_N = np.argsort(-rank_V, kind="stable")[:N]
        some = demotion.reranked(rank_V[at_N], like_V[at_N], form, k)
        rest = np.delete(score_V, at_N)
        if some.exact:
            assert not len(rest) or rest.max() <= some.score_k[-1]
            np.testing.assert_allclose(some.score_k, np.sort(score_V)[::-1][:k], rtol=1e-12, atol=1e-12)
        given, refused = given + some.exact, refused + (not some.exact)
    assert min(given, refused, widened) > 1000


@pytest.fixture(scope="module")
def model(exported):
    return scorer.Scorer.open(exported(LIKES))


@pytest.mark.slow
@pytest.mark.parametrize("form", SERVED, ids=lambda form: form.name)
def test_exported_scores_are_live_scores_in_every_form(form, model, trained, examples):
    score = runs.catalogue_score(trained(LIKES), form)
    for batch in examples:
        found = model.scores(batch.item_BL, batch.feedback_BL, batch.station_BL, form)
        np.testing.assert_allclose(found[:, 1:], score(batch)[:, 1:], **CLOSE)
        assert np.ptp(found[batch.real_B, 1:], axis=1).min() > 1e-3


def contexts(examples):
    batch = examples[0]
    return batch.item_BL[:8], batch.feedback_BL[:8], batch.station_BL[:8]


@pytest.mark.slow
def test_one_index_of_both_matrices_serves_three_forms(model, exported, examples):
    out = exported(LIKES)
    both_VE = np.concatenate([np.load(out / f"{of}_embeddings.npy") for of in ("item", "like")], axis=1)
    query_BE = model.query(*contexts(examples))
    none_BE = np.zeros_like(query_BE)
    for form, parts in {
        Form("rank"): (query_BE, none_BE),
        Form("judge"): (none_BE, query_BE),
        Form("sum", 2.5): (query_BE, 2.5 * query_BE),
    }.items():
        found = np.concatenate(parts, axis=1) @ both_VE.T
        np.testing.assert_allclose(found[:, 1:], model.scores(*contexts(examples), form)[:, 1:], **CLOSE)


@pytest.mark.slow
@pytest.mark.parametrize("exclude_seen", [False, True])
def test_recommendations_in_every_form_are_the_best_by_score(exclude_seen, model, examples):
    ids, length = model.items(10**6), model.manifest["length"]
    history = [scorer.Event(item, "thumb_up" if k % 2 else "skip") for k, item in enumerate(ids[3:9])]
    rows = [1 + ids.index(event.item) for event in history]
    context = np.zeros((3, 1, length), np.int32)
    context[0, 0, : len(rows)] = rows
    context[1, 0, : len(rows)] = [model.manifest["feedback"][event.feedback] for event in history]
    answers = []
    for form in (*SERVED, Form("demote", 50.0, 3.0)):
        score_V = model.scores(*context, form)[0]
        score_V[0] = -np.inf
        if exclude_seen:
            score_V[rows] = -np.inf
        best = np.argsort(-score_V, kind="stable")[:5]
        found = model.recommend(history, 5, exclude_seen=exclude_seen, form=form)
        assert [one.item for one in found] == [ids[row - 1] for row in best], form
        np.testing.assert_allclose([one.score for one in found], score_V[best], rtol=1e-4, atol=1e-5)
        answers.append([one.item for one in found])
    assert answers[0] != answers[1]
    query_E = model.query(*context)[0]
    at_N = np.argsort(-model.scores(*context)[0, 1:], kind="stable") + 1
    again = model.demoted(query_E, at_N[:60], SERVED[-1], 5)
    assert again.exact and (exclude_seen or [ids[at_N[k] - 1] for k in again.at_k] == answers[3])
    assert not model.demoted(query_E, at_N[:5], Form("demote", 50.0, 3.0), 5).exact


@pytest.mark.slow
def test_the_manifest_holds_the_numbers_that_validation_chose(model, trained, exported):
    manifest = json.loads((exported(LIKES) / "manifest.json").read_text())
    assert manifest["format"] == 4 and set(manifest["forms"]) == {"sum", "demote"}
    assert model.form("sum") == Form("sum", manifest["forms"]["sum"]["beta"])
    of_demote = manifest["forms"]["demote"]
    assert model.form("demote") == Form("demote", of_demote["beta"], of_demote["threshold"])
    assert model.form("demote", beta=0.0).beta == 0 and model.form("demote", threshold=1.5).threshold == 1.5
    by_name, history = model.recommend(model.items(3), form="demote"), model.items(3)
    assert by_name == model.recommend(history, form=model.form("demote"))
    assert by_name == pickle.loads(pickle.dumps(model)).recommend(history, form="demote")
    assert model.recommend(history, form=model.form("sum", beta=0)) == model.recommend(history)


@pytest.mark.slow
def test_forms_that_cannot_be_served_are_refused(model, exported):
    plain = scorer.Scorer.open(exported("tied"))
    for name in ("judge", "sum", "demote"):
        with pytest.raises(UserError, match=f"form {name} needs a like head, which this export has not"):
            plain.recommend(plain.items(2), form=name)
    for arguments, told in (
        (("best",), "form must be one of rank, judge, sum, demote, got 'best'"),
        (("sum", -1.0), "beta must be 0 or more, got -1.0"),
        (("sum", float("nan")), "beta must be 0 or more, got nan"),
        (("demote", 1.0, "low"), "threshold must be a finite number, got 'low'"),
        (("rank", 1.0), "form rank has no beta: leave it out"),
        (("sum", 1.0, 0.0), "form sum has no threshold: leave it out"),
    ):
        with pytest.raises(UserError, match=told):
            model.form(*arguments)


@pytest.mark.slow
def test_the_command_recommends_in_a_form(model, exported, capsys):
    items, out = model.items(3), str(exported(LIKES))
    recommend.parse([out, "--items", *items, "--form", "demote", "--beta", "3", "--json"]).run()
    found = json.loads(capsys.readouterr().out)["recommendations"]
    expected = model.recommend(items, form=model.form("demote", beta=3.0))
    assert [one["item"] for one in found] == [one.item for one in expected]


@pytest.mark.slow
@pytest.mark.parametrize("how", ["without forms", "without the file", "format 2"])
def test_an_export_with_half_a_like_head_is_refused(how, exported, tmp_path):
    out = shutil.copytree(exported(LIKES), tmp_path / "copy")
    manifest = json.loads((out / "manifest.json").read_text())
    del manifest["sha256"]
    if how == "without forms":
        del manifest["forms"]
    if how == "without the file":
        del manifest["files"]["like_embeddings.npy"]
    if how == "format 2":
        manifest["format"] = 2
        for name in ("formats", "dtype", "signature", "source"):  # of format 4
            del manifest[name]
    (out / "manifest.json").write_text(json.dumps(documents.sealed(manifest)))
    with pytest.raises(UserError, match="manifest.json is damaged: (forms|files): expected"):
        scorer.Scorer.open(out)
