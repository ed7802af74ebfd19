import base64
import itertools
import json
import math
import os
import pathlib
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest

from jaxneg import config as configs, figures, metrics
from jaxneg.baselines import counting
from jaxneg.batch import CODE, EvalBatch
from jaxneg.data import held_out, stores
from jaxneg.evaluation import eval_sets, measuring, plots, report, tuning
from jaxneg.metrics import measures
from jaxneg.training import runs, targets
from tests.marks import rest_slow

ITEMS = 40
RESULT = {
    "monitor": "pair_accuracy",
    "best_score": 0.81,
    "best_step": 30,
    "steps": 50,
    "steps_per_epoch": 10,
    "stopped": "patience ran out",
    "seconds": 5.0,
    "hard_share": 0.43,
    "epochs_to_convergence": 2.0,
    "steps_to_convergence": 20,
    "sequences_to_convergence": 2560,
    "seconds_to_convergence": 2.0,
    "compile_seconds": 1.5,
    "validation_pairs": 1312,
    "validation_examples": 1400,
    "validation_users": 40,
    "history": [{"epoch": e, "seconds": e, "pair_accuracy": 0.8 - 0.2 / e, "auc": 0.75} for e in (1.0, 5.0)],
}
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
        item_BL,
        np.full_like(item_BL, 4),
        np.zeros_like(item_BL),
        liked_BC,
        disliked_BC,
        pair_B2,
        np.arange(size, dtype=np.int32),
        rng.random(size).astype(np.float32),
        np.ones(size, bool),
    )


def make_reports(batch):
    """A model that knows the liked items, and baselines that do not."""

    def knows(batch):
        score_BV = np.random.default_rng(1).random((len(batch.user_B), ITEMS + 1)).astype(np.float32)
        np.put_along_axis(score_BV, batch.liked_BC, 2.0, axis=1)
        return score_BV

    def measure(score):
        return measures.evaluate(score, [batch], items=ITEMS, config=CONFIG.eval)

    constant = measure(lambda batch: np.zeros((len(batch.user_B), ITEMS + 1), np.float32))
    popular = measure(lambda batch: np.tile(np.arange(ITEMS + 1, dtype=np.float32), (len(batch.user_B), 1)))
    return measure(knows), {
        "popularity": tuning.Measured(popular, {}),
        "like_rate": tuning.Measured(constant, {"strength": 2.0}),
    }


def write(directory, batch=None):
    model, measured = make_reports(make_batch() if batch is None else batch)
    return write_report(directory, model, measured)


def write_report(
    directory, model, measured, runs=None, *, config=CONFIG, result=RESULT, probed=None, coverage=None
):
    run = measuring.MeasuredRun(model, config, result, probed or {})
    return report.write_report(
        directory, measuring.Findings("test", run, measured, runs or {}, coverage or {})
    )


def test_report_holds_what_scripts_read(tmp_path, no_plots):
    values = write(tmp_path)
    assert json.loads((tmp_path / "report.json").read_text()) == values
    keys = """pair_accuracy pair_accuracy_low pair_accuracy_high auc ndcg@10 hit_rate@10 mrr_positive
    mrr_negative gini@10 epochs_to_convergence baselines"""
    assert set(keys.split()) <= set(values)
    assert values["epochs_to_convergence"] == 2.0
    of_training = """split notes runs baselines epochs best_epoch best_validation seconds_to_convergence hard_share
    false_negatives hard_also_liked stopped p_hard share_histogram input_coverage probes last last_validation monitor
    later_training_share best_baseline not_converged compile_seconds device_seconds steps_to_convergence
    sequences_to_convergence validation_pairs validation_examples validation_users time_to_target"""
    own = set(values) - set(of_training.split())
    for baseline in values["baselines"].values():
        assert own <= set(baseline)
    difference = values["baselines"]["like_rate"]["difference_pair_accuracy"]
    assert difference == pytest.approx(values["pair_accuracy"] - 0.5)


