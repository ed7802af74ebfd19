"""A process that holds another state is found by what each device has of it, and named."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxneg.embeddings import sharding
from jaxneg.training import digests, processes


def state(shards=2):
    mesh = sharding.make_mesh(8, shards)
    rng = np.random.default_rng(0)
    tables = {"item_VD": rng.normal(size=(3072, 4)).astype(np.float32)}
    params = {"w": rng.normal(size=(5, 3)).astype(np.float32), "on": np.array([True, False])}
    return {"params": sharding.put(params, mesh), "tables": sharding.put(tables, mesh, "V")}


def flipped(leaf, device, at=0, bit=0):
    """The array with one bit of one device's copy changed."""
    parts = []
    for shard in leaf.addressable_shards:
        data = np.array(shard.data)
        if shard.device == device:
            data.reshape(-1).view(np.uint32)[at] ^= np.uint32(1 << bit)
        parts.append(jax.device_put(data, shard.device))
    return jax.make_array_from_single_device_arrays(leaf.shape, leaf.sharding, parts)


def found(tree):
    return digests.odd(digests.holders([tree]), digests.sums(jax.tree.leaves(tree)))


@pytest.mark.parametrize("bit", [0, 31])
@pytest.mark.parametrize("device", [0, 5])
def test_one_bit_of_one_copy_is_found_and_named(device, bit):
    tree = state()
    assert found(tree) == {}
    tree["params"]["w"] = flipped(tree["params"]["w"], jax.devices()[device], 7, bit)
    assert found(tree) == {device: ["['params']['w']"]}


def test_a_part_of_a_table_is_compared_with_its_copies():
    tree = state(shards=2)  # four copies of each part
    tree["tables"]["item_VD"] = flipped(tree["tables"]["item_VD"], jax.devices()[3], 1000)
    assert found(tree) == {3: ["['tables']['item_VD']"]}
    tree = state(shards=4)  # of two that differ, either may be wrong
    tree["tables"]["item_VD"] = flipped(tree["tables"]["item_VD"], jax.devices()[3], 1000)
    assert set(found(tree)) == {3, 7}
    tree = state(shards=8)  # and a single one has nothing beside it
    tree["tables"]["item_VD"] = flipped(tree["tables"]["item_VD"], jax.devices()[3], 1000)
    assert found(tree) == {}


@pytest.fixture
def four(monkeypatch):
    """The eight devices of the tests as those of four processes, of which this is one; and what the host is called."""
    monkeypatch.setattr(processes, "many", lambda: True)
    monkeypatch.setattr(processes, "publish", lambda *_: None)
    monkeypatch.setattr(processes, "published", lambda name, process: f"host-{process}")
    own = digests.sums

    def sums(leaves):
        return own(leaves)[:2]

    whole = {}

    def allgather(own_KA):
        sum_KA = whole["sums"]
        micros = np.repeat(np.array(whole.get("micros", [100] * 4), np.uint32), 2)
        return np.concatenate([sum_KA, micros[:, None]], axis=1).reshape(4, 2, -1)

    monkeypatch.setattr(digests, "sums", sums)
    monkeypatch.setattr(digests.multihost_utils, "process_allgather", allgather)

    def compare(compared, step, tree, micros=None):
        whole.update({"sums": own(jax.tree.leaves([tree]))} | ({} if micros is None else {"micros": micros}))
        compared(step, tree)

    return compare


def test_the_process_is_named_with_its_host(four):
    compared, tree = digests.Digests(lambda _: None), state()
    four(compared, 10, tree)
    tree["params"]["w"] = flipped(tree["params"]["w"], jax.devices()[5], 2)
    with pytest.raises(processes.Differs) as raised:
        four(compared, 20, tree)
    line = r"process 2 (host-2) holds another state than the other 3 at step 20: ['params']['w'] differs;"
    assert str(raised.value).startswith(line) and raised.value.who == {2}


def test_comparisons_come_after_some_steps(four):
    compared, tree = digests.Digests(lambda _: None), state()
    assert not compared.due(digests.EVERY - 1) and compared.due(digests.EVERY)
    four(compared, 60, tree)
    assert not compared.due(60 + digests.EVERY - 1) and compared.due(60 + digests.EVERY)


def test_a_process_that_is_slow_time_after_time_is_named_once(four):
    said = []
    compared, tree = digests.Digests(said.append), state()
    for step, slow in enumerate([300, 300, 90, *[350] * 9]):
        four(compared, step, tree, [100, 110, 100, slow])
    assert said == [
        "train warning: process 3 (host-3) takes 3.5 times as long as the others for the same sums, and all wait for "
        "it at each step"
    ]


def test_a_single_process_compares_nothing():
    compared = digests.Digests(lambda _: None)
    assert not compared.due(1_000)
    compared(1_000, {"w": jnp.zeros(3)})
