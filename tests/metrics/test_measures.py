import json
import math

import jax.numpy as jnp
import numpy as np
import pytest

from jaxneg import metrics
from jaxneg.batch import EvalBatch
from jaxneg.config import EvalConfig
from jaxneg.metrics import examples, measures, released as groups
from tests.marks import rest_slow

ITEMS = 30
CONFIG = EvalConfig(ks=(3, 7), bands=4, bootstrap=50)


def make_batches(seed=0, batches=3, size=8, real=20, each=1):
    """Batches of random examples; the last is filled up with rows that are not real."""
    rng = np.random.default_rng(seed)
    made = []
    for k in range(batches):
        liked_BC, disliked_BC = (
            rng.integers(1, ITEMS + 1, size=(size, 4)) * (np.arange(4) < rng.integers(0, 5, size=(size, 1)))
            for _ in range(2)
        )
        both = (liked_BC[:, 0] > 0) & (disliked_BC[:, 0] > 0) & (rng.random(size) < 0.8)
        item_BL = rng.integers(1, ITEMS + 1, size=(size, 9)) * (
            np.arange(9) < rng.integers(1, 10, size=(size, 1))
        )
        made.append(
            EvalBatch(
                item_BL=item_BL.astype(np.int32),
                feedback_BL=np.where(item_BL > 0, 4, 0).astype(np.int32),
                station_BL=np.zeros_like(item_BL, np.int32),
                liked_BC=liked_BC.astype(np.int32),
                disliked_BC=disliked_BC.astype(np.int32),
                pair_B2=np.where(both[:, None], np.stack([liked_BC[:, 0], disliked_BC[:, 0]], 1), 0).astype(
                    np.int32
                ),
                user_B=np.arange(k * size, (k + 1) * size, dtype=np.int32) // each,
                share_B=rng.choice([0.0, 0.1, 0.25, 0.5, 0.6, 1.0], size).astype(np.float32),
                real_B=np.arange(k * size, (k + 1) * size) < real,
            )
        )
    return made


def make_score(seed=1, levels=12):
    """Scores with many ties, the padding row highest; alike for all examples of a user."""
    table = np.random.default_rng(seed).integers(levels, size=(400, ITEMS + 1)).astype(np.float32)
    table[:, 0] = levels
    return lambda batch: table[batch.user_B]


