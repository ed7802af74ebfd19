"""What benchmarks/two_heads.py says of cells, against small ones that are worked by hand."""

import importlib

import numpy as np
import pytest

FORMS = {"rank": "rank", "judge": "judge", "sum": "sum, beta 1", "demote": "demote, beta 2, threshold 0.5"}


@pytest.fixture
def two_heads(objectives):
    assert objectives  # which it imports
    return importlib.import_module("two_heads")


def cell(two_heads, values, **facts):
    """Of six people with one example each; ``values`` by form and figure, 0 where not named."""
    given = {
        f"{form}/{figure}": np.full(6, values.get((form, figure), 0.0), np.float32)
        for form in facts["forms"]
        for figure in two_heads.FIGURES
    }
    coverage = dict.fromkeys(facts["forms"], 0.25)
    return two_heads.Cell({"coverage": coverage, **facts}, given | {"user": np.arange(6)})


def trained(two_heads, ndcg):
    values = {("rank", "NDCG@10"): ndcg, ("demote", "NDCG@10"): ndcg - 0.01, ("demote", "pair accuracy"): 0.6}
    curve = [
        ["rank", None, 0.5, ndcg],
        ["sum, beta 1", None, 0.55, ndcg / 2],
        ["demote, beta 2, threshold 0.5", 0.5, 0.6, ndcg - 0.01],
        ["judge", None, 0.62, 0.0],
    ]
    return cell(two_heads, values, forms=FORMS, curve=curve, like_auc=[[0, 0.6], [1, 0.61]])


def sets(two_heads):
    def baseline(auc, validation):
        values = {("rank", "AUC"): auc, ("rank", "pair accuracy"): 0.75}
        return cell(
            two_heads, values, forms={"rank": "rank"}, validation_auc=validation, settings={"l2": 1.0}
        )

    arms = {two_heads.HEADS: [trained(two_heads, 0.2), trained(two_heads, 0.4)]}
    baselines = {"popularity": baseline(0.9, 0.4), "like_rate": baseline(0.5, 0.6)}
    seen = two_heads.Cell({}, {"events": np.array([1, 1, 2, 3, 50, 50])})
    return {"simulated": two_heads.of_set(arms, baselines, baseline(0.25, 0.5), seen)}


def test_a_set_is_told_by_means_over_seeds_and_by_what_validation_chose(two_heads):
    one = sets(two_heads)["simulated"]
    rank = one["rows"]["two heads, rank"]
    assert rank["NDCG@10"] == pytest.approx(0.3) and rank["NDCG@10 sd"] == pytest.approx(0.02**0.5)
    demote = one["rows"]["two heads, demote"]
    assert demote["NDCG@10, share of best"] == pytest.approx(0.29 / 0.3)
    assert demote["pair accuracy, share of best"] == pytest.approx(0.6 / 0.75)
    # Popularity is far ahead on the test, which nothing is chosen by.
    assert one["best_baseline"] == "like_rate"
    assert one["judge_less_baseline"] == pytest.approx([-0.5] * 3, abs=1e-6)
    assert one["judge_less_start"] == pytest.approx([-0.25] * 3, abs=1e-6)
    assert one["less_rank"]["demote"]["NDCG@10"] == pytest.approx([-0.01] * 3, abs=1e-6)  # values are float32


def test_a_gain_is_parted_into_quarters_by_events_seen(two_heads):
    gain_X = np.array([0.1, 0.3, 0.5, np.nan, 0.2, 0.4, 0.6, 0.8])
    events_X = np.array([1, 2, 3, 3, 5, 8, 50, 50])
    found = two_heads.by_events(gain_X, events_X, np.array([0, 1, 2, 3, 4, 5, 6, 6]))
    # Of the seven with a gain, quarters lie at 2.5, 5 and 29; who is at an edge belongs above it.
    assert [part["events"] for part in found] == [[1, 2], [3, 3], [5, 8], [50, 50]]
    assert [part["people"] for part in found] == [2, 1, 2, 1]
    assert [part["gain"][0] for part in found] == pytest.approx([0.2, 0.5, 0.3, 0.7])
    for part in found:
        mean, low, high = part["gain"]
        # One person has no interval.
        assert np.isnan([low, high]).all() if part["people"] == 1 else low <= mean <= high


def test_many_with_a_full_window_are_one_part(two_heads):
    found = two_heads.by_events(np.arange(8.0), np.array([1, 2, 50, 50, 50, 50, 50, 50]), np.arange(8))
    assert [part["events"] for part in found] == [[1, 2], [50, 50]]


def test_a_cell_is_made_once(two_heads, tmp_path):
    made = []

    def make():
        made.append(trained(two_heads, 0.2))
        return made[-1]

    for _ in range(2):
        one = two_heads.kept(tmp_path / "cells" / "arm-0", make)
        assert one.facts == made[0].facts and one.of("rank", "NDCG@10") == pytest.approx(0.2)
    assert len(made) == 1


def test_page_and_plots_hold_every_row(two_heads, tmp_path):
    found = sets(two_heads)
    text = two_heads.page(found)
    for row in found["simulated"]["rows"]:
        assert row in text
    assert "**like_rate**" in text
    two_heads.plot(found, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"two_heads.png", "two_heads_judge.png"}
