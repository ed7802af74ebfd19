"""Sweeps: grids by hand, tables against a second computation, and real processes that are killed and go on."""

import csv
import dataclasses
import io
import itertools
import json
import math
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from scipy import stats

from jaxneg import cli, config as configs, metrics
from jaxneg.config import Config, UserError
from jaxneg.files import locks
from jaxneg.sweep import grids, plots, runner, tables
from jaxneg.sweep.grids import Sweep, over

pytestmark = pytest.mark.slow

PNG = b"\x89PNG\r\n\x1a\n"
OPTIONS = """--data.length 6 --data.batch-size 32 --model.width 8 --model.layers 1 --train.epochs 2 --train.devices 1
--train.checkpoint-every 5 --eval.batch-size 64 --eval.bootstrap 50""".split()
FIGURES = ("pair_accuracy", "auc", "gini@10", "epochs_to_convergence")
SPEC = Sweep({"p_hard": over("--data.p-hard", 0, 1)}, seeds=2, figures=FIGURES, reference={"p_hard": "0"})


def test_an_axis_of_an_option():
    assert over("--data.p-hard", 0, 0.1) == {"0": ("--data.p-hard", "0"), "0.1": ("--data.p-hard", "0.1")}
    assert over("--model.tied", True, False) == {"True": ("--model.tied",), "False": ("--model.no-tied",)}
    assert over("--data.inputs", (), ("play", "skip")) == {
        "none": ("--data.inputs",),
        "play skip": ("--data.inputs", "play", "skip"),
    }
    with pytest.raises(UserError, match=r"--data\.p-hard has a value twice: 0, 0"):
        over("--data.p-hard", 0, 0)


def test_a_grid_by_hand():
    base = configs.override(Config(), ["--data.seed", "5", "--model.width", "16"])
    spec = Sweep(
        {
            "p_hard": over("--data.p-hard", 0, 0.5),
            "loss": {"plain": (), "many": ("--loss.name", "bpr_max", "--data.negatives", "7")},
        },
        seeds=2,
    )
    cells = grids.expand(base, spec)
    assert [(cell.labels, cell.seed) for cell in cells] == [
        (("0", "plain"), 0),
        (("0", "many"), 0),
        (("0.5", "plain"), 0),
        (("0.5", "many"), 0),
        (("0", "plain"), 1),
        (("0", "many"), 1),
        (("0.5", "plain"), 1),
        (("0.5", "many"), 1),
    ]
    last = cells[-1].config
    assert (last.data.p_hard, last.data.negatives, last.loss.name) == (0.5, 7, "bpr_max")
    assert (last.data.seed, last.train.seed, last.model.width) == (6, 1, 16)
    assert cells[-1].name == "p_hard=0.5,loss=many,seed=1" and cells[-1].trouble is None
    first = dataclasses.replace(base, data=dataclasses.replace(base.data, p_hard=0.0))
    assert cells[0].config == first
    assert len({cell.name for cell in cells}) == len(cells)


def test_names_of_cells_are_paths_and_differ():
    labels = ["a/b", "a b", "a:b", "x" * 60, "x" * 61]
    spec = Sweep({"odd name": {label: () for label in labels}}, seeds=1)
    names = [cell.name for cell in grids.expand(Config(), spec)]
    assert len(set(names)) == len(labels)
    assert all(re.fullmatch(r"[\w.+=,~-]{1,80}", name) for name in names)
    # A name does not depend on which values stand beside it, as long as they are told apart.
    alone = Sweep({"odd name": {"a/b": ()}}, seeds=1)
    assert grids.expand(Config(), alone)[0].name == names[0]