def by_loops(score, batches, config, keep=lambda share: True):
    """Every figure that has no random draw, example by example."""
    ks = config.ks
    names = ("pair", "auc", "mrr+", "mrr-", "context", "all pairs", "same pairs", "user")
    lists = {name: [] for name in names}
    lists |= {(name, k, kind): [] for name in ("hit_rate", "ndcg") for k in ks for kind in "+-"}
    lists |= {(name, kind): [] for name in ("ap", "unseen ap", "unseen log") for kind in "+-"}
    lists |= {("next", k): [] for k in ks}
    shown = {k: [0] * (ITEMS + 1) for k in ks}
    for batch in batches:
        for b, score_V in enumerate(score(batch)):
            if not batch.real_B[b] or not keep(batch.share_B[b]):
                continue
            context = {int(v) for v in batch.item_BL[b] if v}
            seen = context if config.exclude_seen else set()
            lists["context"].append(int((batch.item_BL[b] > 0).sum()))
            compare = lambda x, y, s=score_V: 1.0 if s[x] > s[y] else 0.5 if s[x] == s[y] else 0.0  # noqa: E731
            if batch.pair_B2[b, 0] != batch.pair_B2[b, 1]:
                lists["pair"].append(compare(*batch.pair_B2[b]))
            liked, disliked = ([int(v) for v in row[b] if v] for row in (batch.liked_BC, batch.disliked_BC))
            pairs = [compare(x, y) for x in liked for y in disliked if x != y]
            lists["all pairs"].append(len(pairs))
            lists["same pairs"].append(len(liked) * len(disliked) - len(pairs))
            lists["user"].append(int(batch.user_B[b]))
            if pairs:
                lists["auc"].append(sum(pairs) / len(pairs))
            for kind, targets in (("+", liked), ("-", disliked)):
                ranks = []
                for target in targets:
                    others = [v for v in range(1, ITEMS + 1) if v != target and v not in seen]
                    above = sum(score_V[v] > score_V[target] for v in others)
                    ranks.append(1 + above + sum(score_V[v] == score_V[target] for v in others) / 2)
                if not ranks:
                    continue
                lists[f"mrr{kind}"].append(sum(1 / r for r in ranks) / len(ranks))
                precisions = [1 / r if r <= 10 else 0.0 for r in ranks]
                lists["ap", kind].append(sum(precisions) / len(ranks))
                new = [n for n, target in enumerate(targets) if target not in context]
                if new:
                    lists["unseen ap", kind].append(sum(precisions[n] for n in new) / len(new))
                    lists["unseen log", kind].append(sum(math.log(ranks[n]) for n in new) / len(new))
                if kind == "+":
                    for k in ks:
                        lists["next", k].append(float(ranks[0] <= k))
                for k in ks:
                    lists["hit_rate", k, kind].append(sum(r <= k for r in ranks) / len(ranks))
                    gains = [1 / math.log2(1 + r) if r <= k else 0.0 for r in ranks]
                    lists["ndcg", k, kind].append(sum(gains) / len(ranks))
            order = sorted((v for v in range(1, ITEMS + 1) if v not in seen), key=lambda v: (-score_V[v], v))
            for k in ks:
                for v in order[:k]:
                    shown[k][v] += 1
    mean = {name: sum(values) / len(values) if values else math.nan for name, values in lists.items()}
    figures = {
        "pair_accuracy": mean["pair"],
        "pairs": len(lists["pair"]),
        "auc": mean["auc"],
        "auc_pairs": sum(lists["all pairs"]),
        "same_pairs": sum(lists["same pairs"]),
        "users": len(set(lists["user"])),
        "examples": len(lists["context"]),
        "mrr_positive": mean["mrr+"],
        "mrr_negative": mean["mrr-"],
        "map@10": mean["ap", "+"],
        "unseen_liked_mrr@10": mean["unseen ap", "+"],
        "unseen_disliked_mrr@10": mean["unseen ap", "-"],
        "unseen_liked_log_rank": mean["unseen log", "+"],
        "unseen_disliked_log_rank": mean["unseen log", "-"],
        "user_coverage": sum(n >= 1 for n in lists["context"]) / max(len(lists["context"]), 1),
        "user_coverage_5": sum(n >= 5 for n in lists["context"]) / max(len(lists["context"]), 1),
    }
    for k in ks:
        figures[f"next_hit_rate@{k}"] = mean["next", k]
        for name in ("hit_rate", "ndcg"):
            figures[f"{name}@{k}"] = mean[name, k, "+"]
            figures[f"delta_{name}@{k}"] = mean[name, k, "+"] - mean[name, k, "-"]
        x = sorted(shown[k][1:])
        spread = sum((2 * i - ITEMS - 1) * count for i, count in enumerate(x, start=1))
        figures[f"gini@{k}"] = spread / (ITEMS * sum(x)) if sum(x) else math.nan
        figures[f"item_coverage@{k}"] = sum(count > 0 for count in x) / ITEMS
    return figures


@pytest.mark.parametrize("exclude_seen", [False, True])
def test_every_figure_equals_loops(exclude_seen):
    config = EvalConfig(ks=(3, 7), bands=4, bootstrap=50, exclude_seen=exclude_seen)
    batches, score = make_batches(), make_score()
    report = measures.evaluate(score, batches, items=ITEMS, config=config)
    expected = by_loops(score, batches, config)
    for name, value in expected.items():
        assert report.figures[name] == pytest.approx(value, nan_ok=True), name
    ends = [(0, 0.25), (0.25, 0.5), (0.5, 0.75), (0.75, 1.01)]
    for band, (low, high) in zip(report.bands, ends, strict=True):
        assert band["low"] == low
        expected = by_loops(score, batches, config, lambda share, low=low, high=high: low <= share < high)
        for name, value in expected.items():
            if band["examples"] or not name.startswith("user_coverage"):
                assert band[name] == pytest.approx(value, nan_ok=True), name
    assert sum(band["examples"] for band in report.bands) == report.figures["examples"] == 20


