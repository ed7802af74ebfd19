"""What a change of a field changes: said at every field, and what resuming and loading go by."""

import dataclasses

import pytest

from jaxneg import config as configs
from jaxneg.config import Config, Effect, fields

# By hand: between the parts of a continued run these change nothing that it computes.
RESUMED = """train.epochs train.warm_start train.patience train.log_every train.devices train.shards train.stuck_after
train.steps_per_dispatch data.store eval.batch_size eval.ks eval.bands eval.bootstrap
eval.exclude_seen""".split()
# And with another of these a checkpoint is of another model, or scores otherwise than it was trained to.
SCORED = ["data.length", "data.mask", "data.inputs", "optim.average", "like.weight", "like.rows"]


def effects():
    return {
        f"{part.name}.{name}": effect
        for part in dataclasses.fields(Config)
        for name, effect in fields.effects(part.default_factory).items()
    }


def test_every_field_says_what_a_change_of_it_changes():
    every = {
        f"{part.name}.{one.name}"
        for part in dataclasses.fields(Config)
        for one in dataclasses.fields(part.default_factory)
    }
    found = effects()
    assert set(found) == every
    free = {name for name, effect in found.items() if effect in (Effect.NOTHING, Effect.FIGURES)}
    assert free == set(RESUMED)
    of_model = {name for name, effect in found.items() if effect is Effect.MODEL}
    assert of_model == set(SCORED) | {name for name in every if name.startswith("model.")}
    assert all(effect is Effect.TRAINING for name, effect in found.items() if name.startswith("loss."))


@pytest.mark.parametrize(
    ("options", "told", "option", "effect"),
    [
        ("--data.length 20", "data.length: 50 -> 20", "--data.length 20", Effect.MODEL),
        ("--data.batch-size 64", "data.batch_size: 128 -> 64", "--data.batch-size 64", Effect.DATA),
        ("--eval.bands 3", "eval.bands: 5 -> 3", "--eval.bands 3", Effect.FIGURES),
    ],
)
def test_a_change_is_told_as_text_and_as_an_option(options, told, option, effect):
    new = configs.override(Config(), options.split())
    [change] = configs.changes(Config(), new)
    assert (str(change), change.option, change.effect) == (told, option, effect)
    assert configs.changes(Config(), new, set(Effect) - {effect}) == []
    assert configs.override(Config(), change.option.split()) == new
