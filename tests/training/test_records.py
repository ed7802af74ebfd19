"""Runs side by side, out of directories written by hand."""

import dataclasses
import json
import os
import pathlib

import pytest

import jaxneg
from jaxneg import config as configs
from jaxneg.config import Config, DataConfig, TrainConfig, UserError
from jaxneg.files import documents, locks
from jaxneg.training import records


def make(path, scores, *, p_hard=0.5, seed=0, monitor="auc", ended="patience ran out", epochs=9):
    """A run with one validation an epoch of ten steps; ``ended`` "" leaves it without its end."""
    config = Config(
        data=DataConfig(p_hard=p_hard, seed=seed),
        train=TrainConfig(monitor=monitor, seed=seed, epochs=epochs),
    )
    path.mkdir(parents=True)
    seal(path / "config.json", json.loads(configs.to_json(config)))
    common = {"pairs": 40, "examples": 50, "users": 30}
    history = [
        {"step": 10 * n, "epoch": float(n), "seconds": 2.0 * n, monitor: score, **common}
        for n, score in enumerate(scores)
    ]
    lines = [
        {k if k in ("step", "epoch", "seconds") else f"validation_{k}": v for k, v in line.items()}
        for line in history
    ]
    lines.insert(1, {"step": 5, "epoch": 0.5, "loss": 1.0})
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if ended:
        best = max(range(len(scores)), key=scores.__getitem__)
        result = {
            "monitor": monitor,
            "best_score": scores[best],
            "best_step": 10 * best,
            "steps": 10 * len(scores) - 10,
            "steps_per_epoch": 10,
            "stopped": ended,
            "seconds": 7.0,
            "history": history,
        }
        seal(path / "result.json", result)
    return path


def seal(path, values):
    path.write_text(json.dumps(documents.sealed(values)))


def of(*places):
    return {one.path.name: one for one in records.summaries(places)}


def test_best_and_last_are_of_their_validations_ended_or_not(tmp_path):
    make(tmp_path / "ended", [0.5, 0.7, 0.7, 0.6])
    make(tmp_path / "stopped", [0.5, 0.7, 0.7, 0.6], ended="")
    for name, one in of(tmp_path).items():
        assert one.state == name
        assert (one.best["auc"], one.best["epoch"], one.last["auc"], one.epochs) == (0.7, 1.0, 0.6, 3.0)
        assert (one.best["pairs"], one.best["examples"], one.best["users"]) == (40, 50, 30)


def test_a_run_that_is_to_go_on_has_not_ended(tmp_path):
    make(tmp_path / "short", [0.5, 0.7], ended="epochs done", epochs=2)
    make(tmp_path / "done", [0.5, 0.7], ended="epochs done", epochs=1)
    make(tmp_path / "continued", [0.5, 0.7])
    (tmp_path / "continued" / "checkpoints" / "20").mkdir(parents=True)
    states = {name: one.state for name, one in of(tmp_path).items()}
    assert states == {"short": "stopped", "done": "ended", "continued": "stopped"}


def test_a_run_whose_lock_is_held_is_running_and_one_whose_owner_died_is_not(tmp_path):
    run = make(tmp_path / "run", [0.5], ended="")
    with locks.held(locks.inside(run), "run"):
        [one] = records.summaries([tmp_path])
        assert one.state == "running" and f"process {os.getpid()}" in one.why
        text = locks.inside(run).read_text()
    dead = json.loads(text) | {"started": "1"}
    locks.inside(run).write_text(json.dumps(dead))
    assert records.summary(run).state == "stopped"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("config.json", None),
        ("config.json", "{"),
        ("config.json", "{}"),
        ("result.json", '{"monitor": 3}'),
        ("result.json", {"validation_users": ["x"]}),
        ("result.json", {"validation_examples": "12"}),
        ("result.json", {"compile_seconds": [None]}),
        ("result.json", {"not_converged": 3}),
        ("config.json", '{"data": {}, "data": {}}'),
    ],
)
def test_what_is_damaged_is_said_beside_what_is_not(tmp_path, name, text):
    make(tmp_path / "whole", [0.5])
    run = make(tmp_path / "broken", [0.5])
    (run / "checkpoints").mkdir()
    if isinstance(text, dict):
        text = json.dumps(json.loads((run / name).read_text()) | text)
    (run / name).unlink() if text is None else (run / name).write_text(text)
    whole, broken = records.summaries([tmp_path])
    assert whole.state == "ended" and broken.state == "damaged" and name in broken.why
    assert "\n" not in broken.why