def test_flat_keys_are_those_that_scripts_read():
    config = EvalConfig(ks=(10, 100), bootstrap=5)
    values = measures.evaluate(make_score(), make_batches(), items=ITEMS, config=config).to_dict()
    at_k = ("hit_rate", "next_hit_rate", "ndcg", "delta_hit_rate", "delta_ndcg", "gini", "item_coverage")
    assert set(values) == {
        "pair_accuracy",
        "pair_accuracy_low",
        "pair_accuracy_high",
        "pairs",
        "auc",
        "examples",
        "random_accuracy",
        "mrr_positive",
        "mrr_negative",
        "user_coverage",
        "user_coverage_5",
        "bands",
        "map@10",
        "counts",
        "users",
        "auc_low",
        "auc_high",
        "auc_pairs",
        "same_pairs",
        *(f"{name}_pair_accuracy{end}" for name in ("user", "drawn") for end in ("", "_low", "_high")),
        "unseen_liked_mrr@10",
        "unseen_disliked_mrr@10",
        "unseen_liked_log_rank",
        "unseen_disliked_log_rank",
    } | {f"{name}@{k}" for name in at_k for k in (10, 100)}
    assert values["item_coverage@100"] == 1.0  # 100 is more than all items
    json.loads(json.dumps(values, allow_nan=False))


def test_content_of_fill_rows_and_padding_column_is_ignored():
    batches, score = make_batches(), make_score()
    plain = measures.evaluate(score, batches, items=ITEMS, config=CONFIG)

    def spoiled(batch):
        score_BV = score(batch).copy()
        score_BV[:, 0] = np.nan
        score_BV[~batch.real_B] = np.nan
        return score_BV

    assert measures.evaluate(spoiled, batches, items=ITEMS, config=CONFIG).to_dict() == plain.to_dict()


def test_jax_scores_and_one_big_batch_give_the_same():
    batches, score = make_batches(), make_score()
    plain = measures.evaluate(score, batches, items=ITEMS, config=CONFIG)
    on_device = measures.evaluate(
        lambda batch: jnp.asarray(score(batch)), batches, items=ITEMS, config=CONFIG
    )
    assert on_device.to_dict() == plain.to_dict()
    whole = EvalBatch(*(np.concatenate(leaves) for leaves in zip(*batches, strict=True)))
    at_once = measures.evaluate(score, [whole], items=ITEMS, config=CONFIG).to_dict()
    for name, value in plain.to_dict().items():
        if name not in ("bands", "counts"):
            assert at_once[name] == pytest.approx(value), name


class Elsewhere:
    """Scores that no matrix at hand holds, asked for the whole batch, rows that only fill it up included."""

    def __init__(self, score_BV, seen):
        self.score_BV, self.seen = score_BV, seen

    def of(self, item_BC):
        assert len(item_BC) == len(self.score_BV)
        return np.array(
            [[score_V[v] for v in row] for score_V, row in zip(self.score_BV, item_BC, strict=True)]
        )

    def rank(self, targets, *, k, seen_BL):
        assert (seen_BL is not None) == self.seen
        return metrics.rank(self.score_BV, targets, k=k, seen_BL=seen_BL)


@pytest.mark.parametrize("exclude_seen", [False, True])
def test_scores_that_are_elsewhere_measure_alike(exclude_seen):
    """The real rows stand in no order that filling up would leave."""
    real = np.array([False, True, True, False, True, False, True, True])
    batches, score = [batch._replace(real_B=real) for batch in make_batches()], make_score()
    config = EvalConfig(ks=(3, 7), bands=4, bootstrap=50, exclude_seen=exclude_seen, released=3)
    plain = measures.evaluate(score, batches, items=ITEMS, config=config)
    found = measures.evaluate(
        lambda batch: Elsewhere(score(batch), exclude_seen), batches, items=ITEMS, config=config
    )
    assert found.to_dict() == plain.to_dict() and found.figures["examples"] == 15
    for name, value_X in plain.value_X.items():
        np.testing.assert_array_equal(found.value_X[name], value_X)


def two_reports():
    batches = make_batches()
    return [measures.evaluate(make_score(seed), batches, items=ITEMS, config=CONFIG) for seed in (1, 2)]