def test_axes_of_the_command_line():
    spec = Sweep({"p_hard": over("--data.p-hard", 0, 1), "loss": {"a": (), "b": ("--loss.name", "gbce")}})
    found = grids.with_axes(spec, ["data.p-hard=0.2,0.4", "loss=b", "--model.tied=true,False", "layers=1"])
    assert found.axes == {
        "p_hard": {"0.2": ("--data.p-hard", "0.2"), "0.4": ("--data.p-hard", "0.4")},
        "loss": {"b": ("--loss.name", "gbce")},
        "tied": {"True": ("--model.tied",), "False": ("--model.no-tied",)},
        "layers": {"1": ("--model.layers", "1")},
    }
    assert grids.with_axes(SPEC, ["p_hard=0.2,0.4"]).reference == {}
    assert grids.with_axes(SPEC, ["p_hard=0,0.4"]).reference == {"p_hard": "0"}
    inputs = grids.with_axes(Sweep({}), ["inputs=play skip,"]).axes
    assert inputs == {"inputs": over("--data.inputs", ("play", "skip"), ())}
    cells = grids.expand(
        Config(), grids.with_axes(Sweep({}, seeds=1), ["inputs=play skip,", "tied=True,False"])
    )
    assert [(cell.config.data.inputs, cell.config.model.tied) for cell in cells] == list(
        itertools.product([("play", "skip"), ()], [True, False])
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("p_hard", "--set p_hard: write NAME=V1,V2"),
        ("=1", "--set =1: write NAME=V1,V2"),
        ("p_hrad=0,1", "--set p_hrad: no option has that name; perhaps you meant .*p_hard"),
        ("feedback=1", "--set feedback: say which of model.feedback, loss.feedback"),
        ("p_hard=0,,1", "--set p_hard has an empty value"),
        ("p_hard=0,0", "the axis of --data.p-hard has a value twice"),
        ("tied=maybe", "--set tied: 'maybe' is neither True nor False"),
    ],
)
def test_a_wrong_axis_of_the_command_line_is_one_line(text, message):
    with pytest.raises(UserError, match=message) as raised:
        grids.with_axes(Sweep({}), [text])
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("axes", "more", "message"),
    [
        ({"p": over("--data.p-hrad", 0)}, {}, "p=0: .*--data.p-hrad.*jaxneg sweep --help"),
        ({"p": over("--data.p-hard", 0, "much")}, {}, "p=much: .*--data.p-hard"),
        ({"p": over("--data.p-hard", 0, 2)}, {}, r"p=2: --data.p-hard must be in \[0, 1\]"),
        ({"s": over("--data.seed", 0)}, {}, "axis s sets --data.seed, .*use --seeds"),
        (
            {"p": over("--data.p-hard", 0), "q": over("--data.p-hard", 1)},
            {},
            "axes p and q both set --data.p-hard",
        ),
        ({"t": over("--model.tied", True), "u": over("--model.tied", False)}, {}, "both set --model.tied"),
        ({"p": {}}, {}, "axis p has no values"),
        ({}, {"seeds": 0}, "at least 1 seed"),
        ({"p": over("--data.p-hard", 0)}, {"reference": {"p": "1"}}, "the reference p=1 is no value"),
    ],
)
def test_a_wrong_grid_is_one_line(axes, more, message):
    with pytest.raises(UserError, match=message) as raised:
        grids.expand(Config(), Sweep(axes, **more))
    assert "\n" not in str(raised.value)


def test_settings_that_clash_in_some_cells_fail_there_alone():
    spec = Sweep(
        {"encoder": over("--model.encoder", "sasrec", "bert4rec"), "mask": over("--data.mask", 0, 0.2)},
        seeds=1,
    )
    troubles = {cell.labels: cell.trouble for cell in grids.expand(Config(), spec)}
    assert "hide events with --data.mask" in str(troubles.pop(("bert4rec", "0")))
    assert set(troubles.values()) == {None}


def test_an_option_beside_its_axis_is_refused():
    with pytest.raises(UserError, match="--data.p-hard is the axis p_hard of this sweep: use --set p_hard="):
        grids.refuse_swept(Config(), configs.override(Config(), ["--data.p-hard", "0.3"]), SPEC)
    grids.refuse_swept(Config(), configs.override(Config(), ["--model.width", "8"]), SPEC)


