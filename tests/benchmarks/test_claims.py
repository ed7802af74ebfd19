"""Verdicts of the study are rules; here they meet tables made by hand."""

import importlib.util
import json
import math
import pathlib
import sys
import types

import numpy as np
import pytest

from jaxneg.batch import EvalBatch
from jaxneg.sweep import grids

ROOT = pathlib.Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"
PARTS = ("cells", "figures", "rules")  # of the script


@pytest.fixture(scope="module")
def study():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        spec = importlib.util.spec_from_file_location("study", ROOT / "benchmarks" / "study.py")
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        yield module
        for name in ("claims", "fidelity", "real_data", "judging", *(f"judging.{part}" for part in PARTS)):
            sys.modules.pop(name, None)


@pytest.fixture
def claims(study):
    """All that is in the script and in what it is made of."""
    parts = [sys.modules[f"judging.{part}"] for part in PARTS]
    return types.SimpleNamespace(
        **{name: of for one in (*parts, study.claims) for name, of in vars(one).items()}
    )


ORDER = {"successor": 0.04, "successor shuffled": 0.01, "artist": 0.2, "artist shuffled": 0.15}


class Made:
    """Results written by hand."""

    def __init__(self, claims, path):
        self.claims, self.path, self.cells = claims, path, {}
        (path / "study").mkdir()
        self.pairs = {
            "order": {"contrastive": ORDER},
            "baselines": {"contrastive": {claims.HIT: 0.1}},
            "pairs": [],
        }
        self.write()

    def cell(self, cell, **figures):
        """Values by seed of figures of a cell."""
        self.cells.setdefault(cell.sweep, {}).setdefault(cell.labels, {}).update(figures)

    def write(self, leads=()):
        for sweep, cells in self.cells.items():
            made = [
                {
                    "labels": {f"axis{n}": label for n, label in enumerate(labels)},
                    "seeds": {
                        str(s): {figure: values[s] for figure, values in figures.items() if s < len(values)}
                        for s in range(max(map(len, figures.values())))
                    },
                }
                for labels, figures in cells.items()
            ]
            found = {"cells": made, "limit": 40, "time_to_target": [one for of, one in leads if of == sweep]}
            (self.path / "study" / f"{sweep}.json").write_text(json.dumps(found))
        (self.path / "study" / "pairs.json").write_text(json.dumps(self.pairs))

    def listeners(self, half=0.001):
        """The interval of each pair over listeners: its mean, and ``half`` to either side."""
        self.write()
        self.pairs["pairs"] = []
        for pair in self.claims.pairs():
            try:
                mean = self.claims.by_seeds(self.path, pair.figure, pair.one, pair.other).mean
            except self.claims.Missing:
                continue
            sides = {"one": self.claims.key(pair.one), "other": self.claims.key(pair.other)}
            ends = {"mean": mean, "low": mean - half, "high": mean + half}
            self.pairs["pairs"].append({"figure": pair.figure} | sides | ends)
        self.write()


@pytest.fixture
def made(claims, tmp_path):
    return Made(claims, tmp_path)


def test_a_difference_has_the_outer_ends_of_its_intervals_over_seeds_and_over_listeners(claims, made):
    made.cell(claims.at("0.4"), pair_accuracy=(0.61, 0.62, 0.63))
    made.cell(claims.at("0"), pair_accuracy=(0.60, 0.60, 0.60))
    # Differences .01, .02, .03: t(2) = 4.302653 times .01 / sqrt(3).
    half = 4.302653 * 0.01 / math.sqrt(3)
    for listeners in (0.001, 0.05):
        made.listeners(listeners)
        found = claims.less(made.path, "pair_accuracy", claims.at("0.4"), claims.at("0"))
        assert found == pytest.approx((0.02, 0.02 - max(half, listeners), 0.02 + max(half, listeners)))
        assert found.above() is None
        assert claims.accuracy(made.path)[1] == claims.NOT_SEEN


