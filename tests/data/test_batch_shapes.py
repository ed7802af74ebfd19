import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.interpreters import partial_eval

from jaxneg import config as configs, models
from jaxneg.batch import Batch
from jaxneg.config import Config
from jaxneg.data import batch_fields, pipeline
from jaxneg.embeddings import exchange, layouts, sharding
from jaxneg.training import objective, program, steps
from tests.marks import rest_slow

TRON = "--loss.name sampled_softmax --data.negatives 0 --data.shared-negatives 7"
ONLY_ITEMS = "--model.feedback none --model.no-station --data.target any"
PLAIN = {"item_BL", "feedback_BL", "station_BL", "target_BL", "label_BL"}
# Options, and the fields that hold anything.
CASES = {
    "": PLAIN | {"negative_BLN", "hard_BLN"},
    "--data.p-hard 0": PLAIN | {"negative_BLN"},
    "--data.packed always": PLAIN | {"negative_BLN", "hard_BLN", "segment_BL"},
    "--data.mask 0.3": PLAIN | {"negative_BLN", "hard_BLN"},
    "--data.mask 0.3 --data.packed always": PLAIN | {"negative_BLN", "hard_BLN", "segment_BL"},
    "--data.negatives 3 --data.shared-negatives 7": PLAIN | {"negative_BLN", "hard_BLN", "shared_S"},
    "--data.target next_positive --data.reach user": PLAIN | {"negative_BLN", "hard_BLN"},
    "--loss.contrastive 0.1": PLAIN | {"negative_BLN", "hard_BLN", "event_BM", "sign_BM"},
    "--loss.name softmax": PLAIN,
    "--loss.name feedback --data.shared-negatives 7": PLAIN,
    "--loss.hardest 2 --data.negatives 4": PLAIN | {"negative_BLN", "hard_BLN"},
    "--loss.name not_to_recommend --loss.in-batch": PLAIN | {"negative_BLN", "hard_BLN"},
    TRON: PLAIN | {"shared_S"},
    f"{TRON} --data.packed always --data.p-hard 0": PLAIN | {"shared_S", "segment_BL"},
    f"{TRON} --loss.log-q plain": PLAIN | {"shared_S", "shared_log_q_S"},
    f"{TRON} --loss.log-q refined --loss.in-batch": PLAIN | {"shared_S", "shared_log_q_S", "target_log_q_BL"},
    f"{TRON} --data.shared-negatives 0 --loss.in-batch --loss.log-q plain": PLAIN | {"target_log_q_BL"},
    f"{ONLY_ITEMS} --data.p-hard 0": {"item_BL", "target_BL", "negative_BLN"},
    f"{ONLY_ITEMS} --loss.feedback 1": {"item_BL", "target_BL", "label_BL", "negative_BLN", "hard_BLN"},
    f"{ONLY_ITEMS} --like.weight 1 --data.p-hard 0": {"item_BL", "target_BL", "label_BL", "negative_BLN"},
    f"{ONLY_ITEMS} --model.encoder bert4rec --data.mask 0.3": {
        "item_BL",
        "feedback_BL",
        "target_BL",
        "negative_BLN",
        "hard_BLN",
    },
}


def of(options: str) -> Config:
    if "packed" not in options:
        options += " --data.packed never"
    return configs.override(
        Config(), f"--data.length 6 --data.batch-size 4 --model.width 8 --model.layers 1 {options}".split()
    )


@pytest.mark.parametrize("options", CASES)
def test_a_program_is_compiled_for_the_batches_that_the_pipeline_makes(random_store, options):
    config, store = of(options), random_store(1, ordered=True)
    batches = pipeline.of_config(config, store)
    expected = program.batch_shapes(config, store.metadata.counts["stations"], batches.form)
    for step in (0, batches.steps_per_epoch - 1):  # full, and filled up
        for field, found in batches[step]._asdict().items():
            shape = getattr(expected, field)
            assert (found.shape, found.dtype) == (shape.shape, shape.dtype), field


