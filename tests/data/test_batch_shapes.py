import dataclasses

import pytest

from jaxneg import program
from jaxneg.config import Config, DataConfig
from jaxneg.data import pipeline

CONFIGS = {
    "default": {},
    "packed": {"packed": True},
    "hidden events": {"mask": 0.3},
    "hidden events, packed": {"mask": 0.3, "packed": True},
    "several negatives": {"negatives": 3, "shared_negatives": 7},
    "shared negatives alone": {"negatives": 0, "shared_negatives": 7, "packed": True},
    "next positive of the user": {"target": "next_positive", "reach": "user"},
}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_program_is_compiled_for_the_batches_that_the_pipeline_makes(random_store, name):
    data = dataclasses.replace(DataConfig(length=6, batch_size=4), **CONFIGS[name])
    batches = pipeline.TrainBatches(random_store(1, ordered=True), data)
    expected = program.batch_shapes(Config(data=data))
    for step in (0, batches.steps_per_epoch - 1):  # full, and filled up
        for field, found in batches[step]._asdict().items():
            shape = getattr(expected, field)
            assert (found.shape, found.dtype) == (shape.shape, shape.dtype), field