def test_a_ratio_is_a_geometric_mean_over_seeds(claims, made):
    made.cell(claims.at("1"), epochs=(2.0, 4.0, 2.0))
    made.cell(claims.at("0"), epochs=(4.0, 4.0, 2.0))
    made.write()
    found = claims.ratio(made.path, "epochs", claims.at("1"), claims.at("0"))
    # Logarithms -log 2, 0, 0 have the mean -log 2 / 3 and the deviation log 2 / sqrt 3.
    half = 4.302653 * math.log(2) / 3
    assert found == pytest.approx(
        (2 ** (-1 / 3), 2 ** (-1 / 3) * math.exp(-half), 2 ** (-1 / 3) * math.exp(half))
    )


def test_a_claim_is_seen_in_part_or_not(claims):
    assert claims.verdict([True, True]) == claims.SEEN
    assert claims.verdict([True, None]) == claims.verdict([False, True]) == claims.PARTLY
    assert claims.verdict([False, None]) == claims.NOT_SEEN
    assert claims.tested([None, None]) == claims.UNTESTED
    assert claims.tested([None, False]) == claims.NOT_SEEN and claims.tested([None, True]) == claims.PARTLY


@pytest.mark.parametrize(
    ("ends", "said"),
    [((0.01, 0.05), True), ((-0.01, 0.02), False), ((-0.05, -0.01), False), ((-0.01, 0.04), None)],
)
def test_intervals_that_hold_both_nothing_and_what_was_published_are_no_test(claims, ends, said):
    assert claims.Difference(sum(ends) / 2, *ends).reaches(0.03) is said


@pytest.mark.slow
def test_rules_compare_cells_that_sweeps_have(claims, study):
    have: dict[str, set[tuple[str, ...]]] = {"baselines": {(name,) for name in claims.ORDERED}}
    for name in study.SWEEPS:
        path = ROOT / "configs" / f"study_{name}.py"
        cells = grids.expand(study.configs.load(path), grids.load(path))
        have[name] = {cell.labels for cell in cells}
    asked = {cell for pair in claims.pairs() for cell in (pair.one, pair.other)}
    assert not [cell for cell in asked if cell.labels not in have[cell.sweep]]
    assert {at for p in claims.P_HARD for at in [(p,)]} == have["p_hard"]


@pytest.mark.parametrize(
    ("gini", "said"),
    [
        ((0.98, 0.96, 0.95, 0.96, 0.97), "seen"),
        ((0.98, 0.97, 0.96, 0.95, 0.94), "in part"),  # falls to the end
        ((0.93, 0.94, 0.95, 0.96, 0.97), "in part"),  # rises from the start
        ((0.95, 0.95, 0.95, 0.95, 0.95), "not seen"),
    ],
)
def test_diversity_wants_a_minimum_inside(claims, made, gini, said):
    for p, g in zip(claims.P_HARD, gini, strict=True):
        made.cell(claims.at(p), **{"gini@10": (g, g + 1e-4, g - 1e-4)})
    made.write()
    assert claims.diversity(made.path)[1] == said


def leads(ratios):
    """What a sweep says of the time to its target: (labels, mean, low, high) of epochs."""
    return [
        {
            "labels": list(labels),
            "ratio": None if not of else {"epochs": dict(zip(("mean", "low", "high"), of, strict=True))},
        }
        for labels, *of in ratios
    ]


def test_the_headline_wants_fewer_epochs_and_more_accuracy(claims, made):
    made.cell(claims.at("0"), pair_accuracy=(0.60, 0.61, 0.6))
    made.cell(claims.at("1"), pair_accuracy=(0.70, 0.71, 0.7))
    for kind in ("+", "+ -"):
        made.cell(claims.shown(kind, "true"), pair_accuracy=(0.7,))
    made.listeners()
    few = [("p_hard", (("1",), 0.2, 0.1, 0.3))]
    few += [("negatives", ((kind, "true"), 0.3, 0.1, 0.9)) for kind in ("+", "+ -")]

    def judged(rows):
        made.write([(sweep, one) for (sweep, row) in rows for one in leads([row])])
        return claims.headline(made.path)

    found, said = judged(few)
    assert said == "seen" and "0.20 [0.10, 0.30] with inputs + - skip" in found and "+16.6%" in found
    assert judged([("p_hard", (("1",), 0.2, 0.1, 1.1)), *few[1:]])[1] == "in part"
    found, said = judged([few[0], ("negatives", (("+", "true"),)), few[2]])
    assert said == "in part" and "never by all seeds with inputs +;" in found


