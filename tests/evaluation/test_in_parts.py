"""An evaluation of many processes is that of one: the examples in parts, and baselines dealt out."""

import dataclasses

import numpy as np
import pytest

from jaxneg import config as configs
from jaxneg.baselines import counting
from jaxneg.data import stores
from jaxneg.evaluation import eval_sets, tuning
from jaxneg.training import parting

PROCESSES = 3


class Ended(Exception):
    pass


@pytest.fixture
def by_each(monkeypatch):
    """Calls a function as each of some processes, and then as one that has got what all gave."""

    def call(function):
        given, own = [], {"number": 0}

        def gathered(found):
            if own["number"] < PROCESSES:
                given.append({name: np.array(value) for name, value in found.items()})
                raise Ended
            return given

        for module in (parting, tuning):
            monkeypatch.setattr(module.processes, "many", lambda: True)
        monkeypatch.setattr(parting.jax, "process_count", lambda: PROCESSES)
        monkeypatch.setattr(parting.jax, "process_index", lambda: own["number"] % PROCESSES)
        monkeypatch.setattr(parting, "gathered", gathered)
        while own["number"] < PROCESSES:
            with pytest.raises(Ended):
                function()
            own["number"] += 1
        return function()

    return call


@pytest.fixture(scope="module")
def eval_set(small_store):
    asked = [
        "--eval.batch-size",
        "4",
        "--eval.bootstrap",
        "20",
        "--eval.released",
        "9",
        "--eval.released-batch",
        "8",
    ]
    config = configs.override(configs.Config(), asked)
    return eval_sets.EvalSet(stores.Store.open(small_store), config)


def assert_same(found, expected):
    assert found.to_dict() == expected.to_dict()
    for one in dataclasses.fields(expected):
        a, b = getattr(found, one.name), getattr(expected, one.name)
        if isinstance(b, np.ndarray):
            np.testing.assert_array_equal(a, b)
        elif one.name in ("value_X", "shown_V"):
            assert a.keys() == b.keys()
            for name in b:
                np.testing.assert_array_equal(a[name], b[name])


def test_examples_in_parts(eval_set, by_each):
    log = counting.training_log(eval_set.store)
    score = counting.COUNTS["popularity"](log, np.asarray(eval_set.store.sign), lambda _: 0.5).score
    expected = eval_set.measure(score)
    assert len(eval_set.examples) >= PROCESSES
    assert_same(by_each(lambda: eval_set.measure_in_parts(score)), expected)


def test_baselines_are_dealt_out(eval_set, by_each):
    expected = tuning.measure_baselines(eval_set)
    found = by_each(lambda: tuning.measure_baselines(eval_set))
    assert list(found) == list(expected)
    for name, one in expected.items():
        assert_same(found[name].report, one.report)
        assert found[name]._replace(report=None) == one._replace(report=None), name
