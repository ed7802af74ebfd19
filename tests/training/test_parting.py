"""Work parted among processes is done once, and what they exchange is what each had."""

import threading

import numpy as np
import pytest

from jaxneg.training import parting


@pytest.fixture
def among(monkeypatch):
    """Calls a function as each of some processes would."""

    def call(count, function):
        monkeypatch.setattr(parting.processes, "many", lambda: count > 1)
        monkeypatch.setattr(parting.jax, "process_count", lambda: count)
        found = []
        for number in range(count):
            monkeypatch.setattr(parting.jax, "process_index", lambda number=number: number)
            found.append(function())
        return found

    return call


@pytest.mark.parametrize("processes", [1, 2, 3, 8])
@pytest.mark.parametrize(("count", "unit"), [(0, 1), (1, 1), (5, 1), (48, 1), (47, 2), (10, 64)])
def test_runs_follow_each_other_in_whole_units(among, processes, count, unit):
    found = among(processes, lambda: parting.run(count, unit))
    assert [k for run in found for k in run] == list(range(count))
    assert all(run.start % unit == 0 or run.start == count for run in found)
    units = [-(-len(run) // unit) for run in found]
    assert max(units) - min(units) <= 1


@pytest.mark.parametrize("processes", [1, 2, 3, 8])
def test_each_piece_is_done_by_one_process(among, processes):
    found = among(processes, lambda: parting.own("abcde"))
    assert sorted(piece for own in found for piece in own) == list("abcde")
    assert max(map(len, found)) - min(map(len, found)) <= 1


def test_what_is_gathered_is_what_each_had(monkeypatch):
    parts = [
        {"value.auc": np.array([0.1, np.nan, 1 / 3]), "text": np.array('{"é": 1}')},
        {"none": np.zeros((0, 2), np.int32)},
        {},
    ]
    barrier, own, given, found = threading.Barrier(3), threading.local(), {}, {}

    def exchanged(array):
        given[own.number] = array
        barrier.wait(10)
        every = np.stack([given[number] for number in range(3)])  # of one shape, as JAX demands
        barrier.wait(10)
        return every

    monkeypatch.setattr(parting.processes, "many", lambda: True)
    monkeypatch.setattr(parting.multihost_utils, "process_allgather", exchanged)
    monkeypatch.setattr(parting, "settle", lambda: None)

    def process(number):
        own.number = number
        found[number] = parting.gathered(parts[number])

    threads = [threading.Thread(target=process, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert sorted(found) == [0, 1, 2]
    for one in found.values():
        assert [list(part) for part in one] == [list(part) for part in parts]
        np.testing.assert_array_equal(one[0]["value.auc"], parts[0]["value.auc"])
        assert str(one[0]["text"]) == '{"é": 1}' and one[1]["none"].shape == (0, 2)


def test_mappings_in_mappings_come_back():
    values = {"a": {"x@10": np.arange(3), 5: np.zeros((2, 0))}, "b": {"c": {"d": np.array("é")}}, "e": {}}
    found = parting.nested(parting.flat(values))
    assert found.keys() == {"a", "b"}  # of an empty one nothing is told
    np.testing.assert_array_equal(found["a"]["x@10"], [0, 1, 2])
    assert found["a"]["5"].shape == (2, 0) and str(found["b"]["c"]["d"]) == "é"
