"""What benchmarks/peers.py says of windows, lists and ratios; that it runs whole is held by test_benchmarks.py."""

import functools
import json
import pathlib
import sys

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture
def scripts(monkeypatch):
    """peers.py, the worker of its rivals, and time_to_quality.py."""
    for place in ("benchmarks", "benchmarks/rivals"):
        monkeypatch.syspath_prepend(ROOT / place)
    import peers
    import time_to_quality
    import worker

    yield peers, worker, time_to_quality
    for name in ("peers", "worker", "time_to_quality"):
        sys.modules.pop(name, None)


@pytest.fixture
def log(scripts):
    # Two users: five items, and three.
    return scripts[1].Log(np.array([1, 2, 3, 4, 5, 2, 6, 1], np.int32), np.array([0, 5, 8]), length=2)


def test_no_sequence_of_training_and_no_context_holds_the_test_item(log):
    assert log.train(0).tolist() == [1, 2, 3]  # two inputs, and their targets 2 and 3
    assert log.train(1).tolist() == [2]
    assert log.context(0).tolist() == [3, 4]
    assert log.targets().tolist() == [5, 1]
    assert log.hit_rate(np.array([[5, 1], [2, 3]])) == 0.5


def test_ndcg_is_that_of_the_validation_item_among_what_is_new(log, scripts):
    # Of user 0 item 4 after 1, 2, 3; of user 1 item 6 after 2; the catalogue ends with item 6.
    score = np.array([[9, 8, 8, 8, 2, 3, 1], [9, 3, 9, 3, 3, 3, 3]], float)
    contexts = []

    def scored(given):
        contexts.extend(row.tolist() for row in given)
        return score

    # User 0: second of 4, 5 and 6, 1 / log2(3). User 1: level with 1, 3, 4 and 5, so third: 1 / log2(4).
    assert log.ndcg(scored) == pytest.approx((1 / np.log2(3) + 1 / 2) / 2)
    assert contexts == [[2, 3], [2]]


def test_a_log_ends_with_a_sequence_and_what_is_held_out(scripts, tmp_path):
    np.savez(tmp_path / "log.npz", item_T=np.arange(1, 12), indptr=np.array([0, 7, 11]))
    cut = scripts[1].Log.open(tmp_path / "log.npz", 2)
    assert [cut.history(user).tolist() for user in range(2)] == [[3, 4, 5, 6, 7], [8, 9, 10, 11]]
    assert cut.train(0).tolist() == [3, 4, 5]


def test_what_is_held_out_is_liked_and_not_rejected_before(scripts):
    rng, signed = np.random.default_rng(0), scripts[2].Signed
    user_T = np.sort(rng.integers(0, 12, 900))
    events = signed(user_T, rng.integers(0, 9, 900), rng.random(900) < 0.6)
    found = scripts[2].kept(events)
    assert sorted(set(found.item_T.tolist())) == list(range(1, found.item_T.max() + 1))
    for user in range(found.user_T.max() + 1):
        item, liked = (column[found.user_T == user] for column in (found.item_T, found.liked_T))
        assert liked[-2:].all() and liked.sum() >= 5 and len(set(item[liked].tolist())) == liked.sum()
        assert not set(item[-2:].tolist()) & set(item[:-2].tolist())
    # Rejections are there, and the likes are the first of each item by a user, in their order.
    assert (~found.liked_T).sum() > 50
    firsts = dict.fromkeys(zip(events.user_T[events.liked_T], events.item_T[events.liked_T], strict=True))
    assert found.liked_T.sum() == len(firsts)


def test_a_figure_is_reached_when_it_is_seen_first(scripts):
    curve = scripts[2].Curve([1.0, 2.0, 3.0], [0.1, 0.3, 0.2])
    assert (curve.best, curve.seconds_to(0.15), curve.seconds_to(0.3), curve.seconds_to(0.4)) == (
        0.3,
        2.0,
        2.0,
        float("inf"),
    )


def test_ours_is_timed_to_the_figure_of_each_other(scripts):
    curve = scripts[2].Curve
    curves = {
        "torch": [curve([10.0, 20.0], [0.1, 0.2]), curve([10.0, 40.0], [0.1, 0.4])],
        "same": [curve([5.0, 6.0], [0.1, 0.3]), curve([5.0, 10.0], [0.1, 0.35])],
        "p_hard": [curve([5.0], [0.1]), curve([5.0], [0.1])],
    }
    found = scripts[2].summary(curves)
    # torch ends at 0.3 on average, after 30 s; ours is there after 6 and 10 s.
    assert found["same"]["to_figure_of"] == {"torch": {"seconds": 8.0, "ratio": 3.75}}
    assert found["p_hard"]["to_figure_of"] == {"torch": {"seconds": None, "ratio": None}}