def test_the_average_of_runs_by_loops():
    one, two = two_reports()
    found = measures.average([one, two], CONFIG)
    share_X = one.value_X["share"]
    with np.errstate(invalid="ignore"):
        for name, value_X in found.value_X.items():
            np.testing.assert_array_equal(value_X, (one.value_X[name] + two.value_X[name]) / 2)
    parts = [(found.figures, one.figures, two.figures, np.ones(len(share_X), bool))]
    for w in range(4):
        at = (share_X >= w / 4 - 1e-6) & ((share_X < (w + 1) / 4 - 1e-6) | (w == 3))
        parts.append((found.bands[w], one.bands[w], two.bands[w], at))
    counted = {"users", "examples", "pairs", "auc_pairs", "same_pairs"}
    for figures, first, second, at in parts:
        assert set(figures) == set(first)
        for name, value in figures.items():
            if name.startswith(("pair_accuracy_", "auc_l", "auc_h")):
                of, end = name.rsplit("_", 1)
                ends = metrics.bootstrap(
                    found.value_X[of][at], one.user_X[at], resamples=50, seed=CONFIG.pair_seed
                )
                expected = ends[end == "high"]
            elif "_pair_accuracy" in name:
                continue
            else:
                expected = (first[name] + second[name]) / 2
            assert value == pytest.approx(expected, nan_ok=True), name
            assert isinstance(value, int) == (name in counted)
    by_user = measures.by_user(found.value_X["pair_accuracy"], one.user_X, CONFIG)
    assert {name: found.figures[name] for name in by_user} == by_user
    for k in CONFIG.ks:
        assert found.shown_V[k].tolist() == (one.shown_V[k] + two.shown_V[k]).tolist()
    assert found.counts == one.counts
    for name in ("pair_X2", "user_X", "liked_rank", "disliked_rank"):
        np.testing.assert_array_equal(getattr(found, name), getattr(one, name))
    assert measures.average([one], CONFIG) is one


def test_a_narrowed_report_keeps_the_values_of_some_examples():
    whole, _ = two_reports()
    at = np.array([0, 3, 17])
    found = measures.narrowed(whole, at)
    assert found.user_X.tolist() == whole.user_X[at].tolist()
    assert found.pair_X2.tolist() == whole.pair_X2[at].tolist()
    assert set(found.value_X) == set(whole.value_X)
    for name, value_X in whole.value_X.items():
        np.testing.assert_array_equal(found.value_X[name], [value_X[0], value_X[3], value_X[17]])
    assert found.figures == whole.figures and found.bands == whole.bands and found.counts == whole.counts
    np.testing.assert_array_equal(found.liked_rank, whole.liked_rank)


def test_random_accuracy_draws_outside_context_and_liked_and_alike_for_all_scores():
    batches = make_batches(batches=40, real=10**9)

    def held(batch):
        score_BV = np.zeros((len(batch.user_B), ITEMS + 1), np.float32)
        np.put_along_axis(score_BV, batch.item_BL, 1.0, axis=1)
        np.put_along_axis(score_BV, batch.liked_BC, 1.0, axis=1)
        return score_BV

    assert measures.evaluate(held, batches, items=ITEMS, config=CONFIG).figures["random_accuracy"] == 1.0
    reports = [measures.evaluate(make_score(seed), batches, items=ITEMS, config=CONFIG) for seed in (1, 1, 2)]
    a, b, c = (report.value_X["random_accuracy"] for report in reports)
    np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(np.isnan(a), np.isnan(c))


def test_random_accuracy_leaves_out_an_example_that_holds_every_item():
    batch = make_batches(batches=1)[0]
    batch = batch._replace(item_BL=np.tile(np.arange(1, ITEMS + 1, dtype=np.int32), (8, 1)))
    report = measures.evaluate(make_score(), [batch], items=ITEMS, config=CONFIG)
    assert math.isnan(report.figures["random_accuracy"])
    assert report.to_dict()["random_accuracy"] is None


def test_cold_examples_lower_user_coverage():
    report = measures.evaluate(make_score(), make_batches(), items=ITEMS, config=CONFIG, cold=5)
    assert report.figures["user_coverage"] == pytest.approx(20 / 25)


def test_nothing_disliked_leaves_figures_empty():
    batches = [
        batch._replace(disliked_BC=np.zeros_like(batch.disliked_BC), pair_B2=np.zeros_like(batch.pair_B2))
        for batch in make_batches()
    ]
    values = measures.evaluate(make_score(), batches, items=ITEMS, config=CONFIG).to_dict()
    assert values["pairs"] == 0
    assert [values[name] for name in ("pair_accuracy", "pair_accuracy_low", "auc", "mrr_negative")] == [
        None
    ] * 4
    assert values["mrr_positive"] > 0


def test_wrong_scores_are_refused():
    with pytest.raises(ValueError, match="padding row first"):
        measures.evaluate(lambda batch: np.zeros((8, ITEMS)), make_batches(), items=ITEMS, config=CONFIG)
    with pytest.raises(ValueError, match="NaN"):
        measures.evaluate(
            lambda batch: np.full((8, ITEMS + 1), np.nan), make_batches(), items=ITEMS, config=CONFIG
        )
    with pytest.raises(ValueError, match="no batch"):
        measures.evaluate(make_score(), [], items=ITEMS, config=CONFIG)


