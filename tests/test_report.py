import json
import math
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from jaxneg import config as configs, evaluate, report, run
from jaxneg.batch import CODE, EvalBatch
from jaxneg.data import evaluation, store as stores

ITEMS = 40
RESULT = {
    "monitor": "pair_accuracy", "best_score": 0.81, "best_step": 30, "steps": 50, "steps_per_epoch": 10,
    "stopped": "patience ran out", "seconds": 5.0, "hard_share": 0.43, "epochs_to_convergence": 2.0,
    "seconds_to_convergence": 2.0,
    "history": [{"epoch": e, "seconds": e, "pair_accuracy": 0.8 - 0.2 / e, "auc": 0.75} for e in (1.0, 5.0)],
}  # fmt: skip
CONFIG = configs.override(configs.Config(), ["--eval.bootstrap", "50", "--eval.bands", "3"])
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def no_plots(monkeypatch):
    """Drawing takes longer than all the rest."""
    monkeypatch.setattr(report.plots, "draw", lambda *_, **__: {})


def make_batch(size=60, disliked=True):
    rng = np.random.default_rng(0)
    item_BL, liked_BC, disliked_BC = (
        rng.integers(1, ITEMS + 1, size=(size, c)).astype(np.int32) for c in (5, 2, 2 * disliked)
    )
    pair_B2 = np.stack([liked_BC[:, 0], disliked_BC[:, 0]], 1) if disliked else np.zeros((size, 2), np.int32)
    return EvalBatch(
        item_BL, np.full_like(item_BL, 4), np.zeros_like(item_BL), liked_BC, disliked_BC, pair_B2,
        np.arange(size, dtype=np.int32), rng.random(size).astype(np.float32), np.ones(size, bool),
    )  # fmt: skip


def make_reports(batch):
    """A model that knows the liked items, and baselines that do not."""

    def knows(batch):
        score_BV = np.random.default_rng(1).random((len(batch.user_B), ITEMS + 1)).astype(np.float32)
        np.put_along_axis(score_BV, batch.liked_BC, 2.0, axis=1)
        return score_BV

    def measure(score):
        return evaluate.evaluate(score, [batch], items=ITEMS, config=CONFIG.eval)

    constant = measure(lambda batch: np.zeros((len(batch.user_B), ITEMS + 1), np.float32))
    popular = measure(lambda batch: np.tile(np.arange(ITEMS + 1, dtype=np.float32), (len(batch.user_B), 1)))
    return measure(knows), {
        "popularity": report.Measured(popular, {}),
        "like_rate": report.Measured(constant, {"strength": 2.0}),
    }


def write(directory, batch=None):
    model, measured = make_reports(make_batch() if batch is None else batch)
    return report.write_report(directory, model, measured, config=CONFIG, result=RESULT, split="test")


def test_report_holds_what_scripts_read(tmp_path, no_plots):
    values = write(tmp_path)
    assert json.loads((tmp_path / "report.json").read_text()) == values
    keys = """pair_accuracy pair_accuracy_low pair_accuracy_high auc ndcg@10 hit_rate@10 mrr_positive
    mrr_negative gini@10 epochs_to_convergence baselines"""
    assert set(keys.split()) <= set(values)
    assert values["epochs_to_convergence"] == 2.0
    of_training = """split notes runs baselines epochs best_epoch best_validation seconds_to_convergence hard_share
    false_negatives stopped p_hard share_histogram input_coverage probes"""
    own = set(values) - set(of_training.split())
    for baseline in values["baselines"].values():
        assert own <= set(baseline)
    difference = values["baselines"]["like_rate"]["difference_pair_accuracy"]
    assert difference == pytest.approx(values["pair_accuracy"] - 0.5)