def test_real_logs_want_fewer_epochs_and_more_accuracy_over_seeds(claims, made):
    def set_(best, *ratio):
        [lead] = leads([(("1",), *ratio)])
        passages = [{"best": b, "target": 0.6} for b in best]
        return {"auc": {"time_to_target": [lead | {"passages": passages}]}}

    sure, unsure = (0.65, 0.66, 0.65), (0.59, 0.66, 0.65)
    for real, said in (
        ([set_(sure, 0.3, 0.1, 0.5)], "seen"),
        ([set_(sure, 0.3, 0.1, 0.5), set_(sure, 0.5, 0.1, 0.6)], "in part"),
        ([set_(unsure)], "not seen"),
    ):
        sets = {"simulated": set_(sure, 0.1, 0.1, 0.1)} | {f"log {n}": one for n, one in enumerate(real)}
        (made.path / "time_to_target.json").write_text(json.dumps({"sets": sets}))
        found, verdict = claims.on_real_logs(made.path)
        assert verdict == said and "simulated" not in found


def test_hardest_wants_a_rise_a_fall_and_true_negatives_on_top(claims, made):
    def judged(true, heights):
        for n, h in zip(claims.HARDEST, heights, strict=True):
            made.cell(claims.hardest_of(n), pair_accuracy=(h, h + 1e-4, h))
        made.cell(claims.at("0"), pair_accuracy=(0.5, 0.5, 0.5))
        made.cell(claims.at("1"), pair_accuracy=(true, true, true))
        made.listeners()
        return claims.hardest(made.path)[1]

    shape = (0.51, 0.53, 0.51)
    assert judged(0.6, shape) == "seen"
    assert judged(0.52, shape) == "in part"
    assert judged(0.6, (0.51, 0.52, 0.53)) == "in part"  # no fall


def test_the_online_test_wants_intervals_clear_of_zero(claims):
    def arm(**ends):
        return {
            f"relative_{name}{end}": value
            for name, (low, high) in ends.items()
            for end, value in (("", (low + high) / 2), ("_low", low), ("_high", high))
        }

    up = {"plays": (1.0, 2.0), "thumb_up_rate": (1.0, 5.0), "gini": (-2.0, -1.0)}
    others = {"control": arm(), "p_hard_0_seed_0": arm(plays=(-9.0, -8.0))}
    for changed, said in (
        ({}, "seen"),
        ({"thumb_up_rate": (-1.0, 5.0)}, "in part"),
        ({"plays": (-2.0, -1.0), "thumb_up_rate": (-5.0, 5.0), "gini": (1.0, 2.0)}, "not seen"),
    ):
        arms = {"p_hard_0.4_seed_0": arm(**up), "p_hard_0.4_seed_1": arm(**(up | changed))}
        assert claims.judge_online({"arms": others | arms})[1] == said


def contrastive(claims, made, change, epochs=20.0):
    """HR@1 of .3 without the term, .3 + change with it; half of the change at 5, a quarter at 10, none at 20."""
    for name in claims.ENCODERS:
        for term in ("off", "paper"):
            on = change * (term == "paper")
            figures = {
                f"released_hit_rate@{k}": 0.3 + on * part
                for k, part in ((1, 1), (5, 0.5), (10, 0.25), (20, 0))
            }
            figures |= {f"last_{claims.HIT}": 0.3, "pair_accuracy": 0.5}
            noisy = {of: (value, value + 1e-4, value - 1e-4) for of, value in figures.items()}
            made.cell(claims.encoder(name, term), **noisy, epochs=(epochs,) * 3)
    made.cell(claims.taken_apart("25% of skips"), **{claims.HIT: (0.3 + change / 4,) * 3})
    made.cell(claims.taken_apart("50% of skips"), **{claims.HIT: (0.3 + change / 2,) * 3})