def test_a_file_without_a_sweep_has_no_axes_and_a_wrong_one_is_one_line(tmp_path):
    path = tmp_path / "config.py"
    path.write_text("")
    assert grids.load(path) == Sweep({})
    path.write_text("def get_sweep():\n    return 7\n")
    with pytest.raises(UserError, match=r"must return a jaxneg\.sweep\.grids\.Sweep, got int"):
        grids.load(path)
    path.write_text("async def get_sweep():\n    return 7\n")
    with pytest.raises(UserError, match="Sweep, got coroutine"):
        grids.load(path)
    path.write_text("def get_sweep():\n    return undefined\n")
    with pytest.raises(UserError, match="could not be loaded: NameError"):
        grids.load(path)


def test_spread_is_the_t_interval():
    # Three values with mean 2 and s.d. 1; 4.302653 is the 97.5% point of t with 2 degrees of freedom, from tables.
    one = metrics.spread([1.0, 2.0, 3.0])
    assert one["mean"] == 2.0 and one["sd"] == 1.0 and one["n"] == 3
    assert one["low"] == pytest.approx(2 - 4.302653 / math.sqrt(3), abs=1e-6)
    values = np.random.default_rng(0).normal(size=7).tolist()
    low, high = stats.t.interval(0.95, 6, loc=np.mean(values), scale=stats.sem(values))
    many = metrics.spread(values)
    assert (many["low"], many["high"]) == (pytest.approx(low), pytest.approx(high))
    assert metrics.spread([0.5]) == {"mean": 0.5, "sd": None, "low": None, "high": None, "n": 1}
    assert metrics.spread([])["mean"] is None


def values(*pair_accuracy):
    pair_X2 = np.arange(2 * len(pair_accuracy), dtype=np.int32).reshape(-1, 2)
    value_X = np.array(pair_accuracy, np.float32)
    users = np.arange(len(value_X))
    return tables.Values(pair_X2, users, {"pair_accuracy": value_X, "auc": 1 - value_X})


def found(accuracies, values=None, failed=None):
    figures = {s: {"pair_accuracy": value, "pairs": 3, "none": None} for s, value in accuracies.items()}
    return tables.Found(figures, values or {}, failed or {})


def summary(cells, **more):
    settings = {
        "seeds": 2,
        "figures": ("pair_accuracy",),
        "reference": {},
        "baselines": {},
        "resamples": 200,
        "seed": 0,
    } | more
    labels = [label for (label,) in cells]
    return {"split": "test"} | tables.summary({"p": labels}, cells, **settings)


def test_differences_are_paired_over_seeds_and_over_examples():
    nan = math.nan
    cells = {
        ("0",): found({0: 0.5, 1: 0.7}, {0: values(0, 1, nan), 1: values(1, 1, nan)}),
        ("1",): found({0: 0.6, 1: 0.9}, {0: values(1, 1, nan), 1: values(1, 0, nan)}),
    }
    table = summary(cells, reference={"p": "0"})
    reference, other = table["cells"]
    assert "less_reference" not in reference
    over_seeds = other["less_reference"]["over_seeds"]["pair_accuracy"]
    assert over_seeds["mean"] == pytest.approx(0.15) and over_seeds["sd"] == pytest.approx(
        statistics.stdev([0.1, 0.2])
    )
    # Averaged over seeds the examples are 0.5, 1 and 1, 0.5; the third has no pair.
    over_examples = other["less_reference"]["over_examples"]
    assert over_examples["pair_accuracy"]["mean"] == 0.0 and over_examples["auc"]["mean"] == 0.0
    assert (over_examples["pair_accuracy"]["low"], over_examples["pair_accuracy"]["high"]) == (-0.5, 0.5)
    assert other["figures"]["none"]["mean"] is None