def test_report_reads_as_markdown(tmp_path, no_plots):
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
    assert len(tables) == 8
    for table in tables:
        assert len({line.count("|") for line in table}) == 1


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A report with its plots."""
    directory = tmp_path_factory.mktemp("written")
    write(directory)
    return directory


@pytest.mark.slow
def test_plots_are_pictures_that_the_report_shows(written):
    text = (written / "report.md").read_text()
    drawn = sorted((written / "plots").glob("*.png"))
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
    twin = measuring.MeasuredRun(measured["popularity"].report, config, result)
    values = write_report(tmp_path, model, measured, {"random": twin})
    one = values["runs"]["random"]
    assert (one["p_hard"], one["epochs_to_convergence"]) == (0.0, 5.0)
    assert one["difference_auc"] == values["baselines"]["popularity"]["difference_auc"]
    text = (tmp_path / "report.md").read_text()
    assert "Trained: the model, converged after 2 epochs; random, converged after 5 epochs." in text
    assert "| p_hard | 0.5 | 0 |" in text
    assert text.count("| run random | ") == 5
    assert values["time_to_target"] == [] and "to the best of" not in text


def test_the_head_of_a_report_says_when_the_model_was_as_good(tmp_path):
    from tests.training import test_targets

    model, measured = make_reports(make_batch())
    own, other = (test_targets.trace(0.5, *scores) for scores in ((0.7,), (0.6, 0.65)))
    sides = [targets.Side("the model", [own]), targets.Side("run random", [other])]
    found = [targets.compare(sides[0], sides[1])]
    run = measuring.MeasuredRun(model, CONFIG, RESULT)
    values = report.write_report(
        tmp_path, measuring.Findings("test", run, measured, reached=found, sides=sides)
    )
    (one,) = values["time_to_target"]
    assert one["ratio"]["epochs"]["mean"] == pytest.approx(0.5) and one["passages"][0]["target"] == 0.65
    lines = [line for line in (tmp_path / "report.md").read_text().splitlines() if line]
    assert lines[1] == one["spoken"] and lines[1].startswith(
        "The model has the best validation AUC of run random"
    )
    assert lines[2] == "![Time to target](plots/target.png)"
    assert lines[5].startswith("| run random | 0.65 | 2 -> 1, -50% |")
    assert (tmp_path / "plots" / "target.png").read_bytes().startswith(PNG)
    page = (tmp_path / "report.html").read_text()
    assert page.index("50% fewer epochs") < page.index("data:image/png") < page.index("<table>")


PROBED = {
    "feedback_cosines": {
        "kinds": ["skip", "play"],
        "added": [[1.0, -0.25], [-0.25, 1.0]],
        "gate": [[1.0, math.nan], [math.nan, math.nan]],
    },
    "responsiveness": {
        "users": 3,
        "examples": 7,
        "top": 100,
        "flip": {"play": "skip"},
        "overlap": 0.5,
        "overlap_low": 0.4,
        "overlap_high": 0.6,
        "attribute": {"before": 0.2, "after": 0.1, "change": -0.5, "change_low": -0.6, "change_high": -0.4},
        "row": {
            "before": 0.0,
            "after": 0.0,
            "change": math.nan,
            "change_low": math.nan,
            "change_high": math.nan,
        },
        "item": {"before": 1.0, "after": 0.0, "change": -1.0, "change_low": -1.0, "change_high": -1.0},
    },
}


def test_users_examples_and_pairs_stand_beside_every_figure(tmp_path, no_plots):
    """Sixty examples of six users, four of them with a pair of an item with itself alone."""
    batch = make_batch()
    batch = batch._replace(user_B=batch.user_B // 10)
    same = np.flatnonzero(batch.pair_B2[:, 0] == batch.pair_B2[:, 1])
    values = write(tmp_path, batch)
    pairs = 60 - len(same)
    assert values["users"] == 6 and values["pairs"] == pairs and values["same_pairs"] > 0
    whole = 4 * 60 - values["same_pairs"]
    assert values["counts"]["auc"] == {"users": 6, "examples": 60, "pairs": whole}
    text = (tmp_path / "report.md").read_text()
    assert (
        f"{pairs} pairs in {pairs} examples of 6 users" in text
        and f"{whole} pairs in 60 examples of 6 users" in text
    )
    assert f"{values['same_pairs']} such pairs are left out" in text
    assert "**6 users** with a pair: an interval over so few is rough" in text
    assert "6 pairs in 6 examples of 6 users" in text  # one of each
    assert "Liked: 60 examples of 6 users" in text
    assert "Validation: 1,312 pairs in 1,400 examples of 40 users." in text


def test_a_run_that_has_not_converged_says_so_wherever_it_is_shown(tmp_path, no_plots):
    model, measured = make_reports(make_batch())
    unknown = {f"{unit}_to_convergence": None for unit in ("epochs", "steps", "sequences", "seconds")}
    limit = RESULT | unknown | {"stopped": "epochs done", "not_converged": "it stopped at its limit"}
    twin = measuring.MeasuredRun(measured["popularity"].report, CONFIG, RESULT)
    values = write_report(tmp_path, model, measured, {"b": twin}, config=CONFIG, result=limit)
    assert values["epochs_to_convergence"] is None and values["not_converged"] == "it stopped at its limit"
    text = (tmp_path / "report.md").read_text()
    assert "Trained: the model, not converged: it stopped at its limit; b, converged after 2 epochs." in text
    assert "| converged after epochs | not converged: it stopped at its limit | 2 |" in text
    assert "| steps | not converged | 20 |" in text


def test_one_user_has_figures_and_no_interval(tmp_path):
    batch = make_batch()
    values = write(tmp_path, batch._replace(user_B=np.zeros_like(batch.user_B)))
    assert values["pair_accuracy"] > 0.5 and values["pair_accuracy_low"] is None
    one = values["baselines"]["popularity"]
    assert one["difference_auc"] is not None and one["difference_auc_high"] is None
    text = (tmp_path / "report.md").read_text()
    assert "not told apart from" in text and "None" not in text and "nan" not in text


def test_the_best_baseline_is_that_of_validation(tmp_path, no_plots):
    model, measured = make_reports(make_batch())
    measured["popularity"] = measured["popularity"]._replace(validation_auc=0.6)
    measured["like_rate"] = measured["like_rate"]._replace(
        validation_auc=0.7, seeds=3, sd={"auc": 0.01}, sees="history"
    )
    values = write_report(tmp_path, model, measured)
    assert values["best_baseline"] == "like_rate"
    assert (values["baselines"]["like_rate"]["sd"], values["baselines"]["like_rate"]["seeds"]) == (
        {"auc": 0.01},
        3,
    )
    text = (tmp_path / "report.md").read_text()
    assert "The best baseline by AUC on validation, like rate," in text
    assert "| 0.5000 ± 0.0100 [0.5000, 0.5000] |" in text
    assert "| all training events, and the last 50 events |" in text


@pytest.mark.parametrize(
    "monitor",
    rest_slow(
        ["user_pair_accuracy", "auc", "ndcg@10", "hit_rate@100", "mrr_positive", "next_hit_rate@10"],
        ["ndcg@10"],
    ),
)
def test_a_run_of_every_monitor_is_reported_and_drawn(tmp_path, monitor):
    history = [line | {monitor: 0.1 * n} for n, line in enumerate(RESULT["history"])]
    model, measured = make_reports(make_batch())
    config = configs.override(CONFIG, ["--train.monitor", monitor])
    result = RESULT | {"monitor": monitor, "history": history}
    write_report(tmp_path, model, measured, config=config, result=result)
    assert (tmp_path / "plots" / "validation.png").read_bytes().startswith(PNG)
    assert f"| figure that decided | {figures.title(monitor)} |" in (tmp_path / "report.md").read_text()


def test_probes_are_reported_beside_those_of_another_run(tmp_path):
    model, measured = make_reports(make_batch())
    down = {"kinds": ["thumb_down", "skip"], "added": [[1.0, 0.75], [0.75, 1.0]]}
    twin = measuring.MeasuredRun(measured["popularity"].report, CONFIG, RESULT, {"feedback_cosines": down})
    coverage = {"likes": {"users_1": 0.5, "users_5": 0.25, "examples_1": 0.75, "examples_5": math.nan}}
    values = write_report(tmp_path, model, measured, {"other": twin}, probed=PROBED, coverage=coverage)
    assert json.loads((tmp_path / "report.json").read_text()) == values
    assert values["probes"]["feedback_cosines"]["gate"] == [[1.0, None], [None, None]]
    assert values["probes"]["responsiveness"]["row"]["change"] is None
    text = (tmp_path / "report.md").read_text()
    assert "|  | model, added | model, gate | run other, added |" in text
    assert "| skip, play | -0.2500 |  |  |" in text
    assert "| thumb down, skip |  |  | +0.7500 |" in text
    assert "top 100 of 7 examples of 3 users moves when the last event turns from a play into a skip:" in text
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
    found = measures.evaluate(
        lambda batch: np.random.default_rng(1).random((len(batch.user_B), ITEMS + 1)),
        [batch],
        items=ITEMS,
        config=config.eval,
    )
    values = write_report(tmp_path, found, {}, config=config)
    candidates = min(ITEMS, 6 + len(set(batch.liked_BC[:, 0].tolist())))
    assert values["released_candidates"] == candidates
    text = (tmp_path / "report.md").read_text()
    assert f"and 6 random items, {candidates} candidates on average" in text
    assert "| HR@20 | HR@1, released |" in text and "| HR@10 | ΔHR@10 |" in text
    with pytest.raises(configs.UserError, match=r"--eval.released must be 0 or more, got -1"):
        configs.override(CONFIG, ["--eval.released", "-1"])


@pytest.mark.slow
def test_a_trained_run_is_probed(worked, tmp_path, monkeypatch):
    monkeypatch.chdir(worked)
    trained = runs.load(pathlib.Path("run"))
    examples = held_out.EvalBatches(trained.store, trained.config.data, trained.config.eval, "test")
    score = runs.catalogue_score(trained)
    found = measuring.probe(trained, score, examples)
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
    coverage = measuring.input_coverage(trained.store, examples)
    assert list(coverage["likes"]) == ["users_1", "users_5", "examples_1", "examples_5"]


def last_codes(batch):
    """Feedback of each real example's last event."""
    return [
        row[seen][-1]
        for row, seen, real in zip(batch.feedback_BL, batch.item_BL > 0, batch.real_B, strict=True)
        if real
    ]


