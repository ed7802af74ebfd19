"""Time to target, of validations written by hand."""

import json
import math

import numpy as np
import pytest
from scipy import stats

from jaxneg.config import Config, DataConfig, EvalConfig, UserError, saved
from jaxneg.training import convergence, target_words, targets
from jaxneg.training.targets import Side
from tests.training import test_records

UNITS = ("epochs", "steps", "sequences", "seconds")


def trace(*scores, seed=0, each=1.0, config=None, **more):
    """A run with a validation an epoch of ten steps, which take ``each`` seconds; the first before training."""
    history = [
        {"step": 10 * n, "epoch": float(n), "sequences": 320 * n, "device_seconds": each * n, "auc": score}
        | {"pairs": 40, "examples": 50, "users": 30}
        for n, score in enumerate(scores)
    ]
    settings = saved.flat(config or Config())
    settings |= {"data.seed": seed, "train.seed": seed}
    return targets.Trace((seed, seed), "auc", history, settings)._replace(**more)


def compared(mine, its):
    return targets.compare(Side("the model", mine), Side("run b", its))


def test_costs_are_those_of_the_first_validation_with_the_others_best():
    other, run = trace(0.5, 0.55, 0.6, 0.7, 0.65, each=2.0), trace(0.5, 0.6, 0.7, 0.69, 0.72, each=3.0)
    (one,) = (found := compared([run], [other]))["passages"]
    assert one["target"] == 0.7 and found["reached"] == 1
    assert one["other_cost"] == {"epochs": 3.0, "steps": 30, "sequences": 960, "seconds": 6.0}
    assert one["cost"] == {"epochs": 2.0, "steps": 20, "sequences": 640, "seconds": 6.0}
    assert {unit: found["ratio"][unit]["mean"] for unit in UNITS} == pytest.approx(
        {"epochs": 2 / 3, "steps": 2 / 3, "sequences": 2 / 3, "seconds": 1.0}
    )
    assert found["ratio"]["epochs"]["low"] is None  # of one seed
    text = target_words.spoken(found)
    assert text.startswith(
        "The model has the best validation AUC of run b (0.7 at epoch 3) at epoch 2: 33% fewer epochs and as many "
        "seconds of steps; one seed, so without interval."
    )


def test_a_run_against_itself_saves_nothing():
    runs = [trace(*np.random.default_rng(seed).random(9), seed=seed) for seed in range(4)]
    ratio = compared(runs, runs)["ratio"]
    for unit in UNITS:
        assert ratio[unit] == {"mean": 1.0, "sd": 0.0, "low": 1.0, "high": 1.0, "n": 4}
    assert "as many epochs" in target_words.spoken(compared(runs, runs))


def test_against_a_plain_loop():
    rng = np.random.default_rng(0)
    for _ in range(200):
        mine, its = rng.integers(0, 6, rng.integers(2, 9)) / 6, rng.integers(0, 6, rng.integers(2, 9)) / 6
        found = compared([trace(*mine)], [trace(*its)])
        if max(its) <= its[0]:
            assert found["why_not"] is not None
            continue
        (one,) = found["passages"]
        assert one["other_cost"]["epochs"] == int(np.argmax(its))
        reached = [n for n, score in enumerate(mine) if score >= max(its)]
        assert (one["cost"] or {}).get("epochs") == (reached[0] if reached else None)
        assert found["reached"] == bool(reached) and one["within"]["epochs"] == len(mine) - 1


def test_the_interval_is_that_of_the_ratios_logarithm_over_pairs_of_seeds():
    others = [trace(*[0.5] * at, 0.8, seed=seed) for seed, at in enumerate((8, 9, 10))]
    runs = [trace(*[0.5] * at, 0.8, seed=seed) for seed, at in ((2, 3), (0, 4), (1, 2))]
    found = compared(runs, others)
    logs = np.log([4 / 8, 2 / 9, 3 / 10])
    low, high = stats.t.interval(0.95, 2, loc=logs.mean(), scale=stats.sem(logs))
    one = found["ratio"]["steps"]
    assert (one["mean"], one["low"], one["high"]) == pytest.approx(tuple(np.exp([logs.mean(), low, high])))
    assert [passage["seed"] for passage in found["passages"]] == [[0, 0], [1, 1], [2, 2]]
    text = target_words.spoken(found)
    assert f"68% fewer epochs [{math.exp(low) - 1:+.0%}, {math.exp(high) - 1:+.0%}]" in text
    assert "paired over 3 seeds" in text and "told apart" not in text
    worse = [run._replace(seed=(seed, seed)) for seed, run in enumerate((others[0], runs[0], others[2]))]
    assert "the epochs are not told apart from none saved" in target_words.spoken(compared(worse, others))
    assert found["ratio"]["steps"]["n"] == 3
    assert compared(runs[:2], others)["ratio"]["steps"]["low"] is None
    assert "2 seeds, so without interval" in target_words.spoken(compared(runs[:2], others))