def test_intervals_of_differences_resample_users():
    """Ten examples of one user gain, ten of another lose: between two users there are three means."""
    cells = {("0",): found({0: 0.5}, {0: values(*[0.5] * 20)})}
    better = values(*[1.0] * 10, *[0.0] * 10)
    cells[("1",)] = found({0: 0.6}, {0: better._replace(user_X=np.repeat([3, 8], 10))})
    cells[("0",)].values[0] = cells[("0",)].values[0]._replace(user_X=np.repeat([3, 8], 10))
    one = summary(cells, reference={"p": "0"})["cells"][1]["less_reference"]["over_examples"]["pair_accuracy"]
    assert one == {"mean": 0.0, "low": -0.5, "high": 0.5, "users": 2, "examples": 20}
    for cell in cells.values():
        cell.values[0] = cell.values[0]._replace(user_X=np.zeros(20, int))
    table = summary(cells, reference={"p": "0"})
    one = table["cells"][1]["less_reference"]["over_examples"]["pair_accuracy"]
    assert (one["mean"], one["low"], one["high"], one["users"]) == (0.0, None, None, 1)
    assert "## Less p 0\n" in (text := tables.markdown(table, {})) and "| 1 | +0.0000 | +0.0000 |" in text
    del cells[("1",)]
    assert "## " not in tables.markdown(summary(cells, reference={"p": "0"}), {})


def test_only_common_seeds_and_equal_examples_are_compared():
    cells = {
        ("0",): found({1: 0.7}, {1: values(1, 1)}, {0: "ran out"}),
        ("1",): found({0: 0.1, 1: 0.9}, {0: values(0, 0), 1: values(1, 0)}),
        ("2",): found({0: 0.1, 1: 0.9}, {0: values(0, 0, 0), 1: values(1, 0, 0)}),
    }
    table = summary(cells, reference={"p": "0"})
    _, one, other = (cell.get("less_reference") for cell in table["cells"])
    assert one["over_seeds"]["pair_accuracy"]["n"] == 1
    assert one["over_seeds"]["pair_accuracy"]["mean"] == pytest.approx(0.2)
    assert one["over_examples"]["pair_accuracy"]["mean"] == -0.5
    assert other["over_examples"] == {"pair_accuracy": None, "auc": None}
    text = tables.markdown(table, {})
    assert "## Failed\n\n- p 0, seed 0: ran out\n" in text
    lines = list(csv.DictReader(io.StringIO(tables.csv_text(table))))
    assert [(line["p"], line["seed"], line["pair_accuracy"], line["failed"]) for line in lines] == [
        ("0", "0", "", "ran out"),
        ("0", "1", "0.7", ""),
        ("1", "0", "0.1", ""),
        ("1", "1", "0.9", ""),
        ("2", "0", "0.1", ""),
        ("2", "1", "0.9", ""),
    ]


@pytest.mark.parametrize("unit", ["epochs", "steps", "sequences", "seconds"])
@pytest.mark.parametrize(("second", "mean"), [(6.0, 5.0), (None, None)])
def test_a_mean_is_not_of_those_that_converged_in_time(unit, second, mean):
    name = f"{unit}_to_convergence"
    cells = {
        ("0",): tables.Found(
            {0: {name: 4.0, "auc": 0.5}, 1: {name: second, "auc": None}}, {0: values(1), 1: values(1)}, {}
        ),
        ("1",): tables.Found(
            {0: {name: 3.0, "auc": 0.6}, 1: {name: 3.0, "auc": 0.7}}, {0: values(1), 1: values(1)}, {}
        ),
    }
    zero, one = summary(cells, reference={"p": "0"})["cells"]
    assert zero["figures"][name]["mean"] == mean and zero["figures"]["auc"]["mean"] == 0.5
    assert one["less_reference"]["over_seeds"][name]["mean"] == (None if mean is None else 3.0 - mean)
    assert one["figures"][name]["mean"] == 3.0 and zero["seeds"]["0"][name] == 4.0