def test_rows_are_filled_on_the_side_that_is_asked_for(scripts):
    rows = [np.array([1, 2]), np.array([], int), np.array([3])]
    assert scripts[1].padded(rows, 3).tolist() == [[1, 2, 0], [0, 0, 0], [3, 0, 0]]
    assert scripts[1].padded(rows, 3, left=True).tolist() == [[0, 1, 2], [0, 0, 0], [0, 0, 3]]


class Written:
    """Commands as they come, and the answers that were given."""

    def __init__(self, *commands):
        self.waiting, self.answers = list(commands), []

    def next(self):
        return self.waiting.pop(0)

    def push_back(self, command):
        self.waiting.insert(0, command)

    def answer(self, **found):
        self.answers.append(found)


def test_a_window_counts_its_steps_and_not_those_before_it(scripts):
    train = {"do": "train", "lead": 2, "steps": 3}
    commands = Written(train, {"do": "validate"}, train, {"do": "memory"})
    gate, waited = scripts[1].Gate(commands, lambda: 0.5), []
    assert gate.open()
    goes_on = [gate.step(10**n, 4, functools.partial(waited.append, n)) for n in range(10)]
    assert goes_on == [True] * 9 + [False]
    # Steps 0 and 1 lead, 2 to 4 count; then 5 and 6, and 7 to 9: the device is waited for at both ends of each.
    assert [one.get("positions", one) for one in commands.answers] == [11100, {"ndcg": 0.5}, 1110000000]
    assert [one.get("sequences") for one in commands.answers] == [12, None, 12]
    assert waited == [1, 4, 6, 9]
    assert commands.waiting == [{"do": "memory"}]


def test_ratios_are_to_the_best_of_the_others(scripts):
    def of(rate, evaluation, latency):
        return {"positions_per_s": rate, "evaluate_s": evaluation, "latency_ms": latency}

    result = {
        "L50": {"ours": of(100, 1.0, 1.0), "torch": of(80, 1.0, 1.0)},
        "L200": {"ours": of(90, 2.0, 0.5), "torch": of(30, 8.0, 4.0), "keras": of(45, 9.0, 1.0)},
    }
    assert scripts[0].ratios(result) == {
        "ratio_50": 1.25,
        "ratio_200": 2.0,
        "ratio_evaluation": 4.0,
        "ratio_latency": 2.0,
    }
    assert scripts[0].ratios({"L50": {"ours": of(1, 1, 1)}})["ratio_50"] is None


def test_a_made_up_log_is_one_that_every_library_can_take(scripts):
    item_T, indptr = scripts[0].made_up(quick=True)
    assert sorted(set(item_T.tolist())) == list(range(1, item_T.max() + 1))
    for begin, end in zip(indptr[:-1], indptr[1:], strict=True):
        heard = item_T[begin:end]
        assert len(heard) >= 13 and len(set(heard.tolist())) == len(heard)


def test_movielens_is_read_in_the_order_of_time_without_rare_films(scripts, tmp_path):
    lines = [f"{user}::7::5::{100 - user}" for user in range(1, 6)]
    lines += ["1::9::3::98", "2::9::3::120", "3::9::3::1", "4::9::1::1", "5::9::1::1", "1::8::5::50"]
    (tmp_path / "ratings.dat").write_text("\n".join(lines))
    item_T, indptr = scripts[0].read(tmp_path)
    assert np.diff(indptr).tolist() == [2] * 5
    # Film 8 has one rating; 7 is row 1 and 9 is row 2.
    assert item_T.tolist() == [2, 1, 1, 2, 2, 1, 2, 1, 2, 1]


def test_each_lock_names_a_version_of_everything():
    for lock in (ROOT / "benchmarks" / "rivals").glob("*.lock"):
        for line in lock.read_text().splitlines():
            name, equals, version = line.partition("==")
            assert name and equals and version and "+" not in version, f"{lock.name}: {line}"


def test_a_table_has_a_row_for_each_library(scripts):
    one = {
        "positions_per_s": 1000,
        "positions_per_s_10": 900,
        "positions_per_s_90": 1100,
        "train_peak_gb": 1.0,
        "evaluate_s": 1.0,
        "latency_ms": 1.0,
        "latency_ms_p99": 2.0,
        "versions": {"jax": "0"},
    }
    other = one | {"positions_per_s": 500, "versions": {"jax": "1", "torch": "2"}}
    result = {"L50": {"ours": one, "torch": other}, "log": "made up"}
    result |= {"items": 3, "cores": 2, "machine": "a machine", "devices": 1}
    text = scripts[0].table(json.loads(json.dumps(result)))
    assert "| jaxneg | 1,000 [900, 1,100] | 1.00 |" in text
    assert "| plain PyTorch, compiled | 500 [900, 1,100] | 2.00 |" in text
    assert "Versions. jaxneg: jax 0; plain PyTorch, compiled: jax 1, torch 2." in text