def test_a_line_cut_short_is_left_out_and_one_amid_others_is_damage(tmp_path):
    run = make(tmp_path / "run", [0.5, 0.6], ended="")
    whole = (run / "metrics.jsonl").read_text()
    (run / "metrics.jsonl").write_text(whole + '{"step": 20, "validation_auc": 0.')
    assert records.summary(run).last["auc"] == 0.6
    (run / "metrics.jsonl").write_text('{"validation_auc" 1}\n' + whole)
    assert records.summary(run).state == "damaged"


def test_cells_of_sweeps_are_runs_and_failed_ones_say_why(tmp_path):
    make(tmp_path / "sweep" / "cells" / "a", [0.5])
    make(tmp_path / "sweep" / "cells" / "b", [0.5], ended="")
    (tmp_path / "sweep" / "failed").mkdir()
    (tmp_path / "sweep" / "sweep.json").write_text("{}")
    for name in ("b", "c"):
        (tmp_path / "sweep" / "failed" / f"{name}.json").write_text('{"reason": "no memory", "trace": []}')
    found = of(tmp_path)
    assert {name: (one.state, one.why) for name, one in found.items()} == {
        "a": ("ended", "patience ran out"),
        "b": ("failed", "no memory"),
        "c": ("failed", "no memory"),
    }


def test_the_order_is_by_figure_among_those_that_decide_alike(tmp_path):
    make(tmp_path / "low", [0.5])
    make(tmp_path / "high", [0.9])
    make(tmp_path / "other", [0.95], monitor="pair_accuracy")
    make(tmp_path / "begun", [], ended="")
    assert [one.path.name for one in records.summaries([tmp_path])] == ["high", "low", "other", "begun"]


def test_settings_that_differ_head_the_columns_and_seeds_speak_once(tmp_path):
    for seed in (0, 1):
        make(tmp_path / f"run{seed}", [0.5 + seed / 10], p_hard=seed / 2, seed=seed)
    found = records.summaries([tmp_path])
    assert records.differing(found) == ["data.p_hard", "data.seed", "train.seed"]
    heads, rows = records.table(found)
    assert heads == ["run", "p_hard", "seed", "best", "at epoch", "last", "n", "epochs", "state"]
    assert rows[0] == [str(tmp_path / "run1"), 0.5, 1, 0.6, 0.0, 0.6, 40, 0.0, "ended"]
    heads, rows = records.table(found, "mrr_positive", full=True)
    assert dict(zip(heads, rows[0], strict=True))["best"] is None
    assert dict(zip(heads, rows[0], strict=True))["n"] == 50


def test_from_python_runs_are_typed_and_show_themselves(tmp_path, monkeypatch):
    make(tmp_path / "a", [0.5, 0.75], p_hard=0.0)
    make(tmp_path / "b", [0.5, 0.25], p_hard=1.0)
    found = jaxneg.runs(str(tmp_path))
    assert len(found) == 2 and [one.path.name for one in found[:1]] == ["a"]
    assert found.differing == ("data.p_hard",)
    assert found.open(1).config.data.p_hard == 1.0
    assert [(row["data.p_hard"], row["best"], row["last"]) for row in found.rows()] == [
        (0.0, 0.75, 0.75),
        (1.0, 0.5, 0.25),
    ]
    assert "validation AUC" in repr(found) and "<td" in found._repr_html_() and "0.75" in found._repr_html_()
    monkeypatch.chdir(tmp_path)
    assert [one.path for one in jaxneg.runs()] == [pathlib.Path("a"), pathlib.Path("b")]
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.summaries = ()


def test_a_place_without_runs_is_refused(tmp_path):
    for place, said in ((tmp_path / "no", "no such directory"), (tmp_path, "no run in")):
        with pytest.raises(UserError, match=said):
            records.summaries([place])
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="is no directory"):
        records.summaries([tmp_path / "file"])