def test_the_best_baseline_is_compared_with():
    cells = {("0",): found({0: 0.5}, {0: values(1, 1)})}
    of = {  # the best on validation is not that on the test
        "low": ({"auc": 0.9, "validation_auc": 0.4, "pair_accuracy": 0.1}, values(1, 1)),
        "high": ({"auc": 0.6, "validation_auc": 0.5}, values(0, 1)),
    }
    table = summary(cells, baselines=of)
    assert table["best_baseline"] == "high"
    assert table["cells"][0]["less_best_baseline"]["pair_accuracy"]["mean"] == 0.5
    text = tables.markdown(table, {"plots/a.png": "A"})
    assert "Less the best baseline by AUC on validation, high" in text and "![A](plots/a.png)" in text
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert rows[2:5] == ["| 0 | 1 | 0.5000 |", "| low |  | 0.1000 |", "| high |  |  |"]


def test_titles():
    assert [tables.title(name) for name in ("auc", "ndcg@10", "delta_hit_rate@5", "best_epoch")] == [
        "AUC",
        "NDCG@10",
        "ΔHR@5",
        "best epoch",
    ]


def points(*labels, seeds=3):
    return [
        plots.Point(one, (n / 10,) * seeds, n / 10, n / 10 - 0.05, n / 10 + 0.05)
        for n, one in enumerate(labels)
    ]


def test_plots_of_numbers_and_of_names(tmp_path):
    axes = {"loss": ["a", "b"], "p": ["0", "0.01", "0.5", "1"], "lr": ["0.001", "0.1"]}
    cells = points(*itertools.product(*axes.values()))
    drawn = plots.draw(
        tmp_path / "new", {"auc": plots.Plot("AUC", axes, cells, "9 users", ("popularity", 0.3))}
    )
    assert drawn == {"auc.png": "AUC"}
    for axes, of in (
        ({"loss": ["a", "b"]}, points(("a",), ("b",))),
        ({"loss": ["a"]}, [plots.Point(("a",), (0.3,), 0.3)]),
        ({}, points(())),
    ):
        plots.draw(tmp_path / "new", {"gini@10": plots.Plot("Gini@10", axes, of)})
    assert {path.name for path in (tmp_path / "new").iterdir()} == {"auc.png", "gini@10.png"}
    assert all(path.read_bytes()[:8] == PNG for path in (tmp_path / "new").iterdir())


COUNTED = "of 203,500 pairs in 299,500 examples of 200,200 users"


def test_numbers_stand_to_scale_and_seeds_as_dots(monkeypatch):
    made = []
    canvas = plots.canvas
    monkeypatch.setattr(plots, "canvas", lambda height: made.append(canvas(height)) or made[-1])

    def drawn(labels, seeds):
        cells = points(*((label,) for label in labels), seeds=seeds)
        plots._lines(plots.Plot("AUC", {"p": labels}, cells, COUNTED), 0)
        return made[-1][1]

    axes = drawn(["0", "0.1", "1"], seeds=3)
    assert axes.get_xscale() == "linear" and axes.get_xticks().tolist() == [0.0, 0.1, 1.0]
    [whiskers] = [bars for bars in axes.containers if hasattr(bars, "has_yerr")]
    ends = [segment[:, 1].tolist() for segment in whiskers.lines[2][0].get_segments()]
    np.testing.assert_allclose(ends, [[-0.05, 0.05], [0.05, 0.15], [0.15, 0.25]])
    dots = [line for line in axes.lines if line.get_marker() == "o" and line.get_alpha()]
    assert [line.get_xdata()[0] for line in dots] == [0.0, 0.1, 1.0] and all(
        len(d.get_xdata()) == 3 for d in dots
    )
    said = axes.get_title().replace("\n", " ")
    assert COUNTED in said and "mean and 95% interval" in said
    figure = made[-1][0]
    figure.draw_without_rendering()
    title, whole = axes.title.get_window_extent(), figure.bbox
    assert whole.x0 <= title.x0 and title.x1 <= whole.x1 and title.y1 <= whole.y1
    # Two seeds have no interval, and 0.01 no room beside 0; rates a hundredfold apart stand by their logarithms.
    axes = drawn(["0", "0.01", "1"], seeds=2)
    assert axes.get_xticks().tolist() == [0.0, 1.0]
    [whiskers] = [bars for bars in axes.containers if hasattr(bars, "has_yerr")]
    assert all(np.ptp(segment[:, 1]) == 0 for segment in whiskers.lines[2][0].get_segments())
    assert drawn(["0.001", "0.01", "0.1"], seeds=1).get_xscale() == "log"