def test_a_run_that_stops_short_never_has_it_and_no_mean_is_of_the_others_alone():
    other = [trace(0.5, 0.6, 0.7, 0.8, seed=seed) for seed in range(3)]
    short = [trace(0.5, 0.75, 0.7, each=2.5, seed=seed) for seed in range(3)]
    found = compared(short, other)
    assert found["reached"] == 0 and found["ratio"] is None
    assert [one["cost"] for one in found["passages"]] == [None] * 3
    assert found["passages"][0]["within"]["seconds"] == 5.0
    text = target_words.spoken(found)
    assert "The model never has the best validation AUC of run b (0.8 at epoch 3, means of 3 seeds)" in text
    assert "within 2 epochs and 5 seconds of steps, while run b has its best (0.75) at epoch 3." in text
    assert target_words.row(found)[2] == "3 -> never in 2"
    mixed = compared([*short[:2], trace(0.5, 0.9, seed=2)], other)
    assert mixed["reached"] == 1 and mixed["ratio"] is None
    assert "in 1 of 3 seeds, at epoch 1, and never in the others within" in target_words.spoken(mixed)
    assert target_words.row(mixed)[2] == "3 -> 1 of 3 seeds in 1.67"


GOOD = trace(0.5, 0.6)
AMONG = trace(0.5, 0.6, config=Config(eval=EvalConfig(exclude_seen=True)))
NDCG = GOOD._replace(history=[{"step": 0, "epoch": 0.0, "ndcg@10": 0.1}])
FEWER = GOOD._replace(history=[line | {"examples": 49} for line in GOOD.history])


@pytest.mark.parametrize(
    ("its", "why"),
    [
        ([trace(0.5, 0.6, seed=s) for s in (1, 2)], "they have no seed in common"),
        ([trace(0.6, 0.5, 0.55)], "no validation AUC of run b is above the one before training"),
        ([NDCG], "not both have a validation AUC"),
        ([FEWER], "they are validated on different examples"),
        ([AMONG], r"they are validated otherwise (eval.exclude_seen: True -> False)"),
        ([GOOD._replace(preparation="b")], "they are of different stores"),
    ],
)
def test_what_is_not_the_same_measure_of_the_same_data_is_not_compared(its, why):
    found = compared([GOOD._replace(preparation="a")], its)
    assert found["why_not"] == why and found["passages"] == [] and found["ratio"] is None
    assert target_words.spoken(found).startswith(
        f"Time to target: the model and run b cannot be compared by it, as {why}."
    )
    assert target_words.row(found)[:2] == ["run b", why]


def test_what_is_unequal_is_said():
    config = Config(data=DataConfig(p_hard=0.0, batch_size=64, length=9, inputs=("play",)))
    other = trace(0.5, 0.6, 0.7, seed=3, config=config, stopped=convergence.LIMIT, devices=("gpu H200",))
    found = compared([trace(0.5, 0.8, devices=("cpu cpu",))], [other])
    assert found["differs"] == [
        "data.length: 9 -> 50",
        "data.batch_size: 64 -> 128",
        "data.inputs: ('play',) -> ()",
        "data.p_hard: 0 -> 0.5",
    ]
    text = target_words.spoken(found)
    assert "50% fewer epochs; one seed" in text and "seconds" not in found["ratio"]
    for said in (
        "data.inputs: ('play',) -> () and 1 more.",
        "Their seeds differ",
        "Run b stopped at its limit",
        "on other devices (1 cpu cpu and 1 gpu H200), so that seconds do not compare",
        "The model had that at the first validation in training",
    ):
        assert said in text
    same = compared([trace(0.5, 0.6, 0.8)], [trace(0.5, 0.6, 0.7)])
    assert same["differs"] == [] == same["notes"]


def test_runs_of_other_seeds_stand_on_one_side():
    zero = Config(data=DataConfig(p_hard=0.0))
    own, twin = trace(0.5, 0.6), trace(0.5, 0.7, seed=1)
    others = {"h1": twin, "r0": trace(0.5, 0.6, config=zero), "r1": trace(0.5, 0.6, seed=1, config=zero)}
    side, rest = targets.sides(("the model", own), others)
    assert side == Side("the model", [own, twin])
    assert rest == [Side("runs r0, r1", [others["r0"], others["r1"]])]
    # Alone, each twin is what the model is compared with.
    alone = {"h1": twin, "h2": trace(0.5, 0.6, seed=2)}
    side, rest = targets.sides(("the model", own), alone)
    assert side.runs == [own] and [one.name for one in rest] == ["run h1", "run h2"]
    # The same run again is none of its twins.
    side, rest = targets.sides(("the model", own), {"again": own, "r0": others["r0"]})
    assert side.runs == [own] and [one.name for one in rest] == ["run again", "run r0"]


def test_traces_are_read_from_directories(tmp_path):
    run = test_records.make(tmp_path / "run", [0.5, 0.7], seed=4)
    test_records.seal(run / "store.json", {"catalogue": "c", "preparation": "p", "store": "s"})
    test_records.seal(run / "environment.json", {"devices": ["gpu:0 NVIDIA H200", "gpu:1 NVIDIA H200"]})
    one = targets.trace(run)
    assert one.seed == (4, 4) and one.preparation == "p" and one.devices == ("gpu NVIDIA H200",) * 2
    assert one.monitor == "auc" and [line["auc"] for line in one.history] == [0.5, 0.7]
    # Of an earlier version, which counted neither sequences nor seconds of steps.
    found = compared([one], [targets.trace(test_records.make(tmp_path / "b", [0.5, 0.6, 0.65], seed=4))])
    assert found["ratio"]["epochs"]["mean"] == 0.5 and found["ratio"]["seconds"]["mean"] is None
    assert "50% fewer epochs; one seed" in target_words.spoken(found)
    assert json.loads(json.dumps(found)) == found
    open_ = test_records.make(tmp_path / "open", [0.5, 0.6], ended="")
    for place, why in ((open_, "has not ended: continue it"), (tmp_path, "is no run directory")):
        with pytest.raises(UserError, match=why):
            targets.trace(place)