def test_separation_agrees_with_evaluate():
    batches, score = make_batches(), make_score()
    report = measures.evaluate(score, batches, items=ITEMS, config=CONFIG)
    found = measures.separation(score, batches)
    assert found == pytest.approx({name: report.figures[name] for name in ("pair_accuracy", "auc")})


def test_paired_difference():
    batches = make_batches(batches=30, real=10**9)

    def oracle(batch):
        score_BV = np.zeros((len(batch.user_B), ITEMS + 1), np.float32)
        np.put_along_axis(score_BV, batch.pair_B2[:, :1], 1.0, axis=1)
        return score_BV

    best, other = (measures.evaluate(s, batches, items=ITEMS, config=CONFIG) for s in (oracle, make_score()))
    difference, low, high = measures.paired_difference(best, other)
    assert difference == pytest.approx(best.figures["pair_accuracy"] - other.figures["pair_accuracy"])
    assert 0 < low < difference < high
    assert measures.paired_difference(best, best) == (0.0, 0.0, 0.0)
    with pytest.raises(ValueError, match="different examples"):
        measures.paired_difference(
            best, measures.evaluate(oracle, make_batches(seed=7), items=ITEMS, config=CONFIG)
        )


def test_worked_example():
    """One example: liked 2 and disliked 3 among 4 items, after a context of item 1."""
    batch = EvalBatch(
        item_BL=np.array([[1, 0]], np.int32),
        feedback_BL=np.array([[4, 0]], np.int32),
        station_BL=np.zeros((1, 2), np.int32),
        liked_BC=np.array([[2]], np.int32),
        disliked_BC=np.array([[3]], np.int32),
        pair_B2=np.array([[2, 3]], np.int32),
        user_B=np.zeros(1, np.int32),
        share_B=np.array([1.0], np.float32),
        real_B=np.ones(1, bool),
    )
    config = EvalConfig(ks=(2,), bands=2, bootstrap=5)
    scores = np.array([[0.0, 9.0, 5.0, 3.0, 1.0]], np.float32)  # ranks of items 1 to 4: 1, 2, 3, 4
    figures = measures.evaluate(lambda _: scores, [batch], items=4, config=config).figures
    assert figures == pytest.approx(
        {
            "pair_accuracy": 1.0,
            "pairs": 1,
            "auc": 1.0,
            "auc_pairs": 1,
            "same_pairs": 0,
            "users": 1,
            "user_pair_accuracy": 1.0,
            "drawn_pair_accuracy": 1.0,
            **{
                f"{name}_{end}": math.nan
                for end in ("low", "high")  # of one user there is no interval
                for name in ("pair_accuracy", "auc", "user_pair_accuracy", "drawn_pair_accuracy")
            },
            "examples": 1,
            "random_accuracy": 1.0,
            "hit_rate@2": 1.0,
            "ndcg@2": 1 / math.log2(3),
            "delta_hit_rate@2": 1.0,
            "delta_ndcg@2": 1 / math.log2(3),
            "mrr_positive": 1 / 2,
            "mrr_negative": 1 / 3,
            "gini@2": 0.5,
            "next_hit_rate@2": 1.0,
            "map@10": 1 / 2,
            "unseen_liked_mrr@10": 1 / 2,
            "unseen_disliked_mrr@10": 1 / 3,
            "unseen_liked_log_rank": math.log(2),
            "unseen_disliked_log_rank": math.log(3),
            "item_coverage@2": 0.5,
            "user_coverage": 1.0,
            "user_coverage_5": 0.0,
        },
        nan_ok=True,
    )


def test_a_target_of_the_context_is_not_unseen():
    """Of the disliked items 1 and 3, ranks 1 and 3, the context holds 1."""
    batch = make_batches(batches=1, size=1)[0]._replace(
        item_BL=np.array([[1, 4]], np.int32),
        liked_BC=np.array([[4, 0]], np.int32),
        disliked_BC=np.array([[1, 3]], np.int32),
    )
    scores = -np.arange(ITEMS + 1, dtype=np.float32)[None]
    figures = measures.evaluate(lambda _: scores, [batch], items=ITEMS, config=CONFIG).figures
    assert figures["unseen_disliked_mrr@10"] == pytest.approx(1 / 3)
    assert figures["unseen_disliked_log_rank"] == pytest.approx(math.log(3))
    assert math.isnan(figures["unseen_liked_mrr@10"]) and figures["map@10"] == 0.25


