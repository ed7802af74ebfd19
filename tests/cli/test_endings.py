"""What verbs say at their end, from figures written by hand."""

import dataclasses
import json
import pathlib

import pytest

from jaxneg.cli import endings
from jaxneg.data import stores

RUN = pathlib.Path("runs/it's mine")


def line(epoch, auc, pairs=40):
    return {
        "step": 10 * epoch,
        "epoch": float(epoch),
        "auc": auc,
        "pairs": pairs,
        "examples": 50,
        "users": 30,
    }


RESULT = {
    "monitor": "auc",
    "best_score": 0.75,
    "best_step": 20,
    "steps": 40,
    "steps_per_epoch": 10,
    "stopped": "patience ran out",
    "seconds": 61.26,
    "device_seconds": 40.0,
    "compile_seconds": 12.5,
    "validation_users": 30,
    "validation_pairs": 40,
    "validation_examples": 50,
    "not_converged": None,
    "epochs_to_convergence": 2.0,
    "steps_to_convergence": 20,
    "sequences_to_convergence": 640,
    "seconds_to_convergence": 19.0,
    "history": [line(0, 0.5), line(1, 0.6), line(2, 0.75), line(4, 0.7)],
}


def row(text, start):
    return next(line for line in text.splitlines() if line.strip().startswith(start)).split()


def test_training_ends_with_first_best_and_last_and_the_next_command():
    text = endings.trained(RUN, RESULT, None)
    assert row(text, "validation AUC")[2:] == ["0.5", "0.75", "0.7"]
    assert row(text, "epoch")[1:] == ["0", "2", "4"]
    assert "40 pairs in 50 examples of 30 users" in text and "61.3 seconds, 40.0 of training" in text
    assert text.splitlines()[0].endswith("patience ran out after 4 epochs")
    assert text.splitlines()[-1] == "next: jaxneg evaluate 'runs/it'\"'\"'s mine'"
    assert "finished before" not in text and "nothing was learned" not in text and "baseline" not in text


@pytest.mark.parametrize(("stopped", "option"), [("patience ran out", "patience"), ("epochs done", "epochs")])
def test_a_finished_run_says_so_and_how_to_go_on(stopped, option):
    result = RESULT | {"stopped": stopped}
    text = endings.trained(RUN, result, result)
    assert "was finished before" in text.splitlines()[0] and f"a larger --train.{option} trains it" in text
    assert "finished before" not in endings.trained(RUN, result, RESULT | {"steps": 10})


def test_a_run_that_learned_nothing_says_so():
    flat = RESULT | {"best_score": 0.5, "best_step": 0, "history": [line(0, 0.5), line(4, 0.5)]}
    assert "nothing was learned: no validation AUC is above the one before training" in endings.trained(
        RUN, flat, None
    )


def test_the_best_baseline_stands_beside_where_validation_was_measured(tmp_path):
    report = {
        "split": "validation",
        "best_baseline": "item_item",
        "baselines": {"item_item": {"auc": 0.71}, "popularity": {"auc": 0.4}},
    }
    (tmp_path / "report.json").write_text(json.dumps(report))
    assert row(endings.trained(tmp_path, RESULT, None), "item item, the best baseline")[-1] == "0.71"
    for other in (report | {"split": "test"}, report | {"best_baseline": None}, [], {}):
        (tmp_path / "report.json").write_text(json.dumps(other))
        assert "the best baseline" not in endings.trained(tmp_path, RESULT, None)


def difference(auc, low, high):
    return {"difference_auc": auc, "difference_auc_low": low, "difference_auc_high": high}


def test_evaluating_ends_with_the_model_beside_the_best_baseline_and_other_runs(tmp_path):
    from tests.training import test_records

    own = test_records.make(tmp_path / "hard", [0.5, 0.62, 0.7])
    (own / "report.md").touch()
    values = {
        "split": "test",
        "time_to_target": [{"spoken": "The model has it at once."}],
        "pair_accuracy": 0.7,
        "auc": 0.72,
        "ndcg@10": 0.1,
        "ndcg@100": 0.2,
        "best_baseline": "item_item",
        "counts": {"auc": {"users": 30, "examples": 50, "pairs": 400}},
        "runs": {
            "random": {"pair_accuracy": 0.6, "auc": 0.61, "ndcg@10": 0.15} | difference(0.11, 0.02, 0.2)
        },
        "baselines": {
            "item_item": {"pair_accuracy": 0.69, "auc": 0.715, "ndcg@10": 0.3}
            | difference(0.005, -0.02, 0.03),
            "popularity": {"pair_accuracy": 0.5, "auc": 0.5, "ndcg@10": 0.3} | difference(0.22, 0.1, 0.3),
        },
    }
    (own / "plots").mkdir()
    (own / "plots" / "auc.png").touch()
    text = endings.evaluated(own, values)
    assert text.endswith("report.md: all figures, with plots")
    assert row(text, "model")[1:] == ["0.7", "0.72", "0.1"]
    assert row(text, "item item")[2:] == ["0.69", "0.715", "0.3", "+0.005", "[-0.020,", "+0.030]"]
    assert "popularity" not in text and "best of 2 baselines" in text
    assert "above run random" in text and "not told apart from item item" in text
    assert text.splitlines()[0] == "The model has it at once."


def test_a_sweep_ends_with_its_rows_highest_first():
    def cell(p_hard, mean, sd):
        return {"labels": {"p_hard": p_hard}, "n": 2, "figures": {"auc": {"mean": mean, "sd": sd}}}

    table = {
        "split": "test",
        "shown": ["auc", "ndcg@10"],
        "axes": {"p_hard": ["0", "1"]},
        "best_baseline": "item_item",
        "cells": [cell("0", 0.5, 0.01), cell("1", 0.625, None)],
        "baselines": {"item_item": {"auc": 0.6}},
    }
    text = endings.swept(pathlib.Path("sweep"), table)
    assert "all figures and differences\n" in text  # and no plots, which are not there
    lines = [line.split() for line in text.splitlines()]
    assert lines[2][:3] == ["1", "2", "0.6250"] and lines[3][:5] == ["0", "2", "0.5000", "±", "0.0100"]
    assert row(text, "item item")[2] == "0.6" and text.startswith("sweep: 4 runs in 2 rows, test split")
    assert text.endswith("next: jaxneg runs sweep")


def test_preparing_ends_with_liked_and_disliked_by_part(small_store):
    metadata = dataclasses.replace(
        stores.Store.open(small_store).metadata,
        polarity={"thumb_up": 1, "play": 1, "skip": -1, "unknown": 0},
        feedback={"train": {"thumb_up": 1, "play": 2000, "skip": 7, "unknown": 5}, "test": {"skip": 3}},
    )
    text = endings.prepared(pathlib.Path("store"), metadata)
    assert row(text, "train")[1:] == ["2,013", "2,001", "7", "5"] and row(text, "test")[1:] == [
        "3",
        "0",
        "3",
        "0",
    ]
    assert "jaxneg train CONFIG --data.store store --workdir RUN" in text.splitlines()[-1]