@pytest.mark.slow
def test_evaluate_run_reports_probes(worked, tmp_path, monkeypatch):
    monkeypatch.chdir(worked)
    values = report.evaluate_run(runs.load(pathlib.Path("run")), tmp_path, measured={})
    assert set(values["probes"]) == {"feedback_cosines", "responsiveness"}
    assert sum(values["share_histogram"]) == values["examples"]
    assert set(values["input_coverage"]) == {"likes", "likes, thumbs-down", "likes, thumbs-down, skips"}
    assert "## What feedback means to the model" in (tmp_path / "report.md").read_text()


@pytest.mark.slow
def test_a_run_is_reported_with_its_last_epoch(worked, tmp_path, monkeypatch, no_plots):
    monkeypatch.chdir(worked)
    directory = shutil.copytree("run", tmp_path / "run")
    trained = runs.load(directory)
    steps = sorted(int(path.name) for path in (directory / "checkpoints").iterdir() if path.name.isdigit())
    other = next(step for step in steps if step != trained.result["best_step"])
    trained = trained._replace(result=trained.result | {"steps": other})
    values = report.evaluate_run(trained, directory, measured={})
    last = values["last"]
    assert not last["is_best"] and last["validation"] == {
        name: trained.result["history"][-1][name] for name in ("pair_accuracy", "auc")
    }
    score = runs.catalogue_score(runs.load(directory, step=other))
    examples = held_out.EvalBatches(trained.store, trained.config.data, trained.config.eval, "test")
    found = measures.evaluate(score, examples, items=trained.store.items, config=trained.config.eval)
    assert (last["auc"], last["ndcg@10"]) == (found.figures["auc"], found.figures["ndcg@10"])
    assert last["difference_auc"] == pytest.approx(values["auc"] - last["auc"])
    assert "| its last epoch |" in (directory / "report.md").read_text()
    best = report.evaluate_run(
        trained._replace(result=trained.result | {"steps": trained.result["best_step"]}),
        tmp_path,
        measured={},
    )
    assert best["last"]["is_best"] and "auc" not in best["last"]


