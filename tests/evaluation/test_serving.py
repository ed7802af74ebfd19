"""Serving forms of a trained model: the curve against full evaluations, what is chosen, and what a report says."""

import dataclasses
import json

import numpy as np
import pytest

from jaxneg import config as configs
from jaxneg.batch.forms import Form
from jaxneg.config import Config, DataConfig, EvalConfig, ModelConfig, OptimConfig, TrainConfig
from jaxneg.data import held_out
from jaxneg.evaluation import eval_sets, report
from jaxneg.training import curves, loop, runs

CONFIG = Config(
    data=DataConfig(length=8, batch_size=32),
    model=ModelConfig(width=8, layers=1),
    optim=OptimConfig(learning_rate=0.01, warmup_steps=5),
    train=TrainConfig(epochs=2, devices=1),
    eval=EvalConfig(batch_size=32, bootstrap=20),
)


def point(name, auc, ndcg, beta=0.0):
    return curves.Point(Form(name, beta), None, 0.5, ndcg, 0.0, auc)


def test_the_point_that_keeps_most_of_both_heads_is_chosen():
    """Shares of .63 and .1, the lesser of both: of the sums .905, .921 and .900; of the demotions .937 and .950.

    Of the best of all points, .105, the demotions would have .914 and .905.
    """
    points = [
        point("rank", 0.55, 0.100),
        point("sum", 0.57, 0.105, 0.5),
        point("sum", 0.58, 0.098, 1.0),
        point("sum", 0.60, 0.090, 2.0),
        point("demote", 0.59, 0.096, 1.0),
        point("demote", 0.60, 0.095, 2.0),
        point("judge", 0.63, 0.001),
    ]
    found = curves.chosen(points)
    assert {name: one.form.beta for name, one in found.items()} == {
        "rank": 0,
        "judge": 0,
        "sum": 1,
        "demote": 2,
    }
    # Without pairs there is nothing to weigh: the best ranking.
    blind = [one._replace(auc=float("nan")) for one in points]
    assert curves.chosen(blind)["sum"].form.beta == 0.5


@pytest.fixture(scope="module")
def run(small_store, tmp_path_factory):
    directory = tmp_path_factory.mktemp("likes") / "run"
    config = dataclasses.replace(CONFIG, data=dataclasses.replace(CONFIG.data, store=str(small_store)))
    config = configs.override(config, "--like.weight 1 --like.learning-rate 0.1 --model.no-tied".split())
    loop.train(config, directory)
    return directory


@pytest.mark.slow
@pytest.mark.parametrize("exclude_seen", [False, True])
def test_points_of_a_curve_are_what_a_full_evaluation_finds(exclude_seen, run, monkeypatch):
    monkeypatch.setattr(curves, "DEMOTED", (2.0,))
    monkeypatch.setattr(curves, "BETAS", (0.5,))
    trained = runs.load(run)
    config = configs.override(trained.config, ["--eval.exclude-seen"] if exclude_seen else [])
    eval_set, score = eval_sets.EvalSet(trained.store, config), runs.catalogue_score(trained)
    batches = list(eval_set.examples)
    assert len(batches) <= curves.BATCHES
    for one in curves.curve(score, batches, config.eval, [(0.5, 0.1)]):
        figures = eval_set.measure(score.in_form(one.form)).figures
        assert one.pair_accuracy == pytest.approx(figures["pair_accuracy"], abs=1e-9)
        assert one.auc == pytest.approx(figures["auc"], abs=1e-9)
        assert one.ndcg == pytest.approx(figures["ndcg@10"], abs=1e-9)
        disliked = figures["hit_rate@10"] - figures["delta_hit_rate@10"]
        assert one.disliked_hit_rate == pytest.approx(disliked, abs=0.02)


@pytest.mark.slow
def test_thresholds_are_quantiles_of_likes_less_each_listeners_mean(run, monkeypatch):
    trained = runs.load(run)
    score = runs.catalogue_score(trained)
    batches = list(
        held_out.EvalBatches(trained.store, trained.config.data, trained.config.eval, "validation")
    )
    judge = score.in_form(Form("judge"))
    likes = np.concatenate([np.asarray(judge(batch))[batch.real_B, 1:] for batch in batches])
    expected = np.quantile(likes - likes.mean(1, keepdims=True), curves.QUANTILES)
    found = curves.thresholds(score, batches, trained.store.items)
    assert [quantile for quantile, _ in found] == list(curves.QUANTILES)
    np.testing.assert_allclose([value for _, value in found], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_a_report_shows_the_forms(run):
    trained = runs.load(run)
    values = report.evaluate_run(trained, run, measured={})
    assert json.loads((run / "report.json").read_text())["forms"] == values["forms"]
    found = values["forms"]
    assert set(found["numbers"]) == {"sum", "demote"} and found["curve"][0]["form"] == "rank"
    assert {"judge", "sum", "demote"} <= set(found)
    number = found["numbers"]["demote"]
    form = Form("demote", number["beta"], number["threshold"])
    again = eval_sets.EvalSet(trained.store, trained.config).measure(runs.catalogue_score(trained, form))
    assert found["demote"]["auc"] == again.figures["auc"] != values["auc"]
    assert found["demote"]["difference_auc"] == pytest.approx(values["auc"] - found["demote"]["auc"])
    text = (run / "report.md").read_text()
    assert "## Serving forms" in text and "| in form judge |" in text
    assert (run / "plots" / "forms.png").is_file() or "matplotlib" in text