def test_cut_offs_of_the_papers():
    config = EvalConfig(ks=(1, 5, 10, 20), bands=2, bootstrap=5)
    batches, score = make_batches(batches=6, real=48), make_score(levels=10**6)
    figures = measures.evaluate(score, batches, items=ITEMS, config=config).figures
    expected = by_loops(score, batches, config)
    hits = [figures[f"hit_rate@{k}"] for k in config.ks]
    assert hits == pytest.approx([expected[f"hit_rate@{k}"] for k in config.ks])
    assert hits == sorted(hits) and hits[0] < hits[-1]
    low, high = metrics.average_precision_bounds(*hits[:3])
    assert low <= figures["map@10"] <= high


def released(score, batches, number, **options):
    config = EvalConfig(ks=(1, 3), bands=1, bootstrap=5, released=number, **options)
    return measures.evaluate(score, batches, items=ITEMS, config=config).figures


def test_candidates_are_the_targets_and_as_many_others_each_once():
    rng = np.random.default_rng(5)
    config = EvalConfig(ks=(1,), released=6, released_batch=8)
    drawn = set()
    for group in range(200):
        # rows 1 and ITEMS at the ends, twice the same, and examples without a target
        target_G = np.array([1, ITEMS, 5, 5, 0, *rng.integers(0, ITEMS + 1, size=3)])
        found = groups.candidates(group, target_G, ITEMS, config)
        targets = sorted(set(target_G.tolist()) - {0})
        others = found[len(targets) :].tolist()
        assert found[: len(targets)].tolist() == targets
        assert len(set(others)) == len(others) == 6 and not set(others) & set(targets)
        drawn |= set(others)
        np.testing.assert_array_equal(found, groups.candidates(group, target_G, ITEMS, config))
    assert drawn == set(range(2, ITEMS)) - {5}
    few = groups.candidates(0, np.array([3, 0, 4]), 7, config)
    assert few[:2].tolist() == [3, 4] and sorted(few[2:].tolist()) == [1, 2, 5, 6, 7]
    assert not np.array_equal(few, groups.candidates(1, np.array([3, 0, 4]), 7, config))


@pytest.mark.parametrize("targets", [[2], [1, 2], [6, 7], [1, 4, 7]])
def test_others_among_candidates_are_uniform(targets):
    config, draws = EvalConfig(ks=(1,), released=2, released_batch=8), 2000
    others = [groups.candidates(n, np.array(targets), 7, config)[len(targets) :] for n in range(draws)]
    count = np.bincount(np.concatenate(others), minlength=8)
    free = sorted(set(range(1, 8)) - set(targets))
    assert np.flatnonzero(count).tolist() == free
    chance = 2 / len(free)
    assert np.abs(count[free] - draws * chance).max() < 4.5 * math.sqrt(draws * chance * (1 - chance))


def test_a_group_of_different_targets_fills_its_matrix():
    config = EvalConfig(ks=(1,), released=4, released_batch=3)
    target_X = np.array([7, 2, 9, 5, 5, 0, 8], np.int32)
    item_BC = groups.matrix(target_X, 0, 7, ITEMS, config)
    assert item_BC.dtype == np.int32 and item_BC.shape == (7, 1 + 3 + 4)
    assert item_BC[:, 0].tolist() == target_X.tolist()
    for group, (first, last) in enumerate([(0, 3), (3, 6), (6, 7)]):
        found = groups.candidates(group, target_X[first:last], ITEMS, config)
        for row in item_BC[first:last, 1:]:
            assert row.tolist() == found.tolist() + [0] * (7 - len(found))
    # Rows of a batch that begins and ends within groups are those of the whole.
    np.testing.assert_array_equal(groups.matrix(target_X, 2, 5, ITEMS, config), item_BC[2:5])


def test_a_rank_among_candidates_equals_counting():
    rng = np.random.default_rng(2)
    item_BC = rng.integers(0, 4, size=(60, 7)).astype(np.int32)
    score_BC = rng.integers(3, size=item_BC.shape).astype(np.float32)
    score_BC[:, 1] = score_BC[:, 0]  # the target is among its candidates
    item_BC[:, 1] = item_BC[:, 0]
    for item_C, score_C, rank in zip(item_BC, score_BC, groups.rank(score_BC, item_BC), strict=True):
        others = [score for item, score in zip(item_C[2:], score_C[2:], strict=True) if item]
        expected = 1 + sum(s > score_C[0] for s in others) + sum(s == score_C[0] for s in others) / 2
        assert rank == expected if item_C[0] else math.isnan(rank)