# From here on with real runs, in processes that know nothing of the tests' type checks.


@pytest.fixture(scope="module")
def base(small_store):
    """A small experiment on one device; what one sweep compiles serves the others."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XLA_FLAGS", os.environ["JAXNEG_TESTS_COMPILER"])
        patch.setenv("JAX_PLATFORMS", "cpu")
        yield configs.override(Config(), ["--data.store", str(small_store), *OPTIONS])


@pytest.fixture(scope="module")
def swept(base, tmp_path_factory):
    """A sweep that was not interrupted, its table and what it said."""
    workdir, said, seen = tmp_path_factory.mktemp("swept") / "sweep", [], []
    table = runner.sweep(
        base,
        SPEC,
        workdir,
        jobs=1,  # test_workers.py has two at a time
        baselines=True,
        say=said.append,
        on_progress=lambda done, total, figures, stage: seen.append((done, total)),
    )
    assert seen[-1] == (4, 4) and sorted(seen) == seen
    return workdir, table, said


def test_cells_have_their_last_epoch_beside_the_best(swept):
    workdir, table, _ = swept
    for cell in table["cells"]:
        for s, line in cell["seeds"].items():
            result = json.loads(
                (
                    workdir / "cells" / f"p_hard={cell['labels']['p_hard']},seed={s}" / "result.json"
                ).read_text()
            )
            assert line["last_validation"] == result["last_score"]
            assert (line["last_auc"] == line["auc"]) == (result["best_step"] == result["steps"])


@pytest.fixture
def copied(swept, tmp_path):
    """A copy of it to change; shutil keeps the times of files."""
    return shutil.copytree(swept[0], tmp_path / "sweep")


def test_a_sweep_leaves_what_it_should(swept):
    workdir, table, said = swept
    assert json.loads((workdir / "table.json").read_text()) == table
    assert sum("seed=" in line for line in said) == 4 and "baselines: done" in said
    assert [(cell["labels"], cell["n"], cell["failed"]) for cell in table["cells"]] == [
        ({"p_hard": "0"}, 2, {}),
        ({"p_hard": "1"}, 2, {}),
    ]
    for label, cell in zip(("0", "1"), table["cells"], strict=True):
        for s in range(2):
            directory = workdir / "cells" / f"p_hard={label},seed={s}"
            config = json.loads((directory / "config.json").read_text())
            seeds = (config["data"]["seed"], config["train"]["seed"])
            assert (config["data"]["p_hard"], *seeds) == (float(label), s, s)
            figures = json.loads((directory / "figures_test.json").read_text())
            assert cell["seeds"][str(s)]["auc"] == figures["auc"]
            result = json.loads((directory / "result.json").read_text())
            assert figures["hard_share"] == result["hard_share"] and figures["epochs"] == 2.0
            [kept] = (directory / "checkpoints").iterdir()
            assert int(kept.name) == result["best_step"]
            # What is kept per example has the mean that was reported; float32 keeps 7 digits.
            [of] = tables.load_values(directory / "figures_test.npz").values()
            assert np.nanmean(of.value_X["auc"]) == pytest.approx(figures["auc"], rel=1e-6)
        aucs = [cell["seeds"][s]["auc"] for s in "01"]
        assert cell["figures"]["auc"]["mean"] == pytest.approx(np.mean(aucs))
        assert cell["figures"]["auc"]["sd"] == pytest.approx(np.std(aucs, ddof=1))
    assert table["cells"][0]["figures"]["hard_share"]["mean"] == 0.0
    assert table["cells"][1]["figures"]["hard_share"]["mean"] > 0.5
    assert any(name.startswith("cosine_") for name in table["cells"][0]["figures"])
    assert "popularity" in table["baselines"]
    drawn = {path.name for path in (workdir / "plots").iterdir()}
    # Runs of two epochs stop at their limit, so that there is no figure of convergence to draw.
    assert drawn == {f"{name}.png" for name in FIGURES if name != "epochs_to_convergence"}
    assert all(
        line["epochs_to_convergence"] is None for cell in table["cells"] for line in cell["seeds"].values()
    )
    lines = list(csv.DictReader(io.StringIO((workdir / "table.csv").read_text())))
    assert [(line["p_hard"], line["seed"]) for line in lines] == [*itertools.product("01", "01")]
    text = (workdir / "table.md").read_text()
    one = table["cells"][0]["seeds"]["0"]
    of = f"{one['pairs']} pairs in {one['examples']} examples of {one['users']} users"
    assert f"Figures are of {of}. 4 of 4 runs are not known to have converged" in text
    assert {line["users"] for line in lines} == {str(one["users"])}
    assert "## Less p_hard 0" in text and "| popularity |" in text and "(plots/gini@10.png)" in text


def times(workdir):
    return {
        path: path.stat().st_mtime_ns for path in (workdir / "cells").rglob("*") if path.name != "checkpoints"
    }


def test_a_finished_sweep_runs_nothing(base, copied, swept, monkeypatch):
    monkeypatch.setattr(subprocess, "Popen", None)  # no worker starts
    before, bytes_before = times(copied), (copied / "table.json").read_bytes()
    assert runner.sweep(base, SPEC, copied, baselines=True) == swept[1]
    assert times(copied) == before and (copied / "table.json").read_bytes() == bytes_before


def test_another_experiment_is_refused(base, copied, monkeypatch):
    monkeypatch.setattr(subprocess, "Popen", None)
    other = configs.override(base, ["--model.width", "4"])
    message = (
        r"cells/p_hard=0,seed=0 holds another experiment \(model.width: 8 -> 4\): choose a new --workdir"
    )
    with pytest.raises(UserError, match=message):
        runner.sweep(other, SPEC, copied)


def test_what_workers_are_told_of_compiled_programs_jax_knows(tmp_path, monkeypatch):
    for name in ("DIR", "MIN_COMPILE_TIME_SECS"):
        monkeypatch.delenv(f"JAX_COMPILATION_CACHE_{name}", raising=False)
        monkeypatch.delenv(f"JAX_PERSISTENT_CACHE_{name}", raising=False)
    for place in runner._places(tmp_path, 2):
        told = {name for name in place.environment if name.startswith("JAX_")}
        assert len(told) >= 2 and all(hasattr(jax.config, name.lower()) for name in told), told


def test_fewer_jobs_than_none_are_refused(base, tmp_path):
    with pytest.raises(UserError, match="--jobs must be 0 or more, got -1"):
        runner.sweep(base, SPEC, tmp_path / "new", jobs=-1)


def test_a_directory_of_something_else_is_refused(base, tmp_path):
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(UserError, match="exists and is no sweep: choose a new one"):
        runner.sweep(base, SPEC, tmp_path)


def test_unknown_figures_are_refused_before_anything_runs(base, tmp_path):
    with pytest.raises(UserError, match="no figure gini@7: choose among pair_accuracy, "):
        runner.sweep(base, dataclasses.replace(SPEC, figures=("auc", "gini@7")), tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_two_sweeps_do_not_meet(base, copied):
    with locks.held(locks.inside(copied), "sweep"):
        with pytest.raises(
            UserError, match=rf"in use by .*process {os.getpid()} .*wait until it ends, or stop it"
        ):
            runner.sweep(base, SPEC, copied)
    runner.sweep(base, SPEC, copied)  # the lock file alone stops nobody


CONFIG = """
from jaxneg import config as configs


