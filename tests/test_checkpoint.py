import math
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxneg import checkpoint


def state(value):
    return {"item_VD": jnp.full((4, 2), float(value)), "step": jnp.int32(value)}


ON_ONE = jax.sharding.SingleDeviceSharding(jax.devices()[0])
ABSTRACT = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=ON_ONE), state(0))


def saved(directory, scores):
    checkpoints = checkpoint.Checkpointer(directory)
    for step, score in scores.items():
        checkpoints.save(step, state(step), {"step": step, "history": [score]}, score)
    checkpoints.wait()
    return checkpoints


def test_the_two_latest_and_the_best_survive(tmp_path):
    checkpoints = saved(tmp_path, {1: 0.6, 2: 0.9, 3: 0.7, 4: 0.5, 5: -math.inf})
    assert checkpoints.steps() == [2, 4, 5]
    found, progress = checkpoints.restore(ABSTRACT)
    assert progress["step"] == 5
    np.testing.assert_array_equal(found["item_VD"], state(5)["item_VD"])
    assert checkpoints.restore(ABSTRACT, 2)[1] == {"step": 2, "history": [0.9]}
    checkpoints.close()


def test_nothing_saved_is_none(tmp_path):
    checkpoints = checkpoint.Checkpointer(tmp_path)
    assert checkpoints.restore(ABSTRACT) is None
    checkpoints.close()


def test_a_damaged_latest_checkpoint_gives_way_to_the_one_before(tmp_path):
    saved(tmp_path, {1: 0.1, 2: 0.2}).close()
    shutil.rmtree(tmp_path / "2" / "state")
    checkpoints = checkpoint.Checkpointer(tmp_path)
    found, progress = checkpoints.restore(ABSTRACT)
    assert progress["step"] == 1 and found["step"] == 1
    checkpoints.save(2, state(20), {"step": 2}, 0.2)  # and its step can be saved again
    checkpoints.wait()
    assert checkpoints.restore(ABSTRACT)[0]["step"] == 20
    checkpoints.close()


def test_reading_leaves_a_run_that_trains_as_it_is(tmp_path):
    saved(tmp_path, {2: 0.2, 3: 0.3}).close()
    shutil.rmtree(tmp_path / "3" / "state")
    half = tmp_path / "7.orbax-checkpoint-tmp"
    (half / "state").mkdir(parents=True)
    (half / "state" / "shard").write_text("half a checkpoint")
    before = sorted(tmp_path.rglob("*"))
    checkpoints = checkpoint.Checkpointer(tmp_path, read_only=True)
    found, progress = checkpoints.restore(ABSTRACT)
    assert progress["step"] == 2 and found["step"] == 2
    checkpoints.close()
    assert sorted(tmp_path.rglob("*")) == before
    saved(tmp_path, {4: 0.4}).close()  # who trains clears away what a crash left
    assert not half.exists()


def test_only_damaged_checkpoints_raise(tmp_path):
    saved(tmp_path, {1: 0.1}).close()
    shutil.rmtree(tmp_path / "1" / "state")
    checkpoints = checkpoint.Checkpointer(tmp_path)
    with pytest.raises(Exception, match="."):
        checkpoints.restore(ABSTRACT)
    checkpoints.close()


def test_what_was_saved_does_not_change_when_training_goes_on(tmp_path):
    """The step donates its state: the file must hold the values at the time of saving."""
    update = jax.jit(lambda state: jax.tree.map(lambda leaf: leaf + 1, state), donate_argnums=0)
    checkpoints = checkpoint.Checkpointer(tmp_path)
    current = {"big": jnp.zeros((1000, 1000)), "step": jnp.int32(0)}
    checkpoints.save(1, current, {"step": 1}, 0.0)
    for _ in range(20):
        current = update(current)
    jax.block_until_ready(current)
    checkpoints.wait()
    abstract = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=ON_ONE), current
    )
    found, _ = checkpoints.restore(abstract)
    assert float(jnp.abs(found["big"]).max()) == 0.0
    checkpoints.close()