def test_the_first_row_is_a_target_like_others_among_candidates():
    batch = make_batches(batches=1, size=4, real=4)[0]._replace(
        liked_BC=np.array([[1, 5], [1, 2], [9, 0], [0, 0]], np.int32)
    )
    config = EvalConfig(ks=(1,), bands=1, bootstrap=5, released=2)
    report = measures.evaluate(make_score(), [batch], items=ITEMS, config=config)
    assert report.counts["released_candidates"]["examples"] == 3
    assert report.value_X["released_candidates"].tolist()[:3] == [4, 4, 4]


def test_released_candidates_by_hand():
    """Four examples, first liked 5, 5, 9 and none: candidates 5, 9 and two more, which 5 or 9 beat or not."""
    batch = make_batches(batches=1, size=4, real=4)[0]._replace(
        liked_BC=np.array([[5, 1], [5, 2], [9, 0], [0, 0]], np.int32)
    )

    def scores(of_5, of_9):
        score_BV = np.tile(np.arange(ITEMS + 1, dtype=np.float32), (4, 1))
        score_BV[:, 5], score_BV[:, 9] = of_5, of_9
        return lambda _: score_BV

    figures = released(scores(100, 200), [batch], 2)  # ranks 2, 2, 1 whatever is drawn
    assert (figures["released_candidates"], figures["released_hit_rate@1"]) == (4, pytest.approx(1 / 3))
    assert figures["released_hit_rate@3"] == 1.0
    # below both drawn items and level with each other: rank 3.5
    figures = released(scores(-1, -1), [batch], 2)
    assert (figures["released_hit_rate@1"], figures["released_hit_rate@3"]) == (0.0, 0.0)
    figures = released(scores(-1, 200), [batch], 2)  # 4, 4, 1
    assert figures["released_hit_rate@3"] == pytest.approx(1 / 3)


def test_released_among_all_items_is_the_whole_catalogue():
    batches, score = make_batches(), make_score()
    figures = released(score, batches, 10**6)
    assert figures["released_candidates"] == ITEMS
    for k in (1, 3):
        assert figures[f"released_hit_rate@{k}"] == figures[f"next_hit_rate@{k}"]


