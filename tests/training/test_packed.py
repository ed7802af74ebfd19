"""Packed rows against one sequence a row: the same hidden states, loss and gradients, and nothing between segments."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxneg import config as configs, models
from jaxneg.batch import MASK, Batch
from jaxneg.config import Config, DataConfig, EvalConfig, LossConfig, ModelConfig, TrainConfig, UserError
from jaxneg.embeddings import tables
from jaxneg.models import layers
from jaxneg.training import loop, objective, runs, scoring

pytestmark = pytest.mark.slow

V, L, D = 20, 8, 8
SIZES = [5, 3, 1, 7, 2, 4, 2, 8]  # of the sequences
ROWS = [[0, 1], [3, 2], [4, 5, 6], [7]]  # which share a row; the third leaves none free, the second none
ATTRIBUTE_VA = jnp.asarray(np.random.default_rng(9).integers(0, 4, (V, 1)), jnp.int32)
MODEL = ModelConfig(width=D, heads=2, layers=1, dropout=0.0)
CONFIG = Config(data=DataConfig(length=L, batch_size=len(SIZES)), model=MODEL)
MODELS = {
    "sasrec": {"layers": 2},
    "sasrec, norms after": {"norm": "post"},
    "sasrec, fused": {"attention": "fused"},
    "ligr": {"encoder": "ligr"},
    "gru4rec": {"encoder": "gru4rec", "layers": 2},
    "bert4rec": {"encoder": "bert4rec"},
    "bert4rec, fused": {"encoder": "bert4rec", "attention": "fused"},
}


def settings(name):
    config = dataclasses.replace(CONFIG, model=dataclasses.replace(MODEL, **MODELS[name]))
    if config.model.encoder == "bert4rec":  # then all of the L events are shown, some of them hidden
        config = dataclasses.replace(config, data=dataclasses.replace(config.data, mask=0.3, length=L - 1))
    return config


def make_batches(cloze=False, seed=0):
    """The same sequences one a row and, by plain loops, packed."""
    rng = np.random.default_rng(seed)

    def empty(rows):
        fields = {
            name: np.zeros((rows, L), np.int32)
            for name in ("item_BL", "feedback_BL", "station_BL", "target_BL", "segment_BL")
        }
        none = np.zeros((rows, 0), np.int32)
        return Batch(
            **fields,
            label_BL=np.zeros((rows, L), np.int8),
            negative_BLN=np.zeros((rows, L, 2), np.int32),
            hard_BLN=np.zeros((rows, L, 2), bool),
            event_BM=none,
            sign_BM=none.astype(np.int8),
            shared_S=np.array([3, 9, 4, 1], np.int32),
            shared_log_q_S=np.full(4, -1.5, np.float32),
            target_log_q_BL=np.zeros((rows, L), np.float32),
        )

    alone, packed = empty(len(SIZES)), empty(len(ROWS))
    for w, size in enumerate(SIZES):
        here = slice(size)
        alone.item_BL[w, here] = rng.integers(1, V, size)
        alone.feedback_BL[w, here] = rng.integers(1, 6, size)
        alone.station_BL[w, here] = rng.integers(0, 4, size)
        alone.target_BL[w, here] = rng.integers(1, V, size) * (rng.random(size) < 0.8)
        if cloze:
            hidden = rng.random(size) < 0.4
            alone.target_BL[w, here] = alone.item_BL[w, here] * hidden
            alone.feedback_BL[w, here][hidden] = MASK
            alone.item_BL[w, here][hidden] = 0
        there = alone.target_BL[w, here] > 0
        alone.label_BL[w, here] = np.where(rng.random(size) < 0.7, 1, -1) * there
        alone.negative_BLN[w, here] = rng.integers(1, V, (size, 2)) * there[:, None]
        alone.target_log_q_BL[w, here] = -2.0 * there
    for row, members in enumerate(ROWS):
        at = 0
        for number, w in enumerate(members):
            to, size = slice(at, at + SIZES[w]), SIZES[w]
            for name in Batch._fields:
                if name.endswith(("_BL", "_BLN")):
                    getattr(packed, name)[row, to] = getattr(alone, name)[w, :size]
            packed.segment_BL[row, to] = number + 1
            at += size
    return alone._replace(segment_BL=np.zeros((len(SIZES), 0), np.int32)), packed


def make(config):
    model = models.build(
        config.model, length=config.data.length, stations=3, attributes=(3,), cloze=config.data.mask > 0
    )
    rng, params = np.random.default_rng(1), model.init(jax.random.key(0))
    params = {
        name: jnp.asarray(leaf + 0.1 * rng.normal(size=leaf.shape).astype(np.float32))
        for name, leaf in jax.device_get(params).items()
    }
    rows = {
        "item_VD": jnp.asarray(rng.normal(size=(V, D)) * (np.arange(V) > 0)[:, None], jnp.float32),
        "bias_V": jnp.asarray(rng.normal(size=V), jnp.float32),
    }
    return model, params, rows


def loss(config, model, trained, batch):
    task = objective.Task(config, model, V - 1)
    return objective.loss(task, tables.Weights(*trained, ATTRIBUTE_VA), batch, objective.index(batch))


def packing(config):
    return dataclasses.replace(config, data=dataclasses.replace(config.data, packed="always"))


@pytest.mark.parametrize("name", MODELS)
def test_packed_rows_give_the_loss_and_gradients_of_the_same_sequences_alone(name):
    config = settings(name)
    model, *trained = make(config)
    batches = jax.tree.map(jnp.asarray, make_batches(cloze=model.cloze))

    def value(config, trained, batch):
        return loss(config, model, trained, batch)

    (alone, expected), (packed, found) = (
        jax.jit(jax.value_and_grad(lambda trained, c=c, b=b: value(c, trained, b)))(trained)
        for c, b in zip((config, packing(config)), batches, strict=True)
    )
    # The same float32 terms, summed in another order.
    np.testing.assert_allclose(packed, alone, rtol=1e-5)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=2e-6)
    assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(jax.device_get(expected))) > 1e-2


@pytest.mark.parametrize(
    "main",
    [
        LossConfig(name="sampled_softmax", in_batch=True, log_q="plain"),
        LossConfig(name="gbce", hardest=1, feedback=0.5),
        LossConfig(name="not_to_recommend"),
    ],
)
def test_every_kind_of_negatives_is_that_of_the_same_sequences(main):
    config = dataclasses.replace(CONFIG, loss=main)
    model, *trained = make(config)
    alone, packed = (
        jax.jit(lambda trained, b, c=c: loss(c, model, trained, b))(trained, b)
        for c, b in zip((config, packing(config)), jax.tree.map(jnp.asarray, make_batches()), strict=True)
    )
    np.testing.assert_allclose(packed, alone, rtol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_no_segment_sees_another(name):
    config = settings(name)
    model, *trained = make(config)
    _, batch = make_batches(cloze=model.cloze)

    @jax.jit
    def hidden(item_BL, feedback_BL, station_BL, segment_BL):
        seen = scoring.Seen(item_BL, feedback_BL, station_BL, segment_BL)
        return scoring.encode(model, tables.Weights(*trained, ATTRIBUTE_VA), seen)

    def of(batch):
        return np.asarray(hidden(batch.item_BL, batch.feedback_BL, batch.station_BL, batch.segment_BL))

    h_BLD, segment_BL = of(batch), batch.segment_BL
    for row, number in ((0, 1), (0, 2), (2, 2)):
        own = (np.arange(len(ROWS)) == row)[:, None] & (segment_BL == number)
        changed = batch._replace(
            item_BL=np.where(own & (batch.item_BL > 0), batch.item_BL % (V - 1) + 1, batch.item_BL),
            station_BL=np.where(own, (batch.station_BL + 1) % 4, batch.station_BL),
        )
        moved_BL = np.abs(of(changed) - h_BLD).max(-1)
        assert (moved_BL[own] > 1e-5).all()
        assert (moved_BL[(segment_BL > 0) & ~own] == 0.0).all()


def test_positions_start_anew_with_each_segment():
    segment_BL = jnp.array([[1, 1, 1, 2, 2, 3, 0, 0], [2, 4, 4, 4, 4, 4, 4, 4]])
    expected = [[0, 1, 2, 0, 1, 0, 0, 1], [0, 0, 1, 2, 3, 4, 5, 6]]
    np.testing.assert_array_equal(layers.positions(segment_BL), expected)


def test_what_cannot_be_packed_is_refused_in_one_line():
    for args, message in (
        (["--model.encoder", "caser"], "caser would look across"),
        (["--loss.contrastive", "0.1"], "no room for their last events"),
    ):
        with pytest.raises(UserError, match=message) as error:
            configs.override(Config(), ["--data.packed", "always", *args])
        assert "\n" not in str(error.value)


def test_a_run_of_packed_rows_has_the_steps_of_its_sequences_and_is_evaluated_as_any(small_store, tmp_path):
    config = Config(
        data=DataConfig(store=str(small_store), length=40, batch_size=24, packed="never"),
        model=ModelConfig(width=8, layers=1),
        train=TrainConfig(epochs=1, devices=1),
        eval=EvalConfig(batch_size=64),
    )
    alone = loop.train(config, tmp_path / "alone")
    packed = loop.train(packing(config), tmp_path / "packed")
    assert packed["steps_per_epoch"] == pytest.approx(alone["steps_per_epoch"], rel=0.1)
    assert 0.0 < packed["best_score"] < 1.0
    trained = runs.load(tmp_path / "packed")
    assert trained.state.step == packed["best_step"], (
        "the checkpoint of the best validation, be it the start's"
    )