ROWS = ("15", "16", "17", "18", "19")


@pytest.fixture
def judged(claims, made):
    def judge(row):
        [claim] = [one for one in claims.CLAIMS if one.number == row]
        return claim.judge(made.path)

    return judge


@pytest.mark.parametrize("row", ROWS)
def test_the_term_is_judged_where_the_log_carries_it(claims, made, judged, row):
    for change, half, said in (
        (0.2, 0.001, claims.SEEN),
        (-0.02, 0.001, claims.NOT_SEEN),
        (0.0, 0.001, claims.NOT_SEEN),
        (0.0, 0.3, claims.UNTESTED),  # the interval holds nothing and what was published
    ):
        contrastive(claims, made, change)
        made.listeners(half)
        assert judged(row)[1] == said, (change, half)


def test_without_room_the_arms_need_not_be_run(claims, made, judged):
    off = claims.arm("next_positive", "off")
    for alone, said in ((0.29, claims.UNTESTED), (0.1, None)):
        made.cell(off, **{claims.HIT: (0.3, 0.3, 0.3)}, epochs=(20.0,) * 3)
        made.pairs["baselines"] = {"contrastive": {claims.HIT: alone}}
        made.listeners()
        if said:
            assert judged("19")[1] == said
        else:
            with pytest.raises(claims.Missing):
                judged("19")


@pytest.mark.parametrize("row", [*ROWS, "21", "21b"])
def test_the_term_is_not_judged_where_the_log_does_not_carry_it(claims, made, judged, row):
    contrastive(claims, made, 0.2)
    for name in ("weight 0.25", "weight 0.75", "weight 1"):
        made.cell(claims.taken_apart(name), **{claims.HIT: (0.4, 0.4, 0.4)})
    for target in ("next_positive", "any"):
        for term in ("off", "paper", "released"):
            figures = {claims.HIT: (0.3,) * 3, "pair_accuracy": (0.5,) * 3}
            made.cell(claims.arm(target, term), **figures, epochs=(20.0,) * 3)
    made.listeners()
    assert judged(row)[1] != claims.UNTESTED
    flat = ORDER | {"successor": 0.01}
    for name, changed in (
        ("tells nothing of the next one", {"order": {"contrastive": flat}}),
        ("has not been learnt", {"baselines": {"contrastive": {claims.HIT: 0.29}}}),
    ):
        before = dict(made.pairs)
        made.pairs |= changed
        made.listeners()
        found, said = judged(row)
        assert said == claims.UNTESTED and name in found
        made.pairs |= before


def test_real_songs_are_judged_by_the_arms_that_have_been_run(claims, made, judged):
    made.pairs |= {"order": {"spotify": ORDER}, "baselines": {"spotify": {claims.HIT: 0.01}}}
    names = (claims.HIT, "released_hit_rate@20", f"last_{claims.HIT}")
    for change, half, said in (
        (0.05, 0.001, "seen"),
        (-0.02, 0.001, "not seen"),
        (0.0, 0.1, claims.UNTESTED),
    ):
        for term, value in (("off", 0.1), ("paper", 0.1 + change)):
            figures = dict.fromkeys(names, (value,) * 3)
            made.cell(claims.arm("next_positive", term, "spotify"), **figures, epochs=(20.0,) * 3)
        made.listeners(half)
        # Without the term it is far above popularity, however wide the interval.
        for line in made.pairs["pairs"]:
            if line["other"][0] == "baselines":
                line["low"] = 0.05
        made.write()
        found, verdict = judged("15b")
        assert verdict == said and f"target any: {claims.NOT_RUN}" in found
    for term in ("off", "paper"):
        figures = dict.fromkeys(names, (0.1,) * 3)
        made.cell(claims.arm("any", term, "spotify"), **figures, epochs=(20.0,) * 3)
    made.listeners()
    assert judged("15b")[1] == claims.NOT_SEEN