def test_a_baseline_with_a_random_start_is_a_mean_over_seeds(worked, monkeypatch):
    monkeypatch.chdir(worked)
    trained = runs.load(pathlib.Path("run"))
    store, config = trained.store, trained.config
    eval_set = eval_sets.EvalSet(store, config)
    validation = list(held_out.EvalBatches(store, config.data, config.eval, "validation"))
    fits = {}

    def fit(log, sign, validate):
        def make(seed):
            rng = np.random.default_rng(seed)
            table = rng.random((log.users + 1, log.items + 1)).astype(np.float32)
            fits[seed] = lambda batch: table[batch.user_B]
            return fits[seed]

        return counting.Fitted(make(0), {"a": 1}, "history", make)

    found = tuning.measure_baseline(fit, counting.training_log(store), validation, eval_set, "drawn")
    each = [eval_set.measure(fits[s]) for s in range(3)]
    assert (found.seeds, found.sees) == (3, "history")
    for name in ("pair_accuracy", "auc", "ndcg@10", "gini@10"):
        values = [one.figures[name] for one in each]
        assert found.report.figures[name] == pytest.approx(np.mean(values))
        assert found.sd[name] == pytest.approx(np.std(values, ddof=1))
    assert found.report.bands[1]["auc"] == pytest.approx(np.mean([one.bands[1]["auc"] for one in each]))
    aucs = np.mean([one.value_X["auc"] for one in each], axis=0)
    low, high = metrics.bootstrap(
        aucs, each[0].user_X, resamples=config.eval.bootstrap, seed=config.eval.pair_seed
    )
    assert (found.report.figures["auc_low"], found.report.figures["auc_high"]) == (low, high)
    assert found.validation_auc == pytest.approx(
        np.mean([measures.separation(fits[s], validation)["auc"] for s in range(3)])
    )


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
    log = counting.training_log(store)
    assert (
        len(log.item_T) == (np.asarray(store.session_train_end) - np.asarray(store.session_indptr[:-1])).sum()
    )
    found = {
        name: one.report.figures["auc"]
        for name, one in tuning.measure_baselines(eval_sets.EvalSet(store, config)).items()
    }
    assert found["like_rate"] > 0.75  # another tail, so a point less is no fault
    assert found["item_item"] > 0.755
    assert found["matrix_factorisation"] > 0.82


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("run b", "run b"),
        ("x" * 32, "x" * 32),
        ("run /" + "very/long/" * 12 + "b", "run /ver…g/very/long/very/long/b"),
        ("é" * 33, "é" * 8 + "…" + "é" * 23),
    ],
)
def test_a_name_is_as_long_as_a_plot_has_room_for(name, said):
    assert figures.shortened(name) == said and len(said) <= 32