# Those between which every field comes and goes run every time.
QUICK = (
    "",
    "--data.packed always",
    "--loss.contrastive 0.1",
    f"{TRON} --loss.log-q refined --loss.in-batch",
    f"{ONLY_ITEMS} --loss.feedback 1",
)


@pytest.mark.parametrize("options", rest_slow(CASES, QUICK))
def test_a_batch_carries_what_its_step_reads_and_nothing_else(options):
    """The step's program, without what does nothing for its results, reads each field that has elements."""
    config = of(options)
    form = pipeline.form_of(config.data, 2.0 if config.data.packed == "always" else 0.0)
    batch = program.batch_shapes(config, 3, form)
    carried = {name for name, leaf in batch._asdict().items() if math.prod(leaf.shape)}
    assert carried == CASES[options] == batch_fields.read(config, 3)
    model = program.build_model(config, program.Catalogue(20, 3, (4,)))
    layout = layouts.Whole(sharding.make_mesh(1), 20)
    recipe = steps.Recipe(
        objective.Task(config, model, 20), layout, layout.optimizer(config.optim, 10, config.like)
    )
    init = functools.partial(steps.init_state, recipe)
    step = functools.partial(steps.train_step, recipe)
    state = jax.eval_shape(init)
    traced = jax.make_jaxpr(step)(state, batch, jax.ShapeDtypeStruct((21, 1), jnp.int32))
    _, used = partial_eval.dce_jaxpr(traced.jaxpr, [True] * len(traced.jaxpr.outvars))
    before = len(jax.tree.leaves(state))
    used = dict(zip(Batch._fields, used[before : before + len(Batch._fields)], strict=True))
    assert {name for name in carried if used[name]} == carried


def test_stations_of_a_store_without_any_are_not_carried():
    assert "station_BL" not in batch_fields.read(Config(), stations=0)
    assert program.batch_shapes(Config(), 0).station_BL.shape == (128, 0)


def test_rows_that_no_term_reads_get_no_room_in_a_message():
    """A device's slots for distinct rows grow with the ids of its batch, so those of the contrastive term do not."""
    mesh = sharding.mesh_of(jax.devices()[:4], 4)
    layout = layouts.Sharded(mesh, 5000)

    def slots(options):
        batch = program.batch_shapes(of(f"--data.length 50 --data.batch-size 8 {options}"))
        ids = [batch.item_BL, batch.target_BL, batch.negative_BLN, batch.event_BM]
        arrays = [np.zeros(leaf.shape, np.int32) for leaf in ids]
        key_KU = jax.eval_shape(
            lambda ids: exchange.plan(mesh, layout.rows // 4, layout.place, ids)[0].key_KU, arrays
        )
        return key_KU.shape[1]

    assert slots("--loss.contrastive 0.1") > 1.25 * slots("")


def test_what_is_drawn_does_not_depend_on_what_is_read(random_store):
    store, config = random_store(2), of("--loss.contrastive 0.1")
    whole, some = pipeline.TrainBatches(store, config.data)[1], pipeline.of_config(config, store)[1]
    for name in batch_fields.read(config):
        np.testing.assert_array_equal(getattr(whole, name), getattr(some, name))


def test_models_without_feedback_score_alike_with_and_without_the_field():
    config = of(ONLY_ITEMS)
    model = models.build(config.model, length=6, stations=3, attributes=())
    params = model.init(jax.random.key(0))
    row_BLD, mask_BL = jnp.ones((2, 6, 8)), jnp.ones((2, 6), bool)
    codes = (jnp.ones((2, 6), jnp.int32), jnp.zeros((2, 0), jnp.int32))
    one, other = (jax.jit(model.encode)(params, row_BLD, code, code, mask_BL, None) for code in codes)
    np.testing.assert_array_equal(one, other)