def test_an_arm_without_the_term_that_stopped_at_its_limit_is_no_measure(claims, made, judged):
    contrastive(claims, made, 0.2, epochs=40.0)
    made.listeners()
    with pytest.raises(claims.NotConverged, match="limit of 40 epochs"):
        judged("15")


def test_a_mean_over_the_seeds_that_converged_is_none(claims, made):
    for p in claims.P_HARD:
        made.cell(claims.at(p), epochs_to_convergence=(3.0, 4.0, 3.0))
    made.write()
    assert claims.epochs(made.path)[1] == claims.NOT_SEEN
    made.cell(claims.at("0.4"), epochs_to_convergence=(3.0, None, 3.0))
    made.write()
    with pytest.raises(claims.NotConverged, match=r"not all seeds of 0\.4 have converged"):
        claims.epochs(made.path)


def test_every_table_that_is_of_before_is_marked():
    """A result of the definitions of 0.1 says so in its first lines, and in JSON as a note."""
    for path in RESULTS.glob("real_*.json"):
        found = json.loads(path.read_text())
        if found.get("figures", 1) < 2:
            assert found["note"].startswith("As of before (0.1 figures: "), path
            assert "As of before (0.1 figures: " in path.with_suffix(".md").read_text()[:400], path


def test_a_claim_without_its_benchmark_is_not_run(claims, tmp_path):
    counted = claims.write(tmp_path, tmp_path / "claims.md")
    text = (tmp_path / "claims.md").read_text()
    assert counted == {claims.NOT_RUN: len(claims.CLAIMS) - 2, claims.UNTESTED: 2}
    assert (
        "needs benchmarks/study.py --only hardest" in text
        or "needs benchmarks/study.py --only p_hard" in text
    )


def test_the_committed_claims_are_what_the_committed_tables_say(claims, tmp_path):
    claims.write(RESULTS, tmp_path / "claims.md")
    assert (RESULTS / "claims.md").read_text() == (tmp_path / "claims.md").read_text()


def log():
    """Two sessions of two listeners and a third to test; stations 0 and 1, artists of songs 1 to 4: 7 7 8 8."""
    return types.SimpleNamespace(
        items=4,
        sessions=3,
        session_indptr=np.array([0, 4, 8, 12]),
        session_train_end=np.array([4, 8, 8]),
        session_user=np.array([0, 0, 1]),
        station_T=np.repeat([0, 1, 0], 4),
        item_T=np.array([1, 2, 1, 2, 1, 2, 3, 3, 4, 4, 4, 4]),
        feedback_T=np.array([1, 1, 1, 0, 1, 1, 1, 1, 1, 1, 1, 1]),
        sign=np.array([-1, 1]),
        attribute_VA=np.array([[0], [7], [7], [8], [8]]),
    )


def test_station_popularity_counts_liked_events_of_the_station_in_training(study):
    score = study.station_popularity(log())
    leaves = dict.fromkeys(EvalBatch._fields, np.zeros(0))
    # The last event of a context tells its station, wherever it is padded.
    leaves |= {"item_BL": np.array([[3, 1, 0], [0, 1, 3]]), "station_BL": np.array([[1, 0, 0], [0, 0, 1]])}
    found = score(EvalBatch(**leaves))
    # Liked in training at station 0: 1 twice, 2 once; at station 1: 1 and 2 once, 3 twice; of 7 in all, plus one.
    np.testing.assert_allclose(
        found - [0, 3 / 8, 2 / 8, 2 / 8, 0], [[0, 2, 1, 0, 0], [0, 1, 1, 2, 0]], atol=1e-6
    )


def test_order_is_what_the_last_song_tells_of_the_next(study):
    found = study.order(log())
    # Listener 0: 2 follows 1 once more in session 0 and once in session 1; listener 1: 4 follows 4 twice.
    assert found["successor"] == pytest.approx(4 / 9, rel=1e-5)
    # All three steps of session 0, two of session 1, three of session 2.
    assert found["artist"] == pytest.approx(8 / 9, rel=1e-5)
    assert found["successor shuffled"] <= 1 and found["artist shuffled"] <= 1