@pytest.mark.slow
def test_plots_of_runs_with_long_names_keep_their_axes(tmp_path):
    """Without room a layout gives up, and matplotlib warns of axes of no size, which is an error in tests."""
    long = "/" + "a_very_long_directory_name_" * 6
    model, measured = make_reports(make_batch())
    run = measuring.MeasuredRun(model, CONFIG, RESULT)
    others = {f"{long}/{n}": run for n in range(6)}
    titles = plots.draw(tmp_path, measuring.Findings("test", run, measured, others))
    assert set(titles) == {path.name for path in tmp_path.iterdir()}
    assert 0.5 < width(tmp_path / "validation.png") and 0.4 < width(tmp_path / "accuracy.png")


def test_a_legend_names_runs_by_the_settings_that_differ():
    def config(*words):
        return configs.override(configs.Config(), list(words))

    few = {
        "model": config("--data.p-hard", "1"),
        "run b": config("--data.p-hard", "0", "--data.store", "moved"),
    }
    assert plots.legends(few) == {"model": "model: p_hard 1.0", "run b": "run b: p_hard 0.0"}
    many = ["--data.p-hard", "0", "--model.width", "8", "--model.layers", "1", "--train.epochs", "9"]
    assert plots.legends(few | {"run c": config(*many)}) == {
        "model": "model",
        "run b": "run b",
        "run c": "run c",
    }
    assert plots.legends({"model": config()}) == {"model": "model"}


def test_the_report_is_one_file_of_html_with_its_pictures_inside(written):
    text = (written / "report.html").read_text()
    pictures = re.findall(r'<img src="data:image/png;base64,([^"]+)"', text)
    drawn = [path.read_bytes() for path in (written / "plots").iterdir()]
    assert sorted(map(base64.b64decode, pictures)) == sorted(drawn)
    assert not re.findall(r'(?:src|href)="(?!data:)', text)  # nothing that lies elsewhere
    page = (written / "report.md").read_text()
    assert text.count("<table>") == sum(part.startswith("|") for part in page.split("\n\n"))
    cells = re.findall(r"<t[dh][ >]", text)
    assert len(cells) == sum(
        line.count("|") - 1 for line in page.splitlines() if line.startswith("|") and "---" not in line
    )


def width(path: pathlib.Path) -> float:
    """Share of a picture's width that its axes take, by the longest dark line of its rows: the x axis."""
    import matplotlib.image

    dark_YX = matplotlib.image.imread(path)[..., :3].mean(axis=-1) < 0.3
    longest = max(sum(group) for row in dark_YX for dark, group in itertools.groupby(row.astype(int)) if dark)
    return longest / dark_YX.shape[1]
