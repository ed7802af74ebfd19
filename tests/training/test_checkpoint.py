import contextlib
import gc
import json
import math
import os
import shutil
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxneg import files
from jaxneg.errors import UserError
from jaxneg.training import checkpoint


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


@pytest.fixture(scope="module", autouse=True)
def kept_apart():
    """What other tests left is not looked through at each damage, where all that lives is."""
    gc.freeze()


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """Two checkpoints, to be copied and damaged."""
    directory = tmp_path_factory.mktemp("two")
    saved(directory, {1: 0.1, 2: 0.2}).close()
    return directory


def test_the_two_latest_and_the_best_survive(tmp_path):
    checkpoints = saved(tmp_path, {1: 0.6, 2: 0.9, 3: 0.7, 4: 0.5, 5: -math.inf})
    assert checkpoints.steps() == [2, 4, 5]
    found, progress = checkpoints.restore(ABSTRACT)
    assert progress["step"] == 5
    np.testing.assert_array_equal(found["item_VD"], state(5)["item_VD"])
    assert checkpoints.restore(ABSTRACT, 2)[1] == {"step": 2, "history": [0.9]}
    checkpoints.close()


def test_what_still_writes_a_half_saved_checkpoint_is_waited_for(tmp_path):
    """A process or a thread that is ending, as one that the scheduler killed, or one of a network file system."""
    half = tmp_path / f"8{files.HALF}" / "state"
    half.mkdir(parents=True)

    def write():
        until = time.monotonic() + 0.5
        while time.monotonic() < until:
            with contextlib.suppress(OSError):  # of a directory that went away under it
                half.mkdir(parents=True, exist_ok=True)
                for number in range(200):
                    (half / str(number)).write_bytes(b"")

    late = threading.Thread(target=write)
    late.start()
    checkpoints = saved(tmp_path, {9: 0.5})
    late.join()
    assert checkpoints.steps() == [9]
    checkpoints.close()
    checkpoint.Checkpointer(tmp_path).close()  # it may have made it anew
    assert not half.parent.exists()


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
    with pytest.raises(UserError, match="checkpoint 1 of .* cannot be read, it is damaged"):
        checkpoints.restore(ABSTRACT)
    checkpoints.close()


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def largest(directory):
    return max(
        (path for path in directory.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size
    )


def emptied(path):
    path.write_bytes(b"")


def swapped(path):
    path.unlink()
    path.mkdir()


def piped(path):
    path.unlink()
    os.mkfifo(path)


DAMAGE = {
    "a bit of the arrays": lambda step: flip(largest(step / "state")),
    "arrays emptied": lambda step: emptied(largest(step / "state")),
    "a directory for a file": lambda step: swapped(largest(step / "state")),
    "a pipe for a file": lambda step: piped(largest(step / "state")),
    "no progress": lambda step: shutil.rmtree(step / "progress"),
    "progress emptied": lambda step: emptied(step / "progress" / "metadata"),
    "progress of another type": lambda step: (step / "progress" / "metadata").write_text("[1, 2]"),
    "progress edited": lambda step: edited((step / "progress" / "metadata"), step=7),
    "progress nests deep": lambda step: (step / "progress" / "metadata").write_text("[" * 100_000),
    "sums edited": lambda step: edited((step / "progress" / "metadata"), state_sums=[0, 0]),
}


def edited(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize("text", ["[]", '{"item_handlers": 3}', "7"])
@pytest.mark.parametrize("read_only", [True, False])
def test_what_orbax_says_of_a_checkpoint_is_believed_by_nobody(text, read_only, tmp_path):
    saved(tmp_path, {1: 0.1}).close()
    (tmp_path / "1" / "_CHECKPOINT_METADATA").write_text(text)
    try:
        checkpoints = checkpoint.Checkpointer(tmp_path, read_only=read_only)
        found = checkpoints.restore(ABSTRACT, 1)
        checkpoints.close()
        assert found is not None and found[1]["step"] == 1
    except UserError as error:
        assert "\n" not in str(error) and str(tmp_path.parent) in str(error)


@pytest.mark.parametrize("read_only", [True, False])
@pytest.mark.parametrize("name", ["_CHECKPOINT_METADATA", "another"])
def test_a_pipe_that_orbax_would_wait_for_is_one_line(name, read_only, two, tmp_path):
    shutil.copytree(two, tmp_path, dirs_exist_ok=True)
    (tmp_path / "2" / name).unlink(missing_ok=True)
    os.mkfifo(tmp_path / "2" / name)
    with pytest.raises(UserError, match=f"cannot be read, they are damaged: {name} is no file") as error:
        checkpoint.Checkpointer(tmp_path, read_only=read_only)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_one_line_that_names_the_checkpoint(damage, two, tmp_path, capfd, caplog):
    shutil.copytree(two, tmp_path, dirs_exist_ok=True)
    DAMAGE[damage](tmp_path / "2")
    capfd.readouterr()
    caplog.clear()
    checkpoints = checkpoint.Checkpointer(tmp_path, read_only=True)
    with pytest.raises(
        UserError, match=f"^checkpoint 2 of {tmp_path.parent} cannot be read, it is damaged: ."
    ) as told:
        checkpoints.restore(ABSTRACT, 2)
    assert "\n" not in str(told.value) and len(str(told.value)) < 400
    said = []
    found = checkpoints.restore(ABSTRACT, say=said.append)
    assert found is not None and found[1] == {"step": 1, "history": [0.1]}
    assert len(said) == 1 and said[0].endswith("; going on from checkpoint 1")
    checkpoints.close()
    assert capfd.readouterr() == ("", "")


def test_another_shape_is_told(tmp_path):
    saved(tmp_path, {1: 0.1}).close()
    other = ABSTRACT | {"item_VD": jax.ShapeDtypeStruct((5, 2), jnp.float32, sharding=ON_ONE)}
    checkpoints = checkpoint.Checkpointer(tmp_path, read_only=True)
    with pytest.raises(UserError, match="^checkpoint 1 of "):
        checkpoints.restore(other)
    checkpoints.close()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int32", "uint32", "bool"])
def test_each_changed_bit_changes_the_sum(dtype):
    array = jnp.arange(12).reshape(3, 4).astype(dtype)
    before = checkpoint.sums([array, array])
    assert before[0] == before[1]
    for k in range(12):
        changed = array.at[k // 4, k % 4].set(jnp.asarray(k % 2 == 0, dtype) if dtype == "bool" else 77)
        if not (changed == array).all():
            assert checkpoint.sums([changed]) != before[:1]
    if dtype != "bool":  # places swapped
        assert checkpoint.sums([array[::-1]]) != before[:1]


def test_a_sum_by_hand():
    """Sum of bits_i * odd_i, in whole numbers of any size."""
    bits = np.random.default_rng(0).integers(0, 1 << 32, (2, 3), np.uint64)
    found = checkpoint.sums([jnp.asarray(bits.astype(np.uint32))])
    expected = 0
    for k, value in enumerate(bits.reshape(-1).tolist()):
        odd = (k * 0x9E3779B1 % (1 << 32)) ^ 6
        expected += value * (2 * odd + 1)
    assert found == [expected % (1 << 32)]


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