def test_released_items_are_drawn_uniformly():
    """One target above 22 of the 29 other items meets one of them: it leads in 22 of 29 draws."""
    size, draws, chance = 100, 3000, 22 / 29
    [batch] = make_batches(batches=1, size=size, real=size)
    batch = batch._replace(liked_BC=np.full((size, 1), 23, np.int32))
    scores = np.tile(np.arange(ITEMS + 1, dtype=np.float32), (size, 1))
    # Groups of one: each example meets a draw of its own.
    found = released(lambda _: scores, [batch] * (draws // size), 1, released_batch=1)["released_hit_rate@1"]
    assert abs(found - chance) < 4 * math.sqrt(chance * (1 - chance) / draws)


def test_released_groups_are_of_their_own_size_and_move_no_other_figure():
    batches, score = make_batches(batches=4, real=32), make_score()
    plain = measures.evaluate(score, batches, items=ITEMS, config=CONFIG).to_dict()
    options = {"ks": (3, 7), "bands": 4, "bootstrap": 50, "released": 3}
    measured, fewer = (
        measures.evaluate(
            score, batches, items=ITEMS, config=EvalConfig(**options, released_batch=size)
        ).to_dict()
        for size in (8, 4)
    )
    assert not [name for name in plain if name.startswith("released")]
    for name, value in plain.items():
        if name not in ("bands", "counts"):
            assert measured[name] == fewer[name] == value
    assert fewer["released_candidates"] < measured["released_candidates"]
    # Of each four examples: their different first liked items, and three more.
    firsts = np.concatenate([batch.liked_BC[:, 0] for batch in batches])
    expected = [
        len(set(firsts[n // 4 * 4 : n // 4 * 4 + 4]) - {0}) + 3 for n in range(len(firsts)) if firsts[n]
    ]
    assert fewer["released_candidates"] == pytest.approx(np.mean(expected))


def cut(batches, size):
    """The same examples in batches of another size, the last filled up with rows that are not real."""
    whole = [np.concatenate(leaves) for leaves in zip(*batches, strict=True)]
    real = np.flatnonzero(whole[-1])
    for first in range(0, len(real), size):
        at = real[first : first + size]
        fill = [(0, size - len(at))]
        yield EvalBatch(*(np.pad(leaf[at], fill + [(0, 0)] * (leaf.ndim - 1)) for leaf in whole))


@pytest.mark.parametrize("exclude_seen", rest_slow([False, True], [True]))
def test_no_figure_depends_on_the_size_of_batches(exclude_seen):
    batches, score = make_batches(batches=30, real=231, each=3), make_score()
    config = EvalConfig(
        ks=(1, 7), bands=3, bootstrap=20, released=5, released_batch=10, exclude_seen=exclude_seen
    )
    found = [
        measures.evaluate(score, cut(batches, size), items=ITEMS, config=config) for size in (1, 7, 64, 1024)
    ]
    for other in found[1:]:
        assert other.to_dict() == found[0].to_dict()
        for name, column in found[0].value_X.items():
            np.testing.assert_array_equal(other.value_X[name], column)
    assert found[0].figures["random_accuracy"] < 1 and found[0].figures["released_hit_rate@1"] < 1


def test_random_items_are_uniform_over_what_an_example_does_not_hold():
    batch = make_batches(batches=1, size=4, real=4)[0]._replace(
        liked_BC=np.array([[5, 5], [1, 2], [30, 0], [0, 0]], np.int32),
        item_BL=np.array([[5, 9, 0], [2, 3, 4], [29, 28, 28], [0, 0, 0]], np.int32),
    )
    rng, draws = np.random.default_rng(0), 4000
    drawn = np.stack([examples._random_items(rng, batch, ITEMS) for _ in range(draws)])
    for b, held in enumerate([{5, 9}, {1, 2, 3, 4}, {28, 29, 30}, set()]):
        free = sorted(set(range(1, ITEMS + 1)) - held)
        count = np.bincount(drawn[:, b], minlength=ITEMS + 1)
        assert set(np.flatnonzero(count)) == set(free)
        expected = draws / len(free)
        assert np.abs(count[free] - expected).max() < 4.5 * math.sqrt(expected)


def test_pairs_by_user_by_hand():
    """User 0 has three pairs right and one wrong, user 1 one wrong, user 2 no pair."""
    liked = np.array([[1], [1], [1], [2], [2], [1]], np.int32)
    disliked = np.array([[2], [2], [2], [1], [1], [1]], np.int32)  # the last with itself
    batch = EvalBatch(
        *(np.full((6, 2), code, np.int32) for code in (3, 4, 0)),
        liked,
        disliked,
        np.concatenate([liked, disliked], 1),
        np.array([0, 0, 0, 0, 1, 2], np.int32),
        np.full(6, 0.5, np.float32),
        np.ones(6, bool),
    )
    scores = np.tile(np.float32([0, 3, 2, 1]), (6, 1))
    drawn = set()
    for seed in range(40):
        config = EvalConfig(ks=(1,), bands=1, bootstrap=200, pair_seed=seed)
        report = measures.evaluate(lambda _: scores, [batch], items=3, config=config)
        drawn.add(report.figures["drawn_pair_accuracy"])
    figures = report.figures
    assert figures["pair_accuracy"] == 3 / 5 and figures["user_pair_accuracy"] == (3 / 4 + 0) / 2
    assert drawn == {0.5, 0.0}  # one pair of user 0, which is right or not, and the one of user 1
    assert (figures["pair_accuracy_low"], figures["pair_accuracy_high"]) == (0.0, 0.75)
    assert (figures["user_pair_accuracy_low"], figures["user_pair_accuracy_high"]) == (0.0, 0.75)
    assert (figures["users"], figures["pairs"], figures["auc_pairs"], figures["same_pairs"]) == (3, 5, 5, 1)
    assert report.counts["pair_accuracy"] == {"users": 2, "examples": 5, "pairs": 5}
    assert report.counts["auc"] == {"users": 2, "examples": 5, "pairs": 5}
    assert report.counts["drawn_pair_accuracy"] == {"users": 2, "examples": 2, "pairs": 2}
    assert report.counts["hit_rate@1"] == {"users": 3, "examples": 6}


def test_released_without_a_liked_item_is_empty():
    batch = make_batches(batches=1)[0]
    batch = batch._replace(liked_BC=np.zeros_like(batch.liked_BC), pair_B2=np.zeros_like(batch.pair_B2))
    figures = released(make_score(), [batch], 4)
    assert math.isnan(figures["released_candidates"]) and math.isnan(figures["released_hit_rate@1"])
