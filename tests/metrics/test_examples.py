"""Parts of the examples, measured one by one and joined, are what measuring all of them at once gives."""

import numpy as np
import pytest

from jaxneg.config import EvalConfig
from jaxneg.metrics import examples, measures
from tests.metrics.test_measures import ITEMS, cut, make_batches, make_score

SIZE = 5


@pytest.mark.parametrize("ends", [(0, 47, 47), (10, 20, 47), (0, 2, 30, 30, 44, 47), (2, 4, 6, 8, 10, 47)])
def test_joined_parts_are_the_whole(ends):
    config = EvalConfig(ks=(1, 7), bands=3, bootstrap=20, released=5, released_batch=10)
    batches, score = list(cut(make_batches(batches=30, real=231, each=3), SIZE)), make_score()
    assert len(batches) == 47  # two to a group of candidates
    whole = measures.evaluate(score, batches, items=ITEMS, config=config, cold=3)
    parts = [
        examples.measured(score, batches[first:last], items=ITEMS, config=config, before=first * SIZE)
        for first, last in zip((0, *ends), ends, strict=False)
    ]
    found = measures.report(examples.joined(parts), config, cold=3)
    assert found.to_dict() == whole.to_dict()
    for name, column in whole.value_X.items():
        np.testing.assert_array_equal(found.value_X[name], column)
    for name in ("pair_X2", "user_X", "liked_rank", "disliked_rank"):
        np.testing.assert_array_equal(getattr(found, name), getattr(whole, name))
    assert all((found.shown_V[k] == whole.shown_V[k]).all() for k in config.ks)


def test_parts_without_any_example_are_no_report():
    config = EvalConfig(ks=(3,))
    none = examples.measured(make_score(), [], items=ITEMS, config=config)
    with pytest.raises(ValueError, match="no batch to evaluate"):
        measures.report(examples.joined([none, none]), config)