def test_report_reads_as_markdown(tmp_path):
    values = write(tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert "the model is **above** it" in text
    assert "| **model** | " + f"{values['pair_accuracy']:.4f} [" in text
    assert "| like rate | strength 2.0 |" in text
    assert "| share of negatives that were hard | 0.4300 |" in text
    for line in text.splitlines():
        if line.startswith("|"):
            assert "None" not in line and "nan" not in line
    tables = [part.splitlines() for part in text.split("\n\n") if part.startswith("|")]
    assert len(tables) == 7
    for table in tables:
        assert len({line.count("|") for line in table}) == 1


def test_plots_are_pictures_that_the_report_shows(tmp_path):
    write(tmp_path)
    text = (tmp_path / "report.md").read_text()
    drawn = sorted((tmp_path / "plots").glob("*.png"))
    assert [path.stem for path in drawn] == ["accuracy", "exposure", "ranks", "share", "validation"]
    for path in drawn:
        assert path.read_bytes().startswith(PNG)
        assert f"(plots/{path.name})" in text


def test_without_matplotlib_the_report_says_how_to_get_plots(tmp_path, monkeypatch, capsys):
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    write(tmp_path)
    assert "pip install 'jaxneg[plots]'" in capsys.readouterr().err
    text = (tmp_path / "report.md").read_text()
    assert "There are no plots" in text and "![" not in text
    assert not (tmp_path / "plots").exists()


def test_a_split_without_dislikes_is_reported(tmp_path):
    values = write(tmp_path, make_batch(disliked=False)._replace(disliked_BC=np.zeros((60, 1), np.int32)))
    assert values["pair_accuracy"] is None
    assert "there is no pair accuracy" in (tmp_path / "report.md").read_text()
    assert (tmp_path / "plots" / "accuracy.png").exists()


def test_another_run_stands_beside_the_model(tmp_path, no_plots):
    model, measured = make_reports(make_batch())
    config = configs.override(CONFIG, ["--data.p-hard", "0"])
    result = RESULT | {"epochs_to_convergence": 5.0}
    twin = report.Compared(measured["popularity"].report, config, result)
    values = report.write_report(
        tmp_path, model, measured, {"random": twin}, config=CONFIG, result=RESULT, split="test"
    )
    one = values["runs"]["random"]
    assert (one["p_hard"], one["epochs_to_convergence"]) == (0.0, 5.0)
    assert one["difference_auc"] == values["baselines"]["popularity"]["difference_auc"]
    text = (tmp_path / "report.md").read_text()
    assert "it converged after 2 epochs, random after 5." in text
    assert "| p_hard | 0.5 | 0 |" in text
    assert text.count("| run random | ") == 4


PROBED = {
    "feedback_cosines": {
        "kinds": ["skip", "play"],
        "added": [[1.0, -0.25], [-0.25, 1.0]],
        "gate": [[1.0, math.nan], [math.nan, math.nan]],
    },
    "responsiveness": {
        "examples": 7, "top": 100, "flip": {"play": "skip"},
        "overlap": 0.5, "overlap_low": 0.4, "overlap_high": 0.6,
        "attribute": {"before": 0.2, "after": 0.1, "change": -0.5, "change_low": -0.6, "change_high": -0.4},
        "row": {"before": 0.0, "after": 0.0, "change": math.nan, "change_low": math.nan, "change_high": math.nan},
        "item": {"before": 1.0, "after": 0.0, "change": -1.0, "change_low": -1.0, "change_high": -1.0},
    },
}  # fmt: skip


def test_probes_are_reported_beside_those_of_another_run(tmp_path):
    model, measured = make_reports(make_batch())
    down = {"kinds": ["thumb_down", "skip"], "added": [[1.0, 0.75], [0.75, 1.0]]}
    twin = report.Compared(measured["popularity"].report, CONFIG, RESULT, {"feedback_cosines": down})
    coverage = {"likes": {"users_1": 0.5, "users_5": 0.25, "examples_1": 0.75, "examples_5": math.nan}}
    values = report.write_report(
        tmp_path, model, measured, {"other": twin}, config=CONFIG, result=RESULT, split="test", probed=PROBED,
        coverage=coverage,
    )  # fmt: skip
    assert json.loads((tmp_path / "report.json").read_text()) == values
    assert values["probes"]["feedback_cosines"]["gate"] == [[1.0, None], [None, None]]
    assert values["probes"]["responsiveness"]["row"]["change"] is None
    text = (tmp_path / "report.md").read_text()
    assert "|  | model, added | model, gate | run other, added |" in text
    assert "| skip, play | -0.2500 |  |  |" in text
    assert "| thumb down, skip |  |  | +0.7500 |" in text
    assert "top 100 of 7 examples moves when the last event turns from a play into a skip:" in text
    assert "| its relative change | -0.5000 [-0.6000, -0.4000] |" in text
    assert "| likes | 0.5000 | 0.2500 | 0.7500 |  |" in text
    assert (tmp_path / "plots" / "feedback.png").read_bytes().startswith(PNG)
    assert "nan" not in text and "None" not in text


def test_histogram_of_positive_shares(tmp_path, no_plots):
    share_B = np.float32([0.0, 0.04, 0.05, 0.5, 0.7, 0.95, 1.0, np.nan])
    batch = make_batch(size=8)._replace(share_B=share_B)
    expected = [0] * report.SHARES
    for place in (0, 0, 1, 10, 14, 19, 19):
        expected[place] += 1
    assert write(tmp_path, batch)["share_histogram"] == expected


def test_released_protocol_is_reported_with_its_candidates(tmp_path, no_plots):
    config = configs.override(CONFIG, ["--eval.ks", "1", "5", "10", "20", "--eval.released", "6"])
    batch = make_batch()
    found = evaluate.evaluate(
        lambda batch: np.random.default_rng(1).random((len(batch.user_B), ITEMS + 1)), [batch], items=ITEMS,
        config=config.eval,
    )  # fmt: skip
    values = report.write_report(tmp_path, found, {}, config=config, result=RESULT, split="test")
    candidates = min(ITEMS, 6 + len(set(batch.liked_BC[:, 0].tolist())))
    assert values["released_candidates"] == candidates
    text = (tmp_path / "report.md").read_text()
    assert f"and 6 random items, {candidates} candidates on average" in text
    assert "| HR@20 | HR@1, released |" in text and "| HR@10 | ΔHR@10 |" in text
    with pytest.raises(configs.UserError, match=r"--eval.released must be 0 or more, got -1"):
        configs.override(CONFIG, ["--eval.released", "-1"])


def test_a_trained_run_is_probed(worked, tmp_path, monkeypatch):
    monkeypatch.chdir(worked)
    trained = run.load(pathlib.Path("run"))
    examples = evaluation.EvalBatches(trained.store, trained.config.data, trained.config.eval, "test")
    score = run.catalogue_score(trained)
    found = report.probe(trained, score, examples)
    kinds = found["feedback_cosines"]["kinds"]
    assert set(kinds) == {kind for kind, n in trained.store.metadata.feedback["train"].items() if n}
    for table in ("added", "gate"):
        cosine_FF = np.array(found["feedback_cosines"][table])
        np.testing.assert_allclose(np.diag(cosine_FF), 1.0)
        assert cosine_FF.shape == (len(kinds),) * 2 and (cosine_FF == cosine_FF.T).all()
    moved = found["responsiveness"]
    whole = [int(code) for batch in examples for code in last_codes(batch)]
    assert moved["examples"] == sum(whole.count(CODE[kind]) for kind in moved["flip"])
    assert moved["top"] == trained.store.items // 10
    # The gate turns a like's row around, so lists differ; what they hold depends on the run.
    assert 0 <= moved["overlap"] < 1
    assert {"attribute", "row", "item"} <= set(moved)
    coverage = report.input_coverage(trained.store, examples)
    assert list(coverage["likes"]) == ["users_1", "users_5", "examples_1", "examples_5"]


def last_codes(batch):
    """Feedback of each real example's last event."""
    return [
        row[seen][-1]
        for row, seen, real in zip(batch.feedback_BL, batch.item_BL > 0, batch.real_B, strict=True)
        if real
    ]


def test_evaluate_run_reports_probes(worked, tmp_path, monkeypatch):
    monkeypatch.chdir(worked)
    values = report.evaluate_run(run.load(pathlib.Path("run")), tmp_path, measured={})
    assert set(values["probes"]) == {"feedback_cosines", "responsiveness"}
    assert sum(values["share_histogram"]) == values["examples"]
    assert set(values["input_coverage"]) == {"likes", "likes, thumbs-down", "likes, thumbs-down, skips"}
    assert "## What feedback means to the model" in (tmp_path / "report.md").read_text()


@pytest.mark.realdata
def test_baselines_are_as_strong_as_published_signal_on_cm100k(tmp_path):
    """The data comes with figures: AUC .765 by like rate, .766 by signed item-item, .827 by factors."""
    source = pathlib.Path(os.environ.get("JAXNEG_DATA", "../shared/data")) / "cm100k"
    command = [
        sys.executable,
        "-m",
        "jaxneg",
        "prepare",
        "cm100k",
        str(source),
        "--out",
        str(tmp_path / "store"),
    ]
    subprocess.run(command, check=True, capture_output=True)
    config = configs.override(CONFIG, ["--data.store", str(tmp_path / "store")])
    store = stores.Store.open(tmp_path / "store")
    log = report.training_log(store)
    assert (
        len(log.item_T) == (np.asarray(store.session_train_end) - np.asarray(store.session_indptr[:-1])).sum()
    )
    found = {name: one.report.figures["auc"] for name, one in report.measure_baselines(store, config).items()}
    assert found["like_rate"] > 0.75  # another tail, so a point less is no fault
    assert found["item_item"] > 0.755
    assert found["matrix_factorisation"] > 0.82
