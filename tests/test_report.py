import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from jaxneg import config as configs, evaluate, report
from jaxneg.batch import EvalBatch
from jaxneg.data import store as stores

ITEMS = 40
RESULT = {
    "monitor": "pair_accuracy", "best_score": 0.81, "best_step": 30, "steps": 50, "steps_per_epoch": 10,
    "stopped": "patience ran out", "seconds": 5.0, "hard_share": 0.43, "epochs_to_convergence": 2.0,
    "seconds_to_convergence": 2.0,
    "history": [{"epoch": e, "seconds": e, "pair_accuracy": 0.8 - 0.2 / e, "auc": 0.75} for e in (1.0, 5.0)],
}  # fmt: skip
CONFIG = configs.override(configs.Config(), ["--eval.bootstrap", "50", "--eval.bands", "3"])
PNG = b"\x89PNG\r\n\x1a\n"


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


def test_report_holds_what_scripts_read(tmp_path):
    values = write(tmp_path)
    assert json.loads((tmp_path / "report.json").read_text()) == values
    keys = """pair_accuracy pair_accuracy_low pair_accuracy_high auc ndcg@10 hit_rate@10 mrr_positive
    mrr_negative gini@10 epochs_to_convergence baselines"""
    assert set(keys.split()) <= set(values)
    assert values["epochs_to_convergence"] == 2.0
    of_training = """split runs baselines epochs best_epoch best_validation seconds_to_convergence hard_share
    stopped p_hard"""
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
    assert len(tables) == 5
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


def test_another_run_stands_beside_the_model(tmp_path):
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
    assert text.count("| run random | ") == 2


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
