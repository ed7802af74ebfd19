"""Several steps in one call of the program are those steps: one by one, logged, validated and saved where they were."""

import jax
import numpy as np
import pytest

from jaxneg.config import UserError
from jaxneg.data import pipeline, stores
from jaxneg.embeddings import sharding
from jaxneg.training import logs, loop, processes, program
from tests.marks import rest_system
from tests.training.test_loop import CONFIG, final_state, of, without_clock
from tests.training.test_processes import assert_near

pytestmark = pytest.mark.slow

TRAIN = {"epochs": 1, "devices": 1, "evaluate_every": 8, "checkpoint_every": 6, "log_every": 5}


@pytest.fixture(scope="module")
def one_by_one(small_store, tmp_path_factory):
    path = tmp_path_factory.mktemp("one")
    return loop.train(of(CONFIG, small_store, train=TRAIN), path), path


def left(config, path):
    """What a run has left: its state, its progress and the lines of its log, without the clock's."""
    state, progress = final_state(config, path)
    progress["history"] = without_clock(progress["history"])
    lines = without_clock(logs.read(path))
    [known] = without_clock([progress])
    return state, known, lines


@pytest.fixture
def calls(monkeypatch):
    """How many steps each call took."""
    found, update = [], loop.Loop._update

    def counted(self, state, made):
        found.append(len(made))
        return update(self, state, made)

    monkeypatch.setattr(loop.Loop, "_update", counted)
    return found


# Logged after 5 and validated after 8 steps, saved after 6, each time counted anew: of 20 steps.
@pytest.mark.parametrize(
    ("together", "expected"),
    [
        pytest.param(2, [2, 2, 1, 1, 2, 2, 2, 2, 2, 2, 2], marks=pytest.mark.system),  # as 4
        (4, [4, 1, 1, 1, 1, 4, 4, 1, 1, 1, 1]),
        (1000, [1] * 20),
    ],
)
def test_a_run_is_the_same_however_many_steps_a_call_takes(
    together, expected, calls, one_by_one, small_store, tmp_path
):
    result, path = one_by_one
    config = of(CONFIG, small_store, train=TRAIN | {"steps_per_dispatch": together})
    again = loop.train(config, tmp_path)
    assert calls == expected
    for name in ("steps", "stopped", "best_step", "best_score", "last_score", "hard_share"):
        assert again[name] == result[name]
    # Steps in a loop are other programs, whose sums may run in another order.
    (state, progress, lines), (other, others, other_lines) = left(config, path), left(config, tmp_path)
    assert_near(state, other)
    assert [line.keys() for line in lines] == [line.keys() for line in other_lines]
    for a, b in zip([progress, *lines], [others, *other_lines], strict=True):
        for name in a.keys() - {"history"}:
            assert b[name] == (a[name] if a[name] is None else pytest.approx(a[name], rel=1e-4)), name


def test_stopping_and_continuing_with_another_number_is_never_stopping(one_by_one, small_store, tmp_path):
    _, path = one_by_one
    for at, together in ((4, 4), (9, 1), (20, 4)):
        config = of(CONFIG, small_store, train=TRAIN | {"steps_per_dispatch": together})
        if at == 20:
            loop.train(config, tmp_path)
        else:
            with pytest.raises(processes.Stopped, match=f"stopped after step {at} of 20"):
                loop.train(config, tmp_path, stop=lambda step, at=at: step == at)
    assert_near(final_state(config, path)[0], final_state(config, tmp_path)[0])


def test_a_loss_that_is_not_finite_is_seen_at_its_step(small_store, tmp_path):
    wild = {"learning_rate": 1e30, "clip": 0.0, "warmup_steps": 0}
    said = []
    for together in (1, 5):
        config = of(CONFIG, small_store, optim=wild, train=TRAIN | {"steps_per_dispatch": together})
        with pytest.raises(UserError, match=r"the loss is not finite at step \d+: lower") as error:
            loop.train(config, tmp_path / str(together))
        said.append(str(error.value).partition(":")[0])
    assert said[0] == said[1]


CASES = {
    "packed, on eight devices, in parts": {
        "data": {"packed": "always"},
        "train": {"devices": 8},
        "optim": {"accumulate": 2},
    },
    "shared rows, an average": {
        "optim": {"rows": "adagrad", "average": 0.9, "decay": "cosine"},
        "train": {"devices": 4, "shards": 2},
        "data": {"shared_negatives": 8, "mask": 0.3},
    },
}


@pytest.mark.parametrize("name", rest_system(CASES, {"shared rows, an average"}))
def test_stacked_batches_update_as_batches_do(name, small_store):
    config, store = of(CONFIG, small_store, **CASES[name]), stores.Store.open(small_store)
    mesh = sharding.make_mesh(config.train.devices, config.train.shards)
    batches = pipeline.of_config(config, store, devices=mesh.size)
    built = program.build(config, program.catalogue_of(store), mesh, 20, batches.form)
    attribute_VA = sharding.put(built.layout.by_row(np.asarray(store.attribute_VA)), mesh, "VA")
    made = [batch for _, batch in zip(range(3), batches.since(0), strict=False)]
    state, metrics = built.init(), []
    for batch in made:
        state, found = built.update(state, sharding.put_fields(batch, mesh), attribute_VA)
        jax.block_until_ready(
            state
        )  # on a CPU, steps of several devices that queue may wait for each other for ever
        metrics.append(jax.device_get(found))
    stacked = sharding.put_stacked(made, mesh)
    for leaf, placed in zip(stacked, built.batch, strict=True):
        assert leaf.shape == (3, *placed.shape) and tuple(leaf.sharding.spec)[1:] == tuple(
            placed.sharding.spec
        )
    other, found = built.updates(built.init(), stacked, attribute_VA)
    for key, values in jax.device_get(found).items():
        np.testing.assert_allclose(values, [line[key] for line in metrics], rtol=1e-5)
    assert_near(jax.device_get(state), jax.device_get(other))
