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
    """peers.py and the worker of its rivals."""
    for place in ("benchmarks", "benchmarks/rivals"):
        monkeypatch.syspath_prepend(ROOT / place)
    import peers
    import worker

    yield peers, worker
    for name in ("peers", "worker"):
        sys.modules.pop(name, None)


@pytest.fixture
def log(scripts):
    # Two users: five items, and three.
    return scripts[1].Log(np.array([1, 2, 3, 4, 5, 2, 6, 1], np.int32), np.array([0, 5, 8]), length=2)


def test_no_sequence_of_training_and_no_context_holds_the_test_item(log):
    assert log.train(0).tolist() == [1, 2, 3]  # two inputs, and their targets 2 and 3
    assert log.train(1).tolist() == [2]
    assert log.context(0).tolist() == [3, 4]
    assert [log.target(user) for user in range(log.users)] == [5, 1]
    assert log.hit_rate(np.array([[5, 1], [2, 3]])) == 0.5


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
    commands = Written(train, train, {"do": "memory"})
    gate, waited = scripts[1].Gate(commands), []
    assert gate.open()
    goes_on = [gate.step(10**n, 4, functools.partial(waited.append, n)) for n in range(10)]
    assert goes_on == [True] * 9 + [False]
    # Steps 0 and 1 lead, 2 to 4 count; then 5 and 6, and 7 to 9: the device is waited for at both ends of each.
    assert [one["positions"] for one in commands.answers] == [11100, 1110000000]
    assert [one["sequences"] for one in commands.answers] == [12, 12]
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
    result = {"L50": {"ours": one, "torch": one | {"positions_per_s": 500}}, "log": "made up"}
    result |= {"items": 3, "cores": 2, "machine": "a machine"}
    text = scripts[0].table(json.loads(json.dumps(result)))
    assert "| jaxneg | 1,000 [900, 1,100] | 1.00 |" in text
    assert "| plain PyTorch, compiled | 500 [900, 1,100] | 2.00 |" in text