def get_config():
    return configs.override(configs.Config(), {options!r})


def get_sweep():
    from jaxneg.sweep.grids import Sweep, over

    return Sweep({{"p_hard": over("--data.p-hard", 0, 1)}}, seeds=2, figures={figures!r}, reference={{"p_hard": "0"}})
"""


@pytest.fixture
def config_file(base, tmp_path):
    path = tmp_path / "config.py"
    path.write_text(CONFIG.format(options=["--data.store", base.data.store, *OPTIONS], figures=FIGURES))
    return path


def untimed(directory):
    table = json.loads((directory / "table.json").read_text())
    for cell in table["cells"]:
        for part in (
            cell["figures"],
            *cell["seeds"].values(),
            cell.get("less_reference", {}).get("over_seeds", {}),
        ):
            for name in [name for name in part if "seconds" in name]:
                del part[name]
    return table


# In this process a cell that failed is tried again, and a sweep that is done runs nothing.
@pytest.mark.system
def test_killed_and_continued_gives_the_same_table(swept, config_file, tmp_path):
    workdir = tmp_path / "killed"
    command = [
        sys.executable,
        "-m",
        "jaxneg",
        "sweep",
        str(config_file),
        "--workdir",
        str(workdir),
        "--jobs",
        "1",
    ]

    def finished():
        return set(workdir.glob("cells/*/figures_test.json"))

    def stop(how, until):
        """Starts the sweep, stops it once something has happened, and returns how it ended."""
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 240
        while not until():
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(how)
        return process.wait(timeout=20)

    def in_the_middle():
        """One cell is done, and another has a checkpoint."""
        halves = [
            path for path in workdir.glob("cells/*/checkpoints/*/progress") if path.parts[-4] not in names()
        ]
        return bool(finished()) and bool(halves)

    def names():
        return {path.parent.name for path in finished()}

    assert stop(signal.SIGKILL, in_the_middle) == -signal.SIGKILL
    first = {path: path.stat().st_mtime_ns for path in finished()}
    assert first and not (workdir / "table.json").exists()
    assert stop(signal.SIGTERM, lambda: len(finished()) > len(first)) == 143
    assert not (workdir / "table.json").exists()
    cli.main([*command[3:], "--baselines"])
    assert {path: path.stat().st_mtime_ns for path in first} == first
    assert untimed(workdir) == untimed(swept[0])
    assert (workdir / "table.md").read_bytes() == (swept[0] / "table.md").read_bytes()


def test_a_failing_cell_is_told_and_tried_again(config_file, copied, capsys):
    with open(config_file, "a") as file:
        file.write("""

def get_sweep():
    from jaxneg.sweep.grids import Sweep, over

    wild = {"wild": ("--optim.learning-rate", "1e30", "--optim.clip", "0")}
    return Sweep({"p_hard": over("--data.p-hard", 0, 1) | wild}, seeds=1)
""")
    before = times(copied)
    capsys.readouterr()
    for _ in range(2):
        with pytest.raises(SystemExit) as ended:
            cli.main(["sweep", str(config_file), "--workdir", str(copied), "--jobs", "1"])
        assert ended.value.code == 2
        said = capsys.readouterr().err
        assert said.startswith("2 of 3 cells are done already\n")
        assert "p_hard=wild,seed=0 failed: the loss is not finite at step" in said
        assert f"\n{copied}: 2 runs in 3 rows, test split\n" in said
        assert f"\n  {copied / 'table.html'}: all figures" in said
        assert (
            "jaxneg: 1 failed (p_hard wild, seed 0: the loss is not finite at step" in said.splitlines()[-1]
        )
    assert {path: time for path, time in times(copied).items() if path in before} == before
    for name in ("table.md", "table.csv", "table.json"):
        assert "the loss is not finite" in (copied / name).read_text()
